#include "mechanism/placement/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <sstream>
#include <tuple>
#include <utility>

#include "base/reflect.h"
#include "mechanism/perimeter/regions.h"

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

std::string device_refusal(const Vm& vm, const Host& host) {
  for (const std::string& wanted : vm.spec.host_devices) {
    const auto& offered = host.status.host_devices;
    if (std::ranges::find(offered, wanted, &HostDevice::name) == offered.end())
      return "offers no host device " + wanted;
  }
  return {};
}

}  // namespace

Capacity demand_of(const Vm& vm) {
  const Millicores quota =
      vm.spec.cpu_millicores.value > 0 ? vm.spec.cpu_millicores : Millicores{1000} * vm.spec.cpus;
  return {quota, vm.spec.memory_mib + kHypervisorOverhead};
}

PlacementState::PlacementState(const ClusterView& view, const ClusterId& cluster) : view_(&view) {
  const Cluster* found = view.clusters.find(cluster);
  const std::int64_t percent = found == nullptr ? 100 : found->spec.policy.cpu_overcommit_percent;
  if (found != nullptr) tenant_ = found->meta.tenant;
  for (const Host* host : view.hosts_of(cluster)) {
    Member member;
    member.host = host;
    member.total = host->status.capacity;
    member.total.cpu_millicores.value = member.total.cpu_millicores.value * percent / 100;
    members_.push_back(std::move(member));
  }
  for (std::size_t index = 0; index < members_.size(); ++index) {
    by_room_.emplace(-room(members_[index]), index);
  }
  for (const Member& member : members_) {
    const HostId id = member.host->id();
    for (const Vm* vm : view.vms_on(id)) {
      const bool arrives = vm->status.migration.destination == id;
      if (arrives || (vm->status.host == id && counts_on_its_host(*vm))) add(*vm, id);
    }
  }
}

const PlacementState::Member* PlacementState::find(const HostId& host) const {
  const auto found = std::lower_bound(
      members_.begin(), members_.end(), host,
      [](const Member& member, const HostId& id) { return member.host->meta.name < id.value; });
  return found == members_.end() || found->host->meta.name != host.value ? nullptr : &*found;
}

PlacementState::Member* PlacementState::find(const HostId& host) {
  const Member* found = std::as_const(*this).find(host);
  return found == nullptr ? nullptr : &members_[static_cast<std::size_t>(found - members_.data())];
}

/// Millionths of the memory that are free.
std::int64_t PlacementState::room(const Member& member) const {
  const std::int64_t total = std::max<std::int64_t>(1, member.total.memory_mib.value);
  return free_on(member).memory_mib.value * 1'000'000 / total;
}

void PlacementState::use(Member& member, const Capacity& more) {
  const auto index = static_cast<std::size_t>(&member - members_.data());
  by_room_.erase({-room(member), index});
  member.used.cpu_millicores += more.cpu_millicores;
  member.used.memory_mib += more.memory_mib;
  by_room_.emplace(-room(member), index);
}

Capacity PlacementState::free_on(const HostId& host) const {
  const Member* member = find(host);
  return member == nullptr ? Capacity() : free_on(*member);
}

Capacity PlacementState::free_on(const Member& member) {
  return {member.total.cpu_millicores - member.used.cpu_millicores,
          member.total.memory_mib - member.used.memory_mib};
}

namespace {

/// By tenant and name; ids would have to be put together for each look.
bool comes_before(const Vm* left, const Vm& right) {
  return std::tie(left->meta.tenant, left->meta.name) <
         std::tie(right.meta.tenant, right.meta.name);
}

bool is_same(const Vm& left, const Vm& right) {
  return left.meta.tenant == right.meta.tenant && left.meta.name == right.meta.name;
}

}  // namespace

bool PlacementState::carries(const Member& member, const Vm& vm) {
  const auto at = std::lower_bound(member.vms.begin(), member.vms.end(), vm, comes_before);
  return at != member.vms.end() && is_same(**at, vm);
}

