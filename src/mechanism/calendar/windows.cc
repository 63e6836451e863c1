#include "mechanism/calendar/windows.h"

#include <algorithm>
#include <cctype>

namespace virga {
namespace {

constexpr std::int64_t kMinuteMs = 60'000;
constexpr std::int64_t kDayMs = 24 * 60 * kMinuteMs;
constexpr int kWeek = 7;
constexpr int kWeekdayOfDayZero = static_cast<int>(Weekday::thursday);  // 1970-01-01

bool opens_on(const MaintenanceWindow& window, std::int64_t day) {
  const auto weekday = static_cast<Weekday>((day + kWeekdayOfDayZero) % kWeek);
  return window.days.empty() || std::ranges::count(window.days, weekday) > 0;
}

}  // namespace

std::optional<int> parse_time_of_day(std::string_view text) {
  constexpr std::size_t kLength = 5;
  if (text.size() != kLength || text[2] != ':') return std::nullopt;
  int digits[4] = {};
  int count = 0;
  for (const std::size_t index : {0, 1, 3, 4}) {
    if (std::isdigit(static_cast<unsigned char>(text[index])) == 0) return std::nullopt;
    digits[count++] = text[index] - '0';
  }
  const int hour = digits[0] * 10 + digits[1];
  const int minute = digits[2] * 10 + digits[3];
  if (hour > 23 || minute > 59) return std::nullopt;
  return hour * 60 + minute;
}

bool is_open(const std::vector<MaintenanceWindow>& windows, WallTime now) {
  if (now.unix_ms < kDayMs) return false;
  const std::int64_t today = now.unix_ms / kDayMs;
  return std::ranges::any_of(windows, [&](const MaintenanceWindow& window) {
    const auto from = parse_time_of_day(window.from);
    if (!from) return false;
    // One that began yesterday may last until now.
    for (const std::int64_t day : {today, today - 1}) {
      const std::int64_t begins = day * kDayMs + *from * kMinuteMs;
      const bool within = now.unix_ms >= begins && now.unix_ms < begins + to_ms(window.for_ms);
      if (within && opens_on(window, day)) return true;
    }
    return false;
  });
}

}  // namespace virga
