#include "driver/directory/directory_store.h"

#include "driver/block_image_contract_tests.h"
#include "driver/block_store_contract_tests.h"
#include "driver/volumes/full_device_tests.h"
#include "driver/volumes/real_store_lab.h"

namespace virga {
namespace {

class DirectoryLab : public RealStoreLab {
 public:
  explicit DirectoryLab(DirectoryOptions::Consumers consumers, const std::string& disk = "")
      : RealStoreLab(disk), consumers_(consumers) {
    start();
  }
  ~DirectoryLab() override { store_.reset(); }

 private:
  std::unique_ptr<BlockStore> make_store() override {
    return std::make_unique<DirectoryStore>(loop_, DirectoryOptions{device(), consumers_, ""});
  }

  const DirectoryOptions::Consumers consumers_;
};

std::unique_ptr<BlockStoreLab> make_local() {
  return std::make_unique<DirectoryLab>(DirectoryOptions::Consumers::this_host);
}
std::unique_ptr<BlockStoreLab> make_shared_lab() {
  return std::make_unique<DirectoryLab>(DirectoryOptions::Consumers::other_hosts);
}

std::unique_ptr<BlockStoreLab> make_small() {
  return std::make_unique<DirectoryLab>(DirectoryOptions::Consumers::this_host, FullDevice::kDisk);
}

class LocalDirectoryTest : public BlockStoreContract {};
class SharedDirectoryTest : public BlockStoreContract {};

TEST_P(LocalDirectoryTest, R_B2_NobodyHasItOpenIsProofOnAHostsOwnDisk) {
  VIRGA_OK(create());
  const auto first = attach(1);
  VIRGA_OK(first);
  EXPECT_TRUE(use(*first, {Step::writes(1, 0, kBlock)}));
  VIRGA_OK(revoke(1));
  EXPECT_TRUE(seen().epochs.empty());
  const auto next = attach(2);
  VIRGA_OK(next);
  EXPECT_FALSE(use(*first, {Step::writes(2, 0, kBlock)}));
  EXPECT_TRUE(use(*next, {Step::reads(1, 0, kBlock)}));
}

TEST_P(LocalDirectoryTest, R_B2_AReaderUnderAnotherNameCountsAsAUser) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  const Descriptor held(::open(at->export_name.c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(held.valid());
  VIRGA_FAILS(revoke(1), Errc::unavailable);
  EXPECT_FALSE(std::filesystem::exists(at->export_name)) << "nobody else gets in by that name";
  VIRGA_FAILS(revoke(1), Errc::unavailable);
}

TEST_P(SharedDirectoryTest, R_B2_OfASharedDirectoryNothingIsProven) {
  VIRGA_OK(create());
  VIRGA_OK(attach(1));
  VIRGA_FAILS(revoke(1), Errc::unavailable);
  EXPECT_EQ(seen().epochs.size(), 1U);
  VIRGA_OK(release(1));
  VIRGA_OK(revoke(1));
  VIRGA_OK(attach(2));
}

TEST_P(SharedDirectoryTest, R_B2_ANameThatWasRevokedIsRemovedAfterACrash) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  VIRGA_OK(release(1));
  // As after a crash between the record and its effect.
  ASSERT_EQ(::link(static_cast<DirectoryLab&>(*lab).path(data, "volume.raw").c_str(),
                   at->export_name.c_str()),
            0);
  lab->restart_agent();
  EXPECT_FALSE(use(*at, {Step::reads(0, 0, kBlock)}));
}

INSTANTIATE_TEST_SUITE_P(Directory, FullDevice, testing::Values(&make_small));
INSTANTIATE_TEST_SUITE_P(Directory, LocalDirectoryTest, testing::Values(&make_local));
INSTANTIATE_TEST_SUITE_P(Directory, SharedDirectoryTest, testing::Values(&make_shared_lab));
INSTANTIATE_TEST_SUITE_P(Directory, BlockStoreContract,
                         testing::Values(&make_local, &make_shared_lab));
INSTANTIATE_TEST_SUITE_P(Directory, BlockNoFenceContract,
                         testing::Values(&make_local, &make_shared_lab));
INSTANTIATE_TEST_SUITE_P(Directory, BlockImageContract, testing::Values(&make_local));

}  // namespace
}  // namespace virga
