#pragma once

#include <string>

#include "base/result.h"
#include "image/image_build.h"

namespace virga {

/// A folder beside its final place in which an image is put together. Removed with its files unless it was published.
class StagingFolder {
 public:
  /// Makes "<parent>/.<name>.XXXXXX" for `final_path`, and the parent where it is missing.
  static Result<StagingFolder> make(const std::string& final_path);

  StagingFolder(StagingFolder&& other) noexcept
      : path_(std::exchange(other.path_, {})), final_path_(std::move(other.final_path_)) {}
  StagingFolder& operator=(StagingFolder&&) = delete;
  ~StagingFolder();

  const std::string& path() const { return path_; }

  Result<void> write_manifest(const ImageManifest& manifest) const;

  /// Takes the final place and removes what was there.
  Result<void> replace();

  /// Takes the final place. Errors: conflict (it is taken).
  Result<void> publish();

 private:
  StagingFolder(std::string path, std::string final_path)
      : path_(std::move(path)), final_path_(std::move(final_path)) {}

  std::string path_;  ///< empty = published
  std::string final_path_;
};

}  // namespace virga
