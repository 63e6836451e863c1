#include "server/core/gateways.h"

#include "mechanism/network/addresses.h"
#include "model/keys.h"

namespace virga {
namespace {

std::string_view below(std::string_view key, std::string_view kind) {
  return key.starts_with(kind) ? key.substr(kind.size()) : std::string_view();
}

}  // namespace

/// Of no network when it is neither a VM's nor a service's frontend. A frontend makes its hosts
/// carriers and is no member: a balancer has its address without asking.
NetworkGateways::KnownPort NetworkGateways::look_at(const PortId& id) const {
  KnownPort seen;
  const Port* port = view_.ports.find(id);
  const Network* network = port == nullptr ? nullptr : view_.networks.find(port->spec.network);
  const Service* service = network == nullptr ? nullptr : view_.services.find(port->spec.service);
  if (service != nullptr && service->port_id() == id) {
    seen.network = network->id();
    seen.member = {network->spec.vni, id.value, "", "", ""};
    for (const HostId& host : {service->status.balancer, service->status.balancer_next}) {
      if (!host.empty()) seen.hosts.insert(host);
    }
    return seen;
  }
  const Vm* vm = network == nullptr ? nullptr : view_.vms.find(port->spec.vm);
  if (vm == nullptr) return seen;
  const std::string& address = port->spec.address;
  seen.network = network->id();
  seen.member = {network->spec.vni, id.value, port->spec.mac, address.substr(0, address.find('/')),
                 vm->meta.name};
  for (const HostId& host : {vm->status.host, vm->status.migration.destination}) {
    if (!host.empty()) seen.hosts.insert(host);
  }
  return seen;
}

GatewayNetwork NetworkGateways::gateway_of(const NetworkId& id) const {
  const Network* network = view_.networks.find(id);
  if (network == nullptr) return {};
  return {network->spec.vni, gateway_address(network->spec), network->domain(), network->spec.mtu,
          network->spec.gateway == NetworkGateway::nat};
}

void NetworkGateways::leave(const PortId& id, AllNews& news) {
  const auto found = ports_.find(id);
  if (found == ports_.end()) return;
  const KnownPort& before = found->second;
  KnownNetwork& network = networks_[before.network];
  network.ports.erase(id);
  News& told = news[before.network];
  if (!before.member.address.empty())
    told.members[id] = {before.member.vni, id.value, "", "", ""};
  for (const HostId& host : before.hosts) {
    told.carried.try_emplace(host, true);
    if (--network.carriers[host] == 0) network.carriers.erase(host);
  }
  ports_.erase(found);
}

void NetworkGateways::enter(const PortId& id, AllNews& news) {
  KnownPort now = look_at(id);
  const auto found = ports_.find(id);
  const KnownPort before = found == ports_.end() ? KnownPort() : found->second;
  if (before == now) return;
  leave(id, news);
  if (now.network.empty()) return;
  KnownNetwork& network = networks_[now.network];
  News& told = news[now.network];
  if (before.network == now.network && before.member == now.member) {
    told.members.erase(id);
  } else if (!now.member.address.empty()) {
    told.members[id] = now.member;
  }
  network.ports.insert(id);
  for (const HostId& host : now.hosts) {
    told.carried.try_emplace(host, network.carriers.contains(host));
    ++network.carriers[host];
  }
  ports_[id] = std::move(now);
}

void NetworkGateways::enter_network(const NetworkId& id, AllNews& news) {
  GatewayNetwork now = gateway_of(id);
  KnownNetwork& known = networks_[id];
  if (known.gateway == now) return;
  if (now.vni == 0) now.vni = known.gateway.vni;  // deleted
  if (!known.gateway.address.empty() || !now.address.empty()) news[id].whole = true;
  known.gateway = std::move(now);
}

void NetworkGateways::load() {
  ports_.clear();
  networks_.clear();
  AllNews ignored;
  for (const auto& [id, network] : view_.networks.all()) enter_network(id, ignored);
  for (const auto& [id, port] : view_.ports.all()) enter(id, ignored);
}

void NetworkGateways::changed(const std::vector<Change>& changes) {
  std::set<PortId> ports;
  std::set<NetworkId> networks;
  for (const Change& change : changes) {
    const std::string_view key = change.entry.key;
    if (const auto port = below(key, keys::kPort); !port.empty())
      ports.insert(PortId(std::string(port)));
    if (const auto network = below(key, keys::kNetwork); !network.empty())
      networks.insert(NetworkId(std::string(network)));
    const auto named = below(key, keys::kService);  // one that goes takes its port along
    const Service* service =
        named.empty() ? nullptr : view_.services.find(ServiceId(std::string(named)));
    if (service != nullptr) ports.insert(service->port_id());
    const auto vm = below(key, keys::kVm);
    if (vm.empty()) continue;
    for (const Port* port : view_.ports_of(VmId(std::string(vm)))) ports.insert(port->id());
  }
  AllNews news;
  for (const NetworkId& id : networks) enter_network(id, news);
  for (const PortId& id : ports) enter(id, news);
  tell(news);
  for (const NetworkId& id : networks) {
    if (view_.networks.find(id) == nullptr && networks_[id].ports.empty()) networks_.erase(id);
  }
}

void NetworkGateways::add_all(const KnownNetwork& network, FabricGateways& told) const {
  told.networks.push_back(network.gateway);
  for (const PortId& id : network.ports) {
    const GatewayMember& member = ports_.at(id).member;
    if (!member.address.empty()) told.members.push_back(member);
  }
}

void NetworkGateways::tell(const AllNews& news) {
  std::map<HostId, FabricGateways> messages;
  for (const auto& [id, of_network] : news) {
    const KnownNetwork& network = networks_[id];
    const bool has_gateway = !network.gateway.address.empty();
    if (!has_gateway && !of_network.whole) continue;
    const auto carried_before = [&network, &carried = of_network.carried](const HostId& host) {
      const auto found = carried.find(host);
      return found == carried.end() ? network.carriers.contains(host) : found->second;
    };
    for (const auto& [host, ports] : network.carriers) {
      FabricGateways& told = messages[host];
      if (!has_gateway) {
        told.gone.push_back(network.gateway.vni);
      } else if (of_network.whole || !carried_before(host)) {
        add_all(network, told);
      } else {
        for (const auto& [port, member] : of_network.members) told.members.push_back(member);
      }
    }
    for (const auto& [host, before] : of_network.carried) {
      if (before && !network.carriers.contains(host))
        messages[host].gone.push_back(network.gateway.vni);
    }
  }
  for (const auto& [host, told] : messages) {
    if (!told.networks.empty() || !told.gone.empty() || !told.members.empty()) tell_(host, told);
  }
}

void NetworkGateways::connected(const HostId& host) {
  const Host* stored = view_.hosts.find(host);
  if (stored == nullptr || view_.networks_of(stored->spec.cluster).empty()) return;
  FabricGateways told;
  told.whole = true;
  for (const Network* network : view_.networks_of(stored->spec.cluster)) {
    const auto found = networks_.find(network->id());
    const bool wanted = found != networks_.end() && found->second.carriers.contains(host) &&
                        !found->second.gateway.address.empty();
    if (wanted) add_all(found->second, told);
  }
  tell_(host, told);
}

}  // namespace virga
