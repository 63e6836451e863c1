#include "mechanism/calendar/windows.h"

#include <gtest/gtest.h>

namespace virga {
namespace {

/// 2026-11-23 is a Monday.
WallTime november(int day, int hour, int minute) {
  constexpr std::int64_t kFirst = 1'793'491'200'000;  // 2026-11-01T00:00:00Z
  return {kFirst + ((day - 1) * 24LL + hour) * 3'600'000 + minute * 60'000LL};
}

std::vector<MaintenanceWindow> one(std::vector<Weekday> days, const std::string& from,
                                   std::int64_t minutes) {
  return {{std::move(days), from, seconds(60 * minutes)}};
}

TEST(Calendar, A3_06_R_B5_TimesOfDayAreReadStrictly) {
  EXPECT_EQ(parse_time_of_day("00:00"), 0);
  EXPECT_EQ(parse_time_of_day("23:59"), 23 * 60 + 59);
  for (const char* wrong :
       {"", "24:00", "12:60", "1:00", "12-00", "12:0", "+1:00", "12:000", "ab:cd"}) {
    EXPECT_FALSE(parse_time_of_day(wrong)) << wrong;
  }
}

TEST(Calendar, A3_06_R_B5_TheDayIsTheRightOne) {
  EXPECT_EQ(to_string(november(23, 2, 0)), "2026-11-23T02:00:00.000Z");
  const auto monday = one({Weekday::monday}, "02:00", 60);
  EXPECT_FALSE(is_open(monday, november(23, 1, 59)));
  EXPECT_TRUE(is_open(monday, november(23, 2, 0)));
  EXPECT_TRUE(is_open(monday, november(23, 2, 59)));
  EXPECT_FALSE(is_open(monday, november(23, 3, 0)));
  EXPECT_FALSE(is_open(monday, november(24, 2, 30)));
  EXPECT_TRUE(is_open(monday, november(30, 2, 30)));
}

TEST(Calendar, A3_06_R_B5_AWindowMayLastBeyondMidnight) {
  const auto sunday = one({Weekday::sunday}, "23:00", 120);
  EXPECT_TRUE(is_open(sunday, november(22, 23, 30)));
  EXPECT_TRUE(is_open(sunday, november(23, 0, 30))) << "it is Monday";
  EXPECT_FALSE(is_open(sunday, november(23, 1, 0)));
  EXPECT_FALSE(is_open(sunday, november(22, 0, 30)));
}

TEST(Calendar, A3_06_R_B5_WithoutDaysItIsEveryDayAndOneOfManyIsEnough) {
  auto windows = one({}, "04:00", 10);
  for (int day = 1; day <= 7; ++day) EXPECT_TRUE(is_open(windows, november(day, 4, 5))) << day;
  windows.push_back({{Weekday::saturday}, "12:00", seconds(60)});
  EXPECT_TRUE(is_open(windows, november(28, 12, 0)));
  EXPECT_FALSE(is_open(windows, november(27, 12, 0)));
  EXPECT_FALSE(is_open({}, november(27, 12, 0)));
  EXPECT_FALSE(is_open(one({}, "never", 60), november(27, 0, 0)));
  EXPECT_FALSE(is_open(one({}, "00:00", 60), WallTime{5})) << "a clock that was never set";
}

}  // namespace
}  // namespace virga
