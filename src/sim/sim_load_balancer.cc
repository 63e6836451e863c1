#include "sim/sim_load_balancer.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace virga::sim {
namespace {

constexpr Duration kChangeTakes = milliseconds(5);
constexpr Duration kReloadTakes = milliseconds(100);
constexpr Duration kStartTakes = milliseconds(150);

template <typename T>
std::string place_of(const T& at) {
  return fmt::format("{}:{}", at.address, at.port);
}

/// All that a change of needs a reload.
std::string shape_of(BalancerSpec spec) {
  spec.revision = 0;
  for (BalancerPool& pool : spec.pools) pool.servers.clear();
  return to_json_text(spec);
}

}  // namespace

BalancerHealth BalancerTruth::health(const BalancerPool& pool, const BalancerServer& server,
                                     Instant now) {
  if (server.state == BalancerServerState::maintenance) return BalancerHealth::unknown;
  const auto found = listeners.find(place_of(server));
  if (found == listeners.end()) return BalancerHealth::down;
  Listener& listener = found->second;
  if (listener.alive) return BalancerHealth::up;
  if (now - listener.since >= pool.check.interval_ms * pool.check.fall) listener.noticed = true;
  return listener.noticed ? BalancerHealth::down : BalancerHealth::up;
}

/// Turns by weight: who has the most credit takes the request and pays what all have earned.
const BalancerServer* BalancerTruth::pick(const BalancerPool& pool, Instant now) {
  const BalancerServer* best = nullptr;
  std::int64_t earned = 0;
  for (const BalancerServer& server : pool.servers) {
    if (server.state != BalancerServerState::ready) continue;
    if (health(pool, server, now) != BalancerHealth::up) continue;
    Tally& tally = servers[{pool.name, server.name}];
    if (!listeners.at(place_of(server)).alive) {
      ++tally.errors;  // another one gets the request
      continue;
    }
    earned += server.weight;
    tally.credit += server.weight;
    if (best == nullptr || tally.credit > servers[{pool.name, best->name}].credit) best = &server;
  }
  if (best != nullptr) servers[{pool.name, best->name}].credit -= earned;
  return best;
}

bool BalancerTruth::begin_request(const std::string& place, Instant now, ServerKey& taken_by) {
  if (!serving) return false;
  for (const BalancerFrontend& frontend : in_force.frontends) {
    if (place_of(frontend) != place) continue;
    Tally& tally = frontends[frontend.name];
    ++tally.total;
    for (const BalancerPool& pool : in_force.pools) {
      const BalancerServer* server = pool.name == frontend.pool ? pick(pool, now) : nullptr;
      if (server == nullptr) continue;
      taken_by = {pool.name, server->name};
      ++servers[taken_by].total;
      ++servers[taken_by].sessions;
      return true;
    }
    ++tally.errors;
    return false;
  }
  return false;
}

void BalancerTruth::end_request(const ServerKey& taken_by) {
  Tally& tally = servers[taken_by];
  tally.sessions = std::max<std::int64_t>(tally.sessions - 1, 0);
}

void BalancerTruth::begin_counters() {
  ++counters;
  frontends.clear();
  for (auto& [key, tally] : servers) tally = {tally.sessions, 0, 0, 0};
}

void BalancerTruth::take(const BalancerSpec& wanted, Instant now) {
  for (const BalancerPool& pool : in_force.pools) {
    for (const BalancerServer& server : pool.servers) health(pool, server, now);
  }
  const bool anew = !serving || shape_of(wanted) != shape_of(in_force);
  in_force = wanted;
  serving = true;
  if (anew) begin_counters();
}

void BalancerTruth::kill() {
  lose_power();
  if (on_ended) on_ended();
}

void BalancerTruth::lose_power() {
  serving = false;
  servers.clear();
  frontends.clear();
}

SimLoadBalancer::SimLoadBalancer(Loop& agent, BalancerTruth& truth) : agent_(agent), truth_(truth) {
  truth_.on_ended = [this] {
    later(kStartTakes, [this] {
      if (truth_.in_force.revision != 0 && !truth_.serving)
        truth_.take(truth_.in_force, agent_.now());
    });
  };
}

