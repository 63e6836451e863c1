#include "arch/service_relocation/planner.h"

#include <gtest/gtest.h>

#include "arch/service_relocation/test_services.h"
#include "driver/load_balancer.h"

namespace virga {
namespace {

class ServicePlannerTest : public testing::Test, protected TestServices {
 protected:
  void maintain(const std::string& host, bool on) {
    edit_host(host, [on](Host& changed) { changed.spec.maintenance = on; });
  }
  /// The copy that is on the host, by name; the copies of a settled service are on different hosts.
  std::string copy_on(const std::string& host) const {
    for (const ServiceCopy& one : web().status.copies) {
      if (view.vms.find(one.vm)->status.host == HostId(host)) return one.vm.value.substr(5);
    }
    return "";
  }
  /// With the port that the API makes for it.
  void promise() {
    Port port;
    port.meta.tenant = "acme";
    port.meta.name = "web-monitor";
    port.spec.network = NetworkId("acme/front");
    port.spec.service = web().id();
    put(port);
    edit_web([](Service& service) { service.spec.objective.availability_ppm = 999'000; });
  }
  void order(const std::string& copy, const std::string& host,
             RelocationMode mode = RelocationMode::duplicate, Duration for_ms = {}) {
    edit_web([&](Service& service) { service.spec.relocate = {copy, HostId(host), mode, for_ms}; });
  }
};

TEST_F(ServicePlannerTest, R_B5_MakesCopiesBehindABalancerUntilItIsAvailable) {
  EXPECT_GT(settle(), 0);
  EXPECT_TRUE(web().status.available) << web().status.reason;
  ASSERT_EQ(web().status.copies.size(), 2U);
  EXPECT_NE(vm("web-c1").status.host, vm("web-c2").status.host);
  EXPECT_EQ(vm("web-c1").spec.service, ServiceId("acme/web"));
  EXPECT_EQ(vm("web-c1").spec.pinned_host, HostId()) << "once it serves it may run anywhere";
  const BalancerSpec& spec = balancers.at({ServiceId("acme/web"), web().status.balancer});
  ASSERT_EQ(spec.pools.size(), 1U);
  EXPECT_EQ(spec.pools.front().servers.size(), 2U);
  EXPECT_EQ(spec.frontends.front().address, "10.50.0.10");
  EXPECT_TRUE(validate(spec).ok());
  EXPECT_EQ(count("available"), 1);
}

TEST_F(ServicePlannerTest, R_B5_ANewCopyGetsNothingUntilACheckHasReallyPassed) {
  in_state = seconds(1);  // shorter than settling_time()
  for (int rounds = 0; rounds < 10; ++rounds) round();
  EXPECT_EQ(copy("web-c1").state, ServiceCopyState::starting);
  const BalancerSpec spec = balancer_of(view, web());
  EXPECT_EQ(spec.pools.front().servers.front().state, BalancerServerState::drain);
  EXPECT_FALSE(web().status.available);
}

TEST_F(ServicePlannerTest, A3_02_A3_06_A3_10_MaintenanceDuplicatesFirstAndRetiresLast) {
  settle();
  const std::string original = copy_on("h1").empty() ? copy_on("h2") : copy_on("h1");
  const HostId source = vm(original).status.host;
  totals["web-c3"] = 0;
  evidence.quiet[web().id()] = Duration{};
  maintain(source.value, true);
  for (int rounds = 0; rounds < 20; ++rounds) round();
  EXPECT_EQ(copy("web-c3").state, ServiceCopyState::serving);
  EXPECT_EQ(copy(original).state, ServiceCopyState::serving) << "the new one has answered nothing";
  totals["web-c3"] = 1;
  sessions[original] = 3;
  for (int rounds = 0; rounds < 5; ++rounds) round();
  EXPECT_EQ(fact("redirected", "proof"), "requests");
  EXPECT_EQ(copy(original).state, ServiceCopyState::draining) << "requests are in flight";
  sessions[original] = 0;
  EXPECT_GE(settle(), 0);
  EXPECT_FALSE(has(original));
  EXPECT_NE(vm("web-c3").status.host, source);
  EXPECT_EQ(count("relocated"), 1);
  EXPECT_EQ(count("unavailable"), 0);
}

TEST_F(ServicePlannerTest, A3_20_TheShadowCopyIsMadeAtTheDestinationBesideTheOriginal) {
  settle();
  order("web-c1", "h3");
  while (!has("web-c3")) round();
  EXPECT_EQ(vm("web-c3").spec.pinned_host, HostId("h3"));
  EXPECT_EQ(vm("web-c3").spec.image, web().spec.vm.image);
  EXPECT_EQ(web().status.relocation->replacement, VmId("acme/web-c3"));
  EXPECT_EQ(copy("web-c1").state, ServiceCopyState::serving);
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(vm("web-c3").status.host, HostId("h3"));
}

TEST_F(ServicePlannerTest, A3_10_WhileNobodyAsksChecksMustDo) {
  settle();
  totals["web-c3"] = 0;
  order("web-c1", "h3");
  evidence.quiet[web().id()] = seconds(60);
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(fact("redirected", "proof"), "checks");
  EXPECT_FALSE(has("web-c1"));
}

TEST_F(ServicePlannerTest, R_B5_DrainingEndsAtItsTime) {
  settle();
  sessions["web-c1"] = 2;
  order("web-c1", "h3");
  for (int rounds = 0; rounds < 10; ++rounds) round();
  EXPECT_EQ(copy("web-c1").state, ServiceCopyState::draining);
  in_state = web().spec.policy.drain_ms;
  EXPECT_GE(settle(), 0);
  EXPECT_FALSE(has("web-c1"));
  EXPECT_EQ(fact("copy_retired", "sessions_cut"), "2");
}

TEST_F(ServicePlannerTest, A3_04_A3_05_ACopyThatNeverGetsHealthyLeavesTheOriginal) {
  settle();
  broken.insert("web-c3");
  order("web-c1", "");
  for (int rounds = 0; rounds < 10; ++rounds) round();
  ASSERT_TRUE(web().status.relocation);
  in_state = web().spec.policy.answer_ms;
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(count("relocation_failed"), 1);
  EXPECT_TRUE(has("web-c1"));
  EXPECT_EQ(copy("web-c1").state, ServiceCopyState::serving);
  EXPECT_FALSE(has("web-c3"));
  EXPECT_EQ(count("unavailable"), 0);
}

TEST_F(ServicePlannerTest, A3_02_ACopyThatCouldNotBeReplacedIsReleasedToTheCluster) {
  settle();
  const std::string host = vm("web-c1").status.host.value;
  broken.insert("web-c3");
  maintain(host, true);
  EXPECT_TRUE(view.replacer_of(vm("web-c1")) != nullptr);
  for (int rounds = 0; rounds < 10; ++rounds) round();
  in_state = web().spec.policy.answer_ms;
  EXPECT_GE(settle(), 0);
  EXPECT_TRUE(copy("web-c1").released);
  EXPECT_TRUE(view.replacer_of(vm("web-c1")) == nullptr) << "the cluster may move it alive";
  maintain(host, false);
  EXPECT_GE(settle(), 0);
  EXPECT_FALSE(copy("web-c1").released);
}

TEST_F(ServicePlannerTest, A3_08_A3_09_WhatMaintenanceMovedComesBack) {
  edit_web([](Service& service) { service.spec.policy.return_home = true; });
  settle();
  const HostId home = vm("web-c1").status.host;
  maintain(home.value, true);
  EXPECT_GE(settle(), 0);
  EXPECT_FALSE(has("web-c1"));
  EXPECT_EQ(copy("web-c3").home, home);
  maintain(home.value, false);
  EXPECT_GE(settle(), 0);
  EXPECT_FALSE(has("web-c3"));
  EXPECT_EQ(vm("web-c4").status.host, home);
  EXPECT_EQ(copy("web-c4").home, HostId());
  EXPECT_EQ(count("unavailable"), 0);
}

TEST_F(ServicePlannerTest, A3_07_ATemporaryOrderReturnsWhenItsTimeIsOver) {
  settle();
  const HostId home = vm("web-c1").status.host;
  order("web-c1", "", RelocationMode::duplicate, seconds(3600));
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(copy("web-c3").home, home);
  EXPECT_NE(vm("web-c3").status.host, home);
  in_state = seconds(3600);
  round();
  in_state = seconds(10);
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(vm("web-c4").status.host, home);
}

TEST_F(ServicePlannerTest, A3_07_A3_11_WhoWentAliveForATimeComesBackAlive) {
  settle();
  const HostId home = vm("web-c1").status.host;
  order("web-c1", "h3", RelocationMode::live_migration, seconds(3600));
  round();
  const auto arrives = [this](const HostId& at) {
    edit_vm("web-c1", [&](Vm& vm) {
      vm.spec.move_to = HostId();
      vm.status.host = at;
    });
  };
  arrives(HostId("h3"));
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(copy("web-c1").home, home);
  in_state = seconds(3600);
  round();
  ASSERT_TRUE(web().status.relocation) << "its policy says duplicate";
  EXPECT_EQ(web().status.relocation->mode, RelocationMode::live_migration);
  EXPECT_EQ(vm("web-c1").spec.move_to, home);
  in_state = seconds(10);
  arrives(home);
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(copy("web-c1").home, HostId());
  EXPECT_EQ(count("relocated"), 2);
  EXPECT_EQ(web().status.copies.size(), 2U) << "the same two";
}

TEST_F(ServicePlannerTest, A3_11_LiveMigrationMovesTheVmAndKeepsTheCopy) {
  settle();
  order("web-c1", "h3", RelocationMode::live_migration);
  round();
  ASSERT_TRUE(web().status.relocation);
  EXPECT_EQ(vm("web-c1").spec.move_to, HostId("h3"));
  edit_vm("web-c1", [](Vm& vm) {
    vm.spec.move_to = HostId();
    vm.status.host = HostId("h3");
  });
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(count("relocated"), 1);
  EXPECT_EQ(web().status.copies.size(), 2U);
}

TEST_F(ServicePlannerTest, A3_11_AMoveThatFailedIsTold) {
  settle();
  order("web-c1", "h3", RelocationMode::live_migration);
  round();
  edit_vm("web-c1", [](Vm& vm) { vm.spec.move_to = HostId(); });
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(count("relocation_failed"), 1);
}

TEST_F(ServicePlannerTest, A3_23_DirectIoIsRefusedWithTheReason) {
  settle();
  edit_vm("web-c1", [](Vm& vm) { vm.spec.direct_io = true; });
  order("web-c1", "h3");
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(count("relocation_started"), 0);
  EXPECT_NE(last("relocation_refused").text.find("locked to that host"), std::string::npos);
  maintain(vm("web-c1").status.host.value, true);
  EXPECT_GE(settle(), 0);
  EXPECT_TRUE(copy("web-c1").released) << "the cluster says why it cannot move it either";
}

TEST_F(ServicePlannerTest, A3_05_NoCopyGoesWhileOthersAreNotHealthy) {
  settle();
  order("web-c1", "h3");
  broken.insert("web-c2");
  for (int rounds = 0; rounds < 20; ++rounds) round();
  EXPECT_EQ(copy("web-c1").state, ServiceCopyState::serving);
  broken.clear();
  EXPECT_GE(settle(), 0);
  EXPECT_FALSE(has("web-c1"));
}

TEST_F(ServicePlannerTest, A3_05_AnOriginalThatDrainsIsTakenBackWhenItIsNeeded) {
  settle();
  sessions["web-c1"] = 1;
  order("web-c1", "h3");
  for (int rounds = 0; rounds < 10; ++rounds) round();
  ASSERT_EQ(copy("web-c1").state, ServiceCopyState::draining);
  broken.insert("web-c3");
  for (int rounds = 0; rounds < 3; ++rounds) round();
  EXPECT_EQ(copy("web-c1").state, ServiceCopyState::serving);
  EXPECT_EQ(count("unavailable"), 0);
}

TEST_F(ServicePlannerTest, A3_22_R_B9_IsAskedFromAnotherHostThanItsBalancers) {
  promise();
  EXPECT_GE(settle(), 0);
  const HostId first = web().status.monitor;
  ASSERT_FALSE(first.empty());
  EXPECT_NE(first, web().status.balancer);
  maintain(first.value, true);
  EXPECT_GE(settle(), 0);
  const HostId second = web().status.monitor;
  EXPECT_NE(second, first);
  EXPECT_NE(second, web().status.balancer);
  evidence.hosts[second].reports = false;
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(web().status.monitor, second) << "silence alone moves it not";
  edit_host(second.value, [](Host& host) { host.status.health = HostHealth::dead; });
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(web().status.monitor, web().status.balancer) << "no other host is left";
  edit_web([](Service& service) { service.spec.objective.availability_ppm = 0; });
  EXPECT_GE(settle(), 0);
  EXPECT_TRUE(web().status.monitor.empty());
}

TEST_F(ServicePlannerTest, A3_22_R_B9_AMonitorThatAsksNobodyGivesWayToAnotherIfThereIsOne) {
  promise();
  EXPECT_GE(settle(), 0);
  const HostId first = web().status.monitor;
  evidence.mute.insert(web().id());
  round();
  const HostId second = web().status.monitor;
  EXPECT_NE(second, first);
  EXPECT_FALSE(second.empty());
  evidence.mute.clear();
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(web().status.monitor, second) << "it stays";
  for (auto& [id, host] : evidence.hosts) host.can_probe = id == second;
  evidence.mute.insert(web().id());
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(web().status.monitor, second) << "nobody else could";
}

TEST_F(ServicePlannerTest, A3_22_R_B9_AgentsThatCannotAskAreNotChosen) {
  promise();
  for (auto& [id, host] : evidence.hosts) host.can_probe = false;
  EXPECT_GE(settle(), 0);
  EXPECT_TRUE(web().status.monitor.empty());
  EXPECT_TRUE(web().status.available);
}

TEST_F(ServicePlannerTest, R_B6_ACopyHasTheShareThatWasAskedForAndSoHasItsReplacement) {
  settle();
  const auto weight_of = [&](const std::string& name) {
    const BalancerSpec spec = balancer_of(view, web());
    for (const BalancerServer& server : spec.pools[0].servers)
      if (server.name == name) return server.weight;
    return 0;
  };
  EXPECT_EQ(weight_of("web-c1"), 100);
  edit_web([](Service& service) { service.spec.weigh = WeightOrder{"web-c1", 25}; });
  EXPECT_GT(settle(), 0);
  EXPECT_FALSE(web().spec.weigh.has_value());
  EXPECT_EQ(weight_of("web-c1"), 25);
  EXPECT_EQ(count("weighed"), 1);
  order("web-c1", "h3");
  EXPECT_GT(settle(), 0);
  EXPECT_EQ(weight_of("web-c1"), 0) << "it is gone";
  EXPECT_EQ(weight_of("web-c3"), 25);
  edit_web([](Service& service) { service.spec.weigh = WeightOrder{"web-c1", 50}; });
  EXPECT_GE(settle(), 0);
  EXPECT_FALSE(web().spec.weigh.has_value()) << "an order about one that is gone comes to nothing";
}

TEST_F(ServicePlannerTest, R_B6_R_B9_TlsEndsAtTheBalancerAndIsAskedByWhoKnowsIt) {
  edit_web([](Service& service) {
    service.spec.frontend.tls = true;
    service.spec.frontend.certificate = "PEM";
  });
  EXPECT_EQ(balancer_of(view, web()).frontends[0].certificate, "PEM");
  promise();
  for (auto& [id, host] : evidence.hosts) host.can_probe_tls = false;
  EXPECT_GE(settle(), 0);
  EXPECT_TRUE(web().status.monitor.empty());
  edit_web([](Service& service) { service.spec.frontend.tls = false; });
  EXPECT_EQ(balancer_of(view, web()).frontends[0].certificate, "");
  EXPECT_GE(settle(), 0);
  EXPECT_FALSE(web().status.monitor.empty());
}

TEST_F(ServicePlannerTest, A3_21_R_B9_TheOriginalStaysUntilConsumersHaveAnswers) {
  settle();
  order("web-c1", "h3");
  while (copy("web-c1").state == ServiceCopyState::serving) round();
  ASSERT_EQ(copy("web-c1").state, ServiceCopyState::draining);
  in_state = milliseconds(500);
  evidence.failing[web().id()] = milliseconds(400);
  for (int rounds = 0; rounds < 5; ++rounds) round();
  EXPECT_EQ(copy("web-c1").state, ServiceCopyState::draining) << "it is drained, and needed still";
  evidence.failing.clear();
  EXPECT_GE(settle(), 0);
  EXPECT_FALSE(has("web-c1"));
  EXPECT_EQ(count("relocated"), 1);
}

TEST_F(ServicePlannerTest, A3_21_R_B9_ARedirectionAfterWhichConsumersHaveNoAnswerIsTakenBack) {
  settle();
  order("web-c1", "h3");
  while (copy("web-c1").state == ServiceCopyState::serving) round();
  in_state = seconds(3);
  evidence.failing[web().id()] = seconds(3);
  round();
  EXPECT_EQ(copy("web-c1").state, ServiceCopyState::serving);
  EXPECT_EQ(count("relocation_failed"), 1);
  evidence.failing.clear();
  EXPECT_GE(settle(), 0);
  EXPECT_TRUE(has("web-c1"));
  EXPECT_FALSE(has("web-c3")) << "what replaced it is of no use";
  EXPECT_EQ(count("relocated"), 0);
}

TEST_F(ServicePlannerTest, A3_21_R_B9_WhatFailedBeforeTheRedirectionIsNotItsFault) {
  settle();
  order("web-c1", "h3");
  evidence.failing[web().id()] = seconds(600);
  while (copy("web-c1").state == ServiceCopyState::serving) round();
  in_state = seconds(3);
  evidence.failing[web().id()] = seconds(603);
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(count("relocated"), 1);
  EXPECT_EQ(count("relocation_failed"), 0);
}

TEST_F(ServicePlannerTest, A3_21_R_B9_WhatCanWaitWaitsWhileThePromiseIsBroken) {
  settle();
  edit_web([](Service& service) { service.spec.policy.return_home = true; });
  const std::string original = copy_on("h1").empty() ? copy_on("h2") : copy_on("h1");
  const HostId home = vm(original).status.host;
  maintain(home.value, true);
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(count("relocated"), 1) << "maintenance does not wait";
  evidence.spent.insert(web().id());
  maintain(home.value, false);
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(count("relocated"), 1);
  EXPECT_NE(web().status.reason.find("level"), std::string::npos) << web().status.reason;
  evidence.spent.clear();
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(count("relocated"), 2);
}

TEST_F(ServicePlannerTest, R_B5_ADeadHostsBalancerBeginsElsewhere) {
  settle();
  const HostId before = web().status.balancer;
  evidence.hosts[before].reports = false;
  edit_host(before.value, [](Host& host) { host.status.health = HostHealth::dead; });
  round();
  EXPECT_NE(web().status.balancer, before);
  EXPECT_EQ(count("unavailable"), 1);
  for (int rounds = 0; rounds < 5; ++rounds) round();
  EXPECT_TRUE(balancers.contains({web().id(), web().status.balancer}));
  EXPECT_EQ(count("available"), 2);
  evidence.hosts[before].reports = true;
  round();
  EXPECT_FALSE(balancers.contains({web().id(), before})) << "it ends when its host is back";
}

TEST_F(ServicePlannerTest, A3_05_APlannedMoveOfTheBalancerRunsAtBothEndsFirst) {
  settle();
  const HostId before = web().status.balancer;
  maintain(before.value, true);
  bool both = false;
  for (int rounds = 0; rounds < 20; ++rounds) {
    round();
    both = both || balancers.size() == 2;
    ASSERT_TRUE(web().status.available) << web().status.reason;
    ASSERT_TRUE(balancers.contains({web().id(), web().status.balancer}));
  }
  EXPECT_TRUE(both);
  EXPECT_NE(web().status.balancer, before);
  EXPECT_EQ(balancers.size(), 1U);
}

TEST_F(ServicePlannerTest, R_B5_ScalesUpAndDown) {
  settle();
  edit_web([](Service& service) { service.spec.replicas = 4; });
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(web().status.copies.size(), 4U);
  broken.insert("web-c2");
  edit_web([](Service& service) { service.spec.replicas = 3; });
  EXPECT_GE(settle(), 0);
  EXPECT_FALSE(has("web-c2")) << "who is of no use goes first";
  edit_web([](Service& service) { service.spec.replicas = 1; });
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(web().status.copies.size(), 1U);
  EXPECT_EQ(count("unavailable"), 0);
}

TEST_F(ServicePlannerTest, R_B5_ALostCopyIsTheClustersToRestart) {
  settle();
  edit_vm("web-c1", [](Vm& vm) {
    vm.status.power = VmPower::stopped;
    vm.status.host = HostId();
  });
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(copy("web-c1").state, ServiceCopyState::serving);
  EXPECT_TRUE(web().status.available);
}

TEST_F(ServicePlannerTest, R_B5_DeletesCopiesAndBalancerThenItself) {
  settle();
  keeps_deleted = true;
  edit_web([](Service& service) { service.meta.deleting_at = WallTime{1}; });
  for (int rounds = 0; rounds < 5; ++rounds) round();
  ASSERT_NE(view.services.find(ServiceId("acme/web")), nullptr) << "its VMs are there still";
  EXPECT_TRUE(balancers.empty());
  view.vms.erase(VmId("acme/web-c1"));
  view.vms.erase(VmId("acme/web-c2"));
  round();
  EXPECT_EQ(view.services.find(ServiceId("acme/web")), nullptr);
}

TEST_F(ServicePlannerTest, R_B5_TellsWhyThereIsNoRoom) {
  for (const char* name : {"h1", "h2", "h3"}) {
    edit_host(name, [](Host& host) { host.status.capacity.memory_mib = Mib{1}; });
  }
  EXPECT_GE(settle(), 0);
  EXPECT_EQ(web().status.copies.size(), 0U);
  EXPECT_FALSE(web().status.available);
  EXPECT_NE(web().status.reason.find("h1"), std::string::npos) << web().status.reason;
}

TEST_F(ServicePlannerTest, R_B5_ARestoredStateIsNotActedOn) {
  settle();
  evidence.held = true;
  edit_web([](Service& service) { service.spec.replicas = 1; });
  EXPECT_TRUE(round().empty());
}

}  // namespace
}  // namespace virga
