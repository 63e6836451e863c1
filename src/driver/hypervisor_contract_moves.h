#pragma once

#include "driver/hypervisor_contract.h"

/// The part of the contract suite about live moves; included by hypervisor_contract_tests.h.
namespace virga {

TEST_P(HypervisorContract, F_B9_LiveMigrationMovesTheGuest) {
  const VmLaunch web = lab->launch("web", 1);
  const VmLaunch moved = lab->launch("web", 2);
  VIRGA_OK(start(0, web));
  const auto to = prepare(1, moved);
  VIRGA_OK(to);
  EXPECT_TRUE(seen(1, web.vm)->incoming);
  EXPECT_FALSE(runs(1, web.vm));
  VIRGA_OK(send(0, web, *to));
  const auto first = switch_over(0, web);
  VIRGA_OK(first);
  EXPECT_TRUE(first->handed_over);
  EXPECT_GT(first->downtime_ms, Duration::zero());
  EXPECT_GT(first->transferred_bytes.value, 0);
  const auto second = switch_over(0, web);
  VIRGA_OK(second);
  EXPECT_FALSE(second->handed_over) << "somebody may have let the other copy run since the first";
  EXPECT_TRUE(seen(0, web.vm)->postmigrate);
  EXPECT_FALSE(runs(0, web.vm));
  EXPECT_FALSE(runs(1, web.vm));
  VIRGA_OK(resume(1, moved));
  VIRGA_OK(resume(1, moved));
  EXPECT_TRUE(runs(1, web.vm));
  EXPECT_FALSE(seen(1, web.vm)->incoming);
  EXPECT_TRUE(soon([&] { return seen(1, web.vm)->isolation_checked; }))
      << "that it is kept apart is not assumed after a move";
  EXPECT_EQ(seen(1, web.vm)->isolation_breach, "");
  EXPECT_FALSE(seen(0, web.vm)->isolation_checked);
  VIRGA_OK(stop(0, web));
  EXPECT_TRUE(runs(1, web.vm));
}

TEST_P(HypervisorContract, R_B3_A3_16_AGuestThatIsNotKeptApartAfterAMoveIsToldOfUntilItIs) {
  VmLaunch web = lab->launch("web", 1), moved = lab->launch("web", 2);
  web.nics = moved.nics = {{"acme/web-0", "acme/net", 1001, "52:54:00:00:00:01", "10.50.0.10/24"}};
  VIRGA_OK(start(0, web));
  const auto to = prepare(1, moved);
  VIRGA_OK(to);
  VIRGA_OK(send(0, web, *to));
  VIRGA_OK(switch_over(0, web));
  const std::string why = "port acme/web-0: it is on another bridge";
  lab->fabric(1).isolation = make_error(Errc::conflict, why);
  VIRGA_OK(resume(1, moved));
  const auto told = [&](const std::string& breach) {
    return lab->run_until(
        [&] {
          const auto last = lab->told(1, web.vm);
          return last && last->isolation_checked && last->isolation_breach == breach;
        },
        seconds(40));
  };
  EXPECT_TRUE(told(why));
  lab->fabric(1).isolation = {};
  EXPECT_TRUE(told(""));
}

TEST_P(HypervisorContract, F_B9_CancelledSendLeavesTheGuestAtItsSource) {
  const VmLaunch web = lab->launch("web", 1);
  const VmLaunch moved = lab->launch("web", 2);
  VIRGA_OK(start(0, web));
  const auto to = prepare(1, moved);
  VIRGA_OK(to);
  VIRGA_OK(send(0, web, *to));
  VIRGA_OK(cancel(0, web));
  VIRGA_OK(cancel(0, web));
  EXPECT_TRUE(soon([&] { return runs(0, web.vm); }));
  VIRGA_OK(stop(1, moved));
  EXPECT_FALSE(seen(1, web.vm).has_value());
  const VmLaunch again = lab->launch("web", 3);
  const auto second = prepare(1, again);
  VIRGA_OK(second);
  VIRGA_OK(send(0, web, *second));
  VIRGA_OK(switch_over(0, web));
  VIRGA_OK(resume(1, again));
  EXPECT_TRUE(runs(1, web.vm));
}

TEST_P(HypervisorContract, F_B9_GuestGoesBackWhenTheDestinationNeverRan) {
  const VmLaunch web = lab->launch("web", 1);
  const VmLaunch moved = lab->launch("web", 2);
  VIRGA_OK(start(0, web));
  const auto to = prepare(1, moved);
  VIRGA_OK(to);
  VIRGA_OK(send(0, web, *to));
  VIRGA_OK(switch_over(0, web));
  VIRGA_OK(stop(1, moved));
  VIRGA_OK(cancel(0, web));
  EXPECT_TRUE(runs(0, web.vm));
  EXPECT_FALSE(seen(0, web.vm)->postmigrate);
}

TEST_P(HypervisorContract, F_F2_F_F6_AgentThatRestartsBeforeTheSwitchGivesTheMoveUp) {
  const VmLaunch web = lab->launch("web", 1);
  const VmLaunch moved = lab->launch("web", 2);
  VIRGA_OK(start(0, web));
  const auto to = prepare(1, moved);
  VIRGA_OK(to);
  VIRGA_OK(send(0, web, *to));
  lab->restart_agent(0);
  const auto over = switch_over(0, web);
  EXPECT_FALSE(over.ok()) << "its guest may run here";
  VIRGA_OK(stop(1, moved));
  VIRGA_OK(cancel(0, web));
  EXPECT_TRUE(runs(0, web.vm));
  EXPECT_FALSE(seen(0, web.vm)->postmigrate);
}

/// Whatever moment the agent dies at: the guest is at one end, both ends agree on which, and the
/// steps of a server that asks again lead there.
TEST_P(HypervisorContract, F_F2_F_F6_AgentThatRestartsInTheSwitchKeepsTheGuestInOnePlace) {
  const VmLaunch web = lab->launch("web", 1);
  VIRGA_OK(start(0, web));
  bool here = true;
  for (std::uint64_t round = 0; round < 4 && here; ++round) {
    const VmLaunch moved = lab->launch("web", 2 + round);
    const auto to = prepare(1, moved);
    VIRGA_OK(to);
    VIRGA_OK(send(0, web, *to));
    lab->host(0).switch_over(web.vm, web.epoch, [](Result<MigrationProgress>) {});
    lab->run_until([] { return false; }, milliseconds(round * 12));
    lab->restart_agent(0);
    Result<MigrationProgress> over = switch_over(0, web);
    EXPECT_TRUE(soon([&] {
      if (!over && over.error().code == Errc::unavailable) over = switch_over(0, web);
      return over.ok() || over.error().code != Errc::unavailable;
    }));
    here = !over.ok();
    if (here) {
      VIRGA_OK(stop(1, moved));
      VIRGA_OK(cancel(0, web));
      EXPECT_TRUE(runs(0, web.vm));
    } else {
      EXPECT_FALSE(over->handed_over) << "an earlier agent handed over";
      EXPECT_FALSE(runs(0, web.vm));
      EXPECT_TRUE(seen(0, web.vm)->postmigrate);
      VIRGA_OK(resume(1, moved));
      EXPECT_TRUE(runs(1, web.vm));
    }
  }
}

TEST_P(HypervisorContract, F_F6_DestinationThatDiesBeforeTheSwitchLeavesTheGuestRunning) {
  const VmLaunch web = lab->launch("web", 1);
  const VmLaunch moved = lab->launch("web", 2);
  VIRGA_OK(start(0, web));
  const auto to = prepare(1, moved);
  VIRGA_OK(to);
  VIRGA_OK(send(0, web, *to));
  lab->kill_vm(1, web.vm);
  EXPECT_FALSE(switch_over(0, web).ok());
  VIRGA_OK(cancel(0, web));
  EXPECT_TRUE(soon([&] { return runs(0, web.vm); }));
  EXPECT_FALSE(seen(0, web.vm)->postmigrate);
}

TEST_P(HypervisorContract, F_F19_DestinationThatHangsIsCutOffAndTheGuestRunsOn) {
  const VmLaunch web = lab->launch("web", 1);
  const VmLaunch moved = lab->launch("web", 2);
  VIRGA_OK(start(0, web));
  const auto to = prepare(1, moved);
  VIRGA_OK(to);
  VIRGA_OK(send(0, web, *to));
  lab->hang_vm(1, web.vm);
  EXPECT_FALSE(switch_over(0, web).ok());
  VIRGA_OK(cancel(0, web));
  EXPECT_TRUE(soon([&] { return runs(0, web.vm); }));
  VIRGA_OK(stop(1, moved));
}

TEST_P(HypervisorContract, F_B9_SendToNobodyFailsAndTheGuestRunsOn) {
  const VmLaunch web = lab->launch("web", 1);
  const VmLaunch moved = lab->launch("web", 2);
  VIRGA_OK(start(0, web));
  auto to = prepare(1, moved);
  VIRGA_OK(to);
  MigrationEndpoint wrong = *to;
  wrong.secret = "guessed";
  EXPECT_FALSE(send(0, web, wrong).ok());
  EXPECT_TRUE(runs(0, web.vm));
  VIRGA_OK(send(0, web, *to));
  VIRGA_OK(cancel(0, web));
}

}  // namespace virga
