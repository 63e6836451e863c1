#include "mechanism/storage/device_space.h"

#include <algorithm>

namespace virga {

DeviceSpace::DeviceSpace(const ClusterView& view, const ClusterId& cluster) {
  for (const auto& [id, device] : view.devices.all()) {
    const Host* host = view.hosts.find(device->spec.host);
    if (host != nullptr && host->spec.cluster == cluster) devices_[id] = device.get();
  }
  for (const Volume* volume : view.volumes_of(cluster)) {
    for (const VolumeLeg& leg : volume->status.legs) {
      promise(leg.device, std::max(volume->spec.size_mib, volume->status.size_mib));
    }
  }
}

Mib DeviceSpace::free_on(const DeviceId& device) const {
  const auto known = devices_.find(device);
  if (known == devices_.end()) return {};
  const auto promised = promised_.find(device);
  const Mib taken = promised == promised_.end() ? Mib() : promised->second;
  return known->second->spec.capacity_mib - taken;
}

}  // namespace virga
