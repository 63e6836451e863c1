#pragma once

#include <map>

#include "runtime/cluster_view.h"

namespace virga {

/// What the devices of one cluster have promised and have left: the one definition of "free". A volume counts with
/// the larger of what it is and what it shall be, from the moment its device is chosen until its record is gone.
/// Built in O(devices + the cluster's volumes). Pure.
class DeviceSpace {
 public:
  DeviceSpace(const ClusterView& view, const ClusterId& cluster);

  /// Devices whose host is in the cluster, in order of id.
  const std::map<DeviceId, const Device*>& devices() const { return devices_; }

  /// Below zero when more was promised than there is (a device that was made smaller); 0 for one that is not known.
  Mib free_on(const DeviceId& device) const;

  /// Promises more there: a plan's own choice counts at once.
  void promise(const DeviceId& device, Mib size) { promised_[device] += size; }

 private:
  std::map<DeviceId, const Device*> devices_;
  std::map<DeviceId, Mib> promised_;
};

}  // namespace virga
