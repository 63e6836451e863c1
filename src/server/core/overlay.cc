#include "server/core/overlay.h"

#include <algorithm>

#include "model/keys.h"

namespace virga {
namespace {

std::string_view below(std::string_view key, std::string_view kind) {
  return key.starts_with(kind) ? key.substr(kind.size()) : std::string_view();
}

HostId host_in_charge(const VmStatus& status) {
  return status.migration.phase == MigrationPhase::switching ? status.migration.destination
                                                             : status.host;
}

}  // namespace

void Overlay::add_port(const Port& port, const HostId& at, OverlaySubject& seen) const {
  const Network* network = view_.networks.find(port.spec.network);
  if (network == nullptr) return;
  const std::string& address = port.spec.address;
  const FloatingAddress* floating = view_.floating_of(port);
  seen.ports.push_back({network->spec.vni, port.spec.mac, address.substr(0, address.find('/')), at,
                        "", floating == nullptr ? std::string() : floating->spec.address});
}

void Overlay::look_at_vm(const VmId& id, OverlaySubject& seen) const {
  const Vm* vm = view_.vms.find(id);
  if (vm == nullptr) return;
  for (const Port* port : view_.ports_of(id)) add_port(*port, host_in_charge(vm->status), seen);
  for (const HostId& host : {vm->status.host, vm->status.migration.destination}) {
    if (!host.empty()) seen.carriers.insert(host);
  }
}

void Overlay::look_at_service(const ServiceId& id, OverlaySubject& seen) const {
  const Service* service = view_.services.find(id);
  const Port* port = service == nullptr ? nullptr : view_.ports.find(service->port_id());
  if (port == nullptr) return;
  const ServiceStatus& status = service->status;
  add_port(*port, status.balancer, seen);
  const Port* monitor = view_.ports.find(service->monitor_port_id());
  if (monitor != nullptr) add_port(*monitor, status.monitor, seen);
  for (const HostId& host : {status.balancer, status.balancer_next, status.monitor}) {
    if (!host.empty()) seen.carriers.insert(host);
  }
}

Overlay::OverlaySubject Overlay::look_at(const std::string& key) const {
  OverlaySubject seen;
  if (const auto vm = below(key, keys::kVm); !vm.empty()) look_at_vm(VmId(std::string(vm)), seen);
  if (const auto service = below(key, keys::kService); !service.empty())
    look_at_service(ServiceId(std::string(service)), seen);
  return seen;
}

void Overlay::enter(const std::string& key, OverlaySubject now,
                    std::map<std::uint32_t, News>& news) {
  OverlaySubject& before = subjects_[key];
  if (before == now) return;
  std::set<std::uint32_t> joined;  // networks that it was on
  for (const OverlayPort& port : before.ports) {
    OverlayNetwork& network = networks_[port.vni];
    joined.insert(port.vni);
    network.ports.erase(port.mac);
    news[port.vni].changed[port.mac] = {port.vni, port.mac, port.address, HostId(), ""};
    for (const HostId& host : before.carriers) {
      if (--network.carriers[host] == 0) network.carriers.erase(host);
    }
  }
  for (const OverlayPort& port : now.ports) {
    OverlayNetwork& network = networks_[port.vni];
    network.ports[port.mac] = port;
    const bool stays =
        std::find(before.ports.begin(), before.ports.end(), port) != before.ports.end();
    if (stays) {
      news[port.vni].changed.erase(port.mac);
    } else {
      news[port.vni].changed[port.mac] = port;
    }
    for (const HostId& host : now.carriers) {
      const bool carried = joined.contains(port.vni) && before.carriers.contains(host);
      if (++network.carriers[host] == 1 && !carried) news[port.vni].begins.insert(host);
    }
  }
  before = std::move(now);
  if (before.ports.empty()) subjects_.erase(key);
}

void Overlay::enter_outside(const Network& network, std::map<std::uint32_t, News>& news) {
  const std::uint32_t vni = network.spec.vni;
  std::vector<OverlayPort> now;
  for (const OutsidePort& port : network.spec.outside)
    now.push_back({vni, port.mac, port.address, HostId(), port.tunnel_address});
  std::vector<OverlayPort>& before = outside_[vni];
  if (before == now) return;
  for (const OverlayPort& port : before) {
    networks_[vni].ports.erase(port.mac);
    news[vni].changed[port.mac] = {vni, port.mac, port.address, HostId(), ""};
  }
  for (const OverlayPort& port : now) {
    networks_[vni].ports[port.mac] = port;
    news[vni].changed[port.mac] = port;
  }
  before = std::move(now);
}

void Overlay::load() {
  subjects_.clear();
  networks_.clear();
  outside_.clear();
  std::map<std::uint32_t, News> ignored;
  for (const auto& [id, network] : view_.networks.all()) enter_outside(*network, ignored);
  for (const auto& [id, vm] : view_.vms.all()) enter(keys::of(id), look_at(keys::of(id)), ignored);
  for (const auto& [id, service] : view_.services.all()) {
    enter(keys::of(id), look_at(keys::of(id)), ignored);
  }
  for (const auto& [id, host] : view_.hosts.all()) addresses_[id] = host->status.tenant_address;
  floating_.clear();
  for (const auto& [id, address] : view_.floating_addresses.all())
    floating_[id] = keys::led_by(*address);
}

/// Who it led to and who it leads to look different now.
void Overlay::enter_floating(const FloatingAddressId& id, std::set<std::string>& affected) {
  const FloatingAddress* now = view_.floating_addresses.find(id);
  std::string& led_to = floating_[id];
  if (!led_to.empty()) affected.insert(led_to);
  led_to = now == nullptr ? std::string() : keys::led_by(*now);
  if (!led_to.empty()) affected.insert(led_to);
  if (now == nullptr) floating_.erase(id);
}

bool Overlay::leads_elsewhere(const std::vector<Change>& changes) const {
  return std::ranges::any_of(changes, [this](const Change& change) {
    const auto known = subjects_.find(change.entry.key);
    if (known == subjects_.end()) return false;
    const std::vector<OverlayPort>& before = known->second.ports;
    return std::ranges::any_of(look_at(change.entry.key).ports, [&before](const OverlayPort& now) {
      const auto was = std::ranges::find(before, now.mac, &OverlayPort::mac);
      return was != before.end() && !was->at.empty() && !now.at.empty() && was->at != now.at;
    });
  });
}

void Overlay::changed(const std::vector<Change>& changes) {
  std::set<std::string> affected;
  std::map<std::uint32_t, News> news;
  for (const Change& change : changes) {
    const std::string_view key = change.entry.key;
    if (key.starts_with(keys::kVm) || key.starts_with(keys::kService)) {
      affected.insert(std::string(key));
    }
    if (const auto port = below(key, keys::kPort); !port.empty()) {
      const std::string owner(port.substr(0, port.rfind('-')));
      affected.insert(keys::of(VmId(owner)));
      affected.insert(keys::of(ServiceId(owner)));
    }
    if (const auto floating = below(key, keys::kFloatingAddress); !floating.empty())
      enter_floating(FloatingAddressId(std::string(floating)), affected);
    const auto named = below(key, keys::kNetwork);
    const Network* network =
        named.empty() ? nullptr : view_.networks.find(NetworkId(std::string(named)));
    if (network != nullptr) enter_outside(*network, news);
    const auto host = below(key, keys::kHost);
    const Host* stored = host.empty() ? nullptr : view_.hosts.find(HostId(std::string(host)));
    if (stored == nullptr || addresses_[stored->id()] == stored->status.tenant_address) continue;
    addresses_[stored->id()] = stored->status.tenant_address;
    for (const auto& [vni, known] : networks_) {
      for (const auto& [mac, port] : known.ports) {
        if (port.at == stored->id()) news[vni].changed[mac] = port;
      }
    }
  }
  for (const std::string& key : affected) enter(key, look_at(key), news);
  tell(news);
}

void Overlay::tell(const std::map<std::uint32_t, News>& news) const {
  std::map<HostId, FabricPlaces> messages;
  for (const auto& [vni, of_network] : news) {
    const auto network = networks_.find(vni);
    if (network == networks_.end()) continue;
    for (const auto& [host, ports] : network->second.carriers) {
      FabricPlaces& places = messages[host];
      if (of_network.begins.contains(host)) {
        add_all(vni, places);
        continue;
      }
      for (const auto& [mac, port] : of_network.changed) places.at.push_back(place_of(port));
    }
  }
  for (const auto& [host, places] : messages) {
    if (!places.whole.empty() || !places.at.empty()) tell_(host, places);
  }
}

void Overlay::connected(const HostId& host) {
  const Host* stored = view_.hosts.find(host);
  if (stored == nullptr) return;
  FabricPlaces places;
  for (const Network* network : view_.networks_of(stored->spec.cluster)) {
    const auto found = networks_.find(network->spec.vni);
    const bool carried = found != networks_.end() && found->second.carriers.contains(host);
    if (carried) {
      add_all(network->spec.vni, places);
    } else {
      places.whole.push_back(network->spec.vni);
    }
  }
  if (!places.whole.empty()) tell_(host, places);
}

void Overlay::add_all(std::uint32_t vni, FabricPlaces& places) const {
  places.whole.push_back(vni);
  for (const auto& [mac, port] : networks_.at(vni).ports) {
    if (!port.at.empty() || !port.tunnel.empty()) places.at.push_back(place_of(port));
  }
}

PortPlace Overlay::place_of(const OverlayPort& port) const {
  if (!port.tunnel.empty()) return {port.vni, port.mac, port.address, port.tunnel};
  const auto address = addresses_.find(port.at);
  return {port.vni, port.mac, port.address,
          address == addresses_.end() ? std::string() : address->second, port.floating};
}

}  // namespace virga
