#include "mechanism/scaling/listener.h"

#include <gtest/gtest.h>

#include <map>

namespace virga {
namespace {

/// Two copies, a look a second; what each copy gets and costs is set by the test.
class ScalingListenerTest : public testing::Test {
 protected:
  void SetUp() override {
    limits.action = ScalingAction::scale;
    limits.requests_max = 50;
    limits.sustained_ms = seconds(10);
    limits.calm_ms = seconds(30);
    limits.cooldown_ms = seconds(20);
    sample.counters = "1";
    for (const char* name : {"acme/web-c1", "acme/web-c2"}) add(name);
  }

  void add(const std::string& name) {
    CopyDemand copy;
    copy.vm = VmId(name);
    sample.copies.push_back(copy);
  }

  /// Looks until `span` is over, or something is found; a copy that fails comes first.
  Demand look(Duration span) {
    const Instant end = now + span;
    DemandFindings found;
    while (now < end && found.demand.level == DemandLevel::normal &&
           found.failing.level == DemandLevel::normal) {
      now += seconds(1);
      for (CopyDemand& copy : sample.copies) {
        copy.requests += each;
        copy.errors += errors[copy.vm];
        sample.requests += each;
      }
      found = listener.look(limits, sample, now);
    }
    return found.failing.level == DemandLevel::normal ? found.demand : found.failing;
  }

