#include "mechanism/sla/level_keeper.h"

#include <gtest/gtest.h>

#include "base/reflect.h"
#include "base/rng.h"

namespace virga {
namespace {

constexpr std::int64_t kDayMs = 24 * 3600 * 1000;

/// One service, asked ten times a second; a report a second unless the test says otherwise.
class LevelKeeperTest : public testing::Test {
 protected:
  LevelKeeperTest() : keeper(first()) {
    objective.availability_ppm = 999'900;  // of a day: 8.64 s
    objective.window_days = 1;
    seen.service = ServiceId("acme/web");
    seen.counters = "1";
    seen.responses.resize(kResponseSteps.size() + 1);
    report();
  }

  static ServiceLevel first() {
    ServiceLevel level;
    level.meta.tenant = "acme";
    level.meta.name = "web";
    return level;
  }

  void report() { keeper.take(monitor, seen, now, wall); }

  void pass(Duration time) {
    now += time;
    wall.unix_ms += to_ms(time);
  }

  /// So many seconds, in each of which so many of ten requests fail.
  void serve(int count, int failed = 0) {
    for (int second = 0; second < count; ++second) {
      pass(seconds(1));
      seen.asked += 10;
      seen.failed += failed;
      seen.responses[2] += 10 - failed;
      seen.failing = failed == 10 ? "no answer in time" : "";
      report();
    }
  }

  /// As the server does: what is told is stored, and told once.
  std::vector<std::string> told() {
    ServiceLevel kept = keeper.level();
    std::vector<std::string> kinds;
    for (const LevelFinding& finding : keeper.judge(objective, wall, kept)) {
      kinds.push_back(finding.kind);
      texts.push_back(finding.text);
    }
    keeper.adopt(kept);
    stored = kept;
    return kinds;
  }

  ServiceRelocation relocation() const {
    ServiceRelocation one;
    one.original = VmId("acme/web-c1");
    one.source = HostId("host-1");
    one.host = HostId("host-2");
    one.cause = "an operator asked for it";
    one.started_at = wall;
    return one;
  }

  LevelReport now_stands() const { return keeper.report(objective, wall); }

