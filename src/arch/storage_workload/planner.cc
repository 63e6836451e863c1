#include "arch/storage_workload/planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <set>
#include <utility>

#include "mechanism/perimeter/regions.h"
#include "mechanism/storage/device_space.h"
#include "mechanism/storage/vm_volumes.h"

namespace virga {
namespace {

class Planner {
 public:
  Planner(const ClusterView& view, const ClusterId& cluster, const StorageEvidence& evidence,
          const StorageOptions& options)
      : view_(view),
        cluster_(cluster),
        evidence_(evidence),
        options_(options),
        space_(view, cluster) {}

  StoragePlan plan() {
    for (const auto& [id, device] : space_.devices()) judge(*device);
    for (const Volume* volume : view_.volumes_of(cluster_)) {
      const bool copied = !volume->spec.source.empty() && !volume->ready();
      if (copied && !volume->status.legs.empty()) copied_.insert(source_of(*volume));
    }
    for (const Volume* volume : view_.volumes_of(cluster_)) decide(*volume);
    for (const auto& [device, host] : evidence_.strangers) {
      if (!evidence_.held && !is_used(device)) plan_.releases.emplace_back(device, host);
    }
    return std::move(plan_);
  }

 private:
  template <typename Actions>
  bool room_in(const Actions& actions) const {
    return actions.size() < static_cast<std::size_t>(options_.actions_max);
  }

  const DeviceEvidence& evidence_of(const DeviceId& device) const {
    static const DeviceEvidence kNothing;
    const auto found = evidence_.devices.find(device);
    return found == evidence_.devices.end() ? kNothing : found->second;
  }

  bool serves(const DeviceId& device) const {
    const DeviceEvidence& evidence = evidence_of(device);
    const Device* stored = view_.devices.find(device);
    return evidence.host_reports && evidence.listed && evidence.seen.open && stored != nullptr &&
           !stored->spec.lost && evidence.seen.directory == stored->spec.directory;
  }

  const ObservedVolume* observed(const DeviceId& device, const VolumeId& volume) const {
    const auto& all = evidence_of(device).seen.volumes;
    const auto found = std::lower_bound(
        all.begin(), all.end(), volume,
        [](const ObservedVolume& one, const VolumeId& id) { return one.volume < id; });
    return found == all.end() || found->volume != volume ? nullptr : &*found;
  }

  static VolumeId source_of(const Volume& volume) {
    return VolumeId(qualified(volume.meta.tenant, volume.spec.source));
  }

  /// Nobody waits for it to come back.
  bool is_gone(const DeviceId& device) const {
    const Device* stored = view_.devices.find(device);
    return stored == nullptr || stored->spec.lost;
  }

  void judge(const Device& device);
  std::string unavailable_because(const Device& device) const;
  void decide(const Volume& volume);
  void place(const Volume& volume);
  std::optional<std::string> refusal(const Volume& volume, const Device& device) const;
  std::optional<std::string> refusal_of_image(const Volume& volume, const Device& device) const;
  std::optional<std::string> refusal_of_copy(const Volume& volume, const Device& device) const;
  void decide_placed(const Volume& volume, const VolumeLeg& leg);
  bool end_strangers(const Volume& volume, const VolumeLeg& leg, const ObservedVolume& seen);
  void decide_deleting(const Volume& volume, const ObservedVolume* seen);
  std::optional<DeviceId> target_of(const Volume& volume, std::string& why) const;
  bool begin_move(const Volume& volume);
  bool begin_mirror(const Volume& volume);
  std::string failure_of(const Volume& volume, const VolumeLeg& leg) const;
  bool is_used(const DeviceId& device) const;
  bool is_written(const Volume& volume, const DeviceId& leg) const;
  bool is_written_elsewhere(const Volume& volume) const;
  bool believe_guest(const Volume& volume);
  bool find_elsewhere(const Volume& volume);
  bool give_up_leg(const Volume& volume);
  bool give_up(const Volume& volume, const VolumeLeg& leg, std::string why);
  bool grows(const Volume& volume, const ObservedVolume& seen);
  bool decide_others(const Volume& volume);
  bool is_lost(const Volume& volume, const VolumeLeg& leg) const;
  bool decide_second(const Volume& volume, const VolumeLeg& leg);
  bool decide_present(const Volume& volume, const VolumeLeg& leg, const ObservedVolume& seen);
  bool cannot_join(const Volume& volume, const ObservedVolume& seen) const;
  bool has_guest(const Volume& volume) const;
  Mib size_of(const Volume& volume, const ObservedVolume& first) const;
  bool end_second(const Volume& volume, const VolumeLeg& leg);
  bool change_second(const Volume& volume, const VolumeLeg& leg, LegState state, bool gone = false);
  std::optional<DeviceId> best_device(const Volume& volume, std::string& refusals) const;
  bool is_busy(const Volume& volume) const;
  void work(const Volume& volume, VolumeTask task, Mib size, const Epoch& epoch) {
    work_on(volume, volume.status.legs.front(), task, size, epoch);
  }
  void work_on(const Volume& volume, const VolumeLeg& leg, VolumeTask task, Mib size,
               const Epoch& epoch);
  void make(const Volume& volume);
  void follow_filling(const Volume& volume, const ObservedVolume& seen);
  void note(const Volume& volume, LegState state, Mib size, std::string reason,
            bool missing = false);

