#include <gtest/gtest.h>

#include "arch/storage_workload/test_storage.h"

/// Volumes in two places: how they get them, lose one and get another one instead.
namespace virga {
namespace {

class MirroredPlanning : public test::StoragePlannerTest {
 protected:
  MirroredPlanning() {
    data = volume("data", 100, "d1");
    data.spec.mirrored = true;
  }

  /// In both places, as the store says.
  void put_in_both(LegState second = LegState::in_sync) {
    data.status.legs = {{DeviceId("d1"), LegState::in_sync}, {DeviceId("d2"), second}};
    put(data);
    see_on("d1");
    see_on("d2");
  }
  void see_on(const std::string& device, std::vector<Epoch> epochs = {}) {
    ObservedVolume seen;
    seen.volume = data.id();
    seen.size_mib = data.status.size_mib;
    seen.floor = data.status.floor;
    seen.epochs = std::move(epochs);
    of(device).seen.volumes = {seen};
  }
  DeviceEvidence& of(const std::string& device) { return evidence.devices[DeviceId(device)]; }
  void silence(const std::string& device, Duration silence) {
    of(device).host_reports = false;
    of(device).silence = silence;
  }
  /// The leg that this plan gives up; empty = none.
  std::string given_up() const {
    const StoragePlan made = plan();
    for (const LegChange& change : made.leg_changes) {
      if (change.state == LegState::behind) return change.device.value + ": " + change.reason;
    }
    return {};
  }

