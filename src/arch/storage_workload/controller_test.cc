#include "arch/storage_workload/controller.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/reflect.h"
#include "sim/sim_loop.h"
#include "store/memory_store.h"

namespace virga {
namespace {

/// One host with one device, as it really is; it outlives every run of the server.
class FakeDevice {
 public:
  Result<CommandResult> execute(const Command& command) {
    commands.push_back(command.kind);
    if (failing) return *failing;
    CommandResult result;
    result.ok = true;
    const StorageCommand& asked = *command.storage;
    switch (command.kind) {
      case CommandKind::serve_device:
        seen.device = asked.device;
        seen.directory = asked.directory;
        seen.open = true;
        listed = true;
        break;
      case CommandKind::release_device:
        listed = false;
        break;
      case CommandKind::create_volume:
        seen.volumes.push_back(
            {asked.volume, asked.size_mib, {}, command.epoch, command.epoch, {}, false});
        break;
      case CommandKind::grow_volume:
        find(asked.volume)->size_mib = asked.size_mib;
        break;
      case CommandKind::revoke_volume:
        find(asked.volume)->epochs.clear();
        break;
      case CommandKind::erase_volume:
        seen.volumes.erase(find(asked.volume));
        break;
      default:
        break;
    }
    return result;
  }
  std::vector<ObservedVolume>::iterator find(const VolumeId& id) {
    return std::find_if(seen.volumes.begin(), seen.volumes.end(),
                        [&](const ObservedVolume& one) { return one.volume == id; });
  }
  int count(CommandKind kind) const {
    return static_cast<int>(std::count(commands.begin(), commands.end(), kind));
  }

  ObservedDevice seen;
  bool listed = false;
  std::optional<Error> failing;
  std::vector<CommandKind> commands;
};

class FakeServer : private HostCommands {
 public:
  FakeServer(SimLoop& world, FakeDevice& device, std::shared_ptr<MemoryDisk> disk)
      : device_(device),
        process_(world),
        store_(process_, Rng(1), {}, std::move(disk)),
        mirror_(process_, store_),
        controller_(process_, store_, mirror_, *this, names_) {
    mirror_.set_incarnation(1);
    mirror_.open([this](Result<void> opened) {
      if (!opened) return;
      controller_.start([this](const ClusterId&) { return observe(); });
      tick();
    });
  }
  ~FakeServer() override { process_.end(); }

  const ClusterView& view() const { return mirror_.view(); }
  MemoryStore& store() { return store_; }
  bool answers = true;

 private:
  void call(const HostId&, Command command, Duration, Callback<CommandResult> done,
            Progress) override {
    process_.after(milliseconds(20), [this, command = std::move(command), done] {
      if (!answers) return done(make_error(Errc::unavailable, "no session"));
      done(device_.execute(command));
    });
  }
  StorageEvidence observe() const {
    StorageEvidence evidence;
    DeviceEvidence& seen = evidence.devices[DeviceId("ssd")];
    seen.host_reports = answers;
    seen.listed = device_.listed;
    if (device_.listed) seen.seen = device_.seen;
    return evidence;
  }
  void tick() {
    controller_.mark(ClusterId("c1"));
    process_.after(milliseconds(250), [this] { tick(); });
  }

  FakeDevice& device_;
  SimProcess process_;
  MemoryStore store_;
  NameSource names_;
  StoreMirror mirror_;
  StorageController controller_;
};

class StorageControllerTest : public testing::Test {
 protected:
  StorageControllerTest() {
    Transaction seeds;
    Cluster cluster;
    cluster.meta.name = "c1";
    seeds.put(cluster);
    Host host;
    host.meta.name = "h1";
    host.spec.cluster = ClusterId("c1");
    seeds.put(host);
    Device registered;
    registered.meta.name = "ssd";
    registered.spec = {HostId("h1"), "/srv/ssd", Mib{1000}, "standard"};
    seeds.put(registered);
    Volume volume;
    volume.meta.tenant = "acme";
    volume.meta.name = "data";
    volume.spec.cluster = ClusterId("c1");
    volume.spec.size_mib = Mib{64};
    seeds.put(volume);
    disk->state.apply(seeds.writes());
    server = std::make_unique<FakeServer>(loop, device, disk);
  }

  bool until(const std::function<bool()>& done) { return loop.run_until_true(done, seconds(90)); }
  const Volume* volume() const { return server->view().volumes.find(id); }
  void edit(const std::function<void(Volume&)>& change) {
    bool done = false;
    Volume changed = *volume();
    change(changed);
    Transaction transaction;
    transaction.put(changed);
    server->store().commit(transaction.guards(), transaction.writes(),
                           [&](Result<CommitOutcome>) { done = true; });
    ASSERT_TRUE(until([&] { return done; }));
  }
  int events(const std::string& kind) const {
    int found = 0;
    const auto page = disk->state.list({std::string(keys::kOutbox), "", 0, StoreLimits::kPageMax});
    for (const KeyValue& entry : page->entries) {
      found += from_json_text<Event>(entry.value)->kind == kind ? 1 : 0;
    }
    return found;
  }
  bool is_ready() const { return volume() != nullptr && volume()->ready(); }