  const ClusterView& view_;
  const ClusterId& cluster_;
  const StorageEvidence& evidence_;
  const StorageOptions& options_;
  DeviceSpace space_;
  std::set<VolumeId> copied_;  ///< that others are being copied from
  std::string lacks_;          ///< what the volume at hand could be used without and should have
  StoragePlan plan_;
};

std::string Planner::unavailable_because(const Device& device) const {
  const DeviceEvidence& evidence = evidence_of(device.id());
  const std::string& host = device.spec.host.value;
  if (device.spec.lost) return "is lost, an operator says";
  if (!evidence.host_reports) return "its host " + host + " does not report";
  if (!evidence.can_serve) return "the agent of " + host + " is too old to serve devices";
  const bool other = evidence.seen.directory != device.spec.directory;
  if (!evidence.listed || !evidence.seen.open || other) {
    return evidence.seen.failing.empty() ? std::string(kDeviceBeingOpened) : evidence.seen.failing;
  }
  return {};
}

/// True when so much is different that it is worth a note.
bool measure(const RealSpace& space, DeviceStatus& status) {
  constexpr std::int64_t kSteps = 100;
  const DeviceRoom before = std::exchange(status.room, room_of(space, status.room));
  const Mib free{space.free.value >> 20};
  const Mib difference{std::abs(free.value - status.free_mib.value)};
  const bool small = difference == Mib() || to_bytes(difference) * kSteps < space.size;
  if (small && status.room == before) return false;
  status.free_mib = free;
  return true;
}

void Planner::judge(const Device& device) {
  if (evidence_of(device.id()).awaited) return;
  const DeviceEvidence& evidence = evidence_of(device.id());
  const DeviceStatus& before = device.status;
  DeviceStatus now = before;
  now.reason = unavailable_because(device);
  const bool available = now.available = now.reason.empty();
  const bool measured = available && measure(evidence.seen.space, now);
  const bool changed = before.available != available || before.reason != now.reason;
  if ((changed || measured) && room_in(plan_.device_changes)) {
    plan_.device_changes.push_back({device.id(), now});
  }
  const bool askable =
      evidence.host_reports && evidence.can_serve && !evidence.resting && !device.spec.lost;
  const Mib rate = evidence.seen.copy_mib_per_second_max;
  const bool as_asked = rate == Mib() || rate == device.spec.copy_mib_per_second_max;
  if ((available && as_asked) || !askable || !room_in(plan_.serves)) return;
  plan_.serves.push_back(
      {device.id(), device.spec.host, device.spec.directory, device.spec.copy_mib_per_second_max});
}

void Planner::decide(const Volume& volume) {
  const auto& legs = volume.status.legs;
  lacks_.clear();
  if (!volume.spec.mirrored && !legs.empty() && find_elsewhere(volume)) return;
  if (volume.spec.mirrored && (believe_guest(volume) || give_up_leg(volume))) return;
  if (legs.size() > 1 && decide_others(volume)) return;
  if (volume.spec.mirrored && begin_mirror(volume)) return;
  if (legs.size() == 1 && begin_move(volume)) return;
  if (!legs.empty()) return decide_placed(volume, legs.front());
  if (!volume.meta.deleting_at) return place(volume);
  if (room_in(plan_.removals)) plan_.removals.push_back(volume.id());
}

/// Why this device cannot take the volume; nothing when it can.
std::optional<std::string> Planner::refusal(const Volume& volume, const Device& device) const {
  const VolumeSpec& spec = volume.spec;
  if (!spec.device.empty() && device.id() != spec.device) return "is not the one asked for";
  if (spec.device.empty() && device.spec.storage_class != spec.storage_class) {
    return "is of class " + device.spec.storage_class;
  }
  const HostId host = volume.status.legs.empty() ? HostId() : wanted_beside(view_, volume);
  if (!host.empty() && device.spec.host != host) return "is not on " + host.value;
  for (const VolumeLeg& leg : volume.status.legs) {
    const Device* other = view_.devices.find(leg.device);
    if (!spec.mirrored || other == nullptr) continue;
    if (leg.device == device.id()) return "has it already";
    if (other->spec.host == device.spec.host) return "is on the host of " + leg.device.value;
  }
  if (device.meta.deleting_at) return "is being deleted";
  if (auto why = region_refusal(view_, volume, device); !why.empty()) return why;
  if (!serves(device.id())) return unavailable_because(device);
  const Mib free = space_.free_on(device.id());
  if (free < std::max(spec.size_mib, volume.status.size_mib))
    return fmt::format("has {} MiB left", std::max(free, Mib()).value);
  if (!volume.status.legs.empty()) return std::nullopt;  // what it holds comes from there
  if (!spec.image.empty()) return refusal_of_image(volume, device);
  return spec.source.empty() ? std::nullopt : refusal_of_copy(volume, device);
}

std::optional<std::string> Planner::refusal_of_image(const Volume& volume,
                                                     const Device& device) const {
  const std::string& image = volume.spec.image.value;
  if (view_.images.find(volume.spec.image) == nullptr) {
    return "lacks image " + image + ": it is gone";
  }
  if (evidence_of(device.id()).seen.images) return std::nullopt;
  return "cannot fill volumes from images: the agent of " + device.spec.host.value + " is too old";
}

/// A copy is made where its source lies, by what serves that.
std::optional<std::string> Planner::refusal_of_copy(const Volume& volume,
                                                    const Device& device) const {
  const VolumeId id = source_of(volume);
  const Volume* source = view_.volumes.find(id);
  if (source == nullptr || source->meta.deleting_at) return "its source " + id.value + " is gone";
  if (!source->ready()) return "its source " + id.value + " is not ready";
  const DeviceId& first = source->status.legs.front().device;
  if (first != device.id()) return "does not hold its source " + id.value;
  if (source->moving()) return "its source " + id.value + " is being moved";
  if (!evidence_of(device.id()).seen.copies) {
    return "the agent of " + device.spec.host.value + " is too old to copy volumes";
  }
  return std::nullopt;
}

/// The one that is left with the largest share free, so that devices fill evenly.
std::optional<DeviceId> Planner::best_device(const Volume& volume, std::string& refusals) const {
  const Device* best = nullptr;
  const auto share = [&](const Device& device) {
    const Mib left = space_.free_on(device.id()) - volume.spec.size_mib;
    return static_cast<double>(left.value) / static_cast<double>(device.spec.capacity_mib.value);
  };
  for (const auto& [id, device] : space_.devices()) {
    if (const auto why = refusal(volume, *device)) {
      refusals += (refusals.empty() ? "" : "; ") + id.value + " " + *why;
      continue;
    }
    if (best == nullptr || share(*device) > share(*best)) best = device;
  }
  if (best != nullptr) return best->id();
  if (refusals.empty()) refusals = "the cluster has no storage device";
  return std::nullopt;
}

void Planner::place(const Volume& volume) {
  std::string refusals;
  const auto best = best_device(volume, refusals);
  if (!best) {
    return note(volume, LegState::creating, Mib(), "no device can take it: " + refusals);
  }
  if (!room_in(plan_.placements)) return;
  space_.promise(*best, volume.spec.size_mib);
  plan_.placements.push_back(
      {volume.id(),
       *best,
       {view_.incarnation, view_.revision},
       fmt::format("{} has the largest share of its room left", best->value)});
}

/// Its second place, also instead of one that is lost. The data follow when its VM runs.
bool Planner::begin_mirror(const Volume& volume) {
  const auto& legs = volume.status.legs;
  const bool has_two = std::ranges::count_if(legs, [](const VolumeLeg& leg) {
                         return leg.state != LegState::leaving;
                       }) > 1;
  const bool may = volume.ready() && !has_two && !volume.meta.deleting_at && !evidence_.held &&
                   !evidence_of(legs.front().device).awaited;
  if (!may) return false;
  std::string refusals;
  const auto best = best_device(volume, refusals);
  if (!best) {
    lacks_ = "no device can take its second place: " + refusals;
    return false;
  }
  if (is_busy(volume)) return false;
  if (!room_in(plan_.placements)) return true;
  space_.promise(*best, std::max(volume.spec.size_mib, volume.status.size_mib));
  plan_.placements.push_back({volume.id(), *best, volume.status.floor,
                              fmt::format("it is mirrored; {} has the largest share of its room "
                                          "left",
                                          best->value)});
  return true;
}

/// Why a place of a mirrored volume is believed to take nothing; empty = it is not.
std::string Planner::failure_of(const Volume& volume, const VolumeLeg& leg) const {
  const DeviceEvidence& evidence = evidence_of(leg.device);
  const Device* device = view_.devices.find(leg.device);
  if (device == nullptr) return "it is not registered any more";
  if (device->spec.lost) return "its device is lost, an operator says";
  if (evidence_.failing_legs.contains({volume.id(), leg.device})) {
    return "it did not take what the guest wrote";
  }
  if (evidence.awaited) return {};
  if (!evidence.host_reports) {
    if (evidence.silence < options_.leg_silence_max) return {};
    return "its host " + device->spec.host.value + " does not report";
  }
  if (!serves(leg.device)) return evidence.seen.failing;
  const ObservedVolume* seen = observed(leg.device, volume.id());
  if (seen == nullptr || seen->floor != volume.status.floor) return "it does not have it any more";
  return {};
}

/// By the word of its guest's host.
bool Planner::is_written(const Volume& volume, const DeviceId& leg) const {
  const auto written = evidence_.written_legs.find(volume.id());
  return written != evidence_.written_legs.end() && std::ranges::count(written->second, leg) > 0;
}

bool Planner::is_used(const DeviceId& device) const {
  const auto is_it = [&](const auto& one) { return one.second == device; };
  const auto has_it = [&](const auto& one) { return std::ranges::count(one.second, device) > 0; };
  return std::ranges::any_of(evidence_.written_ahead, is_it) ||
         std::ranges::any_of(evidence_.written_legs, has_it);
}

/// After a restore: by a copy that the store may not even know yet, and not where it counts.
bool Planner::is_written_elsewhere(const Volume& volume) const {
  const auto ahead = evidence_.written_ahead.lower_bound({volume.id(), DeviceId()});
  const bool is_ahead = ahead != evidence_.written_ahead.end() && ahead->first == volume.id();
  const auto written = evidence_.written_legs.find(volume.id());
  const auto counts = [&](const DeviceId& leg) { return is_written(volume, leg); };
  return is_ahead ||
         (written != evidence_.written_legs.end() && std::ranges::none_of(volume.in_use(), counts));
}

/// After a restore of an older state the place that its guest writes to may not count; what it
/// holds is what was acknowledged.
bool Planner::believe_guest(const Volume& volume) {
  const auto written = [&](const DeviceId& leg) { return is_written(volume, leg); };
  const auto leg = std::ranges::find_if(volume.status.legs, written, &VolumeLeg::device);
  const bool agrees = std::ranges::any_of(volume.in_use(), written);
  if (agrees || leg == volume.status.legs.end() || is_busy(volume) || evidence_.held) return false;
  if (!room_in(plan_.leg_changes)) return true;
  plan_.leg_changes.push_back({volume.id(), leg->device, LegState::in_sync, false,
                               "its guest writes there and to none that counts"});
  return true;
}

/// The same of one that is not mirrored. A report may be older than the end of a move: that its
/// guest is not let in at its place, which may be gone or old, says that the move ended elsewhere.
bool Planner::find_elsewhere(const Volume& volume) {
  const auto written = evidence_.written_legs.find(volume.id());
  if (written == evidence_.written_legs.end() || written->second.size() != 1) return false;
  const DeviceId& now = volume.status.legs.front().device;
  const DeviceId& there = written->second.front();
  const Vm* vm = view_.user_of(volume.id());
  const auto lets_in = [&](const DeviceId& device) {
    const ObservedVolume* seen = observed(device, volume.id());
    return vm != nullptr && seen != nullptr && seen->floor == volume.status.floor &&
           std::ranges::count(seen->epochs, vm->status.epoch) > 0;
  };
  const bool is_there =
      there != now && serves(there) && lets_in(there) && space_.devices().contains(there);
  const bool may = is_there && serves(now) && !lets_in(now) && !evidence_of(now).awaited &&
                   volume.ready() && !is_busy(volume) && !evidence_.held;
  if (!may) return false;
  if (!room_in(plan_.leg_changes)) return true;
  plan_.leg_changes.push_back(
      {volume.id(), there, LegState::in_sync, false,
       "its guest writes there, and " + now.value + " does not let it in any more"});
  return true;
}

/// While another place holds all as well: whoever writes to both notices nothing by that. One that
/// is not written any more, as after a restore of an older state, holds too little at once.
bool Planner::give_up_leg(const Volume& volume) {
  if (volume.in_use().size() < 2 || is_busy(volume) || evidence_.held) return false;
  std::string why;
  const VolumeLeg* failing = nullptr;
  bool one_is_well = false;
  const bool one_is_written = std::ranges::any_of(
      volume.in_use(), [&](const DeviceId& leg) { return is_written(volume, leg); });
  for (const VolumeLeg& leg : volume.status.legs) {
    if (leg.state != LegState::in_sync) continue;
    if (one_is_written && !is_written(volume, leg.device)) {
      return give_up(volume, leg, "its guest does not write there");
    }
    std::string failure = failure_of(volume, leg);
    one_is_well = one_is_well || (failure.empty() && serves(leg.device));
    if (failure.empty()) continue;
    failing = &leg;
    why = std::move(failure);
  }
  return failing != nullptr && one_is_well && give_up(volume, *failing, std::move(why));
}

bool Planner::give_up(const Volume& volume, const VolumeLeg& leg, std::string why) {
  if (!room_in(plan_.leg_changes)) return true;
  plan_.leg_changes.push_back({volume.id(), leg.device, LegState::behind, false, std::move(why)});
  return true;
}

/// Whether something was decided about one of the places beside that in use.
bool Planner::decide_others(const Volume& volume) {
  for (const VolumeLeg& leg : volume.status.legs) {
    if (&leg == &volume.status.legs.front()) continue;
    if (decide_second(volume, leg)) return true;
  }
  return false;
}

void Planner::decide_placed(const Volume& volume, const VolumeLeg& leg) {
  if (is_gone(leg.device)) {
    if (volume.meta.deleting_at) return decide_deleting(volume, nullptr);
    return note(volume, leg.state, volume.status.size_mib,
                "it is lost with its device " + leg.device.value, true);
  }
  if (evidence_of(leg.device).awaited) return;
  if (!serves(leg.device)) {
    const std::string why = unavailable_because(*view_.devices.find(leg.device));
    return note(volume, leg.state, volume.status.size_mib,
                "device " + leg.device.value + ": " + why);
  }
  const ObservedVolume* seen = observed(leg.device, volume.id());
  if (seen != nullptr && seen->floor != volume.status.floor) {
    if (volume.meta.deleting_at) return decide_deleting(volume, nullptr);
    return note(volume, leg.state, volume.status.size_mib,
                "another volume of this name lies on its device " + leg.device.value, true);
  }
  if (volume.meta.deleting_at) return decide_deleting(volume, seen);
  if (seen == nullptr && leg.state == LegState::in_sync) {
    return note(volume, leg.state, volume.status.size_mib,
                "its device " + leg.device.value + " does not have it any more",
                !is_written_elsewhere(volume));
  }
  if (seen == nullptr) return make(volume);
  if (!seen->whole()) return follow_filling(volume, *seen);
  if (end_strangers(volume, leg, *seen)) return;
  if (grows(volume, *seen)) return;
  const auto failure = evidence_.failures.find(volume.id());
  note(volume, LegState::in_sync, size_of(volume, *seen),
       failure == evidence_.failures.end() ? lacks_ : failure->second);
}

bool Planner::has_guest(const Volume& volume) const {
  const Vm* vm = view_.user_of(volume.id());
  return vm != nullptr && !vm->status.host.empty();
}

/// That of the smallest of its places that count: who writes to all needs equal ones.
Mib Planner::size_of(const Volume& volume, const ObservedVolume& first) const {
  Mib size = first.size_mib;
  for (const DeviceId& device : volume.in_use()) {
    const ObservedVolume* seen = observed(device, volume.id());
    const bool is_it = seen != nullptr && seen->floor == volume.status.floor;
    if (is_it) size = std::min(size, seen->size_mib);
  }
  return size;
}

/// True when that is all for this round.
bool Planner::grows(const Volume& volume, const ObservedVolume& seen) {
  if (seen.size_mib >= volume.spec.size_mib || volume.moving()) return false;
  if (volume.spec.mirrored && has_guest(volume)) {
    note(volume, LegState::in_sync, size_of(volume, seen),
         "it is mirrored: it grows when vm " + view_.user_of(volume.id())->id().value +
             " is stopped");
    return true;
  }
  work(volume, VolumeTask::grow, volume.spec.size_mib, Epoch());
  return false;
}

void Planner::make(const Volume& volume) {
  if (volume.spec.source.empty()) {
    return work(volume, VolumeTask::create, volume.spec.size_mib, volume.status.floor);
  }
  work(volume, VolumeTask::copy, Mib(), volume.status.floor);
}

void Planner::follow_filling(const Volume& volume, const ObservedVolume& seen) {
  const std::string how = seen.source.empty() ? "filled from image " + volume.spec.image.value
                                              : "copied from " + seen.source.value;
  note(volume, LegState::creating, seen.size_mib,
       seen.failing.empty() ? "is being " + how : seen.failing);
}

/// Ends one attachment that no copy of a VM may have. A running operation knows better than any
/// report what it is about.
bool Planner::end_strangers(const Volume& volume, const VolumeLeg& leg,
                            const ObservedVolume& seen) {
  if (seen.epochs.empty() || evidence_.held) return false;
  const Vm* vm = view_.user_of(volume.id());
  if (vm != nullptr && !vm->status.operation.empty()) return false;
  const bool runs = vm != nullptr && !vm->status.host.empty();
  const Epoch admitted = runs ? vm->status.epoch : Epoch();
  for (const Epoch& epoch : seen.epochs) {
    if (epoch == admitted) continue;
    const bool there = vm != nullptr ? evidence_.copies.contains({vm->id(), epoch})
                                     : evidence_.strays.contains(epoch);
    if (there) continue;
    const bool older = !runs || epoch < admitted;
    work_on(volume, leg, older ? VolumeTask::revoke : VolumeTask::detach, Mib(), epoch);
    return true;
  }
  return false;
}

void Planner::decide_deleting(const Volume& volume, const ObservedVolume* seen) {
  if (evidence_.held || evidence_.resting.contains(volume.id())) return;
  if (seen == nullptr) {
    if (room_in(plan_.removals)) plan_.removals.push_back(volume.id());
    return;
  }
  if (!seen->epochs.empty()) return work(volume, VolumeTask::revoke, Mib(), seen->epochs.back());
  work(volume, VolumeTask::erase, Mib(), Epoch());
}

/// An operation on its VM may be about its data.
bool Planner::is_busy(const Volume& volume) const {
  const Vm* vm = view_.user_of(volume.id());
  return vm != nullptr && !vm->status.operation.empty();
}

/// Where a volume shall be that is elsewhere, or why there is no such place; neither = it stays.
std::optional<DeviceId> Planner::target_of(const Volume& volume, std::string& why) const {
  const DeviceId& now = volume.status.legs.front().device;
  if (!volume.spec.local) {
    if (volume.spec.device.empty() || volume.spec.device == now) return std::nullopt;
    return volume.spec.device;
  }
  const HostId host = has_guest(volume) ? wanted_beside(view_, volume) : HostId();
  const Device* device = view_.devices.find(now);
  if (host.empty() || device == nullptr || device->spec.host == host) return std::nullopt;
  std::string refusals;
  auto best = best_device(volume, refusals);
  if (!best) why = "it is not beside its VM: " + refusals;
  return best;
}

/// It shall be elsewhere: a place there is reserved first. Its data follow when its VM runs.
bool Planner::begin_move(const Volume& volume) {
  const VolumeLeg& leg = volume.status.legs.front();
  const bool may = leg.state == LegState::in_sync && !volume.meta.deleting_at && !evidence_.held &&
                   !is_busy(volume) && !evidence_of(leg.device).awaited;
  // After a restore of an older state it may be elsewhere already, and its guest writes there.
  const ObservedVolume* seen = observed(leg.device, volume.id());
  const bool is_there = serves(leg.device) && seen != nullptr && seen->floor == volume.status.floor;
  if (!may || !is_there) return false;
  const auto target = target_of(volume, lacks_);
  if (!target || evidence_of(*target).awaited) return false;
  const DeviceId& wanted = *target;
  if (copied_.contains(volume.id())) {
    note(volume, leg.state, volume.status.size_mib, "it moves when no copy is made of it any more");
    return true;
  }
  const auto device = space_.devices().find(wanted);
  const std::string to = "it cannot move to " + wanted.value + ", which ";
  if (device == space_.devices().end()) {
    note(volume, leg.state, volume.status.size_mib, to + "is not registered");
    return true;
  }
  if (const auto why = refusal(volume, *device->second)) {
    note(volume, leg.state, volume.status.size_mib, to + *why);
    return true;
  }
  if (!room_in(plan_.placements)) return true;
  space_.promise(wanted, std::max(volume.spec.size_mib, volume.status.size_mib));
  plan_.placements.push_back(
      {volume.id(), wanted, volume.status.floor,
       volume.spec.local ? "its VM is there: it follows" : "it shall be there: it moves"});
  return true;
}

/// A place that does not hold all and is not expected back: another one is made instead.
bool Planner::is_lost(const Volume& volume, const VolumeLeg& leg) const {
  if (leg.state == LegState::in_sync || !volume.ready()) return false;
  const DeviceEvidence& evidence = evidence_of(leg.device);
  return is_gone(leg.device) || (!evidence.awaited && !evidence.host_reports &&
                                 evidence.silence >= options_.leg_lost_after);
}

/// True when that is all for this round.
bool Planner::decide_second(const Volume& volume, const VolumeLeg& leg) {
  if (is_busy(volume) || evidence_.held || evidence_of(leg.device).awaited) return false;
  const bool mirror = volume.spec.mirrored && !is_lost(volume, leg);
  const Device* device = view_.devices.find(leg.device);
  const bool forbidden = leg.state != LegState::in_sync && device != nullptr &&
                         !region_refusal(view_, volume, *device).empty();
  const bool wanted =
      !volume.meta.deleting_at && !forbidden && (mirror || wanted_on(view_, volume, leg.device));
  if (!wanted || leg.state == LegState::leaving) return end_second(volume, leg);
  if (!serves(leg.device)) return false;
  const ObservedVolume* seen = observed(leg.device, volume.id());
  if (seen != nullptr && seen->floor == volume.status.floor) {
    if (leg.state == LegState::creating) return change_second(volume, leg, LegState::behind);
    return decide_present(volume, leg, *seen);
  }
  if (leg.state == LegState::in_sync) return false;  // give_up_leg() sees it
  if (leg.state == LegState::behind) return change_second(volume, leg, LegState::creating);
  work_on(volume, leg, VolumeTask::create, volume.status.size_mib, volume.status.floor);
  return true;
}

/// What is wrong with a place that has the volume. True when that is all for this round.
bool Planner::decide_present(const Volume& volume, const VolumeLeg& leg,
                             const ObservedVolume& seen) {
  const bool counts = leg.state == LegState::in_sync;
  if (!counts && volume.spec.mirrored && cannot_join(volume, seen)) {
    return change_second(volume, leg, LegState::leaving);
  }
  if (counts && end_strangers(volume, leg, seen)) return true;
  const Mib wanted = counts ? volume.spec.size_mib : volume.status.size_mib;
  if (seen.size_mib >= wanted || (counts && has_guest(volume))) return false;
  work_on(volume, leg, VolumeTask::grow, wanted, Epoch());
  const auto failure = evidence_.failures.find(volume.id());
  if (counts && failure != evidence_.failures.end()) {
    note(volume, LegState::in_sync, volume.status.size_mib, failure->second);
  }
  return true;
}

/// A fence that was given up has cut its user off there for ever, or it grew while the others did
/// not: it is made anew.
bool Planner::cannot_join(const Volume& volume, const ObservedVolume& seen) const {
  const Vm* vm = view_.user_of(volume.id());
  const bool refuses = has_guest(volume) && seen.revoked >= vm->status.epoch;
  return refuses || seen.size_mib > volume.status.size_mib;
}

/// Nobody reads there any more: whoever is let in still is not, and it is erased.
bool Planner::end_second(const Volume& volume, const VolumeLeg& leg) {
  const bool is_ahead = evidence_.written_ahead.contains({volume.id(), leg.device});
  if (is_ahead || (is_written(volume, leg.device) && is_written_elsewhere(volume))) {
    lacks_ = "its guest writes to its place on " + leg.device.value + ", which does not count";
    return false;
  }
  if (leg.state != LegState::leaving) return change_second(volume, leg, LegState::leaving);
  if (is_gone(leg.device)) {
    return change_second(volume, leg, LegState::leaving, true);
  }
  if (!serves(leg.device)) {
    lacks_ = "its place on " + leg.device.value + " is not erased yet: the device " +
             unavailable_because(*view_.devices.find(leg.device));
    return false;
  }
  const ObservedVolume* seen = observed(leg.device, volume.id());
  if (seen == nullptr || seen->floor != volume.status.floor) {
    return change_second(volume, leg, LegState::leaving, true);
  }
  if (seen->epochs.empty()) {
    work_on(volume, leg, VolumeTask::erase, Mib(), Epoch());
  } else {
    work_on(volume, leg, VolumeTask::revoke, Mib(), seen->epochs.back());
  }
  return true;
}

bool Planner::change_second(const Volume& volume, const VolumeLeg& leg, LegState state, bool gone) {
  if (evidence_.resting.contains(volume.id()) || !room_in(plan_.leg_changes)) return true;
  plan_.leg_changes.push_back({volume.id(), leg.device, state, gone});
  return true;
}

void Planner::work_on(const Volume& volume, const VolumeLeg& leg, VolumeTask task, Mib size,
                      const Epoch& epoch) {
  const auto failure = evidence_.failures.find(volume.id());
  if (failure != evidence_.failures.end() && task != VolumeTask::grow) {
    note(volume, volume.status.legs.front().state, volume.status.size_mib, failure->second);
  }
  const Device* device = view_.devices.find(leg.device);
  if (evidence_.resting.contains(volume.id()) || !room_in(plan_.work)) return;
  const VolumeId source = task == VolumeTask::copy ? source_of(volume) : VolumeId();
  const bool first = leg.device == volume.status.legs.front().device;
  const ImageId image = task == VolumeTask::create && first ? volume.spec.image : ImageId();
  plan_.work.push_back(
      {volume.id(), leg.device, device->spec.host, task, size, epoch, source, image});
}

void Planner::note(const Volume& volume, LegState state, Mib size, std::string reason,
                   bool missing) {
  const VolumeStatus& status = volume.status;
  const LegState now = status.legs.empty() ? LegState::creating : status.legs.front().state;
  if (now == state && status.size_mib == size && status.reason == reason) return;
  if (!room_in(plan_.volume_changes)) return;
  const ObservedVolume* seen =
      status.legs.empty() ? nullptr : observed(status.legs.front().device, volume.id());
  const auto taken_at = seen == nullptr ? status.taken_at : seen->taken_at;
  plan_.volume_changes.push_back({volume.id(), state, size, std::move(reason), missing, taken_at});
}

}  // namespace

StoragePlan plan_storage(const ClusterView& view, const ClusterId& cluster,
                         const StorageEvidence& evidence, const StorageOptions& options) {
  if (view.clusters.find(cluster) == nullptr) return {};
  return Planner(view, cluster, evidence, options).plan();
}

}  // namespace virga
