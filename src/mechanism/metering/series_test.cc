#include "mechanism/metering/series.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace virga::metering {
namespace {

std::vector<std::int64_t> through_bytes(const std::vector<std::int64_t>& points) {
  std::string bytes;
  append_points(bytes, points);
  bytes += "rest";
  std::string_view left = bytes;
  std::vector<std::int64_t> back(points.size());
  const auto taken = take_points(left, back);
  EXPECT_TRUE(taken.ok());
  EXPECT_EQ(left, "rest");
  return back;
}

TEST(Series, A3_18_idle_series_take_a_few_bytes) {
  std::string bytes;
  append_points(bytes, std::vector<std::int64_t>(kWindowPoints, 0));
  EXPECT_LE(bytes.size(), 3U);
  bytes.clear();
  append_points(bytes, std::vector<std::int64_t>(kWindowPoints, kGap));
  EXPECT_LE(bytes.size(), 3U);
}

TEST(Series, A3_18_a_gap_stays_a_gap_and_is_no_zero) {
  const std::vector<std::int64_t> points{5, kGap, kGap, 0, 7, kGap};
  EXPECT_EQ(through_bytes(points), points);
  EXPECT_EQ(roll_up(points), (Rollup{3, 12, 7}));
  EXPECT_EQ(roll_up(std::vector<std::int64_t>{kGap, kGap}), Rollup());
}

TEST(Series, A3_18_the_widest_change_comes_back) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  for (const std::vector<std::int64_t>& points :
       {std::vector<std::int64_t>{-1, kMost}, {kMost, -1}, {-1, kGap, kMost}, {-2, kMost, kGap}})
    EXPECT_EQ(through_bytes(points), points);
}

RC_GTEST_PROP(Series, A3_18_points_come_back_as_they_were, ()) {
  const auto value = rc::gen::weightedOneOf<std::int64_t>(
      {{4, rc::gen::inRange<std::int64_t>(0, 300)},
       {2, rc::gen::just(kGap)},
       {2, rc::gen::inRange<std::int64_t>(0, std::int64_t{1} << 40)},
       {1, rc::gen::elementOf(std::vector<std::int64_t>{INT64_MAX, -1, 0})}});
  const auto points = *rc::gen::container<std::vector<std::int64_t>>(value);
  RC_ASSERT(through_bytes(points) == points);
}

RC_GTEST_PROP(Series, A3_18_damaged_blocks_are_refused_and_never_overrun,
              (const std::string& bytes)) {
  std::string_view left = bytes;
  std::vector<std::int64_t> points(kWindowPoints);
  static_cast<void>(take_points(left, points));
  RC_ASSERT(left.size() <= bytes.size());
}

RC_GTEST_PROP(Series, R_B8_a_rollup_of_parts_is_the_rollup_of_all,
              (std::vector<std::int16_t> some)) {
  const std::vector<std::int64_t> points(some.begin(), some.end());
  const auto half = std::span(points).first(points.size() / 2);
  const auto rest = std::span(points).subspan(points.size() / 2);
  RC_ASSERT(joined(roll_up(half), roll_up(rest)) == roll_up(points));
  std::string bytes;
  append_rollup(bytes, roll_up(points));
  std::string_view left = bytes;
  const auto back = take_rollup(left);
  RC_ASSERT(back.ok() && *back == roll_up(points) && left.empty());
}

}  // namespace
}  // namespace virga::metering
