#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "arch/storage_workload/planner.h"

/// The planner with 100 devices and 10,000 volumes. Prints `name value unit`.
namespace virga {
namespace {

constexpr int kDevices = 100;
constexpr int kVolumes = 10'000;
constexpr int kRuns = 9;

struct Storage {
  ClusterView view;
  StorageEvidence evidence;
};

Storage full_storage(int new_volumes) {
  Storage made;
  const ClusterId cluster("c1");
  made.view.revision = 1;
  Cluster stored;
  stored.meta.name = cluster.value;
  made.view.clusters.put(std::make_shared<const Cluster>(stored));
  for (int number = 0; number < kDevices; ++number) {
    Host host;
    host.meta.name = "h" + std::to_string(number);
    host.spec.cluster = cluster;
    made.view.hosts.put(std::make_shared<const Host>(host));
    Device device;
    device.meta.name = "d" + std::to_string(number);
    device.spec = {host.id(), "/srv", Mib{1 << 20}, "standard"};
    device.status.available = true;
    made.view.devices.put(std::make_shared<const Device>(device));
    DeviceEvidence& seen = made.evidence.devices[device.id()];
    seen.host_reports = true;
    seen.listed = true;
    seen.seen.device = device.id();
    seen.seen.directory = device.spec.directory;
    seen.seen.open = true;
  }
  for (int number = 0; number < kVolumes + new_volumes; ++number) {
    Volume volume;
    volume.meta.tenant = "t";
    volume.meta.name = "v" + std::to_string(number);
    volume.spec.cluster = cluster;
    volume.spec.size_mib = Mib{1024};
    if (number < kVolumes) {
      const DeviceId device("d" + std::to_string(number % kDevices));
      volume.status.legs = {{device, LegState::in_sync}};
      volume.status.size_mib = volume.spec.size_mib;
      ObservedVolume seen;
      seen.volume = volume.id();
      seen.size_mib = volume.spec.size_mib;
      made.evidence.devices[device].seen.volumes.push_back(seen);
    }
    made.view.volumes.put(std::make_shared<const Volume>(volume));
  }
  for (auto& [id, device] : made.evidence.devices) {
    std::sort(device.seen.volumes.begin(), device.seen.volumes.end(),
              [](const auto& left, const auto& right) { return left.volume < right.volume; });
  }
  return made;
}

void measure(const std::string& name, const Storage& storage) {
  std::vector<double> spans;
  std::size_t actions = 0;
  for (int run = 0; run < kRuns; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    const StoragePlan plan = plan_storage(storage.view, ClusterId("c1"), storage.evidence, {});
    const std::chrono::duration<double, std::milli> span = std::chrono::steady_clock::now() - begin;
    spans.push_back(span.count());
    actions = plan.placements.size() + plan.volume_changes.size() + plan.work.size();
  }
  std::sort(spans.begin(), spans.end());
  std::printf("%s %.2f ms\n%s_actions %zu actions\n", name.c_str(), spans[kRuns / 2], name.c_str(),
              actions);
}

}  // namespace
}  // namespace virga

int main() {
  virga::measure("storage_plan_quiet", virga::full_storage(0));
  virga::measure("storage_plan_100_new", virga::full_storage(100));
  return 0;
}