  Volume data;
};

TEST_F(MirroredPlanning, R_B1_A10_02_TheSecondPlaceIsOnAnotherHost) {
  put(data);
  see_on("d1");
  add_device("d3", "h1");
  ASSERT_EQ(plan().placements.size(), 1U);
  EXPECT_EQ(plan().placements[0].device, DeviceId("d2"));
  EXPECT_EQ(plan().placements[0].floor, data.status.floor) << "the same volume";
  silence("d2", seconds(60));
  EXPECT_TRUE(plan().placements.empty());
  ASSERT_EQ(plan().volume_changes.size(), 1U);
  EXPECT_EQ(plan().volume_changes[0].state, LegState::in_sync) << "it can be used meanwhile";
  EXPECT_NE(plan().volume_changes[0].reason.find("d3 is on the host of d1"), std::string::npos);
}

TEST_F(MirroredPlanning, R_B1_TheSecondPlaceIsMadeEmptyAndWaitsForItsData) {
  put_in_both(LegState::creating);
  of("d2").seen.volumes.clear();
  ASSERT_EQ(plan().work.size(), 1U);
  EXPECT_EQ(plan().work[0].task, VolumeTask::create);
  EXPECT_EQ(plan().work[0].device, DeviceId("d2"));
  see_on("d2");
  ASSERT_EQ(plan().leg_changes.size(), 1U);
  EXPECT_EQ(plan().leg_changes[0].state, LegState::behind);
  put_in_both(LegState::behind);
  EXPECT_TRUE(plan().empty());
}

TEST_F(MirroredPlanning, R_B1_APlaceThatTakesNothingIsGivenUpWhileTheOtherHoldsAll) {
  put_in_both();
  EXPECT_TRUE(plan().empty());
  evidence.failing_legs = {{data.id(), DeviceId("d1")}};
  EXPECT_EQ(given_up(), "d1: it did not take what the guest wrote");
  evidence.failing_legs.emplace(data.id(), DeviceId("d2"));
  EXPECT_EQ(given_up(), "") << "nobody else would hold what was acknowledged";
  evidence.failing_legs = {{data.id(), DeviceId("d2")}};
  Vm vm = user(data, "h3", {1, 9});
  vm.status.operation = OperationId("op-1");
  put(vm);
  EXPECT_EQ(given_up(), "") << "an operation counts on both";
  vm.status.operation = OperationId();
  put(vm);
  EXPECT_EQ(given_up(), "d2: it did not take what the guest wrote");
  put_in_both(LegState::behind);
  evidence.failing_legs = {{data.id(), DeviceId("d1")}};
  EXPECT_EQ(given_up(), "");
}

TEST_F(MirroredPlanning, R_B1_AHostThatIsSilentForLongerThanAnAgentRestartsIsGivenUp) {
  put_in_both();
  silence("d1", milliseconds(4900));
  EXPECT_EQ(given_up(), "");
  silence("d1", seconds(5));
  EXPECT_EQ(given_up(), "d1: its host h1 does not report");
  of("d1").awaited = true;
  EXPECT_EQ(given_up(), "") << "a new server waits for it first";
  of("d1").awaited = false;
  silence("d2", seconds(5));
  EXPECT_EQ(given_up(), "") << "one of them must be well";
}

TEST_F(MirroredPlanning, R_B1_APlaceThatLostItsVolumeOrCannotBeOpenedIsGivenUp) {
  put_in_both();
  of("d2").seen.volumes.clear();
  EXPECT_EQ(given_up(), "d2: it does not have it any more");
  see_on("d2");
  of("d2").seen.open = false;
  EXPECT_EQ(given_up(), "") << "its agent has only begun";
  of("d2").seen.failing = "it is damaged";
  EXPECT_EQ(given_up(), "d2: it is damaged");
}

TEST_F(MirroredPlanning, R_B1_APlaceThatIsNotExpectedBackIsReplacedAndErasedWhenItComes) {
  add_device("d3", "h3");
  put_in_both(LegState::behind);
  silence("d2", seconds(599));
  EXPECT_TRUE(plan().leg_changes.empty());
  silence("d2", seconds(600));
  ASSERT_EQ(plan().leg_changes.size(), 1U);
  EXPECT_EQ(plan().leg_changes[0].state, LegState::leaving);
  put_in_both(LegState::leaving);
  ASSERT_EQ(plan().placements.size(), 1U);
  EXPECT_EQ(plan().placements[0].device, DeviceId("d3"));
  data.status.legs.push_back({DeviceId("d3"), LegState::behind});
  put(data);
  see_on("d3");
  EXPECT_TRUE(plan().work.empty());
  of("d2").host_reports = true;
  see_on("d2");
  ASSERT_EQ(plan().work.size(), 1U);
  EXPECT_EQ(plan().work[0].task, VolumeTask::erase);
  EXPECT_EQ(plan().work[0].device, DeviceId("d2"));
  of("d2").seen.volumes.clear();
  ASSERT_EQ(plan().leg_changes.size(), 1U);
  EXPECT_TRUE(plan().leg_changes[0].gone);
  EXPECT_EQ(plan().leg_changes[0].device, DeviceId("d2"));
}

TEST_F(MirroredPlanning, R_B1_ItGrowsInBothPlacesWhileNobodyUsesIt) {
  data.spec.size_mib = Mib{200};
  put_in_both();
  Vm vm = user(data, "h3", {1, 9});
  put(vm);
  EXPECT_TRUE(plan().work.empty());
  ASSERT_EQ(plan().volume_changes.size(), 1U);
  EXPECT_NE(plan().volume_changes[0].reason.find("acme/web is stopped"), std::string::npos);
  vm.status.host = HostId();
  put(vm);
  ASSERT_EQ(plan().work.size(), 1U);
  EXPECT_EQ(plan().work[0].task, VolumeTask::grow);
  EXPECT_EQ(plan().work[0].device, DeviceId("d2"));
  EXPECT_EQ(plan().work[0].size_mib, Mib{200});
  of("d2").seen.volumes[0].size_mib = Mib{200};
  ASSERT_EQ(plan().work.size(), 1U);
  EXPECT_EQ(plan().work[0].device, DeviceId("d1"));
  EXPECT_TRUE(plan().volume_changes.empty()) << "as large as the smaller one";
  of("d1").seen.volumes[0].size_mib = Mib{200};
  EXPECT_TRUE(plan().work.empty());
  ASSERT_EQ(plan().volume_changes.size(), 1U);
  EXPECT_EQ(plan().volume_changes[0].size_mib, Mib{200});
}

TEST_F(MirroredPlanning, R_B1_APlaceThatGrewAloneIsMadeAnewAsSmallAsTheOther) {
  put_in_both(LegState::behind);
  of("d2").seen.volumes[0].size_mib = Mib{200};
  ASSERT_EQ(plan().leg_changes.size(), 1U);
  EXPECT_EQ(plan().leg_changes[0].device, DeviceId("d2"));
  EXPECT_EQ(plan().leg_changes[0].state, LegState::leaving);
}

TEST_F(MirroredPlanning, R_B1_F_F11_APlaceThatItsGuestDoesNotWriteCountsNoMore) {
  put_in_both();
  put(user(data, "h3", {1, 9}));
  evidence.written_legs[data.id()] = {DeviceId("d1"), DeviceId("d2")};
  EXPECT_EQ(given_up(), "");
  evidence.written_legs[data.id()] = {DeviceId("d9")};
  EXPECT_EQ(given_up(), "") << "nothing is known of either";
  evidence.written_legs[data.id()] = {DeviceId("d2")};
  EXPECT_EQ(given_up(), "d1: its guest does not write there");
  silence("d2", seconds(60));
  EXPECT_EQ(given_up(), "d1: its guest does not write there") << "it holds too little";
  evidence.held = true;
  EXPECT_EQ(given_up(), "");
}

TEST_F(MirroredPlanning, R_B1_F_F11_WhatItsGuestWritesToCountsWhenTheStoreIsOlder) {
  put_in_both(LegState::behind);
  put(user(data, "h3", {1, 9}));
  evidence.written_legs[data.id()] = {DeviceId("d9")};
  EXPECT_TRUE(plan().leg_changes.empty()) << "a place that the store does not know";
  evidence.written_legs[data.id()] = {DeviceId("d2")};
  ASSERT_EQ(plan().leg_changes.size(), 1U);
  EXPECT_EQ(plan().leg_changes[0].device, DeviceId("d2"));
  EXPECT_EQ(plan().leg_changes[0].state, LegState::in_sync);
  evidence.held = true;
  EXPECT_TRUE(plan().leg_changes.empty());
}

TEST_F(MirroredPlanning, R_B1_WhyAPlaceDoesNotGrowIsSaid) {
  data.spec.size_mib = Mib{200};
  put_in_both();
  evidence.failures[data.id()] = "d2: no room";
  ASSERT_EQ(plan().volume_changes.size(), 1U);
  EXPECT_EQ(plan().volume_changes[0].reason, "d2: no room");
  EXPECT_EQ(plan().volume_changes[0].size_mib, Mib{100});
}

TEST_F(MirroredPlanning, R_B2_WhoMayNotWriteIsEndedInBothPlaces) {
  put_in_both();
  put(user(data, "h3", {1, 9}));
  see_on("d1", {{1, 9}});
  see_on("d2", {{1, 5}, {1, 9}});
  ASSERT_EQ(plan().work.size(), 1U);
  EXPECT_EQ(plan().work[0].task, VolumeTask::revoke);
  EXPECT_EQ(plan().work[0].device, DeviceId("d2"));
  EXPECT_EQ(plan().work[0].epoch, (Epoch{1, 5}));
}

TEST_F(MirroredPlanning, R_B1_NothingOfOneThatIsDeletedStaysAnywhere) {
  put_in_both();
  data.meta.deleting_at = WallTime{1};
  put(data);
  ASSERT_EQ(plan().leg_changes.size(), 1U);
  EXPECT_EQ(plan().leg_changes[0].state, LegState::leaving);
  EXPECT_EQ(plan().leg_changes[0].device, DeviceId("d2"));
  put_in_both(LegState::leaving);
  ASSERT_EQ(plan().work.size(), 1U);
  EXPECT_EQ(plan().work[0].task, VolumeTask::erase);
  EXPECT_EQ(plan().work[0].device, DeviceId("d2"));
}

}  // namespace
}  // namespace virga
