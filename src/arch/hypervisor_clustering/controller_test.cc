#include "arch/hypervisor_clustering/controller.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "arch/hypervisor_clustering/test_world.h"
#include "base/reflect.h"

namespace virga {
namespace {

using test::FakeHosts;
using test::FakeServer;

class Clustering : public ::testing::Test {
 protected:
  Clustering() {
    Transaction seeds;
    Cluster cluster;
    cluster.meta.name = "c1";
    cluster.spec.policy.failures_tolerated = 0;
    seeds.put(cluster);
    Image image;
    image.meta.name = "tiny";
    image.spec.path = "images/tiny";
    image.spec.file_bytes = Bytes{1};
    image.spec.sha256 = std::string(64, '0');
    seeds.put(image);
    for (const char* name : {"a", "b", "c"}) add_host(seeds, name);
    apply(seeds);
    boot();
  }

  void add_host(Transaction& into, const std::string& name) {
    Machine machine;
    machine.meta.name = "machine-" + name;
    machine.spec.bmc.protocol = BmcProtocol::redfish;
    into.put(machine);
    Host host;
    host.meta.name = name;
    host.spec.cluster = ClusterId("c1");
    host.spec.machine = machine.id();
    host.status.health = HostHealth::alive;
    host.status.health_reason = "reports arrive";
    host.status.boot_id = "boot-" + name;
    host.status.leash_armed = true;
    host.status.capacity = {Millicores{8000}, Mib{4096}};
    host.status.hypervisor.machine_types = {"pc-q35-7.2"};
    host.status.hypervisor.cpu_model = "qemu64";
    into.put(host);
    hosts_.add(host.id());
  }

  /// Into the disk at once, as by another process that is done.
  void apply(const Transaction& transaction) { disk_->state.apply(transaction.writes()); }

  void boot() {
    server_.reset();
    server_ = std::make_unique<FakeServer>(loop_, hosts_, disk_, faults_, ++seed_);
  }

  /// Commits a change of one resource through the running server's store, tried again on a
  /// conflict.
  template <typename T>
  void put(const std::function<T()>& make) {
    bool done = false;
    const std::function<void()> attempt = [&] {
      Transaction transaction;
      transaction.put(make());
      server_->store().commit(transaction.guards(), transaction.writes(),
                              [&](Result<CommitOutcome> outcome) {
                                ASSERT_TRUE(outcome.ok());
                                done = outcome->verdict == CommitVerdict::committed;
                                if (!done) loop_.after(milliseconds(10), attempt);
                              });
    };
    attempt();
    ASSERT_TRUE(loop_.run_until_true([&] { return done; }, seconds(5)));
  }

  VmId add_vm(const std::string& name) {
    Vm vm;
    vm.meta.name = name;
    vm.meta.tenant = "acme";
    vm.spec.cluster = ClusterId("c1");
    vm.spec.image = ImageId("tiny");
    put<Vm>([&] { return vm; });
    return vm.id();
  }

  void edit_vm(const VmId& id, const std::function<void(Vm&)>& change) {
    put<Vm>([&] {
      Vm changed = vm(id);
      change(changed);
      return changed;
    });
  }

  void edit_host(const HostId& id, const std::function<void(Host&)>& change) {
    put<Host>([&] {
      Host changed = host(id);
      change(changed);
      return changed;
    });
  }

  const Vm& vm(const VmId& id) const { return *server_->view().vms.find(id); }
  const Host& host(const HostId& id) const { return *server_->view().hosts.find(id); }

  bool serves(const VmId& id) const {
    const Vm* found = server_->view().vms.find(id);
    return found != nullptr && found->status.power == VmPower::running &&
           found->status.operation.empty() &&
           hosts_.running(id) == std::set<HostId>{found->status.host};
  }

  bool until(const std::function<bool()>& done, Duration limit = seconds(60)) {
    return loop_.run_until_true(done, limit);
  }

  VmId running_vm(const std::string& name) {
    const VmId id = add_vm(name);
    EXPECT_TRUE(until([&] { return serves(id); }));
    return id;
  }

  const Operation* operation_of(const VmId& id, OperationKind kind) const {
    for (const auto& [name, operation] : server_->view().operations.all()) {
      if (operation->kind == kind && operation->subject == keys::of(id)) return operation.get();
    }
    return nullptr;
  }

