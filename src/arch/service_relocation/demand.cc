#include <fmt/format.h>

#include <algorithm>

#include "arch/service_relocation/round.h"
#include "base/reflect.h"

namespace virga {
namespace {

std::string text_of(const Demand& demand) {
  if (demand.level == DemandLevel::low) return "demand is low";
  const std::string who = demand.level == DemandLevel::failing ? demand.copy.value + ": " : "";
  return fmt::format("{}{} {} > {}", who, demand.measure.substr(0, demand.measure.rfind("_max")),
                     demand.value, demand.limit);
}

}  // namespace

void ServiceRound::tell_demand(const Demand& demand, const std::string& what) {
  boost::json::object facts{{"initiator", enum_name(demand.initiator)}};
  if (demand.level != DemandLevel::low) {
    facts["measure"] = demand.measure;
    facts["value"] = demand.value;
    facts["limit"] = demand.limit;
  }
  tell(demand.level == DemandLevel::low ? "demand_low" : "demand_high",
       text_of(demand) + ": " + what, std::move(facts));
}

/// The scaling listener has no hands: what it has found becomes desired state here, or the cause
/// of a relocation.
void ServiceRound::answer_demand() {
  const ServiceScaling& limits = service_.spec.scaling;
  const int room = limits.action == ScalingAction::scale
                       ? std::max(0, limits.replicas_max - service_.spec.replicas)
                       : 0;
  status().extra = std::min(status().extra, room);
  const auto found = evidence_.demand.find(service_.id());
  if (found == evidence_.demand.end() || status().relocation || step_.create) return;
  if (limits.action == ScalingAction::none) return;
  const auto& [demand, failing] = found->second;
  if (failing.level == DemandLevel::failing && relieve(failing)) return;
  if (demand.level == DemandLevel::normal) return;
  if (limits.action == ScalingAction::scale) return scale(demand);
  if (demand.level != DemandLevel::high) return;
  if (!evidence_.spent.contains(service_.id())) {
    relieve(demand);
  } else {
    note_ = "demand is high; a relocation waits until its level is as promised again";
  }
}

void ServiceRound::scale(const Demand& demand) {
  if (demand.level == DemandLevel::low) {
    if (status().extra == 0) return;
    --status().extra;
    return tell_demand(demand, fmt::format("{} copies are enough", wanted()));
  }
  const int most = service_.spec.scaling.replicas_max;
  if (active() < wanted()) return;  // what it has asked for before has found no place yet
  if (wanted() >= most) {
    note_ = fmt::format("demand is high, and replicas_max is {}", most);
    return;
  }
  ++status().extra;
  tell_demand(demand, fmt::format("{} copies are wanted", wanted()));
}

/// Another host may have more to give; one that fails is replaced by a new one in any case. True
/// when that has begun.
bool ServiceRound::relieve(const Demand& demand) {
  ServiceCopy* copy = find(demand.copy);
  const Host* at = host_of(demand.copy);
  if (copy == nullptr || at == nullptr || copy->state != ServiceCopyState::serving) return false;
  const Vm& vm = *view_.vms.find(copy->vm);
  const bool fails = demand.level == DemandLevel::failing;
  // Who is being restarted, or boots, is not told by what its balancer sees.
  const bool settled = vm.status.power == VmPower::running &&
                       vm.status.health != VmHealth::unknown &&
                       at->status.health == HostHealth::alive;
  if (!settled) return false;
  if (holds_host_device(vm.spec)) {
    note_ = copy->vm.value + " uses a device of " + at->id().value + " directly: it stays there";
    return false;
  }
  const bool alive = !fails && service_.spec.scaling.action == ScalingAction::live_migration;
  ServiceRelocation wanted;
  wanted.mode = alive ? RelocationMode::live_migration : RelocationMode::duplicate;
  wanted.cause = text_of(demand);
  if (!copy->home.empty()) {  // where it is to go back to stays so
    wanted.home = copy->home;
    wanted.away_ms = copy->away_ms;
  } else if (service_.spec.policy.return_home && !fails) {
    wanted.home = at->id();
    wanted.away_ms = service_.spec.scaling.calm_ms;
  }
  const auto cause = static_cast<std::ptrdiff_t>(step_.events.size());
  begin(*copy, std::move(wanted));  // a new copy moves the others in memory
  if (!status().relocation) {
    note_ = "demand is high, but " + demand.copy.value + " cannot be relocated: " + note_;
    return false;
  }
  tell_demand(demand, demand.copy.value + " is relocated");
  std::rotate(step_.events.begin() + cause, step_.events.end() - 1, step_.events.end());
  return true;
}

}  // namespace virga