bool PlacementState::add(const Vm& vm, const HostId& host) {
  Member* member = find(host);
  if (member == nullptr) return false;
  const auto at = std::lower_bound(member->vms.begin(), member->vms.end(), vm, comes_before);
  if (at != member->vms.end() && is_same(**at, vm)) return false;
  member->vms.insert(at, &vm);
  use(*member, demand_of(vm));
  if (!vm.spec.anti_affinity_group.empty()) {
    ++member->groups[{vm.meta.tenant, vm.spec.anti_affinity_group}];
  }
  return true;
}

bool PlacementState::remove(const Vm& vm, const HostId& host) {
  Member* member = find(host);
  if (member == nullptr) return false;
  const auto at = std::lower_bound(member->vms.begin(), member->vms.end(), vm, comes_before);
  if (at == member->vms.end() || !is_same(**at, vm)) return false;
  member->vms.erase(at);
  const Capacity demand = demand_of(vm);
  use(*member, {Millicores{} - demand.cpu_millicores, Mib{} - demand.memory_mib});
  if (!vm.spec.anti_affinity_group.empty()) {
    --member->groups[{vm.meta.tenant, vm.spec.anti_affinity_group}];
  }
  return true;
}

void PlacementState::charge(const HostId& host, const Capacity& more) {
  if (Member* member = find(host)) use(*member, more);
}

void PlacementState::exclude(const HostId& host, bool excluded) {
  if (Member* member = find(host)) member->excluded = excluded;
}

std::vector<const Vm*> PlacementState::carried_by(const HostId& host) const {
  const Member* member = find(host);
  return member == nullptr ? std::vector<const Vm*>() : member->vms;
}

int PlacementState::alive() const {
  return static_cast<int>(std::count_if(members_.begin(), members_.end(), [](const Member& member) {
    return member.host->status.health == HostHealth::alive;
  }));
}