  HostId move(const VmId& id) {
    const HostId target(vm(id).status.host == HostId("a") ? "b" : "a");
    edit_vm(id, [&](Vm& changed) { changed.spec.move_to = target; });
    return target;
  }

  /// Journal entries on their way, of one kind.
  int events(const std::string& kind) const {
    int found = 0;
    const auto page = disk_->state.list({std::string(keys::kOutbox), "", 0, StoreLimits::kPageMax});
    if (!page.ok()) return -1;
    for (const KeyValue& entry : page->entries) {
      const auto event = from_json_text<Event>(entry.value);
      if (event.ok() && event->kind == kind) ++found;
    }
    return found;
  }

  SimLoop loop_;
  FakeHosts hosts_{loop_};
  std::shared_ptr<MemoryDisk> disk_ = std::make_shared<MemoryDisk>();
  MemoryStoreOptions faults_;
  std::uint64_t seed_ = 0;
  std::unique_ptr<FakeServer> server_;
};

TEST_F(Clustering, F_B8_A1_07_a_vm_is_placed_and_started) {
  const VmId web = running_vm("web");
  EXPECT_GT(vm(web).status.epoch.counter, 0U);
  EXPECT_FALSE(vm(web).status.identity.uuid.empty());
  EXPECT_EQ(vm(web).status.restarts, 0);
  EXPECT_EQ(events("vm.placed"), 1);
  EXPECT_EQ(events("vm.started"), 1);
  ASSERT_NE(operation_of(web, OperationKind::start_vm), nullptr);
  EXPECT_EQ(operation_of(web, OperationKind::start_vm)->state, OperationState::succeeded);
}

TEST_F(Clustering, F_B3_reports_that_change_nothing_write_nothing) {
  running_vm("web");
  loop_.run_for(seconds(5));
  const Revision before = disk_->state.revision();
  const std::uint64_t rounds = server_->rounds();
  loop_.run_for(seconds(60));
  EXPECT_EQ(disk_->state.revision(), before);
  EXPECT_GT(server_->rounds(), rounds + 60);
}

TEST_F(Clustering, R_B3_A3_16_a_vm_that_is_not_kept_apart_is_told_once_and_once_when_it_is_again) {
  const VmId web = running_vm("web");
  ObservedVm& copy = hosts_.machines[vm(web).status.host].copies.at(web);
  copy.isolation_checked = true;
  ASSERT_TRUE(until([&] { return vm(web).status.isolation_checked == copy.epoch; }));
  EXPECT_EQ(events("perimeter.isolation_broken"), 0);
  copy.isolation_breach = "port acme/web-0: it is on another bridge";
  ASSERT_TRUE(until([&] { return events("perimeter.isolation_broken") == 1; }));
  EXPECT_EQ(vm(web).status.isolation_breach, copy.isolation_breach);
  EXPECT_EQ(events("perimeter.isolation_held"), 0);
  copy.isolation_breach.clear();
  ASSERT_TRUE(until([&] { return events("perimeter.isolation_held") == 1; }));
  loop_.run_for(seconds(5));
  EXPECT_EQ(events("perimeter.isolation_broken"), 1);
  copy.isolation_breach = "port acme/web-0: it is on another bridge";
  ASSERT_TRUE(until([&] { return events("perimeter.isolation_broken") == 2; }));
  edit_vm(web, [](Vm& changed) { changed.spec.power = DesiredPower::stopped; });
  ASSERT_TRUE(until([&] { return vm(web).status.power == VmPower::stopped; }));
  EXPECT_EQ(vm(web).status.isolation_breach, "") << "of a copy that is gone";
  EXPECT_EQ(events("perimeter.isolation_held"), 1) << "which nobody has mended";
}

TEST_F(Clustering, A1_11_F_B9_a_vm_moves_alive_and_the_source_copy_is_gone) {
  const VmId web = running_vm("web");
  const Epoch before = vm(web).status.epoch;
  const HostId source = vm(web).status.host;
  const HostId target = move(web);
  ASSERT_TRUE(until([&] { return serves(web) && vm(web).status.host == target; }));
  EXPECT_GT(vm(web).status.epoch, before);
  EXPECT_EQ(vm(web).status.migration.phase, MigrationPhase::none);
  EXPECT_TRUE(vm(web).spec.move_to.empty());
  EXPECT_TRUE(hosts_.machines[source].copies.empty());
  EXPECT_FALSE(hosts_.doubled);
  EXPECT_EQ(events("vm.moved"), 1);
}

TEST_F(Clustering, F_B9_a_move_tells_how_far_it_is_and_how_long_the_guest_was_paused) {
  const VmId web = running_vm("web");
  hosts_.progress = {50, 52};  // the second is not worth a commit
  hosts_.answer_after = milliseconds(400);
  const HostId target = move(web);
  const auto operation = [&] { return server_->view().operations.find(vm(web).status.operation); };
  ASSERT_TRUE(until([&] { return operation() != nullptr && operation()->progress_percent == 45; }));
  EXPECT_EQ(operation()->steps.size(), 1U) << "while the memory is sent";
  ASSERT_TRUE(until([&] { return serves(web) && vm(web).status.host == target; }));
  const Operation* moved = nullptr;
  for (const auto& [id, one] : server_->view().operations.all()) {
    if (one->kind == OperationKind::migrate_vm) moved = one.get();
  }
  ASSERT_NE(moved, nullptr);
  // The source counted 30 ms; the destination was asked and answered 400 ms later each.
  EXPECT_EQ(moved->facts.at("downtime_ms").to_number<int>(), 830);
  EXPECT_EQ(moved->facts.at("transferred_bytes").to_number<int>(), 1 << 20);
  EXPECT_FALSE(moved->facts.contains("endpoint")) << "its secret is used";
}

TEST_F(Clustering, F_B9_a_move_that_ends_while_its_progress_is_stored_is_not_done_twice) {
  const VmId web = running_vm("web");
  hosts_.progress = {10, 30, 60, 100};
  hosts_.answer_after = Duration{0};  // the answer comes before the commit of its progress
  move(web);
  ASSERT_TRUE(until([&] { return events("vm.moved") == 1; }));
  EXPECT_EQ(hosts_.count(CommandKind::send), 1);
  EXPECT_EQ(hosts_.count(CommandKind::switch_over), 1);
  EXPECT_EQ(events("vm.move_failed"), 0);
}

TEST_F(Clustering, F_B11_a_move_bears_the_request_that_led_to_it) {
  const VmId web = running_vm("web");
  edit_vm(web, [](Vm& changed) { changed.meta.correlation = "req-make"; });
  edit_host(vm(web).status.host, [](Host& emptied) {
    emptied.spec.maintenance = true;
    emptied.meta.correlation = "req-empty";
  });
  ASSERT_TRUE(until([&] { return events("vm.moved") == 1; }));
  for (const auto& [host, command] : hosts_.commands) {
    if (command.kind != CommandKind::send) continue;
    EXPECT_EQ(command.correlation, "req-empty");
  }
  EXPECT_EQ(hosts_.count(CommandKind::send), 1);
}

TEST_F(Clustering, R_B4_R_F12_a_vm_says_what_a_move_may_cost_it) {
  const VmId web = running_vm("web");
  edit_vm(web, [](Vm& changed) {
    changed.spec.downtime_ms_max = milliseconds(700);
    changed.spec.throttle_percent_max = 99;
  });
  move(web);
  ASSERT_TRUE(until([&] { return events("vm.moved") == 1; }));
  for (const auto& [host, command] : hosts_.commands) {
    if (command.kind != CommandKind::send) continue;
    EXPECT_EQ(command.limits->downtime_ms_max, milliseconds(700));
    EXPECT_EQ(command.limits->throttle_percent_max, 99);
  }
  EXPECT_EQ(hosts_.count(CommandKind::send), 1);
}

TEST_F(Clustering, F_B9_a_send_that_fails_leaves_the_source_running) {
  const VmId web = running_vm("web");
  const HostId source = vm(web).status.host;
  hosts_.failing.emplace(CommandKind::send, make_error(Errc::internal, "no route"));
  const HostId target = move(web);
  ASSERT_TRUE(until([&] { return events("vm.move_failed") == 1; }));
  EXPECT_TRUE(serves(web));
  EXPECT_EQ(vm(web).status.host, source);
  EXPECT_TRUE(hosts_.machines[target].copies.empty());
  EXPECT_EQ(vm(web).status.migration.phase, MigrationPhase::none);
  EXPECT_FALSE(hosts_.doubled);
}

TEST_F(Clustering, A1_06_A1_F4_A1_F5_a_lost_hosts_vm_runs_elsewhere_with_its_proof_stored) {
  const VmId web = running_vm("web");
  const HostId lost = vm(web).status.host;
  const Epoch before = vm(web).status.epoch;
  hosts_.commands.clear();
  hosts_.cut_power(lost);
  const Instant cut = loop_.now();
  ASSERT_TRUE(until([&] { return hosts_.count(CommandKind::start) == 1; }));
  EXPECT_LE(loop_.now() - cut, seconds(4));
  // At the moment of the command, proof and epoch stand on the disk.
  const auto& [place, command] = hosts_.commands.back();
  EXPECT_NE(place, lost);
  const auto entry = disk_->state.list({"operation/" + command.correlation, "", 0, 1});
  ASSERT_TRUE(entry.ok());
  ASSERT_EQ(entry->entries.size(), 1U);
  const auto operation = from_json_text<Operation>(entry->entries[0].value);
  ASSERT_TRUE(operation.ok());
  EXPECT_EQ(operation->arguments.lost, (LostCopies{{lost, FenceProof::bmc_power_off}}));
  EXPECT_EQ(operation->arguments.epoch, command.epoch);
  EXPECT_GT(command.epoch, before);
  ASSERT_TRUE(until([&] { return serves(web); }));
  EXPECT_EQ(vm(web).status.restarts, 1);
  EXPECT_EQ(host(lost).status.health, HostHealth::fenced);
  EXPECT_FALSE(hosts_.doubled);
}

TEST_F(Clustering, F_B8_a_vm_that_is_not_to_be_restarted_stays_down_until_its_owner_starts_it) {
  const VmId web = running_vm("web");
  edit_vm(web, [](Vm& changed) { changed.spec.restart_priority = RestartPriority::none; });
  hosts_.cut_power(vm(web).status.host);
  ASSERT_TRUE(until([&] { return vm(web).status.power == VmPower::stopped; }));
  loop_.run_for(seconds(60));
  EXPECT_TRUE(hosts_.running(web).empty());
  EXPECT_EQ(vm(web).status.unplaced_reason, "it was lost, but its restart priority is none");
  edit_vm(web, [](Vm& changed) { changed.spec.restart = true; });  // as the API writes it
  ASSERT_TRUE(until([&] { return serves(web); }));
  EXPECT_FALSE(vm(web).spec.restart);
  EXPECT_EQ(vm(web).status.restarts, 0) << "its owner's start, not high availability's";
  EXPECT_FALSE(hosts_.doubled);
}

TEST_F(Clustering, F_B7_a_host_with_only_its_link_cut_is_replaced_after_its_lease) {
  const VmId web = running_vm("web");
  const HostId cut = vm(web).status.host;
  hosts_.machines[cut].linked = false;
  loop_.run_for(seconds(9));
  EXPECT_EQ(hosts_.running(web), std::set<HostId>{cut});
  EXPECT_EQ(host(cut).status.health, HostHealth::suspect);
  ASSERT_TRUE(until([&] { return serves(web) && vm(web).status.host != cut; }, seconds(10)));
  EXPECT_EQ(host(cut).status.fence_proof, FenceProof::lease_and_leash);
  EXPECT_FALSE(hosts_.doubled);
}

TEST_F(Clustering, F_B7_a_silent_bmc_makes_recovery_wait_for_the_lease) {
  const VmId web = running_vm("web");
  const HostId lost = vm(web).status.host;
  hosts_.bmc = FakeHosts::BmcMode::silent;
  hosts_.cut_power(lost);
  loop_.run_for(seconds(10));
  EXPECT_EQ(host(lost).status.health, HostHealth::dead);
  EXPECT_TRUE(hosts_.running(web).empty());
  EXPECT_GE(events("host.fence_failed"), 1);
  ASSERT_TRUE(until([&] { return serves(web); }, seconds(10)));
  EXPECT_EQ(host(lost).status.fence_proof, FenceProof::lease_and_leash);
}

TEST_F(Clustering, F_F4_a_vm_whose_process_died_is_restarted_in_place) {
  const VmId web = running_vm("web");
  const HostId home = vm(web).status.host;
  hosts_.machines[home].copies.clear();
  ASSERT_TRUE(until([&] { return vm(web).status.restarts == 1 && serves(web); }));
  EXPECT_EQ(vm(web).status.host, home);
  EXPECT_EQ(events("vm.ended"), 1);
}

TEST_F(Clustering, F_B8_a_start_that_fails_is_tried_on_another_host) {
  hosts_.failing.emplace(CommandKind::start, make_error(Errc::exhausted, "no disk space"));
  const VmId web = add_vm("web");
  ASSERT_TRUE(until([&] { return events("vm.start_failed") >= 1; }));
  const HostId first = hosts_.commands.front().first;
  hosts_.failing.clear();
  ASSERT_TRUE(until([&] { return serves(web); }));
  EXPECT_NE(vm(web).status.host, first);
}

TEST_F(Clustering, F_B9_a_destination_that_refuses_to_run_leaves_the_source_running) {
  const VmId web = running_vm("web");
  const HostId source = vm(web).status.host;
  const Epoch epoch = vm(web).status.epoch;
  hosts_.failing.emplace(CommandKind::resume, make_error(Errc::internal, "cannot run it"));
  move(web);
  ASSERT_TRUE(until([&] { return events("vm.move_failed") == 1; }));
  ASSERT_TRUE(until([&] { return serves(web); }));
  EXPECT_EQ(vm(web).status.host, source);
  EXPECT_EQ(vm(web).status.epoch, epoch);
  EXPECT_EQ(vm(web).status.restarts, 0);
  EXPECT_FALSE(hosts_.doubled);
}

TEST_F(Clustering, F_B9_an_order_to_move_ends_with_the_run_that_it_was_about) {
  const VmId web = running_vm("web");
  hosts_.failing.emplace(CommandKind::prepare_incoming, make_error(Errc::unavailable, "no lease"));
  const HostId lost = vm(web).status.host;
  const HostId target = move(web);
  hosts_.cut_power(lost);
  ASSERT_TRUE(until([&] { return serves(web) && vm(web).status.host != lost; }));
  EXPECT_TRUE(vm(web).spec.move_to.empty()) << "nobody waits for a move to " << target.value;
}

TEST_F(Clustering, F_F6_F_F19_a_source_that_never_says_how_the_switch_went_ends_in_a_restart) {
  const VmId web = running_vm("web");
  hosts_.failing.emplace(CommandKind::switch_over, make_error(Errc::timeout, "QEMU is silent"));
  move(web);
  ASSERT_TRUE(until([&] { return events("vm.move_failed") == 1; }, seconds(60)));
  ASSERT_TRUE(until([&] { return serves(web); }));
  EXPECT_EQ(hosts_.count(CommandKind::resume), 0);
  EXPECT_FALSE(hosts_.aged);
  EXPECT_FALSE(hosts_.doubled);
}

/// What takes long is measured by a clock that does not jump, in both directions.
TEST_F(Clustering, F_F18_a_wall_clock_that_jumps_changes_no_decision) {
  const VmId web = running_vm("web");
  for (const std::int64_t jump_s : {3600, -7200}) {
    hosts_.failing.emplace(CommandKind::switch_over, make_error(Errc::unavailable, "no session"));
    const HostId target = move(web);
    ASSERT_TRUE(until([&] { return hosts_.count(CommandKind::switch_over) > 0; }));
    loop_.jump_wall(seconds(jump_s));
    loop_.run_for(seconds(10));
    EXPECT_EQ(events("vm.move_failed"), 0) << "10 s are less than the patience of the switch";
    hosts_.failing.clear();
    hosts_.commands.clear();
    ASSERT_TRUE(until([&] { return serves(web) && vm(web).status.host == target; }));
    EXPECT_EQ(hosts_.count(CommandKind::start), 0) << "the guest went over alive";
  }
}

TEST_F(Clustering, F_F18_an_operation_ends_in_its_time_whatever_the_wall_clock_does) {
  for (const std::int64_t jump_s : {3600, -86'400}) {
    const VmId db = running_vm("db" + std::to_string(jump_s));
    hosts_.failing.emplace(CommandKind::stop, make_error(Errc::unavailable, "no session"));
    const int failed = events("vm.stop_failed");
    edit_vm(db, [](Vm& changed) { changed.spec.power = DesiredPower::stopped; });
    ASSERT_TRUE(until([&] { return hosts_.count(CommandKind::stop) > 0; }));
    loop_.jump_wall(seconds(jump_s));
    loop_.run_for(seconds(590));
    EXPECT_EQ(events("vm.stop_failed"), failed) << "its ten minutes are not over";
    loop_.run_for(seconds(70));
    EXPECT_EQ(events("vm.stop_failed"), failed + 1);
    hosts_.failing.clear();
    hosts_.commands.clear();
    ASSERT_TRUE(until([&] { return vm(db).status.power == VmPower::stopped; }));
  }
}

TEST_F(Clustering, F_B4_limits_of_a_running_vm_are_asked_for_until_they_are_in_force) {
  const VmId web = running_vm("web");
  const auto in_force = [&] {
    return hosts_.machines.at(vm(web).status.host).copies.at(web).cpu_millicores_max;
  };
  EXPECT_EQ(in_force(), Millicores{1000});
  hosts_.failing.emplace(CommandKind::change_limits, make_error(Errc::unavailable, "no session"));
  edit_vm(web, [](Vm& changed) { changed.spec.cpu_millicores = Millicores{250}; });
  ASSERT_TRUE(until([&] { return hosts_.count(CommandKind::change_limits) >= 2; }));
  EXPECT_EQ(in_force(), Millicores{1000});
  hosts_.failing.clear();
  ASSERT_TRUE(until([&] { return in_force() == Millicores{250}; }));
  loop_.run_for(seconds(2));
  const int asked = hosts_.count(CommandKind::change_limits);
  loop_.run_for(seconds(60));
  EXPECT_EQ(hosts_.count(CommandKind::change_limits), asked) << "nothing is left to change";
  EXPECT_EQ(hosts_.count(CommandKind::start), 1) << "the guest went on";
}

TEST_F(Clustering, F_B9_a_source_whose_answer_to_cancel_is_lost_is_asked_again) {
  const VmId web = running_vm("web");
  const HostId source = vm(web).status.host;
  hosts_.failing.emplace(CommandKind::send, make_error(Errc::internal, "cannot send"));
  hosts_.failing.emplace(CommandKind::cancel_send, make_error(Errc::unavailable, "no session"));
  move(web);
  ASSERT_TRUE(until([&] { return hosts_.count(CommandKind::cancel_send) >= 3; }));
  EXPECT_EQ(events("vm.move_failed"), 0);
  hosts_.failing.erase(CommandKind::cancel_send);
  ASSERT_TRUE(until([&] { return events("vm.move_failed") == 1; }));
  ASSERT_TRUE(until([&] { return serves(web); }));
  EXPECT_EQ(vm(web).status.host, source);
}

TEST_F(Clustering, F_B9_F_F6_a_destination_that_may_have_run_is_never_followed_by_the_source) {
  const VmId web = running_vm("web");
  hosts_.unanswered.insert(CommandKind::resume);
  const HostId target = move(web);
  ASSERT_TRUE(until([&] { return hosts_.running(web) == std::set<HostId>{target}; }));
  hosts_.cut_power(target);
  ASSERT_TRUE(until([&] { return events("vm.move_failed") == 1; }));
  ASSERT_TRUE(until([&] { return serves(web); }));
  EXPECT_FALSE(hosts_.aged);
  EXPECT_FALSE(hosts_.doubled);
  Operation restart;
  for (const auto& [name, operation] : server_->view().operations.all()) {
    if (operation->arguments.epoch == vm(web).status.epoch) restart = *operation;
  }
  const LostCopy there{target, FenceProof::bmc_power_off};
  EXPECT_EQ(std::count(restart.arguments.lost.begin(), restart.arguments.lost.end(), there), 1);
}

TEST_F(Clustering, F_F7_a_start_that_took_effect_after_it_was_given_up_ends_the_recovery) {
  const VmId web = running_vm("web");
  hosts_.unanswered = {CommandKind::start, CommandKind::stop};
  hosts_.cut_power(vm(web).status.host);
  ASSERT_TRUE(until([&] { return events("vm.start_failed") == 1; }));
  hosts_.unanswered.clear();
  ASSERT_TRUE(until([&] { return serves(web); }));
  EXPECT_FALSE(vm(web).status.recovering);
  EXPECT_TRUE(vm(web).status.lost.empty());
  EXPECT_TRUE(vm(web).status.unplaced_reason.empty());
}

TEST_F(Clustering, F_B8_a_vm_stopped_with_its_lost_host_starts_again_with_that_proof) {
  const VmId web = running_vm("web");
  const HostId lost = vm(web).status.host;
  edit_vm(web, [](Vm& changed) { changed.spec.power = DesiredPower::stopped; });
  hosts_.cut_power(lost);
  ASSERT_TRUE(until([&] { return vm(web).status.power == VmPower::stopped; }));
  ASSERT_TRUE(until([&] { return vm(web).status.operation.empty(); }));
  edit_vm(web, [](Vm& changed) { changed.spec.power = DesiredPower::running; });
  ASSERT_TRUE(until([&] { return events("vm.placed") == 2; }));
  LostCopies told;
  for (const auto& [name, operation] : server_->view().operations.all()) {
    if (operation->arguments.epoch == vm(web).status.epoch) told = operation->arguments.lost;
  }
  EXPECT_EQ(told, (LostCopies{{lost, FenceProof::bmc_power_off}}));
}

TEST_F(Clustering, F_B8_a_deleted_vm_leaves_nothing) {
  const VmId web = running_vm("web");
  edit_vm(web, [](Vm& changed) { changed.meta.deleting_at = WallTime{1}; });
  ASSERT_TRUE(until([&] { return server_->view().vms.find(web) == nullptr; }));
  EXPECT_TRUE(hosts_.running(web).empty());
  EXPECT_EQ(hosts_.count(CommandKind::erase), 1);
}

TEST_F(Clustering, F_B3_a_cancelled_start_is_undone) {
  hosts_.answer_after = seconds(2);
  const VmId web = add_vm("web");
  ASSERT_TRUE(until([&] { return hosts_.count(CommandKind::start) == 1; }));
  edit_vm(web, [](Vm& changed) { changed.spec.power = DesiredPower::stopped; });
  const Operation running = *operation_of(web, OperationKind::start_vm);
  put<Operation>([&] {
    Operation changed = *server_->view().operations.find(running.id());
    changed.cancel_requested = true;
    return changed;
  });
  ASSERT_TRUE(until([&] { return vm(web).status.operation.empty(); }));
  EXPECT_EQ(operation_of(web, OperationKind::start_vm)->state, OperationState::cancelled);
  EXPECT_TRUE(hosts_.running(web).empty());
  EXPECT_EQ(vm(web).status.power, VmPower::stopped);
}

TEST_F(Clustering, F_F15_a_host_that_comes_back_after_its_vms_moved_ends_its_old_copies) {
  const VmId web = running_vm("web");
  const HostId cut = vm(web).status.host;
  const auto old_copies = hosts_.machines[cut].copies;
  hosts_.machines[cut].linked = false;
  ASSERT_TRUE(until([&] { return serves(web) && vm(web).status.host != cut; }));
  hosts_.machines[cut].copies = old_copies;  // a clone that appears with the old epoch
  hosts_.machines[cut].copies.begin()->second.power = VmPower::paused;
  hosts_.machines[cut].linked = true;
  ASSERT_TRUE(until([&] { return hosts_.machines[cut].copies.empty(); }));
  ASSERT_TRUE(until([&] { return host(cut).status.health == HostHealth::alive; }));
  EXPECT_TRUE(serves(web));
}

/// Commits whose outcome is not known, done or lost, in every kind of work.
TEST_F(Clustering, F_B2_F_B3_unknown_outcomes_of_commits_do_no_harm) {
  constexpr int kRuns = 25;
  for (int run = 0; run < kRuns; ++run) {
    server_->store().set_options({.unknown_done_per_million = 200'000,
                                  .unknown_lost_per_million = 200'000,
                                  .compact_per_million = 50'000});
    const VmId web = VmId("acme/web" + std::to_string(run));
    Vm made;
    made.meta.name = "web" + std::to_string(run);
    made.meta.tenant = "acme";
    made.spec.cluster = ClusterId("c1");
    made.spec.image = ImageId("tiny");
    Transaction transaction;
    transaction.put(made);
    server_->store().set_options({});
    server_->store().commit(transaction.guards(), transaction.writes(),
                            [](Result<CommitOutcome>) {});
    ASSERT_TRUE(until([&] { return server_->view().vms.find(web) != nullptr; }));
    server_->store().set_options({.unknown_done_per_million = 200'000,
                                  .unknown_lost_per_million = 200'000,
                                  .compact_per_million = 50'000});
    ASSERT_TRUE(until([&] { return serves(web); })) << run;
    const HostId home = vm(web).status.host;
    hosts_.machines[home].copies.erase(web);
    ASSERT_TRUE(until([&] { return vm(web).status.restarts == 1 && serves(web); })) << run;
    ASSERT_FALSE(hosts_.doubled);
  }
}

/// The server is killed at every moment of a start, a move and a recovery, and goes on from what
/// is stored.
TEST_F(Clustering, F_B3_F_F1_F_F5_F_F6_a_server_killed_at_any_moment_goes_on_from_the_cursor) {
  constexpr std::int64_t kStepMs = 20;
  for (std::int64_t kill_after = 0; kill_after < 500; kill_after += kStepMs) {
    const VmId web = add_vm("web" + std::to_string(kill_after));
    loop_.run_for(milliseconds(kill_after));
    boot();
    ASSERT_TRUE(until([&] { return serves(web); })) << "start, killed after " << kill_after;
    const HostId source = vm(web).status.host;
    const HostId target(source == HostId("a") ? "b" : "a");
    edit_vm(web, [&](Vm& changed) { changed.spec.move_to = target; });
    loop_.run_for(milliseconds(kill_after));
    boot();
    ASSERT_TRUE(until([&] { return serves(web) && vm(web).status.host == target; }))
        << "move, killed after " << kill_after;
    edit_vm(web, [](Vm& changed) { changed.meta.deleting_at = WallTime{1}; });
    loop_.run_for(milliseconds(kill_after));
    boot();
    ASSERT_TRUE(until([&] { return server_->view().vms.find(web) == nullptr; }))
        << "delete, killed after " << kill_after;
    ASSERT_FALSE(hosts_.doubled) << kill_after;
  }
}

TEST_F(Clustering, F_F10_a_server_restarted_while_a_host_dies_still_recovers_its_vms) {
  const VmId web = running_vm("web");
  const HostId lost = vm(web).status.host;
  hosts_.cut_power(lost);
  for (int restart = 0; restart < 4; ++restart) {
    loop_.run_for(milliseconds(900));
    boot();
  }
  ASSERT_TRUE(until([&] { return serves(web); }));
  EXPECT_NE(vm(web).status.host, lost);
  EXPECT_EQ(vm(web).status.restarts, 1);
  EXPECT_FALSE(hosts_.doubled);
}

TEST_F(Clustering, F_B7_F_F16_many_hosts_that_fall_silent_at_once_change_in_few_commits) {
  Transaction more;
  for (int number = 0; number < 60; ++number) add_host(more, fmt::format("more-{}", number));
  apply(more);
  boot();
  loop_.run_for(seconds(2));
  for (auto& [id, machine] : hosts_.machines) machine.linked = false;
  const Revision before = server_->view().revision;
  const auto all_suspect = [&] {
    for (const auto& [id, machine] : hosts_.machines) {
      if (host(id).status.health != HostHealth::suspect) return false;
    }
    return true;
  };
  ASSERT_TRUE(until(all_suspect, seconds(10)));
  EXPECT_LE(server_->view().revision - before, 4U);
}

TEST_F(Clustering, F_F13_a_store_that_is_full_is_asked_again_after_a_pause) {
  hosts_.machines[HostId("a")].linked = false;
  disk_->full = true;
  const std::uint64_t before = server_->rounds();
  loop_.run_for(seconds(6));
  EXPECT_LE(server_->rounds() - before, 2 * 6U * 4U);
  EXPECT_EQ(host(HostId("a")).status.health, HostHealth::alive);
  disk_->full = false;
  EXPECT_TRUE(until([&] { return host(HostId("a")).status.health != HostHealth::alive; }));
}

}  // namespace
}  // namespace virga
