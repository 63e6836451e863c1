#include "driver/nbd/nbd_store.h"

#include "driver/block_copy_contract_tests.h"
#include "driver/block_image_contract_tests.h"
#include "driver/block_store_contract_tests.h"
#include "driver/volumes/full_device_tests.h"
#include "driver/volumes/real_store_lab.h"

namespace virga {
namespace {

namespace fs = std::filesystem;

class NbdLab : public RealStoreLab {
 public:
  explicit NbdLab(const std::string& disk = "") : RealStoreLab(disk) { start(); }
  ~NbdLab() override {
    store_.reset();
    end_servers(kServer);
  }

  void kill_server(const VolumeId& volume) override {
    signal_server(path(volume, "server.json"), SIGKILL);
  }
  void hang_server(const VolumeId& volume) override {
    signal_server(path(volume, "server.json"), SIGSTOP);
  }

  std::vector<std::string> leftovers(const VolumeId& volume) override {
    auto left = RealStoreLab::leftovers(volume);
    for (const fs::path& server : servers(kServer)) left.push_back(server);
    return left;
  }

 private:
  static constexpr const char* kServer = "qemu-storage-daemon";

  std::unique_ptr<BlockStore> make_store() override {
    NbdOptions options;
    options.directory = device();
    options.obey_within = milliseconds(500);
    options.copied_a_second = Mib{8};
    return std::make_unique<NbdStore>(loop_, options);
  }
};

std::unique_ptr<BlockStoreLab> make_lab() { return std::make_unique<NbdLab>(); }
std::unique_ptr<BlockStoreLab> make_small() {
  return std::make_unique<NbdLab>(FullDevice::kDisk);
}

class NbdStoreTest : public BlockStoreContract {
 protected:
  NbdLab& nbd() { return static_cast<NbdLab&>(*lab); }
};

TEST_P(NbdStoreTest, R_B2_ADamagedRecordIsNotReplacedAndLetsNobodyIn) {
  VIRGA_OK(create());
  VIRGA_OK(attach(3));
  VIRGA_OK(revoke(3));
  ASSERT_TRUE(replace_file(nbd().path(data, "volume.json"), "{", 0600).ok());
  lab->restart_agent();
  VIRGA_FAILS(attach(3), Errc::not_found);
  VIRGA_FAILS(create(), Errc::conflict);
  VIRGA_FAILS(attach(3), Errc::not_found);
}

TEST_P(NbdStoreTest, R_B1_WhatAnErasureLeftIsNotReadByTheNextOwner) {
  ASSERT_TRUE(make_folders(nbd().path(data, ""), 0700).ok());
  ASSERT_TRUE(replace_file(nbd().path(data, "volume.raw"), std::string(1 << 20, 's')).ok());
  VIRGA_OK(create());
  EXPECT_EQ(lab->first_byte(data), 0);
}

TEST_P(NbdStoreTest, R_B2_R_F1_AServerThatNobodyCanLookAtProvesNothing) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  const std::string record = nbd().path(data, "server.json");
  fs::rename(record, record + ".aside");
  fs::create_directory(record);  // reading it fails, and not because it is not there
  lab->restart_agent();
  const auto refused = revoke(1);
  ASSERT_FALSE(refused.ok()) << "its server runs and nobody has ended it";
  EXPECT_NE(refused.error().code, Errc::not_found);
  EXPECT_TRUE(use(*at, {Step::writes(1, 0, kBlock)}));
  fs::remove(record);
  fs::rename(record + ".aside", record);
  VIRGA_OK(revoke(1));
  EXPECT_FALSE(use(*at, {Step::writes(2, 0, kBlock)}));
  EXPECT_EQ(lab->first_byte(data), 1);
}

TEST_P(NbdStoreTest, R_B2_R_F1_AServerThatWasNeverNotedIsNotTakenForNone) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  const std::string record = nbd().path(data, "server.json");
  fs::rename(record, record + ".aside");  // as when the agent ended right after it started it
  lab->restart_agent();
  VIRGA_FAILS(revoke(1), Errc::conflict);
  EXPECT_TRUE(use(*at, {Step::writes(1, 0, kBlock)}));
  fs::rename(record + ".aside", record);
  VIRGA_OK(revoke(1));
  EXPECT_FALSE(use(*at, {Step::writes(2, 0, kBlock)}));
}

TEST_P(NbdStoreTest, R_B1_R_F7_AnImageThatIsNotWhatWasRegisteredFillsNothing) {
  ImageDisk image = lab->image(7);
  image.digest.sha256[0] = image.digest.sha256[0] == '0' ? '1' : '0';
  VIRGA_OK(create_from(image, 0));
  EXPECT_TRUE(lab->run_until([&] { return !seen().failing.empty(); }, seconds(10)));
  EXPECT_NE(seen().failing.find(image.digest.sha256), std::string::npos) << seen().failing;
  EXPECT_FALSE(seen().whole());
  EXPECT_EQ(lab->first_byte(data), 0);
  VIRGA_OK(erase());
}

INSTANTIATE_TEST_SUITE_P(Nbd, FullDevice, testing::Values(&make_small));
INSTANTIATE_TEST_SUITE_P(Nbd, NbdStoreTest, testing::Values(&make_lab));
INSTANTIATE_TEST_SUITE_P(Nbd, BlockStoreContract, testing::Values(&make_lab));
INSTANTIATE_TEST_SUITE_P(Nbd, BlockServerContract, testing::Values(&make_lab));
INSTANTIATE_TEST_SUITE_P(Nbd, BlockFenceContract, testing::Values(&make_lab));
INSTANTIATE_TEST_SUITE_P(Nbd, BlockCopyContract, testing::Values(&make_lab));
INSTANTIATE_TEST_SUITE_P(Nbd, BlockImageContract, testing::Values(&make_lab));

}  // namespace
}  // namespace virga