  ServiceScaling limits;
  DemandSample sample;
  std::int64_t each = 24;  ///< requests a second that a copy gets: neither much nor little
  std::map<VmId, std::int64_t> errors;
  Instant now{seconds(100)};
  ScalingListener listener;
};

TEST_F(ScalingListenerTest, A3_12_R_B7_WhatIsSustainedAboveALimitIsHigh) {
  EXPECT_EQ(look(seconds(60)).level, DemandLevel::normal);
  each = 80;
  const Instant rises = now;
  const Demand found = look(seconds(60));
  EXPECT_EQ(found.level, DemandLevel::high);
  EXPECT_EQ(found.initiator, DemandInitiator::scaling_listener);
  EXPECT_EQ(found.measure, "requests_max");
  EXPECT_GT(found.value, 50);
  EXPECT_EQ(found.limit, 50);
  EXPECT_GT(now - rises, seconds(4)) << "the mean over the span, not the last second";
  EXPECT_LE(now - rises, seconds(10));
}

TEST_F(ScalingListenerTest, R_B7_AShortPeakIsNoDemand) {
  EXPECT_EQ(look(seconds(60)).level, DemandLevel::normal);
  each = 100;  // 39 a second over the ten
  EXPECT_EQ(look(seconds(2)).level, DemandLevel::normal);
  each = 24;
  EXPECT_EQ(look(seconds(20)).level, DemandLevel::normal);
}

TEST_F(ScalingListenerTest, R_B7_NothingIsFoundBeforeTheCooldownIsOver) {
  each = 80;
  const Instant begun = now;
  EXPECT_EQ(look(seconds(60)).level, DemandLevel::high);
  EXPECT_GE(now - begun, limits.cooldown_ms);
  add("acme/web-c3");  // somebody has acted
  const Instant acted = now;
  EXPECT_EQ(look(seconds(60)).level, DemandLevel::high);
  EXPECT_GE(now - acted, limits.cooldown_ms);
}

TEST_F(ScalingListenerTest, R_B7_DemandIsLowWhenOneCopyFewerWouldBeFarFromTheLimit) {
  add("acme/web-c3");
  each = 24;  // 36 for each of two: above 70 % of 50
  EXPECT_EQ(look(seconds(120)).level, DemandLevel::normal) << "between the two nothing is done";
  each = 20;  // 30 for each of two
  const Instant falls = now;
  EXPECT_EQ(look(seconds(120)).level, DemandLevel::low);
  EXPECT_GE(now - falls, limits.calm_ms);
}

TEST_F(ScalingListenerTest, R_B7_TheLastCopyIsNeverTooMuch) {
  sample.copies.pop_back();
  each = 0;
  EXPECT_EQ(look(seconds(120)).level, DemandLevel::normal);
}

TEST_F(ScalingListenerTest, A3_12_A_queue_at_the_balancer_is_its_own_signal) {
  limits.queue_max = 4;
  sample.queue = 9;
  const Demand found = look(seconds(60));
  EXPECT_EQ(found.level, DemandLevel::high);
  EXPECT_EQ(found.initiator, DemandInitiator::load_balancer);
  EXPECT_EQ(found.measure, "queue_max");
  EXPECT_EQ(found.value, 9);
}

TEST_F(ScalingListenerTest, A3_12_A_copy_that_fails_is_named) {
  limits.errors_percent_max = 20;
  errors[VmId("acme/web-c2")] = 12;  // of 24
  Demand found = look(seconds(60));
  EXPECT_EQ(found.level, DemandLevel::failing);
  EXPECT_EQ(found.initiator, DemandInitiator::load_balancer);
  EXPECT_EQ(found.copy, VmId("acme/web-c2"));
  EXPECT_EQ(found.value, 50);

  errors.clear();
  listener.rest(now);
  EXPECT_EQ(look(seconds(60)).level, DemandLevel::normal);
  sample.copies.front().healthy = false;
  found = look(seconds(60));
  EXPECT_EQ(found.level, DemandLevel::failing);
  EXPECT_EQ(found.copy, VmId("acme/web-c1"));
  EXPECT_EQ(found.value, 100);
}

TEST_F(ScalingListenerTest, A3_13_The_busiest_copy_is_named) {
  limits.requests_max = 0;
  limits.cpu_percent_max = 60;
  sample.copies[0].cpu_percent = 45;
  sample.copies[1].cpu_percent = 95;
  const Demand found = look(seconds(60));
  EXPECT_EQ(found.level, DemandLevel::high);
  EXPECT_EQ(found.measure, "cpu_percent_max");
  EXPECT_EQ(found.value, 70);
  EXPECT_EQ(found.copy, VmId("acme/web-c2"));
}

TEST_F(ScalingListenerTest, R_B7_CountersThatBeginAnewAreNoDemand) {
  limits.cooldown_ms = seconds(1);
  EXPECT_EQ(look(seconds(60)).level, DemandLevel::normal);
  sample.counters = "2";  // those of another balancer, which has seen more
  sample.requests += 100'000;
  for (CopyDemand& copy : sample.copies) copy.requests += 50'000;
  EXPECT_EQ(look(seconds(60)).level, DemandLevel::normal);
  listener.rest(now);
  each = 80;
  EXPECT_EQ(look(seconds(9)).level, DemandLevel::normal) << "what was seen before counts no more";
  EXPECT_EQ(look(seconds(9)).level, DemandLevel::high);
}

TEST_F(ScalingListenerTest, R_B7_LooksThatComeLateOrOftenCountAsTheyAre) {
  each = 60;
  Demand found;
  int round = 0;
  for (; round < 500 && found.level == DemandLevel::normal; ++round) {
    now += milliseconds(50);
    if (round % 20 == 0) sample.requests += 2 * each;
    found = listener.look(limits, sample, now).demand;
  }
  ASSERT_EQ(found.level, DemandLevel::high);
  EXPECT_GE(round, 400) << "the cooldown, 20 s";
  EXPECT_NEAR(static_cast<double>(found.value), 60, 7);
  now += seconds(40);  // nobody has looked
  sample.requests += 2 * each * 40;
  EXPECT_EQ(listener.look(limits, sample, now).demand.level, DemandLevel::high);
}

TEST_F(ScalingListenerTest, R_B7_WhatIsDownCarriesNothing) {
  limits.calm_ms = seconds(5);
  add("acme/web-c3");
  sample.copies[2].healthy = false;
  each = 12;  // 36 in all: 18 for each of two
  EXPECT_EQ(look(seconds(60)).level, DemandLevel::normal) << "never low while one is down";
  each = 40;  // 120 in all
  const Demand found = look(seconds(60));
  EXPECT_EQ(found.level, DemandLevel::high);
  EXPECT_NE(found.copy, VmId("acme/web-c3"));
}

TEST_F(ScalingListenerTest, R_B7_ACopyThatFailsDoesNotHideTheDemand) {
  limits.errors_percent_max = 20;
  sample.copies[1].healthy = false;
  each = 60;
  Instant end = now + seconds(60);
  DemandFindings found;
  while (now < end && found.demand.level == DemandLevel::normal) {
    now += seconds(1);
    sample.requests += 2 * each;
    sample.copies[0].requests += 2 * each;
    found = listener.look(limits, sample, now);
  }
  EXPECT_EQ(found.demand.level, DemandLevel::high);
  EXPECT_EQ(found.failing.level, DemandLevel::failing);
  EXPECT_EQ(found.failing.copy, VmId("acme/web-c2"));
}

TEST_F(ScalingListenerTest, R_B7_AFewRequestsThatFailSayNothing) {
  limits.errors_percent_max = 20;
  each = 0;
  listener.look(limits, sample, now);
  sample.copies[0].requests += 3;
  sample.copies[0].errors += 3;
  EXPECT_EQ(look(seconds(30)).level, DemandLevel::normal);
}

TEST_F(ScalingListenerTest, R_B7_OldResponseTimesOfCopiesThatNobodyAsksSayNothing) {
  limits.requests_max = 0;
  limits.response_ms_max = milliseconds(100);
  sample.copies[0].response_ms = 2'000;
  EXPECT_EQ(look(seconds(60)).measure, "response_ms_max");
  listener.rest(now);
  each = 0;
  EXPECT_NE(look(seconds(60)).level, DemandLevel::high);
}

TEST_F(ScalingListenerTest, R_B7_ARelocationThatDidNotHelpIsNotRepeatedAtOnce) {
  limits.action = ScalingAction::duplicate;
  limits.calm_ms = seconds(100);
  each = 80;
  EXPECT_EQ(look(seconds(60)).level, DemandLevel::high);
  listener.rest(now, true);
  const Instant relocated = now;
  EXPECT_EQ(look(seconds(300)).level, DemandLevel::high);
  EXPECT_GE(now - relocated, limits.calm_ms);
}

}  // namespace
}  // namespace virga
