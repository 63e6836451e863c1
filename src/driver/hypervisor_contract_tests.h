#pragma once

#include "driver/hypervisor_contract.h"
#include "driver/hypervisor_contract_moves.h"

namespace virga {

TEST_P(HypervisorContract, F_B4_StartRunsTheGuestAndStopLeavesNothing) {
  const VmLaunch web = lab->launch("web", 1);
  VIRGA_OK(start(0, web));
  EXPECT_TRUE(runs(0, web.vm));
  EXPECT_EQ(seen(0, web.vm)->epoch, web.epoch);
  VIRGA_OK(stop(0, web));
  EXPECT_FALSE(seen(0, web.vm).has_value());
  EXPECT_TRUE(soon([&] { return lab->leftovers(0, web.vm).empty(); }));
}

TEST_P(HypervisorContract, F_B4_LimitsOfARunningGuestChangeAndOutliveTheAgent) {
  VmLaunch web = lab->launch("web", 1);
  VIRGA_FAILS(lab->host(0).change_limits(web), Errc::not_found);
  VIRGA_OK(start(0, web));
  web.cpu_millicores = Millicores{300};
  web.cpu_weight = 250;
  web.processes_max = 300;
  VIRGA_OK(lab->host(0).change_limits(web));
  lab->restart_agent(0);
  EXPECT_EQ(seen(0, web.vm)->cpu_millicores_max, Millicores{300});
  EXPECT_EQ(seen(0, web.vm)->cpu_weight, 250);
  EXPECT_EQ(seen(0, web.vm)->processes_max, 300);
  web.epoch.counter -= 1;
  VIRGA_FAILS(lab->host(0).change_limits(web), Errc::fenced);
  web.epoch.counter += 1;
  VIRGA_OK(stop(0, web));
}

TEST_P(HypervisorContract, F_B4_StartIsIdempotentByEpoch) {
  const VmLaunch web = lab->launch("web", 1);
  int completed = 0;
  for (int time = 0; time < 2; ++time) {
    lab->host(0).start(web, [&](Result<void> started) { completed += started.ok() ? 1 : 0; });
  }
  EXPECT_TRUE(lab->run_until([&] { return completed == 2; }, seconds(40)));
  VIRGA_OK(start(0, web));
  EXPECT_EQ(lab->host(0).observe().size(), 1U);
  VIRGA_OK(stop(0, web));
  VIRGA_OK(stop(0, web));
}

TEST_P(HypervisorContract, F_B4_OlderEpochsAreFenced) {
  const VmLaunch old = lab->launch("web", 4);
  const VmLaunch web = lab->launch("web", 5);
  VIRGA_OK(start(0, web));
  VIRGA_FAILS(start(0, old), Errc::fenced);
  VIRGA_FAILS(stop(0, old), Errc::fenced);
  VIRGA_FAILS(prepare(0, old), Errc::fenced);
  EXPECT_TRUE(runs(0, web.vm));
  VIRGA_OK(stop(0, web));
  VIRGA_FAILS(start(0, old), Errc::fenced);
  lab->restart_agent(0);
  VIRGA_FAILS(start(0, old), Errc::fenced);
  EXPECT_FALSE(seen(0, web.vm).has_value());
}

TEST_P(HypervisorContract, F_B4_NewerEpochDoesNotStartBesideARunningCopy) {
  const VmLaunch web = lab->launch("web", 1);
  VIRGA_OK(start(0, web));
  VIRGA_FAILS(start(0, lab->launch("web", 2)), Errc::conflict);
  EXPECT_EQ(seen(0, web.vm)->epoch, web.epoch);
  VIRGA_OK(stop(0, lab->launch("web", 2)));
  VIRGA_OK(start(0, lab->launch("web", 3)));
}

TEST_P(HypervisorContract, F_B4_SecondWriterOfADiskIsRefused) {
  const VmLaunch web = lab->launch("web", 1);
  VIRGA_OK(start(0, web));
  VIRGA_FAILS(start(1, lab->launch("web", 2)), Errc::conflict);
  EXPECT_TRUE(runs(0, web.vm));
  EXPECT_FALSE(seen(1, web.vm).has_value());
}

TEST_P(HypervisorContract, F_B4_GuestThatIgnoresPowerOffIsEndedAtTheDeadline) {
  const VmLaunch web = lab->launch("web", 1);
  VIRGA_OK(start(0, web));
  VIRGA_OK(stop(0, web, {false, seconds(3)}));
  EXPECT_FALSE(seen(0, web.vm).has_value());
}

TEST_P(HypervisorContract, F_F4_KilledProcessIsReportedAsStopped) {
  const VmLaunch web = lab->launch("web", 1);
  VIRGA_OK(start(0, web));
  lab->kill_vm(0, web.vm);
  EXPECT_TRUE(soon([&] {
    const auto told = lab->told(0, web.vm);
    return told && told->power == VmPower::stopped;
  }));
  EXPECT_FALSE(seen(0, web.vm).has_value());
  EXPECT_TRUE(soon([&] { return lab->leftovers(0, web.vm).empty(); }));
  VIRGA_OK(start(0, lab->launch("web", 2)));
}

TEST_P(HypervisorContract, F_F2_RestartedAgentAdoptsWhatRuns) {
  const VmLaunch web = lab->launch("web", 1);
  const VmLaunch db = lab->launch("db", 1);
  VIRGA_OK(start(0, web));
  VIRGA_OK(start(0, db));
  lab->restart_agent(0);
  EXPECT_TRUE(runs(0, web.vm));
  EXPECT_TRUE(runs(0, db.vm));
  EXPECT_EQ(seen(0, web.vm)->epoch, web.epoch);
  VIRGA_OK(start(0, web));
  lab->kill_vm(0, db.vm);
  EXPECT_TRUE(soon([&] { return !seen(0, db.vm).has_value(); }));
  VIRGA_OK(stop(0, web));
  EXPECT_TRUE(soon([&] { return lab->leftovers(0, web.vm).empty(); }));
}

TEST_P(HypervisorContract, F_B4_EraseRemovesOnlyWhatRunsNowhere) {
  const VmLaunch web = lab->launch("web", 1);
  VIRGA_OK(start(0, web));
  const auto erase = [&] {
    return wait<void>([&](Callback<void> done) { lab->host(0).erase(web, std::move(done)); });
  };
  EXPECT_FALSE(erase().ok());
  EXPECT_TRUE(runs(0, web.vm));
  VIRGA_OK(stop(0, web));
  VIRGA_OK(erase());
  VIRGA_OK(erase());
  EXPECT_TRUE(soon([&] { return lab->leftovers(0, web.vm).empty(); }));
}

TEST_P(HypervisorContract, F_B4_CallsForAVmThatIsNotHereEnd) {
  const VmLaunch web = lab->launch("web", 1);
  VIRGA_OK(stop(0, web));
  VIRGA_OK(cancel(0, web));
  VIRGA_FAILS(resume(0, web), Errc::not_found);
  VIRGA_FAILS(send(0, web, {"127.0.0.1", 9, "x"}), Errc::not_found);
  VIRGA_FAILS(switch_over(0, web), Errc::not_found);
  EXPECT_EQ(lab->host(0).progress(web.vm).passes, 0);
}

}  // namespace virga
