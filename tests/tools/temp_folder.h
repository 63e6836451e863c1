#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/check.h"

namespace virga::test {

/// A new folder under $TMPDIR or /tmp that goes with everything in it when this goes.
class TempFolder {
 public:
  TempFolder() : TempFolder(std::getenv("TMPDIR")) {}
  explicit TempFolder(const char* base) {
    path_ = std::string(base == nullptr ? "/tmp" : base) + "/virga-test-XXXXXX";
    VIRGA_CHECK(::mkdtemp(path_.data()) != nullptr);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace virga::test
