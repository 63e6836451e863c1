#include <fmt/format.h>

#include <tuple>

#include "arch/service_relocation/step.h"

namespace virga {

ServicePlaces::ServicePlaces(const ClusterView& view, const ClusterId& cluster,
                             const ServiceEvidence& evidence)
    : view_(view), cluster_(cluster), evidence_(evidence) {
  for (const Service* service : view.services_of(cluster)) {
    for (const HostId& host : {service->status.balancer, service->status.balancer_next}) {
      if (!host.empty()) ++balancers_[host];
    }
    if (!service->status.monitor.empty()) ++monitors_[service->status.monitor];
  }
}

const BalancerHostEvidence& ServicePlaces::evidence_of(const HostId& host) const {
  static const BalancerHostEvidence kNothing;
  const auto found = evidence_.hosts.find(host);
  return found == evidence_.hosts.end() ? kNothing : found->second;
}

bool ServicePlaces::may_balance(const Service& service, const HostId& id) const {
  const Host* host = view_.hosts.find(id);
  const BalancerHostEvidence& evidence = evidence_of(id);
  const bool fits = host != nullptr && host->spec.cluster == service.spec.cluster &&
                    evidence.reports && evidence.can_balance &&
                    host->status.health == HostHealth::alive && !host->spec.maintenance;
  const auto& floating = view_.floating_addresses;
  return fits && (host->status.leads_outside ||
                  floating.count<FloatingOfService>(service.id()) == 0);
}

HostId ServicePlaces::choose_balancer(const Service& service, const HostId& other_than) {
  HostId best;
  std::tuple<bool, bool, int> best_cost;
  for (const Host* host : view_.hosts_of(cluster_)) {
    const HostId id = host->id();
    if (id == other_than || !may_balance(service, id)) continue;
    const auto count = balancers_.find(id);
    const std::tuple cost{evidence_.failures.contains({service.id(), id}),
                          id == service.status.monitor,
                          count == balancers_.end() ? 0 : count->second};
    if (!best.empty() && cost >= best_cost) continue;
    best = id;
    best_cost = cost;
  }
  if (!best.empty()) ++balancers_[best];
  return best;
}

bool ServicePlaces::can_monitor(const Service& service, const HostId& id) const {
  const BalancerHostEvidence& evidence = evidence_of(id);
  return evidence.can_probe && (evidence.can_probe_tls || !service.spec.frontend.tls);
}

bool ServicePlaces::may_monitor(const Service& service, const HostId& id) const {
  const Host* host = view_.hosts.find(id);
  const BalancerHostEvidence& evidence = evidence_of(id);
  return host != nullptr && host->spec.cluster == service.spec.cluster && evidence.reports &&
         can_monitor(service, id) && host->status.health == HostHealth::alive &&
         !host->spec.maintenance;
}

HostId ServicePlaces::choose_monitor(const Service& service, const HostId& balancer,
                                     const HostId& other_than) {
  HostId best;
  std::pair<bool, int> best_cost;
  for (const Host* host : view_.hosts_of(cluster_)) {
    const HostId id = host->id();
    if (id == other_than || !may_monitor(service, id)) continue;
    const auto count = monitors_.find(id);
    if (count != monitors_.end() && count->second >= static_cast<int>(kMonitorsMax)) continue;
    const std::pair<bool, int> cost{id == balancer, count == monitors_.end() ? 0 : count->second};
    if (!best.empty() && cost >= best_cost) continue;
    best = id;
    best_cost = cost;
  }
  if (!best.empty()) ++monitors_[best];
  return best;
}

PlacementState& ServicePlaces::state() {
  if (!state_) state_.emplace(view_, cluster_);
  return *state_;
}

Result<HostId> ServicePlaces::choose(const PlacementQuery& query, const HostId& wanted,
                                     const HostId& excluded) {
  if (!excluded.empty()) state().exclude(excluded);
  const auto refusals = state().explain(query);
  auto chosen = wanted.empty() ? state().choose(query) : std::optional<HostId>(wanted);
  if (!excluded.empty()) state().exclude(excluded, false);
  std::string text;
  for (const Refusal& refusal : refusals) {
    if (refusal.host == excluded) continue;
    if (refusal.host == wanted) chosen.reset();
    if (!wanted.empty() && refusal.host != wanted) continue;
    text += (text.empty() ? "" : "; ") + refusal.host.value + " " + refusal.reason;
  }
  if (chosen && chosen == excluded) chosen.reset();
  const Host* host = chosen ? view_.hosts.find(*chosen) : nullptr;
  if (host == nullptr || host->spec.cluster != cluster_) chosen.reset();
  if (chosen) return *chosen;
  if (text.empty()) text = "there is no other host";
  return make_error(Errc::exhausted, text);
}

Result<HostId> ServicePlaces::choose_copy(const Service& service, const NewCopy& copy,
                                          const HostId& wanted, const HostId& other_than) {
  promised_.push_back(vm_of(service, {copy.vm, service.spec.vm.pinned_host}));
  PlacementQuery query{.vm = &promised_.back(), .live = false, .avoid = {}};
  for (const ServiceCopy& other : service.status.copies) {
    const Vm* vm = view_.vms.find(other.vm);
    if (vm == nullptr) continue;
    if (!vm->status.host.empty()) query.avoid.insert(vm->status.host);
    if (!vm->spec.pinned_host.empty()) query.avoid.insert(vm->spec.pinned_host);
  }
  auto chosen = choose(query, wanted, other_than);
  if (chosen) state().add(promised_.back(), *chosen);
  return chosen;
}

Result<HostId> ServicePlaces::choose_move(const Vm& vm, const HostId& wanted) {
  const PlacementQuery query{.vm = &vm, .live = true, .avoid = {}};
  return choose(query, wanted, vm.status.host);
}

}  // namespace virga
