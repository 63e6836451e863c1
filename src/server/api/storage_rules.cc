#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "mechanism/perimeter/regions.h"
#include "mechanism/storage/device_space.h"
#include "server/api/rules.h"
#include "server/api/validate.h"

namespace virga::api {
namespace {

constexpr std::size_t kReasonsMax = 20;

Problem problem(Errc code, std::string text, std::vector<Reason> reasons = {}) {
  return Problem{make_error(code, std::move(text)), std::move(reasons), 0};
}

Problem fixed(std::string_view field, std::string_view hint) {
  return problem(Errc::invalid, fmt::format("{}: never changes; {}", field, hint));
}

Refusal check_place(const ClusterView& view, const Device& device) {
  if (view.hosts.find(device.spec.host) == nullptr) {
    return problem(Errc::not_found,
                   "spec.host: there is no host \"" + device.spec.host.value + "\"");
  }
  for (const auto& [id, other] : view.devices.all()) {
    const bool same = other->spec.host == device.spec.host &&
                      other->spec.directory == device.spec.directory && id != device.id();
    if (!same) continue;
    return problem(Errc::conflict,
                   fmt::format("spec.directory: {} of {} is device \"{}\" already",
                               device.spec.directory, device.spec.host.value, id.value));
  }
  return std::nullopt;
}

/// Not in passing: its host is known to be dead, or says itself that it cannot open the device.
Refusal check_lost(const ClusterView& view, const Device& device) {
  const Host* host = view.hosts.find(device.spec.host);
  const HostHealth health = host == nullptr ? HostHealth::unknown : host->status.health;
  const bool lives = health == HostHealth::alive || health == HostHealth::degraded;
  const std::string& reason = device.status.reason;
  const bool fails = lives && !reason.empty() && reason != kDeviceBeingOpened &&
                     reason.find("does not report") == std::string::npos;
  const bool away = health == HostHealth::dead || health == HostHealth::fenced ||
                    health == HostHealth::unknown;
  if (!device.status.available && (away || fails)) return std::nullopt;
  return problem(
      Errc::conflict,
      fmt::format("spec.lost: device \"{}\" {}; only one that fails, or whose host is dead, can be "
                  "lost",
                  device.id().value,
                  device.status.available ? "is served" : "may be back in a moment"));
}

/// What a device has promised stays promised.
Refusal check_capacity(const ClusterView& view, const Device& before, const Device& after) {
  const Host* host = view.hosts.find(before.spec.host);
  if (host == nullptr || after.spec.capacity_mib >= before.spec.capacity_mib) return std::nullopt;
  const Mib promised = DeviceSpace(view, host->spec.cluster).promised_on(before.id());
  if (after.spec.capacity_mib >= promised) return std::nullopt;
  return problem(Errc::conflict, fmt::format("spec.capacity_mib: {} is less than the {} MiB of the "
                                             "volumes on it",
                                             after.spec.capacity_mib.value, promised.value));
}

Refusal check_pinned_device(const ClusterView& view, const Volume& volume) {
  if (volume.spec.device.empty()) return std::nullopt;
  const DeviceSpace space(view, volume.spec.cluster);
  if (space.devices().contains(volume.spec.device)) return std::nullopt;
  std::vector<Reason> known;
  for (const auto& [id, device] : space.devices()) {
    if (known.size() < kReasonsMax) known.push_back({"device " + id.value, "exists"});
  }
  return problem(Errc::not_found,
                 fmt::format("spec.device: cluster \"{}\" has no device \"{}\"",
                             volume.spec.cluster.value, volume.spec.device.value),
                 known);
}

/// Another device: it moves there while it is used. Back again, or nowhere, ends that as long as it
/// has not moved.
Refusal check_move(const ClusterView& view, const Volume& before, const Volume& after) {
  if (before.spec.device == after.spec.device) return std::nullopt;
  if (before.spec.mirrored) return fixed("spec.device", "a mirrored volume's places are chosen");
  if (before.status.legs.empty()) return fixed("spec.device", "as long as it has no place");
  if (auto refused = check_pinned_device(view, after)) return refused;
  const DeviceId& wanted = after.spec.device;
  const auto& legs = before.status.legs;
  const bool stays = wanted.empty() || wanted == legs.front().device;
  if (stays) return std::nullopt;
  if (legs.size() > 1 && legs.back().device != wanted) {
    return problem(
        Errc::conflict,
        fmt::format("spec.device: {} is on its way between {} and {}; wait for that",
                    before.id().value, legs.front().device.value, legs.back().device.value));
  }
  if (auto why = region_refusal(view, after, *view.devices.find(wanted)); !why.empty()) {
    return problem(Errc::denied, "spec.device: \"" + wanted.value + "\" " + why);
  }
  const Mib size = std::max(after.spec.size_mib, before.status.size_mib);
  const Mib free = DeviceSpace(view, before.spec.cluster).free_on(wanted);
  if (legs.size() > 1 || size <= free) return std::nullopt;
  return problem(
      Errc::exhausted,
      fmt::format("spec.device: \"{}\" has {} MiB left, volume {} needs {}", wanted.value,
                  std::max(free, Mib()).value, before.id().value, size.value));
}

/// What grows writes its device too, so that nobody else gives the same room away.
Refusal add_devices(const ClusterView& view, const Volume& before, const Volume& after,
                    Change& change) {
  if (before.spec.size_mib == after.spec.size_mib) return std::nullopt;
  for (const VolumeLeg& leg : before.status.legs) {
    const Device* device = view.devices.find(leg.device);
    if (device == nullptr) continue;
    Device same = *device;
    same.meta.revision = 0;
    change.guards.push_back({keys::of(device->id()), device->meta.revision});
    change.writes.push_back({keys::of(device->id()), to_json_text(same)});
  }
  return std::nullopt;
}

Refusal check_growth(const ClusterView& view, const Volume& before, const Volume& after) {
  if (before.spec.size_mib != after.spec.size_mib && before.moving()) {
    return problem(Errc::conflict, "spec.size_mib: the volume is being moved; grow it after that");
  }
  const Mib had = std::max(before.spec.size_mib, before.status.size_mib);
  if (after.spec.size_mib < before.spec.size_mib) {
    return problem(Errc::invalid,
                   fmt::format("spec.size_mib: {} is less than the {} it has; a "
                               "volume never shrinks",
                               after.spec.size_mib.value, before.spec.size_mib.value));
  }
  const DeviceSpace space(view, before.spec.cluster);
  for (const VolumeLeg& leg : before.status.legs) {
    const Mib free = space.free_on(leg.device);
    if (after.spec.size_mib - had <= free) continue;
    return problem(Errc::exhausted,
                   fmt::format("spec.size_mib: {} needs {} MiB more, device \"{}\" has {} left",
                               after.spec.size_mib.value, (after.spec.size_mib - had).value,
                               leg.device.value, std::max(free, Mib()).value));
  }
  return std::nullopt;
}

VolumeId source_of(const Volume& volume) {
  return VolumeId(qualified(volume.meta.tenant, volume.spec.source));
}

/// A new volume that shall begin with what another holds: made where that lies, of its class and at
/// least as large.
Refusal fit_to_source(const ClusterView& view, Volume& copy) {
  const VolumeId id = source_of(copy);
  const Volume* source = view.volumes.find(id);
  if (source == nullptr || source->meta.deleting_at) {
    return problem(Errc::not_found, fmt::format("spec.source: tenant \"{}\" has no volume \"{}\"",
                                                copy.meta.tenant, copy.spec.source));
  }
  if (source->spec.mirrored) {
    return problem(Errc::unsupported, "spec.source: volume " + id.value +
                                          " is mirrored; a mirrored volume is not copied yet");
  }
  if (!source->ready() || source->moving()) {
    return problem(Errc::conflict,
                   fmt::format("spec.source: volume {0} is {1}; wait until it is in_sync in one "
                               "place (virga volume get {0})",
                               id.value, source->ready() ? "being moved" : "not ready"));
  }
  const DeviceId& device = source->status.legs.front().device;
  VolumeSpec& spec = copy.spec;
  if (!spec.device.empty() && spec.device != device) {
    return problem(Errc::invalid,
                   fmt::format("spec.device: \"{}\" is not \"{}\", where its source {} lies; a "
                               "copy is made there and can be moved later",
                               spec.device.value, device.value, id.value));
  }
  if (!spec.cluster.empty() && spec.cluster != source->spec.cluster) {
    return problem(Errc::invalid, fmt::format("spec.cluster: \"{}\" is not \"{}\", its source's",
                                              spec.cluster.value, source->spec.cluster.value));
  }
  if (spec.storage_class != VolumeSpec().storage_class &&
      spec.storage_class != source->spec.storage_class) {
    return problem(Errc::invalid,
                   fmt::format("spec.storage_class: \"{}\" is not \"{}\", its source's",
                               spec.storage_class, source->spec.storage_class));
  }
  if (auto refused = fit_regions(*source, copy)) return refused;
  spec.cluster = source->spec.cluster;
  spec.storage_class = source->spec.storage_class;
  const Mib least = std::max(source->spec.size_mib, source->status.size_mib);
  if (spec.size_mib == Mib()) spec.size_mib = least;
  if (spec.size_mib < least) {
    return problem(Errc::invalid,
                   fmt::format("spec.size_mib: {} is less than the {} of its source {}; leave it "
                               "out and it is as large",
                               spec.size_mib.value, least.value, id.value));
  }
  if (spec.snapshot && spec.size_mib > least) {
    return problem(Errc::invalid, fmt::format("spec.size_mib: a snapshot is as large as its "
                                              "source, {} MiB; leave it out",
                                              least.value));
  }
  return std::nullopt;
}

/// What a copy holds is its source's for ever: it may be where that may be, or where it might when
/// its source was there still.
Refusal keep_regions(const ClusterView& view, const Volume& before, Volume& after) {
  if (after.spec.source.empty()) return std::nullopt;
  const Volume* source = view.volumes.find(source_of(after));
  return fit_regions(source != nullptr ? *source : before, after);
}

/// A new volume that shall begin with an image's disk: at least as large.
Refusal fit_to_image(const ClusterView& view, Volume& volume) {
  VolumeSpec& spec = volume.spec;
  if (auto refused = check_image(view, "spec.image", volume.meta.tenant, spec.image)) {
    return refused;
  }
  const ImageSpec& image = view.images.find(spec.image)->spec;
  if (image.format == ImageFormat::direct) {
    return problem(Errc::invalid, fmt::format("spec.image: image \"{}\" boots its kernel directly "
                                              "and has no disk",
                                              spec.image.value));
  }
  if (spec.size_mib == Mib()) spec.size_mib = image.size_mib;
  if (spec.size_mib >= image.size_mib) return std::nullopt;
  return problem(Errc::invalid,
                 fmt::format("spec.size_mib: {} is less than the {} of image \"{}\"; leave it out "
                             "and it is as large",
                             spec.size_mib.value, image.size_mib.value, spec.image.value));
}

Refusal check_mirrored(const Volume& volume) {
  const VolumeSpec& spec = volume.spec;
  if (!spec.mirrored) return std::nullopt;
  if (spec.snapshot) {
    return problem(Errc::invalid, "spec.mirrored: no VM writes to a snapshot; mirror a volume that "
                                  "is made of it");
  }
  if (spec.device.empty()) return std::nullopt;
  return problem(Errc::invalid, "spec.device: a mirrored volume has two places, which are chosen; "
                                "leave it out");
}

Refusal check_local(const Volume& volume) {
  const VolumeSpec& spec = volume.spec;
  if (!spec.local) return std::nullopt;
  if (spec.mirrored) {
    return problem(Errc::invalid, "spec.local: a mirrored volume has two places and cannot be "
                                  "where its VM is");
  }
  if (spec.snapshot) return problem(Errc::invalid, "spec.local: no VM has a snapshot as a disk");
  if (spec.device.empty()) return std::nullopt;
  return problem(Errc::invalid, "spec.device: a local volume is on a device of the host that runs "
                                "its VM; leave it out, and move the VM");
}

Refusal check_fixed(const Volume& before, const Volume& after) {
  const VolumeSpec& had = before.spec;
  const VolumeSpec& wanted = after.spec;
  if (had.cluster != wanted.cluster) return fixed("spec.cluster", "make another volume");
  if (had.storage_class != wanted.storage_class) {
    return fixed("spec.storage_class", "make another volume");
  }
  if (had.source != wanted.source) return fixed("spec.source", "make another volume");
  if (had.image != wanted.image) return fixed("spec.image", "make another volume");
  if (had.mirrored != wanted.mirrored) {
    return fixed("spec.mirrored", wanted.mirrored
                                      ? "make a volume of it (virga volume create --from)"
                                      : "make another volume");
  }
  if (had.snapshot != wanted.snapshot) {
    return fixed("spec.snapshot", "make a volume of it (virga volume create --from)");
  }
  if (!had.snapshot) return std::nullopt;
  if (had.size_mib != wanted.size_mib) {
    return fixed("spec.size_mib", "this is a snapshot; make a larger volume of it");
  }
  if (had.device != wanted.device) {
    return fixed("spec.device", "this is a snapshot; make a volume of it and move that");
  }
  return std::nullopt;
}

}  // namespace

Refusal apply_rules(const RuleContext& context, const Device* before, Device& after) {
  if (auto sound = check_device(after.spec); !sound.ok()) return Problem{sound.error(), {}, 0};
  if (before == nullptr) {
    if (after.spec.lost) return problem(Errc::invalid, "spec.lost: a new device is not lost");
    return check_place(context.view, after);
  }
  if (before->spec.host != after.spec.host) return fixed("spec.host", "make another device");
  if (before->spec.directory != after.spec.directory) {
    return fixed("spec.directory", "make another device");
  }
  if (before->spec.lost && !after.spec.lost) {
    return fixed("spec.lost", "what lay there is given up; make another device");
  }
  if (after.spec.lost && !before->spec.lost) {
    if (auto refused = check_lost(context.view, *before)) return refused;
  }
  return check_capacity(context.view, *before, after);
}

Refusal apply_rules(const RuleContext& context, const Volume* before, Volume& after) {
  if (before != nullptr && after.spec.cluster.empty()) after.spec.cluster = before->spec.cluster;
  if (before == nullptr && !after.spec.source.empty()) {
    if (auto wrong = check_name("spec.source", after.spec.source); !wrong) {
      return Problem{wrong.error(), {}, 0};
    }
    if (auto refused = fit_to_source(context.view, after)) return refused;
  } else if (before == nullptr && !after.spec.image.empty()) {
    if (auto refused = fit_to_image(context.view, after)) return refused;
  }
  if (auto sound = check_volume(after.spec); !sound.ok()) return Problem{sound.error(), {}, 0};
  if (before == nullptr) {
    if (auto refused = check_mirrored(after)) return refused;
  }
  if (before != nullptr) {
    if (auto refused = check_fixed(*before, after)) return refused;
  }
  if (auto refused = check_local(after)) return refused;
  if (before != nullptr) {
    if (auto refused = keep_regions(context.view, *before, after)) return refused;
    if (before->spec.regions != after.spec.regions) {
      if (auto refused = check_regions_of(context.view, after)) return refused;
    }
    if (auto refused = check_move(context.view, *before, after)) return refused;
    return check_growth(context.view, *before, after);
  }
  const auto cluster = fitting_cluster(context.view, after.meta.tenant, after.spec.cluster);
  if (!cluster.ok()) return Problem{cluster.error(), {}, 0};
  after.spec.cluster = (*cluster)->id();
  return check_pinned_device(context.view, after);
}

Refusal add_companions(const RuleContext& context, const Device* before, const Device& after,
                       Change& change) {
  if (before != nullptr) return std::nullopt;
  const Host* host = context.view.hosts.find(after.spec.host);
  VIRGA_CHECK(host != nullptr);
  change.guards.push_back({keys::of(host->id()), host->meta.revision});
  return std::nullopt;
}

Refusal add_companions(const RuleContext& context, const Volume* before, const Volume& after,
                       Change& change) {
  if (before != nullptr) return add_devices(context.view, *before, after, change);
  const Cluster* cluster = context.view.clusters.find(after.spec.cluster);
  VIRGA_CHECK(cluster != nullptr);
  change.guards.push_back({keys::of(cluster->id()), cluster->meta.revision});
  if (!after.spec.image.empty()) {
    const Image* image = context.view.images.find(after.spec.image);
    VIRGA_CHECK(image != nullptr);
    change.guards.push_back({keys::of(image->id()), image->meta.revision});
  }
  if (after.spec.source.empty()) return std::nullopt;
  const Volume* source = context.view.volumes.find(source_of(after));
  VIRGA_CHECK(source != nullptr);
  change.guards.push_back({keys::of(source->id()), source->meta.revision});
  return std::nullopt;
}

Refusal check_volumes_of(const ClusterView& view, const Vm& vm) {
  std::set<VolumeId> named;
  for (std::size_t i = 0; i < vm.spec.disks.size(); ++i) {
    if (vm.spec.disks[i].volume.empty()) continue;
    const std::string field = fmt::format("spec.disks[{}].volume", i);
    const VolumeId id(qualified(vm.meta.tenant, vm.spec.disks[i].volume));
    const Volume* volume = view.volumes.find(id);
    if (volume == nullptr) {
      return problem(Errc::not_found, fmt::format("{}: tenant \"{}\" has no volume \"{}\"", field,
                                                  vm.meta.tenant, vm.spec.disks[i].volume));
    }
    if (volume->meta.deleting_at) {
      return problem(Errc::conflict, field + ": volume " + id.value + " is being deleted");
    }
    if (volume->spec.snapshot) {
      return problem(Errc::invalid,
                     fmt::format("{}: volume {} is a snapshot and stays as it is; make a volume of "
                                 "it (virga volume create {}/NAME --from {})",
                                 field, id.value, vm.meta.tenant, volume->meta.name));
    }
    if (volume->spec.cluster != vm.spec.cluster) {
      return problem(Errc::invalid,
                     fmt::format("{}: volume {} belongs to cluster \"{}\", the VM to \"{}\"", field,
                                 id.value, volume->spec.cluster.value, vm.spec.cluster.value));
    }
    if (!named.insert(id).second) {
      return problem(Errc::invalid, field + ": another disk of this VM is volume " + id.value);
    }
    if (const Vm* user = view.user_of(id)) {
      return problem(Errc::conflict,
                     fmt::format("{}: volume {} is a disk of vm {}; one VM at a time uses a volume",
                                 field, id.value, user->id().value));
    }
  }
  return std::nullopt;
}

void add_uses(const ClusterView& view, const Vm& vm, Change& change) {
  for (const VmDisk& disk : vm.spec.disks) {
    if (disk.volume.empty()) continue;
    const VolumeId id(qualified(vm.meta.tenant, disk.volume));
    const Volume* volume = view.volumes.find(id);
    VIRGA_CHECK(volume != nullptr);
    change.guards.push_back({keys::of(id), volume->meta.revision});
    change.guards.push_back({keys::use(id), 0});
    change.writes.push_back({keys::use(id), vm.id().value});
  }
}

std::vector<Reason> users_of(const ClusterView& view, const Device& device) {
  std::vector<Reason> users;
  for (const auto& [id, volume] : view.volumes.all()) {
    const auto& legs = volume->status.legs;
    // What is left on a device that does not come back holds it up no longer.
    const bool holds = std::any_of(legs.begin(), legs.end(), [&](const VolumeLeg& leg) {
      const bool given_up = leg.state == LegState::leaving && !device.status.available;
      return leg.device == device.id() && !given_up;
    });
    if (!holds && volume->spec.device != device.id()) continue;
    if (users.size() < kReasonsMax) {
      users.push_back({"volume " + id.value, holds ? "is on it" : "is to be on it"});
    }
  }
  return users;
}

std::vector<Reason> users_of(const ClusterView& view, const Volume& volume) {
  std::vector<Reason> users;
  if (const Vm* user = view.user_of(volume.id())) {
    users.push_back({"vm " + user->id().value, "has it as a disk"});
  }
  for (const Volume* other : view.volumes_of(volume.spec.cluster)) {
    const bool copied = !other->spec.source.empty() && source_of(*other) == volume.id() &&
                        !other->ready() && !other->meta.deleting_at;
    if (!copied || users.size() >= kReasonsMax) continue;
    users.push_back({"volume " + other->id().value, "is being copied from it"});
  }
  return users;
}

}  // namespace virga::api