  SimLoop loop;
  FakeDevice device;
  std::shared_ptr<MemoryDisk> disk = std::make_shared<MemoryDisk>();
  std::unique_ptr<FakeServer> server;
  const VolumeId id{"acme/data"};
};

TEST_F(StorageControllerTest, R_B1_AVolumeIsServedPlacedMadeGrownAndErased) {
  ASSERT_TRUE(until([&] { return is_ready(); }));
  EXPECT_EQ(device.count(CommandKind::serve_device), 1);
  EXPECT_EQ(device.count(CommandKind::create_volume), 1);
  EXPECT_EQ(device.find(id)->revoked, volume()->status.floor);
  EXPECT_EQ(events("device.available"), 1);
  EXPECT_EQ(events("volume.placed"), 1);
  EXPECT_EQ(events("volume.ready"), 1);
  edit([](Volume& changed) { changed.spec.size_mib = Mib{128}; });
  ASSERT_TRUE(until([&] { return volume()->status.size_mib == Mib{128}; }));
  device.find(id)->epochs = {{1, 5}};
  edit([](Volume& changed) { changed.meta.deleting_at = WallTime{1}; });
  ASSERT_TRUE(until([&] { return volume() == nullptr; }));
  EXPECT_TRUE(device.seen.volumes.empty());
  EXPECT_EQ(events("volume.deleted"), 1);
}

TEST_F(StorageControllerTest, R_B1_WhatFailsIsToldAndTriedAgainWithPauses) {
  ASSERT_TRUE(until([&] { return device.listed; }));
  device.failing = make_error(Errc::exhausted, "no space left");
  edit([](Volume& changed) { changed.status = {}; });
  ASSERT_TRUE(until([&] { return volume()->status.reason == "no space left"; }));
  loop.run_for(seconds(60));
  EXPECT_LT(device.count(CommandKind::create_volume), 10);
  device.failing.reset();
  ASSERT_TRUE(until([&] { return is_ready(); }));
  EXPECT_EQ(volume()->status.reason, "");
}

TEST_F(StorageControllerTest, R_B1_R_F1_AServerThatIsKilledIsFollowedByOneThatGoesOn) {
  ASSERT_TRUE(until([&] { return device.count(CommandKind::create_volume) == 1; }));
  server.reset();
  server = std::make_unique<FakeServer>(loop, device, disk);
  ASSERT_TRUE(until([&] { return is_ready(); }));
  EXPECT_EQ(device.count(CommandKind::create_volume), 1) << "its report says that it is there";
}

TEST_F(StorageControllerTest, R_F2_AHostThatIsAwayMakesItsDeviceUnavailable) {
  ASSERT_TRUE(until([&] { return is_ready(); }));
  server->answers = false;
  const auto status = [&] { return server->view().devices.find(DeviceId("ssd"))->status; };
  ASSERT_TRUE(until([&] { return !status().available; }));
  EXPECT_EQ(status().reason, "its host h1 does not report");
  EXPECT_EQ(events("device.unavailable"), 1);
  EXPECT_TRUE(volume()->ready()) << "what it held is still there";
  server->answers = true;
  ASSERT_TRUE(until([&] { return status().available && volume()->status.reason.empty(); }));
}

TEST_F(StorageControllerTest, R_B1_AQuietStorageWritesNothing) {
  ASSERT_TRUE(until([&] { return is_ready(); }));
  loop.run_for(seconds(5));
  const Revision before = server->view().revision;
  loop.run_for(seconds(60));
  EXPECT_EQ(server->view().revision, before);
}

TEST_F(StorageControllerTest, R_F5_R_F6_ADeviceThatFillsIsToldBeforeAndWhenItIsFullAndAfter) {
  const auto room = [&](std::int64_t free_mib) {
    device.seen.space = {to_bytes(Mib{1000}), to_bytes(Mib{free_mib})};
    return until([&] {
      return server->view().devices.find(DeviceId("ssd"))->status.free_mib == Mib{free_mib};
    });
  };
  ASSERT_TRUE(until([&] { return is_ready(); }));
  ASSERT_TRUE(room(800));
  EXPECT_EQ(events("device.filling") + events("device.full") + events("device.has_room"), 0);
  ASSERT_TRUE(room(90));
  EXPECT_EQ(events("device.filling"), 1);
  ASSERT_TRUE(room(0));
  EXPECT_EQ(events("device.full"), 1);
  edit([](Volume& volume) { volume.spec.size_mib = Mib{128}; });
  device.failing = make_error(Errc::exhausted, "0 MiB are free");
  ASSERT_TRUE(until([&] { return !volume()->status.reason.empty(); }));
  EXPECT_EQ(volume()->status.size_mib, Mib{64});
  device.failing.reset();
  ASSERT_TRUE(room(700));
  EXPECT_EQ(events("device.has_room"), 1);
  ASSERT_TRUE(until([&] { return volume()->status.size_mib == Mib{128}; }));
  EXPECT_EQ(events("device.full"), 1);
}

}  // namespace
}  // namespace virga
