#include "base/time.h"

#include <fmt/format.h>

#include <ctime>

namespace virga {

std::string to_string(WallTime time) {
  std::int64_t whole_seconds = time.unix_ms / 1000;
  std::int64_t rest_ms = time.unix_ms % 1000;
  if (rest_ms < 0) {
    rest_ms += 1000;
    --whole_seconds;
  }
  const auto calendar_seconds = static_cast<std::time_t>(whole_seconds);
  std::tm parts{};
  gmtime_r(&calendar_seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", parts.tm_year + 1900,
                     parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
                     rest_ms);
}

}  // namespace virga
