#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "model/ipv4.h"
#include "server/api/rules.h"
#include "server/api/validate.h"

namespace virga::api {
namespace {

constexpr std::size_t kReasonsMax = 20;

Problem problem(Errc code, std::string text, std::vector<Reason> reasons = {}) {
  return Problem{make_error(code, std::move(text)), std::move(reasons), 0};
}

bool within(const ClusterSpec& cluster, std::uint32_t address) {
  return std::ranges::any_of(cluster.floating_ranges, [&](const std::string& text) {
    const auto range = parse_range(text);
    return range && address >= range->base && address <= range->broadcast();
  });
}

/// The lowest that nobody has.
Refusal choose_address(const RuleContext& context, const Cluster& cluster, FloatingAddress& after) {
  std::set<std::uint32_t> taken;
  if (context.tries.count > 2) taken = context.tries.addresses;
  for (const auto& [id, other] : context.view.floating_addresses.all())
    taken.insert(*parse_ipv4(other->spec.address));
  for (const std::string& text : cluster.spec.floating_ranges) {
    const Ipv4Subnet range = *parse_range(text);
    for (std::uint32_t left = range.size(), next = range.base; left > 0; --left, ++next) {
      if (taken.contains(next) || context.engine.claims().taken("floating", next)) continue;
      context.tries.addresses.insert(next);
      after.spec.address = ipv4_text(next);
      return std::nullopt;
    }
  }
  return problem(Errc::exhausted, fmt::format("spec.address: all addresses of cluster \"{}\"'s "
                                              "floating_ranges are in use",
                                              cluster.meta.name));
}

Refusal place_address(const RuleContext& context, FloatingAddress& after) {
  const auto cluster = fitting_cluster(context.view, after.meta.tenant, after.spec.cluster);
  if (!cluster.ok()) return Problem{cluster.error(), {}, 0};
  after.spec.cluster = (*cluster)->id();
  const std::string& wanted = after.spec.address;
  if ((*cluster)->spec.floating_ranges.empty()) {
    return problem(Errc::conflict,
                   fmt::format("spec.address: cluster \"{0}\" has no floating_ranges; an operator "
                               "gives it some: `virga cluster floating-ranges {0} --range "
                               "203.0.113.16/28`",
                               (*cluster)->meta.name));
  }
  if (wanted.empty()) return choose_address(context, **cluster, after);
  if (!within((*cluster)->spec, *parse_ipv4(wanted))) {
    return problem(
        Errc::invalid,
        fmt::format("spec.address: {} is not in cluster \"{}\"'s floating_ranges: {}", wanted,
                    (*cluster)->meta.name, fmt::join((*cluster)->spec.floating_ranges, ", ")));
  }
  for (const auto& [id, other] : context.view.floating_addresses.all()) {
    if (other->spec.address == wanted) {
      return problem(
          Errc::conflict,
          fmt::format("spec.address: {} is in use; leave it out and the server picks", wanted));
    }
  }
  return std::nullopt;
}

/// Who an address leads to, or shall.
struct Target {
  std::string field;  ///< "spec.vm"
  std::string name;   ///< "vm acme/web"
  ClusterId cluster;
  bool going = false;
  std::vector<std::string> networks;  ///< with a way out, by name
};

bool leads_out(const ClusterView& view, const std::string& tenant, const std::string& name) {
  const Network* network = view.networks.find(NetworkId(qualified(tenant, name)));
  return network != nullptr && network->spec.gateway == NetworkGateway::nat;
}

/// None when it is not there.
std::optional<Target> target_of(const ClusterView& view, const FloatingAddress& address) {
  const std::string& tenant = address.meta.tenant;
  Target found;
  if (address.spec.service.empty()) {
    const Vm* vm = view.vms.find(address.vm_id());
    if (vm == nullptr) return std::nullopt;
    found = {"spec.vm", "vm " + vm->id().value, vm->spec.cluster, vm->meta.deleting_at.has_value(),
             {}};
    for (const VmNic& nic : vm->spec.nics) {
      if (leads_out(view, tenant, nic.network)) found.networks.push_back(nic.network);
    }
    return found;
  }
  const Service* service = view.services.find(address.service_id());
  if (service == nullptr) return std::nullopt;
  found = {"spec.service", "service " + service->id().value, service->spec.cluster,
           service->meta.deleting_at.has_value(), {}};
  const std::string& network = service->spec.vm.network;
  if (leads_out(view, tenant, network)) found.networks.push_back(network);
  return found;
}

Refusal choose_network(const Target& target, std::string& network) {
  const auto& fitting = target.networks;
  if (!network.empty() && std::ranges::count(fitting, network) > 0) return std::nullopt;
  if (fitting.empty() || !network.empty()) {
    return problem(
        Errc::conflict,
        fmt::format("{}: {} is not on {} with `gateway: nat`{}",
                    network.empty() ? target.field : "spec.network", target.name,
                    network.empty() ? "a network" : "network \"" + network + "\"",
                    fitting.empty() ? "" : fmt::format("; it is on {}", fmt::join(fitting, ", "))));
  }
  if (fitting.size() > 1) {
    return problem(Errc::invalid,
                   fmt::format("spec.network: is empty and several fit: {}; name one",
                               fmt::join(fitting, ", ")));
  }
  network = fitting.front();
  return std::nullopt;
}

Refusal check_target(const ClusterView& view, FloatingAddress& after) {
  const auto target = target_of(view, after);
  if (!target) {
    const bool vm = after.spec.service.empty();
    return problem(Errc::not_found,
                   fmt::format("spec.{0}: tenant \"{1}\" has no {0} \"{2}\"", vm ? "vm" : "service",
                               after.meta.tenant, vm ? after.spec.vm : after.spec.service));
  }
  const std::string named = target->field + ": " + target->name;
  if (target->going) return problem(Errc::conflict, named + " is being deleted");
  if (target->cluster != after.spec.cluster) {
    return problem(Errc::conflict, fmt::format("{} is in cluster \"{}\", the address in \"{}\"",
                                               named, target->cluster.value,
                                               after.spec.cluster.value));
  }
  if (auto refused = choose_network(*target, after.spec.network)) return refused;
  const std::string place = keys::floating_of(after);
  for (const auto& [id, other] : view.floating_addresses.all()) {
    if (id == after.id() || keys::floating_of(*other) != place) continue;
    return problem(Errc::conflict,
                   fmt::format("{} has {} on network \"{}\" already: floating_address {}; one is "
                               "all it can have there",
                               named, other->spec.address, after.spec.network, id.value));
  }
  return std::nullopt;
}

}  // namespace

Refusal apply_rules(const RuleContext& context, const FloatingAddress* before,
                    FloatingAddress& after) {
  FloatingAddressSpec& spec = after.spec;
  // A network that was chosen for another is not asked for.
  const bool kept_network = before != nullptr && spec.network == before->spec.network;
  if (kept_network && keys::led_by(after) != keys::led_by(*before)) {
    const auto target = target_of(context.view, after);
    if (!target || std::ranges::count(target->networks, spec.network) == 0) spec.network.clear();
  }
  if (auto sound = check_floating_address(spec); !sound.ok()) return Problem{sound.error(), {}, 0};
  if (before == nullptr) {
    if (auto refused = place_address(context, after)) return refused;
  } else {
    if (spec.cluster.empty()) spec.cluster = before->spec.cluster;
    if (spec.address.empty()) spec.address = before->spec.address;
    if (spec.cluster != before->spec.cluster)
      return problem(Errc::invalid, "spec.cluster: never changes; make another floating address");
    if (spec.address != before->spec.address)
      return problem(Errc::invalid, "spec.address: never changes; make another floating address");
    const bool same_nic = keys::led_by(after) == keys::led_by(*before) &&
                          (spec.network.empty() || spec.network == before->spec.network);
    if (same_nic) {
      spec.network = before->spec.network;
      return std::nullopt;
    }
  }
  return after.leads() ? check_target(context.view, after) : std::nullopt;
}

Refusal add_companions(const RuleContext& context, const FloatingAddress* before,
                       const FloatingAddress& after, Change& change) {
  const std::string had = before == nullptr ? std::string() : keys::floating_of(*before);
  const std::string has = keys::floating_of(after);
  if (had != has && !had.empty()) change.writes.push_back({had, std::nullopt});
  if (had != has && !has.empty()) {
    change.guards.push_back({has, 0});
    change.writes.push_back({has, after.id().value});
    const Network* network = context.view.networks.find(after.network_id());
    VIRGA_CHECK(network != nullptr);  // it keeps its way out meanwhile
    change.guards.push_back({keys::of(network->id()), network->meta.revision});
  }
  if (before != nullptr) return std::nullopt;
  const std::string key = keys::floating(after.spec.address);
  change.claims = context.engine.claims().take("floating", *parse_ipv4(after.spec.address));
  change.guards.push_back({key, 0});
  change.writes.push_back({key, after.id().value});
  const Cluster* cluster = context.view.clusters.find(after.spec.cluster);
  VIRGA_CHECK(cluster != nullptr);
  change.guards.push_back({keys::of(cluster->id()), cluster->meta.revision});
  return std::nullopt;
}

Refusal check_floating(const ClusterView& view, const Cluster& after) {
  std::vector<Reason> outside;
  for (const auto& [id, address] : view.floating_addresses.all()) {
    const bool lost = address->spec.cluster == after.id() &&
                      !within(after.spec, *parse_ipv4(address->spec.address));
    if (lost && outside.size() < kReasonsMax)
      outside.push_back({"floating_address " + id.value, "has " + address->spec.address});
  }
  if (outside.empty()) return std::nullopt;
  return problem(Errc::conflict, "spec.floating_ranges: does not hold addresses that tenants have",
                 outside);
}

Refusal check_floating(const ClusterView& view, const Network& after) {
  if (after.spec.gateway == NetworkGateway::nat) return std::nullopt;
  std::vector<Reason> led;
  for (const auto& [id, address] : view.floating_addresses.all()) {
    const bool leads_here = address->leads() && address->network_id() == after.id();
    if (leads_here && led.size() < kReasonsMax)
      led.push_back({"floating_address " + id.value, "leads to " + keys::led_by(*address)});
  }
  if (led.empty()) return std::nullopt;
  return problem(Errc::conflict, "spec.gateway: only with `nat` do floating addresses lead here",
                 led);
}

std::vector<Reason> users_of(const ClusterView&, const FloatingAddress&) { return {}; }

}  // namespace virga::api
