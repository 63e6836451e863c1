#include <gtest/gtest.h>

#include "arch/hypervisor_clustering/attachments.h"
#include "arch/hypervisor_clustering/launch.h"
#include "arch/hypervisor_clustering/test_volumes.h"

/// VMs whose disks are volumes: planned, started, moved and recovered.
namespace virga {
namespace {

using test::device_on;
using test::FakeServer;
using test::ready_volume;
using test::VolumePlanning;
using test::VolumesInUse;

TEST_F(VolumePlanning, R_B2_TheVolumesOfADeadHostsVmProveThatItCannotAct) {
  const VmId db = vm_with_volume("a");
  kill("a");
  const ClusterPlan made = plan();
  ASSERT_EQ(made.vm_fences.size(), 1U);
  EXPECT_EQ(made.vm_fences[0].vm, db);
  EXPECT_EQ(made.vm_fences[0].host, HostId("a"));
  EXPECT_EQ(made.vm_fences[0].epoch, (Epoch{1, 7}));
  EXPECT_TRUE(made.starts.empty()) << "not before the proof is stored";
}

TEST_F(VolumePlanning, R_B2_NothingIsProvenByStorageThatCannotCutOffAll) {
  const VmId db = vm_with_volume("a");
  kill("a");
  ASSERT_EQ(plan().vm_fences.size(), 1U);
  edit_vm(db, [](Vm& vm) { vm.spec.disks.push_back({"logs", Mib{64}, ""}); });
  EXPECT_TRUE(plan().vm_fences.empty()) << "one disk is a file that locks alone protect";
  edit_vm(db, [](Vm& vm) { vm.spec.disks = {}; });
  EXPECT_TRUE(plan().vm_fences.empty()) << "without a disk nothing was cut off";
  edit_vm(db, [](Vm& vm) { vm.spec.disks = {{"data", Mib(), "data"}}; });
  silence("c", seconds(3), 1, 1);
  EXPECT_TRUE(plan().vm_fences.empty()) << "its storage does not answer";
}

TEST_F(VolumePlanning, R_B2_F_F11_NothingGoesByPlacesThatTheGuestDoesNotWriteTo) {
  const VmId db = vm_with_volume("a");
  const auto writes_to = [this](const char* device) {
    evidence.hosts[HostId("a")].vms.front().disks = {
        {VolumeId("acme/data"), Mib{64}, {DeviceId(device)}, {}}};
  };
  edit_host("a", [](Host& host) { host.spec.maintenance = true; });
  writes_to("disk-c");
  EXPECT_EQ(plan().moves.size(), 1U);
  writes_to("disk-b");  // as after a restore of a backup that is older than its move
  EXPECT_TRUE(plan().moves.empty());
  evidence.cut_off.insert(db);
  EXPECT_TRUE(plan().stops.empty()) << "the place that has cut it off is not the one it writes to";
  edit_vm(db, [](Vm& vm) { vm.spec.restart = true; });
  EXPECT_TRUE(plan().stops.empty()) << "it would start with what the other place holds";
  const std::vector<ObservedVm> last_seen = evidence.hosts[HostId("a")].vms;
  kill("a");
  evidence.hosts[HostId("a")].vms = last_seen;
  EXPECT_TRUE(plan().vm_fences.empty()) << "and what that one revokes proves nothing";
  writes_to("disk-c");
  EXPECT_EQ(plan().vm_fences.size(), 1U);
}

TEST_F(VolumePlanning, F_F11_WhileARestoredServerListensNothingMoves) {
  vm_with_volume("a");
  edit_host("a", [](Host& host) { host.spec.maintenance = true; });
  ASSERT_EQ(plan().moves.size(), 1U);
  evidence.recovery_held = true;
  EXPECT_TRUE(plan().moves.empty());
}

TEST_F(VolumePlanning, R_B2_R_B4_AMoveWhoseSourceIsDeadIsFencedAtBothEnds) {
  const VmId db = vm_with_volume("a");
  OperationArguments move;
  move.source = HostId("a");
  move.destination = HostId("b");
  move.epoch = {1, 7};
  move.next_epoch = {1, 9};
  add_operation(OperationKind::migrate_vm, db, move);
  edit_vm(db, [](Vm& vm) {
    vm.status.migration = {MigrationPhase::prepared, HostId("b"), {1, 9}};
  });
  EXPECT_TRUE(plan().vm_fences.empty());
  kill("a");
  ASSERT_EQ(plan().vm_fences.size(), 1U);
  EXPECT_EQ(plan().vm_fences[0].epoch, (Epoch{1, 9}));
  edit_vm(db, [](Vm& vm) { vm.status.migration.phase = MigrationPhase::switching; });
  EXPECT_TRUE(plan().vm_fences.empty()) << "its steps know which of the two may go on";
}

TEST_F(VolumePlanning, R_B2_AHostThatIsMerelySuspectKeepsItsVolumes) {
  vm_with_volume("a");
  silence("a", milliseconds(2100), 2, 2);
  EXPECT_TRUE(plan().vm_fences.empty());
}

TEST_F(VolumePlanning, R_B2_ACopyThatAFenceWithoutEndHasCutOffIsStartedAnew) {
  const VmId db = vm_with_volume("a");
  EXPECT_TRUE(plan().stops.empty());
  evidence.cut_off.insert(db);
  const ClusterPlan made = plan();
  ASSERT_EQ(made.stops.size(), 1U);
  EXPECT_TRUE(made.stops[0].force);
  EXPECT_EQ(made.stops[0].epoch, (Epoch{1, 7}));
  evidence.recovery_held = true;
  EXPECT_TRUE(plan().stops.empty()) << "not before a restore is confirmed";
}

TEST_F(VolumePlanning, A10_04_R_B4_ADiskThatHasAPlaceElsewhereIsMovedThere) {
  const VmId db = vm_with_volume("a");
  view.devices.put(std::make_shared<const Device>(device_on("b")));
  Volume moved = ready_volume("data", "c");
  moved.spec.device = DeviceId("disk-b");
  moved.status.legs.push_back({DeviceId("disk-b"), LegState::creating});
  view.volumes.put(std::make_shared<const Volume>(moved));
  EXPECT_TRUE(plan().disk_moves.empty()) << "its place is not there yet";
  moved.status.legs.back().state = LegState::behind;
  view.volumes.put(std::make_shared<const Volume>(moved));
  const ClusterPlan made = plan();
  ASSERT_EQ(made.disk_moves.size(), 1U);
  EXPECT_EQ(made.disk_moves[0].vm, db);
  EXPECT_EQ(made.disk_moves[0].host, HostId("a"));
  EXPECT_EQ(made.disk_moves[0].device, DeviceId("disk-b"));
  evidence.moves_resting.insert(db);
  EXPECT_TRUE(plan().disk_moves.empty()) << "the last try failed a moment ago";
  evidence.moves_resting.clear();
  edit_vm(db, [](Vm& vm) { vm.spec.move_to = HostId("b"); });
  EXPECT_TRUE(plan().disk_moves.empty()) << "one move at a time";
  edit_vm(db, [](Vm& vm) { vm.spec.move_to = HostId(); });
  silence("b", seconds(3), 1, 1);
  EXPECT_TRUE(plan().disk_moves.empty()) << "its new place does not answer";
}

TEST_F(VolumePlanning, A3_14_R_B4_AVmStartsWhereItsLocalVolumesAreAndMovesWhereThereIsRoomForAll) {
  const VmId db = vm_with_volume("");
  edit_vm(db, [](Vm& vm) { vm.spec.disks.push_back({"log", Mib(), "log"}); });
  for (const char* name : {"data", "log"}) {
    Volume local = ready_volume(name, "c");
    local.spec.local = true;
    view.volumes.put(std::make_shared<const Volume>(local));
  }
  add_vm("other", "c");
  ClusterPlan made = plan();
  ASSERT_EQ(made.starts.size(), 1U);
  EXPECT_EQ(made.starts[0].host, HostId("c")) << "although others have more room";
  EXPECT_NE(made.starts[0].reason.find("has its local volumes"), std::string::npos);

  Device small = device_on("a");
  small.spec.capacity_mib = Mib{100};
  view.devices.put(std::make_shared<const Device>(small));
  view.devices.put(std::make_shared<const Device>(device_on("b")));
  add_vm("third", "b");
  edit_vm(db, [](Vm& vm) {
    vm.status.host = HostId("c");
    vm.status.power = VmPower::running;
    vm.status.epoch = {1, 9};
  });
  EXPECT_EQ(hosts_beside_volumes(view, *view.vms.find(db), true),
            (std::set<HostId>{HostId("b"), HostId("c")}))
      << "a has room for one of the two";
  Volume moving = ready_volume("data", "c");
  moving.spec.local = true;
  moving.status.legs = {{DeviceId("disk-a"), LegState::in_sync}};
  view.volumes.put(std::make_shared<const Volume>(moving));
  EXPECT_FALSE(hosts_beside_volumes(view, *view.vms.find(db), true).contains(HostId("a")))
      << "the one that is there leaves no room for the other";
  small.spec.capacity_mib = Mib{130};
  view.devices.put(std::make_shared<const Device>(small));
  EXPECT_TRUE(hosts_beside_volumes(view, *view.vms.find(db), true).contains(HostId("a")))
      << "one of them is there already";

  const VmId other = add_vm("late", "b");
  Volume coming = ready_volume("coming", "c");
  coming.spec.local = true;
  coming.spec.size_mib = coming.status.size_mib = Mib{900};
  view.volumes.put(std::make_shared<const Volume>(coming));
  edit_vm(other, [](Vm& vm) { vm.spec.disks = {{"coming", Mib(), "coming"}}; });
  EXPECT_FALSE(hosts_beside_volumes(view, *view.vms.find(db), true).contains(HostId("b")))
      << "the room there is that of a volume that has not followed its VM yet";
}

TEST_F(VolumePlanning, A3_14_R_B4_WhatIsAskedOfAVmDoesNotWaitForTheCopyOfItsDisk) {
  const VmId db = vm_with_volume("a");
  Operation copying;
  copying.meta.name = "op-1";
  copying.kind = OperationKind::move_disk;
  copying.state = OperationState::running;
  copying.subject = keys::of(db);
  copying.arguments.source = HostId("a");
  view.operations.put(std::make_shared<const Operation>(copying));
  edit_vm(db, [](Vm& vm) { vm.status.operation = OperationId("op-1"); });
  EXPECT_TRUE(plan().called_off.empty());
  const auto called_off = [&](const std::function<void(Vm&)>& change) {
    const Vm before = *view.vms.find(db);
    edit_vm(db, change);
    const ClusterPlan made = plan();
    view.vms.put(std::make_shared<const Vm>(before));
    return made.called_off.size() == 1 ? made.called_off[0].reason : "";
  };
  EXPECT_EQ(called_off([](Vm& vm) { vm.spec.power = DesiredPower::stopped; }), "the VM shall stop");
  EXPECT_EQ(called_off([](Vm& vm) { vm.spec.restart = true; }), "the VM shall restart");
  EXPECT_EQ(called_off([](Vm& vm) { vm.meta.deleting_at = WallTime{1}; }),
            "the VM is being deleted");
  const std::string leaves = "the VM shall leave its host";
  EXPECT_EQ(called_off([](Vm& vm) { vm.spec.move_to = HostId("b"); }), leaves);
  edit_host("a", [](Host& host) { host.spec.maintenance = true; });
  EXPECT_EQ(called_off([](Vm&) {}), leaves);
}

TEST_F(VolumePlanning, R_B1_AGuestIsShownTheSizeOfItsVolumeAndNothingMovesBefore) {
  const VmId db = vm_with_volume("a");
  Volume moved = ready_volume("data", "c");
  moved.spec.device = DeviceId("disk-b");
  moved.status.legs.push_back({DeviceId("disk-b"), LegState::behind});
  moved.status.size_mib = Mib{96};
  view.volumes.put(std::make_shared<const Volume>(moved));
  view.devices.put(std::make_shared<const Device>(device_on("b")));
  ObservedVm& copy = evidence.hosts[HostId("a")].vms.front();
  EXPECT_TRUE(plan().disk_growths.empty()) << "an agent of before does not say what its guest has";
  copy.disks = {{moved.id(), Mib{64}}};
  ClusterPlan made = plan();
  ASSERT_EQ(made.disk_growths.size(), 1U);
  EXPECT_EQ(made.disk_growths[0].vm, db);
  EXPECT_EQ(made.disk_growths[0].volume, moved.id());
  EXPECT_TRUE(made.disk_moves.empty());
  copy.disks = {{moved.id(), Mib{96}}};
  made = plan();
  EXPECT_TRUE(made.disk_growths.empty());
  EXPECT_EQ(made.disk_moves.size(), 1U);
}

TEST_F(VolumePlanning, A10_04_R_B2_AVmWhoseDiskMovesIsFencedByThePlaceThatCounts) {
  const VmId db = vm_with_volume("a");
  OperationArguments move;
  move.source = HostId("a");
  move.epoch = {1, 7};
  move.volume = VolumeId("acme/data");
  move.device = DeviceId("disk-b");
  add_operation(OperationKind::move_disk, db, move);
  EXPECT_TRUE(plan().vm_fences.empty());
  kill("a");
  ASSERT_EQ(plan().vm_fences.size(), 1U);
}

TEST_F(VolumePlanning, R_B1_AVmWaitsForItsVolumesAndSaysSo) {
  const VmId db = vm_with_volume("");
  ASSERT_EQ(plan().starts.size(), 1U);
  silence("c", seconds(3), 1, 1);
  ClusterPlan made = plan();
  EXPECT_TRUE(made.starts.empty());
  ASSERT_EQ(made.unplaced.size(), 1U);
  EXPECT_EQ(
      made.unplaced[0].reason,
      "it should run, but volume acme/data is on device disk-c, whose host c does not report");
  Volume made_now = ready_volume("data", "c");
  made_now.status.legs.front().state = LegState::creating;
  view.volumes.put(std::make_shared<const Volume>(made_now));
  made = plan();
  ASSERT_EQ(made.unplaced.size(), 1U);
  EXPECT_EQ(made.unplaced[0].vm, db);
  EXPECT_EQ(
      made.unplaced[0].reason,
      "it should run, but volume acme/data is not ready; `virga volume get acme/data` says why");
}

TEST_F(VolumePlanning, R_B1_ALaunchNamesItsVolumesAndTheirKeysComeLater) {
  const VmId db = vm_with_volume("");
  auto launch = resolve_launch(view, vm(db), {1, 9});
  ASSERT_TRUE(launch.ok());
  ASSERT_EQ(launch->disks.size(), 1U);
  EXPECT_EQ(launch->disks[0].volume, "acme/data");
  EXPECT_TRUE(launch->disks[0].path.empty());
  EXPECT_FALSE(add_endpoints(*launch, {}).ok());
  VolumeAdmission admission;
  admission.endpoints.emplace_back(VolumeId("acme/data"), VolumeEndpoint());
  EXPECT_TRUE(add_endpoints(*launch, admission).ok());
  EXPECT_TRUE(launch->disks[0].endpoint.has_value());
}

TEST_F(VolumesInUse, R_B1_R_B2_AStartIsLetInAloneWithItsEpoch) {
  place().epochs = {{1, 1}};  // whoever had it before
  ASSERT_TRUE(until([&] { return serves(); }));
  EXPECT_EQ(attached(), std::set<Epoch>{vm().status.epoch});
  const auto& commands = hosts.commands;
  const auto start = std::find_if(commands.begin(), commands.end(), [](const auto& one) {
    return one.second.kind == CommandKind::start;
  });
  ASSERT_NE(start, commands.end());
  EXPECT_TRUE(start->second.launch->disks.at(0).endpoint.has_value());
  EXPECT_EQ(disk->state.find("vm/acme/db")->value.find("\"k\""), std::string::npos)
      << "no key in the store";
}

TEST_F(VolumesInUse, R_B2_R_B4_A3_15_AMoveHandsTheVolumeOverWithoutACopy) {
  ASSERT_TRUE(until([&] { return serves(); }));
  const Epoch before = vm().status.epoch;
  const HostId target = other();
  order_move(target);
  ASSERT_TRUE(until([&] { return serves() && vm().status.host == target; }));
  EXPECT_GT(vm().status.epoch, before);
  EXPECT_EQ(attached(), std::set<Epoch>{vm().status.epoch}) << "what was left is over";
  EXPECT_GE(place().revoked, before);
}

TEST_F(VolumesInUse, R_B2_R_B4_AMoveThatFailsLeavesTheSourceAloneLetIn) {
  ASSERT_TRUE(until([&] { return serves(); }));
  const Epoch before = vm().status.epoch;
  hosts.failing.emplace(CommandKind::send, make_error(Errc::internal, "no route"));
  order_move(other());
  ASSERT_TRUE(until([&] { return hosts.count(CommandKind::detach_volume) > 0 && serves(); }));
  EXPECT_EQ(vm().status.epoch, before);
  EXPECT_EQ(attached(), std::set<Epoch>{before});
}

/// The volume shall be on a device of host b, where its place is made.
class VolumeMoves : public VolumesInUse {
 protected:
  const Volume& stored() const { return *server->view().volumes.find(volume); }
  void order_disk_move() {
    ASSERT_TRUE(until([&] { return serves(); }));
    bool done = false;
    Transaction transaction;
    Device slower = device_on("b");
    slower.spec.copy_mib_per_second_max = Mib{16};
    transaction.put(slower);
    Volume changed = stored();
    changed.spec.device = DeviceId("disk-b");
    changed.status.legs.push_back({DeviceId("disk-b"), LegState::behind});
    transaction.put(changed);
    server->store().commit(transaction.guards(), transaction.writes(),
                           [&](Result<CommitOutcome> outcome) {
                             done = outcome->verdict == CommitVerdict::committed;
                           });
    ASSERT_TRUE(until([&] { return done; }));
  }
  int first(CommandKind kind) const {
    for (std::size_t at = 0; at < hosts.commands.size(); ++at) {
      if (hosts.commands[at].second.kind == kind) return static_cast<int>(at);
    }
    return -1;
  }
  bool moved() const { return stored().status.legs.front().device == DeviceId("disk-b"); }
};

TEST_F(VolumeMoves, A10_04_R_B4_TheStoreSaysWhichPlaceCountsBeforeTheGuestRunsThere) {
  order_disk_move();
  hosts.failing.emplace(CommandKind::switch_disk, make_error(Errc::unavailable, "no answer"));
  ASSERT_TRUE(until([&] { return hosts.count(CommandKind::switch_disk) > 1; }));
  EXPECT_TRUE(moved());
  EXPECT_EQ(stored().status.legs.front().state, LegState::in_sync);
  EXPECT_EQ(stored().status.legs.back().state, LegState::behind);
  EXPECT_FALSE(vm().status.operation.empty()) << "asked until it is known: the guest is paused";
  hosts.failing.clear();
  ASSERT_TRUE(until([&] { return serves(); }));
  EXPECT_LT(first(CommandKind::mirror_disk), first(CommandKind::switch_disk));
  const auto& mirror = hosts.commands.at(static_cast<std::size_t>(first(CommandKind::mirror_disk)));
  EXPECT_EQ(mirror.second.mirror->volume, "acme/data");
  EXPECT_FALSE(mirror.second.mirror->to.export_name.empty());
  EXPECT_EQ(mirror.second.mirror->bytes_per_second_max, 16 << 20) << "what both devices bear";
  EXPECT_EQ(hosts.count(CommandKind::cancel_mirror), 0);
}

TEST_F(VolumeMoves, A10_04_R_B4_ACopyThatFailsLeavesTheGuestWhereItWasAndIsTriedAgain) {
  hosts.failing.emplace(CommandKind::mirror_disk, make_error(Errc::unavailable, "target is gone"));
  order_disk_move();
  ASSERT_TRUE(until([&] { return hosts.count(CommandKind::cancel_mirror) > 0 && serves(); }));
  EXPECT_FALSE(moved());
  EXPECT_EQ(hosts.count(CommandKind::switch_disk), 0);
  hosts.failing.clear();
  ASSERT_TRUE(until([&] { return moved() && serves(); }));
}

TEST_F(VolumeMoves, A10_04_R_B4_AServerThatDiesWhileTheGuestIsPausedIsFollowedByOneThatLetsItRun) {
  hosts.failing.emplace(CommandKind::switch_disk, make_error(Errc::unavailable, "no answer"));
  order_disk_move();
  ASSERT_TRUE(until([&] { return hosts.count(CommandKind::switch_disk) > 0; }));
  server.reset();
  hosts.failing.clear();
  server = std::make_unique<FakeServer>(loop, hosts, disk, MemoryStoreOptions(), 2);
  ASSERT_TRUE(until([&] { return server->view().vms.find(id) != nullptr && serves(); }));
  EXPECT_TRUE(moved());
}

TEST_F(VolumeMoves, A10_04_R_B2_AHostThatIsLostInTheMiddleIsRecoveredFromThePlaceThatCounts) {
  hosts.failing.emplace(CommandKind::switch_disk, make_error(Errc::unavailable, "no answer"));
  order_disk_move();
  ASSERT_TRUE(until([&] { return hosts.count(CommandKind::switch_disk) > 0; }));
  const HostId lost = vm().status.host;
  hosts.cut_power(lost);
  ASSERT_TRUE(until([&] { return serves() && vm().status.host != lost; }));
  EXPECT_TRUE(moved());
}

TEST_F(VolumesInUse, R_B2_A1_06_ALostHostsVmStartsElsewhereOnTheWordOfItsVolumes) {
  ASSERT_TRUE(until([&] { return serves(); }));
  const Epoch before = vm().status.epoch;
  const HostId lost = vm().status.host;
  const Instant cut = loop.now();
  hosts.cut_power(lost);
  ASSERT_TRUE(until([&] { return serves() && vm().status.host != lost; }));
  EXPECT_LT(loop.now() - cut, seconds(5)) << "without BMC, long before the lease ends";
  EXPECT_EQ(attached(), std::set<Epoch>{vm().status.epoch});
  EXPECT_GE(place().revoked, before);
  const auto& all = server->view().operations.all();
  const auto start = std::find_if(all.begin(), all.end(), [&](const auto& one) {
    return one.second->kind == OperationKind::start_vm &&
           one.second->arguments.epoch == vm().status.epoch;
  });
  ASSERT_NE(start, all.end());
  ASSERT_FALSE(start->second->arguments.lost.empty());
  EXPECT_EQ(start->second->arguments.lost.back(), (LostCopy{lost, FenceProof::storage_revoked}));
}

TEST_F(VolumesInUse, R_B2_R_B4_AMoveWhoseSourceDiesIsRecoveredOnTheWordOfItsVolumes) {
  ASSERT_TRUE(until([&] { return serves(); }));
  const HostId lost = vm().status.host;
  const Epoch before = vm().status.epoch;
  hosts.failing.emplace(CommandKind::send, make_error(Errc::unavailable, "no answer"));
  order_move(other());
  ASSERT_TRUE(until([&] { return hosts.count(CommandKind::send) > 0; }));
  hosts.failing.clear();
  const Instant cut = loop.now();
  hosts.cut_power(lost);
  ASSERT_TRUE(until([&] { return serves() && vm().status.host != lost; }));
  EXPECT_LT(loop.now() - cut, seconds(8)) << "the move does not wait for a lease";
  EXPECT_GT(vm().status.epoch, before);
  EXPECT_EQ(attached(), std::set<Epoch>{vm().status.epoch});
}

TEST_F(VolumesInUse, R_B2_WithoutAConfirmationTheLeaseIsAwaited) {
  ASSERT_TRUE(until([&] { return serves(); }));
  const HostId lost = vm().status.host;
  hosts.failing.emplace(CommandKind::revoke_volume, make_error(Errc::timeout, "no answer"));
  const Instant cut = loop.now();
  hosts.cut_power(lost);
  ASSERT_TRUE(until([&] { return vm().status.host != lost; }));
  EXPECT_GT(loop.now() - cut, seconds(10));
  EXPECT_EQ(vm().status.power, VmPower::starting);
}

}  // namespace
}  // namespace virga
