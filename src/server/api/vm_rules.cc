#include <fmt/format.h>

#include <algorithm>

#include "mechanism/network/addresses.h"
#include "mechanism/placement/placement.h"
#include "server/api/rules.h"
#include "server/api/validate.h"

namespace virga::api {
namespace {

Problem problem(Errc code, std::string text, std::vector<Reason> reasons = {}) {
  return Problem{make_error(code, std::move(text)), std::move(reasons), 0};
}

Refusal check_fixed(const Vm& before, const Vm& after) {
  const auto fixed = [](std::string_view field) {
    return problem(Errc::invalid, fmt::format("{}: never changes; make another VM", field));
  };
  if (before.spec.cluster != after.spec.cluster) return fixed("spec.cluster");
  if (before.spec.image != after.spec.image) return fixed("spec.image");
  if (to_json(before.spec.disks) != to_json(after.spec.disks)) return fixed("spec.disks");
  const auto networks_of = [](const Vm& vm) {
    std::vector<std::string> networks;
    for (const VmNic& nic : vm.spec.nics) networks.push_back(nic.network);
    return networks;
  };
  if (networks_of(before) != networks_of(after)) return fixed("spec.nics");
  return std::nullopt;
}

/// A live move gives the guest the machine that it has: what that is made of changes between runs.
Refusal check_while_running(const Vm& before, const Vm& after) {
  if (before.status.power == VmPower::stopped && before.status.operation.empty()) {
    return std::nullopt;
  }
  const auto running = [&](std::string_view field) {
    return problem(Errc::conflict,
                   fmt::format("{}: changes only while the VM is stopped; `virga --wait vm stop "
                               "{}` first",
                               field, before.id().value));
  };
  if (before.spec.cpus != after.spec.cpus) return running("spec.cpus");
  if (before.spec.memory_mib != after.spec.memory_mib) return running("spec.memory_mib");
  if (before.spec.host_devices != after.spec.host_devices) return running("spec.host_devices");
  if (holds_host_device(before.spec) && before.spec.pinned_host != after.spec.pinned_host)
    return running("spec.pinned_host");
  return std::nullopt;
}

/// A quota that is raised comes out of what its host has left and out of the failure reserve.
Refusal check_quota(const ClusterView& view, const Vm& before, const Vm& after) {
  std::vector<Reason> reasons;
  for (const auto& [host, reason] : refuse_quota(view, before, after)) {
    reasons.push_back({"host " + host.value, reason});
  }
  if (reasons.empty()) return std::nullopt;
  return problem(
      Errc::conflict,
      fmt::format("spec.cpu_millicores: {} cannot get {} where it runs; move it or others "
                  "away, or lower the quota of others",
                  after.id().value, demand_of(after).cpu_millicores.value),
      reasons);
}

/// What only disk images have: a root disk and somebody who reads user data.
Refusal check_fits_image(const Image& image, const Vm& vm) {
  constexpr std::size_t kDisksMax = 8;
  const bool direct = image.spec.format == ImageFormat::direct;
  if (direct && !vm.spec.user_data.empty()) {
    return problem(Errc::invalid, "spec.user_data: image \"" + vm.spec.image.value +
                                      "\" boots its kernel directly and reads spec.parameters");
  }
  std::size_t disks = direct ? 0 : 1;
  for (std::size_t i = 0; i < vm.spec.disks.size(); ++i) {
    const VmDisk& disk = vm.spec.disks[i];
    if (disk.name != "root") {
      ++disks;
      continue;
    }
    if (direct) {
      return problem(Errc::invalid,
                     fmt::format("spec.disks[{}].name: image \"{}\" has no root disk", i,
                                 vm.spec.image.value));
    }
    if (disk.size_mib.value != 0 && disk.size_mib < image.spec.size_mib) {
      return problem(Errc::invalid,
                     fmt::format("spec.disks[{}].size_mib: {} is less than the image's {} MiB", i,
                                 disk.size_mib.value, image.spec.size_mib.value));
    }
  }
  if (disks <= kDisksMax) return std::nullopt;
  return problem(
      Errc::invalid,
      fmt::format("spec.disks: {} disks with the root disk; at most {} fit", disks, kDisksMax));
}

Refusal check_image_of(const ClusterView& view, const Vm& vm) {
  if (auto refused = check_image(view, "spec.image", vm.meta.tenant, vm.spec.image)) return refused;
  const Image* image = view.images.find(vm.spec.image);
  const Cluster* cluster = view.clusters.find(vm.spec.cluster);
  if (cluster != nullptr) {
    if (auto large = check_image_size("spec.image", image->spec, *cluster)) return large;
  }
  return check_fits_image(*image, vm);
}

Refusal check_pin(const ClusterView& view, const Vm& vm) {
  const HostId& pinned = vm.spec.pinned_host;
  if (pinned.empty() && holds_host_device(vm.spec)) {
    return problem(Errc::invalid,
                   "spec.pinned_host: is empty; a VM with host_devices or direct_io is locked to "
                   "the host whose device it holds: name that host");
  }
  if (pinned.empty()) return std::nullopt;
  const Host* host = view.hosts.find(pinned);
  if (host != nullptr && host->spec.cluster == vm.spec.cluster) return std::nullopt;
  std::vector<Reason> members;
  for (const Host* member : view.hosts_of(vm.spec.cluster)) {
    if (members.size() < 20) members.push_back({"host " + member->meta.name, "is a member"});
  }
  return problem(Errc::not_found,
                 fmt::format("spec.pinned_host: \"{}\" is no host of cluster \"{}\"", pinned.value,
                             vm.spec.cluster.value),
                 members);
}

const Vm* holder_of(const ClusterView& view, const Vm& vm, const std::string& device) {
  for (const Vm* other : view.vms_of(vm.spec.cluster)) {
    const bool there = other->spec.pinned_host == vm.spec.pinned_host && other->id() != vm.id();
    if (there && std::ranges::count(other->spec.host_devices, device) > 0) return other;
  }
  return nullptr;
}

/// Who holds a device keeps it while it is stopped, too. What it has already is not asked for
/// again: a host that does not offer it any more says so when the VM is to start.
Refusal check_host_devices(const ClusterView& view, const Vm* before, const Vm& vm) {
  const Host* host = view.hosts.find(vm.spec.pinned_host);
  if (host == nullptr) return std::nullopt;
  const bool moved = before == nullptr || before->spec.pinned_host != vm.spec.pinned_host;
  for (std::size_t i = 0; i < vm.spec.host_devices.size(); ++i) {
    const std::string& name = vm.spec.host_devices[i];
    if (!moved && std::ranges::count(before->spec.host_devices, name) > 0) continue;
    const auto& offered = host->status.host_devices;
    if (std::ranges::find(offered, name, &HostDevice::name) == offered.end()) {
      std::vector<Reason> those;
      for (const HostDevice& one : offered) those.push_back({"device " + one.name, "is offered"});
      return problem(Errc::not_found,
                     fmt::format("spec.host_devices[{}]: host \"{}\" offers no device \"{}\": its "
                                 "agent does, with `--host-device {}=/dev/...`",
                                 i, host->meta.name, name, name),
                     those);
    }
    if (const Vm* holder = holder_of(view, vm, name)) {
      // Whose it is, another tenant is not told.
      const bool own = holder->meta.tenant == vm.meta.tenant;
      return problem(
          Errc::conflict,
          fmt::format("spec.host_devices[{}]: \"{}\" of host \"{}\" is held by {}", i, name,
                      host->meta.name, own ? "vm " + holder->id().value : "another tenant's VM"));
    }
  }
  return std::nullopt;
}

/// Groups that a NIC begins to have are there.
Refusal check_groups(const ClusterView& view, const Vm* before, const Vm& after) {
  for (std::size_t i = 0; i < after.spec.nics.size(); ++i) {
    const auto& groups = after.spec.nics[i].security_groups;
    if (before != nullptr && before->spec.nics[i].security_groups == groups) continue;
    for (std::size_t k = 0; k < groups.size(); ++k) {
      const std::string field = fmt::format("spec.nics[{}].security_groups[{}]", i, k);
      if (auto refused = check_group(view, field, after.meta.tenant, groups[k])) return refused;
    }
  }
  return std::nullopt;
}

std::vector<SecurityGroupId> groups_of(const Vm& vm, const VmNic& nic) {
  std::vector<SecurityGroupId> groups;
  for (const std::string& name : nic.security_groups)
    groups.emplace_back(qualified(vm.meta.tenant, name));
  return groups;
}

/// Groups that a port gets stay while it gets them.
void guard_groups(const ClusterView& view, const std::vector<SecurityGroupId>& groups,
                  std::set<std::string>& guarded, Change& change) {
  for (const SecurityGroupId& id : groups) {
    const SecurityGroup* group = view.security_groups.find(id);
    VIRGA_CHECK(group != nullptr);
    if (guarded.insert(keys::of(id)).second)
      change.guards.push_back({keys::of(id), group->meta.revision});
  }
}

/// Ports follow what their VM's NICs say; all else of them stays.
void change_groups(const RuleContext& context, const Vm& before, const Vm& after, Change& change) {
  const ClusterView& view = context.view;
  std::set<std::string> guarded;
  for (std::size_t i = 0; i < after.spec.nics.size(); ++i) {
    if (before.spec.nics[i].security_groups == after.spec.nics[i].security_groups) continue;
    const PortId id(fmt::format("{}-{}", after.id().value, i));
    const Port* present = view.ports.find(id);
    if (present == nullptr) continue;  // a port that is gone has nothing to follow
    Port port = *present;
    port.meta.generation += 1;
    port.meta.revision = 0;
    port.meta.correlation = context.call.correlation;
    port.spec.security_groups = groups_of(after, after.spec.nics[i]);
    guard_groups(view, port.spec.security_groups, guarded, change);
    change.guards.push_back({keys::of(id), present->meta.revision});
    change.writes.push_back({keys::of(id), to_json_text(port)});
  }
}

/// Ports with addresses for all NICs, their keys and guards, and the claims that keep parallel
/// creations apart.
Refusal add_ports(const RuleContext& context, const Vm& vm, Change& change) {
  auto claims = std::make_shared<std::vector<std::shared_ptr<void>>>();
  std::set<std::string> guarded;
  // An address that the view shows free but whose key exists all the same must not stop creations.
  constexpr int kTrustedTries = 2;
  std::set<std::uint32_t> avoid;
  if (context.tries.count > kTrustedTries) avoid = context.tries.addresses;
  for (std::size_t i = 0; i < vm.spec.nics.size(); ++i) {
    const NetworkId network_id(qualified(vm.meta.tenant, vm.spec.nics[i].network));
    const Network* network = context.view.networks.find(network_id);
    VIRGA_CHECK(network != nullptr);
    const auto address = free_address(context.view, *network, [&](std::uint32_t candidate) {
      return avoid.contains(candidate) ||
             context.engine.claims().taken(network_id.value, candidate);
    });
    if (!address.ok()) return Problem{address.error(), {}, 0};
    context.tries.addresses.insert(*address);
    claims->push_back(context.engine.claims().take(network_id.value, *address));
    Port port = make_port(*network, *address, groups_of(vm, vm.spec.nics[i]));
    port.meta.name = fmt::format("{}-{}", vm.meta.name, i);
    port.meta.tenant = vm.meta.tenant;
    port.meta.created_at = context.engine.context().loop.wall_now();
    port.meta.correlation = context.call.correlation;
    port.spec.vm = vm.id();
    guard_groups(context.view, port.spec.security_groups, guarded, change);
    change.guards.push_back({keys::of(port.id()), 0});
    change.writes.push_back({keys::of(port.id()), to_json_text(port)});
    const std::string address_key = keys::address(network_id, port.spec.address);
    change.guards.push_back({address_key, 0});
    change.writes.push_back({address_key, port.id().value});
    if (guarded.insert(keys::of(network_id)).second) {
      change.guards.push_back({keys::of(network_id), network->meta.revision});
    }
  }
  change.claims = claims;
  return std::nullopt;
}

}  // namespace

Refusal refuse_copy(const Vm& vm) {
  if (vm.spec.service.empty()) return std::nullopt;
  const std::string& service = vm.spec.service.value;
  return problem(Errc::conflict,
                 fmt::format("vm {} is a copy of service {}, which alone changes it; see `virga "
                             "service get {}`",
                             vm.id().value, service, service));
}

Refusal check_image(const ClusterView& view, const std::string& field, const std::string& tenant,
                    const ImageId& id) {
  const Image* image = view.images.find(id);
  if (image == nullptr) {
    std::vector<Reason> known;
    for (const auto& [other_id, other] : view.images.all()) {
      const bool fits = other->meta.tenant.empty() || other->meta.tenant == tenant;
      if (fits && known.size() < 20) known.push_back({"image " + other_id.value, "exists"});
    }
    return problem(Errc::not_found, field + ": there is no image \"" + id.value + "\"", known);
  }
  const std::string named = field + ": image \"" + id.value + "\" ";
  if (!image->meta.tenant.empty() && image->meta.tenant != tenant) {
    return problem(Errc::denied, named + "belongs to another tenant");
  }
  if (image->meta.deleting_at) return problem(Errc::conflict, named + "is being deleted");
  if (!image->spec.sha256.empty()) return std::nullopt;
  return problem(Errc::conflict, named +
                                     "has no checksum that hosts could check; import it again "
                                     "under another name");
}

Refusal apply_rules(const RuleContext& context, const Vm* before, Vm& after) {
  const ClusterView& view = context.view;
  if (before != nullptr) {
    if (auto refused = refuse_copy(*before)) return refused;
    after.spec.service = before->spec.service;
    if (after.spec.cluster.empty()) after.spec.cluster = before->spec.cluster;
    after.spec.move_to = before->spec.move_to;
    after.spec.restart = before->spec.restart;
  } else if (!after.spec.move_to.empty() || after.spec.restart) {
    return problem(Errc::invalid, "spec.move_to: is set by POST .../migrate and .../restart only");
  } else if (!after.spec.service.empty()) {
    return problem(Errc::invalid, "spec.service: services make their copies themselves");
  }
  if (auto sound = check_vm(after.spec); !sound.ok()) return Problem{sound.error(), {}, 0};
  const auto cluster = fitting_cluster(view, after.meta.tenant, after.spec.cluster);
  if (!cluster.ok()) return Problem{cluster.error(), {}, 0};
  after.spec.cluster = (*cluster)->id();
  if (before != nullptr) {
    if (auto refused = check_fixed(*before, after)) return refused;
    if (auto refused = check_while_running(*before, after)) return refused;
    if (auto refused = check_groups(view, before, after)) return refused;
    if (const Image* image = view.images.find(after.spec.image)) {
      if (auto refused = check_fits_image(*image, after)) return refused;
    }
    if (auto refused = check_quota(view, *before, after)) return refused;
    if (auto refused = check_pin(view, after)) return refused;
    return check_host_devices(view, before, after);
  }
  if (auto refused = check_image_of(view, after)) return refused;
  for (std::size_t i = 0; i < after.spec.nics.size(); ++i) {
    const NetworkId id(qualified(after.meta.tenant, after.spec.nics[i].network));
    const Network* network = view.networks.find(id);
    const std::string field = fmt::format("spec.nics[{}].network", i);
    if (network == nullptr) {
      return problem(Errc::not_found, fmt::format("{}: tenant \"{}\" has no network \"{}\"", field,
                                                  after.meta.tenant, after.spec.nics[i].network));
    }
    if (network->meta.deleting_at) {
      return problem(Errc::conflict, field + ": network " + id.value + " is being deleted");
    }
    if (network->spec.cluster != after.spec.cluster) {
      return problem(
          Errc::invalid,
          fmt::format("{}: network {} belongs to cluster \"{}\", the VM to \"{}\"", field, id.value,
                      network->spec.cluster.value, after.spec.cluster.value));
    }
  }
  if (auto refused = check_volumes_of(view, after)) return refused;
  if (auto refused = check_groups(view, nullptr, after)) return refused;
  if (auto refused = check_pin(view, after)) return refused;
  return check_host_devices(view, nullptr, after);
}

Refusal add_companions(const RuleContext& context, const Vm* before, const Vm& after,
                       Change& change) {
  if (before != nullptr) {
    change_groups(context, *before, after, change);
    return std::nullopt;
  }
  const Cluster* cluster = context.view.clusters.find(after.spec.cluster);
  const Image* image = context.view.images.find(after.spec.image);
  VIRGA_CHECK(cluster != nullptr && image != nullptr);
  change.guards.push_back({keys::of(cluster->id()), cluster->meta.revision});
  change.guards.push_back({keys::of(image->id()), image->meta.revision});
  add_uses(context.view, after, change);
  return add_ports(context, after, change);
}

}  // namespace virga::api
