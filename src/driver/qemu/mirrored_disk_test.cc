#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <map>
#include <optional>

#include "driver/nbd/nbd_store.h"
#include "driver/qemu/boot_sectors.h"
#include "driver/qemu/test_lab.h"
#include "driver/volumes/server_record.h"
#include "edge/file.h"
#include "edge/tls.h"

namespace virga {
namespace {

/// A guest that fills its volume, which is in two places.
class MirroredDiskTest : public testing::Test {
 protected:
  MirroredDiskTest() {
    make("c");
    make("d");
    for (const char* place : {"c", "d"}) {
      const std::string boot = boot_sectors::fill_disk();
      const Descriptor file(::open(image(place).c_str(), O_WRONLY | O_CLOEXEC));
      EXPECT_EQ(::pwrite(file.get(), boot.data(), boot.size(), 0),
                static_cast<ssize_t>(boot.size()));
    }
  }
  ~MirroredDiskTest() override {
    for (int host : {0, 1}) {
      lab_.kill_vm(host, kVm);
      lab_.run_until([&] { return lab_.host(host).observe().empty(); }, seconds(20));
    }
    stores_.clear();
    for (const auto& [place, folder] : folders_) {
      auto server = adopt_server(lab_.loop(), folder + "/acme/data/server.json");
      if (!server) continue;
      (*server)->signal(SIGKILL);
      lab_.run_until([&] { return !(*server)->running(); }, seconds(10));
    }
  }

  void make(const std::string& place) {
    NbdOptions options;
    options.directory = folders_[place] = lab_.shared() + "-" + place;
    ASSERT_TRUE(make_folders(options.directory, 0700).ok());
    auto& store = stores_[place] = std::make_unique<NbdStore>(lab_.loop(), options);
    done([&](Callback<void> call) { store->open(std::move(call)); });
    done([&](Callback<void> call) { store->create(kVolume, Mib{256}, {}, std::move(call)); });
  }
  std::string image(const std::string& place) { return folders_[place] + "/acme/data/volume.raw"; }
  void done(const std::function<void(Callback<void>)>& call) {
    const auto outcome = lab_.wait<void>(call);
    EXPECT_TRUE(outcome.ok()) << outcome.error().text();
  }
  VolumeEndpoint attach(const std::string& place, const Epoch& epoch, const Epoch& beside = {}) {
    auto at = lab_.wait<VolumeEndpoint>([&](Callback<VolumeEndpoint> call) {
      stores_[place]->attach(kVolume, epoch, beside, std::move(call));
    });
    EXPECT_TRUE(at.ok()) << at.error().text();
    at->device = DeviceId(place);
    return *at;
  }
  VmLaunch launch(std::uint64_t counter, const std::string& first, const std::string& second,
                  const Epoch& beside = {}) {
    VmLaunch made = lab_.launch("web", counter);
    LaunchDisk disk{"root", "", "", Mib{256}, kVolume.value};
    disk.mirrored = true;
    disk.endpoint = attach(first, made.epoch, beside);
    if (!second.empty()) disk.second = attach(second, made.epoch, beside);
    made.disks = {disk};
    return made;
  }
  void start(const VmLaunch& made) {
    done([&](Callback<void> call) { lab_.host(0).start(made, std::move(call)); });
  }
  void keep(const std::string& place) {
    done([&](Callback<void> call) {
      lab_.host(0).keep_leg(kVm, epoch_, kVolume.value, DeviceId(place), std::move(call));
    });
  }

