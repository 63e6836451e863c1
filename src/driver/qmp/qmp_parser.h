#pragma once

#include <boost/json.hpp>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace virga {

/// Splits QMP's byte stream into JSON objects, one a line. Pure; linear in the bytes; holds at most one line.
class QmpParser {
 public:
  explicit QmpParser(std::size_t line_bytes_max = 16 << 20) : line_bytes_max_(line_bytes_max) {}

  /// Adds what arrived; returns the objects of the lines that are now whole. Blank lines are skipped.
  /// Errors: invalid (not JSON, not an object, nested deeper than 32, longer than the bound, a NUL byte); the
  /// stream cannot be used after one.
  Result<std::vector<boost::json::object>> feed(std::string_view bytes);

 private:
  std::size_t line_bytes_max_;
  std::string rest_;
};

}  // namespace virga