std::vector<HostId> PlacementState::members() const {
  std::vector<HostId> ids;
  ids.reserve(members_.size());
  for (const Member& member : members_) ids.push_back(member.host->id());
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

std::string quota_refusal(Millicores free, Millicores demand) {
  if (free >= demand) return {};
  return fmt::format("has {} millicores to promise, {} are needed", free.value, demand.value);
}

std::string room_refusal(const Capacity& free, const Capacity& demand) {
  if (free.memory_mib >= demand.memory_mib) {
    return quota_refusal(free.cpu_millicores, demand.cpu_millicores);
  }
  return fmt::format("has {} MiB of memory free, {} are needed", free.memory_mib.value,
                     demand.memory_mib.value);
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
  const Member* source = query.live ? find(query.vm->status.host) : nullptr;
  if (source != nullptr) {
    const std::string& sender = source->host->status.hypervisor.qemu_version;
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
  if (auto reason = device_refusal(vm, host); !reason.empty()) return reason;
  if (query.live && vm.status.host == host.id()) return "runs there now";
  if (query.live && may_lose_power(host)) return "may still be switched off";
  if (!host.status.leads_outside && view_->floating_addresses.count<FloatingOfVm>(vm.id()) > 0)
    return "has no way out (--outside-device) for the VM's floating address";
  if (auto reason = region_refusal(*view_, vm, host); !reason.empty()) return reason;
  if (auto reason = compatibility_refusal(member, query); !reason.empty()) return reason;
  const bool own = carries(member, vm);
  if (!vm.spec.anti_affinity_group.empty()) {
    const auto group = member.groups.find({vm.meta.tenant, vm.spec.anti_affinity_group});
    if (group != member.groups.end() && group->second > (own ? 1 : 0)) {
      return fmt::format("carries another VM of group {}", vm.spec.anti_affinity_group);
    }
  }
  if (own) return {};
  return room_refusal(free_on(member), demand_of(vm));
}

/// As a refusal that is empty, without words for what is full.
bool PlacementState::takes(const Member& member, const PlacementQuery& query) const {
  const Capacity free = free_on(member);
  const Capacity demand = demand_of(*query.vm);
  const bool fits =
      free.memory_mib >= demand.memory_mib && free.cpu_millicores >= demand.cpu_millicores;
  if (!fits && !carries(member, *query.vm)) return false;
  return refusal(member, query).empty();
}

std::string text_of(const std::vector<Refusal>& refusals) {
  constexpr std::size_t kMost = 5;
  if (refusals.empty()) return "the cluster has no hosts";
  std::string text;
  for (std::size_t index = 0; index < refusals.size() && index < kMost; ++index) {
    if (!text.empty()) text += "; ";
    text += refusals[index].host.value + " " + refusals[index].reason;
  }
  if (refusals.size() > kMost) text += fmt::format("; and {} more", refusals.size() - kMost);
  return text;
}

std::optional<HostId> PlacementState::choose(const PlacementQuery& query) const {
  const Member* preferred = nullptr;
  for (const HostId& host : query.prefer) {
    const Member* member = query.avoid.contains(host) ? nullptr : find(host);
    if (member == nullptr || !takes(*member, query)) continue;
    if (preferred == nullptr || room(*member) > room(*preferred)) preferred = member;
  }
  if (preferred != nullptr) return preferred->host->id();
  std::optional<HostId> avoided;
  for (const auto& [room, index] : by_room_) {
    const Member& member = members_[index];
    HostId id = member.host->id();
    const bool avoid = query.avoid.contains(id);
    if ((avoid && avoided) || !takes(member, query)) continue;
    if (!avoid) return id;
    avoided = std::move(id);
  }
  return avoided;
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
  return std::any_of(members_.begin(), members_.end(), [&](const Member& member) {
    const Capacity free = free_on(member);
    if (free.memory_mib < sum.memory_mib || free.cpu_millicores < sum.cpu_millicores) return false;
    if (std::find(lost.begin(), lost.end(), member.host->id()) != lost.end()) return false;
    return std::all_of(orphans.begin(), orphans.end(), [&](const Vm* vm) {
      return refusal(member, {.vm = vm, .live = false, .avoid = {}}).empty();
    });
  });
}

std::vector<Refusal> PlacementState::explain(const PlacementQuery& query) const {
  std::vector<Refusal> reasons;
  for (const Member& member : members_) {
    auto reason = refusal(member, query);
    if (!reason.empty()) reasons.push_back({member.host->id(), std::move(reason)});
  }
  return reasons;
}

bool restarts_before(const Vm& left, const Vm& right) {
  const auto rank = [](const Vm& vm) {
    return std::tuple(static_cast<int>(vm.spec.restart_priority), -vm.spec.memory_mib.value);
  };
  const auto left_rank = rank(left);
  const auto right_rank = rank(right);
  if (left_rank != right_rank) return left_rank < right_rank;
  const bool one_tenant = left.meta.tenant == right.meta.tenant;  // then no id is put together
  return one_tenant ? left.meta.name < right.meta.name : left.id() < right.id();
}

namespace {

/// Tries a loss on a state and takes everything back. The lost are left out, what they carry stays
/// counted on them.
class Rehearsal {
 public:
  Rehearsal(PlacementState& state, const std::vector<HostId>& lost) : state_(state), lost_(lost) {
    for (const HostId& host : lost_) {
      for (const Vm* vm : state_.carried_by(host)) {
        if (vm->status.host == host) orphans_.push_back(vm);
      }
      state_.exclude(host);
    }
    std::sort(orphans_.begin(), orphans_.end(),
              [](const Vm* left, const Vm* right) { return restarts_before(*left, *right); });
  }
  ~Rehearsal() {
    for (const auto& [vm, host] : added_) state_.remove(*vm, host);
    for (const HostId& host : lost_) state_.exclude(host, false);
  }
  Rehearsal(const Rehearsal&) = delete;
  Rehearsal& operator=(const Rehearsal&) = delete;

  LossPlan plan(bool explained) {
    LossPlan plan;
    plan.lost = lost_;
    for (const Vm* vm : orphans_) {
      if (vm->spec.restart_priority == RestartPriority::none) continue;
      const PlacementQuery query{.vm = vm, .live = false, .avoid = {}};
      if (const auto target = state_.choose(query)) {
        if (state_.add(*vm, *target)) added_.emplace_back(vm, *target);
        plan.restarts.emplace_back(vm->id(), *target);
      } else if (is_lost(vm->spec.pinned_host)) {
        plan.pinned.push_back(vm->id());
      } else {
        plan.stranded.emplace_back(vm->id(),
                                   explained ? state_.explain(query) : std::vector<Refusal>());
      }
    }
    return plan;
  }

 private:
  bool is_lost(const HostId& host) const {
    return std::find(lost_.begin(), lost_.end(), host) != lost_.end();
  }

  PlacementState& state_;
  const std::vector<HostId>& lost_;
  std::vector<const Vm*> orphans_;
  std::vector<std::pair<const Vm*, HostId>> added_;
};

/// Combinations of `count` members, those that carry most first, until `stop` says so.
void each_loss(const PlacementState& state, int count,
               const std::function<bool(const std::vector<HostId>&)>& stop) {
  if (count <= 0) return;
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
  for (int tries = 0; tries < tries_max && chosen > 0; ++tries) {
    std::vector<HostId> lost;
    for (const std::size_t index : pick) lost.push_back(members[index]);
    if (stop(lost)) return;
    std::size_t turn = chosen;
    while (turn > 0 && pick[turn - 1] == size - chosen + turn - 1) --turn;
    if (turn == 0) break;
    ++pick[turn - 1];
    for (std::size_t index = turn; index < chosen; ++index) pick[index] = pick[index - 1] + 1;
  }
}

}  // namespace

LossPlan plan_loss(PlacementState& state, const std::vector<HostId>& lost) {
  return Rehearsal(state, lost).plan(true);
}

std::optional<LossPlan> broken_reserve(const PlacementState& before, const PlacementState& after,
                                       int tolerated) {
  PlacementState then = after;
  std::optional<PlacementState> now;
  std::optional<LossPlan> broken;
  each_loss(after, std::min(tolerated, after.alive() - 1), [&](const std::vector<HostId>& lost) {
    if (then.one_takes_all_of(lost)) return false;
    const auto stranded = Rehearsal(then, lost).plan(false).stranded;
    if (stranded.empty()) return false;
    if (!now) now = before;
    std::set<VmId> already;
    for (const auto& [vm, reasons] : Rehearsal(*now, lost).plan(false).stranded) already.insert(vm);
    const auto is_old = [&](const auto& one) { return already.contains(one.first); };
    if (std::all_of(stranded.begin(), stranded.end(), is_old)) return false;
    broken = plan_loss(then, lost);
    std::erase_if(broken->stranded, is_old);
    return true;
  });
  return broken;
}

std::vector<Refusal> refuse_quota(const ClusterView& view, const Vm& before, const Vm& after) {
  const Millicores wanted = demand_of(after).cpu_millicores;
  if (wanted <= demand_of(before).cpu_millicores || !counts_on_its_host(before)) return {};
  const PlacementState now(view, after.spec.cluster);
  PlacementState then = now;
  std::vector<Refusal> refusals;
  for (const HostId& host : {before.status.host, before.status.migration.destination}) {
    if (!then.remove(before, host)) continue;
    auto reason = quota_refusal(then.free_on(host).cpu_millicores, wanted);
    if (!reason.empty()) refusals.push_back({host, std::move(reason)});
    then.add(after, host);
  }
  if (!refusals.empty()) return refusals;
  const Cluster* cluster = view.clusters.find(after.spec.cluster);
  const int tolerated = cluster == nullptr ? 0 : cluster->spec.policy.failures_tolerated;
  const auto broken = broken_reserve(now, then, tolerated);
  if (!broken) return {};
  for (const HostId& host : broken->lost) {
    refusals.push_back({host, fmt::format("with its loss {} would find no room",
                                          broken->stranded.front().first.value)});
  }
  return refusals;
}

}  // namespace virga
