#include <arpa/inet.h>
#include <fmt/format.h>

#include "driver/net/balancer_leg.h"
#include "driver/net/cable.h"
#include "driver/net/keep_first.h"
#include "driver/net/linux_fabric.h"

/// Gateways of networks on this host, and the floating addresses that they lead to its ports.
namespace virga {
namespace {

constexpr int kAnnouncements = 2;  // after the first
constexpr Duration kAnnounceAfter = seconds(1);

}  // namespace

/// What it may send is said before it is joined to the network, what may pass before it leads out.
Result<void> LinuxFabric::make_gateway(const GatewayNetwork& network) {
  const std::string what = fmt::format("open the gateway of VNI {}", network.vni);
  const auto leg = gateway_leg(network);
  if (!leg) return leg.error();
  const auto bridge = link(bridge_name(network.vni));
  if (!bridge) return wrap_error(what + ": the network is not on this host", bridge.error());
  const bool leads_out = network.nat && way_out_.offered();
  const std::string device = gateway_name(network.vni);
  if (auto done = filter_.set_gateway(device, network, leads_out); !done)
    return wrap_error(what, done.error());
  auto space = ensure_network_namespace(gateway_namespace(network.vni));
  if (!space) return wrap_error(what, space.error());
  FloatingGuests floating;
  if (leads_out) {
    const auto wanted = wanted_floating(network.vni);
    floating = wanted ? *wanted : present_floating(space->get());
  }
  Result<void> done = guard_gateway(space->get(), network, leads_out, floating);
  if (done) done = ensure_leg(socket_, device, space->get(), *leg);
  if (done) done = finish_link(device, network.mtu, bridge->index);
  if (done) {
    done = leads_out ? way_out_.join(network.vni, space->get()) : way_out_.part(network.vni);
  }
  leading_.erase(network.vni);
  if (done && leads_out) {
    leading_[network.vni].network = network;
    done = lead_floating(network.vni, floating);
  }
  return done ? done : wrap_error(what, done.error());
}

Result<void> LinuxFabric::remove_gateway(std::uint32_t vni) {
  leading_.erase(vni);
  auto removed = way_out_.part(vni);
  const std::string device = gateway_name(vni);
  keep_first(removed, remove_link(device));
  keep_first(removed, filter_.forget(device));
  keep_first(removed, remove_network_namespace(gateway_namespace(vni)));
  return removed;
}

/// None while nothing was told of the network: what an earlier agent has made stays.
std::optional<FloatingGuests> LinuxFabric::wanted_floating(std::uint32_t vni) const {
  const auto told = places_.find(vni);
  if (told == places_.end()) return std::nullopt;
  FloatingGuests wanted;
  const auto here = present_.find(vni);
  if (here == present_.end()) return wanted;
  for (const auto& [mac, place] : told->second) {
    if (place.floating == 0 || place.host != local_ || !here->second.contains(mac)) continue;
    std::uint32_t guest = 0;
    place.address.copy(reinterpret_cast<char*>(&guest), sizeof guest);
    wanted[place.floating] = ntohl(guest);
  }
  return wanted;
}

Result<void> LinuxFabric::ensure_floating(std::uint32_t vni) {
  const auto leading = leading_.find(vni);
  const auto wanted = wanted_floating(vni);
  if (leading == leading_.end() || !wanted || leading->second.floating == wanted) return {};
  leading->second.floating.reset();
  const auto space = ensure_network_namespace(gateway_namespace(vni));
  if (!space) return space.error();
  auto done = guard_gateway(space->get(), leading->second.network, true, *wanted);
  return done ? lead_floating(vni, *wanted) : done;
}

Result<void> LinuxFabric::lead_floating(std::uint32_t vni, const FloatingGuests& floating) {
  std::set<std::uint32_t> addresses;
  for (const auto& [address, guest] : floating) addresses.insert(address);
  const auto begun = way_out_.lead(vni, addresses);
  if (!begun) return begun.error();
  if (*begun) announcements_ = kAnnouncements;
  leading_[vni].floating = floating;
  return {};
}

/// Of calls after which floating addresses may be here that were not.
Callback<void> LinuxFabric::then_announce(Callback<void> done) {
  return [this, done = std::move(done), alive = std::weak_ptr(alive_)](Result<void> result) {
    if (!alive.expired()) announce_later();
    done(std::move(result));
  };
}

void LinuxFabric::announce_later() {
  if (announcements_ == 0) return;
  announcing_.set_after(kAnnounceAfter, [this] {
    if (announcements_.fetch_sub(1) <= 0) return;
    worker_.run<void>([this] { return way_out_.announce(); }, then_announce([](Result<void>) {}));
  });
}

}  // namespace virga
