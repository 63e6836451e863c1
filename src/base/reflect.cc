#include "base/reflect.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <ctime>

namespace virga {

Result<json::value> parse_json(std::string_view text, std::size_t bytes_max) {
  if (text.size() > bytes_max) {
    return make_error(Errc::invalid, fmt::format("JSON text has {} bytes; at most {} are allowed",
                                                 text.size(), bytes_max));
  }
  json::parse_options options;
  options.max_depth = 32;
  json::stream_parser parser({}, options);
  boost::system::error_code failure;
  std::size_t used = parser.write_some(text.data(), text.size(), failure);
  if (!failure && used < text.size()) {
    const auto rest = text.substr(used).find_first_not_of(" \t\r\n");
    if (rest != std::string_view::npos) failure = json::error::extra_data;
  }
  if (!failure) parser.finish(failure);
  if (failure) {
    return make_error(Errc::invalid,
                      fmt::format("JSON text is wrong near byte {}: {}", used, failure.message()));
  }
  return parser.release();
}

namespace reflect {
namespace {

std::string shortened(const json::value& value) {
  constexpr std::size_t kShownMax = 60;
  std::string text = json::serialize(value);
  if (text.size() > kShownMax) text = text.substr(0, kShownMax) + "...";
  return text;
}

std::string shown(const Path& path) { return path.text().empty() ? "the document" : path.text(); }

}  // namespace

std::string Path::text() const {
  if (parent_ == nullptr) return {};
  std::string text = parent_->text();
  if (name_.empty()) return text + fmt::format("[{}]", position_);
  if (!text.empty()) text += '.';
  return text.append(name_);
}

Error wrong_type(const Path& path, std::string_view expected, const json::value& got) {
  return make_error(Errc::invalid,
                    fmt::format("{}: expected {}, got {}", shown(path), expected, shortened(got)));
}

Error unknown_field(const Path& path, std::string_view known_fields) {
  return make_error(Errc::invalid,
                    fmt::format("{}: no such field; known: {}", path.text(), known_fields));
}

Error unknown_name(const Path& path, std::string_view got, std::string_view known_names) {
  return make_error(Errc::invalid,
                    fmt::format("{}: \"{}\" is not one of {}", shown(path), got, known_names));
}

Result<std::int64_t> read_integer(const json::value& from, const Path& path) {
  if (from.is_int64()) return from.get_int64();
  if (from.is_uint64() && from.get_uint64() <= INT64_MAX) {
    return static_cast<std::int64_t>(from.get_uint64());
  }
  return wrong_type(path, "a whole number", from);
}

Result<double> read_number(const json::value& from, const Path& path) {
  if (from.is_double() && std::isfinite(from.get_double())) return from.get_double();
  if (from.is_int64()) return static_cast<double>(from.get_int64());
  if (from.is_uint64()) return static_cast<double>(from.get_uint64());
  return wrong_type(path, "a number", from);
}

Result<WallTime> read_wall_time(const json::value& from, const Path& path) {
  constexpr std::string_view kExpected = "a time such as 2026-11-22T08:05:27.123Z";
  if (!from.is_string()) return wrong_type(path, kExpected, from);
  const std::string text(from.get_string());
  std::tm parts{};
  int rest_ms = 0;
  int length = 0;
  const int fields =
      std::sscanf(text.c_str(), "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ%n", &parts.tm_year, &parts.tm_mon,
                  &parts.tm_mday, &parts.tm_hour, &parts.tm_min, &parts.tm_sec, &rest_ms, &length);
  if (fields != 7 || static_cast<std::size_t>(length) != text.size()) {
    return wrong_type(path, kExpected, from);
  }
  parts.tm_year -= 1900;
  parts.tm_mon -= 1;
  return WallTime{static_cast<std::int64_t>(timegm(&parts)) * 1000 + rest_ms};
}

}  // namespace reflect
}  // namespace virga