  const HostId monitor{"host-3"};
  ServiceObjective objective;
  ObservedProbe seen;
  Instant now{seconds(1000)};
  WallTime wall{20'000 * kDayMs};
  ServiceLevel stored;
  std::vector<std::string> texts;
  LevelKeeper keeper;
};

TEST_F(LevelKeeperTest, A3_22_R_B9_TimeIsCountedByTheShareOfRequestsThatFailed) {
  serve(60);
  serve(4, 10);
  serve(6, 5);
  const LevelReport report = now_stands();
  EXPECT_EQ(report.measured_ms, 70'000);
  EXPECT_EQ(report.budget_ms, 8'640);
  EXPECT_EQ(report.budget_left_ms, 8'640 - 4'000 - 3'000);
  EXPECT_EQ(report.availability_ppm, 900'000);
  EXPECT_EQ(report.asked, 700);
  EXPECT_EQ(report.failed, 70);
  EXPECT_EQ(report.response_ms_p50, 5);
}

TEST_F(LevelKeeperTest, A3_22_R_B9_AReportThatIsLostOrComesTwiceChangesNothing) {
  serve(5);
  seen.asked += 30;  // two reports of three are lost
  seen.failed += 10;
  pass(seconds(3));
  report();
  report();
  const LevelReport report = now_stands();
  EXPECT_EQ(report.asked, 80);
  EXPECT_EQ(report.failed, 10);
  EXPECT_EQ(report.measured_ms, 8'000);
  EXPECT_EQ(report.budget_ms - report.budget_left_ms, 1'000);
}

TEST_F(LevelKeeperTest, A3_22_R_B9_WhatNobodyMeasuredCountsNeitherWay) {
  serve(5);
  pass(seconds(600));
  serve(5, 10);  // the first second of these stands for more than anybody knows
  const LevelReport report = now_stands();
  EXPECT_EQ(report.measured_ms, 9'000);
  EXPECT_EQ(report.budget_ms - report.budget_left_ms, 4'000);
  EXPECT_EQ(report.failed, 50);
}

TEST_F(LevelKeeperTest, A3_22_R_B9_WhatAnotherMonitorCountedBeforeCountsNot) {
  serve(5);
  seen.counters = "of another, which was cut off for a while";
  seen.asked = 100'000;
  seen.failed = 90'000;
  pass(seconds(1));
  report();
  EXPECT_EQ(now_stands().asked, 50);
  EXPECT_EQ(now_stands().failed, 0);
  serve(5);
  EXPECT_EQ(now_stands().asked, 100);
  EXPECT_EQ(now_stands().measured_ms, 10'000);
}

TEST_F(LevelKeeperTest, A3_22_R_B9_AnswersMayBeFarApartWhileItsMonitorIsHeard) {
  for (int round = 0; round < 10; ++round) {
    for (int second = 0; second < 15; ++second) {
      pass(seconds(1));
      report();
    }
    ++seen.asked;
    ++seen.failed;
    seen.failing = "no answer in time";
    pass(seconds(1));
    report();
  }
  EXPECT_EQ(now_stands().measured_ms, 160'000);
  EXPECT_EQ(now_stands().availability_ppm, 0);
  EXPECT_TRUE(keeper.failing_for(now));
}

TEST_F(LevelKeeperTest, A3_21_R_B9_WaitsFromBeforeARelocationAreNotItsOwn) {
  serve(60, 10);
  seen.waited_ms = seconds(60);
  keeper.follow(relocation(), wall);
  serve(2, 10);
  EXPECT_EQ(now_stands().moves.front().waited_ms, seconds(2));
}

TEST_F(LevelKeeperTest, A3_22_R_B9_TheNextServerGoesOnFromWhatIsStored) {
  serve(30, 1);
  told();
  serve(5, 1);  // counted by the monitor, not stored by the server that is killed now
  LevelKeeper next(stored);
  next.take(monitor, seen, now, wall);
  EXPECT_EQ(next.report(objective, wall).asked, 350);
  EXPECT_EQ(next.report(objective, wall).failed, 35);
  EXPECT_EQ(next.report(objective, wall).measured_ms, 35'000);
  EXPECT_EQ(next.report(objective, wall).budget_left_ms, 8'640 - 3'500);
}

TEST_F(LevelKeeperTest, A3_21_R_B9_ABrokenPromiseIsToldOnceBeforeAndWhenItIsBroken) {
  serve(60);
  EXPECT_TRUE(told().empty());
  serve(7, 10);
  EXPECT_EQ(told(), std::vector<std::string>{"level_low"});
  EXPECT_FALSE(keeper.spent());
  serve(2, 10);
  EXPECT_EQ(told(), std::vector<std::string>{"level_breached"});
  EXPECT_TRUE(keeper.spent());
  serve(3, 10);
  EXPECT_TRUE(told().empty());
  EXPECT_FALSE(keeper.has_news(objective, wall));
  pass(milliseconds(kDayMs));
  EXPECT_EQ(told(), std::vector<std::string>{"level_restored"}) << "those days are over";
  EXPECT_FALSE(keeper.spent());
}

TEST_F(LevelKeeperTest, A3_21_R_B9_WhatIsNotStoredIsToldAgain) {
  serve(20, 10);
  ServiceLevel lost = keeper.level();
  EXPECT_EQ(keeper.judge(objective, wall, lost).size(), 1U);
  EXPECT_EQ(told().size(), 1U) << "the commit before had no effect";
  EXPECT_TRUE(told().empty());
}

TEST_F(LevelKeeperTest, A3_21_A3_22_R_B9_ARelocationIsJudgedWithItsAftermath) {
  objective.blackout_ms = milliseconds(300);
  serve(10);
  const ServiceRelocation move = relocation();
  keeper.follow(move, wall);
  serve(5);
  seen.waited_ms = milliseconds(80);
  serve(1);
  keeper.follow(std::nullopt, wall);
  EXPECT_TRUE(told().empty());
  seen.waited_ms = milliseconds(450);
  serve(1, 1);
  seen.waited_ms = milliseconds(5);
  serve(29);
  EXPECT_EQ(told(), std::vector<std::string>{"blackout_exceeded"});
  EXPECT_NE(texts.back().find("450 ms"), std::string::npos) << texts.back();
  EXPECT_TRUE(told().empty());
  ASSERT_EQ(now_stands().moves.size(), 1U);
  const LevelMove seen_move = now_stands().moves.front();
  EXPECT_EQ(seen_move.failed, 1);
  EXPECT_EQ(seen_move.asked, 360);
  EXPECT_EQ(seen_move.waited_ms, milliseconds(450));
}

TEST_F(LevelKeeperTest, A3_21_R_B9_OneThatCostNothingIsToldAsMeasured) {
  objective.blackout_ms = milliseconds(300);
  keeper.follow(relocation(), wall);
  serve(3);
  keeper.follow(std::nullopt, wall);
  serve(31);
  EXPECT_EQ(told(), std::vector<std::string>{"blackout_measured"});
}

TEST_F(LevelKeeperTest, A3_21_R_B9_TheNextRelocationEndsTheAftermathOfTheLast) {
  keeper.follow(relocation(), wall);
  serve(3);
  keeper.follow(std::nullopt, wall);
  serve(2);
  keeper.follow(relocation(), wall);
  EXPECT_EQ(told(), std::vector<std::string>{"blackout_measured"});
  serve(2, 10);
  EXPECT_EQ(now_stands().moves.at(0).failed, 20);
  EXPECT_EQ(now_stands().moves.at(1).failed, 0);
}

TEST_F(LevelKeeperTest, A3_21_R_B9_HowLongConsumersHaveNoAnswerIsKnownWhileTheMonitorIsHeard) {
  serve(3);
  EXPECT_FALSE(keeper.failing_for(now));
  serve(3, 10);
  ASSERT_TRUE(keeper.failing_for(now));
  EXPECT_EQ(*keeper.failing_for(now), seconds(3));
  pass(seconds(11));
  EXPECT_FALSE(keeper.failing_for(now)) << "nobody knows";
  serve(1);
  EXPECT_FALSE(keeper.failing_for(now));
}

TEST_F(LevelKeeperTest, R_B9_DaysAndRelocationsAreBounded) {
  for (int day = 0; day < 120; ++day) {
    serve(1);
    keeper.follow(relocation(), wall);
    pass(milliseconds(kDayMs));
  }
  EXPECT_EQ(keeper.level().days.size(), LevelKeeper::kDaysMax);
  EXPECT_EQ(keeper.level().moves.size(), LevelKeeper::kMovesMax);
  EXPECT_LT(to_json_text(keeper.level()).size(), 64U << 10);
}

/// However reports are lost and whenever servers are killed: what was asked is counted once.
TEST_F(LevelKeeperTest, A3_22_R_B9_EveryRequestIsCountedOnceOverLossesAndKills) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    Rng rng(seed);
    ObservedProbe truth = seen;
    truth.asked = truth.failed = 0;
    LevelKeeper one(first());
    one.take(monitor, truth, now, wall);
    ServiceLevel kept = one.level();
    for (int step = 0; step < 400; ++step) {
      pass(milliseconds(static_cast<std::int64_t>(rng.below(2000))));
      const auto failed = static_cast<std::int64_t>(rng.below(3));
      truth.asked += failed + static_cast<std::int64_t>(rng.below(5));
      truth.failed += failed;
      if (rng.below(3) == 0) continue;  // lost
      one.take(monitor, truth, now, wall);
      if (rng.below(10) == 0) kept = one.level();
      if (rng.below(40) == 0) one = LevelKeeper(kept);  // killed: what was not stored is gone
    }
    pass(seconds(1));
    one.take(monitor, truth, now, wall);
    const LevelReport report = one.report(objective, wall);
    EXPECT_EQ(report.asked, truth.asked) << "seed " << seed;
    EXPECT_EQ(report.failed, truth.failed) << "seed " << seed;
    EXPECT_LE(report.budget_ms - report.budget_left_ms, report.measured_ms) << "seed " << seed;
  }
}

}  // namespace
}  // namespace virga
