#include "driver/iscsi/iscsi_store.h"

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

 private:
  std::string record() const { return device() + "/.tgt/server.json"; }

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

INSTANTIATE_TEST_SUITE_P(Iscsi, BlockStoreContract, testing::Values(&make_lab));
INSTANTIATE_TEST_SUITE_P(Iscsi, BlockServerContract, testing::Values(&make_lab));
INSTANTIATE_TEST_SUITE_P(Iscsi, BlockFenceContract, testing::Values(&make_lab));

}  // namespace
}  // namespace virga
