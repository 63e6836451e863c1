#include "arch/service_relocation/round.h"

#include <fmt/format.h>

#include "base/reflect.h"

namespace virga {
namespace {

boost::json::object facts_of(const ServiceRelocation& relocation) {
  boost::json::object facts{{"mode", enum_name(relocation.mode)},
                            {"vm", relocation.original.value},
                            {"source", relocation.source.value},
                            {"host", relocation.host.value}};
  if (!relocation.replacement.empty()) facts["replacement"] = relocation.replacement.value;
  return facts;
}

}  // namespace

/// An operator's command. A copy that is gone by now had its replacement, with its weight.
void ServiceRound::weigh() {
  if (!service_.spec.weigh) return;
  const WeightOrder& order = *service_.spec.weigh;
  step_.weight_decided = true;
  ServiceCopy* copy = find(VmId(qualified(service_.meta.tenant, order.copy)));
  if (copy == nullptr || copy->weight == order.weight) return;
  copy->weight = order.weight;
  tell("weighed", fmt::format("{} has weight {}", copy->vm.value, order.weight),
       {{"vm", copy->vm.value}, {"weight", order.weight}});
}

void ServiceRound::relocate() {
  if (status().relocation) {
    if (status().relocation->mode == RelocationMode::duplicate) return go_on_duplicate();
    return go_on_move();
  }
  obey();
  if (!status().relocation) leave_maintenance();
  if (!status().relocation) go_home();
}

void ServiceRound::refuse(const std::string& copy, const std::string& why) {
  tell("relocation_refused", why, {{"vm", copy}}, Severity::warning);
}

/// An operator's command.
void ServiceRound::obey() {
  if (!service_.spec.relocate) return;
  const RelocationOrder& order = *service_.spec.relocate;
  step_.order_decided = true;
  const VmId id(qualified(service_.meta.tenant, order.copy));
  ServiceCopy* copy = find(id);
  const Host* source = host_of(id);
  if (copy == nullptr || copy->state != ServiceCopyState::serving || source == nullptr)
    return refuse(id.value, id.value + " is no copy of it that serves");
  if (holds_host_device(view_.vms.find(id)->spec)) {
    return refuse(id.value, id.value + " uses a device of " + source->id().value +
                                " directly: it is locked to that host");
  }
  ServiceRelocation wanted;
  wanted.mode = order.mode;
  wanted.host = order.host;
  wanted.cause = "an operator asked for it";
  if (order.for_ms > Duration{}) {
    wanted.home = source->id();
    wanted.away_ms = order.for_ms;
  }
  begin(*copy, std::move(wanted));
  if (!status().relocation) refuse(id.value, note_);
}

/// Copies on hosts that are to be emptied are replaced before they go.
void ServiceRound::leave_maintenance() {
  for (ServiceCopy& copy : status().copies) {
    const Host* host = host_of(copy.vm);
    if (copy.state != ServiceCopyState::serving || host == nullptr || copy.released) continue;
    if (!host->spec.maintenance) continue;
    const ServicePolicy& policy = service_.spec.policy;
    const HostId home = policy.return_home ? host->id() : HostId();
    if (policy.relocation == RelocationMode::live_migration) {
      if (!copy.home.empty()) continue;
      copy.home = home;  // the cluster moves it
      if (!home.empty()) copy.home_by = RelocationMode::live_migration;
      continue;
    }
    const std::string cause = host->id().value + " goes into maintenance";
    if (holds_host_device(view_.vms.find(copy.vm)->spec)) {
      copy.released = true;
      refuse(copy.vm.value, cause + ", but " + copy.vm.value +
                                " uses a device of it directly: it is locked to that host");
      continue;
    }
    ServiceRelocation wanted;
    wanted.home = home;
    wanted.cause = cause;
    begin(copy, std::move(wanted));
    if (status().relocation) return;
    copy.released = true;
    refuse(copy.vm.value, cause + ", but there is no room for a duplicate: " + note_);
  }
}

/// Who is away for a time goes back when its host takes VMs again.
void ServiceRound::go_home() {
  for (ServiceCopy& copy : status().copies) {
    const Host* at = host_of(copy.vm);
    const Host* home = view_.hosts.find(copy.home);
    if (copy.state != ServiceCopyState::serving || at == nullptr || copy.home.empty()) continue;
    if (home == nullptr) {
      copy.home = HostId();
      continue;
    }
    const bool open = home->status.health == HostHealth::alive && !home->spec.maintenance;
    if (!open || at == home || in_state(copy.vm) < copy.away_ms) continue;
    if (evidence_.spent.contains(service_.id())) {
      note_ = copy.vm.value + " goes back when its level is as promised again";
      continue;
    }
    ServiceRelocation wanted;
    wanted.mode = copy.home_by.value_or(service_.spec.policy.relocation);
    wanted.host = home->id();
    wanted.cause = "it goes back to " + home->id().value;
    begin(copy, std::move(wanted));
    if (status().relocation) return;
    note_ = copy.vm.value + " cannot go back: " + note_;
  }
}

void ServiceRound::begin(ServiceCopy& copy, ServiceRelocation relocation) {
  relocation.original = copy.vm;
  relocation.source = view_.vms.find(copy.vm)->status.host;
  relocation.started_at = evidence_.now;
  if (relocation.mode == RelocationMode::duplicate) return begin_duplicate(std::move(relocation));
  begin_move(std::move(relocation));
}

void ServiceRound::begin_duplicate(ServiceRelocation relocation) {
  const auto made = add_copy(relocation.host, relocation.source);
  if (!made) {
    note_ = made.error().what;
    return;
  }
  relocation.replacement = *made;
  find(*made)->weight = find(relocation.original)->weight;
  relocation.host = step_.create->host;
  status().relocation = std::move(relocation);
  tell("relocation_started", status().relocation->cause, facts_of(*status().relocation));
}

void ServiceRound::begin_move(ServiceRelocation relocation) {
  const Vm& vm = *view_.vms.find(relocation.original);
  const auto host = places_.choose_move(vm, relocation.host);
  if (!host) {
    note_ = host.error().what;
    return;
  }
  relocation.host = *host;
  step_.moves.emplace_back(vm.id(), *host);
  status().relocation = std::move(relocation);
  tell("relocation_started", status().relocation->cause, facts_of(*status().relocation));
}

/// It has answered requests that came to the frontend; while nobody asks, its checks must do.
bool ServiceRound::answers(const VmId& vm, std::string& proof) const {
  const ObservedBalancerServer* server = seen(vm);
  if (server == nullptr || server->health != BalancerHealth::up) return false;
  const bool http = service_.spec.frontend.protocol == BalancerProtocol::http;
  const std::int64_t unfinished = http ? server->sessions : 0;
  proof = "requests";
  if (server->total - unfinished - server->errors > 0) return true;
  const auto quiet = evidence_.quiet.find(service_.id());
  const auto healthy = evidence_.up_for.find(vm);
  proof = "checks";
  return quiet != evidence_.quiet.end() && quiet->second >= options_.quiet_min &&
         in_state(vm) >= options_.quiet_min && healthy != evidence_.up_for.end();
}

void ServiceRound::redirect(ServiceCopy& original, const ServiceCopy& replacement,
                            const std::string& proof) {
  set(original, ServiceCopyState::draining);
  const std::string how =
      proof == "requests" ? " has answered requests" : " is healthy, and nobody asks";
  boost::json::object facts = facts_of(*status().relocation);
  facts["proof"] = proof;
  tell("redirected",
       fmt::format("{}{}: {} gets no more of them", replacement.vm.value, how, original.vm.value),
       std::move(facts));
}

/// The original is there until consumers have answers: while they have none it does not go, and it
/// serves again when that lasts. True when it stays.
bool ServiceRound::recall(ServiceCopy& original) {
  constexpr Duration kReportsLate = seconds(2);
  const bool relocated = status().relocation && status().relocation->original == original.vm;
  const auto since = failing();
  // What began before is not the redirection's fault, and may be what it mends.
  if (!relocated || !since || *since > in_state(original.vm) + kReportsLate) return false;
  if (in_state(original.vm) < options_.failing_max || *since < options_.failing_max)
    return in_state(original.vm) < service_.spec.policy.drain_ms + service_.spec.policy.answer_ms;
  set(original, ServiceCopyState::serving);
  original.released = true;
  original.home = HostId();  // it is not tried again by itself
  if (ServiceCopy* replacement = find(status().relocation->replacement)) retire(*replacement);
  give_up(
      fmt::format("consumers have had no answer for {} ms since {} gets no requests: it serves "
                  "again",
                  to_ms(*since), original.vm.value));
  return true;
}

void ServiceRound::go_on_duplicate() {
  const ServiceRelocation& now = *status().relocation;
  ServiceCopy* original = find(now.original);
  ServiceCopy* replacement = find(now.replacement);
  if (original == nullptr || original->state == ServiceCopyState::retired) {
    tell("relocated",
         fmt::format("{} serves on {} instead of {} on {}", now.replacement.value, now.host.value,
                     now.original.value, now.source.value),
         facts_of(now));
    if (replacement != nullptr) {
      replacement->home = now.home;
      replacement->away_ms = now.away_ms;
      replacement->home_by = now.mode;
    }
    return status().relocation.reset();
  }
  if (replacement == nullptr) return give_up(now.replacement.value + " is gone");
  if (original->state == ServiceCopyState::draining) return;
  const auto age = evidence_.relocating.find(service_.id());
  const bool late =
      age != evidence_.relocating.end() && age->second >= service_.spec.policy.answer_ms;
  std::string proof;
  if (replacement->state == ServiceCopyState::serving && answers(replacement->vm, proof)) {
    if (up_beside(original->vm) >= wanted()) {
      return redirect(*original, *replacement, proof);
    }
    if (late) give_up("other copies of it are not healthy");
    return;
  }
  if (!late) return;
  const Vm& vm = *view_.vms.find(replacement->vm);
  std::string why = replacement->vm.value + " has not answered in time";
  if (!vm.status.unplaced_reason.empty()) why += ": " + vm.status.unplaced_reason;
  original->released = true;
  retire(*replacement);
  give_up(why);
}

/// The cluster moves the VM; its record says how that goes.
void ServiceRound::go_on_move() {
  const ServiceRelocation now = *status().relocation;
  ServiceCopy* copy = find(now.original);
  if (copy == nullptr) return give_up(now.original.value + " is gone");
  const Vm& vm = *view_.vms.find(now.original);
  if (!vm.status.operation.empty()) return;
  const auto age = evidence_.relocating.find(service_.id());
  const bool late =
      age != evidence_.relocating.end() && age->second >= service_.spec.policy.answer_ms;
  if (!vm.spec.move_to.empty()) {
    if (!late) return;
    step_.moves.emplace_back(vm.id(), HostId());
    return give_up("it could not begin to move: " + vm.status.unplaced_reason);
  }
  if (vm.status.host != now.host) {
    return give_up(fmt::format("{} is on {} still", vm.id().value, vm.status.host.value));
  }
  if (!up(*copy) && !late) return;
  copy->home = now.home;
  copy->away_ms = now.away_ms;
  copy->home_by = now.mode;
  if (!now.home.empty()) set(*copy, copy->state);  // its time away begins
  tell("relocated", fmt::format("{} serves on {} now", vm.id().value, now.host.value),
       facts_of(now));
  status().relocation.reset();
}

void ServiceRound::give_up(const std::string& why) {
  tell("relocation_failed", why, facts_of(*status().relocation), Severity::warning);
  status().relocation.reset();
}

}  // namespace virga
