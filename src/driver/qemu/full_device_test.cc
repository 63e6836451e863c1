#include <gtest/gtest.h>

#include <csignal>
#include <optional>

#include "driver/nbd/nbd_store.h"
#include "driver/qemu/boot_sectors.h"
#include "driver/qemu/test_lab.h"
#include "driver/volumes/server_record.h"
#include "driver/volumes/small_disk.h"

namespace virga {
namespace {

/// A guest that fills its volume, on a device that has less room than the volume is large.
class FullDeviceTest : public testing::Test {
 protected:
  FullDeviceTest() {
    NbdOptions options;
    options.directory = device_;
    store_ = std::make_unique<NbdStore>(lab_.loop(), options);
    done([&](Callback<void> call) { store_->open(std::move(call)); });
    done([&](Callback<void> call) { store_->create(kVolume, Mib{16}, {}, std::move(call)); });
    std::string boot = boot_sectors::fill_disk();
    const std::string image = device_ + "/acme/data/volume.raw";
    const Descriptor file(::open(image.c_str(), O_WRONLY | O_CLOEXEC));
    EXPECT_EQ(::pwrite(file.get(), boot.data(), boot.size(), 0), static_cast<ssize_t>(boot.size()));
  }
  ~FullDeviceTest() override {
    lab_.kill_vm(0, kVm);
    lab_.run_until([&] { return lab_.host(0).observe().empty(); }, seconds(20));
    store_.reset();
    auto server = adopt_server(lab_.loop(), device_ + "/acme/data/server.json");
    if (!server) return;
    (*server)->signal(SIGKILL);
    lab_.run_until([&] { return !(*server)->running(); }, seconds(10));
  }

  void done(const std::function<void(Callback<void>)>& call) {
    std::optional<Result<void>> outcome;
    call([&](Result<void> ended) { outcome = std::move(ended); });
    ASSERT_TRUE(lab_.run_until([&] { return outcome.has_value(); }, seconds(30)));
    EXPECT_TRUE(outcome->ok()) << outcome->error().text();
  }
  void start() {
    VmLaunch launch = lab_.launch("web", 1);
    launch.disks = {{"root", "", "", Mib{16}, kVolume.value}};
    done([&](const Callback<void>& call) {
      store_->attach(kVolume, launch.epoch, {}, [&, call](Result<VolumeEndpoint> at) {
        if (!at) return call(at.error());
        launch.disks[0].endpoint = *at;
        call({});
      });
    });
    done([&](Callback<void> call) { lab_.host(0).start(launch, std::move(call)); });
  }
  bool told(const std::string& reason, VmPower power) {
    return lab_.run_until(
        [&] {
          const auto seen = lab_.told(0, kVm);
          return seen && seen->health_reason == reason && seen->power == power;
        },
        seconds(40));
  }
  std::int64_t used() const { return store_->observe().front().used_bytes.value; }

  static inline const VmId kVm{"acme/web"};
  static inline const VolumeId kVolume{"acme/data"};
  QemuLab lab_;
  const std::string device_ = lab_.shared() + "-device";
  SmallDisk disk_{device_, "size=24m"};
  std::unique_ptr<NbdStore> store_;
};

TEST_F(FullDeviceTest, R_F5_AGuestIsPausedWithTheReasonAndGoesOnWithTheSameWriteWhenThereIsRoom) {
  disk_.fill(4 << 20);
  start();
  ASSERT_TRUE(told("disk root: no space left", VmPower::paused)) << lab_.why(0);
  const std::int64_t full = used();
  EXPECT_GT(full, 3 << 20);
  const int tells = lab_.tells(0);
  EXPECT_FALSE(lab_.run_until([&] { return lab_.tells(0) > tells; }, seconds(7)))
      << "it tries again and again, and says nothing of it: " << lab_.why(0);
  lab_.restart_agent(0);
  EXPECT_TRUE(told("disk: no space left", VmPower::paused))
      << "the agent that adopts it asks for the reason: " << lab_.why(0);
  EXPECT_EQ(used(), full);
  disk_.make_room();
  EXPECT_TRUE(told("", VmPower::running)) << lab_.why(0);
  EXPECT_TRUE(lab_.run_until([&] { return used() >= 15 << 20; }, seconds(40))) << used();
}

}  // namespace
}  // namespace virga