  std::optional<ObservedDisk> seen(int host = 0) {
    for (const ObservedVm& vm : lab_.host(host).observe()) {
      if (!vm.disks.empty()) return vm.disks.front();
    }
    return std::nullopt;
  }
  bool writes_to(const std::vector<DeviceId>& legs, int host = 0) {
    return lab_.run_until(
        [&] {
          const auto disk = seen(host);
          return disk && disk->legs == legs;
        },
        seconds(20));
  }
  bool runs(int host = 0) {
    return lab_.run_until(
        [&] {
          const auto all = lab_.host(host).observe();
          return !all.empty() && all.front().power == VmPower::running;
        },
        seconds(20));
  }
  /// Cuts the guest off there: it waits.
  bool fails_on(const std::string& place) {
    done([&](Callback<void> call) { stores_[place]->revoke(kVolume, epoch_, std::move(call)); });
    return lab_.run_until(
        [&] {
          const auto disk = seen();
          return disk && disk->failing == std::vector<DeviceId>{DeviceId(place)} &&
                 lab_.host(0).observe().front().power == VmPower::paused;
        },
        seconds(20));
  }
  /// The agent ends in the middle of putting the guest there.
  void keep_halfway(const std::string& place, Duration until) {
    lab_.host(0).keep_leg(kVm, epoch_, kVolume.value, DeviceId(place), [](Result<void>) {});
    lab_.run_until([] { return false; }, until);
    lab_.restart_agent(0);
  }
  std::int64_t used(const std::string& place) {
    return stores_[place]->observe().front().used_bytes.value;
  }
  bool grows(const std::string& place) {
    return lab_.run_until([&, now = used(place)] { return used(place) > now + (64 << 10); },
                          seconds(40));
  }
  /// Both hold the same, byte by byte. Nobody writes any more.
  bool equal(const std::string& one, const std::string& other) {
    return *sha256_hex_of_file(image(one)) == *sha256_hex_of_file(image(other));
  }
  void end_guest(int host, const Epoch& epoch) {
    done([&](Callback<void> call) {
      lab_.host(host).stop(kVm, epoch, {true, seconds(5)}, std::move(call));
    });
  }

