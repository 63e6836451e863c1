#include "arch/storage_workload/controller.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "base/reflect.h"

namespace virga {
namespace {

CommandKind kind_of(VolumeTask task) {
  switch (task) {
    case VolumeTask::create:
      return CommandKind::create_volume;
    case VolumeTask::copy:
      return CommandKind::copy_volume;
    case VolumeTask::grow:
      return CommandKind::grow_volume;
    case VolumeTask::revoke:
      return CommandKind::revoke_volume;
    case VolumeTask::detach:
      return CommandKind::detach_volume;
    case VolumeTask::erase:
      break;
  }
  return CommandKind::erase_volume;
}

Event told_of(const Volume& volume, std::string kind, std::string text,
              Severity severity = Severity::info) {
  Event told;
  told.kind = std::move(kind);
  told.severity = severity;
  told.subject = keys::of(volume.id());
  told.tenant = volume.meta.tenant;
  told.text = std::move(text);
  told.correlation = volume.meta.correlation;
  if (!volume.status.legs.empty()) told.facts["device"] = volume.status.legs.front().device.value;
  return told;
}

std::string ready_text(const Volume& volume) {
  const VolumeSpec& spec = volume.spec;
  if (spec.source.empty() || !volume.status.taken_at) return "it can be attached";
  return fmt::format("it holds what {} held at {}{}", qualified(volume.meta.tenant, spec.source),
                     to_string(*volume.status.taken_at),
                     spec.snapshot ? "" : " and can be attached");
}

Event told_of(const Device& device, std::string kind, std::string text, Severity severity) {
  Event told;
  told.kind = std::move(kind);
  told.severity = severity;
  told.subject = keys::of(device.id());
  told.text = std::move(text);
  told.facts["host"] = device.spec.host.value;
  return told;
}

}  // namespace

StorageController::StorageController(Loop& loop, Store& store, StoreMirror& mirror,
                                     HostCommands& commands, NameSource& names)
    : loop_(loop),
      mirror_(mirror),
      commands_(commands),
      names_(names),
      queue_(loop, store, mirror, "storage") {}

void StorageController::start(Observe observe, Options options) {
  observe_ = std::move(observe);
  options_ = options;
  queue_.start([this](const std::string& key) { run(ClusterId(key)); });
  mirror_.listen([this](const std::vector<Change>& changes) { notice(changes); });
  for (const auto& [id, cluster] : mirror_.view().clusters.all()) mark(id);
}

void StorageController::notice(const std::vector<Change>& changes) {
  const ClusterView& view = mirror_.view();
  for (const Change& change : changes) {
    const std::string& key = change.entry.key;
    if (key.starts_with(keys::kVolume)) {
      if (change.removed) tries_.erase(key);
      const Volume* volume = view.volumes.find(VolumeId(key.substr(keys::kVolume.size())));
      if (volume != nullptr) mark(volume->spec.cluster);
    } else if (key.starts_with(keys::kVm)) {
      const Vm* vm = view.vms.find(VmId(key.substr(keys::kVm.size())));
      const bool uses =
          vm != nullptr && std::any_of(vm->spec.disks.begin(), vm->spec.disks.end(),
                                       [](const VmDisk& disk) { return !disk.volume.empty(); });
      if (uses) mark(vm->spec.cluster);
    } else if (key.starts_with(keys::kDevice)) {
      if (change.removed) {
        tries_.erase(key);
        for (const auto& [id, cluster] : view.clusters.all()) mark(id);  // its host serves it still
      }
      const Device* device = view.devices.find(DeviceId(key.substr(keys::kDevice.size())));
      const Host* host = device == nullptr ? nullptr : view.hosts.find(device->spec.host);
      if (host != nullptr) mark(host->spec.cluster);
    }
  }
}

StorageEvidence StorageController::gather(const ClusterId& cluster) const {
  StorageEvidence evidence = observe_(cluster);
  for (const auto& [subject, tries] : tries_) {
    const bool resting = tries.under_way || tries.not_before > loop_.now();
    if (subject.starts_with(keys::kDevice)) {
      const auto device = evidence.devices.find(DeviceId(subject.substr(keys::kDevice.size())));
      if (device != evidence.devices.end()) device->second.resting = resting;
      continue;
    }
    const VolumeId volume(subject.substr(keys::kVolume.size()));
    if (resting) evidence.resting.insert(volume);
    if (!tries.failure.empty()) evidence.failures[volume] = tries.failure;
  }
  return evidence;
}

void StorageController::run(const ClusterId& cluster) {
  const ClusterView& view = mirror_.view();
  if (view.devices.size() == 0 && view.volumes.size() == 0) return;
  execute(cluster, plan_storage(view, cluster, gather(cluster), options_.planner));
}

void StorageController::execute(const ClusterId& cluster, const StoragePlan& plan) {
  const auto commit = [&](const WorkQueue::Build& build) { queue_.commit(cluster.value, build); };
  for (const DeviceChange& change : plan.device_changes) {
    commit([&](Transaction& into) { return change_device(into, change); });
  }
  for (const PlaceVolume& placement : plan.placements) {
    commit([&](Transaction& into) { return place(into, placement); });
  }
  for (const VolumeChange& change : plan.volume_changes) {
    commit([&](Transaction& into) { return change_volume(into, change); });
  }
  for (const LegChange& change : plan.leg_changes) {
    commit([&](Transaction& into) { return change_leg(into, change); });
  }
  for (const VolumeId& id : plan.removals) {
    commit([&](Transaction& into) { return remove(into, id); });
  }
  for (const ServeDevice& one : plan.serves) serve(cluster, one);
  for (const auto& [device, host] : plan.releases) release(cluster, device, host);
  for (const VolumeWork& one : plan.work) work(cluster, one);
}

bool StorageController::change_device(Transaction& transaction, const DeviceChange& change) {
  const Device* stored = mirror_.view().devices.find(change.device);
  if (stored == nullptr) return false;
  const DeviceStatus& before = stored->status;
  const DeviceStatus& now = change.status;
  Device changed = *stored;
  changed.status = now;
  transaction.put(changed);
  if (before.available != now.available) {
    event(transaction, told_of(*stored, now.available ? "device.available" : "device.unavailable",
                               now.available ? "its volumes are served" : now.reason,
                               now.available ? Severity::info : Severity::alarm));
  }
  const bool was_fine = before.room < DeviceRoom::low;
  const std::string left = fmt::format("{} MiB are free below it", now.free_mib.value);
  if (now.room == before.room || (was_fine && now.room < DeviceRoom::low)) return true;
  if (now.room == DeviceRoom::none) {
    event(transaction, told_of(*stored, "device.full",
                               left + ": guests that write to new places are paused until it has "
                                      "room; move or delete volumes",
                               Severity::alarm));
  } else if (now.room == DeviceRoom::low) {
    event(transaction, told_of(*stored, "device.filling", left, Severity::warning));
  } else if (now.room == DeviceRoom::ample) {
    event(transaction, told_of(*stored, "device.has_room", left, Severity::info));
  }
  return true;
}

/// What binds it to regions is as the plan has seen it, and so is where the host stands.
void StorageController::guard_regions(Transaction& transaction, const Volume& volume,
                                      const HostId& id) const {
  const TenantId tenant(volume.meta.tenant);
  const Tenant* rules = mirror_.view().tenants.find(tenant);
  transaction.guard(keys::of(tenant), rules == nullptr ? 0 : rules->meta.revision);
  const Host* host = mirror_.view().hosts.find(id);
  const bool bound = rules != nullptr || !volume.spec.regions.empty();
  if (bound && host != nullptr) transaction.guard(keys::of(id), host->meta.revision);
}

bool StorageController::place(Transaction& transaction, const PlaceVolume& placement) {
  const Volume* stored = mirror_.view().volumes.find(placement.volume);
  const Device* device = mirror_.view().devices.find(placement.device);
  if (stored == nullptr || device == nullptr) return false;
  Volume changed = *stored;
  auto& legs = changed.status.legs;
  const auto on_device = [&](const VolumeLeg& leg) { return leg.device == placement.device; };
  const bool moves = !legs.empty() && std::ranges::none_of(legs, on_device);
  if (!legs.empty() && !moves) return false;
  if (moves && !stored->spec.mirrored && legs.size() > 1) return false;
  legs.push_back({placement.device, LegState::creating});
  changed.status.floor = placement.floor;
  changed.status.reason.clear();
  transaction.put(changed);
  transaction.put(*device);  // so that nobody else gives the same room away
  guard_regions(transaction, *stored, device->spec.host);
  Event told = told_of(changed,
                       !moves                  ? "volume.placed"
                       : stored->spec.mirrored ? "volume.is_mirrored"
                                               : "volume.moves",
                       placement.reason);
  told.facts["device"] = placement.device.value;
  event(transaction, std::move(told));
  return true;
}

bool StorageController::change_leg(Transaction& transaction, const LegChange& change) {
  const Volume* stored = mirror_.view().volumes.find(change.volume);
  if (stored == nullptr) return false;
  Volume changed = *stored;
  const bool alone = change.state == LegState::in_sync;
  const bool known = std::ranges::count(stored->status.legs, change.device, &VolumeLeg::device) > 0;
  if (known ? stored->status.legs.size() < 2 : !alone || stored->spec.mirrored) return false;
  if (!known) {
    const Device* device = mirror_.view().devices.find(change.device);
    if (device == nullptr || device->meta.deleting_at) return false;
    changed.status.legs.push_back({change.device, LegState::creating});
    transaction.put(*device);  // so that nobody gives its room away, or deletes it
  }
  for (const DeviceId& other : stored->in_use()) {
    if (alone) set_leg(changed.status, other, LegState::behind);
  }
  if (!set_leg(changed.status, change.device, change.state)) return false;
  // An operation on its VM that began a moment ago may be about this place.
  const Vm* vm = mirror_.view().user_of(change.volume);
  if (vm != nullptr && !vm->status.operation.empty()) return false;
  if (vm != nullptr) transaction.guard(keys::of(vm->id()), vm->meta.revision);
  const auto of_change = [&](const VolumeLeg& leg) { return leg.device == change.device; };
  if (change.gone) std::erase_if(changed.status.legs, of_change);
  const bool lost_one = changed.in_use().size() < stored->in_use().size();
  if (changed.in_use().empty() && stored->ready()) return false;
  transaction.put(changed);
  if (change.gone) {
    event(transaction,
          told_of(changed, "volume.left",
                  is_lost(change.device)
                      ? "its place on " + change.device.value + " is lost with the device"
                      : "nothing of it is on " + change.device.value + " any more"));
  } else if (lost_one || alone) {
    const bool mirrored = stored->spec.mirrored;
    Event told = told_of(changed, mirrored ? "volume.degraded" : "volume.found",
                         fmt::format("it goes on {} its place on {}: {}",
                                     !mirrored ? "from"
                                     : alone   ? "with nothing but"
                                               : "without",
                                     change.device.value, change.reason),
                         Severity::warning);
    told.facts["device"] = change.device.value;
    event(transaction, std::move(told));
  }
  return true;
}

bool StorageController::is_lost(const DeviceId& id) const {
  const Device* device = mirror_.view().devices.find(id);
  return device != nullptr && device->spec.lost;
}

bool StorageController::change_volume(Transaction& transaction, const VolumeChange& change) {
  const Volume* stored = mirror_.view().volumes.find(change.volume);
  if (stored == nullptr) return false;
  const VolumeStatus& before = stored->status;
  Volume changed = *stored;
  changed.status.size_mib = change.size_mib;
  changed.status.reason = change.reason;
  changed.status.taken_at = change.taken_at;
  if (!changed.status.legs.empty()) changed.status.legs.front().state = change.state;
  transaction.put(changed);
  if (changed.ready() && !stored->ready()) {
    event(transaction, told_of(changed, "volume.ready", ready_text(changed)));
  } else if (changed.ready() && before.size_mib < change.size_mib) {
    event(transaction, told_of(changed, "volume.grown",
                               fmt::format("it has {} MiB now", change.size_mib.value)));
  } else if (change.missing && before.reason != change.reason) {
    event(transaction, told_of(changed, "volume.missing", change.reason, Severity::alarm));
  } else if (before.reason.empty() && !change.reason.empty()) {
    const VolumeSpec& spec = stored->spec;
    const bool copying = !stored->ready() && !(spec.source.empty() && spec.image.empty());
    const Severity waits = copying ? Severity::info : Severity::warning;
    event(transaction, told_of(changed, "volume.waits", change.reason, waits));
  }
  return true;
}

bool StorageController::remove(Transaction& transaction, const VolumeId& id) {
  const Volume* stored = mirror_.view().volumes.find(id);
  if (stored == nullptr || !stored->meta.deleting_at) return false;
  transaction.erase(*stored);
  const auto& legs = stored->status.legs;
  const bool lost = !legs.empty() && is_lost(legs.front().device);
  event(transaction, told_of(*stored, "volume.deleted",
                             lost ? "it is gone; what lies on lost device " +
                                        legs.front().device.value + " was not erased"
                                  : "it and its data are gone"));
  return true;
}

void StorageController::serve(const ClusterId& cluster, const ServeDevice& serve) {
  Command asked;
  asked.kind = CommandKind::serve_device;
  asked.storage = StorageCommand{serve.device, serve.directory, {}, {}, {}, {}};
  asked.storage->copy_mib_per_second_max = serve.copied_per_second;
  command(cluster, keys::of(serve.device), serve.host, std::move(asked));
}

void StorageController::release(const ClusterId& cluster, const DeviceId& device,
                                const HostId& host) {
  const std::string subject = keys::of(device);
  const auto tries = tries_.find(subject);
  if (tries != tries_.end() &&
      (tries->second.under_way || tries->second.not_before > loop_.now())) {
    return;
  }
  Command asked;
  asked.kind = CommandKind::release_device;
  asked.storage = StorageCommand{device, {}, {}, {}, {}, {}};
  command(cluster, subject, host, std::move(asked));
}

void StorageController::work(const ClusterId& cluster, const VolumeWork& work) {
  const Volume* volume = mirror_.view().volumes.find(work.volume);
  if (volume == nullptr) return;
  log_line(LogLevel::info, "storage",
           fmt::format("{} {} on {}", enum_name(work.task), work.volume.value, work.device.value));
  Command asked;
  asked.kind = kind_of(work.task);
  asked.correlation = volume->meta.correlation;
  asked.epoch = work.epoch;
  asked.storage = StorageCommand{work.device, {}, work.volume, work.size_mib, {}, work.source};
  if (!work.image.empty()) {
    const Image* image = mirror_.view().images.find(work.image);
    if (image == nullptr) return;  // a volume that is not whole keeps its image
    const ImageSpec& spec = image->spec;
    asked.storage->image = ImageDisk{disk_path(spec), std::string(enum_name(spec.format)),
                                     LaunchImage{spec.file_bytes, spec.sha256}};
  }
  command(cluster, keys::of(work.volume), work.host, std::move(asked));
}

void StorageController::command(const ClusterId& cluster, const std::string& subject,
                                const HostId& host, Command command) {
  tries_[subject].under_way = true;
  commands_.call(
      host, std::move(command), options_.command_deadline,
      [this, cluster, subject, alive = std::weak_ptr(alive_)](const Result<CommandResult>& done) {
        if (alive.expired()) return;
        ended(cluster, subject, done.ok() ? Result<void>() : Result<void>(done.error()));
      });
}

/// A report has come before the answer: what the command did is known when this looks again.
void StorageController::ended(const ClusterId& cluster, const std::string& subject,
                              const Result<void>& result) {
  Tries& tries = tries_[subject];
  tries.under_way = false;
  if (result.ok()) {
    tries_.erase(subject);
    return mark(cluster);
  }
  log_line(LogLevel::warning, "storage", subject + ": " + result.error().text());
  const Duration pause =
      std::min(options_.retry_first * (1 << std::min(tries.failures, 5)), options_.retry_max);
  ++tries.failures;
  tries.failure = result.error().text();
  tries.not_before = loop_.now() + pause;
  mark(cluster);
  loop_.at(tries.not_before, [this, cluster, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) mark(cluster);
  });
}

void StorageController::event(Transaction& transaction, Event event) {
  event.at = loop_.wall_now();
  transaction.event(names_.outbox_key(mirror_.view().revision), event);
}

}  // namespace virga