SimLoadBalancer::~SimLoadBalancer() { truth_.on_ended = nullptr; }

void SimLoadBalancer::later(Duration takes, Task task) {
  busy_until_ = std::max(busy_until_, agent_.now()) + takes;
  agent_.at(busy_until_, [task = std::move(task), alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) task();
  });
}

void SimLoadBalancer::open(Callback<void> done) {
  later(kStartTakes, [this, done = std::move(done)] {
    if (truth_.in_force.revision != 0 && !truth_.serving)
      truth_.take(truth_.in_force, agent_.now());
    done({});
  });
}

Result<void> SimLoadBalancer::take(const BalancerSpec& wanted) {
  if (wanted.revision < truth_.in_force.revision) return {};
  for (const BalancerFrontend& frontend : wanted.frontends) {
    const std::string place = place_of(frontend);
    if (!truth_.taken.contains(place)) continue;
    return make_error(Errc::conflict, "the address and port " + place + " is taken");
  }
  truth_.take(wanted, agent_.now());
  return {};
}

void SimLoadBalancer::apply(const BalancerSpec& wanted, Callback<void> done) {
  if (auto fine = validate(wanted); !fine) {
    return answer<void>(agent_, std::move(done), wrap_error("load balancer", fine.error()));
  }
  const bool shaped = shape_of(wanted) != shape_of(truth_.in_force);
  later(shaped ? kReloadTakes : kChangeTakes,
        [this, wanted, done = std::move(done)] { done(take(wanted)); });
}

ObservedBalancer SimLoadBalancer::look() {
  std::map<BalancerTruth::ServerKey, ObservedBalancerServer> servers;
  for (const BalancerPool& pool : truth_.in_force.pools) {
    for (const BalancerServer& server : pool.servers) {
      ObservedBalancerServer& seen = servers[{pool.name, server.name}];
      seen.state = server.state;
      seen.health = truth_.health(pool, server, agent_.now());
    }
  }
  for (const auto& [key, tally] : truth_.servers) {
    const bool wanted = servers.contains(key);
    if (!wanted && tally.sessions == 0) continue;
    ObservedBalancerServer& seen = servers[key];
    if (!wanted) seen.state = BalancerServerState::maintenance;
    seen.sessions = tally.sessions;
    seen.total = tally.total;
    seen.errors = tally.errors;
  }
  ObservedBalancer seen;
  seen.revision = truth_.in_force.revision;
  seen.counters = std::to_string(truth_.counters);
  for (auto& [key, server] : servers) {
    std::tie(server.pool, server.name) = key;
    seen.servers.push_back(std::move(server));
  }
  for (const BalancerPool& pool : truth_.in_force.pools) seen.pools.push_back({pool.name, 0});
  for (const BalancerFrontend& frontend : truth_.in_force.frontends) {
    const auto found = truth_.frontends.find(frontend.name);
    ObservedBalancerFrontend& one = seen.frontends.emplace_back();
    one.name = frontend.name;
    if (found == truth_.frontends.end()) continue;
    one.total = found->second.total;
    one.errors_5xx = found->second.errors;
  }
  const auto by_name = [](const auto& left, const auto& right) { return left.name < right.name; };
  std::sort(seen.pools.begin(), seen.pools.end(), by_name);
  std::sort(seen.frontends.begin(), seen.frontends.end(), by_name);
  return seen;
}

void SimLoadBalancer::observe(Callback<ObservedBalancer> done) {
  agent_.after(kChangeTakes, [this, done = std::move(done), alive = std::weak_ptr(alive_)] {
    if (alive.expired()) return;
    if (truth_.serving) return done(look());
    done(make_error(Errc::unavailable, "the load balancer does not run"));
  });
}

void SimLoadBalancer::remove(Callback<void> done) {
  later(kChangeTakes, [this, done = std::move(done)] {
    truth_.in_force = {};
    truth_.serving = false;
    truth_.servers.clear();
    truth_.frontends.clear();
    done({});
  });
}

}  // namespace virga::sim
