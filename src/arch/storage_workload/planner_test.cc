#include <gtest/gtest.h>

#include <algorithm>

#include "arch/storage_workload/test_storage.h"
#include "mechanism/storage/device_space.h"

namespace virga {
namespace {

using test::StoragePlannerTest;

TEST_F(StoragePlannerTest, R_B1_A10_02_NewVolumesFillTheDevicesEvenly) {
  put(volume("big", 500, "d1"));
  see(volume("big", 500, "d1"));
  for (const char* name : {"a", "b", "c", "d"}) put(volume(name, 200));
  const StoragePlan made = plan();
  ASSERT_EQ(made.placements.size(), 4U);
  std::map<std::string, int> where;
  for (const PlaceVolume& one : made.placements) ++where[one.device.value];
  EXPECT_EQ(where["d2"], 3) << "until it is as full as the other";
  EXPECT_EQ(where["d1"], 1);
  EXPECT_EQ(made.placements.front().floor, (Epoch{1, 40})) << "below every placement to come";
  EXPECT_TRUE(made.work.empty()) << "the place is stored first";
}

TEST_F(StoragePlannerTest, R_B1_AVolumeGoesNowhereWithoutRoomClassOrService) {
  put(volume("large", 1001));
  Volume fast = volume("fast", 10);
  fast.spec.storage_class = "fast";
  put(fast);
  evidence.devices[DeviceId("d2")].host_reports = false;
  const StoragePlan made = plan();
  EXPECT_TRUE(made.placements.empty());
  ASSERT_EQ(made.volume_changes.size(), 2U);
  EXPECT_EQ(made.volume_changes[0].reason,
            "no device can take it: d1 is of class standard; d2 is of class standard");
  EXPECT_EQ(made.volume_changes[1].reason,
            "no device can take it: d1 has 1000 MiB left; d2 its host h2 does not report");
}

TEST_F(StoragePlannerTest, R_F6_WhatIsNewFitsIntoWhatIsReallyFreeWhateverWasPromised) {
  measure("d1", 500, 100);
  measure("d2", 500, 300);
  store(plan());
  put(volume("data", 200));
  ASSERT_EQ(plan().placements.size(), 1U);
  EXPECT_EQ(plan().placements[0].device, DeviceId("d2")) << "d1 may promise 1000 and has 100";
  put(volume("data", 301));
  ASSERT_EQ(plan().volume_changes.size(), 1U);
  EXPECT_EQ(plan().volume_changes[0].reason,
            "no device can take it: d1 has 100 MiB left; d2 has 300 MiB left");
  // Volumes of before may be promised more than is there: their capacity is what its owner says.
  Volume old = volume("old", 900, "d2");
  put(old);
  see(old);
  const DeviceSpace space(view, ClusterId("c1"));
  EXPECT_EQ(space.promised_on(DeviceId("d2")), Mib{900});
  EXPECT_EQ(space.free_on(DeviceId("d2")), Mib{100}) << "the less of both";
  EXPECT_EQ(space.free_on(DeviceId("d1")), Mib{100});
}

TEST_F(StoragePlannerTest, R_F5_TheRoomOfADeviceIsNotedWhenItIsAnotherAndDoesNotFlap) {
  EXPECT_TRUE(plan().device_changes.empty()) << "an agent that does not say";
  measure("d1", 1000, 500);
  store(plan());
  EXPECT_EQ(status("d1").room, DeviceRoom::ample);
  EXPECT_EQ(status("d1").free_mib, Mib{500});
  measure("d1", 1000, 495);
  EXPECT_TRUE(plan().device_changes.empty()) << "less than a hundredth";
  const auto room = [this](std::int64_t free_mib) {
    measure("d1", 1000, free_mib);
    store(plan());
    EXPECT_TRUE(plan().device_changes.empty()) << "planning again gives nothing new";
    return status("d1").room;
  };
  EXPECT_EQ(room(101), DeviceRoom::ample);
  EXPECT_EQ(room(99), DeviceRoom::low);
  EXPECT_EQ(status("d1").free_mib, Mib{99});
  EXPECT_EQ(room(120), DeviceRoom::low) << "not clearly more";
  EXPECT_EQ(room(126), DeviceRoom::ample);
  EXPECT_EQ(room(9), DeviceRoom::none);
  EXPECT_EQ(room(0), DeviceRoom::none);
  EXPECT_EQ(room(12), DeviceRoom::none);
  EXPECT_EQ(room(13), DeviceRoom::low);
  EXPECT_EQ(room(1000), DeviceRoom::ample);
  evidence.devices[DeviceId("d1")].host_reports = false;
  measure("d1", 0, 0);
  store(plan());
  EXPECT_EQ(status("d1").room, DeviceRoom::ample) << "as it was when it was last heard";
}

TEST_F(StoragePlannerTest, R_B1_APlacedVolumeIsMadeOnceAndReadyWhenItsDeviceSaysSo) {
  Volume made = volume("data", 100, "d1");
  made.status.legs.front().state = LegState::creating;
  made.status.size_mib = Mib();
  made.status.floor = {1, 7};
  put(made);
  StoragePlan first = plan();
  ASSERT_EQ(first.work.size(), 1U);
  EXPECT_EQ(first.work[0].task, VolumeTask::create);
  EXPECT_EQ(first.work[0].size_mib, Mib{100});
  EXPECT_EQ(first.work[0].epoch, (Epoch{1, 7}));
  EXPECT_EQ(first.work[0].host, HostId("h1"));
  evidence.resting.insert(made.id());
  EXPECT_TRUE(plan().empty()) << "a command under way counts as done";
  evidence.resting.clear();
  made.status.size_mib = Mib{100};
  see(made);
  const StoragePlan second = plan();
  ASSERT_EQ(second.volume_changes.size(), 1U);
  EXPECT_EQ(second.volume_changes[0].state, LegState::in_sync);
  EXPECT_TRUE(second.work.empty());
}

TEST_F(StoragePlannerTest, R_B1_AVolumeThatIsGoneIsNeverMadeAnew) {
  put(volume("data", 100, "d1"));
  const StoragePlan made = plan();
  EXPECT_TRUE(made.work.empty());
  ASSERT_EQ(made.volume_changes.size(), 1U);
  EXPECT_TRUE(made.volume_changes[0].missing);
  EXPECT_EQ(made.volume_changes[0].state, LegState::in_sync);
}

TEST_F(StoragePlannerTest, R_B1_R_F2_WhatLiesOnADeviceThatIsLostIsGivenUpByItsOwnerAlone) {
  put(volume("data", 100, "d1"));
  see(volume("data", 100, "d1"));
  evidence.devices[DeviceId("d1")].host_reports = false;
  store(plan());
  EXPECT_EQ(view.volumes.find(VolumeId("acme/data"))->status.reason,
            "device d1: its host h1 does not report");
  Device lost = *view.devices.find(DeviceId("d1"));
  lost.spec.lost = true;
  view.devices.put(std::make_shared<const Device>(lost));
  const StoragePlan told = plan();
  ASSERT_EQ(told.volume_changes.size(), 1U);
  EXPECT_TRUE(told.volume_changes[0].missing);
  EXPECT_EQ(told.volume_changes[0].reason, "it is lost with its device d1");
  EXPECT_TRUE(told.removals.empty());
  store(told);
  evidence.devices[DeviceId("d1")].host_reports = true;
  EXPECT_TRUE(plan().work.empty());
  EXPECT_TRUE(plan().serves.empty()) << "it is given up, whoever comes back";
  Volume gone = *view.volumes.find(VolumeId("acme/data"));
  gone.meta.deleting_at = WallTime{};
  put(gone);
  ASSERT_EQ(plan().removals.size(), 1U) << "nobody is asked who is not there";
  EXPECT_EQ(plan().removals[0], VolumeId("acme/data"));
}

TEST_F(StoragePlannerTest, R_B10_AVolumeLiesOnlyWhereItMay) {
  for (const auto& [name, region] : {std::pair{"h1", "us"}, {"h2", "eu"}}) {
    Host host = *view.hosts.find(HostId(name));
    host.spec.region = region;
    view.hosts.put(std::make_shared<const Host>(host));
  }
  Volume bound = volume("data", 100);
  bound.spec.regions = {"eu"};
  put(bound);
  ASSERT_EQ(plan().placements.size(), 1U);
  EXPECT_EQ(plan().placements[0].device, DeviceId("d2"));
  bound.spec.regions = {"kr"};
  put(bound);
  ASSERT_EQ(plan().volume_changes.size(), 1U);
  EXPECT_EQ(plan().volume_changes[0].reason,
            "no device can take it: d1 is in region us, volume acme/data may be in kr only; d2 is "
            "in region eu, volume acme/data may be in kr only");
  Volume there = volume("old", 100, "d2");
  there.spec.regions = {"eu"};
  there.spec.device = DeviceId("d1");
  put(there);
  see(there);
  bool refused = false;
  for (const auto& change : plan().volume_changes) {
    if (change.volume != there.id()) continue;
    refused = change.reason ==
              "it cannot move to d1, which is in region us, volume acme/old may be in eu only";
  }
  EXPECT_TRUE(refused);
}

TEST_F(StoragePlannerTest, R_B1_AnotherVolumeOfTheNameIsNeitherTakenNorErased) {
  Volume made = volume("data", 100, "d1");
  made.status.floor = {1, 7};
  see(made);
  made.status.floor = {1, 20};
  made.status.legs.front().state = LegState::creating;
  put(made);
  StoragePlan refused = plan();
  EXPECT_TRUE(refused.work.empty());
  ASSERT_EQ(refused.volume_changes.size(), 1U);
  EXPECT_EQ(refused.volume_changes[0].state, LegState::creating);
  made.meta.deleting_at = WallTime{1};
  put(made);
  EXPECT_EQ(plan().removals, std::vector<VolumeId>{made.id()}) << "its own record alone";
  EXPECT_TRUE(plan().work.empty());
}

TEST_F(StoragePlannerTest, R_B1_ADeviceThatIsServedFromElsewhereIsNotThisOne) {
  put(volume("new", 100));
  for (auto& [id, device] : evidence.devices) device.seen.directory = "/srv/old";
  const StoragePlan made = plan();
  EXPECT_TRUE(made.placements.empty());
  EXPECT_EQ(made.serves.size(), 2U);
}

TEST_F(StoragePlannerTest, R_B1_GrowsWhatIsToBeLarger) {
  Volume made = volume("data", 100, "d1");
  see(made);
  made.spec.size_mib = Mib{300};
  put(made);
  const StoragePlan grown = plan();
  ASSERT_EQ(grown.work.size(), 1U);
  EXPECT_EQ(grown.work[0].task, VolumeTask::grow);
  EXPECT_EQ(grown.work[0].size_mib, Mib{300});
}

TEST_F(StoragePlannerTest, R_B1_ErasesOnlyWhatItsOwnerDeletedAndCutsOffFirst) {
  Volume made = volume("data", 100, "d1");
  made.meta.deleting_at = WallTime{1};
  put(made);
  see(made, {{1, 3}, {1, 5}});
  StoragePlan cut = plan();
  ASSERT_EQ(cut.work.size(), 1U);
  EXPECT_EQ(cut.work[0].task, VolumeTask::revoke);
  EXPECT_EQ(cut.work[0].epoch, (Epoch{1, 5}));
  EXPECT_TRUE(cut.removals.empty());
  auto& seen = evidence.devices[DeviceId("d1")].seen.volumes;
  seen.front().epochs.clear();
  EXPECT_EQ(plan().work.at(0).task, VolumeTask::erase);
  evidence.resting.insert(made.id());
  EXPECT_TRUE(plan().empty()) << "a command is under way";
  evidence.resting.clear();
  evidence.held = true;
  EXPECT_TRUE(plan().work.empty()) << "nothing after a restore until it is confirmed";
  evidence.held = false;
  seen.clear();
  EXPECT_EQ(plan().removals, std::vector<VolumeId>{made.id()});
}

TEST_F(StoragePlannerTest, R_B2_EndsAttachmentsThatNoCopyMayHave) {
  const Volume made = volume("data", 100, "d1");
  put(made);
  see(made, {{1, 5}, {1, 9}});
  const auto first = [&] { return plan().work.at(0); };
  EXPECT_EQ(first().task, VolumeTask::revoke) << "nobody has it";
  Vm vm = user(made, "h2", {1, 5});
  put(vm);
  EXPECT_EQ(first().task, VolumeTask::detach) << "a move that was given up";
  EXPECT_EQ(first().epoch, (Epoch{1, 9}));
  vm.status.epoch = {1, 9};
  put(vm);
  EXPECT_EQ(first().task, VolumeTask::revoke) << "what a move has left";
  EXPECT_EQ(first().epoch, (Epoch{1, 5}));
  evidence.copies.insert({vm.id(), {1, 5}});
  EXPECT_TRUE(plan().work.empty()) << "a host says that this copy is there";
  evidence.copies.clear();
  vm.status.operation = OperationId("op-1");
  put(vm);
  EXPECT_TRUE(plan().work.empty()) << "an operation knows better";
  view.vms.erase(vm.id());
  EXPECT_EQ(first().task, VolumeTask::revoke);
  evidence.strays = {{1, 5}, {1, 9}};
  EXPECT_TRUE(plan().work.empty()) << "copies of VMs that are not stored are left alone";
}

/// A volume of 100 MiB on d1 that its owner wants on d2.
class VolumeMoveTest : public StoragePlannerTest {
 protected:
  VolumeMoveTest() {
    moved.spec.device = DeviceId("d2");
    moved.status.floor = {1, 3};
    put(moved);
    see(moved, {{1, 9}});
    put(user(moved, "h3", {1, 9}));
  }
  void second(LegState state) {
    moved.status.legs.resize(1);
    moved.status.legs.push_back({DeviceId("d2"), state});
    put(moved);
  }
  void seen_on_second(std::vector<Epoch> epochs) {
    ObservedVolume seen;
    seen.volume = moved.id();
    seen.size_mib = moved.status.size_mib;
    seen.floor = moved.status.floor;
    seen.epochs = std::move(epochs);
    evidence.devices[DeviceId("d2")].seen.volumes = {seen};
  }
  void busy() {
    Vm vm = user(moved, "h3", {1, 9});
    vm.status.operation = OperationId("op");
    put(vm);
  }
  Volume moved = volume("data", 100, "d1");
};

TEST_F(VolumeMoveTest, A10_04_R_B4_APlaceIsReservedAndMadeThenItWaitsForItsData) {
  StoragePlan made = plan();
  ASSERT_EQ(made.placements.size(), 1U);
  EXPECT_EQ(made.placements[0].device, DeviceId("d2"));
  EXPECT_EQ(made.placements[0].floor, moved.status.floor) << "it stays the same volume";
  second(LegState::creating);
  made = plan();
  ASSERT_EQ(made.work.size(), 1U);
  EXPECT_EQ(made.work[0].task, VolumeTask::create);
  EXPECT_EQ(made.work[0].host, HostId("h2"));
  EXPECT_EQ(made.work[0].size_mib, Mib{100});
  EXPECT_EQ(made.work[0].epoch, moved.status.floor);
  seen_on_second({});
  made = plan();
  ASSERT_EQ(made.leg_changes.size(), 1U);
  EXPECT_EQ(made.leg_changes[0].state, LegState::behind);
  second(LegState::behind);
  EXPECT_TRUE(plan().empty()) << "the room of VMs copies it";
  seen_on_second({{1, 9}});
  busy();
  EXPECT_TRUE(plan().empty()) << "a running copy is left alone";
}

/// A local volume on d1; its VM runs on h2, which d2 is on.
class LocalVolumeTest : public VolumeMoveTest {
 protected:
  LocalVolumeTest() {
    moved.spec.device = DeviceId();
    moved.spec.local = true;
    put(moved);
    put(user(moved, "h2", {1, 9}));
  }
};

TEST_F(LocalVolumeTest, A3_14_R_B1_R_B4_ItFollowsItsVmAndItsSourceIsErased) {
  StoragePlan made = plan();
  ASSERT_EQ(made.placements.size(), 1U);
  EXPECT_EQ(made.placements[0].device, DeviceId("d2"));
  EXPECT_EQ(made.placements[0].reason, "its VM is there: it follows");
  second(LegState::behind);
  seen_on_second({});
  EXPECT_TRUE(plan().empty()) << "the room of VMs copies it";
  moved.status.legs = {{DeviceId("d2"), LegState::in_sync}, {DeviceId("d1"), LegState::behind}};
  put(moved);
  seen_on_second({{1, 9}});
  made = plan();
  ASSERT_EQ(made.leg_changes.size(), 1U);
  EXPECT_EQ(made.leg_changes[0].device, DeviceId("d1"));
  EXPECT_EQ(made.leg_changes[0].state, LegState::leaving);
}

TEST_F(LocalVolumeTest, A3_14_R_B4_AVmThatMovesOnOrStopsLeavesNoPlaceHalfMade) {
  second(LegState::behind);
  seen_on_second({});
  for (const char* host : {"h1", ""}) {
    put(user(moved, host, {1, 9}));
    const StoragePlan made = plan();
    ASSERT_EQ(made.leg_changes.size(), 1U) << host;
    EXPECT_EQ(made.leg_changes[0].device, DeviceId("d2"));
    EXPECT_EQ(made.leg_changes[0].state, LegState::leaving);
  }
}

TEST_F(LocalVolumeTest, A3_14_R_B4_WhereItsHostHasNoPlaceItStaysAndSaysWhy) {
  put(user(moved, "h3", {1, 9}));
  const StoragePlan made = plan();
  EXPECT_TRUE(made.placements.empty());
  ASSERT_EQ(made.volume_changes.size(), 1U);
  EXPECT_EQ(made.volume_changes[0].reason,
            "it is not beside its VM: d1 is not on h3; d2 is not on h3");
  EXPECT_EQ(made.volume_changes[0].state, LegState::in_sync);
}

TEST_F(LocalVolumeTest, A3_14_R_B1_ItStaysWhereItsVmIsAndWhileNobodyUsesIt) {
  put(user(moved, "h1", {1, 9}));
  EXPECT_TRUE(plan().empty());
  put(user(moved, "", {1, 9}));
  evidence.devices[DeviceId("d1")].seen.volumes[0].epochs.clear();
  EXPECT_TRUE(plan().empty());
}

TEST_F(LocalVolumeTest, F_F11_R_B4_AfterARestoreNothingIsCopiedOverWhatItsGuestWrites) {
  evidence.devices[DeviceId("d1")].seen.volumes.clear();
  seen_on_second({{1, 9}});  // where it had followed its VM meanwhile
  const StoragePlan made = plan();
  EXPECT_TRUE(made.placements.empty());
  EXPECT_TRUE(made.work.empty());
  ASSERT_EQ(made.volume_changes.size(), 1U);
  EXPECT_TRUE(made.volume_changes[0].missing);
  EXPECT_EQ(made.volume_changes[0].reason, "its device d1 does not have it any more");
}

TEST_F(LocalVolumeTest, F_F11_R_B4_AfterARestoreThePlaceCountsWhereItsGuestWrites) {
  evidence.devices[DeviceId("d1")].seen.volumes.clear();
  seen_on_second({{1, 9}});
  put(user(moved, "h2", {1, 9}));
  const auto found = [this] {
    const StoragePlan made = plan();
    return made.leg_changes.size() == 1 && made.leg_changes[0].device == DeviceId("d2") &&
           made.leg_changes[0].state == LegState::in_sync;
  };
  EXPECT_FALSE(found()) << "nobody says that it is more than a copy";
  evidence.written_legs[moved.id()] = {DeviceId("d2")};
  EXPECT_TRUE(found());
  evidence.held = true;
  EXPECT_FALSE(found());
  evidence.held = false;
  Vm busy = user(moved, "h2", {1, 9});
  busy.status.operation = OperationId("op-1");
  put(busy);
  EXPECT_FALSE(found()) << "its operation knows better";
  put(user(moved, "h2", {1, 9}));
  evidence.devices[DeviceId("d2")].seen.volumes[0].floor = {1, 1};
  EXPECT_FALSE(found()) << "another volume of the name";
  evidence.devices[DeviceId("d2")].seen.volumes[0].floor = moved.status.floor;
  evidence.devices[DeviceId("d1")].host_reports = false;
  EXPECT_FALSE(found()) << "the report may be older than its way back to d1";
  evidence.devices[DeviceId("d1")].host_reports = true;
  EXPECT_TRUE(found());
  see(moved, {{1, 9}});
  EXPECT_FALSE(found()) << "it is where it is said to be";
  evidence.devices[DeviceId("d1")].seen.volumes[0].epochs = {{1, 4}};
  EXPECT_TRUE(found()) << "what lies there is old: nobody who runs is let in";
}

TEST_F(LocalVolumeTest, F_F11_R_B4_APlaceThatAGuestWritesToIsNotErasedThoughItDoesNotCount) {
  second(LegState::leaving);  // as it was when it had once been moved the other way
  seen_on_second({{1, 9}});
  put(user(moved, "h1", {1, 9}));
  ASSERT_FALSE(plan().work.empty()) << "else this proves nothing";
  const auto spared = [this] {
    const StoragePlan made = plan();
    return made.work.empty() && made.leg_changes.empty();
  };
  evidence.devices[DeviceId("d1")].host_reports = false;  // so that d2 cannot be believed yet
  evidence.written_legs[moved.id()] = {DeviceId("d2")};
  EXPECT_TRUE(spared());
  second(LegState::behind);
  EXPECT_TRUE(spared());
  evidence.written_legs.clear();
  evidence.written_ahead = {{moved.id(), DeviceId("d2")}};
  EXPECT_TRUE(spared()) << "by a copy that is adopted in a moment";
}

TEST_F(LocalVolumeTest, F_F11_ADeviceThatIsNotRegisteredIsLeftWithWhoWritesToIt) {
  evidence.strangers = {{DeviceId("d9"), HostId("h1")}};
  EXPECT_EQ(plan().releases.size(), 1U);
  evidence.written_ahead = {{moved.id(), DeviceId("d9")}};
  EXPECT_TRUE(plan().releases.empty());
  evidence.written_ahead.clear();
  evidence.written_legs[moved.id()] = {DeviceId("d9")};
  EXPECT_TRUE(plan().releases.empty());
}

TEST_F(LocalVolumeTest, F_F11_R_B4_AMoveThatEndedAfterTheStateThatIsRestoredHasEnded) {
  second(LegState::behind);
  evidence.devices[DeviceId("d1")].seen.volumes.clear();
  seen_on_second({{1, 9}});
  put(user(moved, "h2", {1, 9}));
  evidence.written_legs[moved.id()] = {DeviceId("d2")};
  ASSERT_EQ(plan().leg_changes.size(), 1U);
  EXPECT_EQ(plan().leg_changes[0].device, DeviceId("d2"));
  EXPECT_EQ(plan().leg_changes[0].state, LegState::in_sync);
}

TEST_F(LocalVolumeTest, R_B1_APlaceThatCannotBeErasedYetIsNamed) {
  moved.status.legs = {{DeviceId("d1"), LegState::in_sync}, {DeviceId("d2"), LegState::leaving}};
  put(moved);
  put(user(moved, "h1", {1, 9}));
  evidence.devices[DeviceId("d2")].host_reports = false;
  const StoragePlan made = plan();
  ASSERT_EQ(made.volume_changes.size(), 1U);
  EXPECT_EQ(made.volume_changes[0].reason,
            "its place on d2 is not erased yet: the device its host h2 does not report");
}

TEST_F(LocalVolumeTest, R_B1_ANewOneOfABoundVmIsMadeWhereItCanBeMade) {
  put(volume("big", 700, "d1"));
  see(volume("big", 700, "d1"));
  Volume made = volume("new", 500);
  made.spec.local = true;
  put(made);
  Vm vm = user(made, "", {1, 9});
  vm.meta.name = "bound";
  vm.spec.pinned_host = HostId("h1");
  put(vm);
  const StoragePlan planned = plan();
  const auto placed = std::ranges::find(planned.placements, made.id(), &PlaceVolume::volume);
  ASSERT_NE(placed, planned.placements.end());
  EXPECT_EQ(placed->device, DeviceId("d2")) << "d1 is too full; it follows when there is room";
}

TEST_F(VolumeMoveTest, A10_04_R_B4_TheOldPlaceIsCutOffThenErasedThenForgotten) {
  moved.status.legs = {{DeviceId("d2"), LegState::in_sync}, {DeviceId("d1"), LegState::behind}};
  put(moved);
  seen_on_second({{1, 9}});
  busy();
  EXPECT_TRUE(plan().empty()) << "its guest may not run on the new one yet";
  put(user(moved, "h3", {1, 9}));
  StoragePlan made = plan();
  ASSERT_EQ(made.leg_changes.size(), 1U);
  EXPECT_EQ(made.leg_changes[0].device, DeviceId("d1"));
  EXPECT_EQ(made.leg_changes[0].state, LegState::leaving);
  moved.status.legs.back().state = LegState::leaving;
  put(moved);
  made = plan();
  ASSERT_EQ(made.work.size(), 1U);
  EXPECT_EQ(made.work[0].task, VolumeTask::revoke);
  EXPECT_EQ(made.work[0].device, DeviceId("d1"));
  evidence.devices[DeviceId("d1")].seen.volumes[0].epochs.clear();
  made = plan();
  ASSERT_EQ(made.work.size(), 1U);
  EXPECT_EQ(made.work[0].task, VolumeTask::erase);
  evidence.devices[DeviceId("d1")].seen.volumes.clear();
  made = plan();
  ASSERT_EQ(made.leg_changes.size(), 1U);
  EXPECT_TRUE(made.leg_changes[0].gone);
}

TEST_F(VolumeMoveTest, A10_04_R_B4_WhoChangesHisMindGetsTheNewPlaceErasedNotTheOldOne) {
  second(LegState::behind);
  seen_on_second({{1, 9}});
  moved.spec.device = DeviceId("d1");
  put(moved);
  const StoragePlan made = plan();
  ASSERT_EQ(made.leg_changes.size(), 1U);
  EXPECT_EQ(made.leg_changes[0].device, DeviceId("d2"));
  EXPECT_EQ(made.leg_changes[0].state, LegState::leaving);
}

TEST_F(VolumeMoveTest, A10_04_R_B4_WhereThereIsNoRoomItStaysAndSaysWhy) {
  put(volume("big", 950, "d2"));
  see(volume("big", 950, "d2"));
  const StoragePlan made = plan();
  EXPECT_TRUE(made.placements.empty());
  ASSERT_EQ(made.volume_changes.size(), 1U);
  EXPECT_EQ(made.volume_changes[0].reason, "it cannot move to d2, which has 50 MiB left");
  EXPECT_EQ(made.volume_changes[0].state, LegState::in_sync);
}

TEST_F(VolumeMoveTest, A10_04_R_B4_AVolumeThatIsDeletedMeanwhileLeavesNothingAnywhere) {
  second(LegState::behind);
  seen_on_second({});
  moved.meta.deleting_at = WallTime{1};
  put(moved);
  view.vms.erase(VmId("acme/web"));
  StoragePlan made = plan();
  ASSERT_EQ(made.leg_changes.size(), 1U);
  moved.status.legs.back().state = LegState::leaving;
  put(moved);
  made = plan();
  ASSERT_EQ(made.work.size(), 1U);
  EXPECT_EQ(made.work[0].device, DeviceId("d2"));
  EXPECT_EQ(made.work[0].task, VolumeTask::erase);
}

TEST_F(StoragePlannerTest, R_B1_ServesDevicesAndSaysWhyNot) {
  evidence.devices[DeviceId("d1")].seen.open = false;
  evidence.devices[DeviceId("d1")].seen.failing = "no such folder";
  evidence.devices[DeviceId("d2")].can_serve = false;
  const StoragePlan made = plan();
  ASSERT_EQ(made.serves.size(), 1U);
  EXPECT_EQ(made.serves[0].directory, "/srv/d1");
  ASSERT_EQ(made.device_changes.size(), 2U);
  EXPECT_EQ(made.device_changes[0].status.reason, "no such folder");
  EXPECT_EQ(made.device_changes[1].status.reason, "the agent of h2 is too old to serve devices");
}

TEST_F(StoragePlannerTest, R_B1_ADeviceLearnsHowFastCopiesMayBe) {
  ObservedDevice& seen = evidence.devices[DeviceId("d1")].seen;
  EXPECT_TRUE(plan().serves.empty()) << "an agent that knows of no limit is not asked for one";
  seen.copy_mib_per_second_max = Mib{100};
  EXPECT_TRUE(plan().serves.empty());
  seen.copy_mib_per_second_max = Mib{16};
  const StoragePlan made = plan();
  ASSERT_EQ(made.serves.size(), 1U);
  EXPECT_EQ(made.serves[0].device, DeviceId("d1"));
  EXPECT_EQ(made.serves[0].copied_per_second, Mib{100});
  EXPECT_TRUE(made.device_changes.empty()) << "it is served all the same";
}

TEST_F(StoragePlannerTest, R_B1_ANewServerJudgesNoDeviceBeforeItsHostCouldReport) {
  put(volume("data", 100, "d1"));
  evidence.devices[DeviceId("d1")] = {};
  evidence.devices[DeviceId("d1")].awaited = true;
  EXPECT_TRUE(plan().empty());
}

TEST_F(StoragePlannerTest, R_B1_AQuietStorageNeedsNothing) {
  const Volume made = volume("data", 100, "d1");
  put(made);
  see(made, {{1, 5}});
  put(user(made, "h2", {1, 5}));
  EXPECT_TRUE(plan().empty());
}

TEST_F(StoragePlannerTest, R_B1_DoesABoundedNumberOfThings) {
  options.actions_max = 3;
  for (int number = 0; number < 10; ++number) put(volume("v" + std::to_string(number), 1));
  EXPECT_EQ(plan().placements.size(), 3U);
}

TEST_F(StoragePlannerTest, R_B1_AVolumeIsFilledFromItsImageOnceItHasAPlace) {
  Volume root = volume("root", 100);
  root.spec.image = ImageId("debian");
  put(root);
  EXPECT_TRUE(plan().placements.empty());
  EXPECT_NE(plan().volume_changes.at(0).reason.find("d1 lacks image debian: it is gone"),
            std::string::npos);
  Image image;
  image.meta.name = "debian";
  image.spec.format = ImageFormat::qcow2;
  view.images.put(std::make_shared<const Image>(image));
  EXPECT_NE(plan().volume_changes.at(0).reason.find("the agent of h2 is too old"),
            std::string::npos)
      << "an older agent would make an empty volume";
  evidence.devices[DeviceId("d2")].seen.images = true;
  ASSERT_EQ(plan().placements.size(), 1U);
  EXPECT_EQ(plan().placements[0].device, DeviceId("d2"));
  root.status.legs = {{DeviceId("d2"), LegState::creating}};
  put(root);
  const StoragePlan made = plan();
  ASSERT_EQ(made.work.size(), 1U);
  EXPECT_EQ(made.work[0].task, VolumeTask::create);
  EXPECT_EQ(made.work[0].image, image.id());
  EXPECT_EQ(made.work[0].size_mib, Mib{100});
  see(root);
  ObservedVolume& seen = evidence.devices[DeviceId("d2")].seen.volumes.back();
  seen.image = "/srv/images/debian/disk.qcow2";
  seen.size_mib = Mib{100};
  const StoragePlan filling = plan();
  EXPECT_TRUE(filling.work.empty());
  ASSERT_EQ(filling.volume_changes.size(), 1U);
  EXPECT_EQ(filling.volume_changes[0].state, LegState::creating);
  EXPECT_EQ(filling.volume_changes[0].reason, "is being filled from image debian");
  seen.image.clear();
  EXPECT_EQ(plan().volume_changes.at(0).state, LegState::in_sync);
}

TEST_F(StoragePlannerTest, R_B1_ASecondPlaceOfAVolumeIsNotFilledFromItsImage) {
  Volume root = volume("root", 100, "d1");
  root.spec.image = ImageId("debian");
  root.spec.device = DeviceId("d2");
  root.status.legs.push_back({DeviceId("d2"), LegState::creating});
  put(root);
  see(root);
  const StoragePlan made = plan();
  ASSERT_EQ(made.work.size(), 1U);
  EXPECT_EQ(made.work[0].task, VolumeTask::create);
  EXPECT_TRUE(made.work[0].image.empty()) << "what it holds comes from the first";
}

/// acme/data on d1, and a copy of it that has no place yet.
class CopyPlanning : public StoragePlannerTest {
 protected:
  CopyPlanning() {
    put(source);
    see(source);
    evidence.devices[DeviceId("d1")].seen.copies = true;
    evidence.devices[DeviceId("d2")].seen.copies = true;
    copy.spec.source = "data";
  }

