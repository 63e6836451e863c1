#include "sim/sim_block_store.h"

#include <gtest/gtest.h>

#include "driver/block_copy_contract_tests.h"
#include "driver/block_image_contract_tests.h"
#include "driver/block_store_contract_tests.h"
#include "sim/sim_loop.h"

/// The simulated device keeps the promises of the one over NBD: the same suite in virtual time.
namespace virga::sim {
namespace {

class SimDeviceLab : public BlockStoreLab {
 public:
  SimDeviceLab() { start(); }

  BlockStore& store() override { return *store_; }
  void restart_agent() override { start(); }
  void kill_server(const VolumeId& volume) override { device_.kill_server(volume); }
  void hang_server(const VolumeId& volume) override { device_.volumes.at(volume).hangs = true; }

  void use_meanwhile(const VolumeEndpoint& at, const std::vector<ConsumerStep>& steps) override {
    outcome_.reset();
    step(at, steps, 0);
  }
  bool used() override {
    return run_until([&] { return outcome_.has_value(); }, seconds(10)) && *outcome_;
  }

  ImageDisk image(int value) override {
    const std::string path = "/images/" + std::to_string(value);
    for (std::int64_t block = 16; block < 32; ++block) device_.images[path][block] = value;
    return {path, "raw", {}};
  }

  int first_byte(const VolumeId& volume) override {
    const auto& blocks = device_.volumes.at(volume).blocks;
    const auto first = blocks.find(0);
    return first == blocks.end() ? 0 : first->second;
  }

  std::vector<std::string> leftovers(const VolumeId& volume) override {
    if (device_.volumes.contains(volume)) return {volume.value};
    return {};
  }

  bool run_until(const std::function<bool()>& condition, Duration deadline) override {
    return loop_.run_until_true(condition, deadline);
  }

 private:
  void start() {
    store_.reset();
    store_ = std::make_unique<SimBlockStore>(loop_, device_);
    bool open = false;
    store_->open([&](const Result<void>&) { open = true; });
    EXPECT_TRUE(run_until([&] { return open; }, seconds(10)));
  }

  /// As qemu-io: goes on after what failed; all must succeed.
  void step(const VolumeEndpoint& at, const std::vector<ConsumerStep>& steps, std::size_t index,
            bool well = true) {
    if (index == steps.size()) {
      outcome_ = well;
      return;
    }
    const ConsumerStep& now = steps[index];
    Duration takes = milliseconds(1);
    if (now.kind == ConsumerStep::Kind::pause) takes = now.pause;
    if (now.kind == ConsumerStep::Kind::write) {
      well = device_.write(at, now.offset, now.bytes, now.value) && well;
    }
    if (now.kind == ConsumerStep::Kind::read) {
      well = device_.read(at, now.offset, now.bytes) == now.value && well;
    }
    loop_.after(takes, [this, at, steps, index, well] { step(at, steps, index + 1, well); });
  }

  SimLoop loop_;
  DeviceTruth device_;
  std::unique_ptr<SimBlockStore> store_;
  std::optional<bool> outcome_;
};

std::unique_ptr<BlockStoreLab> make_lab() { return std::make_unique<SimDeviceLab>(); }

}  // namespace
}  // namespace virga::sim

namespace virga {
INSTANTIATE_TEST_SUITE_P(Sim, BlockStoreContract, testing::Values(&sim::make_lab));
INSTANTIATE_TEST_SUITE_P(Sim, BlockServerContract, testing::Values(&sim::make_lab));
INSTANTIATE_TEST_SUITE_P(Sim, BlockFenceContract, testing::Values(&sim::make_lab));
INSTANTIATE_TEST_SUITE_P(Sim, BlockCopyContract, testing::Values(&sim::make_lab));
INSTANTIATE_TEST_SUITE_P(Sim, BlockImageContract, testing::Values(&sim::make_lab));
}  // namespace virga
