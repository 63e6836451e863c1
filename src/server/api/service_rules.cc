#include <fmt/format.h>

#include <algorithm>

#include "arch/service_relocation/planner.h"
#include "edge/tls.h"
#include "edge/tls_context.h"
#include "mechanism/network/addresses.h"
#include "model/ipv4.h"
#include "server/api/rules.h"
#include "server/api/validate.h"

namespace virga::api {
namespace {

constexpr std::size_t kReasonsMax = 20;

Problem problem(Errc code, std::string text, std::vector<Reason> reasons = {}) {
  return Problem{make_error(code, std::move(text)), std::move(reasons), 0};
}

Refusal check_fixed(const Service& before, const Service& after) {
  const auto fixed = [](std::string_view field) {
    return problem(Errc::invalid, fmt::format("{}: never changes; make another service", field));
  };
  const ServiceSpec& had = before.spec;
  const ServiceSpec& has = after.spec;
  if (had.cluster != has.cluster) return fixed("spec.cluster");
  if (had.vm.network != has.vm.network) return fixed("spec.vm.network");
  if (had.vm.port != has.vm.port) return fixed("spec.vm.port");
  if (had.vm.pinned_host != has.vm.pinned_host) return fixed("spec.vm.pinned_host");
  if (had.vm.direct_io != has.vm.direct_io) return fixed("spec.vm.direct_io");
  if (had.frontend.address != has.frontend.address) return fixed("spec.frontend.address");
  if (had.frontend.port != has.frontend.port) return fixed("spec.frontend.port");
  return std::nullopt;
}

/// What is said of a VM's fields is said of the template's.
Refusal of_template(Refusal refused) {
  if (!refused) return refused;
  std::string& text = refused->error.what;
  for (const std::string_view from : {"spec.nics[0].", "spec."}) {
    if (!text.starts_with(from)) continue;
    text = "spec.vm." + text.substr(from.size());
    break;
  }
  return refused;
}

/// Its copies are VMs: what is asked of VMs is asked of them.
Refusal check_copies(const RuleContext& context, Service& after) {
  Vm copy = vm_of(after, {VmId(qualified(after.meta.tenant, after.meta.name + "-c1")),
                          after.spec.vm.pinned_host});
  copy.spec.service = ServiceId();
  if (auto refused = apply_rules(context, nullptr, copy)) return of_template(std::move(refused));
  after.spec.cluster = copy.spec.cluster;
  return std::nullopt;
}

Refusal check_address(const ClusterView& view, const Network& network, const std::string& text) {
  const auto wrong = [&](Errc code, std::string_view why) {
    return problem(code, fmt::format("spec.frontend.address: \"{}\" {}", text.substr(0, 80), why));
  };
  const auto address = parse_ipv4(text);
  const auto subnet = parse_subnet("spec.subnet", network.spec.subnet);
  const bool inside = address && text.find('/') == std::string::npos && subnet.ok() &&
                      *address > subnet->base && *address < subnet->broadcast();
  if (!inside) {
    return wrong(Errc::invalid,
                 "is no address of " + network.spec.subnet + "; leave it out and the server picks");
  }
  const bool reserved = reserved_addresses(network.spec).contains(ipv4_text(*address));
  if (reserved || view.addresses_on(network.id()).contains(*address))
    return wrong(Errc::conflict, "is in use; see `virga port list`");
  return std::nullopt;
}

const Network* network_of(const ClusterView& view, const Service& service) {
  return view.networks.find(NetworkId(qualified(service.meta.tenant, service.spec.vm.network)));
}

/// One that no other decision under way has taken.
Result<std::uint32_t> pick_address(const RuleContext& context, const Network& network,
                                   std::uint32_t not_this = 0) {
  const bool again = context.tries.count > 2;  // its key exists although the view shows it free
  auto free = free_address(context.view, network, [&](std::uint32_t candidate) {
    return candidate == not_this || (again && context.tries.addresses.contains(candidate)) ||
           context.engine.claims().taken(network.id().value, candidate);
  });
  if (free.ok()) context.tries.addresses.insert(*free);
  return free;
}

Port port_of(const RuleContext& context, const Service& service, const Network& network,
             const PortId& id, std::uint32_t address) {
  Port port = make_port(network, address, {});
  port.meta.name = id.value.substr(service.meta.tenant.size() + 1);
  port.meta.tenant = service.meta.tenant;
  port.meta.created_at = context.engine.context().loop.wall_now();
  port.meta.correlation = context.call.correlation;
  port.spec.service = service.id();
  return port;
}

/// The copy that costs least to move comes first: the newest that serves.
const ServiceCopy* any_serving(const Service& service) {
  const auto& copies = service.status.copies;
  const auto found = std::find_if(copies.rbegin(), copies.rend(), [](const ServiceCopy& copy) {
    return copy.state == ServiceCopyState::serving;
  });
  return found == copies.rend() ? nullptr : &*found;
}

}  // namespace

/// Nobody reads the certificate back: left empty, it stays. Without TLS there is none.
Refusal check_certificate(const RuleContext& context, const Service* before, Service& after) {
  constexpr std::size_t kCertificateMax = 32 << 10;
  ServiceFrontend& frontend = after.spec.frontend;
  const auto wrong = [](const std::string& why) {
    return problem(Errc::invalid, "spec.frontend.certificate: " + why);
  };
  const std::string known = before == nullptr ? "" : before->spec.frontend.certificate;
  if (!frontend.tls) {
    if (!frontend.certificate.empty() && frontend.certificate != known)
      return wrong("is shown by TLS only; set spec.frontend.tls as well");
    frontend.certificate.clear();
    return std::nullopt;
  }
  if (frontend.certificate.empty()) frontend.certificate = known;
  const std::string& pem = frontend.certificate;
  if (pem.empty()) return wrong("is missing: PEM of the certificate, its chain and private key");
  if (pem == known) return std::nullopt;
  if (pem.size() > kCertificateMax)
    return wrong(fmt::format("{} bytes are too many: at most {}", pem.size(), kCertificateMax));
  const auto usable = make_tls_context({pem, pem, ""}, TlsSide::server, false);
  if (!usable.ok()) return wrong(usable.error().what);
  if (const auto name = name_of(pem); !name.ok()) return wrong(name.error().what);
  const auto life = life_of(pem);
  if (!life.ok()) return wrong(life.error().what);
  const WallTime now = context.engine.context().loop.wall_now();
  if (life->ends < now) return wrong("has ended at " + to_string(life->ends));
  return std::nullopt;
}

Refusal apply_rules(const RuleContext& context, const Service* before, Service& after) {
  const ClusterView& view = context.view;
  if (before != nullptr) {
    if (after.spec.cluster.empty()) after.spec.cluster = before->spec.cluster;
    if (after.spec.frontend.address.empty())
      after.spec.frontend.address = before->spec.frontend.address;
    after.spec.relocate = before->spec.relocate;
    after.spec.weigh = before->spec.weigh;
  } else if (after.spec.relocate || after.spec.weigh) {
    return problem(Errc::invalid,
                   "spec.relocate, spec.weigh: are set by POST .../relocate and .../weigh only");
  }
  if (auto sound = check_service(after.meta, after.spec); !sound.ok())
    return Problem{sound.error(), {}, 0};
  if (auto refused = check_copies(context, after)) return refused;
  if (auto refused = check_certificate(context, before, after)) return refused;
  if (before != nullptr) return check_fixed(*before, after);
  const Network* network = network_of(view, after);
  VIRGA_CHECK(network != nullptr);
  std::string& address = after.spec.frontend.address;
  if (!address.empty()) return check_address(view, *network, address);
  const auto free = pick_address(context, *network);
  if (!free.ok()) return Problem{free.error(), {}, 0};
  address = ipv4_text(*free);
  return std::nullopt;
}

/// The ports of the frontend and, once it promises something, of its monitor; what copies rest on.
Refusal add_companions(const RuleContext& context, const Service* before, const Service& after,
                       Change& change) {
  const ClusterView& view = context.view;
  const bool asked = after.spec.objective.availability_ppm > 0 &&
                     view.ports.find(after.monitor_port_id()) == nullptr;
  if (before != nullptr && !asked) return std::nullopt;
  const Network* network = network_of(view, after);
  const Cluster* cluster = view.clusters.find(after.spec.cluster);
  const Image* image = view.images.find(after.spec.vm.image);
  VIRGA_CHECK(network != nullptr && cluster != nullptr && image != nullptr);
  const auto frontend = parse_ipv4(after.spec.frontend.address);
  VIRGA_CHECK(frontend.has_value());
  auto claims = std::make_shared<std::vector<std::shared_ptr<void>>>();
  const auto add = [&](const PortId& id, std::uint32_t address) {
    const Port port = port_of(context, after, *network, id, address);
    const std::string key = keys::address(network->id(), port.spec.address);
    change.guards.push_back({keys::of(id), 0});
    change.writes.push_back({keys::of(id), to_json_text(port)});
    change.guards.push_back({key, 0});
    change.writes.push_back({key, id.value});
    claims->push_back(context.engine.claims().take(network->id().value, address));
  };
  if (before == nullptr) add(after.port_id(), *frontend);
  if (asked) {
    const auto monitor = pick_address(context, *network, *frontend);
    if (!monitor.ok())
      return Problem{wrap_error("spec.objective: its monitor", monitor.error()), {}, 0};
    add(after.monitor_port_id(), *monitor);
  }
  change.guards.push_back({keys::of(network->id()), network->meta.revision});
  change.guards.push_back({keys::of(cluster->id()), cluster->meta.revision});
  change.guards.push_back({keys::of(image->id()), image->meta.revision});
  change.claims = claims;
  return std::nullopt;
}

Refusal check_relocation(const ClusterView& view, const Service& service, RelocationOrder& order) {
  if (service.spec.relocate || service.status.relocation) {
    return problem(Errc::conflict, fmt::format("service {} is being relocated; one copy at a time",
                                               service.id().value));
  }
  const ServiceCopy* any = any_serving(service);
  if (order.copy.empty() && any != nullptr)
    order.copy = any->vm.value.substr(service.meta.tenant.size() + 1);
  const VmId id(qualified(service.meta.tenant, order.copy));
  const ServiceCopy* copy = service.find_copy(id);
  const Vm* vm = view.vms.find(id);
  if (copy == nullptr || vm == nullptr || copy->state != ServiceCopyState::serving) {
    std::vector<Reason> copies;
    for (const ServiceCopy& one : service.status.copies) {
      if (copies.size() < kReasonsMax)
        copies.push_back({"vm " + one.vm.value, std::string(enum_name(one.state))});
    }
    return problem(Errc::not_found,
                   fmt::format("copy: \"{}\" is no copy of service {} that serves",
                               order.copy.substr(0, 80), service.id().value),
                   copies);
  }
  if (holds_host_device(vm->spec)) {
    return problem(Errc::unsupported,
                   fmt::format("spec.vm.direct_io: {} holds a device of {}: it is locked to that "
                               "host",
                               id.value, vm->status.host.value));
  }
  if (order.for_ms < Duration{} || order.for_ms > std::chrono::hours(24 * 366))
    return problem(Errc::invalid, "for_ms: 0 = it stays there, at most a year of milliseconds");
  if (order.host.empty()) return std::nullopt;
  const Host* host = view.hosts.find(order.host);
  if (host == nullptr || host->spec.cluster != service.spec.cluster) {
    return problem(Errc::not_found,
                   fmt::format("host: \"{}\" is no host of cluster \"{}\"",
                               order.host.value.substr(0, 80), service.spec.cluster.value));
  }
  if (order.host == vm->status.host) {
    return problem(Errc::conflict,
                   fmt::format("host: {} is on \"{}\" already", id.value, order.host.value));
  }
  return std::nullopt;
}

Refusal check_weight(const Service& service, const WeightOrder& order) {
  constexpr int kWeightMax = 256;  // of HAProxy; 0 would be a drain
  if (order.weight < 1 || order.weight > kWeightMax) {
    return problem(Errc::invalid,
                   fmt::format("weight: {} is out of range: 1 to {}", order.weight, kWeightMax));
  }
  std::vector<Reason> copies;
  for (const ServiceCopy& one : service.status.copies) {
    const std::string name = one.vm.value.substr(service.meta.tenant.size() + 1);
    if (name == order.copy && one.state != ServiceCopyState::retired) return std::nullopt;
    if (copies.size() < kReasonsMax)
      copies.push_back({"copy " + name, std::string(enum_name(one.state))});
  }
  return problem(Errc::not_found,
                 fmt::format("copy: \"{}\" is no copy of service {}", order.copy.substr(0, 80),
                             service.id().value),
                 copies);
}

std::vector<Reason> users_of(const ClusterView&, const Service&) { return {}; }

}  // namespace virga::api
