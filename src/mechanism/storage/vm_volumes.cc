#include "mechanism/storage/vm_volumes.h"

#include <fmt/format.h>

#include <algorithm>

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
