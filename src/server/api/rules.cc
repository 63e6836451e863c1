#include "server/api/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "mechanism/network/addresses.h"
#include "model/ipv4.h"
#include "server/api/validate.h"

namespace virga::api {
namespace {

constexpr std::size_t kReasonsMax = 20;
constexpr std::uint32_t kVniFirst = 1000;  ///< the server picks from here on
constexpr std::uint32_t kVniMax = (1 << 24) - 1;

Problem problem(Errc code, std::string text, std::vector<Reason> reasons = {}) {
  return Problem{make_error(code, std::move(text)), std::move(reasons), 0};
}

Problem fixed(std::string_view field, std::string_view hint) {
  return problem(Errc::invalid, fmt::format("{}: never changes; {}", field, hint));
}

template <typename T>
bool same(const T& left, const T& right) {
  return to_json(left) == to_json(right);
}

class Users {
 public:
  void add(std::string candidate, std::string reason) {
    if (list_.size() < kReasonsMax) list_.push_back({std::move(candidate), std::move(reason)});
  }
  std::vector<Reason> take() { return std::move(list_); }

 private:
  std::vector<Reason> list_;
};

template <typename T>
std::string name_of(const T& resource) {
  return std::string(Kind<T>::kSingular) + " " + resource.id().value;
}

}  // namespace

Result<const Cluster*> fitting_cluster(const ClusterView& view, const std::string& tenant,
                                       const ClusterId& wanted) {
  const auto fits = [&](const Cluster& cluster) {
    return (cluster.meta.tenant.empty() || cluster.meta.tenant == tenant) &&
           !cluster.meta.deleting_at;
  };
  if (!wanted.empty()) {
    const Cluster* cluster = view.clusters.find(wanted);
    if (cluster == nullptr) {
      return make_error(Errc::not_found,
                        "spec.cluster: there is no cluster \"" + wanted.value + "\"");
    }
    if (fits(*cluster)) return cluster;
    if (cluster->meta.deleting_at) {
      return make_error(Errc::conflict,
                        "spec.cluster: cluster \"" + wanted.value + "\" is being deleted");
    }
    return make_error(Errc::denied,
                      fmt::format("spec.cluster: cluster \"{}\" belongs to another tenant; \"{}\" "
                                  "cannot use it",
                                  wanted.value, tenant));
  }
  const Cluster* only = nullptr;
  for (const auto& [id, cluster] : view.clusters.all()) {
    if (!fits(*cluster)) continue;
    if (only != nullptr) {
      return make_error(Errc::invalid,
                        fmt::format("spec.cluster: is empty and several fit: {}, {}; name one",
                                    only->meta.name, cluster->meta.name));
    }
    only = cluster.get();
  }
  if (only != nullptr) return only;
  return make_error(Errc::not_found,
                    fmt::format("spec.cluster: no cluster is open to tenant \"{}\"", tenant));
}

Refusal apply_rules(const RuleContext& context, const Cluster* before, Cluster& after) {
  if (auto sound = check_cluster(after.spec); !sound.ok()) return Problem{sound.error(), {}, 0};
  after.status.lease_ms = std::max(after.status.lease_ms, after.spec.policy.lease_ms);
  if (before == nullptr) return std::nullopt;
  after.status.lease_ms = std::max(after.status.lease_ms, before->spec.policy.lease_ms);
  if (auto refused = check_floating(context.view, after)) return refused;
  const bool used = !context.view.hosts_of(after.id()).empty();
  if (used && before->spec.shared_directory != after.spec.shared_directory) {
    return problem(Errc::conflict, "spec.shared_directory: the cluster has hosts that use \"" +
                                       before->spec.shared_directory + "\"; remove them first");
  }
  return std::nullopt;
}

Refusal apply_rules(const RuleContext&, const Machine* before, Machine& after) {
  if (auto sound = check_machine(after.spec); !sound.ok()) return Problem{sound.error(), {}, 0};
  if (before != nullptr && after.spec.bmc.password.empty()) {
    after.spec.bmc.password = before->spec.bmc.password;
  }
  return std::nullopt;
}

Refusal apply_rules(const RuleContext& context, const Host* before, Host& after) {
  if (before == nullptr) {
    return problem(Errc::unsupported,
                   "hosts are made when their agent joins: `virga cluster join-token CLUSTER` "
                   "gives the token for `virgad agent --token-file`");
  }
  if (auto sound = check_host(after.spec); !sound.ok()) return Problem{sound.error(), {}, 0};
  if (before->spec.cluster != after.spec.cluster) {
    return fixed("spec.cluster", "delete the host and let it join the other cluster");
  }
  const MachineId& machine = after.spec.machine;
  if (!machine.empty() && context.view.machines.find(machine) == nullptr) {
    return problem(Errc::not_found, "spec.machine: there is no machine \"" + machine.value + "\"");
  }
  if (before->spec.region == after.spec.region) return std::nullopt;
  return check_region_of(context.view, after);
}

Refusal check_image_size(std::string_view field, const ImageSpec& spec, const Cluster& cluster) {
  const Mib limit = cluster.spec.policy.image_mib_max;
  if (spec.size_mib <= limit && spec.file_bytes <= to_bytes(limit)) return std::nullopt;
  return problem(Errc::exhausted,
                 fmt::format("{}: a disk of {} MiB in a file of {} bytes is too large: cluster "
                             "\"{}\" takes {} MiB (policy.image_mib_max)",
                             field, spec.size_mib.value, spec.file_bytes.value, cluster.meta.name,
                             limit.value));
}

Refusal apply_rules(const RuleContext& context, const Image* before, Image& after) {
  if (before != nullptr) {
    if (same(before->spec, after.spec)) return std::nullopt;
    return fixed("spec", "add an image under another name");
  }
  if (auto sound = check_image(after.spec); !sound.ok()) return Problem{sound.error(), {}, 0};
  Refusal refused;
  for (const auto& [id, cluster] : context.view.clusters.all()) {
    refused = check_image_size("spec.size_mib", after.spec, *cluster);
    if (!refused) return std::nullopt;
  }
  return refused;
}

Refusal apply_rules(const RuleContext& context, const Network* before, Network& after) {
  if (auto sound = check_network(after.spec); !sound.ok()) return Problem{sound.error(), {}, 0};
  if (before != nullptr) {
    if (after.spec.cluster.empty()) after.spec.cluster = before->spec.cluster;
    if (after.spec.vni == 0) after.spec.vni = before->spec.vni;
    if (after.spec.cluster != before->spec.cluster)
      return fixed("spec.cluster", "make another network");
    if (after.spec.vni != before->spec.vni) return fixed("spec.vni", "make another network");
    if (after.spec.subnet != before->spec.subnet)
      return fixed("spec.subnet", "make another network");
    for (const OutsidePort& port : after.spec.outside) {
      if (context.view.addresses_on(before->id()).contains(*parse_ipv4(port.address))) {
        return problem(
            Errc::conflict,
            fmt::format("spec.outside: {} is a VM's; see `virga port list`", port.address));
      }
    }
    const auto gateway = parse_ipv4(gateway_address(after.spec));
    if (gateway && context.view.addresses_on(before->id()).contains(*gateway)) {
      return problem(Errc::conflict,
                     fmt::format("spec.gateway: its address {} is a service's; see `virga port "
                                 "list`",
                                 ipv4_text(*gateway)));
    }
    return check_floating(context.view, after);
  }
  const auto cluster = fitting_cluster(context.view, after.meta.tenant, after.spec.cluster);
  if (!cluster.ok()) return Problem{cluster.error(), {}, 0};
  after.spec.cluster = (*cluster)->id();
  std::set<std::uint32_t> used;
  for (const auto& [id, network] : context.view.networks.all()) {
    if (network->spec.vni == after.spec.vni) {
      return problem(
          Errc::conflict,
          fmt::format("spec.vni: {} is in use; leave it out and the server picks", after.spec.vni));
    }
    used.insert(network->spec.vni);
  }
  if (after.spec.vni != 0) return std::nullopt;
  std::uint32_t vni = kVniFirst;
  while (used.contains(vni) || context.engine.claims().taken("vni", vni)) ++vni;
  if (vni > kVniMax) return problem(Errc::exhausted, "spec.vni: all VXLAN ids are in use");
  after.spec.vni = vni;
  return std::nullopt;
}

/// Addresses that are no port's have keys as those of ports have, so that no VM or service that is
/// made in the same moment gets one.
void add_reserved(const Network* before, const Network& after, Change& change) {
  std::set<std::string> had;
  if (before != nullptr) had = reserved_addresses(before->spec);
  for (const std::string& address : reserved_addresses(after.spec)) {
    if (had.erase(address) != 0) continue;
    const std::string key = keys::address(after.id(), address);
    change.guards.push_back({key, 0});
    change.writes.push_back({key, "outside"});
  }
  for (const std::string& address : had)
    change.writes.push_back({keys::address(after.id(), address), std::nullopt});
}

Refusal add_companions(const RuleContext& context, const Network* before, const Network& after,
                       Change& change) {
  add_reserved(before, after, change);
  if (before != nullptr) return std::nullopt;
  change.claims = context.engine.claims().take("vni", after.spec.vni);
  change.guards.push_back({keys::vni(after.spec.vni), 0});
  change.writes.push_back({keys::vni(after.spec.vni), after.id().value});
  const Cluster* cluster = context.view.clusters.find(after.spec.cluster);
  VIRGA_CHECK(cluster != nullptr);
  change.guards.push_back({keys::of(cluster->id()), cluster->meta.revision});
  return std::nullopt;
}

std::vector<Reason> users_of(const ClusterView& view, const Cluster& cluster) {
  Users users;
  for (const Host* host : view.hosts_of(cluster.id())) users.add(name_of(*host), "is a member");
  for (const auto& [id, network] : view.networks.all()) {
    if (network->spec.cluster == cluster.id()) users.add(name_of(*network), "belongs to it");
  }
  for (const Volume* volume : view.volumes_of(cluster.id())) {
    users.add(name_of(*volume), "belongs to it");
  }
  for (const Service* service : view.services_of(cluster.id())) {
    users.add(name_of(*service), "belongs to it");
  }
  for (const auto& [id, address] : view.floating_addresses.all()) {
    if (address->spec.cluster == cluster.id()) users.add(name_of(*address), "belongs to it");
  }
  for (const auto& [id, vm] : view.vms.all()) {
    if (vm->spec.cluster == cluster.id()) users.add(name_of(*vm), "runs in it");
  }
  return users.take();
}

std::vector<Reason> users_of(const ClusterView& view, const Machine& machine) {
  Users users;
  for (const auto& [id, host] : view.hosts.all()) {
    if (host->spec.machine == machine.id()) users.add(name_of(*host), "runs on it");
  }
  return users.take();
}

std::vector<Reason> users_of(const ClusterView& view, const Host& host) {
  Users users;
  for (const Vm* vm : view.vms_on(host.id())) users.add(name_of(*vm), "is placed on it");
  for (const auto& [id, vm] : view.vms.all()) {
    if (vm->spec.pinned_host == host.id()) users.add(name_of(*vm), "is pinned to it");
  }
  for (const auto& [id, device] : view.devices.all()) {
    if (device->spec.host == host.id()) users.add(name_of(*device), "is served by it");
  }
  const HostHealth health = host.status.health;
  if (!host.spec.maintenance && (health == HostHealth::alive || health == HostHealth::degraded)) {
    users.add(name_of(host), "is alive: put it into maintenance first");
  }
  return users.take();
}

std::vector<Reason> users_of(const ClusterView& view, const Image& image) {
  Users users;
  for (const auto& [id, vm] : view.vms.all()) {
    if (vm->spec.image == image.id()) users.add(name_of(*vm), "was made from it");
  }
  for (const auto& [id, service] : view.services.all()) {
    if (service->spec.vm.image == image.id()) users.add(name_of(*service), "makes copies from it");
  }
  for (const auto& [id, volume] : view.volumes.all()) {
    const bool begins = volume->spec.image == image.id() && !volume->ready();
    if (begins) users.add(name_of(*volume), "is being filled from it");
  }
  return users.take();
}

std::vector<Reason> users_of(const ClusterView& view, const Network& network) {
  Users users;
  for (const auto& [id, port] : view.ports.all()) {
    if (port->spec.network != network.id()) continue;
    const bool frontend = !port->spec.service.empty();
    users.add(name_of(*port),
              frontend ? "of service " + port->spec.service.value : "of vm " + port->spec.vm.value);
  }
  return users.take();
}

}  // namespace virga::api
