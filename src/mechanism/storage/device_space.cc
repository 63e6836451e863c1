#include "mechanism/storage/device_space.h"

#include <algorithm>

namespace virga {

DeviceSpace::DeviceSpace(const ClusterView& view, const ClusterId& cluster) {
  for (const Device* device : view.devices_of(cluster)) devices_[device->id()] = device;
  for (const Volume* volume : view.volumes_of(cluster)) {
    for (const VolumeLeg& leg : volume->status.legs) {
      promise(leg.device, std::max(volume->spec.size_mib, volume->status.size_mib));
    }
  }
}

Mib DeviceSpace::free_on(const DeviceId& device) const {
  const auto known = devices_.find(device);
  if (known == devices_.end()) return {};
  const Mib left = known->second->spec.capacity_mib - promised_on(device);
  const DeviceStatus& status = known->second->status;
  return status.room == DeviceRoom::unknown ? left : std::min(left, status.free_mib);
}

Mib DeviceSpace::promised_on(const DeviceId& device) const {
  const auto promised = promised_.find(device);
  return promised == promised_.end() ? Mib() : promised->second;
}

DeviceRoom room_of(const RealSpace& space, DeviceRoom before) {
  if (space.size <= Bytes()) return DeviceRoom::unknown;
  // A quarter more than what has made it so.
  const auto below = [&](std::int64_t parts, DeviceRoom room) {
    return space.free * parts * 4 < space.size * (before >= room ? 5 : 4);
  };
  if (below(100, DeviceRoom::none)) return DeviceRoom::none;
  return below(10, DeviceRoom::low) ? DeviceRoom::low : DeviceRoom::ample;
}

}  // namespace virga
