#include <gtest/gtest.h>

#include "arch/service_relocation/test_services.h"

namespace virga {
namespace {

/// What the planner makes of what a scaling listener has found.
class ServiceDemandTest : public testing::Test, protected TestServices {
 protected:
  void SetUp() override {
    settle();
    answer(ScalingAction::scale);
  }
  void answer(ScalingAction action) {
    edit_web([&](Service& service) {
      service.spec.scaling.action = action;
      service.spec.scaling.requests_max = 50;
      service.spec.scaling.replicas_max = action == ScalingAction::scale ? 4 : 0;
    });
  }
  void find(DemandLevel level, const std::string& copy = "web-c1") {
    const Demand demand{
        level, DemandInitiator::scaling_listener, "requests_max", 80, 50, VmId("acme/" + copy)};
    auto& found = evidence.demand[web().id()];
    (level == DemandLevel::failing ? found.failing : found.demand) = demand;
  }
  /// Rounds until all is still; what was found holds for the first alone.
  void answered() {
    round();
    evidence.demand.clear();
    EXPECT_GE(settle(), 0);
  }
};

TEST_F(ServiceDemandTest, A3_01_A3_07_R_B7_DemandAddsCopiesAndWithdrawsThem) {
  find(DemandLevel::high);
  answered();
  EXPECT_EQ(web().status.extra, 1);
  EXPECT_EQ(web().status.copies.size(), 3U);
  EXPECT_EQ(web().spec.replicas, 2) << "what its owner asked for stays";
  EXPECT_EQ(fact("demand_high", "initiator"), "scaling_listener");
  EXPECT_EQ(fact("demand_high", "value"), "80");
  find(DemandLevel::low);
  answered();
  EXPECT_EQ(web().status.extra, 0);
  EXPECT_EQ(web().status.copies.size(), 2U);
  EXPECT_EQ(count("demand_low"), 1);
  find(DemandLevel::low);
  answered();
  EXPECT_EQ(web().status.copies.size(), 2U) << "never fewer than its owner asked for";
  EXPECT_EQ(count("unavailable"), 0);
}

TEST_F(ServiceDemandTest, R_B7_DemandIsBoundedAndSaysSo) {
  for (int times = 0; times < 4; ++times) {
    find(DemandLevel::high);
    answered();
  }
  EXPECT_EQ(web().status.copies.size(), 4U);
  find(DemandLevel::high);
  round();
  EXPECT_NE(web().status.reason.find("replicas_max is 4"), std::string::npos);
  EXPECT_TRUE(round().steps.empty()) << "it is said once";
  edit_web([](Service& service) { service.spec.scaling.replicas_max = 3; });
  answered();
  EXPECT_EQ(web().status.copies.size(), 3U);
  answer(ScalingAction::none);
  answered();
  EXPECT_EQ(web().status.copies.size(), 2U) << "nobody watches: what demand added goes";
}

TEST_F(ServiceDemandTest, A3_01_A3_12_A3_F1_TheBusiestCopyIsRelocatedByADuplicate) {
  answer(ScalingAction::duplicate);
  const HostId source = vm("web-c1").status.host;
  find(DemandLevel::high);
  answered();
  EXPECT_FALSE(has("web-c1"));
  EXPECT_EQ(web().status.copies.size(), 2U);
  EXPECT_NE(vm("web-c3").status.host, source);
  EXPECT_EQ(count("relocated"), 1);
  EXPECT_NE(last("relocation_started").text.find("requests 80 > 50"), std::string::npos)
      << last("relocation_started").text;
}

TEST_F(ServiceDemandTest, A3_13_A3_F1_TheListenerStartsALiveMigration) {
  answer(ScalingAction::live_migration);
  edit_web([](Service& service) { service.spec.policy.return_home = true; });
  const HostId source = vm("web-c1").status.host;
  find(DemandLevel::high);
  round();
  evidence.demand.clear();
  const HostId target = vm("web-c1").spec.move_to;
  EXPECT_FALSE(target.empty());
  EXPECT_NE(target, source);
  edit_vm("web-c1", [&](Vm& vm) {
    vm.spec.move_to = HostId();
    vm.status.host = target;
  });
  round();
  EXPECT_EQ(copy("web-c1").home, source) << "for a time";
  EXPECT_EQ(count("relocated"), 1);
}

TEST_F(ServiceDemandTest, A3_12_ACopyThatFailsIsReplacedWhateverTheAction) {
  find(DemandLevel::failing, "web-c2");
  evidence.demand[web().id()].failing.initiator = DemandInitiator::load_balancer;
  broken.insert("web-c2");
  answered();
  EXPECT_FALSE(has("web-c2"));
  EXPECT_EQ(web().status.copies.size(), 2U);
  EXPECT_EQ(fact("demand_high", "initiator"), "load_balancer");
  EXPECT_EQ(web().status.extra, 0);
}

TEST_F(ServiceDemandTest, A3_23_WhatIsLockedToItsHostStaysAndTheReasonIsGiven) {
  answer(ScalingAction::live_migration);
  edit_vm("web-c1", [](Vm& vm) { vm.spec.direct_io = true; });
  find(DemandLevel::high);
  round();
  EXPECT_EQ(count("relocation_started"), 0);
  EXPECT_NE(web().status.reason.find("directly: it stays there"), std::string::npos);
}

TEST_F(ServiceDemandTest, R_B7_WhereThereIsNoRoomOneCopyIsAskedForAndNoMore) {
  for (const char* name : {"h1", "h2", "h3"}) {
    edit_host(name, [](Host& host) { host.status.capacity.memory_mib = Mib{1}; });
  }
  find(DemandLevel::high);
  for (int rounds = 0; rounds < 5; ++rounds) round();
  EXPECT_EQ(web().status.extra, 1);
  EXPECT_EQ(count("demand_high"), 1);
}

TEST_F(ServiceDemandTest, R_B7_ACopyThatFailsAndStaysDoesNotKeepOthersFromComing) {
  find(DemandLevel::failing, "web-c2");
  find(DemandLevel::high);
  edit_vm("web-c2", [](Vm& vm) { vm.status.power = VmPower::stopped; });
  round();
  EXPECT_EQ(web().status.extra, 1);
}

TEST_F(ServiceDemandTest, A3_09_R_B7_WhereACopyIsToGoBackToIsNotForgotten) {
  answer(ScalingAction::live_migration);
  edit_web([](Service& service) {
    service.spec.policy.return_home = true;
    service.status.copies.front().home = HostId("h3");
    service.status.copies.front().away_ms = seconds(60);
  });
  find(DemandLevel::high);
  round();
  ASSERT_TRUE(web().status.relocation);
  EXPECT_EQ(web().status.relocation->home, HostId("h3"));
  EXPECT_EQ(web().status.relocation->away_ms, seconds(60));
}

TEST_F(ServiceDemandTest, R_B7_ACopyThatBootsIsNotTakenForOneThatFails) {
  find(DemandLevel::failing, "web-c2");
  edit_vm("web-c2", [](Vm& vm) { vm.status.health = VmHealth::unknown; });
  answered();
  EXPECT_EQ(count("relocation_started"), 0);
}

TEST_F(ServiceDemandTest, R_B7_ACopyThatIsBeingRestartedIsLeftToTheCluster) {
  find(DemandLevel::failing, "web-c2");
  edit_vm("web-c2", [](Vm& vm) { vm.status.power = VmPower::stopped; });
  answered();
  EXPECT_EQ(count("relocation_started"), 0);
}

TEST_F(ServiceDemandTest, R_B7_NothingIsBegunWhileARelocationIsUnderWay) {
  edit_web([](Service& service) {
    service.spec.relocate = {"web-c1", HostId("h3"), RelocationMode::duplicate, {}};
  });
  round();
  find(DemandLevel::high);
  round();
  EXPECT_EQ(web().status.extra, 0);
}

}  // namespace
}  // namespace virga
