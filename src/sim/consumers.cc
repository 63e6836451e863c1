#include "sim/consumers.h"

#include <fmt/format.h>

#include <algorithm>

namespace virga::sim {
namespace {

constexpr Duration kRound = milliseconds(100);
constexpr int kRoundsASecond = 10;
constexpr Duration kRequestTakes = milliseconds(20);

}  // namespace

void Consumers::start() {
  cloud_.loop().after(kRound, [this] {
    round();
    start();
  });
}

void Consumers::round() {
  for (HostTruth& host : cloud_.world().hosts()) {
    for (auto& [id, balancer] : host.balancers) listen(host, balancer);
  }
  for (const Service& service : cloud_.read_all<Service>(keys::kService)) {
    if (!service.status.available && !tallies_.contains(service.id())) continue;
    Tally& tally = tallies_[service.id()];
    const int requests = cloud_.world().demand(service.id()) / kRoundsASecond;
    for (int request = 0; request < requests; ++request) {
      ++(ask(service) ? tally.answered : tally.failed);
    }
  }
}

/// What its servers' guests do now.
void Consumers::listen(const HostTruth& from, BalancerTruth& balancer) {
  for (const BalancerPool& pool : balancer.in_force.pools) {
    for (const BalancerServer& server : pool.servers) {
      auto& listener = balancer.listeners[fmt::format("{}:{}", server.address, server.port)];
      const bool alive = answers_at(from, server.address);
      const bool known = listener.name == server.name;
      if (known && listener.alive == alive) continue;
      listener = {server.name, alive, cloud_.now(), known ? false : !alive};
    }
  }
}

bool Consumers::answers_at(const HostTruth& from, const std::string& address) const {
  const auto here = [&](const Copy& copy) {
    return copy.address == address && copy.answers(cloud_.now());
  };
  return std::ranges::any_of(cloud_.world().hosts(), [&](const HostTruth& host) {
    return host.acts() && cloud_.world().joined(from, host) &&
           std::ranges::any_of(host.copies, [&](const auto& one) { return here(one.second); });
  });
}

/// The overlay leads the address to where the store says that the balancer is.
bool Consumers::ask(const Service& service) {
  HostTruth* host = cloud_.world().find_host(service.status.balancer);
  if (host == nullptr || !host->acts()) return false;
  const auto balancer = host->balancers.find(service.id());
  if (balancer == host->balancers.end()) return false;
  BalancerTruth::ServerKey taken;
  const std::string place =
      fmt::format("{}:{}", service.spec.frontend.address, service.spec.frontend.port);
  if (!balancer->second.begin_request(place, cloud_.now(), taken)) return false;
  cloud_.loop().after(kRequestTakes, [host, id = service.id(), taken] {
    const auto still = host->balancers.find(id);
    if (still != host->balancers.end()) still->second.end_request(taken);
  });
  return true;
}

}  // namespace virga::sim
