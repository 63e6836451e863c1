#include <gtest/gtest.h>

#include <algorithm>

#include "arch/hypervisor_clustering/launch.h"
#include "arch/hypervisor_clustering/test_volumes.h"

/// VMs whose volumes are in two places: what is planned when one is lost, and what a start, a fence
/// and a copy make of it.
namespace virga {
namespace {

using test::device_on;
using test::FakeServer;
using test::ready_volume;

const DeviceId kFirst("disk-c");
const DeviceId kSecond("disk-d");

Volume mirrored_volume(LegState second = LegState::in_sync) {
  Volume made = ready_volume("data", "c");
  made.spec.mirrored = true;
  made.status.legs.push_back({kSecond, second});
  return made;
}

class MirroredClusterPlanning : public test::VolumePlanning {
 protected:
  MirroredClusterPlanning() {
    add_host("d");
    view.devices.put(std::make_shared<const Device>(device_on("d")));
    db = vm_with_volume("a");
    put(mirrored_volume());
    copy().disks = {{VolumeId("acme/data"), Mib{64}, {kFirst, kSecond}, {}}};
  }
  void put(const Volume& volume) { view.volumes.put(std::make_shared<const Volume>(volume)); }
  ObservedVm& copy() { return evidence.hosts[HostId("a")].vms.front(); }

