#include "arch/service_relocation/step.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "arch/service_relocation/round.h"
#include "mechanism/network/addresses.h"
#include "model/keys.h"

namespace virga {

ServiceRound::ServiceRound(const ClusterView& view, const Service& service,
                           const ServiceEvidence& evidence, const ServiceOptions& options,
                           ServicePlaces& places)
    : view_(view), service_(service), evidence_(evidence), options_(options), places_(places) {
  step_.service = service.id();
  step_.status = service.status;
}

std::optional<ServiceStep> ServiceRound::run() {
  forget_gone();
  if (service_.meta.deleting_at) {
    end_service();
  } else {
    place_balancer();
    place_monitor();
    note_health();
    finish_draining();
    weigh();
    relocate();
    answer_demand();
    keep_count();
    judge();
  }
  const bool changed = step_.remove || status() != service_.status;
  const bool decided = step_.order_decided || step_.weight_decided;
  if (!changed && !decided && step_.unpins.empty()) return std::nullopt;
  return std::move(step_);
}

void ServiceRound::tell(std::string kind, std::string text, boost::json::object facts,
                        Severity severity) {
  Event event;
  event.kind = "service." + kind;
  event.severity = severity;
  event.text = std::move(text);
  event.facts = std::move(facts);
  step_.events.push_back(std::move(event));
}

const Host* ServiceRound::host_of(const VmId& id) const {
  const Vm* vm = view_.vms.find(id);
  return vm == nullptr || vm->status.host.empty() ? nullptr : view_.hosts.find(vm->status.host);
}

ServiceCopy* ServiceRound::find(const VmId& vm) {
  for (ServiceCopy& copy : status().copies) {
    if (copy.vm == vm) return &copy;
  }
  return nullptr;
}

void ServiceRound::set(ServiceCopy& copy, ServiceCopyState state) {
  copy.state = state;
  copy.since = evidence_.now;
}

Duration ServiceRound::in_state(const VmId& vm) const {
  const auto found = evidence_.in_state.find(vm);
  return found == evidence_.in_state.end() ? Duration{} : found->second;
}

const ServiceBalancer* ServiceRound::balancer() const {
  const BalancerHostEvidence& host = places_.evidence_of(service_.status.balancer);
  const auto found = host.balancers.find(service_.id());
  return !host.reports || found == host.balancers.end() ? nullptr : &found->second;
}

const ObservedBalancerServer* ServiceRound::seen(const VmId& vm) const {
  const ServiceBalancer* now = balancer();
  if (now == nullptr || !now->running) return nullptr;
  for (const ObservedBalancerServer& server : now->seen.servers) {
    if (server.pool == kServicePool && server.name == server_name(vm)) return &server;
  }
  return nullptr;
}

bool ServiceRound::up(const ServiceCopy& copy) const {
  const ObservedBalancerServer* server = seen(copy.vm);
  return copy.state == ServiceCopyState::serving && server != nullptr &&
         server->health == BalancerHealth::up;
}

int ServiceRound::up_beside(const VmId& vm) const {
  const auto& copies = step_.status.copies;
  return static_cast<int>(std::count_if(copies.begin(), copies.end(), [&](const ServiceCopy& one) {
    return one.vm != vm && up(one);
  }));
}

int ServiceRound::active() const {
  const auto& copies = step_.status.copies;
  return static_cast<int>(std::count_if(copies.begin(), copies.end(), [](const ServiceCopy& one) {
    return one.state <= ServiceCopyState::serving;
  }));
}

void ServiceRound::forget_gone() {
  std::erase_if(status().copies,
                [&](const ServiceCopy& copy) { return view_.vms.find(copy.vm) == nullptr; });
}

/// All goes at once: who deletes a service wants no more of it.
void ServiceRound::end_service() {
  status().relocation.reset();
  status().balancer = status().balancer_next = HostId();
  for (ServiceCopy& copy : status().copies) retire(copy);
  for (const auto& [id, host] : evidence_.hosts) {
    if (host.balancers.contains(service_.id()) && host.reports) return;
  }
  if (!status().copies.empty() || !service_.status.balancer.empty()) return;
  step_.remove = true;
  tell("deleted", "it, its copies and its address are gone");
}

void ServiceRound::retire(ServiceCopy& copy) {
  if (copy.state == ServiceCopyState::retired) return;
  set(copy, ServiceCopyState::retired);
  step_.deletes.push_back(copy.vm);
}

/// A balancer has no state: it begins anew where hosts live. When that is planned, the new one runs
/// before the address leads there.
void ServiceRound::place_balancer() {
  const HostId at = status().balancer;
  const Host* host = view_.hosts.find(at);
  const bool lost = host == nullptr || host->status.health == HostHealth::dead ||
                    host->status.health == HostHealth::fenced;
  const bool fails = evidence_.failures.contains({service_.id(), at}) && balancer() == nullptr;
  if (at.empty() || lost || fails) {
    const HostId next = places_.choose_balancer(service_, at);
    if (next.empty()) return;
    status().balancer = next;
    status().balancer_next = HostId();
    return tell("balancer_placed",
                at.empty()
                    ? next.value + " carries its balancer"
                    : fmt::format("{} carries its balancer instead of {}", next.value, at.value),
                {{"host", next.value}, {"before", at.value}});
  }
  HostId& next = status().balancer_next;
  if (!host->spec.maintenance) {
    next = HostId();
    return;
  }
  if (next.empty() || !places_.may_balance(service_, next)) {
    next = places_.choose_balancer(service_, at);
    return;
  }
  const auto& there = places_.evidence_of(next).balancers;
  const auto found = there.find(service_.id());
  const std::uint64_t revision = balancer_of(view_, service_).revision;
  if (found == there.end() || !found->second.running || found->second.seen.revision != revision)
    return;
  const auto healthy = [](const ServiceBalancer& one) {
    return std::ranges::count(one.seen.servers, BalancerHealth::up,
                              &ObservedBalancerServer::health);
  };
  if (healthy(found->second) == 0 && balancer() != nullptr && healthy(*balancer()) > 0) {
    note_ = "its next balancer on " + next.value + " finds no copy healthy";
    return;
  }
  tell("balancer_moved",
       fmt::format("{} goes into maintenance: its address leads to {} now", at.value, next.value),
       {{"host", next.value}, {"before", at.value}});
  status().balancer = std::exchange(next, HostId());
}

/// Who asks as consumers do comes from another host than the balancer, if there is one. One that
/// cannot ask for long gives way to another, if there is one: what nobody measures is not promised.
void ServiceRound::place_monitor() {
  HostId& at = status().monitor;
  const bool wanted = service_.spec.objective.availability_ppm > 0 &&
                      view_.ports.find(service_.monitor_port_id()) != nullptr;
  if (!wanted) {
    at = HostId();
    return;
  }
  const Host* host = view_.hosts.find(at);
  const BalancerHostEvidence& there = places_.evidence_of(at);
  const bool mute = evidence_.mute.contains(service_.id());
  const bool stays = host != nullptr && !mute && !host->spec.maintenance &&
                     at != status().balancer && host->status.health != HostHealth::dead &&
                     host->status.health != HostHealth::fenced &&
                     (!there.reports || places_.can_monitor(service_, at));
  if (stays || (at.empty() && !status().available)) return;  // its beginning breaks no promise
  const HostId next =
      places_.choose_monitor(service_, status().balancer, mute ? at : HostId());
  if (next.empty() && at.empty()) note_ = "no host can ask it as its consumers do";
  if (next.empty() || next == at) return;
  tell("monitor_placed",
       next.value + " asks it as its consumers do" +
           (mute ? ": " + at.value + " could not for long" : ""),
       {{"host", next.value}, {"before", at.value}});
  at = next;
}

std::optional<Duration> ServiceRound::failing() const {
  const auto found = evidence_.failing.find(service_.id());
  return found == evidence_.failing.end() ? std::nullopt : std::optional(found->second);
}

void ServiceRound::note_health() {
  const Duration settled = settling_time(service_.spec.check);
  for (ServiceCopy& copy : status().copies) {
    const Vm* vm = view_.vms.find(copy.vm);
    const HostId own = service_.spec.vm.pinned_host;
    const bool pinned = vm->spec.pinned_host != own;
    if (copy.state == ServiceCopyState::starting) {
      const auto healthy = evidence_.up_for.find(copy.vm);
      const bool serves = healthy != evidence_.up_for.end() && healthy->second >= settled &&
                          vm->status.power == VmPower::running;
      const bool late = in_state(copy.vm) >= service_.spec.policy.answer_ms;
      if (late && note_.empty()) note_ = copy.vm.value + " has not answered in time";
      if (late && pinned && vm->status.host.empty()) step_.unpins.push_back(copy.vm);
      if (!serves) continue;
      set(copy, ServiceCopyState::serving);
      tell("copy_serving", copy.vm.value + " is healthy and gets requests",
           {{"vm", copy.vm.value}, {"host", vm->status.host.value}});
    }
    if (copy.state == ServiceCopyState::serving && pinned) step_.unpins.push_back(copy.vm);
    const Host* host = host_of(copy.vm);
    if (copy.state != ServiceCopyState::serving || host == nullptr || host->spec.maintenance)
      continue;
    if (copy.home == host->id()) copy.home = HostId();
    copy.released = false;
  }
}

/// True when the balancer gives it nothing new and it has no requests left, or has had its time.
bool ServiceRound::drained(const ServiceCopy& copy) const {
  const ObservedBalancerServer* server = seen(copy.vm);
  if (server == nullptr) return true;
  if (server->state == BalancerServerState::ready) return false;
  return server->sessions == 0 || in_state(copy.vm) >= service_.spec.policy.drain_ms;
}

void ServiceRound::finish_draining() {
  if (balancer() == nullptr || !balancer()->running) return;  // nobody knows
  for (ServiceCopy& copy : status().copies) {
    if (copy.state != ServiceCopyState::draining) continue;
    if (up_beside(copy.vm) < wanted()) {
      // Others have failed meanwhile: it is needed again.
      set(copy, ServiceCopyState::serving);
      tell("copy_serving", copy.vm.value + " gets requests again: others have failed",
           {{"vm", copy.vm.value}}, Severity::warning);
      continue;
    }
    if (recall(copy) || !drained(copy)) continue;
    const ObservedBalancerServer* server = seen(copy.vm);
    tell("copy_retired", copy.vm.value + " has drained and goes",
         {{"vm", copy.vm.value}, {"sessions_cut", server == nullptr ? 0 : server->sessions}});
    retire(copy);
  }
}

void ServiceRound::keep_count() {
  const int replicas = wanted();
  if (step_.create) return;
  if (active() < replicas) {
    if (const auto made = add_copy(HostId(), HostId()); !made) note_ = made.error().what;
    return;
  }
  if (status().relocation || active() <= replicas) return;
  ServiceCopy* victim = nullptr;
  for (ServiceCopy& copy : status().copies) {
    if (copy.state > ServiceCopyState::serving) continue;
    // Who is of no use goes first, then who has to leave its host, then the newest.
    const auto worth = [&](const ServiceCopy& one) {
      const Host* host = host_of(one.vm);
      return std::pair(up(one), host != nullptr && !host->spec.maintenance);
    };
    if (victim == nullptr || worth(copy) <= worth(*victim)) victim = &copy;
  }
  if (!up(*victim)) {
    if (balancer() == nullptr) return;  // nobody knows
    tell("copy_retired", victim->vm.value + " is more than asked for", {{"vm", victim->vm.value}});
    return retire(*victim);
  }
  if (up_beside(victim->vm) >= replicas) set(*victim, ServiceCopyState::draining);
}

Result<VmId> ServiceRound::add_copy(const HostId& wanted, const HostId& other_than) {
  std::uint64_t number = status().copies_made;
  NewCopy made;
  do {
    made.vm = VmId(fmt::format("{}-c{}", service_.id().value, ++number));
  } while (view_.vms.find(made.vm) != nullptr);
  const NetworkId id(qualified(service_.meta.tenant, service_.spec.vm.network));
  const Network* network = view_.networks.find(id);
  if (network == nullptr) return make_error(Errc::not_found, "there is no network " + id.value);
  const auto address = free_address(view_, *network, [](std::uint32_t) { return false; });
  if (!address) return address.error();
  auto host = places_.choose_copy(service_, made, wanted, other_than);
  if (!host) return host.error();
  made.host = *host;
  status().copies_made = number;
  ServiceCopy& copy = status().copies.emplace_back();
  copy.vm = made.vm;
  copy.since = evidence_.now;
  tell("copy_added", fmt::format("{} is made on {}", made.vm.value, host->value),
       {{"vm", made.vm.value}, {"host", host->value}});
  step_.create = made;
  return made.vm;
}

void ServiceRound::judge() {
  const HostId at = status().balancer;
  if (at == service_.status.balancer && places_.evidence_of(at).awaited) return;
  const ServiceBalancer* now = balancer();
  std::string why;
  if (at.empty()) {
    why = "no host can carry its balancer";
  } else if (at != service_.status.balancer && status().balancer_next.empty() &&
             service_.status.balancer_next == at) {
    return;  // it was made to run there before
  } else if (now == nullptr || !now->running) {
    why = "its balancer on " + at.value + " does not run";
    if (now != nullptr && !now->failing.empty()) why += ": " + now->failing;
  } else if (up_beside(VmId()) == 0) {
    why = "no copy of it is healthy";
  }
  const bool available = why.empty();
  if (available != status().available) {
    tell(available ? "available" : "unavailable",
         available ? "a consumer's request is answered" : why, {},
         available ? Severity::info : Severity::alarm);
  }
  status().available = available;
  if (!note_.empty()) why += (available ? "" : "; ") + note_;
  status().reason = why;
}

std::optional<ServiceStep> next_step(const ClusterView& view, const Service& service,
                                     const ServiceEvidence& evidence, const ServiceOptions& options,
                                     ServicePlaces& places) {
  return ServiceRound(view, service, evidence, options, places).run();
}

}  // namespace virga