  void place_copy() {
    copy.status.legs = {{DeviceId("d1"), LegState::creating}};
    copy.status.floor = {1, 7};
    put(copy);
  }

  Volume source = volume("data", 100, "d1");
  Volume copy = volume("monday", 100);
};

TEST_F(CopyPlanning, R_B1_ACopyIsMadeWhereItsSourceLies) {
  put(copy);
  const StoragePlan placed = plan();
  ASSERT_EQ(placed.placements.size(), 1U);
  EXPECT_EQ(placed.placements[0].device, DeviceId("d1")) << "the other one has more room";
  place_copy();
  const StoragePlan made = plan();
  ASSERT_EQ(made.work.size(), 1U);
  EXPECT_EQ(made.work[0].task, VolumeTask::copy);
  EXPECT_EQ(made.work[0].source, source.id());
  EXPECT_EQ(made.work[0].epoch, (Epoch{1, 7}));
  EXPECT_EQ(made.work[0].host, HostId("h1"));
}

TEST_F(CopyPlanning, R_B1_ACopyWaitsForItsSourceAndSaysWhy) {
  const auto why = [&] {
    const StoragePlan made = plan();
    EXPECT_TRUE(made.placements.empty());
    EXPECT_FALSE(made.volume_changes.empty());
    return made.volume_changes.empty() ? std::string() : made.volume_changes.back().reason;
  };
  put(copy);
  evidence.devices[DeviceId("d1")].seen.copies = false;
  EXPECT_EQ(why(),
            "no device can take it: d1 the agent of h1 is too old to copy volumes; d2 does not "
            "hold its source acme/data");
  evidence.devices[DeviceId("d1")].seen.copies = true;
  source.status.legs.push_back({DeviceId("d2"), LegState::leaving});
  put(source);
  EXPECT_NE(why().find("d1 its source acme/data is being moved"), std::string::npos);
  view.volumes.erase(source.id());
  EXPECT_NE(why().find("d1 its source acme/data is gone"), std::string::npos);
}

TEST_F(CopyPlanning, R_B1_ACopyIsReadyWhenItIsWholeAndKnowsItsMoment) {
  copy.spec.size_mib = Mib{150};
  place_copy();
  copy.status.size_mib = Mib{100};
  see(copy);
  ObservedVolume& seen = evidence.devices[DeviceId("d1")].seen.volumes.back();
  seen.source = source.id();
  const StoragePlan copying = plan();
  EXPECT_TRUE(copying.work.empty()) << "it grows when it is whole";
  ASSERT_EQ(copying.volume_changes.size(), 1U);
  EXPECT_EQ(copying.volume_changes[0].state, LegState::creating);
  EXPECT_EQ(copying.volume_changes[0].reason, "is being copied from acme/data");
  seen.failing = "no space left";
  EXPECT_EQ(plan().volume_changes.at(0).reason, "no space left");
  seen.failing.clear();
  seen.source = VolumeId();
  seen.taken_at = WallTime{5};
  const StoragePlan whole = plan();
  ASSERT_EQ(whole.volume_changes.size(), 1U);
  EXPECT_EQ(whole.volume_changes[0].state, LegState::in_sync);
  EXPECT_EQ(whole.volume_changes[0].taken_at, WallTime{5});
  ASSERT_EQ(whole.work.size(), 1U);
  EXPECT_EQ(whole.work[0].task, VolumeTask::grow);
}

TEST_F(CopyPlanning, R_B1_ASourceDoesNotMoveWhileItIsCopied) {
  place_copy();
  evidence.resting.insert(copy.id());
  source.spec.device = DeviceId("d2");
  put(source);
  const StoragePlan held = plan();
  EXPECT_TRUE(held.placements.empty());
  ASSERT_EQ(held.volume_changes.size(), 1U);
  EXPECT_EQ(held.volume_changes[0].volume, source.id());
  copy.status.legs.front().state = LegState::in_sync;
  put(copy);
  EXPECT_EQ(plan().placements.size(), 1U) << "a copy that is whole needs it no more";
}

}  // namespace
}  // namespace virga
