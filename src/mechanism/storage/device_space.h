#pragma once

#include <map>

#include "model/observed_volume.h"
#include "runtime/cluster_view.h"

namespace virga {

/// What the devices of one cluster have promised and have left: the one definition of "free". A volume counts with
/// the larger of what it is and what it shall be, from the moment its device is chosen until its record is gone.
/// Volumes are thin: a device whose capacity is more than it has promises more than it can hold. What is new must fit
/// into what is really free now; that the older ones do not fill it as well is not promised by this.
/// Built in O(the cluster's hosts, devices and volumes). Pure.
class DeviceSpace {
 public:
  DeviceSpace(const ClusterView& view, const ClusterId& cluster);

  /// Devices whose host is in the cluster, in order of id.
  const std::map<DeviceId, const Device*>& devices() const { return devices_; }

  /// The less of what its capacity leaves and what is really free. Below zero when more was promised than there is (a
  /// device that was made smaller); 0 for one that is not known.
  Mib free_on(const DeviceId& device) const;

  Mib promised_on(const DeviceId& device) const;

  /// Promises more there: a plan's own choice counts at once.
  void promise(const DeviceId& device, Mib size) { promised_[device] += size; }

 private:
  std::map<DeviceId, const Device*> devices_;
  std::map<DeviceId, Mib> promised_;
};

/// How much room this is; `before`: what it was, which it stays until there is clearly more. Pure.
DeviceRoom room_of(const RealSpace& space, DeviceRoom before);

}  // namespace virga
