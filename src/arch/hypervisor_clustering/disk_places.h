#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "arch/hypervisor_clustering/types.h"
#include "mechanism/storage/vm_volumes.h"
#include "model/volume.h"

namespace virga {

/// Whether one of the places of each volume does so. Pure.
bool each_volume(const std::vector<ServedVolume>& places,
                 const std::function<bool(const ServedVolume&)>& does);

/// What a disk of the copy in force lacks to be where the store says that its data are; none = nothing. VM and host
/// are left to the caller. Pure.
std::optional<SettleDisk> settlement_of(const Volume& volume, const ObservedDisk& disk);

/// The one of the copy's disks that comes first. Pure.
std::optional<SettleDisk> settlement_of(const ClusterView& view, const ObservedVm& copy);

/// A disk that is written in places none of which counts, as after a restore of a backup that is older than the move
/// of its volume; null = there is none, or no copy. Until its place is believed, neither a move nor a start may go by
/// what is stored, and what the stored places say proves nothing of this copy.
const ObservedDisk* astray_disk(const ClusterView& view, const ObservedVm* copy);

/// A disk that QEMU could not write in all its places; null = there is none. The store says first where it goes on.
const ObservedDisk* failing_disk(const ObservedVm& copy);

/// The place where the volume shall be beside where it is, or instead, and that holds too little yet: null = none, or
/// its copy writes to others than the store says. Pure.
const VolumeLeg* next_leg(const ClusterView& view, const Volume& volume, const ObservedVm& copy);

}  // namespace virga
