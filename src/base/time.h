#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace virga {

/// A span of time. Stored and sent as whole milliseconds in fields that end in `_ms`.
using Duration = std::chrono::nanoseconds;

/// Tag clock of Instant. It has no now(): time is handed in by a Loop, never taken from the environment.
struct MonotonicClock {
  using duration = Duration;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<MonotonicClock>;
  static constexpr bool is_steady = true;
};

/// A moment on this process's monotonic clock (CLOCK_BOOTTIME). Comparable only within one host.
using Instant = MonotonicClock::time_point;

/// A moment for people: milliseconds since 1970 UTC. Shown and journaled, never used to decide.
struct WallTime {
  std::int64_t unix_ms = 0;
  friend constexpr auto operator<=>(WallTime, WallTime) = default;
};

/// "2026-11-22T08:05:27.123Z".
std::string to_string(WallTime time);

constexpr Duration milliseconds(std::int64_t count) { return std::chrono::milliseconds(count); }
constexpr Duration seconds(std::int64_t count) { return std::chrono::seconds(count); }
constexpr std::int64_t to_ms(Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

}  // namespace virga
