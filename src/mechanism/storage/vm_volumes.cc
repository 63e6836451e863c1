#include "mechanism/storage/vm_volumes.h"

#include <fmt/format.h>

#include <algorithm>
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
  return vm == nullptr ? HostId() : vm->status.host;
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

using Volumes = std::vector<const Volume*>;

/// In the order in which the room of storage places them.
Volumes local_volumes_of(const ClusterView& view, const Vm& vm) {
  Volumes found;
  for (const VmDisk& disk : vm.spec.disks) {
    if (disk.volume.empty()) continue;
    const Volume* volume = view.volumes.find(VolumeId(qualified(vm.meta.tenant, disk.volume)));
    if (volume != nullptr && volume->spec.local) found.push_back(volume);
  }
  std::ranges::sort(found, {}, [](const Volume* one) { return one->id(); });
  return found;
}

/// What the devices of one host have left.
class HostRoom {
 public:
  void add(const Device& device, Mib free) { left_.push_back({&device, free}); }

  /// Takes room for a volume that is not on this host yet: where the largest share is left, as the
  /// room of storage chooses.
  bool take(const ClusterView& view, const Volume& volume, const HostId& host) {
    for (const VolumeLeg& leg : volume.status.legs) {
      const Device* device = view.devices.find(leg.device);
      if (device != nullptr && device->spec.host == host) return true;
    }
    const Mib size = std::max(volume.spec.size_mib, volume.status.size_mib);
    Left* best = nullptr;
    double most = -1;
    for (Left& one : left_) {
      if (one.device->spec.storage_class != volume.spec.storage_class || one.free < size) continue;
      const double share = static_cast<double>((one.free - size).value) /
                           static_cast<double>(one.device->spec.capacity_mib.value);
      if (share <= most) continue;
      most = share;
      best = &one;
    }
    if (best == nullptr) return false;
    best->free -= size;
    return true;
  }

 private:
  struct Left {
    const Device* device = nullptr;
    Mib free;
  };
  std::vector<Left> left_;
};

std::set<HostId> hosts_with_room(const ClusterView& view, const Vm& vm, const Volumes& volumes) {
  const DeviceSpace space(view, vm.spec.cluster);
  std::map<HostId, HostRoom> hosts;
  for (const auto& [id, device] : space.devices()) {
    const bool serves =
        device->status.available && !device->spec.lost && !device->meta.deleting_at;
    if (serves) hosts[device->spec.host].add(*device, space.free_on(id));
  }
  for (const Vm* other : view.vms_of(vm.spec.cluster)) {
    const HostId& there = other->status.migration.destination.empty()
                              ? other->status.host
                              : other->status.migration.destination;
    const auto host = other->id() == vm.id() ? hosts.end() : hosts.find(there);
    if (host == hosts.end()) continue;
    for (const Volume* one : local_volumes_of(view, *other)) host->second.take(view, *one, there);
  }
  std::set<HostId> found;
  for (auto& host : hosts) {
    const bool all = std::ranges::all_of(volumes, [&](const Volume* one) {
      return host.second.take(view, *one, host.first);
    });
    if (all) found.insert(host.first);
  }
  return found;
}

}  // namespace

std::set<HostId> hosts_beside_volumes(const ClusterView& view, const Vm& vm, bool alive) {
  const Volumes volumes = local_volumes_of(view, vm);
  if (volumes.empty()) return {};
  if (alive) return hosts_with_room(view, vm, volumes);
  std::set<HostId> found;
  for (const Volume* volume : volumes) {
    for (const DeviceId& leg : volume->in_use()) {
      if (const Device* device = view.devices.find(leg)) found.insert(device->spec.host);
    }
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
