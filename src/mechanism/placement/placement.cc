#include "mechanism/placement/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <tuple>

#include "base/reflect.h"

namespace virga {
namespace {

/// Memory that QEMU needs beside the guest's own, measured for the tiny guest.
constexpr Mib kHypervisorOverhead{64};

bool counts_on_its_host(const Vm& vm) {
  return !vm.status.host.empty() &&
         (vm.status.power != VmPower::stopped || !vm.status.operation.empty());
}

bool takes_guests(const Host& host) {
  return host.status.health == HostHealth::alive && !host.spec.maintenance;
}

}  // namespace

Capacity demand_of(const Vm& vm) {
  const Millicores quota =
      vm.spec.cpu_millicores.value > 0 ? vm.spec.cpu_millicores : Millicores{1000} * vm.spec.cpus;
  return {quota, vm.spec.memory_mib + kHypervisorOverhead};
}

PlacementState::PlacementState(const ClusterView& view, const ClusterId& cluster) {
  const Cluster* found = view.clusters.find(cluster);
  const std::int64_t percent = found == nullptr ? 100 : found->spec.policy.cpu_overcommit_percent;
  if (found != nullptr) tenant_ = found->meta.tenant;
  for (const Host* host : view.hosts_of(cluster)) {
    Member& member = members_[host->id()];
    member.host = host;
    member.total = host->status.capacity;
    member.total.cpu_millicores.value = member.total.cpu_millicores.value * percent / 100;
  }
  for (const auto& [id, member] : members_) {
    for (const Vm* vm : view.vms_on(id)) {
      const bool arrives = vm->status.migration.destination == id;
      if (arrives || (vm->status.host == id && counts_on_its_host(*vm))) add(*vm, id);
    }
  }
}

Capacity PlacementState::free_on(const HostId& host) const {
  const auto found = members_.find(host);
  return found == members_.end() ? Capacity() : free_on(found->second);
}

Capacity PlacementState::free_on(const Member& member) {
  return {member.total.cpu_millicores - member.used.cpu_millicores,
          member.total.memory_mib - member.used.memory_mib};
}

void PlacementState::add(const Vm& vm, const HostId& host) {
  const auto found = members_.find(host);
  if (found == members_.end()) return;
  Member& member = found->second;
  if (!member.vms.emplace(vm.id(), &vm).second) return;
  const Capacity demand = demand_of(vm);
  member.used.cpu_millicores += demand.cpu_millicores;
  member.used.memory_mib += demand.memory_mib;
  if (!vm.spec.anti_affinity_group.empty()) {
    ++member.groups[{vm.meta.tenant, vm.spec.anti_affinity_group}];
  }
}

void PlacementState::remove(const Vm& vm, const HostId& host) {
  const auto found = members_.find(host);
  if (found == members_.end() || found->second.vms.erase(vm.id()) == 0) return;
  Member& member = found->second;
  const Capacity demand = demand_of(vm);
  member.used.cpu_millicores -= demand.cpu_millicores;
  member.used.memory_mib -= demand.memory_mib;
  if (!vm.spec.anti_affinity_group.empty()) {
    --member.groups[{vm.meta.tenant, vm.spec.anti_affinity_group}];
  }
}

void PlacementState::charge(const HostId& host, const Capacity& more) {
  const auto found = members_.find(host);
  if (found == members_.end()) return;
  found->second.used.cpu_millicores += more.cpu_millicores;
  found->second.used.memory_mib += more.memory_mib;
}

void PlacementState::exclude(const HostId& host) {
  const auto found = members_.find(host);
  if (found != members_.end()) found->second.excluded = true;
}

std::vector<const Vm*> PlacementState::carried_by(const HostId& host) const {
  std::vector<const Vm*> carried;
  const auto found = members_.find(host);
  if (found == members_.end()) return carried;
  for (const auto& [id, vm] : found->second.vms) carried.push_back(vm);
  return carried;
}

int PlacementState::alive() const {
  return static_cast<int>(std::count_if(members_.begin(), members_.end(), [](const auto& entry) {
    return entry.second.host->status.health == HostHealth::alive;
  }));
}

std::vector<HostId> PlacementState::members() const {
  std::vector<HostId> ids;
  ids.reserve(members_.size());
  for (const auto& [id, member] : members_) ids.push_back(id);
  return ids;
}

namespace {

/// Numbers between dots, compared one by one: 7.2.9 is older than 7.2.22.
bool is_older(const std::string& left, const std::string& right) {
  const auto numbers = [](const std::string& version) {
    std::vector<int> parts;
    std::istringstream text(version);
    for (std::string part; std::getline(text, part, '.');) parts.push_back(std::atoi(part.c_str()));
    return parts;
  };
  return numbers(left) < numbers(right);
}

std::string room_refusal(const Capacity& free, const Capacity& demand) {
  if (free.memory_mib < demand.memory_mib) {
    return fmt::format("has {} MiB of memory free, {} are needed", free.memory_mib.value,
                       demand.memory_mib.value);
  }
  if (free.cpu_millicores < demand.cpu_millicores) {
    return fmt::format("has {} millicores to promise, {} are needed", free.cpu_millicores.value,
                       demand.cpu_millicores.value);
  }
  return {};
}

}  // namespace

std::string PlacementState::compatibility_refusal(const Member& member,
                                                  const PlacementQuery& query) const {
  const VmIdentity& identity = query.vm->status.identity;
  if (identity.machine_type.empty()) return {};
  const HypervisorInfo& hypervisor = member.host->status.hypervisor;
  const auto& types = hypervisor.machine_types;
  if (std::find(types.begin(), types.end(), identity.machine_type) == types.end()) {
    return fmt::format("does not offer machine type {}", identity.machine_type);
  }
  if (hypervisor.accelerator != identity.accelerator) {
    return fmt::format("runs guests with {}, this one was made for {}",
                       enum_name(hypervisor.accelerator), enum_name(identity.accelerator));
  }
  if (query.live && hypervisor.cpu_model != identity.cpu_model) {
    return fmt::format("processor model {} differs from {}", hypervisor.cpu_model,
                       identity.cpu_model);
  }
  const auto source = members_.find(query.vm->status.host);
  if (query.live && source != members_.end()) {
    const std::string& sender = source->second.host->status.hypervisor.qemu_version;
    if (is_older(hypervisor.qemu_version, sender)) {
      return fmt::format("its QEMU {} is older than {} on {}", hypervisor.qemu_version, sender,
                         query.vm->status.host.value);
    }
  }
  return {};
}

std::string PlacementState::refusal(const Member& member, const PlacementQuery& query) const {
  const Vm& vm = *query.vm;
  const Host& host = *member.host;
  if (member.excluded) return "is taken out";
  if (!takes_guests(host)) {
    if (host.spec.maintenance) return "is in maintenance";
    return fmt::format("is {}", enum_name(host.status.health));
  }
  if (!tenant_.empty() && tenant_ != vm.meta.tenant) {
    return fmt::format("belongs to a cluster of tenant {}", tenant_);
  }
  if (!vm.spec.pinned_host.empty() && vm.spec.pinned_host != host.id()) {
    return fmt::format("the VM is pinned to {}", vm.spec.pinned_host.value);
  }
  if (query.live && vm.status.host == host.id()) return "runs there now";
  if (auto reason = compatibility_refusal(member, query); !reason.empty()) return reason;
  const bool own = member.vms.contains(vm.id());
  if (!vm.spec.anti_affinity_group.empty()) {
    const auto group = member.groups.find({vm.meta.tenant, vm.spec.anti_affinity_group});
    if (group != member.groups.end() && group->second > (own ? 1 : 0)) {
      return fmt::format("carries another VM of group {}", vm.spec.anti_affinity_group);
    }
  }
  if (own) return {};
  return room_refusal(free_on(member), demand_of(vm));
}

std::optional<HostId> PlacementState::choose(const PlacementQuery& query) const {
  std::optional<HostId> best;
  std::tuple<bool, std::int64_t> best_score;
  for (const auto& [id, member] : members_) {
    if (!refusal(member, query).empty()) continue;
    const std::int64_t total = std::max<std::int64_t>(1, member.total.memory_mib.value);
    const std::int64_t left = free_on(member).memory_mib.value * 1'000'000 / total;
    const std::tuple<bool, std::int64_t> score{!query.avoid.contains(id), left};
    if (!best || score > best_score) {
      best = id;
      best_score = score;
    }
  }
  return best;
}

bool PlacementState::one_takes_all_of(const std::vector<HostId>& lost) const {
  std::vector<const Vm*> orphans;
  Capacity sum;
  for (const HostId& host : lost) {
    for (const Vm* vm : carried_by(host)) {
      if (vm->status.host != host || vm->spec.restart_priority == RestartPriority::none) continue;
      if (!vm->spec.anti_affinity_group.empty()) return false;
      orphans.push_back(vm);
      sum.cpu_millicores += demand_of(*vm).cpu_millicores;
      sum.memory_mib += demand_of(*vm).memory_mib;
    }
  }
  return std::any_of(members_.begin(), members_.end(), [&](const auto& entry) {
    const Member& member = entry.second;
    const Capacity free = free_on(member);
    if (free.memory_mib < sum.memory_mib || free.cpu_millicores < sum.cpu_millicores) return false;
    if (std::find(lost.begin(), lost.end(), entry.first) != lost.end()) return false;
    return std::all_of(orphans.begin(), orphans.end(), [&](const Vm* vm) {
      return refusal(member, {.vm = vm, .live = false, .avoid = {}}).empty();
    });
  });
}

std::vector<Refusal> PlacementState::explain(const PlacementQuery& query) const {
  std::vector<Refusal> reasons;
  for (const auto& [id, member] : members_) {
    if (auto reason = refusal(member, query); !reason.empty()) reasons.push_back({id, reason});
  }
  return reasons;
}

bool restarts_before(const Vm& left, const Vm& right) {
  const auto rank = [](const Vm& vm) {
    return std::tuple(static_cast<int>(vm.spec.restart_priority), -vm.spec.memory_mib.value);
  };
  const auto left_rank = rank(left);
  const auto right_rank = rank(right);
  return left_rank != right_rank ? left_rank < right_rank : left.id() < right.id();
}

LossPlan plan_loss(const PlacementState& before, const std::vector<HostId>& lost) {
  LossPlan plan;
  plan.lost = lost;
  PlacementState state = before;
  std::vector<const Vm*> orphans;
  for (const HostId& host : lost) {
    for (const Vm* vm : before.carried_by(host)) {
      if (vm->status.host == host) orphans.push_back(vm);
      state.remove(*vm, host);
    }
    state.exclude(host);
  }
  std::sort(orphans.begin(), orphans.end(),
            [](const Vm* left, const Vm* right) { return restarts_before(*left, *right); });
  for (const Vm* vm : orphans) {
    if (vm->spec.restart_priority == RestartPriority::none) continue;
    const PlacementQuery query{.vm = vm, .live = false, .avoid = {}};
    const auto target = state.choose(query);
    if (target) {
      state.add(*vm, *target);
      plan.restarts.emplace_back(vm->id(), *target);
    } else {
      plan.stranded.emplace_back(vm->id(), state.explain(query));
    }
  }
  return plan;
}

std::vector<LossPlan> unabsorbed_losses(const PlacementState& state, int count, std::size_t limit) {
  std::vector<LossPlan> found;
  if (count <= 0) return found;
  std::vector<HostId> members = state.members();
  std::stable_sort(members.begin(), members.end(), [&](const HostId& left, const HostId& right) {
    return state.carried_by(left).size() > state.carried_by(right).size();
  });
  const auto size = members.size();
  const auto chosen = std::min(static_cast<std::size_t>(count), size);
  std::vector<std::size_t> pick(chosen);
  for (std::size_t index = 0; index < chosen; ++index) pick[index] = index;
  constexpr int kCombinationsMax = 2000;
  const int tries_max = chosen == 1 ? static_cast<int>(size) : kCombinationsMax;
  for (int tries = 0; tries < tries_max && chosen > 0 && found.size() < limit; ++tries) {
    std::vector<HostId> lost;
    for (const std::size_t index : pick) lost.push_back(members[index]);
    if (!state.one_takes_all_of(lost)) {
      LossPlan plan = plan_loss(state, lost);
      if (!plan.stranded.empty()) found.push_back(std::move(plan));
    }
    std::size_t turn = chosen;
    while (turn > 0 && pick[turn - 1] == size - chosen + turn - 1) --turn;
    if (turn == 0) break;
    ++pick[turn - 1];
    for (std::size_t index = turn; index < chosen; ++index) pick[index] = pick[index - 1] + 1;
  }
  return found;
}

std::optional<LossPlan> broken_reserve(const PlacementState& state, int tolerated) {
  auto losses = unabsorbed_losses(state, std::min(tolerated, state.alive() - 1), 1);
  if (losses.empty()) return std::nullopt;
  return std::move(losses.front());
}

std::vector<Refusal> refuse_growth(const ClusterView& view, const Vm& before, const Vm& after) {
  const Capacity had = demand_of(before);
  const Capacity wants = demand_of(after);
  const bool grows = wants.cpu_millicores > had.cpu_millicores || wants.memory_mib > had.memory_mib;
  if (!grows || !counts_on_its_host(before)) return {};
  PlacementState state(view, after.spec.cluster);
  std::vector<Refusal> refusals;
  for (const HostId& host : {before.status.host, before.status.migration.destination}) {
    if (host.empty()) continue;
    state.remove(before, host);
    const std::string reason = room_refusal(state.free_on(host), wants);
    if (!reason.empty()) refusals.push_back({host, reason});
    state.add(after, host);
  }
  if (!refusals.empty()) return refusals;
  const Cluster* cluster = view.clusters.find(after.spec.cluster);
  const int tolerated = cluster == nullptr ? 0 : cluster->spec.policy.failures_tolerated;
  const auto broken = broken_reserve(state, tolerated);
  if (!broken) return {};
  for (const HostId& host : broken->lost) {
    refusals.push_back({host, fmt::format("with its loss {} would find no room",
                                          broken->stranded.front().first.value)});
  }
  return refusals;
}

}  // namespace virga
