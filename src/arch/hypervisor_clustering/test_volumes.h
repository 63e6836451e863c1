#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "arch/hypervisor_clustering/test_cluster.h"
#include "arch/hypervisor_clustering/test_world.h"

/// VMs whose disks are volumes, for tests of planner and steps.
namespace virga::test {

inline Image direct_image() {
  Image image;
  image.meta.name = "tiny";
  image.spec.path = "images/tiny";
  image.spec.file_bytes = Bytes{1};
  image.spec.sha256 = std::string(64, '0');
  return image;
}

inline Device device_on(const std::string& host) {
  Device device;
  device.meta.name = "disk-" + host;
  device.spec = {HostId(host), "/srv/disk", Mib{1000}, "standard"};
  device.status.available = true;
  return device;
}

inline Volume ready_volume(const std::string& name, const std::string& host) {
  Volume volume;
  volume.meta.tenant = "acme";
  volume.meta.name = name;
  volume.spec.cluster = ClusterId("c1");
  volume.spec.size_mib = Mib{64};
  volume.status.legs = {{DeviceId("disk-" + host), LegState::in_sync}};
  volume.status.size_mib = Mib{64};
  return volume;
}

class VolumePlanning : public ::testing::Test, protected TestCluster {
 protected:
  VolumePlanning() {
    for (const char* name : {"a", "b", "c"}) add_host(name);
    view.images.put(std::make_shared<const Image>(direct_image()));
    view.devices.put(std::make_shared<const Device>(device_on("c")));
  }

  VmId vm_with_volume(const std::string& host) {
    view.volumes.put(std::make_shared<const Volume>(ready_volume("data", "c")));
    const VmId db = add_vm("db", host);
    edit_vm(db, [](Vm& vm) {
      vm.spec.image = ImageId("tiny");
      vm.spec.disks = {{"data", Mib(), "data"}};
    });
    return db;
  }
  /// The host is dead and nothing switches it off.
  void kill(const std::string& host) {
    silence(host, seconds(3), 2, 2);
    edit_host(host, [](Host& dead) { dead.status.health = HostHealth::dead; });
  }
};

/// The controller and the steps in virtual time. Hosts a and b run VMs, c has the device; no BMC
/// answers.
class VolumesInUse : public ::testing::Test {
 protected:
  VolumesInUse() {
    Transaction seeds;
    Cluster cluster;
    cluster.meta.name = "c1";
    cluster.spec.policy.failures_tolerated = 0;
    seeds.put(cluster);
    seeds.put(direct_image());
    for (const char* name : {"a", "b", "c"}) {
      Host host;
      host.meta.name = name;
      host.spec.cluster = ClusterId("c1");
      host.spec.maintenance = std::string(name) == "c";
      host.status.health = HostHealth::alive;
      host.status.health_reason = "reports arrive";
      host.status.boot_id = "boot-" + host.meta.name;
      host.status.leash_armed = true;
      host.status.capacity = {Millicores{8000}, Mib{4096}};
      host.status.hypervisor.machine_types = {"pc-q35-7.2"};
      host.status.hypervisor.cpu_model = "qemu64";
      seeds.put(host);
      hosts.add(host.id());
    }
    seeds.put(device_on("c"));
    seeds.put(ready_volume("data", "c"));
    Vm made;
    made.meta.tenant = "acme";
    made.meta.name = "db";
    made.spec.cluster = ClusterId("c1");
    made.spec.image = ImageId("tiny");
    made.spec.disks = {{"data", Mib(), "data"}};
    seeds.put(made);
    disk->state.apply(seeds.writes());
    server = std::make_unique<FakeServer>(loop, hosts, disk, MemoryStoreOptions(), 1);
  }

  bool until(const std::function<bool()>& done) { return loop.run_until_true(done, seconds(60)); }
  const Vm& vm() const { return *server->view().vms.find(id); }
  bool serves() const {
    const Vm* found = server->view().vms.find(id);
    return found != nullptr && found->status.power == VmPower::running &&
           found->status.operation.empty();
  }
  FakeHosts::Attached& place() { return hosts.places[{volume, DeviceId("disk-c")}]; }
  std::set<Epoch>& attached() { return place().epochs; }
  void order_move(const HostId& to) {
    bool done = false;
    Transaction transaction;
    Vm changed = vm();
    changed.spec.move_to = to;
    transaction.put(changed);
    server->store().commit(transaction.guards(), transaction.writes(),
                           [&](Result<CommitOutcome> outcome) {
                             done = outcome->verdict == CommitVerdict::committed;
                           });
    ASSERT_TRUE(until([&] { return done; }));
  }
  HostId other() const { return HostId(vm().status.host == HostId("a") ? "b" : "a"); }

  SimLoop loop;
  FakeHosts hosts{loop};
  std::shared_ptr<MemoryDisk> disk = std::make_shared<MemoryDisk>();
  std::unique_ptr<FakeServer> server;
  const VmId id{"acme/db"};
  const VolumeId volume{"acme/data"};
};

}  // namespace virga::test
