#pragma once

#include <vector>

#include "runtime/cluster_view.h"

namespace virga {

/// A volume of a VM in one of the places that it uses, and who serves it there.
struct ServedVolume {
  VolumeId volume;
  DeviceId device;
  HostId host;
};

/// In order of the VM's disks, the places of one after the other. Pure. Errors: not_found (a volume or its device is
/// not registered), unavailable (the volume is not ready yet).
Result<std::vector<ServedVolume>> volumes_of(const ClusterView& view, const Vm& vm);

/// Whether all that a VM can write is on volumes: then a copy that all of them have cut off can do no harm, and their
/// word for it is a proof. Pure.
bool storage_can_fence(const ClusterView& view, const Vm& vm);

}  // namespace virga
