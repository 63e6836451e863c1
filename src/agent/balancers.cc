#include "agent/balancers.h"

#include <fmt/format.h>

#include <utility>

#include "base/log.h"

namespace virga {
namespace {

std::size_t count_servers(const BalancerSpec& spec) {
  std::size_t count = 0;
  for (const BalancerPool& pool : spec.pools) count += pool.servers.size();
  return count;
}

}  // namespace

/// Answers that come after the end of this object reach nobody.
Callback<void> Balancers::while_here(Callback<void> next) {
  return [next = std::move(next), alive = std::weak_ptr(alive_)](Result<void> result) {
    if (!alive.expired()) next(std::move(result));
  };
}

Balancers::Balancer& Balancers::add(const ServiceId& service) {
  Balancer& balancer = balancers_[service];
  if (balancer.driver == nullptr)
    balancer.driver = home_->make(service, fabric_.leg_namespace(service));
  return balancer;
}

void Balancers::start() {
  if (home_ == nullptr) return;
  for (const auto& [service, leg] : home_->remembered()) {
    add(service).changing = true;
    raise(service, leg, [this, id = service](const Result<void>& raised) {
      if (!raised) {
        log_line(LogLevel::error, "agent",
                 "balancer " + id.value + " does not go on: " + raised.error().text());
      }
      finish(id, raised, [](const Result<void>&) {});
    });
  }
}

bool Balancers::execute(const Command& command, const Callback<CommandResult>& done) {
  const bool applies = command.kind == CommandKind::apply_balancer;
  if (!applies && command.kind != CommandKind::remove_balancer) return false;
  const Callback<void> plain = [done](const Result<void>& result) {
    result ? done(CommandResult{}) : done(result.error());
  };
  if (!command.balancer) {
    plain(make_error(Errc::invalid, "balancer: is missing"));
    return true;
  }
  const ServiceId& service = command.balancer->service;
  const auto found = balancers_.find(service);
  if (found != balancers_.end() && found->second.changing) {
    plain(make_error(Errc::unavailable, "balancer " + service.value + ": a call is under way"));
    return true;
  }
  applies ? apply(*command.balancer, plain) : remove(service, plain);
  return true;
}

Result<void> Balancers::check_room(const BalancerCommand& asked) const {
  std::size_t servers = count_servers(asked.spec);
  for (const auto& [service, balancer] : balancers_) {
    if (service != asked.service) servers += balancer.servers;
  }
  const bool room = balancers_.contains(asked.service) || balancers_.size() < kBalancersMax;
  if (room && servers <= kServersMax) return {};
  return make_error(
      Errc::exhausted,
      fmt::format("balancer {}: this host carries {} balancers, and with this one {} "
                  "servers; it can carry {} and {}",
                  asked.service.value, balancers_.size(), servers, kBalancersMax, kServersMax));
}

/// Remembered before anything is made, so that nothing is ever left that nobody knows of.
void Balancers::apply(const BalancerCommand& asked, const Callback<void>& done) {
  if (home_ == nullptr) {
    return done(make_error(Errc::unsupported, "this host has no driver of load balancers"));
  }
  if (auto fine = validate(asked.spec); !fine) return done(wrap_error("balancer", fine.error()));
  const auto found = balancers_.find(asked.service);
  const bool old =
      found != balancers_.end() && asked.spec.revision < found->second.driver->revision();
  if (old) return done({});  // its leg may be another one, too
  if (auto room = check_room(asked); !room) return done(room);
  if (auto kept = home_->remember(asked.service, asked.leg); !kept) return done(kept);
  Balancer& balancer = add(asked.service);
  balancer.changing = true;
  balancer.servers = count_servers(asked.spec);
  const Callback<void> ended =
      while_here([this, service = asked.service, done](const Result<void>& result) {
        finish(service, result, done);
      });
  raise(asked.service, asked.leg, [this, asked, ended](const Result<void>& raised) {
    if (!raised) return ended(raised);
    balancers_.at(asked.service).driver->apply(asked.spec, ended);
  });
}

/// The leg, and what an earlier agent has left in it. A driver that could not open goes on trying,
/// and what it is told next brings it up.
void Balancers::raise(const ServiceId& service, const BalancerLeg& leg,
                      const Callback<void>& done) {
  fabric_.open_leg(service, leg, while_here([this, service, done](const Result<void>& leg_open) {
                     if (!leg_open) return done(leg_open);
                     Balancer& balancer = balancers_.at(service);
                     if (std::exchange(balancer.opened, true)) return done({});
                     balancer.driver->open(while_here(done));
                   }));
}

void Balancers::finish(const ServiceId& service, const Result<void>& result,
                       const Callback<void>& done) {
  Balancer& balancer = balancers_.at(service);
  balancer.failing = result ? "" : result.error().text();
  look_at(service, [this, service, result, done] {
    balancers_.at(service).changing = false;
    done(result);
  });
}

void Balancers::remove(const ServiceId& service, const Callback<void>& done) {
  const auto found = balancers_.find(service);
  if (found == balancers_.end()) return done({});
  Balancer& balancer = found->second;
  balancer.changing = true;
  const Callback<void> end = while_here([this, service, done](const Result<void>&) {
    balancers_.at(service).driver->remove(
        while_here([this, service, done](const Result<void>& removed) {
          if (!removed) return finish(service, removed, done);
          erase(service, done);
        }));
  });
  if (std::exchange(balancer.opened, true)) return end({});
  balancer.driver->open(end);  // so that it knows what an earlier agent has left
}

/// What it had around it, from the outside inwards; the memory of it last.
void Balancers::erase(const ServiceId& service, const Callback<void>& done) {
  fabric_.close_leg(service, while_here([this, service, done](const Result<void>& closed) {
                      const auto gone = closed ? home_->forget(service) : closed;
                      if (!gone) return finish(service, gone, done);
                      balancers_.erase(service);
                      done({});
                    }));
}

void Balancers::look() {
  for (const auto& [service, balancer] : balancers_) {
    if (balancer.opened && balancer.looking == 0) look_at(service, [] {});
  }
}

void Balancers::look_at(const ServiceId& service, const Task& then) {
  Balancer& asked = balancers_.at(service);
  ++asked.looking;
  asked.driver->observe([this, service, then, number = ++asked.looks,
                         alive = std::weak_ptr(alive_)](Result<ObservedBalancer> seen) {
    if (alive.expired()) return;
    const auto found = balancers_.find(service);
    if (found == balancers_.end()) return;
    --found->second.looking;
    if (number > found->second.seen_with) {
      found->second.seen_with = number;
      take(found->second, std::move(seen));
    }
    then();
  });
}

/// One that runs again by itself has got over what failed before.
void Balancers::take(Balancer& balancer, Result<ObservedBalancer> seen) {
  const bool ran = balancer.running();
  balancer.unseen = seen ? "" : seen.error().text();
  balancer.seen = seen ? std::move(*seen) : ObservedBalancer();
  if (balancer.seen.revision != 0) balancer.servers = balancer.seen.servers.size();
  if (!ran && balancer.running()) balancer.failing.clear();
}

std::vector<ServiceBalancer> Balancers::observe() const {
  std::vector<ServiceBalancer> seen;
  seen.reserve(balancers_.size());
  for (const auto& [service, balancer] : balancers_) {
    const std::string& failing = balancer.failing.empty() ? balancer.unseen : balancer.failing;
    seen.push_back({service, balancer.running(), failing, balancer.seen});
  }
  return seen;
}

}  // namespace virga
