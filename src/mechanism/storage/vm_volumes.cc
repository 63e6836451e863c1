#include "mechanism/storage/vm_volumes.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "mechanism/storage/device_space.h"

namespace virga {

Result<std::vector<ServedVolume>> volumes_of(const ClusterView& view, const Vm& vm) {
  std::vector<ServedVolume> found;
  for (const VmDisk& disk : vm.spec.disks) {
    if (disk.volume.empty()) continue;
    const VolumeId id(qualified(vm.meta.tenant, disk.volume));
    const Volume* volume = view.volumes.find(id);
    if (volume == nullptr) {
      return make_error(Errc::not_found,
                        fmt::format("disk {}: volume {} does not exist", disk.name, id.value));
    }
    if (!volume->ready()) {
      return make_error(
          Errc::unavailable,
          fmt::format("volume {0} is not ready; `virga volume get {0}` says why", id.value));
    }
    for (const DeviceId& leg : volume->in_use()) {
      const Device* device = view.devices.find(leg);
      if (device == nullptr) {
        return make_error(Errc::not_found, fmt::format("volume {}: its device {} is not registered",
                                                       id.value, leg.value));
      }
      if (device->spec.lost && volume->in_use().size() == 1) {
        return make_error(Errc::not_found, fmt::format("volume {}: it is lost with its device {}",
                                                       id.value, leg.value));
      }
      found.push_back({id, leg, device->spec.host});
    }
  }
  return found;
}

HostId wanted_beside(const ClusterView& view, const Volume& volume) {
  const Vm* vm = volume.spec.local ? view.user_of(volume.id()) : nullptr;
  if (vm == nullptr) return {};
  return vm->status.host.empty() ? vm->spec.pinned_host : vm->status.host;
}

bool wanted_on(const ClusterView& view, const Volume& volume, const DeviceId& device) {
  if (!volume.spec.local) return device == volume.spec.device;
  const HostId host = wanted_beside(view, volume);
  const auto is_there = [&](const DeviceId& id) {
    const Device* stored = view.devices.find(id);
    return stored != nullptr && stored->spec.host == host;
  };
  const auto& legs = volume.status.legs;
  return !host.empty() && is_there(device) && (legs.empty() || !is_there(legs.front().device));
}

namespace {

std::vector<const Volume*> local_volumes_of(const ClusterView& view, const Vm& vm) {
  std::vector<const Volume*> found;
  for (const VmDisk& disk : vm.spec.disks) {
    if (disk.volume.empty()) continue;
    const Volume* volume = view.volumes.find(VolumeId(qualified(vm.meta.tenant, disk.volume)));
    if (volume != nullptr && volume->spec.local) found.push_back(volume);
  }
  return found;
}

/// Whether the devices of a host take all of them: the largest first, each where most is left.
bool has_room_for(const ClusterView& view, const DeviceSpace& space, const HostId& host,
                  std::vector<const Volume*> volumes) {
  const auto size = [](const Volume* one) {
    return std::max(one->spec.size_mib, one->status.size_mib);
  };
  std::map<DeviceId, Mib> left;
  for (const auto& [id, device] : space.devices()) {
    const bool takes = device->spec.host == host && device->status.available &&
                       !device->spec.lost && !device->meta.deleting_at;
    if (takes) left[id] = space.free_on(id);
  }
  std::erase_if(volumes, [&](const Volume* one) {
    const Device* device =
        one->status.legs.empty() ? nullptr : view.devices.find(one->status.legs.front().device);
    return device != nullptr && device->spec.host == host;  // there already
  });
  std::ranges::sort(volumes, std::greater(), size);
  return std::ranges::all_of(volumes, [&](const Volume* one) {
    Mib* most = nullptr;
    for (auto& [id, free] : left) {
      const bool fits = space.devices().at(id)->spec.storage_class == one->spec.storage_class;
      if (fits && free >= size(one) && (most == nullptr || free > *most)) most = &free;
    }
    if (most == nullptr) return false;
    *most -= size(one);
    return true;
  });
}

}  // namespace

std::set<HostId> hosts_beside_volumes(const ClusterView& view, const Vm& vm, bool alive) {
  std::set<HostId> found;
  const auto volumes = local_volumes_of(view, vm);
  if (volumes.empty()) return found;
  if (!alive) {
    for (const Volume* volume : volumes) {
      for (const DeviceId& leg : volume->in_use()) {
        if (const Device* device = view.devices.find(leg)) found.insert(device->spec.host);
      }
    }
    return found;
  }
  const DeviceSpace space(view, vm.spec.cluster);
  for (const Host* host : view.hosts_of(vm.spec.cluster)) {
    if (has_room_for(view, space, host->id(), volumes)) found.insert(host->id());
  }
  return found;
}

bool storage_can_fence(const ClusterView& view, const Vm& vm) {
  const Image* image = view.images.find(vm.spec.image);
  const bool direct = image != nullptr && image->spec.format == ImageFormat::direct;
  const auto& disks = vm.spec.disks;
  const auto is_root = [](const VmDisk& disk) { return disk.name == "root"; };
  // The root disk of an image is a file unless the VM names it.
  const bool no_file = direct || std::any_of(disks.begin(), disks.end(), is_root);
  return no_file && !disks.empty() &&
         std::all_of(disks.begin(), disks.end(),
                     [](const VmDisk& disk) { return !disk.volume.empty(); });
}

}  // namespace virga
