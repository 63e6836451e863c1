#include "agent/service_probes.h"

#include <gtest/gtest.h>

#include <numeric>
#include <utility>

#include "driver/null_fabric.h"
#include "sim/sim_loop.h"

namespace virga {
namespace {

/// Answers after a time that the test sets, or never.
class Asked : public ServiceAsker {
 public:
  explicit Asked(Loop& loop) : loop_(loop) {}
  void ask(const ServiceProbe& probe, std::shared_ptr<const int>,
           Callback<Duration> done) override {
    asked.push_back(probe.service.value);
    loop_.after(takes, [this, took = takes, done = std::move(done)] {
      done(answer ? Result<Duration>(took) : answer.error());
    });
  }
  Duration takes = milliseconds(4);
  Result<void> answer;
  std::vector<std::string> asked;

 private:
  Loop& loop_;
};

class ServiceProbesTest : public testing::Test {
 protected:
  ServiceProbesTest() : fabric(loop), asker(loop), probes(loop, fabric, &asker, "run") {}

  static ServiceProbe probe(const std::string& service, Duration every = seconds(1)) {
    ServiceProbe one;
    one.service = ServiceId(service);
    one.leg = {1001, "52:54:00:00:00:0b", "10.50.0.11/24", 1450};
    one.address = "10.50.0.10";
    one.port = 80;
    one.every_ms = every;
    return one;
  }

  ObservedProbe seen(const std::string& service = "acme/web") const {
    for (const ObservedProbe& one : probes.observe()) {
      if (one.service.value == service) return one;
    }
    ADD_FAILURE() << service << " is not watched";
    return {};
  }

