#include "sim/drivers.h"

#include <fmt/format.h>

#include <algorithm>

namespace virga::sim {
namespace {

constexpr Duration kLeashAnswer = seconds(2);
constexpr Duration kBmcAnswer = milliseconds(120);
constexpr Duration kBmcSlow = seconds(4);
constexpr Duration kBmcAskMax = seconds(5);
constexpr Duration kBmcSwitchMax = seconds(15);
constexpr Duration kPowerOff = milliseconds(400);

}  // namespace

Leash::Leash(World& world, HostTruth& host)
    : world_(world),
      host_(host),
      process_(world.loop()),
      core_(process_, [this](const std::string& name) { kill(name); }) {}

void Leash::guard(const std::string& name, std::uint64_t serial) {
  serials_[name] = serial;
  static_cast<void>(core_.guard(name));
}

void Leash::kill(const std::string& name) {
  const std::uint64_t serial = serials_[name];
  HostTruth* host = nullptr;
  if (const Copy* copy = world_.find_copy(serial, &host); copy != nullptr && host == &host_) {
    world_.end_copy(host_, VmId(copy->vm), "killed by the leash");
  }
  core_.release(name);
}

void Leash::set_frozen(bool frozen) {
  if (frozen && !process_.frozen()) frozen_since_ = world_.loop().now();
  frozen ? process_.freeze() : process_.thaw();
}

bool Leash::answers() const {
  return !process_.frozen() || world_.loop().now() - frozen_since_ < kLeashAnswer;
}

/// Speaks to the leash in the leash's own time: a message waits while that process stands still.
template <typename What>
void GuardClient::tell(What what) {
  Leash* leash = leash_();
  if (leash == nullptr) return;
  world_loop_.at_in(leash->process().group(), world_loop_.now(),
                    [leash, what = std::move(what)] { what(*leash); });
}

Result<void> GuardClient::guard(const std::string& name, int pidfd) {
  Leash* leash = leash_();
  if (leash == nullptr || leash->process().frozen()) {
    return make_error(Errc::unavailable, fmt::format("guard \"{}\": no leash answers", name));
  }
  guarded_[name] = pidfd;
  tell([name, pidfd](Leash& there) { there.guard(name, static_cast<std::uint64_t>(pidfd)); });
  return {};
}

void GuardClient::release(const std::string& name) {
  guarded_.erase(name);
  tell([name](Leash& there) { there.core().release(name); });
}

Instant GuardClient::held_until() const {
  Leash* leash = leash_();
  return leash == nullptr ? Instant() : leash->core().deadline();
}

void GuardClient::extend(Instant deadline, Duration) {
  if (deadline <= deadline_) return;
  deadline_ = deadline;
  tell([deadline](Leash& there) { there.core().extend(deadline); });
}

bool GuardClient::armed() const {
  const Leash* leash = leash_();
  return leash != nullptr && leash->answers();
}

void GuardClient::leash_started() {
  tell([deadline = deadline_, guarded = guarded_](Leash& there) {
    there.core().extend(deadline);
    for (const auto& [name, pidfd] : guarded) {
      there.guard(name, static_cast<std::uint64_t>(pidfd));
    }
  });
}

void SimFabric::apply(const FabricState& state, Callback<void> done) {
  if (state.version >= there_.state.version) there_.state = state;
  answer<void>(agent_, std::move(done), {});
}

void SimFabric::place(const FabricPlaces& places, Callback<void> done) {
  ++there_.placings;
  for (const std::uint32_t vni : places.whole) {
    there_.places[vni].clear();
    there_.addresses[vni].clear();
    there_.floating[vni].clear();
  }
  for (const PortPlace& port : places.at) {
    there_.floating[port.vni][port.mac] = port.floating;
    if (port.host_address.empty()) {
      there_.places[port.vni].erase(port.mac);
      there_.addresses[port.vni].erase(port.address);
    } else {
      there_.places[port.vni][port.mac] = port.host_address;
      there_.addresses[port.vni][port.address] = port.host_address;
    }
  }
  answer<void>(agent_, std::move(done), {});
}

void SimFabric::guard(const FabricGroups& groups, Callback<void> done) {
  if (groups.whole) there_.groups.clear();
  for (const PortGroups& port : groups.ports) there_.groups[port.port] = port.groups;
  answer<void>(agent_, std::move(done), {});
}

void SimFabric::open_port(const LaunchNic& nic, Callback<OpenPort> done) {
  answer<OpenPort>(agent_, std::move(done), OpenPort{-1, nic.port});
}

void SimFabric::inspect_port(const LaunchNic& nic, Callback<void> done) {
  const auto there = check_network("inspect port " + nic.port, nic.vni);
  answer<void>(agent_, std::move(done),
               there ? there : make_error(Errc::conflict, there.error().what));
}

void SimFabric::close_port(const LaunchNic&, Callback<void> done) {
  answer<void>(agent_, std::move(done), {});
}

Result<void> SimFabric::check_network(const std::string& what, std::uint32_t vni) const {
  const auto& networks = there_.state.networks;
  const bool here = std::any_of(networks.begin(), networks.end(),
                                [vni](const Network& network) { return network.spec.vni == vni; });
  if (here) return {};
  return make_error(Errc::not_found, fmt::format("open {} on VNI {}: the network is not on this "
                                                 "host",
                                                 what, vni));
}

void SimFabric::open_leg(const ServiceId& service, const BalancerLeg& leg, Callback<void> done) {
  auto here = check_network("the leg of " + service.value, leg.vni);
  if (here) there_.legs[service] = leg;
  answer<void>(agent_, std::move(done), std::move(here));
}

void SimFabric::visit(const std::string& visitor, const BalancerLeg& leg,
                      Callback<std::shared_ptr<const int>> done) {
  using Held = std::shared_ptr<const int>;
  auto here = check_network("the leg of " + visitor, leg.vni);
  answer<Held>(agent_, std::move(done),
               here ? Result<Held>(std::make_shared<const int>(-1)) : here.error());
}

void SimFabric::leave(const std::string&, Callback<void> done) {
  answer<void>(agent_, std::move(done), {});
}

void SimFabric::close_leg(const ServiceId& service, Callback<void> done) {
  there_.legs.erase(service);
  answer<void>(agent_, std::move(done), {});
}

void SimFabric::open_gateway(const GatewayNetwork& network, Callback<void> done) {
  auto here = check_network("the gateway", network.vni);
  if (here) there_.gateways[network.vni] = network;
  answer<void>(agent_, std::move(done), std::move(here));
}

void SimFabric::close_gateway(std::uint32_t vni, Callback<void> done) {
  there_.gateways.erase(vni);
  answer<void>(agent_, std::move(done), {});
}

void SimBmc::power(const Machine& machine, Callback<MachinePower> done) {
  ask(machine, std::nullopt, std::move(done));
}

void SimBmc::set_power(const Machine& machine, MachinePower to, Callback<void> done) {
  ask(machine, to, [done = std::move(done)](const Result<MachinePower>& answer) {
    done(answer ? Result<void>() : Result<void>(answer.error()));
  });
}

void SimBmc::ask(const Machine& machine, std::optional<MachinePower> to,
                 Callback<MachinePower> done) {
  HostTruth* host = world_.find_host(HostId(machine.meta.name));
  const Duration limit = to ? kBmcSwitchMax : kBmcAskMax;
  if (host == nullptr || host->bmc == BmcMode::silent) {
    server_.after(limit, [name = machine.meta.name, done = std::move(done)] {
      done(make_error(Errc::unavailable, fmt::format("ask BMC of machine {}: no answer", name)));
    });
    return;
  }
  const Duration answer = host->bmc == BmcMode::slow ? kBmcSlow : kBmcAnswer;
  const bool lies = host->bmc == BmcMode::lies;
  if (to && lies) {
    lied_[host->id] = *to;
    host->lied_boot = host->boots;
  }
  if (to && !lies) {
    // The controller acts by itself, whether or not its client still waits, or lives.
    world_.loop().after(answer, [act = switch_power_, host, to = *to] { act(*host, to); });
  }
  server_.after(answer + (to ? kPowerOff : Duration::zero()),
                [this, host, lies, done = std::move(done)] {
                  const auto lied = lied_.find(host->id);
                  if (lies && lied != lied_.end()) return done(lied->second);
                  done(host->powered || host->booting ? MachinePower::on : MachinePower::off);
                });
}

}  // namespace virga::sim
