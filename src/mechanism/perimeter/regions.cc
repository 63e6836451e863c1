#include "mechanism/perimeter/regions.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "model/keys.h"

namespace virga {
namespace {

using Regions = std::vector<std::string>;

std::string refusal(const std::string& who, const Regions& allowed, const std::string& region) {
  if (allowed.empty() || std::ranges::find(allowed, region) != allowed.end()) return {};
  const std::string there = region.empty() ? "is in no region" : "is in region " + region;
  return fmt::format("{}, {} may be in {} only", there, who, fmt::join(allowed, ", "));
}

std::string tenant_refusal(const ClusterView& view, const std::string& tenant,
                           const std::string& region) {
  const Tenant* rules = view.tenants.find(TenantId(tenant));
  return rules == nullptr ? "" : refusal("tenant " + tenant, rules->spec.regions, region);
}

std::string volume_refusal(const Volume& volume, const std::string& region) {
  return refusal("volume " + volume.id().value, volume.spec.regions, region);
}

void add(std::vector<Misplaced>& all, const Vm& vm, const std::string& place, std::string reason) {
  if (!reason.empty())
    all.push_back({keys::of(vm.id()), vm.meta.tenant, place, std::move(reason)});
}

}  // namespace

std::string region_refusal(const ClusterView& view, const Vm& vm, const Host& host) {
  const std::string& region = host.spec.region;
  if (auto why = tenant_refusal(view, vm.meta.tenant, region); !why.empty()) return why;
  for (const VmDisk& disk : vm.spec.disks) {
    if (disk.volume.empty()) continue;
    const Volume* volume = view.volumes.find(VolumeId(qualified(vm.meta.tenant, disk.volume)));
    if (volume == nullptr) continue;
    if (auto why = volume_refusal(*volume, region); !why.empty()) return why;
  }
  return {};
}

std::string region_refusal(const ClusterView& view, const Volume& volume, const Device& device) {
  const Host* host = view.hosts.find(device.spec.host);
  const std::string region = host == nullptr ? "" : host->spec.region;
  if (auto why = tenant_refusal(view, volume.meta.tenant, region); !why.empty()) return why;
  return volume_refusal(volume, region);
}

std::vector<Misplaced> misplaced(const ClusterView& view) {
  const bool bound = std::ranges::any_of(view.tenants.all(), [](const auto& entry) {
    return !entry.second->spec.regions.empty();
  }) || std::ranges::any_of(view.volumes.all(), [](const auto& entry) {
    return !entry.second->spec.regions.empty();
  });
  std::vector<Misplaced> all;
  if (!bound) return all;
  for (const auto& [id, vm] : view.vms.all()) {
    for (const HostId& at : {vm->status.host, vm->status.migration.destination}) {
      const Host* host = at.empty() ? nullptr : view.hosts.find(at);
      if (host != nullptr) add(all, *vm, "host " + at.value, region_refusal(view, *vm, *host));
    }
  }
  for (const auto& [id, volume] : view.volumes.all()) {
    for (const VolumeLeg& leg : volume->status.legs) {
      const Device* device = view.devices.find(leg.device);
      if (device == nullptr) continue;
      auto why = region_refusal(view, *volume, *device);
      if (why.empty()) continue;
      all.push_back({keys::of(id), volume->meta.tenant, "device " + leg.device.value, why});
    }
  }
  return all;
}

}  // namespace virga