  SimLoop loop;
  NullFabric fabric;
  Asked asker;
  ServiceProbes probes;
};

TEST_F(ServiceProbesTest, A3_22_R_B9_AServiceIsAskedFromAPlaceOfItsOwnAndCounted) {
  probes.take({{probe("acme/web")}});
  loop.run_for(milliseconds(1'900));
  EXPECT_TRUE(asker.asked.empty()) << "answers would not find it yet";
  loop.run_for(milliseconds(10'600));
  EXPECT_EQ(fabric.visitors.count("monitor of acme/web"), 1U);
  const ObservedProbe now = seen();
  EXPECT_EQ(now.asked, 11);
  EXPECT_EQ(now.failed, 0);
  EXPECT_EQ(now.responses.at(2), 11) << "4 ms are above 2 and at most 5";
  EXPECT_EQ(now.waited_ms, milliseconds(4));
  EXPECT_EQ(now.failing, "");
}

TEST_F(ServiceProbesTest, A3_22_R_B9_AConsumerWaitsFromTheFirstFailureUntilAnAnswer) {
  probes.take({{probe("acme/web", milliseconds(100))}});
  loop.run_for(milliseconds(3'050));
  asker.answer = make_error(Errc::unavailable, "nobody listens there");
  loop.run_for(milliseconds(500));
  EXPECT_NE(seen().failing.find("nobody listens"), std::string::npos);
  EXPECT_GE(seen().waited_ms, milliseconds(400));
  asker.answer = {};
  loop.run_for(milliseconds(500));
  const ObservedProbe now = seen();
  EXPECT_EQ(now.failed, 5);
  EXPECT_EQ(now.failing, "");
  EXPECT_EQ(now.waited_ms, milliseconds(504));
  loop.run_for(seconds(4));
  EXPECT_EQ(seen().waited_ms, milliseconds(4)) << "what is long ago is not told any more";
}

TEST_F(ServiceProbesTest, R_B9_AnAnswerThatComesTooLateIsNone) {
  asker.takes = milliseconds(1'200);
  probes.take({{probe("acme/web")}});
  loop.run_for(milliseconds(7'000));
  const ObservedProbe now = seen();
  EXPECT_GT(now.failed, 0);
  EXPECT_EQ(now.failed, now.asked);
  EXPECT_NE(now.failing.find("1200 ms"), std::string::npos) << now.failing;
  EXPECT_EQ(std::accumulate(now.responses.begin(), now.responses.end(), std::int64_t{0}), 0);
}

TEST_F(ServiceProbesTest, R_B9_WhileOneWaitsNoOtherIsSent) {
  asker.takes = seconds(5);
  ServiceProbe patient = probe("acme/web", milliseconds(100));
  patient.timeout_ms = seconds(10);
  probes.take({{patient}});
  loop.run_for(milliseconds(6'900));
  EXPECT_EQ(asker.asked.size(), 1U);
  EXPECT_GE(seen().waited_ms, milliseconds(4'900)) << "it waits still";
  EXPECT_EQ(seen().asked, 0);
}

TEST_F(ServiceProbesTest, R_B9_AnotherPaceGoesOnCountingAnotherPlaceBeginsAnew) {
  probes.take({{probe("acme/web")}});
  loop.run_for(milliseconds(4'500));
  const std::string counters = seen().counters;
  probes.take({{probe("acme/web", milliseconds(100))}});
  loop.run_for(milliseconds(1'000));
  EXPECT_EQ(seen().counters, counters);
  EXPECT_GE(seen().asked, 12);
  ServiceProbe elsewhere = probe("acme/web");
  elsewhere.leg.address = "10.50.0.12/24";
  probes.take({{elsewhere}});
  loop.run_for(milliseconds(2'500));
  EXPECT_NE(seen().counters, counters);
  EXPECT_EQ(seen().asked, 1);
}

TEST_F(ServiceProbesTest, R_B9_WhatIsNotNamedAnyMoreIsLeft) {
  probes.take({{probe("acme/web"), probe("acme/shop")}});
  loop.run_for(seconds(3));
  probes.take({{probe("acme/shop")}});
  asker.asked.clear();
  loop.run_for(seconds(3));
  EXPECT_EQ(fabric.visitors.count("monitor of acme/web"), 0U);
  EXPECT_EQ(probes.observe().size(), 1U);
  for (const std::string& service : asker.asked) EXPECT_EQ(service, "acme/shop");
}

TEST_F(ServiceProbesTest, R_B9_AHostWithoutTheNetworkSaysSoAndTriesAgain) {
  fabric.leg_answer = make_error(Errc::not_found, "the network is not on this host");
  probes.take({{probe("acme/web")}});
  loop.run_for(seconds(3));
  EXPECT_EQ(seen().asked, 0);
  EXPECT_NE(seen().failing.find("the network is not on this host"), std::string::npos);
  fabric.leg_answer = {};
  loop.run_for(seconds(4));
  EXPECT_GT(seen().asked, 0);
}

TEST_F(ServiceProbesTest, R_B9_ANewSessionThatNamesItGoesOnAndOneThatDoesNotEndsIt) {
  probes.take({{probe("acme/web")}});
  loop.run_for(seconds(4));
  const std::string counters = seen().counters;
  probes.welcomed();
  probes.take({{probe("acme/web")}});
  loop.run_for(seconds(10));
  probes.look();
  EXPECT_EQ(seen().counters, counters);
  EXPECT_GE(seen().asked, 10);
  probes.welcomed();
  loop.run_for(seconds(4));
  probes.look();
  EXPECT_EQ(probes.observe().size(), 1U);
  loop.run_for(seconds(2));
  probes.look();
  EXPECT_TRUE(probes.observe().empty());
  EXPECT_TRUE(fabric.visitors.empty());
}

TEST_F(ServiceProbesTest, R_B9_AnotherPaceDoesNotCutTheSettlingShort) {
  probes.take({{probe("acme/web")}});
  loop.run_for(milliseconds(500));
  probes.take({{probe("acme/web", milliseconds(100))}});
  loop.run_for(milliseconds(1'400));
  EXPECT_TRUE(asker.asked.empty());
  loop.run_for(milliseconds(500));
  EXPECT_FALSE(asker.asked.empty());
}

TEST_F(ServiceProbesTest, R_B9_AHostAsksSoManyAndNoMore) {
  ServiceProbeList many;
  for (int index = 0; index < 100; ++index)
    many.probes.push_back(probe("acme/web-" + std::to_string(index)));
  probes.take(many);
  EXPECT_EQ(probes.observe().size(), kMonitorsMax);
}

TEST_F(ServiceProbesTest, R_B9_AnAnswerAfterItsEndReachesNobody) {
  asker.takes = seconds(3);
  auto gone = std::make_unique<ServiceProbes>(loop, fabric, &asker, "run");
  gone->take({{probe("acme/web")}});
  loop.run_for(seconds(3));
  gone.reset();
  loop.run_for(seconds(5));
}

}  // namespace
}  // namespace virga
