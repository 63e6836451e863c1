#pragma once

#include <algorithm>
#include <filesystem>
#include <vector>

#include "driver/block_store_contract.h"
#include "driver/volumes/real_store_lab.h"

/// What a store on a file system promises when that is full. A test program instantiates it with a lab whose device is
/// a SmallDisk of kDisk.
namespace virga {

class FullDevice : public BlockStoreContract {
 public:
  static constexpr const char* kDisk = "size=24m,nr_inodes=200";

 protected:
  RealStoreLab& real() { return static_cast<RealStoreLab&>(*lab); }
  SmallDisk& disk() { return real().disk(); }

  /// Writes MiB after MiB of `value` and says which of them were acknowledged.
  std::vector<std::int64_t> write_all(const VolumeEndpoint& at, int value, int count_mib) {
    std::vector<Step> steps;
    for (int number = 0; number < count_mib; ++number) {
      steps.push_back(Step::writes(value, number * kMib, kMib));
    }
    use(at, steps);
    std::vector<std::int64_t> acknowledged;
    for (int number = 0; number < count_mib; ++number) {
      const std::string word =
          fmt::format("wrote {0}/{0} bytes at offset {1}\n", kMib, number * kMib);
      if (real().said().find(word) != std::string::npos) acknowledged.push_back(number * kMib);
    }
    return acknowledged;
  }

  bool holds(const VolumeEndpoint& at, int value, const std::vector<std::int64_t>& offsets) {
    std::vector<Step> steps;
    for (const std::int64_t offset : offsets) steps.push_back(Step::reads(value, offset, kMib));
    return use(at, steps);
  }

  VolumeEndpoint attached(const std::string& name) {
    const auto at = wait<VolumeEndpoint>([&](Callback<VolumeEndpoint> done) {
      lab->store().attach(VolumeId(name), {1, 1}, {}, std::move(done));
    });
    EXPECT_TRUE(at.ok()) << at.error().text();
    return at.ok() ? *at : VolumeEndpoint();
  }
};

TEST_P(FullDevice, R_F5_AVolumeForWhichThereIsNoRoomIsRefusedAndLeavesNothing) {
  EXPECT_GT(lab->store().space().size.value, 20 * kMib);
  VIRGA_FAILS(create("acme/data", 64), Errc::exhausted);
  EXPECT_TRUE(lab->leftovers(data).empty());
  VIRGA_OK(create());
  disk().fill();
  EXPECT_EQ(lab->store().space().free.value, 0);
  VIRGA_FAILS(create("acme/more"), Errc::exhausted);
  EXPECT_TRUE(lab->leftovers(VolumeId("acme/more")).empty());
  VIRGA_FAILS(grow(24), Errc::exhausted);
  EXPECT_EQ(seen().size_mib, Mib{16});
  lab->restart_agent();
  EXPECT_EQ(seen().size_mib, Mib{16});
  EXPECT_EQ(lab->store().observe().size(), 1U);
  disk().make_room();
  VIRGA_OK(grow(24));
  VIRGA_OK(create("acme/more"));
}

TEST_P(FullDevice, R_F5_ACreateThatFindsNoRoomHalfWayLeavesNothing) {
  VIRGA_OK(create("acme/first"));
  int left = 0;
  for (bool made = false; !made; ++left) {
    ASSERT_LT(left, 12);
    disk().leave_files(left);
    const auto created = create();
    made = created.ok();
    if (made) break;
    EXPECT_EQ(created.error().code, Errc::exhausted) << created.error().text();
    EXPECT_FALSE(std::filesystem::exists(real().path(data, ""))) << left << " files could be made";
    EXPECT_EQ(lab->store().observe().size(), 1U);
  }
  EXPECT_GE(left, 3) << "it stopped at each of its files";
  lab->restart_agent();
  EXPECT_EQ(lab->store().observe().size(), 2U);
}

TEST_P(FullDevice, R_F5_R_B2_AFullDeviceRefusesNoRevocationAndLetsTheNextOneIn) {
  VIRGA_OK(create());
  const auto first = attach(1);
  VIRGA_OK(first);
  EXPECT_TRUE(use(*first, {Step::writes(1, 0, kMib)}));
  disk().fill();
  VIRGA_OK(can.revokes ? revoke(1) : release(1));
  lab->restart_agent();
  EXPECT_EQ(seen().revoked, (Epoch{1, 1}));
  VIRGA_FAILS(attach(1), Errc::fenced);
  const auto next = attach(2);
  VIRGA_OK(next);
  EXPECT_FALSE(use(*first, {Step::writes(3, 0, kBlock)}));
  EXPECT_TRUE(use(*next, {Step::reads(1, 0, kMib), Step::writes(2, 0, kBlock)}))
      << "what has its place already is written over";
  const auto beside = attach(3, 2);
  VIRGA_OK(beside);
  VIRGA_OK(detach(3));
  VIRGA_FAILS(attach(3, 2), Errc::fenced);
  VIRGA_OK(release(2));
  VIRGA_OK(erase());
  EXPECT_TRUE(lab->leftovers(data).empty());
}

TEST_P(FullDevice, R_F5_R_B2_ARevocationThatCannotBePutOnTheDiskIsNotConfirmed) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  std::filesystem::remove(real().path(data, "volume.json.spare"));
  disk().fill();
  const auto end = [&] { return can.revokes ? revoke(1) : release(1); };
  VIRGA_FAILS(end(), Errc::exhausted);
  EXPECT_FALSE(use(*at, {Step::writes(3, 0, kBlock)})) << "and yet it is shut out";
  disk().make_room();
  VIRGA_OK(end());
  lab->restart_agent();
  VIRGA_FAILS(attach(1), Errc::fenced);
}

