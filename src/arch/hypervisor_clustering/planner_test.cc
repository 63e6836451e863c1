#include "arch/hypervisor_clustering/planner.h"

#include <gtest/gtest.h>

#include "arch/hypervisor_clustering/test_cluster.h"

namespace virga {
namespace {

class Planning : public ::testing::Test, protected test::TestCluster {
 protected:
  void three_hosts() {
    for (const char* name : {"a", "b", "c"}) add_host(name);
  }

  /// The one change of a host's condition in the plan.
  HostChange only_change(const ClusterPlan& made) {
    EXPECT_EQ(made.host_changes.size(), 1U);
    return made.host_changes.empty() ? HostChange() : made.host_changes.front();
  }

  static bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }
};

TEST_F(Planning, A1_F5_F_B8_one_vm_that_is_pinned_does_not_stop_all_new_ones) {
  policy([](ClusterPolicy& changed) { changed.failures_tolerated = 1; });
  three_hosts();
  edit_vm(add_vm("web", "a"), [](Vm& vm) { vm.spec.pinned_host = HostId("a"); });
  add_vm("db");
  EXPECT_EQ(plan().starts.size(), 1U);
}

// What is believed of hosts.

TEST_F(Planning, A1_01_A1_04_a_cluster_that_is_well_needs_nothing) {
  three_hosts();
  add_vm("web", "a");
  EXPECT_TRUE(plan().empty());
}

TEST_F(Planning, A1_04_A1_08_short_silence_makes_a_host_suspect_and_nothing_more) {
  three_hosts();
  add_bmc("a");
  add_vm("web", "a");
  silence("a", milliseconds(2100), 2, 2);
  const ClusterPlan made = plan();
  EXPECT_EQ(only_change(made).health, HostHealth::suspect);
  EXPECT_TRUE(made.fences.empty());
  EXPECT_TRUE(made.starts.empty());
}

TEST_F(Planning, A1_02_A1_F4_silence_confirmed_by_every_probing_peer_makes_a_host_dead) {
  three_hosts();
  silence("a", milliseconds(2600), 2, 2);
  EXPECT_EQ(only_change(plan()).health, HostHealth::dead);
}

TEST_F(Planning, A1_02_F_B7_a_host_that_one_peer_hears_stays_suspect_for_its_servers_link) {
  three_hosts();
  add_bmc("a");
  silence("a", seconds(6), 2, 1);
  const ClusterPlan made = plan();
  EXPECT_EQ(only_change(made).health, HostHealth::suspect);
  EXPECT_TRUE(contains(only_change(made).reason, "1 of 2 peers hear it"));
  EXPECT_TRUE(made.fences.empty());
}

TEST_F(Planning, F_B7_without_peers_a_silent_host_waits_for_its_lease) {
  three_hosts();
  edit_host("a", [](Host& host) { host.status.leash_armed = false; });
  silence("a", seconds(6), 0, 0);
  EXPECT_EQ(only_change(plan()).health, HostHealth::suspect);
  EXPECT_TRUE(contains(only_change(plan()).reason, "waits for its lease"));
  seen("a").lease_over = true;
  EXPECT_EQ(only_change(plan()).health, HostHealth::dead);
}

TEST_F(Planning, F_B7_F_F16_when_most_hosts_are_silent_silence_is_no_evidence) {
  three_hosts();
  for (const char* name : {"a", "b"}) {
    add_bmc(name);
    silence(name, seconds(6), 1, 1);
  }
  const ClusterPlan made = plan();
  ASSERT_EQ(made.host_changes.size(), 2U);
  for (const HostChange& change : made.host_changes) {
    EXPECT_EQ(change.health, HostHealth::suspect);
    EXPECT_TRUE(contains(change.reason,
                         "nothing of it is started elsewhere until its management "
                         "controller says that it is off"));
  }
  for (const FenceHost& fence : made.fences) EXPECT_TRUE(fence.ask_only);
}

TEST_F(Planning, F_B7_who_waits_for_a_proof_says_for_which) {
  three_hosts();
  add_bmc("a");
  silence("a", seconds(6), 2, 2);
  edit_host("a", [](Host& host) { host.status.leash_armed = true; });
  EXPECT_EQ(only_change(plan()).reason,
            "silent to the server and to all 2 peers that probe it; its VMs start elsewhere when "
            "its management controller says that it is off, its lease ends, as its leash is armed, "
            "it reports as another boot or `virga host confirm-off a`");
  edit_host("a", [](Host& host) {
    host.spec.machine = MachineId();
    host.status.leash_armed = false;
  });
  EXPECT_EQ(only_change(plan()).reason,
            "silent to the server and to all 2 peers that probe it; its VMs start elsewhere when "
            "it reports as another boot or `virga host confirm-off a`");
}

TEST_F(Planning, F_B7_F_F1_a_new_leader_awaits_most_of_its_hosts_for_half_a_lease) {
  three_hosts();
  for (const char* name : {"a", "b"}) {
    silence(name, milliseconds(4999), 0, 0);
    seen(name).reported = false;
  }
  EXPECT_TRUE(plan().host_changes.empty());
  for (const char* name : {"a", "b"}) seen(name).silence = seconds(5);
  EXPECT_EQ(plan().host_changes.size(), 2U);
  // One alone that is missing is suspected as ever.
  seen("a").silence = Duration(0);
  seen("a").reported = true;
  seen("b").silence = seconds(2);
  EXPECT_EQ(only_change(plan()).health, HostHealth::suspect);
}

TEST_F(Planning, F_B7_one_silent_host_of_two_is_not_most) {
  add_host("a");
  add_host("b");
  silence("a", seconds(3), 1, 1);
  EXPECT_EQ(only_change(plan()).health, HostHealth::dead);
}

TEST_F(Planning, F_B7_a_slow_observer_suspects_itself_first) {
  three_hosts();
  silence("a", seconds(6), 2, 2);
  evidence.observer_lag = milliseconds(501);
  EXPECT_TRUE(plan().empty());
  evidence.observer_lag = milliseconds(500);
  EXPECT_EQ(only_change(plan()).health, HostHealth::dead);
}

TEST_F(Planning, F_B7_a_slow_observer_still_takes_a_proof) {
  three_hosts();
  silence("a", seconds(15), 2, 2);
  seen("a").lease_over = true;
  evidence.observer_lag = seconds(5);
  EXPECT_EQ(only_change(plan()).proof, FenceProof::lease_and_leash);
}

TEST_F(Planning, F_B6_F_B8_an_ended_lease_is_a_proof_only_with_an_armed_leash) {
  three_hosts();
  silence("a", seconds(15), 2, 2);
  seen("a").lease_over = true;
  EXPECT_EQ(only_change(plan()).health, HostHealth::fenced);
  EXPECT_EQ(only_change(plan()).proof, FenceProof::lease_and_leash);
  edit_host("a", [](Host& host) { host.status.leash_armed = false; });
  EXPECT_EQ(only_change(plan()).health, HostHealth::dead);
}

TEST_F(Planning, F_F17_the_leash_is_a_proof_for_each_host_when_all_are_silent) {
  three_hosts();
  for (const char* name : {"a", "b", "c"}) {
    silence(name, seconds(15), 0, 0);
    seen(name).lease_over = true;
  }
  const ClusterPlan made = plan();
  ASSERT_EQ(made.host_changes.size(), 3U);
  for (const HostChange& change : made.host_changes) {
    EXPECT_EQ(change.proof, FenceProof::lease_and_leash);
  }
}

TEST_F(Planning, F_B7_a_host_that_never_reported_to_this_server_is_not_judged) {
  three_hosts();
  edit_host("a", [](Host& host) {
    host.status.health = HostHealth::unknown;
    host.status.health_reason.clear();
    host.status.leash_armed = false;
  });
  silence("a", seconds(60), 0, 0);
  seen("a").reported = false;
  EXPECT_TRUE(plan().empty());
}

TEST_F(Planning, F_F15_a_fenced_host_that_comes_back_is_alive_again) {
  three_hosts();
  fence("a", FenceProof::bmc_power_off);
  seen("a").silence = Duration{0};
  EXPECT_EQ(only_change(plan()).reason, "reports again");
  seen("a").boot_id = "boot-2";
  const HostChange back = only_change(plan());
  EXPECT_EQ(back.health, HostHealth::alive);
  EXPECT_EQ(back.proof, FenceProof::none);
  EXPECT_EQ(back.reason, "came back as another boot");
}

// Fencing.

TEST_F(Planning, F_B8_a_dead_host_with_a_bmc_is_switched_off) {
  three_hosts();
  add_bmc("a");
  silence("a", seconds(3), 2, 2);
  const ClusterPlan made = plan();
  ASSERT_EQ(made.fences.size(), 1U);
  EXPECT_EQ(made.fences[0].host, HostId("a"));
  EXPECT_EQ(made.fences[0].boot_id, "boot-a");
  EXPECT_FALSE(made.fences[0].ask_only);
  EXPECT_TRUE(made.starts.empty());
}

TEST_F(Planning, F_B8_a_host_that_was_let_go_may_be_off_and_counts_for_nothing) {
  three_hosts();
  add_bmc("a");
  silence("a", seconds(3), 2, 2);
  edit_host("a", [](Host& host) { host.spec.maintenance = true; });
  EXPECT_TRUE(plan().fences.empty());
  const VmId web = add_vm("web", "a");
  EXPECT_EQ(plan().fences.size(), 1U) << "it was not emptied yet";
  edit_vm(web, [](Vm& vm) { vm.status.host = HostId("b"); });
  EXPECT_EQ(plan().fences.size(), 1U) << "something ran there when it was last heard";
  seen("a").vms.clear();
  silence("b", seconds(3), 1, 1);
  for (const HostChange& change : plan().host_changes) {
    EXPECT_EQ(change.health, HostHealth::dead) << change.host.value << " " << change.reason;
  }
}

TEST_F(Planning, F_B8_nothing_is_switched_off_without_bmc_or_while_one_try_runs_or_was_just_made) {
  three_hosts();
  silence("a", seconds(3), 2, 2);
  EXPECT_TRUE(plan().fences.empty());
  add_bmc("a");
  ASSERT_EQ(plan().fences.size(), 1U);
  seen("a").fence_may_begin = false;
  EXPECT_TRUE(plan().fences.empty());
  seen("a").fence_may_begin = true;
  edit_host("a", [](Host& host) { host.status.operation = OperationId("op-1"); });
  EXPECT_TRUE(plan().fences.empty());
}

TEST_F(Planning, F_B8_disarmed_nothing_is_fenced_restarted_or_evacuated) {
  three_hosts();
  add_bmc("a");
  const VmId web = add_vm("web", "a");
  const VmId ended = add_vm("ended", "b");
  const VmId degraded = add_vm("degraded", "c");
  silence("a", seconds(3), 2, 2);
  seen("b").vms.clear();
  edit_vm(ended, [](Vm& vm) { vm.status.power = VmPower::stopped; });
  seen("c").degraded = "disk";
  policy([](ClusterPolicy& changed) { changed.ha_armed = false; });
  const ClusterPlan silent = plan();
  EXPECT_TRUE(silent.fences.empty());
  EXPECT_TRUE(silent.starts.empty());
  EXPECT_TRUE(silent.moves.empty());
  fence("a", FenceProof::bmc_power_off);
  EXPECT_TRUE(plan().starts.empty());
  policy([](ClusterPolicy& changed) { changed.ha_armed = true; });
  EXPECT_EQ(plan().starts.size(), 2U);
}

TEST_F(Planning, F_F11_after_a_restore_nothing_is_fenced_or_started_until_it_is_confirmed) {
  three_hosts();
  add_bmc("a");
  add_vm("web", "a");
  add_vm("new");
  silence("a", seconds(3), 2, 2);
  evidence.recovery_held = true;
  EXPECT_TRUE(plan().fences.empty());
  EXPECT_TRUE(plan().starts.empty());
  fence("a", FenceProof::bmc_power_off);
  EXPECT_TRUE(plan().starts.empty());
}

// Recovery.

TEST_F(Planning, A1_06_A1_F1_A1_F5_a_fenced_hosts_vm_starts_elsewhere_with_proof_and_higher_epoch) {
  three_hosts();
  const VmId web = add_vm("web", "a");
  fence("a", FenceProof::bmc_power_off);
  const ClusterPlan made = plan();
  ASSERT_EQ(made.starts.size(), 1U);
  const StartVm& start = made.starts[0];
  EXPECT_EQ(start.vm, web);
  EXPECT_NE(start.host, HostId("a"));
  EXPECT_EQ(start.lost, (LostCopies{{HostId("a"), FenceProof::bmc_power_off}}));
  EXPECT_GT(start.epoch, vm(web).status.epoch);
  EXPECT_TRUE(contains(start.reason, "a was lost: is off"));
}

TEST_F(Planning, A1_09_a_dead_hosts_vm_is_unreachable_and_starts_nowhere_without_proof) {
  three_hosts();
  const VmId web = add_vm("web", "a");
  silence("a", seconds(9), 2, 2);
  const ClusterPlan made = plan();
  EXPECT_TRUE(made.starts.empty());
  ASSERT_EQ(made.observations.size(), 1U);
  EXPECT_EQ(made.observations[0].health, VmHealth::unreachable);
  EXPECT_EQ(made.observations[0].power, VmPower::running);
}

TEST_F(Planning, R_B3_A3_16_what_a_host_says_of_a_moved_vms_isolation_is_noted_for_that_copy) {
  three_hosts();
  const VmId web = add_vm("web", "a");
  EXPECT_TRUE(plan().observations.empty()) << "a copy that was started here says nothing of it";
  ObservedVm& copy = seen("a").vms.front();
  copy.isolation_checked = true;
  ClusterPlan made = plan();
  ASSERT_EQ(made.observations.size(), 1U);
  EXPECT_EQ(made.observations[0].isolation_checked, copy.epoch);
  EXPECT_EQ(made.observations[0].isolation_breach, "");
  edit_vm(web, [&](Vm& vm) { vm.status.isolation_checked = copy.epoch; });
  EXPECT_TRUE(plan().observations.empty());
  copy.isolation_breach = "port acme/web-0: its security groups are not asked";
  made = plan();
  ASSERT_EQ(made.observations.size(), 1U);
  EXPECT_EQ(made.observations[0].isolation_breach, copy.isolation_breach);
}

TEST_F(Planning, F_B8_the_order_of_restart_is_priority_then_size_then_name) {
  for (const char* name : {"a", "b"}) add_host(name, 4096);
  const VmId low = add_vm("low", "a", 256);
  const VmId small = add_vm("small", "a", 64);
  const VmId large = add_vm("large", "a", 512);
  const VmId high = add_vm("high", "a", 64);
  const VmId never = add_vm("never", "a", 64);
  edit_vm(low, [](Vm& vm) { vm.spec.restart_priority = RestartPriority::low; });
  edit_vm(high, [](Vm& vm) { vm.spec.restart_priority = RestartPriority::high; });
  edit_vm(never, [](Vm& vm) { vm.spec.restart_priority = RestartPriority::none; });
  fence("a", FenceProof::bmc_power_off);
  const ClusterPlan made = plan();
  std::vector<VmId> order;
  for (const StartVm& start : made.starts) order.push_back(start.vm);
  EXPECT_EQ(order, (std::vector<VmId>{high, large, small, low}));
  ASSERT_EQ(made.observations.size(), 1U);
  EXPECT_EQ(made.observations[0].vm, never);
  EXPECT_EQ(made.observations[0].power, VmPower::stopped);
  EXPECT_TRUE(made.observations[0].host.empty());
}

TEST_F(Planning, F_F4_a_vm_whose_qemu_died_is_seen_stopped_and_restarted_in_place) {
  three_hosts();
  const VmId web = add_vm("web", "b");
  seen("b").vms.clear();
  const ClusterPlan first = plan();
  ASSERT_EQ(first.observations.size(), 1U);
  EXPECT_EQ(first.observations[0].power, VmPower::stopped);
  EXPECT_TRUE(first.starts.empty());
  edit_vm(web, [](Vm& vm) { vm.status.power = VmPower::stopped; });
  const ClusterPlan second = plan();
  ASSERT_EQ(second.starts.size(), 1U);
  EXPECT_EQ(second.starts[0].host, HostId("b"));
  EXPECT_EQ(second.starts[0].lost, (LostCopies{{HostId("b"), FenceProof::agent_confirmed_stop}}));
}

TEST_F(Planning, F_F13_a_paused_guest_is_restarted_by_force_when_an_operator_asks) {
  three_hosts();
  const VmId web = add_vm("web", "b");
  seen("b").vms[0].power = VmPower::paused;
  edit_vm(web, [](Vm& vm) {
    vm.status.power = VmPower::paused;
    vm.spec.restart = true;
  });
  const ClusterPlan made = plan();
  ASSERT_EQ(made.stops.size(), 1U);
  EXPECT_TRUE(made.stops[0].force);
}

TEST_F(Planning, F_B8_what_failed_lately_rests_and_nothing_else_does) {
  three_hosts();
  const VmId gone = add_vm("gone", "b");
  edit_vm(gone, [](Vm& vm) { vm.meta.deleting_at = WallTime{1}; });
  const VmId lost = add_vm("lost", "a");
  fence("a", FenceProof::bmc_power_off);
  evidence.stops_resting.insert(gone);
  evidence.moves_resting.insert(lost);
  const ClusterPlan made = plan();
  EXPECT_TRUE(made.stops.empty()) << "a failed delete is not tried again at once";
  EXPECT_EQ(made.starts.size(), 1U) << "a failed move does not hold back a restart";
}

TEST_F(Planning, F_B8_a_host_that_failed_the_start_lately_is_avoided) {
  three_hosts();
  const VmId web = add_vm("web", "b");
  seen("b").vms.clear();
  edit_vm(web, [](Vm& vm) { vm.status.power = VmPower::stopped; });
  evidence.failed_lately[web] = {HostId("b")};
  ASSERT_EQ(plan().starts.size(), 1U);
  EXPECT_NE(plan().starts[0].host, HostId("b"));
  evidence.starts_resting.insert(web);
  EXPECT_TRUE(plan().starts.empty());
}

TEST_F(Planning, F_B4_a_panicked_guest_is_ended_by_force_so_that_it_starts_again) {
  three_hosts();
  const VmId web = add_vm("web", "a");
  edit_vm(web, [&](Vm& vm) {
    vm.status.power = VmPower::paused;
    vm.status.health = VmHealth::failing;
    vm.status.health_reason = "guest panicked";
  });
  seen("a").vms[0].power = VmPower::paused;
  seen("a").vms[0].health = VmHealth::failing;
  seen("a").vms[0].health_reason = "guest panicked";
  const ClusterPlan made = plan();
  ASSERT_EQ(made.stops.size(), 1U);
  EXPECT_TRUE(made.stops[0].force);
  EXPECT_FALSE(made.stops[0].then_delete);
}

TEST_F(Planning, F_F6_a_guest_whose_memory_has_left_in_a_move_that_nobody_carries_on_is_restarted) {
  three_hosts();
  const VmId web = add_vm("web", "a");
  edit_vm(web, [](Vm& vm) { vm.status.power = VmPower::paused; });
  seen("a").vms[0].power = VmPower::paused;
  EXPECT_TRUE(plan().stops.empty()) << "paused for another reason: left alone";
  seen("a").vms[0].postmigrate = true;
  const ClusterPlan made = plan();
  ASSERT_EQ(made.stops.size(), 1U);
  EXPECT_TRUE(made.stops[0].force);
}

TEST_F(Planning, F_B8_F_B11_an_unplaced_vm_says_one_reason_per_host) {
  three_hosts();
  edit_host("a", [](Host& host) { host.spec.maintenance = true; });
  edit_host("b", [](Host& host) { host.status.capacity.memory_mib = Mib{100}; });
  const VmId web = add_vm("web");
  edit_vm(web, [](Vm& vm) { vm.spec.pinned_host = HostId("b"); });
  const ClusterPlan made = plan();
  ASSERT_EQ(made.unplaced.size(), 1U);
  EXPECT_EQ(made.unplaced[0].refusals.size(), 3U);
  for (const char* part : {"a is in maintenance", "b has 100 MiB", "c the VM is pinned to b"}) {
    EXPECT_TRUE(contains(made.unplaced[0].reason, part)) << made.unplaced[0].reason;
  }
  edit_vm(web, [&](Vm& vm) { vm.status.unplaced_reason = made.unplaced[0].reason; });
  EXPECT_TRUE(plan().empty()) << "it is said once";
}

TEST_F(Planning, F_B8_a_lost_vm_that_fits_nowhere_is_given_up_there_with_its_proof) {
  three_hosts();
  const VmId web = add_vm("web", "a", 900);
  add_vm("x", "b", 600);
  add_vm("y", "c", 600);
  fence("a", FenceProof::lease_and_leash);
  const ClusterPlan made = plan();
  ASSERT_EQ(made.unplaced.size(), 1U);
  EXPECT_EQ(made.unplaced[0].vm, web);
  EXPECT_EQ(made.unplaced[0].lost, (LostCopies{{HostId("a"), FenceProof::lease_and_leash}}));
}

TEST_F(Planning, F_B3_a_start_whose_host_was_fenced_is_superseded_by_a_recovery) {
  three_hosts();
  const VmId web = add_vm("web", "a");
  edit_vm(web, [](Vm& vm) { vm.status.power = VmPower::starting; });
  OperationArguments arguments;
  arguments.destination = HostId("a");
  arguments.epoch = {1, 7};
  add_operation(OperationKind::start_vm, web, arguments);
  EXPECT_TRUE(plan().empty());
  fence("a", FenceProof::bmc_power_off);
  const ClusterPlan made = plan();
  ASSERT_EQ(made.starts.size(), 1U);
  EXPECT_EQ(made.starts[0].lost, (LostCopies{{HostId("a"), FenceProof::bmc_power_off}}));
}

TEST_F(Planning, F_B9_a_migration_that_is_switching_is_never_superseded) {
  three_hosts();
  const VmId web = add_vm("web", "a");
  OperationArguments arguments;
  arguments.source = HostId("a");
  arguments.destination = HostId("b");
  add_operation(OperationKind::migrate_vm, web, arguments);
  const auto phase = [&](MigrationPhase now) {
    edit_vm(web, [&](Vm& vm) { vm.status.migration = {now, HostId("b"), {1, 8}}; });
  };
  fence("a", FenceProof::bmc_power_off);
  phase(MigrationPhase::switching);
  EXPECT_TRUE(plan().starts.empty());
  phase(MigrationPhase::prepared);
  ASSERT_EQ(plan().starts.size(), 1U);
  EXPECT_GT(plan().starts[0].epoch, (Epoch{1, 8}));
}

// Moves.

TEST_F(Planning, A1_11_F_B8_maintenance_moves_vms_away_alive_within_the_limit) {
  three_hosts();
  for (const char* name : {"v1", "v2", "v3"}) add_vm(name, "a");
  edit_host("a", [](Host& host) { host.spec.maintenance = true; });
  const ClusterPlan made = plan();
  ASSERT_EQ(made.moves.size(), 2U);
  for (const MoveVm& move : made.moves) {
    EXPECT_EQ(move.source, HostId("a"));
    EXPECT_NE(move.destination, HostId("a"));
    EXPECT_GT(move.next_epoch, move.epoch);
  }
  EXPECT_TRUE(made.stops.empty());
}

TEST_F(Planning, A3_02_A3_06_a_copy_that_its_service_replaces_is_left_to_it_until_it_is_released) {
  three_hosts();
  const VmId web = add_vm("web", "a");
  Service service;
  service.meta.tenant = web.value.substr(0, web.value.find('/'));
  service.meta.name = "shop";
  ServiceCopy& copy = service.status.copies.emplace_back();
  copy.vm = web;
  copy.state = ServiceCopyState::serving;
  edit_vm(web, [&](Vm& vm) { vm.spec.service = service.id(); });
  edit_host("a", [](Host& host) { host.spec.maintenance = true; });
  const auto moves = [&] {
    view.services.put(std::make_shared<const Service>(service));
    return plan().moves.size();
  };
  EXPECT_EQ(moves(), 0U);
  copy.released = true;
  EXPECT_EQ(moves(), 1U) << "it could not be replaced";
  copy.released = false;
  service.spec.policy.relocation = RelocationMode::live_migration;
  EXPECT_EQ(moves(), 1U);
}

TEST_F(Planning, F_B8_moves_in_flight_count_against_the_limit_at_both_ends) {
  three_hosts();
  const VmId flying = add_vm("flying", "c");
  OperationArguments arguments;
  arguments.source = HostId("c");
  arguments.destination = HostId("b");
  add_operation(OperationKind::migrate_vm, flying, arguments);
  const VmId web = add_vm("web", "a");
  edit_vm(web, [](Vm& vm) { vm.spec.move_to = HostId("b"); });
  policy([](ClusterPolicy& changed) { changed.moves_per_host = 1; });
  EXPECT_TRUE(plan().moves.empty());
  policy([](ClusterPolicy& changed) { changed.moves_per_host = 2; });
  ASSERT_EQ(plan().moves.size(), 1U);
  EXPECT_EQ(plan().moves[0].destination, HostId("b"));
}

TEST_F(Planning, A1_09_F_B8_a_degraded_host_that_lives_is_evacuated_alive) {
  three_hosts();
  add_vm("web", "a");
  seen("a").degraded = "disk full";
  const ClusterPlan made = plan();
  EXPECT_EQ(only_change(made).health, HostHealth::degraded);
  ASSERT_EQ(made.moves.size(), 1U);
  EXPECT_TRUE(contains(made.moves[0].reason, "disk full"));
  EXPECT_TRUE(made.starts.empty());
}

TEST_F(Planning, F_B8_A3_23_a_vm_with_direct_io_never_moves_alive) {
  three_hosts();
  const VmId web = add_vm("web", "a");
  edit_host("a", [](Host& host) { host.spec.maintenance = true; });
  for (const bool offered : {false, true}) {
    edit_vm(web, [&](Vm& vm) { vm.spec.direct_io = !offered; });
    if (offered) edit_vm(web, [](Vm& vm) { vm.spec.host_devices = {"scratch"}; });
    const ClusterPlan made = plan();
    EXPECT_TRUE(made.moves.empty());
    ASSERT_EQ(made.unplaced.size(), 1U);
    EXPECT_TRUE(contains(made.unplaced[0].reason, "directly") && made.unplaced[0].lost.empty());
  }
}

TEST_F(Planning, F_B4_a_live_move_never_crosses_a_difference_of_processor_or_machine_type) {
  three_hosts();
  add_vm("web", "a");
  edit_host("a", [](Host& host) { host.spec.maintenance = true; });
  edit_host("b", [](Host& host) { host.status.hypervisor.cpu_model = "Skylake-Server"; });
  edit_host("c", [](Host& host) { host.status.hypervisor.machine_types = {"pc-q35-6.0"}; });
  const ClusterPlan made = plan();
  EXPECT_TRUE(made.moves.empty());
  ASSERT_EQ(made.unplaced.size(), 1U);
  EXPECT_TRUE(contains(made.unplaced[0].reason, "b processor model"));
  EXPECT_TRUE(contains(made.unplaced[0].reason, "c does not offer"));
}

TEST_F(Planning, F_B8_a_group_is_kept_apart) {
  for (const char* name : {"a", "b"}) add_host(name, 4096);
  std::vector<VmId> group;
  for (const char* name : {"v1", "v2", "v3"}) {
    group.push_back(add_vm(name));
    edit_vm(group.back(), [](Vm& vm) { vm.spec.anti_affinity_group = "db"; });
  }
  const ClusterPlan made = plan();
  ASSERT_EQ(made.starts.size(), 2U);
  EXPECT_NE(made.starts[0].host, made.starts[1].host);
  ASSERT_EQ(made.unplaced.size(), 1U);
  EXPECT_TRUE(contains(made.unplaced[0].reason, "group db"));
}

// Admission.

TEST_F(Planning, A1_F5_F_B8_a_new_vm_that_leaves_no_room_for_a_lost_host_is_refused) {
  add_host("a");
  add_host("b");
  policy([](ClusterPolicy& changed) { changed.failures_tolerated = 1; });
  add_vm("v1", "a", 400);
  add_vm("v2", "b", 400);
  const VmId more = add_vm("v3", "", 400);
  const ClusterPlan refused = plan();
  EXPECT_TRUE(refused.starts.empty());
  ASSERT_EQ(refused.unplaced.size(), 1U);
  EXPECT_EQ(refused.unplaced[0].vm, more);
  EXPECT_TRUE(contains(refused.unplaced[0].reason, "no room for the loss of 1 host(s)"));
  policy([](ClusterPolicy& changed) { changed.failures_tolerated = 0; });
  EXPECT_EQ(plan().starts.size(), 1U);
}

TEST_F(Planning, F_B8_the_reserve_is_there_to_be_used_by_recoveries) {
  for (const char* name : {"a", "b"}) add_host(name);
  policy([](ClusterPolicy& changed) { changed.failures_tolerated = 1; });
  add_vm("v1", "a", 400);
  add_vm("v2", "b", 400);
  fence("a", FenceProof::bmc_power_off);
  EXPECT_EQ(plan().starts.size(), 1U);
}

TEST_F(Planning, F_B8_starts_on_one_host_are_bounded_also_with_those_in_flight) {
  add_host("a", 65536);
  for (int index = 0; index < 9; ++index) add_vm("v" + std::to_string(index));
  const VmId flying = add_vm("flying");
  OperationArguments arguments;
  arguments.destination = HostId("a");
  add_operation(OperationKind::start_vm, flying, arguments);
  EXPECT_EQ(plan().starts.size(), 3U);
  options.actions_max = 2;
  EXPECT_EQ(plan().starts.size(), 2U);
}

// Copies.

TEST_F(Planning, F_B6_F_F15_a_copy_of_an_old_epoch_is_revoked) {
  three_hosts();
  const VmId web = add_vm("web", "b");
  report("a", web, {1, 3});
  const ClusterPlan made = plan();
  ASSERT_EQ(made.revokes.size(), 1U);
  EXPECT_EQ(made.revokes[0].host, HostId("a"));
  EXPECT_EQ(made.revokes[0].epoch, (Epoch{1, 3}));
}

TEST_F(Planning, F_F11_a_copy_that_the_store_does_not_know_is_shown_and_left_alone) {
  three_hosts();
  report("a", VmId("acme/stranger"), {1, 3});
  const ClusterPlan made = plan();
  ASSERT_EQ(made.strays.size(), 1U);
  EXPECT_EQ(made.strays[0].vm, VmId("acme/stranger"));
  EXPECT_TRUE(made.empty()) << "nothing is done about it";
}

TEST_F(Planning, F_F11_a_copy_of_a_higher_epoch_is_adopted_after_a_restore) {
  three_hosts();
  const VmId web = add_vm("web", "a");
  seen("a").vms.clear();
  edit_vm(web, [](Vm& vm) { vm.status = VmStatus(); });
  report("b", web, {1, 9});
  evidence.recovery_held = true;
  const ClusterPlan made = plan();
  ASSERT_EQ(made.observations.size(), 1U);
  EXPECT_EQ(made.observations[0].host, HostId("b"));
  EXPECT_EQ(made.observations[0].epoch, (Epoch{1, 9}));
  EXPECT_TRUE(made.revokes.empty());
}

TEST_F(Planning, F_F11_a_copy_that_is_adopted_is_not_started_a_second_time) {
  three_hosts();
  const VmId web = add_vm("web");
  report("b", web, {1, 9});
  const ClusterPlan made = plan();
  EXPECT_EQ(made.observations.size(), 1U);
  EXPECT_TRUE(made.starts.empty());
}

TEST_F(Planning, A1_13_a_cluster_of_another_tenant_takes_no_vm) {
  three_hosts();
  Cluster cluster = *view.clusters.find(id);
  cluster.meta.tenant = "umbrella";
  view.clusters.put(std::make_shared<const Cluster>(cluster));
  add_vm("web");
  const ClusterPlan made = plan();
  EXPECT_TRUE(made.starts.empty());
  ASSERT_EQ(made.unplaced.size(), 1U);
  EXPECT_TRUE(contains(made.unplaced[0].reason, "belongs to a cluster of tenant umbrella"));
}

TEST_F(Planning, A1_13_a_host_of_another_cluster_is_never_a_candidate) {
  add_host("a", 256);
  add_host("z", 65536);
  edit_host("z", [](Host& host) { host.spec.cluster = ClusterId("other"); });
  add_vm("web");
  ASSERT_EQ(plan().starts.size(), 1U);
  EXPECT_EQ(plan().starts[0].host, HostId("a"));
}

// Power, restart, deletion.

TEST_F(Planning, F_B8_a_vm_that_should_be_stopped_is_asked_to_stop) {
  three_hosts();
  const VmId web = add_vm("web", "a");
  edit_vm(web, [](Vm& vm) { vm.spec.power = DesiredPower::stopped; });
  ASSERT_EQ(plan().stops.size(), 1U);
  EXPECT_FALSE(plan().stops[0].force);
  fence("a", FenceProof::bmc_power_off);
  EXPECT_TRUE(plan().stops.empty());
  ASSERT_EQ(plan().observations.size(), 1U);
  EXPECT_EQ(plan().observations[0].power, VmPower::stopped);
}

TEST_F(Planning, F_B11_an_operators_restart_stops_the_vm_first) {
  three_hosts();
  const VmId web = add_vm("web", "a");
  edit_vm(web, [](Vm& vm) { vm.spec.restart = true; });
  ASSERT_EQ(plan().stops.size(), 1U);
  EXPECT_FALSE(plan().stops[0].force);
  EXPECT_FALSE(plan().stops[0].then_delete);
}

TEST_F(Planning, F_B8_a_deleted_vm_is_ended_and_erased_by_a_host_that_lives) {
  three_hosts();
  const VmId web = add_vm("web", "b");
  edit_vm(web, [](Vm& vm) { vm.meta.deleting_at = WallTime{1}; });
  const ClusterPlan made = plan();
  ASSERT_EQ(made.stops.size(), 1U);
  EXPECT_TRUE(made.stops[0].then_delete);
  EXPECT_EQ(made.stops[0].host, HostId("b"));
  EXPECT_FALSE(made.stops[0].eraser.empty());
  silence("b", seconds(6), 2, 2);
  EXPECT_TRUE(plan().stops.empty()) << "it may still run: first a proof";
  fence("b", FenceProof::bmc_power_off);
  EXPECT_TRUE(plan().starts.empty());
  edit_vm(web, [](Vm& vm) {
    vm.status.power = VmPower::stopped;
    vm.status.host = HostId();
  });
  ASSERT_EQ(plan().stops.size(), 1U);
  EXPECT_TRUE(plan().stops[0].host.empty());
  EXPECT_NE(plan().stops[0].eraser, HostId("b"));
}

TEST_F(Planning, F_F7_a_restart_that_died_with_its_host_is_repeated_with_the_proofs_of_both) {
  three_hosts();
  const VmId web = add_vm("web", "b");
  edit_vm(web, [](Vm& vm) {
    vm.status.power = VmPower::starting;
    vm.status.recovering = true;
    vm.status.lost = {{HostId("a"), FenceProof::lease_and_leash}};
  });
  fence("a", FenceProof::lease_and_leash);
  fence("b", FenceProof::bmc_power_off);
  const ClusterPlan made = plan();
  ASSERT_EQ(made.starts.size(), 1U);
  EXPECT_EQ(made.starts[0].host, HostId("c"));
  EXPECT_EQ(made.starts[0].lost, (LostCopies{{HostId("a"), FenceProof::lease_and_leash},
                                             {HostId("b"), FenceProof::bmc_power_off}}));
}

TEST_F(Planning, F_F15_a_lost_host_that_is_back_with_its_copy_delays_the_start) {
  three_hosts();
  const VmId web = add_vm("web", "a");
  edit_vm(web, [](Vm& vm) {
    vm.status.power = VmPower::stopped;
    vm.status.host = HostId();
    vm.status.recovering = true;
    vm.status.lost = {{HostId("a"), FenceProof::lease_and_leash},
                      {HostId("b"), FenceProof::agent_confirmed_stop}};
  });
  EXPECT_TRUE(plan().starts.empty());
  seen("a").vms.clear();
  const ClusterPlan made = plan();
  ASSERT_EQ(made.starts.size(), 1U);
  EXPECT_EQ(made.starts[0].lost, (LostCopies{{HostId("a"), FenceProof::agent_confirmed_stop},
                                             {HostId("b"), FenceProof::agent_confirmed_stop}}));
}

TEST_F(Planning, F_B3_the_next_epoch_is_above_all_that_a_vm_of_the_name_ever_had) {
  three_hosts();
  const VmId web = add_vm("web", "a");
  edit_vm(web, [](Vm& vm) {
    vm.status.epoch = {1, 40};
    vm.status.migration.epoch = {1, 900};
  });
  EXPECT_GT(next_epoch(view, vm(web)), (Epoch{1, 900}));
  view.revision = 5000;
  EXPECT_GT(next_epoch(view, vm(web)), (Epoch{1, 5000}));
  view.incarnation = 2;
  EXPECT_EQ(next_epoch(view, vm(web)).incarnation, 2U);
}

TEST_F(Planning, F_B3_a_cluster_that_does_not_exist_gives_an_empty_plan) {
  EXPECT_TRUE(plan_cluster(view, ClusterId("nowhere"), evidence, options).empty());
}

}  // namespace
}  // namespace virga
