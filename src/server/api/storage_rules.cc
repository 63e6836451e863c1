#include <fmt/format.h>

#include <algorithm>
#include <set>

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
  if (before.spec.size_mib != after.spec.size_mib && before.status.legs.size() > 1) {
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

}  // namespace

Refusal apply_rules(const RuleContext& context, const Device* before, Device& after) {
  if (auto sound = check_device(after.spec); !sound.ok()) return Problem{sound.error(), {}, 0};
  if (before == nullptr) return check_place(context.view, after);
  if (before->spec.host != after.spec.host) return fixed("spec.host", "make another device");
  if (before->spec.directory != after.spec.directory) {
    return fixed("spec.directory", "make another device");
  }
  return check_capacity(context.view, *before, after);
}

Refusal apply_rules(const RuleContext& context, const Volume* before, Volume& after) {
  if (before != nullptr && after.spec.cluster.empty()) after.spec.cluster = before->spec.cluster;
  if (auto sound = check_volume(after.spec); !sound.ok()) return Problem{sound.error(), {}, 0};
  if (before != nullptr) {
    if (before->spec.cluster != after.spec.cluster)
      return fixed("spec.cluster", "make another volume");
    if (before->spec.storage_class != after.spec.storage_class) {
      return fixed("spec.storage_class", "make another volume");
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
    const bool holds = std::any_of(legs.begin(), legs.end(),
                                   [&](const VolumeLeg& leg) { return leg.device == device.id(); });
    if (!holds && volume->spec.device != device.id()) continue;
    if (users.size() < kReasonsMax) {
      users.push_back({"volume " + id.value, holds ? "is on it" : "is to be on it"});
    }
  }
  return users;
}

std::vector<Reason> users_of(const ClusterView& view, const Volume& volume) {
  const Vm* user = view.user_of(volume.id());
  if (user == nullptr) return {};
  return {{"vm " + user->id().value, "has it as a disk"}};
}

}  // namespace virga::api
