#pragma once

#include <set>
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

/// The host on whose devices a local volume shall be: where its VM runs. Empty = it is not local, or nobody's. Pure.
HostId wanted_beside(const ClusterView& view, const Volume& volume);

/// Whether a volume shall lie on this device beside, or instead of, the one that it is on. Pure.
bool wanted_on(const ClusterView& view, const Volume& volume, const DeviceId& device);

/// Hosts where a VM has its local volumes or, if it moves alive, where devices have room for all of them together,
/// beside those that are on their way there. Empty when it has none, or nobody has. Pure. Cost: O(its disks); alive, if
/// it has local volumes, O(devices + the cluster's volumes and VMs).
std::set<HostId> hosts_beside_volumes(const ClusterView& view, const Vm& vm, bool alive);

/// Whether all that a VM can write is on volumes: then a copy that all of them have cut off can do no harm, and their
/// word for it is a proof. Pure.
bool storage_can_fence(const ClusterView& view, const Vm& vm);

}  // namespace virga