TEST_P(FullDevice, R_F5_AWriteThatFindsNoRoomIsToldAndNothingThatWasAcknowledgedIsLost) {
  VIRGA_OK(create());
  VIRGA_OK(create("acme/other", 16));
  const VolumeEndpoint other = attached("acme/other");
  EXPECT_EQ(write_all(other, 9, 2).size(), 2U);
  const VolumeEndpoint at = attached(data.value);
  disk().fill(5 * kMib + kMib / 2);
  const auto acknowledged = write_all(at, 7, 10);
  EXPECT_GE(acknowledged.size(), 4U);
  EXPECT_LE(acknowledged.size(), 5U);
  EXPECT_NE(real().said().find("No space left on device"), std::string::npos) << real().said();
  EXPECT_TRUE(holds(at, 7, acknowledged));
  lab->restart_agent();
  EXPECT_TRUE(holds(at, 7, acknowledged));
  EXPECT_TRUE(holds(other, 9, {0, kMib})) << "others are not touched";
  disk().make_room();
  EXPECT_TRUE(holds(at, 7, acknowledged));
  EXPECT_EQ(write_all(at, 7, 10).size(), 10U) << "the same writes, with room";
}

TEST_P(FullDevice, R_F6_VolumesThatArePromisedMoreThanThereIsFillItTogetherAndLoseNothing) {
  VIRGA_OK(create());
  VIRGA_OK(create("acme/other"));
  const VolumeEndpoint at = attached(data.value);
  const VolumeEndpoint other = attached("acme/other");
  EXPECT_EQ(write_all(at, 1, 14).size(), 14U);
  VIRGA_FAILS(create("acme/third"), Errc::exhausted);
  const auto acknowledged = write_all(other, 2, 14);
  EXPECT_GE(acknowledged.size(), 8U);
  EXPECT_LT(acknowledged.size(), 14U);
  EXPECT_TRUE(holds(at, 1, {0, 5 * kMib, 13 * kMib}));
  EXPECT_TRUE(holds(other, 2, acknowledged));
  // One of them goes: the other has what it was promised.
  VIRGA_OK(release(1));
  VIRGA_OK(erase());
  EXPECT_EQ(write_all(other, 2, 14).size(), 14U);
  EXPECT_EQ(seen().size_mib, Mib());
}

}  // namespace virga
