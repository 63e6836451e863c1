#include "model/volume.h"

#include <algorithm>

namespace virga {

std::vector<DeviceId> Volume::in_use() const {
  std::vector<DeviceId> found;
  for (const VolumeLeg& leg : status.legs) {
    if (leg.state == LegState::in_sync) found.push_back(leg.device);
  }
  if (!spec.mirrored && found.size() > 1) found.resize(1);
  return found;
}

bool set_leg(VolumeStatus& status, const DeviceId& device, LegState state) {
  const auto leg = std::ranges::find(status.legs, device, &VolumeLeg::device);
  if (leg == status.legs.end()) return false;
  leg->state = state;
  std::stable_partition(status.legs.begin(), status.legs.end(), [](const VolumeLeg& one) {
    return one.state == LegState::in_sync;
  });
  return true;
}

}  // namespace virga
