#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace virga {

/// SHA-256 of data that comes in pieces. Not thread-safe.
class Digest {
 public:
  Digest();
  ~Digest();
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  void add(std::string_view piece);

  /// 64 hexadecimal digits; ends the digest.
  std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace virga
