#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arch/storage_workload/planner.h"

namespace virga::test {

/// A cluster with devices d1 and d2 on hosts h1 and h2, both served, 1000 MiB each.
class StoragePlannerTest : public ::testing::Test {
 protected:
  StoragePlannerTest() {
    view.revision = 40;
    view.incarnation = 1;
    Cluster cluster;
    cluster.meta.name = "c1";
    view.clusters.put(std::make_shared<const Cluster>(cluster));
    add_device("d1", "h1");
    add_device("d2", "h2");
  }

  void add_device(const std::string& name, const std::string& host_name) {
    Host host;
    host.meta.name = host_name;
    host.spec.cluster = ClusterId("c1");
    view.hosts.put(std::make_shared<const Host>(host));
    Device device;
    device.meta.name = name;
    device.spec = {host.id(), "/srv/" + name, Mib{1000}, "standard"};
    device.status.available = true;
    view.devices.put(std::make_shared<const Device>(device));
    DeviceEvidence& seen = evidence.devices[device.id()];
    seen.host_reports = true;
    seen.listed = true;
    seen.seen = {device.id(), device.spec.directory, true, "", {}};
  }

  /// What the agent of its host says of the file system below it.
  void measure(const std::string& device, std::int64_t size_mib, std::int64_t free_mib) {
    evidence.devices[DeviceId(device)].seen.space = {to_bytes(Mib{size_mib}),
                                                     to_bytes(Mib{free_mib})};
  }
  /// As the controller does.
  void store(const StoragePlan& made) {
    for (const DeviceChange& change : made.device_changes) {
      Device changed = *view.devices.find(change.device);
      changed.status = change.status;
      view.devices.put(std::make_shared<const Device>(changed));
    }
    for (const VolumeChange& change : made.volume_changes) {
      Volume changed = *view.volumes.find(change.volume);
      changed.status.reason = change.reason;
      changed.status.size_mib = change.size_mib;
      if (!changed.status.legs.empty()) changed.status.legs.front().state = change.state;
      put(changed);
    }
  }
  const DeviceStatus& status(const std::string& device) {
    return view.devices.find(DeviceId(device))->status;
  }

  Volume volume(const std::string& name, std::int64_t size_mib, const std::string& device = "") {
    Volume made;
    made.meta.tenant = "acme";
    made.meta.name = name;
    made.spec.cluster = ClusterId("c1");
    made.spec.size_mib = Mib{size_mib};
    if (!device.empty()) {
      made.status.legs = {{DeviceId(device), LegState::in_sync}};
      made.status.size_mib = Mib{size_mib};
    }
    return made;
  }
  void put(const Volume& made) { view.volumes.put(std::make_shared<const Volume>(made)); }

  void see(const Volume& made, std::vector<Epoch> epochs = {}) {
    ObservedVolume seen;
    seen.volume = made.id();
    seen.size_mib = made.status.size_mib;
    seen.floor = made.status.floor;
    seen.epochs = std::move(epochs);
    evidence.devices[made.status.legs.front().device].seen.volumes.push_back(seen);
  }

  Vm user(const Volume& of, const std::string& host, const Epoch& epoch) {
    Vm vm;
    vm.meta.tenant = "acme";
    vm.meta.name = "web";
    vm.spec.cluster = ClusterId("c1");
    vm.spec.disks = {{"data", Mib(), of.meta.name}};
    vm.status.host = HostId(host);
    vm.status.epoch = epoch;
    return vm;
  }
  void put(const Vm& vm) { view.vms.put(std::make_shared<const Vm>(vm)); }

  StoragePlan plan() const { return plan_storage(view, ClusterId("c1"), evidence, options); }

  ClusterView view;
  StorageEvidence evidence;
  StorageOptions options;
};

}  // namespace virga::test