  VmId db;
};

TEST_F(MirroredClusterPlanning, R_B1_AGuestIsPutOnThePlaceThatCountsAsSoonAsTheOtherDoesNot) {
  EXPECT_TRUE(plan().settlements.empty());
  Volume volume = mirrored_volume();
  ASSERT_TRUE(set_leg(volume.status, kFirst, LegState::behind));
  put(volume);
  ASSERT_EQ(plan().settlements.size(), 1U);
  EXPECT_EQ(plan().settlements[0].vm, db);
  EXPECT_EQ(plan().settlements[0].host, HostId("a"));
  EXPECT_EQ(plan().settlements[0].device, kSecond);
  EXPECT_EQ(plan().settlements[0].how, DiskSettlement::keep_leg);
  EXPECT_TRUE(plan().disk_moves.empty()) << "it still writes there";
  edit_vm(db, [](Vm& vm) {
    vm.status.power = VmPower::paused;
    vm.status.health = VmHealth::failing;
    vm.status.health_reason = "disk data: Input/output error";
  });
  copy().power = VmPower::paused;
  copy().health = VmHealth::failing;
  copy().health_reason = "disk data: Input/output error";
  EXPECT_EQ(plan().settlements.size(), 1U) << "it waits for this";
  evidence.disks_resting.insert(db);
  EXPECT_TRUE(plan().settlements.empty());
}

TEST_F(MirroredClusterPlanning, R_B1_APlaceIsMadeEqualWhenTheGuestWritesToTheOtherAlone) {
  put(mirrored_volume(LegState::behind));
  copy().disks[0].legs = {kFirst};
  ASSERT_EQ(plan().disk_moves.size(), 1U);
  EXPECT_EQ(plan().disk_moves[0].device, kSecond);
  EXPECT_EQ(plan().disk_moves[0].volume, VolumeId("acme/data"));
  copy().disks[0].legs.clear();
  EXPECT_TRUE(plan().disk_moves.empty()) << "an agent of before does not say where it writes";
  copy().disks[0].legs = {kFirst};
  put(mirrored_volume(LegState::creating));
  EXPECT_TRUE(plan().disk_moves.empty());
  put(mirrored_volume(LegState::leaving));
  EXPECT_TRUE(plan().disk_moves.empty());
  put(mirrored_volume(LegState::behind));
  silence("d", seconds(3), 1, 1);
  EXPECT_TRUE(plan().disk_moves.empty()) << "it does not answer";
}

TEST_F(MirroredClusterPlanning, R_B1_R_F2_ACopyThatNobodyCarriesOnIsEndedAsTheStoreSays) {
  put(mirrored_volume(LegState::behind));
  copy().disks[0].legs = {kFirst};
  copy().disks[0].copied_to = kSecond;
  copy().power = VmPower::paused;
  edit_vm(db, [](Vm& vm) { vm.status.power = VmPower::paused; });
  ASSERT_EQ(plan().settlements.size(), 1U) << "its guest is paused, as the copy left it";
  EXPECT_EQ(plan().settlements[0].how, DiskSettlement::drop_mirror);
  EXPECT_EQ(plan().settlements[0].device, kSecond);
  EXPECT_TRUE(plan().disk_moves.empty());
  put(mirrored_volume());
  ASSERT_EQ(plan().settlements.size(), 1U);
  EXPECT_EQ(plan().settlements[0].how, DiskSettlement::finish_mirror);
  OperationArguments arguments;
  arguments.device = kSecond;
  add_operation(OperationKind::move_disk, db, arguments);
  EXPECT_TRUE(plan().settlements.empty()) << "its steps do that";
}

TEST_F(MirroredClusterPlanning, R_B1_R_B4_AMoveIsCalledOffForAPlaceThatTakesNothing) {
  OperationArguments arguments;
  arguments.source = HostId("a");
  arguments.destination = HostId("b");
  const OperationId move = add_operation(OperationKind::migrate_vm, db, arguments);
  EXPECT_TRUE(plan().called_off.empty());
  copy().disks[0].failing = {kSecond};
  ASSERT_EQ(plan().called_off.size(), 1U);
  EXPECT_EQ(plan().called_off[0].operation, move);
  EXPECT_NE(plan().called_off[0].reason.find("disk-d"), std::string::npos);
  edit_vm(db, [](Vm& vm) { vm.status.migration.phase = MigrationPhase::switching; });
  EXPECT_TRUE(plan().called_off.empty()) << "its own steps know who has the guest";
  edit_vm(db, [](Vm& vm) { vm.status.migration = VmMigration(); });
  Operation asked = *view.operations.find(move);
  asked.cancel_requested = true;
  view.operations.put(std::make_shared<const Operation>(asked));
  EXPECT_TRUE(plan().called_off.empty());
  add_operation(OperationKind::stop_vm, db, arguments);
  EXPECT_TRUE(plan().called_off.empty());
}

TEST_F(MirroredClusterPlanning, R_B1_ItStartsWhenItHasGrownInBothPlaces) {
  edit_vm(db, [](Vm& vm) {
    vm.status.power = VmPower::stopped;
    vm.status.host = HostId();
  });
  evidence.hosts[HostId("a")].vms.clear();
  Volume volume = mirrored_volume();
  volume.spec.size_mib = Mib{128};
  put(volume);
  EXPECT_TRUE(plan().starts.empty());
  ASSERT_EQ(plan().unplaced.size(), 1U);
  EXPECT_NE(plan().unplaced[0].reason.find("grows to 128 MiB first"), std::string::npos);
  ASSERT_TRUE(set_leg(volume.status, kSecond, LegState::behind));
  put(volume);
  EXPECT_TRUE(plan().starts.empty()) << "its guest could not see it grow";
  volume.status.size_mib = Mib{128};
  put(volume);
  EXPECT_EQ(plan().starts.size(), 1U);
}

TEST_F(MirroredClusterPlanning, R_B1_NothingElseIsBegunWhileAPlaceTakesNothing) {
  edit_host("a", [](Host& host) { host.spec.maintenance = true; });
  EXPECT_EQ(plan().moves.size(), 1U);
  copy().disks[0].failing = {kSecond};
  EXPECT_TRUE(plan().moves.empty()) << "it would be called off at once";
}

TEST_F(MirroredClusterPlanning, R_B1_ACopyThatNobodyCarriesOnIsEndedFirst) {
  Volume behind = mirrored_volume();
  ASSERT_TRUE(set_leg(behind.status, kFirst, LegState::behind));
  put(behind);
  Volume other = mirrored_volume(LegState::behind);
  other.meta.name = "logs";
  put(other);
  copy().disks.push_back({VolumeId("acme/logs"), Mib{64}, {kFirst}, {}, kSecond});
  ASSERT_EQ(plan().settlements.size(), 1U);
  EXPECT_EQ(plan().settlements[0].how, DiskSettlement::drop_mirror);
  EXPECT_EQ(plan().settlements[0].volume, VolumeId("acme/logs"));
  edit_vm(db, [](Vm& vm) { vm.spec.restart = true; });
  EXPECT_TRUE(plan().settlements.empty()) << "a restart settles all";
  EXPECT_EQ(plan().stops.size(), 1U);
}

TEST_F(MirroredClusterPlanning, R_B2_TheWordOfOnePlaceIsEnoughForAFence) {
  kill("a");
  EXPECT_EQ(plan().vm_fences.size(), 1U);
  silence("c", seconds(3), 1, 1);
  EXPECT_EQ(plan().vm_fences.size(), 1U);
  silence("d", seconds(3), 1, 1);
  EXPECT_TRUE(plan().vm_fences.empty());
}

TEST_F(MirroredClusterPlanning, R_B1_AfterALossOnePlaceIsEnoughToStartAfterAnOrderlyEndBothCount) {
  edit_vm(db, [](Vm& vm) {
    vm.status.power = VmPower::stopped;
    vm.status.host = HostId();
  });
  evidence.hosts[HostId("a")].vms.clear();
  EXPECT_EQ(plan().starts.size(), 1U);
  silence("c", seconds(3), 1, 1);
  EXPECT_TRUE(plan().starts.empty()) << "until the store says that one is behind";
  edit_vm(db, [](Vm& vm) {
    vm.status.recovering = true;
    vm.status.lost = {{HostId("a"), FenceProof::storage_revoked}};
  });
  ASSERT_EQ(plan().starts.size(), 1U);
  EXPECT_EQ(plan().starts[0].kept_legs,
            (std::map<VolumeId, DeviceId>{{VolumeId("acme/data"), kSecond}}));
  Device closed = device_on("d");
  closed.status.available = false;
  view.devices.put(std::make_shared<const Device>(closed));
  EXPECT_TRUE(plan().starts.empty()) << "its host reports, but nobody serves it yet";
}

/// With the controller and the steps: the second place is on host d.
class MirroredInUse : public test::VolumesInUse {
 protected:
  MirroredInUse() {
    Transaction seeds;
    Host host;
    host.meta.name = "d";
    host.spec.cluster = ClusterId("c1");
    host.spec.maintenance = true;
    host.status.health = HostHealth::alive;
    host.status.boot_id = "boot-d";
    seeds.put(host);
    hosts.add(host.id());
    for (const char* name : {"c", "d"}) {
      seeds.put(device_on(name));
    }
    seeds.put(mirrored_volume());
    disk->state.apply(seeds.writes());
    server.reset();
    server = std::make_unique<FakeServer>(loop, hosts, disk, MemoryStoreOptions(), 3);
  }