  static inline const VmId kVm{"acme/web"};
  static inline const VolumeId kVolume{"acme/data"};
  const Epoch epoch_{1, 1};
  QemuLab lab_;
  std::map<std::string, std::string> folders_;
  std::map<std::string, std::unique_ptr<NbdStore>> stores_;
};

const std::vector<DeviceId> kFirstTwo{DeviceId("c"), DeviceId("d")};

TEST_F(MirroredDiskTest, R_B1_R_F2_AGuestGoesOnInOnePlaceAndIsWrittenToTwoAgain) {
  start(launch(1, "c", "d"));
  ASSERT_TRUE(writes_to(kFirstTwo));
  EXPECT_TRUE(grows("c"));
  EXPECT_TRUE(grows("d"));
  // One place takes nothing any more: nothing is acknowledged until somebody decides.
  ASSERT_TRUE(fails_on("d")) << lab_.why(0);
  const std::int64_t left = used("d");
  keep("c");
  EXPECT_TRUE(writes_to({DeviceId("c")}));
  EXPECT_TRUE(seen()->failing.empty());
  EXPECT_TRUE(runs());
  EXPECT_TRUE(grows("c"));
  EXPECT_EQ(used("d"), left);
  keep("c");
  // A third one takes its place while the guest writes.
  make("e");
  DiskMirror mirror;
  mirror.volume = kVolume.value;
  mirror.to = attach("e", epoch_);
  mirror.joins = true;
  const auto copied = lab_.wait<MigrationProgress>([&](Callback<MigrationProgress> call) {
    lab_.host(0).mirror_disk(kVm, epoch_, mirror, std::move(call));
  });
  ASSERT_TRUE(copied.ok()) << copied.error().text();
  EXPECT_TRUE(equal("c", "e")) << "the guest is paused";
  EXPECT_EQ(seen()->copied_to, DeviceId("e"));
  done([&](Callback<void> call) {
    lab_.host(0).switch_disk(kVm, epoch_, kVolume.value, std::move(call));
  });
  const std::vector<DeviceId> again{DeviceId("c"), DeviceId("e")};
  EXPECT_TRUE(writes_to(again));
  EXPECT_EQ(seen()->copied_to, DeviceId());
  EXPECT_TRUE(runs());
  EXPECT_TRUE(grows("c"));
  EXPECT_TRUE(grows("e"));
  lab_.restart_agent(0);
  EXPECT_TRUE(writes_to(again)) << "the next agent finds it so";
  EXPECT_TRUE(grows("e"));
  keep("e");
  EXPECT_TRUE(writes_to({DeviceId("e")})) << "the place that was read from can go as well";
  EXPECT_TRUE(grows("e"));
  end_guest(0, epoch_);
}

TEST_F(MirroredDiskTest, R_B1_R_B4_ALiveMoveTakesBothPlacesAlongAndTheyStayEqual) {
  start(launch(1, "c", "d"));
  EXPECT_TRUE(grows("d"));
  const VmLaunch moved = launch(2, "c", "d", epoch_);
  const auto to = lab_.wait<MigrationEndpoint>(
      [&](Callback<MigrationEndpoint> call) { lab_.host(1).prepare_incoming(moved, call); });
  ASSERT_TRUE(to.ok()) << to.error().text();
  const auto sent = lab_.wait<MigrationProgress>([&](Callback<MigrationProgress> call) {
    lab_.host(0).send(kVm, epoch_, *to, MigrationLimits(), call);
  });
  ASSERT_TRUE(sent.ok()) << sent.error().text();
  ASSERT_TRUE(lab_.wait<MigrationProgress>([&](Callback<MigrationProgress> call) {
                    lab_.host(0).switch_over(kVm, epoch_, call);
                  })
                  .ok());
  done([&](Callback<void> call) { lab_.host(1).resume(kVm, moved.epoch, std::move(call)); });
  end_guest(0, epoch_);
  EXPECT_TRUE(writes_to(kFirstTwo, 1));
  EXPECT_TRUE(grows("c"));
  EXPECT_TRUE(grows("d"));
  end_guest(1, moved.epoch);
  EXPECT_TRUE(equal("c", "d"));
}

class MirroredDiskHalfwayTest : public MirroredDiskTest,
                                public testing::WithParamInterface<int> {};

TEST_P(MirroredDiskHalfwayTest, R_B1_R_F1_WhatAnAgentDidNotComeToEndTheNextOneEnds) {
  start(launch(1, "c", "d"));
  EXPECT_TRUE(grows("d"));
  keep_halfway("d", milliseconds(GetParam()));
  EXPECT_TRUE(writes_to({DeviceId("d")}));
  EXPECT_TRUE(runs());
  EXPECT_TRUE(grows("d"));
}

TEST_P(MirroredDiskHalfwayTest, R_B1_R_F1_AlsoOfAGuestThatWaitsOnThePlaceThatTakesNothing) {
  start(launch(1, "c", "d"));
  EXPECT_TRUE(grows("d"));
  ASSERT_TRUE(fails_on("c")) << lab_.why(0);
  keep_halfway("d", milliseconds(GetParam()));
  EXPECT_TRUE(writes_to({DeviceId("d")}));
  EXPECT_TRUE(runs());
  EXPECT_TRUE(grows("d"));
}

INSTANTIATE_TEST_SUITE_P(Milliseconds, MirroredDiskHalfwayTest, testing::Values(2, 6, 15));

TEST_F(MirroredDiskTest, R_B1_WhatIsNoChoiceIsRefused) {
  start(launch(1, "c", ""));
  EXPECT_TRUE(writes_to({DeviceId("c")}));
  const auto kept = [&](const char* volume, const char* place) {
    return lab_.wait<void>([&](Callback<void> call) {
      lab_.host(0).keep_leg(kVm, epoch_, volume, DeviceId(place), std::move(call));
    });
  };
  EXPECT_TRUE(kept("acme/data", "c").ok()) << "it does so already";
  EXPECT_EQ(kept("acme/data", "d").error().code, Errc::not_found);
  EXPECT_EQ(kept("acme/logs", "c").error().code, Errc::not_found);
  const auto grown = lab_.wait<void>([&](Callback<void> call) {
    lab_.host(0).grow_disk(kVm, epoch_, kVolume.value, std::move(call));
  });
  EXPECT_EQ(grown.error().code, Errc::conflict);
}

}  // namespace
}  // namespace virga
