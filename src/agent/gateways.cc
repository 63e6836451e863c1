#include "agent/gateways.h"

#include <fmt/format.h>

#include <iterator>
#include <set>
#include <utility>

namespace virga {
namespace {

constexpr Duration kRetryAfter = seconds(2);

template <typename T>
void append(std::vector<T>& to, std::vector<T>& from) {
  std::move(from.begin(), from.end(), std::back_inserter(to));
}

}  // namespace

Gateways::Gateways(Loop& loop, Fabric& fabric, GatewayHome* home,
                   std::function<void(const Error&)> failed)
    : fabric_(fabric), home_(home), failed_(std::move(failed)), retry_(loop) {}

/// Answers that come after the end of this object reach nobody.
Callback<void> Gateways::while_here(Callback<void> next) {
  return [next = std::move(next), alive = std::weak_ptr(alive_)](Result<void> result) {
    if (!alive.expired()) next(std::move(result));
  };
}

void Gateways::start() {
  if (home_ == nullptr) return;
  for (const auto& [vni, network] : home_->remembered()) {
    gateways_[vni].network = network;
    work(vni);
  }
}

void Gateways::take(FabricGateways told) {
  if (home_ == nullptr) return;
  waiting_.whole = waiting_.whole || told.whole;
  append(waiting_.networks, told.networks);
  append(waiting_.gone, told.gone);
  append(waiting_.members, told.members);
  if (!told.more) take_whole(std::exchange(waiting_, {}));
}

void Gateways::take_whole(const FabricGateways& told) {
  std::set<std::uint32_t> changed;
  const auto goes = [&](std::uint32_t vni) {
    const auto found = gateways_.find(vni);
    if (found == gateways_.end()) return;
    found->second.aim = Aim::gone;
    found->second.members.clear();
    changed.insert(vni);
  };
  for (const std::uint32_t vni : told.gone) goes(vni);
  std::set<std::uint32_t> named;
  for (const GatewayNetwork& network : told.networks) {
    Gateway& gateway = gateways_[network.vni];
    gateway.aim = Aim::served;
    gateway.network = network;
    gateway.members.clear();
    named.insert(network.vni);
    changed.insert(network.vni);
  }
  for (const auto& [vni, gateway] : gateways_) {
    if (told.whole && !named.contains(vni)) goes(vni);
  }
  for (const GatewayMember& member : told.members) {
    const auto found = gateways_.find(member.vni);
    if (found == gateways_.end() || found->second.aim != Aim::served) continue;
    if (member.address.empty()) {
      found->second.members.erase(member.port);
    } else {
      found->second.members[member.port] = member;
    }
    changed.insert(member.vni);
  }
  for (const std::uint32_t vni : changed) {
    gateways_.at(vni).dirty = true;
    work(vni);
  }
}

/// One piece of work a gateway at a time; what was told meanwhile is the next.
void Gateways::work(std::uint32_t vni) {
  Gateway& gateway = gateways_.at(vni);
  if (gateway.busy || !gateway.dirty) return;
  gateway.busy = true;
  gateway.dirty = false;
  if (gateway.server == nullptr) gateway.server = home_->make(vni, fabric_.gateway_namespace(vni));
  gateway.aim == Aim::gone ? lower(vni) : raise(vni);
}

/// Remembered before anything is made, so that nothing is ever left that nobody knows of.
void Gateways::raise(std::uint32_t vni) {
  Gateway& gateway = gateways_.at(vni);
  if (auto kept = home_->remember(gateway.network); !kept) return ended(vni, kept);
  fabric_.open_gateway(gateway.network, while_here([this, vni](const Result<void>& made) {
                         if (!made) return ended(vni, made);
                         Gateway& raised = gateways_.at(vni);
                         if (std::exchange(raised.opened, true)) return serve(vni);
                         raised.server->open(while_here([this, vni](const Result<void>& opened) {
                           opened ? serve(vni) : ended(vni, opened);
                         }));
                       }));
}

void Gateways::serve(std::uint32_t vni) {
  Gateway& gateway = gateways_.at(vni);
  if (gateway.aim != Aim::served) return ended(vni, {});
  GatewaySpec spec{gateway.network, {}};
  spec.members.reserve(gateway.members.size());
  for (const auto& [port, member] : gateway.members) spec.members.push_back(member);
  gateway.server->apply(
      spec, while_here([this, vni](const Result<void>& served) { ended(vni, served); }));
}

/// From the inside outwards; the memory of it last.
void Gateways::lower(std::uint32_t vni) {
  Gateway& gateway = gateways_.at(vni);
  const Callback<void> end = while_here([this, vni](const Result<void>&) {
    gateways_.at(vni).server->remove(while_here(
        [this, vni](const Result<void>& removed) { removed ? erase(vni) : ended(vni, removed); }));
  });
  if (std::exchange(gateway.opened, true)) return end({});
  gateway.server->open(end);  // so that it knows what an earlier agent has left
}

void Gateways::erase(std::uint32_t vni) {
  fabric_.close_gateway(vni, while_here([this, vni](const Result<void>& closed) {
                          const auto gone = closed ? home_->forget(vni) : closed;
                          Gateway& gateway = gateways_.at(vni);
                          gateway.server.reset();  // if it is wanted again, it begins anew
                          gateway.opened = false;
                          if (gone && gateway.aim == Aim::gone) {
                            gateways_.erase(vni);
                            return;
                          }
                          ended(vni, gone);
                        }));
}

void Gateways::ended(std::uint32_t vni, const Result<void>& result) {
  Gateway& gateway = gateways_.at(vni);
  gateway.busy = false;
  gateway.failing = !result.ok();
  gateway.told = gateway.told && gateway.failing;
  if (gateway.failing) {
    if (fabric_.version() != 0 && !std::exchange(gateway.told, true))
      failed_(wrap_error(fmt::format("gateway of VNI {}", vni), result.error()));
    gateway.dirty = true;
    retry_.set_after(kRetryAfter, [this] {
      std::vector<std::uint32_t> all;
      for (const auto& [one, known] : gateways_) all.push_back(one);
      for (const std::uint32_t one : all) work(one);
    });
    return;
  }
  work(vni);
}

}  // namespace virga