  const Volume& stored() const { return *server->view().volumes.find(volume); }
  LegState state_of(const DeviceId& device) const {
    for (const VolumeLeg& leg : stored().status.legs) {
      if (leg.device == device) return leg.state;
    }
    return LegState::leaving;
  }
  std::set<Epoch>& epochs_on(const DeviceId& device) {
    return hosts.places[{volume, device}].epochs;
  }
  const Command& last(CommandKind kind) const {
    const auto found = std::find_if(hosts.commands.rbegin(), hosts.commands.rend(),
                                    [&](const auto& one) { return one.second.kind == kind; });
    VIRGA_CHECK(found != hosts.commands.rend());
    return found->second;
  }
  /// Its host says so with each report.
  void writes_to(std::vector<DeviceId> legs) {
    hosts.machines[vm().status.host].copies[id].disks = {{volume, Mib{64}, std::move(legs), {}}};
  }
};

TEST_F(MirroredInUse, R_B1_R_B2_AStartIsLetInToBothPlaces) {
  ASSERT_TRUE(until([&] { return serves(); }));
  EXPECT_EQ(epochs_on(kFirst), std::set<Epoch>{vm().status.epoch});
  EXPECT_EQ(epochs_on(kSecond), std::set<Epoch>{vm().status.epoch});
  const LaunchDisk& launched = last(CommandKind::start).launch->disks.at(0);
  EXPECT_TRUE(launched.mirrored);
  ASSERT_TRUE(launched.endpoint && launched.second);
  EXPECT_EQ(launched.endpoint->device, kFirst);
  EXPECT_EQ(launched.second->device, kSecond);
}

TEST_F(MirroredInUse, R_B1_APlaceThatLetsNobodyInHoldsUpNoStart) {
  hosts.closed = {kFirst};
  ASSERT_TRUE(until([&] { return serves(); }));
  EXPECT_EQ(state_of(kSecond), LegState::in_sync);
  EXPECT_EQ(state_of(kFirst), LegState::behind);
  const LaunchDisk& launched = last(CommandKind::start).launch->disks.at(0);
  EXPECT_EQ(launched.endpoint->device, kSecond);
  EXPECT_FALSE(launched.second);
}

TEST_F(MirroredInUse, R_B1_AStartThatItsHostRefusedCostsNoPlaceOneThatMayHaveRunDoes) {
  hosts.failing[CommandKind::start] = make_error(Errc::unavailable, "no valid lease");
  hosts.in_order = true;
  ASSERT_TRUE(until([&] { return hosts.count(CommandKind::stop) > 2; }));
  EXPECT_EQ(state_of(kFirst), LegState::in_sync);
  EXPECT_EQ(state_of(kSecond), LegState::in_sync);
  hosts.in_order = false;
  ASSERT_TRUE(until([&] { return state_of(kSecond) == LegState::behind; }));
  EXPECT_EQ(state_of(kFirst), LegState::in_sync);
}

TEST_F(MirroredInUse, R_B1_R_B2_WhereNoPlaceLetsItInOneCountsUnlessItsHostKnowsThatItNeverBegan) {
  hosts.closed = {kFirst, kSecond};
  hosts.in_order = true;
  ASSERT_TRUE(until([&] { return hosts.count(CommandKind::stop) > 2; }));
  EXPECT_EQ(hosts.count(CommandKind::start), 0);
  EXPECT_EQ(state_of(kSecond), LegState::in_sync);
  hosts.in_order = false;
  ASSERT_TRUE(until([&] { return state_of(kSecond) == LegState::behind; }));
  EXPECT_EQ(state_of(kFirst), LegState::in_sync);
  EXPECT_EQ(hosts.count(CommandKind::start), 0);
}

TEST_F(MirroredInUse, R_B1_APlainVolumesDeviceThatRefusesCostsNoPlaceOfAMirroredOne) {
  Transaction more;
  Volume plain = ready_volume("logs", "c");
  plain.status.legs.front().device = DeviceId("disk-b");
  more.put(device_on("b"));
  more.put(plain);
  Vm with;
  with.meta.tenant = "acme";
  with.meta.name = "db";
  with.spec.cluster = ClusterId("c1");
  with.spec.image = ImageId("tiny");
  with.spec.disks = {{"data", Mib(), "data"}, {"logs", Mib(), "logs"}};
  more.put(with);
  disk->state.apply(more.writes());
  server.reset();
  server = std::make_unique<FakeServer>(loop, hosts, disk, MemoryStoreOptions(), 4);
  hosts.closed = {DeviceId("disk-b")};
  ASSERT_TRUE(until([&] {
    const Vm* found = server->view().vms.find(id);
    return found != nullptr && !found->status.unplaced_reason.empty();
  }));
  EXPECT_EQ(state_of(kFirst), LegState::in_sync);
  EXPECT_EQ(state_of(kSecond), LegState::in_sync);
}

TEST_F(MirroredInUse, R_B2_AFenceWaitsForNoPlaceThatIsSilentWhileAnotherHasSaidSo) {
  ASSERT_TRUE(until([&] { return serves(); }));
  const HostId lost = vm().status.host;
  hosts.mute = {HostId("c")};
  const Instant cut = loop.now();
  hosts.cut_power(lost);
  ASSERT_TRUE(until([&] { return serves() && vm().status.host != lost; }));
  EXPECT_LT(loop.now() - cut, seconds(8));
  EXPECT_EQ(state_of(kSecond), LegState::in_sync);
  EXPECT_EQ(state_of(kFirst), LegState::behind);
}

TEST_F(MirroredInUse, R_B2_A1_06_ALostHostTakesAPlaceWithItAndTheVmStartsFromTheOther) {
  ASSERT_TRUE(until([&] { return serves(); }));
  const HostId lost = vm().status.host;
  const Instant cut = loop.now();
  hosts.cut_power(HostId("c"));
  hosts.cut_power(lost);
  ASSERT_TRUE(until([&] { return serves() && vm().status.host != lost; }));
  EXPECT_LT(loop.now() - cut, seconds(25));
  EXPECT_EQ(state_of(kSecond), LegState::in_sync);
  EXPECT_EQ(state_of(kFirst), LegState::behind);
  EXPECT_EQ(stored().status.legs.front().device, kSecond);
  const LaunchDisk& launched = last(CommandKind::start).launch->disks.at(0);
  EXPECT_EQ(launched.endpoint->device, kSecond);
  EXPECT_FALSE(launched.second) << "what it holds is not what was acknowledged last";
}

TEST_F(MirroredInUse, R_B2_WhatWasUnderWayWhenACopyWasLostCountsInOnePlaceAndIsCopiedToTheOther) {
  ASSERT_TRUE(until([&] { return serves(); }));
  const HostId lost = vm().status.host;
  hosts.cut_power(lost);
  ASSERT_TRUE(until([&] { return serves() && vm().status.host != lost; }));
  EXPECT_EQ(state_of(kFirst), LegState::in_sync);
  EXPECT_EQ(state_of(kSecond), LegState::behind);
  writes_to({kFirst});
  ASSERT_TRUE(until([&] { return hosts.count(CommandKind::switch_disk) > 0 && serves(); }));
  EXPECT_EQ(state_of(kFirst), LegState::in_sync);
  EXPECT_EQ(state_of(kSecond), LegState::in_sync);
  const DiskMirror& mirror = *last(CommandKind::mirror_disk).mirror;
  EXPECT_TRUE(mirror.joins);
  EXPECT_EQ(mirror.to.device, kSecond);
  EXPECT_EQ(epochs_on(kSecond), std::set<Epoch>{vm().status.epoch});
}

TEST_F(MirroredInUse, R_B1_OfAVmThatIsDeletedWhileNoPlaceIsServedOneCountsAllTheSame) {
  ASSERT_TRUE(until([&] { return serves(); }));
  Transaction change;
  for (const char* name : {"c", "d"}) {
    Device away = *server->view().devices.find(device_on(name).id());
    away.status.available = false;
    change.put(away);
  }
  Vm deleted = vm();
  deleted.meta.deleting_at = WallTime{1};
  change.put(deleted);
  server->store().commit(change.guards(), change.writes(), [](Result<CommitOutcome>) {});
  ASSERT_TRUE(until([&] { return server->view().vms.find(id) == nullptr; }));
  EXPECT_EQ(stored().in_use(), std::vector<DeviceId>{kFirst});
}

TEST_F(MirroredInUse, R_B1_AGuestGoesOnAloneOnlyAfterTheStoreHasSaidSo) {
  ASSERT_TRUE(until([&] { return serves(); }));
  writes_to({kFirst, kSecond});
  loop.run_for(seconds(5));
  EXPECT_EQ(hosts.count(CommandKind::keep_leg), 0);
  Volume degraded = stored();
  ASSERT_TRUE(set_leg(degraded.status, kFirst, LegState::behind));
  Transaction transaction;
  transaction.put(degraded);
  server->store().commit(transaction.guards(), transaction.writes(), [](Result<CommitOutcome>) {});
  ASSERT_TRUE(until([&] { return hosts.count(CommandKind::keep_leg) > 0; }));
  EXPECT_EQ(last(CommandKind::keep_leg).mirror->to.device, kSecond);
  EXPECT_EQ(last(CommandKind::keep_leg).epoch, vm().status.epoch);
  writes_to({kSecond});
  loop.run_for(seconds(2));
  const int told = hosts.count(CommandKind::keep_leg);
  loop.run_for(seconds(5));
  EXPECT_EQ(hosts.count(CommandKind::keep_leg), told);
}

}  // namespace
}  // namespace virga
