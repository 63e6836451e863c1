#include "arch/hypervisor_clustering/disk_places.h"

#include <algorithm>

namespace virga {

bool each_volume(const std::vector<ServedVolume>& places,
                 const std::function<bool(const ServedVolume&)>& does) {
  return std::ranges::all_of(places, [&](const ServedVolume& one) {
    return std::ranges::any_of(places, [&](const ServedVolume& other) {
      return other.volume == one.volume && does(other);
    });
  });
}

std::optional<SettleDisk> settlement_of(const Volume& volume, const ObservedDisk& disk) {
  const std::vector<DeviceId> used = volume.in_use();
  const auto counts = [&](const DeviceId& leg) { return std::ranges::count(used, leg) > 0; };
  if (!disk.copied_to.empty()) {
    return SettleDisk{
        {},
        {},
        disk.volume,
        disk.copied_to,
        counts(disk.copied_to) ? DiskSettlement::finish_mirror : DiskSettlement::drop_mirror};
  }
  const auto kept = std::ranges::find_if(disk.legs, counts);
  if (kept == disk.legs.end() || std::ranges::all_of(disk.legs, counts)) return std::nullopt;
  return SettleDisk{{}, {}, disk.volume, *kept, DiskSettlement::keep_leg};
}

std::optional<SettleDisk> settlement_of(const ClusterView& view, const ObservedVm& copy) {
  std::optional<SettleDisk> first;
  for (const ObservedDisk& disk : copy.disks) {
    const Volume* volume = view.volumes.find(disk.volume);
    const auto settlement = volume == nullptr ? std::nullopt : settlement_of(*volume, disk);
    // As long as one disk is being copied no other one can be put on one place.
    if (settlement && (!first || !disk.copied_to.empty())) first = settlement;
  }
  return first;
}

const ObservedDisk* astray_disk(const ClusterView& view, const ObservedVm* copy) {
  if (copy == nullptr) return nullptr;
  const auto is_astray = [&](const ObservedDisk& disk) {
    const Volume* volume = view.volumes.find(disk.volume);
    if (volume == nullptr || disk.legs.empty()) return false;
    return std::ranges::none_of(volume->in_use(), [&](const DeviceId& used) {
      return used == disk.copied_to || std::ranges::count(disk.legs, used) > 0;
    });
  };
  const auto disk = std::ranges::find_if(copy->disks, is_astray);
  return disk == copy->disks.end() ? nullptr : &*disk;
}

const ObservedDisk* failing_disk(const ObservedVm& copy) {
  const auto fails = [](const ObservedDisk& disk) { return !disk.failing.empty(); };
  const auto disk = std::ranges::find_if(copy.disks, fails);
  return disk == copy.disks.end() ? nullptr : &*disk;
}

const VolumeLeg* next_leg(const ClusterView& view, const Volume& volume, const ObservedVm& copy) {
  const auto next = std::ranges::find(volume.status.legs, LegState::behind, &VolumeLeg::state);
  if (next == volume.status.legs.end()) return nullptr;
  if (!volume.spec.mirrored) return wanted_on(view, volume, next->device) ? &*next : nullptr;
  const auto disk = std::ranges::find(copy.disks, volume.id(), &ObservedDisk::volume);
  const bool alone = disk != copy.disks.end() && disk->legs == volume.in_use();
  return alone && disk->legs.size() == 1 ? &*next : nullptr;
}

}  // namespace virga
