#include "driver/iscsi/iscsi_store.h"

#include "driver/block_image_contract_tests.h"
#include "driver/block_store_contract_tests.h"
#include "driver/volumes/real_store_lab.h"
#include "edge/listen_tcp.h"

namespace virga {
namespace {

class IscsiLab : public RealStoreLab {
 public:
  IscsiLab() {
    const auto free = listen_tcp("127.0.0.1", 0, 1);
    EXPECT_TRUE(free.ok());
    port_ = port_of(*free);
    start();
  }
  ~IscsiLab() override {
    store_.reset();
    if (const auto daemon = adopt_server(loop_, record())) {
      (*daemon)->signal(SIGKILL);
      run_until([&] { return !(*daemon)->running(); }, seconds(5));
    }
  }

  void kill_server(const VolumeId&) override { signal_server(record(), SIGKILL); }
  void hang_server(const VolumeId&) override { signal_server(record(), SIGSTOP); }

  std::string record() const { return device() + "/.tgt/server.json"; }

 private:
  std::unique_ptr<BlockStore> make_store() override {
    IscsiOptions options;
    options.directory = device();
    options.port = port_;
    options.obey_within = milliseconds(500);
    return std::make_unique<IscsiStore>(loop_, options);
  }

  int port_ = 0;
};

std::unique_ptr<BlockStoreLab> make_lab() { return std::make_unique<IscsiLab>(); }

class IscsiStoreTest : public BlockStoreContract {};

TEST_P(IscsiStoreTest, R_B2_R_F1_ADaemonThatWasNeverNotedIsNotTakenForNone) {
  VIRGA_OK(create());
  const auto at = attach(1);
  VIRGA_OK(at);
  const std::string record = static_cast<IscsiLab&>(*lab).record();
  std::filesystem::rename(record, record + ".aside");
  lab->restart_agent();
  VIRGA_FAILS(revoke(1), Errc::conflict);
  EXPECT_TRUE(use(*at, {Step::writes(1, 0, kBlock)}));
  std::filesystem::rename(record + ".aside", record);
  VIRGA_OK(revoke(1));
  EXPECT_EQ(lab->first_byte(data), 1);
}

TEST_P(IscsiStoreTest, R_B1_ConsumersOfOneVolumeGoOnWhileAnotherIsCut) {
  VIRGA_OK(create());
  VIRGA_OK(create("acme/other"));
  const auto at = attach(1);
  VIRGA_OK(at);
  lab->use_meanwhile(*at, {Step::writes(1, 0, kBlock), Step::pauses(milliseconds(500)),
                           Step::writes(2, 0, kBlock)});
  ASSERT_TRUE(lab->run_until([&] { return lab->first_byte(data) == 1; }, seconds(10)));
  VIRGA_OK(wait<VolumeEndpoint>([&](Callback<VolumeEndpoint> done) {
    lab->store().attach(VolumeId("acme/other"), {1, 1}, {}, std::move(done));
  }));
  VIRGA_OK(wait<void>([&](Callback<void> done) {
    lab->store().revoke(VolumeId("acme/other"), {1, 1}, std::move(done));
  }));
  EXPECT_TRUE(lab->used());
  EXPECT_EQ(lab->first_byte(data), 2);
}

INSTANTIATE_TEST_SUITE_P(Iscsi, IscsiStoreTest, testing::Values(&make_lab));
INSTANTIATE_TEST_SUITE_P(Iscsi, BlockStoreContract, testing::Values(&make_lab));
INSTANTIATE_TEST_SUITE_P(Iscsi, BlockServerContract, testing::Values(&make_lab));
INSTANTIATE_TEST_SUITE_P(Iscsi, BlockFenceContract, testing::Values(&make_lab));
INSTANTIATE_TEST_SUITE_P(Iscsi, BlockImageContract, testing::Values(&make_lab));

}  // namespace
}  // namespace virga
