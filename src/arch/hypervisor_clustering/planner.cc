#include "arch/hypervisor_clustering/planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "arch/hypervisor_clustering/disk_places.h"
#include "base/reflect.h"
#include "mechanism/storage/vm_volumes.h"
#include "model/keys.h"

namespace virga {
namespace {

class Planner {
 public:
  Planner(const ClusterView& view, const ClusterId& cluster, const ClusterEvidence& evidence,
          const ClusterOptions& options)
      : view_(view), cluster_(cluster), evidence_(evidence), options_(options) {}

  ClusterPlan plan() {
    const Cluster* cluster = view_.clusters.find(cluster_);
    if (cluster == nullptr) return {};
    policy_ = cluster->spec.policy;
    armed_ = policy_.ha_armed && !evidence_.recovery_held;
    count_operations();
    judge_hosts();
    list_members();
    for (const Vm* vm : view_.vms_of(cluster_)) decide(*vm);
    refuse_strangers();
    place_waiting();
    return std::move(plan_);
  }

 private:
  struct Waiting {
    const Vm* vm = nullptr;
    LostCopies lost;
    std::string reason;
    bool recovery = false;
  };

  /// A host of the cluster with what is known of it; read many times a plan, so looked up once.
  struct Member {
    const Host* host = nullptr;  ///< with this plan's change in it
    const HostEvidence* evidence = nullptr;
  };

  const Member* find_member(const HostId& host) const {
    const auto found = std::lower_bound(
        members_.begin(), members_.end(), host,
        [](const Member& member, const HostId& id) { return member.host->meta.name < id.value; });
    return found == members_.end() || found->host->meta.name != host.value ? nullptr : &*found;
  }

  const HostEvidence& evidence_of(const HostId& host) const {
    static const HostEvidence kNothing;
    if (const Member* member = find_member(host)) return *member->evidence;
    const auto found = evidence_.hosts.find(host);
    return found == evidence_.hosts.end() ? kNothing : found->second;
  }

  bool reports(const HostEvidence& evidence) const {
    return evidence.reported && evidence.silence < policy_.suspect_after_ms && !evidence.cut_off;
  }
  bool reports(const HostId& host) const { return reports(evidence_of(host)); }

  /// True when the host's last report lists a copy of the VM, of whatever epoch.
  bool runs_on(const VmId& vm, const HostId& host) const {
    const auto& copies = evidence_of(host).vms;
    return std::any_of(copies.begin(), copies.end(),
                       [&](const ObservedVm& copy) { return copy.vm == vm; });
  }

  /// The copy with the epoch in force, as its host has last reported it; nullptr when it has not.
  const ObservedVm* copy_of(const Vm& vm) const {
    const auto& copies = evidence_of(vm.status.host).vms;
    const auto copy = std::find_if(copies.begin(), copies.end(), [&](const ObservedVm& candidate) {
      return candidate.vm == vm.id() && candidate.epoch == vm.status.epoch;
    });
    return copy == copies.end() ? nullptr : &*copy;
  }

  const Host* host_of(const Vm& vm) const {
    if (vm.status.host.empty()) return nullptr;
    const Member* member = find_member(vm.status.host);
    return member != nullptr ? member->host : view_.hosts.find(vm.status.host);
  }

  /// The VM of a copy on `host`. Nearly always one that is stored as being there.
  const Vm* vm_of(const ObservedVm& copy, const std::vector<const Vm*>& stored_there) const {
    for (const Vm* vm : stored_there) {
      if (vm->id() == copy.vm) return vm;
    }
    return view_.vms.find(copy.vm);
  }

  /// How the hosts are filled; made when something is to be placed for the first time.
  PlacementState& state() {
    if (!state_) {
      state_.emplace(view_, cluster_);
      count_copies();
    }
    return *state_;
  }

  bool room_for(std::size_t planned) const {
    return planned < static_cast<std::size_t>(options_.actions_max);
  }

  void count_operations();
  void judge_hosts();
  void list_members();
  void judge(const Host& host, bool most_are_silent);
  void plan_fence(const Host& host, const HostChange& change);
  void fence_by_storage(const Vm& vm, const Host& host);
  bool answers(const ServedVolume& one) const;
  std::string volumes_stand_in_the_way(const Waiting& waiting,
                                       std::map<VolumeId, DeviceId>& kept) const;
  void decide(const Vm& vm);
  bool decide_superseding(const Vm& vm);
  bool observe(const Vm& vm, const ObservedVm* copy);
  void decide_running(const Vm& vm, const ObservedVm* copy);
  bool leave(const Vm& vm, const Host& host);
  void limit(const Vm& vm, const ObservedVm& copy, bool stays);
  void clear_unplaced(const Vm& vm);
  void decide_stopped(const Vm& vm);
  void decide_deleting(const Vm& vm);
  void recover(const Vm& vm, const Host& lost);
  void move_away(const Vm& vm, const std::string& reason);
  void move_to(const Vm& vm, const HostId& destination, const std::string& reason);
  void refuse_strangers();
  void move_disk(const Vm& vm, const ObservedVm& copy);
  bool settle_disks(const Vm& vm, const ObservedVm& copy);
  void call_off_move(const Vm& vm);
  bool grow_disk(const Vm& vm, const ObservedVm& copy);
  void count_copies();
  void judge_copy(const HostId& host, const ObservedVm& copy, const Vm* vm);
  void place_waiting();
  bool place(const Waiting& waiting);
  void leave_unplaced(const Waiting& waiting, std::string reason, std::vector<Refusal> refusals);
  PlacementQuery query_for(const Vm& vm, bool live) const;

  ClusterView view_;  ///< with this plan's host changes in it
  const ClusterId& cluster_;
  const ClusterEvidence& evidence_;
  const ClusterOptions& options_;
  ClusterPolicy policy_;
  bool armed_ = false;
  std::vector<Member> members_;  ///< in order of id; filled once the hosts are judged
  std::optional<PlacementState> state_;
  std::map<HostId, Millicores> unclaimed_;  ///< promised to copies that do not have it yet
  std::map<HostId, int> starts_;
  std::map<HostId, int> moves_;
  std::map<HostId, int> copies_;          ///< of disks of its VMs to other devices
  std::set<HostId> may_lose_power_;
  std::set<HostId> takes_local_volumes_;  ///< by this plan's own moves
  std::vector<Waiting> waiting_;
  std::set<VmId> decided_;
  ClusterPlan plan_;
};

void Planner::count_operations() {
  for (const Host* member : view_.hosts_of(cluster_)) {
    const HostId host = member->id();
    for (const Operation* operation : view_.operations_on(host)) {
      const OperationArguments& arguments = operation->arguments;
      const bool comes = arguments.destination == host;
      if (operation->kind == OperationKind::start_vm && comes) ++starts_[host];
      if (operation->kind == OperationKind::move_disk) ++copies_[host];
      if (operation->kind != OperationKind::migrate_vm) continue;
      if (arguments.source == host) ++moves_[host];
      if (comes) ++moves_[host];
    }
  }
}

void Planner::judge_hosts() {
  const std::vector<const Host*> hosts = view_.hosts_of(cluster_);
  int silent = 0;
  int counted = 0;
  for (const Host* host : hosts) {
    const HostEvidence& evidence = evidence_of(host->id());
    if (host->status.health == HostHealth::unknown && !evidence.reported) continue;
    if (host->status.health == HostHealth::fenced || is_let_go(view_, *host, evidence)) continue;
    ++counted;
    if (!reports(host->id())) ++silent;
  }
  const bool most_are_silent = silent >= 2 && silent * 2 > counted;
  std::vector<std::shared_ptr<const Host>> shared;
  for (const Host* host : hosts) shared.push_back(view_.hosts.share(host->id()));
  for (const auto& host : shared) judge(*host, most_are_silent);
}

void Planner::list_members() {
  const std::vector<const Host*> hosts = view_.hosts_of(cluster_);
  std::vector<Member> members;
  members.reserve(hosts.size());
  for (const Host* host : hosts) {
    members.push_back({host, &evidence_of(host->id())});
    if (may_lose_power(*host)) may_lose_power_.insert(host->id());
  }
  members_ = std::move(members);
}

void Planner::judge(const Host& host, bool most_are_silent) {
  const HostEvidence& evidence = evidence_of(host.id());
  HostChange change = judge_host(host, evidence, policy_, most_are_silent, has_bmc(view_, host));
  const bool slow_observer = evidence_.observer_lag > options_.observer_lag_max;
  if (slow_observer && change.health > HostHealth::degraded && change.proof == FenceProof::none) {
    return;
  }
  if (change.health != host.status.health || change.proof != host.status.fence_proof ||
      change.reason != host.status.health_reason) {
    Host changed = host;
    changed.status.health = change.health;
    changed.status.fence_proof = change.proof;
    changed.status.health_reason = change.reason;
    // A change copies the table that others hold: this one has the cluster's own hosts only.
    if (plan_.host_changes.empty()) view_.hosts = view_.hosts.only<HostsOfCluster>(cluster_);
    view_.hosts.put(std::make_shared<const Host>(std::move(changed)));
    plan_.host_changes.push_back(change);
  }
  plan_fence(host, change);
}

void Planner::plan_fence(const Host& host, const HostChange& change) {
  const HostEvidence& evidence = evidence_of(host.id());
  const bool confirmed_silence =
      evidence.silence >= policy_.suspect_after_ms + policy_.confirm_after_ms;
  const bool dead = change.health == HostHealth::dead;
  const bool ask = change.health == HostHealth::suspect && confirmed_silence &&
                   (evidence.observers == 0 || evidence.observers_silent == evidence.observers);
  if (!dead && !ask) return;
  if (!armed_ || !evidence.fence_may_begin || !host.status.operation.empty()) return;
  if (!has_bmc(view_, host) || is_let_go(view_, host, evidence)) return;
  plan_.fences.push_back({host.id(), host.status.boot_id, !dead, change.reason});
}

/// Beside whatever else may prove the host unable to act: the first proof counts.
void Planner::fence_by_storage(const Vm& vm, const Host& host) {
  if (host.status.health != HostHealth::dead || !armed_) return;
  if (vm.spec.restart_priority == RestartPriority::none || !storage_can_fence(view_, vm)) return;
  if (evidence_.fences_resting.contains(vm.id()) || !room_for(plan_.vm_fences.size())) return;
  const auto volumes = volumes_of(view_, vm);
  if (!volumes || astray_disk(view_, copy_of(vm)) != nullptr) return;
  const auto answers = [&](const ServedVolume& one) {
    return one.host != host.id() && reports(one.host);
  };
  if (!each_volume(*volumes, answers)) return;
  plan_.vm_fences.push_back({vm.id(), host.id(),
                             std::max(vm.status.epoch, vm.status.migration.epoch),
                             host.meta.name + " is dead: " + host.status.health_reason});
}

void Planner::decide(const Vm& vm) {
  if (!vm.status.operation.empty()) {
    if (!decide_superseding(vm)) return call_off_move(vm);
    decided_.insert(vm.id());
    return;
  }
  const ObservedVm* copy = copy_of(vm);
  if (observe(vm, copy)) {
    decided_.insert(vm.id());
    return;
  }
  if (vm.meta.deleting_at) return decide_deleting(vm);
  if (vm.spec.power == DesiredPower::stopped) return decide_stopped(vm);
  decide_running(vm, copy);
}

/// An operation whose outcome a fenced host has made certain is replaced by a recovery. A migration
/// that is switching is not: its own steps know which copy may go on.
bool Planner::decide_superseding(const Vm& vm) {
  const Operation* operation = view_.operations.find(vm.status.operation);
  if (operation == nullptr || operation->kind == OperationKind::delete_vm) return false;
  if (vm.status.migration.phase == MigrationPhase::switching) return false;
  const Host* host = host_of(vm);
  const bool moves =
      operation->kind == OperationKind::migrate_vm || operation->kind == OperationKind::move_disk;
  if (host != nullptr && moves && !reports(host->id())) {
    fence_by_storage(vm, *host);  // its steps wait for the source: no other proof may come soon
  }
  if (host == nullptr || host->status.health != HostHealth::fenced) return false;
  if (operation->kind == OperationKind::stop_vm) return false;
  recover(vm, *host);
  return true;
}

/// What is asked of a VM does not wait for the copy of a disk, which may take hours. Also when its
/// guest waits on a place of a mirrored volume that takes nothing: it is put on the other one then.
void Planner::call_off_move(const Vm& vm) {
  const Operation* operation = view_.operations.find(vm.status.operation);
  const ObservedVm* copy = copy_of(vm);
  if (operation == nullptr || copy == nullptr || operation->cancel_requested) return;
  if (vm.status.migration.phase == MigrationPhase::switching) return;
  const bool moves =
      operation->kind == OperationKind::migrate_vm || operation->kind == OperationKind::move_disk;
  if (!moves || operation->state != OperationState::running) return;
  if (!room_for(plan_.called_off.size())) return;
  std::string why;
  if (operation->kind == OperationKind::move_disk) why = called_for(vm, host_of(vm), armed_);
  if (const ObservedDisk* disk = failing_disk(*copy)) {
    why = fmt::format("volume {}: its place on {} does not take what is written",
                      disk->volume.value, disk->failing.front().value);
  }
  if (!why.empty()) plan_.called_off.push_back({operation->id(), vm.id(), std::move(why)});
}

/// The stored state follows the report of the VM's host.
bool Planner::observe(const Vm& vm, const ObservedVm* copy) {
  const HostId& host = vm.status.host;
  if (host.empty()) return false;
  ObserveVm seen{vm.id(), vm.status.power, vm.status.health, vm.status.health_reason,
                 host,    vm.status.epoch};
  const Host* place = host_of(vm);
  const HostEvidence& evidence = evidence_of(host);
  if (reports(evidence)) {
    if (copy == nullptr) {
      seen.power = VmPower::stopped;
      seen.health = VmHealth::unknown;
      seen.health_reason.clear();
    } else {
      seen.power = copy->power;
      seen.health = copy->health;
      seen.health_reason = copy->health_reason;
    }
    const bool looked =
        copy != nullptr && copy->isolation_checked && copy->epoch == vm.status.epoch;
    if (looked && (copy->epoch != vm.status.isolation_checked ||
                   copy->isolation_breach != vm.status.isolation_breach)) {
      seen.isolation_checked = copy->epoch;
      seen.isolation_breach = copy->isolation_breach;
    }
  } else if (vm.status.power != VmPower::stopped) {
    if (place != nullptr && place->status.health >= HostHealth::suspect) {
      seen.health = VmHealth::unreachable;
      seen.health_reason = "its host is " + std::string(enum_name(place->status.health));
    }
  }
  const bool fenced = place != nullptr && place->status.health == HostHealth::fenced;
  if (fenced && seen.power != VmPower::stopped) return false;
  const bool looked = seen.isolation_checked != Epoch();
  if (!looked && seen.power == vm.status.power && seen.health == vm.status.health &&
      (seen.health_reason == vm.status.health_reason || seen.health == VmHealth::unreachable)) {
    return false;
  }
  plan_.observations.push_back(std::move(seen));
  return plan_.observations.back().power != vm.status.power;
}

/// A restart would apply them too; who changes a quota wants it now. Agents of before tell none.
void Planner::limit(const Vm& vm, const ObservedVm& copy, bool stays) {
  const Millicores quota = demand_of(vm).cpu_millicores;
  const bool agrees = copy.cpu_millicores_max == quota && copy.cpu_weight == vm.spec.cpu_weight &&
                      (copy.processes_max == 0 || copy.processes_max == vm.spec.processes_max);
  if (agrees || copy.cpu_weight == 0) {
    if (stays) clear_unplaced(vm);
    return;
  }
  const std::string wanted = fmt::format(
      "{} millicores, weight {} and {} processes are asked for, "
      "{}, {} and {} are in force",
      quota.value, vm.spec.cpu_weight, vm.spec.processes_max, copy.cpu_millicores_max.value,
      copy.cpu_weight, copy.processes_max);
  // The API refuses what does not fit. Two that were raised at once, or a host that shrank: who
  // comes first by name takes what is there, the others wait.
  const Millicores more = quota - copy.cpu_millicores_max;
  if (more.value > 0) {
    const Millicores free = state().free_on(vm.status.host).cpu_millicores;
    Millicores& unclaimed = unclaimed_[vm.status.host];
    if (more > free + unclaimed) {
      if (!stays) return;
      return leave_unplaced({&vm, LostCopies(), wanted, false},
                            vm.status.host.value + " has no room for it yet", {});
    }
    unclaimed = unclaimed - more;
  }
  if (!room_for(plan_.limits.size())) return;
  plan_.limits.push_back({vm.id(), vm.status.host, wanted});
}

/// Nothing stands any more between the VM and what is asked of it.
void Planner::clear_unplaced(const Vm& vm) {
  if (vm.status.unplaced_reason.empty() || !room_for(plan_.unplaced.size())) return;
  plan_.unplaced.push_back({vm.id(), {}, "", {}});
}

void Planner::decide_running(const Vm& vm, const ObservedVm* copy) {
  const Host* host = host_of(vm);
  if (vm.status.power == VmPower::stopped) {
    const bool crashed = host != nullptr;
    const bool recovery = (crashed || vm.status.recovering) && !vm.spec.restart;
    if (recovery && vm.spec.restart_priority == RestartPriority::none)
      return leave_unplaced({&vm, {}, "it was lost", false}, "its restart priority is none", {});
    if (recovery && !armed_) return;
    if (evidence_.recovery_held || evidence_.starts_resting.contains(vm.id())) return;
    LostCopies lost = vm.status.lost;
    if (crashed) remember(lost, {host->id(), FenceProof::agent_confirmed_stop});
    for (LostCopy& old : lost) {
      // A host that is back speaks for itself; what proved it dead before is history.
      const bool answers = reports(old.host) || (crashed && old.host == host->id());
      if (answers && runs_on(vm.id(), old.host)) return;
      if (answers) old.proof = FenceProof::agent_confirmed_stop;
    }
    waiting_.push_back({&vm, std::move(lost),
                        crashed ? "it ended although it should run" : "it should run", recovery});
    return;
  }
  if (host == nullptr) return;
  if (host->status.health == HostHealth::fenced) return recover(vm, *host);
  if (!reports(host->id())) return fence_by_storage(vm, *host);
  if (astray_disk(view_, copy) != nullptr) return;  // its volume says what stands in the way
  const bool runs = vm.status.power == VmPower::running;
  const bool may_stop = !evidence_.stops_resting.contains(vm.id());
  if (evidence_.cut_off.contains(vm.id()) && armed_ && may_stop) {
    // A fence that was given up after it had its effect: this copy never writes again.
    plan_.stops.push_back({vm.id(), host->id(), vm.status.epoch, true, false, HostId(),
                           "a volume of it has cut this copy off: it is restarted"});
    return;
  }
  if (vm.spec.restart && may_stop) {
    // A guest that is paused cannot be asked.
    plan_.stops.push_back({vm.id(), host->id(), vm.status.epoch, !runs, false, HostId(),
                           "an operator asked for a restart"});
    return;
  }
  if (!runs) {
    // Its memory has left in a move that nobody carries on: nobody knows whether the other ran.
    const bool handed_over = copy != nullptr && copy->postmigrate;
    if (armed_ && may_stop && (handed_over || wants_restart(vm))) {
      const std::string why =
          handed_over ? "its memory has left in a move that did not end" : vm.status.health_reason;
      plan_.stops.push_back(
          {vm.id(), host->id(), vm.status.epoch, true, false, HostId(), why + ": it is restarted"});
    } else if (copy != nullptr && !settle_disks(vm, *copy)) {
      limit(vm, *copy, false);  // so that others get what it gives up
    }
    return;
  }
  if (copy != nullptr && (settle_disks(vm, *copy) || failing_disk(*copy) != nullptr)) return;
  if (evidence_.recovery_held) return;
  const std::size_t moves = plan_.moves.size();
  const bool stays = !leave(vm, *host);
  if (copy == nullptr || plan_.moves.size() != moves) return;
  limit(vm, *copy, stays);
  if (stays && !grow_disk(vm, *copy)) move_disk(vm, *copy);
}

/// The guest waits for it, or will at its next write. True when it comes first.
bool Planner::settle_disks(const Vm& vm, const ObservedVm& copy) {
  auto settlement = settlement_of(view_, copy);
  if (!settlement) return false;
  if (!evidence_.disks_resting.contains(vm.id()) && room_for(plan_.settlements.size())) {
    settlement->vm = vm.id();
    settlement->host = vm.status.host;
    plan_.settlements.push_back(*settlement);
  }
  return true;
}

/// A disk that moves keeps its size: this comes first.
bool Planner::grow_disk(const Vm& vm, const ObservedVm& copy) {
  for (const ObservedDisk& disk : copy.disks) {
    const Volume* volume = view_.volumes.find(disk.volume);
    if (volume == nullptr || volume->status.size_mib <= disk.size_mib) continue;
    if (volume->spec.mirrored) continue;  // not under its guest
    const bool may = !evidence_.moves_resting.contains(vm.id());
    if (may && room_for(plan_.disk_growths.size())) {
      plan_.disk_growths.push_back({vm.id(), vm.status.host, disk.volume});
    }
    return true;
  }
  return false;
}

/// One after the other. The place is there: what it holds of the data is copied anew.
void Planner::move_disk(const Vm& vm, const ObservedVm& copy) {
  if (evidence_.moves_resting.contains(vm.id()) || !room_for(plan_.disk_moves.size())) return;
  for (const VmDisk& disk : vm.spec.disks) {
    if (disk.volume.empty()) continue;
    const Volume* volume = view_.volumes.find(VolumeId(qualified(vm.meta.tenant, disk.volume)));
    const VolumeLeg* next = volume == nullptr ? nullptr : next_leg(view_, *volume, copy);
    const Device* device = next == nullptr ? nullptr : view_.devices.find(next->device);
    const bool ready =
        device != nullptr && answers({volume->id(), device->id(), device->spec.host});
    if (!ready || copies_[vm.status.host] >= policy_.moves_per_host) continue;
    ++copies_[vm.status.host];
    plan_.disk_moves.push_back({vm.id(), vm.status.host, vm.status.epoch, volume->id(),
                                next->device,
                                "disk " + disk.name + " shall be on " + next->device.value +
                                    (volume->spec.mirrored ? " as well" : "")});
    return;
  }
}

/// True when it should be elsewhere, whether it can go now or not.
bool Planner::leave(const Vm& vm, const Host& host) {
  if (!vm.spec.move_to.empty() && vm.spec.move_to != host.id()) {
    move_to(vm, vm.spec.move_to, "an operator asked for it");
  } else if (host.spec.maintenance) {
    // Its service makes a duplicate first; it says when it cannot.
    if (view_.replacer_of(vm) != nullptr) return true;
    move_away(vm, host.id().value + " goes into maintenance");
  } else if (host.status.health == HostHealth::degraded && armed_) {
    move_away(vm, host.id().value + " is failing: " + host.status.health_reason);
  } else {
    return false;
  }
  return true;
}

void Planner::recover(const Vm& vm, const Host& lost) {
  if (!armed_) return;
  if (vm.spec.power == DesiredPower::stopped || vm.meta.deleting_at ||
      vm.spec.restart_priority == RestartPriority::none) {
    plan_.observations.push_back({vm.id(), VmPower::stopped, VmHealth::unknown, "its host was lost",
                                  HostId(), vm.status.epoch});
    return;
  }
  if (evidence_.starts_resting.contains(vm.id())) return;
  state().remove(vm, lost.id());
  LostCopies copies = vm.status.lost;
  remember(copies, {lost.id(), lost.status.fence_proof});
  waiting_.push_back(
      {&vm, std::move(copies), lost.id().value + " was lost: " + lost.status.health_reason, true});
}

void Planner::decide_stopped(const Vm& vm) {
  if (vm.status.power == VmPower::stopped || evidence_.stops_resting.contains(vm.id())) return;
  const Host* host = host_of(vm);
  if (host != nullptr && host->status.health == HostHealth::fenced) return recover(vm, *host);
  if (host == nullptr || !reports(host->id())) return;
  plan_.stops.push_back(
      {vm.id(), host->id(), vm.status.epoch, false, false, HostId(), "it should be stopped"});
}

void Planner::decide_deleting(const Vm& vm) {
  if (evidence_.stops_resting.contains(vm.id())) return;
  const Host* host = host_of(vm);
  if (vm.status.power != VmPower::stopped) {
    if (host != nullptr && host->status.health == HostHealth::fenced) return recover(vm, *host);
    if (host == nullptr || !reports(host->id())) return;
  }
  HostId eraser;
  for (const Host* member : view_.hosts_of(cluster_)) {
    if (member->status.health == HostHealth::alive && reports(member->id())) {
      eraser = member->id();
      break;
    }
  }
  if (eraser.empty() || !room_for(plan_.stops.size())) return;
  const bool runs = vm.status.power != VmPower::stopped;
  plan_.stops.push_back({vm.id(), runs ? vm.status.host : HostId(), vm.status.epoch, true, true,
                         eraser, "it was deleted"});
}

PlacementQuery Planner::query_for(const Vm& vm, bool live) const {
  PlacementQuery query{&vm, live, {}, {}};
  const auto failed = evidence_.failed_lately.find(vm.id());
  if (failed != evidence_.failed_lately.end()) query.avoid = failed->second;
  query.avoid.insert(may_lose_power_.begin(), may_lose_power_.end());
  return query;
}

void Planner::move_away(const Vm& vm, const std::string& reason) {
  if (evidence_.moves_resting.contains(vm.id()) || !room_for(plan_.moves.size())) return;
  PlacementQuery query = query_for(vm, true);
  if (holds_host_device(vm.spec)) {
    return leave_unplaced({&vm, LostCopies(), reason, false},
                          "it uses a device of its host directly and cannot move alive", {});
  }
  if (moves_[vm.status.host] < policy_.moves_per_host) {
    query.prefer = hosts_beside_volumes(view_, vm, true);
    for (const HostId& taken : takes_local_volumes_) query.prefer.erase(taken);
  }
  const auto target = state().choose(query);
  if (!target) {
    return leave_unplaced({&vm, LostCopies(), reason, false}, "no host can take it alive",
                          state().explain(query));
  }
  if (query.prefer.contains(*target)) takes_local_volumes_.insert(*target);
  move_to(vm, *target, reason);
}

void Planner::move_to(const Vm& vm, const HostId& destination, const std::string& reason) {
  if (destination == vm.status.host) return;
  if (moves_[vm.status.host] >= policy_.moves_per_host ||
      moves_[destination] >= policy_.moves_per_host) {
    return;
  }
  for (const Refusal& refusal : state().explain(query_for(vm, true))) {
    if (refusal.host != destination) continue;
    return leave_unplaced({&vm, LostCopies(), reason, false}, "cannot move to " + destination.value,
                          {refusal});
  }
  if (!reports(destination) || holds_host_device(vm.spec)) return;
  ++moves_[vm.status.host];
  ++moves_[destination];
  state().add(vm, destination);
  const Epoch next = next_epoch(view_, vm);
  plan_.moves.push_back({vm.id(), vm.status.host, destination, vm.status.epoch, next, reason});
}

void Planner::refuse_strangers() {
  for (const auto& [host, evidence] : members_) {
    if (!reports(*evidence) || evidence->vms.empty()) continue;
    const std::vector<const Vm*> stored = view_.vms_on(host->id());
    for (const ObservedVm& copy : evidence->vms) {
      judge_copy(host->id(), copy, vm_of(copy, stored));
    }
  }
}

/// What really runs, where it differs from what is stored. Copies that will be adopted take their
/// room before anything is moved or started; a quota that is lowered gives its room to others only
/// once its copy has the lower one.
void Planner::count_copies() {
  for (const auto& [host, evidence] : members_) {
    if (!reports(*evidence) || evidence->vms.empty()) continue;
    const HostId id = host->id();
    const std::vector<const Vm*> stored = view_.vms_on(id);
    Millicores overhang;
    Millicores unclaimed;
    for (const ObservedVm& copy : evidence->vms) {
      const Vm* vm = vm_of(copy, stored);
      if (vm == nullptr) continue;
      const bool newer = copy.epoch > vm->status.epoch;
      if (newer && copy.power == VmPower::running) state_->add(*vm, id);
      if (copy.cpu_weight == 0) continue;
      const bool promised = copy.epoch >= vm->status.epoch;  // else it is there and counts nowhere
      const Millicores promise = promised ? demand_of(*vm).cpu_millicores : Millicores{};
      const Millicores above = copy.cpu_millicores_max - promise;
      (above.value > 0 ? overhang : unclaimed) += above;
    }
    state_->charge(id, {overhang, Mib()});
    unclaimed_[id] = Millicores{} - unclaimed;
  }
}

void Planner::judge_copy(const HostId& host, const ObservedVm& copy, const Vm* vm) {
  if (vm == nullptr) {
    plan_.strays.push_back({copy.vm, host});
    return;
  }
  if (!vm->status.operation.empty() || decided_.contains(copy.vm)) return;
  if (copy.epoch == vm->status.epoch && host == vm->status.host) return;
  if (copy.epoch > vm->status.epoch && copy.power == VmPower::running) {
    plan_.observations.push_back(
        {copy.vm, copy.power, copy.health, copy.health_reason, host, copy.epoch});
    decided_.insert(copy.vm);
    // It runs: it must not be started a second time.
    std::erase_if(waiting_, [&](const Waiting& waiting) { return waiting.vm == vm; });
    return;
  }
  if (!room_for(plan_.revokes.size())) return;
  plan_.revokes.push_back({copy.vm, host, copy.epoch,
                           fmt::format("epoch {} is in force", to_string(vm->status.epoch))});
}

void Planner::place_waiting() {
  if (waiting_.empty()) return;
  std::stable_sort(waiting_.begin(), waiting_.end(), [](const Waiting& left, const Waiting& right) {
    if (left.recovery != right.recovery) return left.recovery;
    return restarts_before(*left.vm, *right.vm);
  });
  const auto first_new = std::find_if(waiting_.begin(), waiting_.end(),
                                      [](const Waiting& waiting) { return !waiting.recovery; });
  for (auto next = waiting_.begin(); next != first_new; ++next) place(*next);
  const PlacementState before_new = state();
  const auto strands_more = [&] {
    return broken_reserve(before_new, state(), policy_.failures_tolerated).has_value();
  };
  const std::size_t starts_before_new = plan_.starts.size();
  const std::size_t unplaced_before_new = plan_.unplaced.size();
  const auto counts_before_new = starts_;
  for (auto next = first_new; next != waiting_.end(); ++next) place(*next);
  if (plan_.starts.size() == starts_before_new || !strands_more()) return;
  state_ = before_new;
  starts_ = counts_before_new;
  plan_.starts.resize(starts_before_new);
  plan_.unplaced.resize(unplaced_before_new);
  for (auto next = first_new; next != waiting_.end(); ++next) {
    if (!place(*next) || !strands_more()) continue;
    const StartVm refused = plan_.starts.back();
    plan_.starts.pop_back();
    state().remove(*next->vm, refused.host);
    --starts_[refused.host];
    leave_unplaced(*next,
                   fmt::format("it would leave no room for the loss of {} host(s)",
                               policy_.failures_tolerated),
                   {});
  }
}

/// A place that can be asked now.
bool Planner::answers(const ServedVolume& one) const {
  const Device* device = view_.devices.find(one.device);
  return reports(one.host) && device != nullptr && device->status.available;
}

/// Why a VM cannot be started anywhere for its volumes' sake; empty = nothing. After a loss one
/// place of each counts, which goes to `kept`; else all do until the storage's room says otherwise.
std::string Planner::volumes_stand_in_the_way(const Waiting& waiting,
                                              std::map<VolumeId, DeviceId>& kept) const {
  const auto volumes = volumes_of(view_, *waiting.vm);
  if (!volumes) return volumes.error().what;
  const auto places = [&](const ServedVolume& one) {
    return std::ranges::count(*volumes, one.volume, &ServedVolume::volume);
  };
  if (!waiting.lost.empty()) {
    for (const ServedVolume& one : *volumes) {
      if (places(one) > 1 && answers(one)) kept.try_emplace(one.volume, one.device);
    }
  }
  for (const ServedVolume& one : *volumes) {
    if (kept.contains(one.volume)) continue;
    if (!reports(one.host)) {
      return fmt::format("volume {} is on device {}, whose host {} does not report",
                         one.volume.value, one.device.value, one.host.value);
    }
    if (!waiting.lost.empty()) {
      if (places(one) == 1) continue;
      return fmt::format("volume {} is mirrored and none of its devices is served",
                         one.volume.value);
    }
    const Volume& volume = *view_.volumes.find(one.volume);
    if (volume.spec.mirrored && volume.status.size_mib < volume.spec.size_mib) {
      return fmt::format(
          "volume {0} is mirrored and grows to {1} MiB first; `virga volume get {0}` says what "
          "stands in the way",
          one.volume.value, volume.spec.size_mib.value);
    }
  }
  return {};
}

bool Planner::place(const Waiting& waiting) {
  if (!room_for(plan_.starts.size())) return false;
  std::map<VolumeId, DeviceId> kept;
  if (std::string why = volumes_stand_in_the_way(waiting, kept); !why.empty()) {
    leave_unplaced(waiting, std::move(why), {});
    return false;
  }
  PlacementQuery query = query_for(*waiting.vm, false);
  query.prefer = hosts_beside_volumes(view_, *waiting.vm, false);
  std::optional<HostId> target;
  const LostCopy last = waiting.lost.empty() ? LostCopy() : waiting.lost.back();
  if (last.proof == FenceProof::agent_confirmed_stop && !query.avoid.contains(last.host)) {
    const auto refusals = state().explain(query);
    const bool refused = std::any_of(refusals.begin(), refusals.end(),
                                     [&](const Refusal& one) { return one.host == last.host; });
    if (!refused) target = last.host;
  }
  const char* why = target ? "had it before" : "has the most room";
  if (!target) target = state().choose(query);
  if (!target) {
    leave_unplaced(waiting, "no host can take it", state().explain(query));
    return false;
  }
  if (query.prefer.contains(*target)) why = "has its local volumes";
  if (!reports(*target) || starts_[*target] >= policy_.starts_per_host) return false;
  ++starts_[*target];
  state().add(*waiting.vm, *target);
  plan_.starts.push_back(
      {waiting.vm->id(), *target, next_epoch(view_, *waiting.vm), waiting.lost, waiting.recovery,
       fmt::format("{}; {} {}", waiting.reason, target->value, why), std::move(kept)});
  return true;
}

void Planner::leave_unplaced(const Waiting& waiting, std::string reason,
                             std::vector<Refusal> refusals) {
  const Vm& vm = *waiting.vm;
  std::string text = waiting.reason + ", but " + reason;
  // The figures behind it change with every neighbour; the reason itself is told once.
  const bool told = vm.status.unplaced_reason.starts_with(text);
  if (!refusals.empty()) text += ": " + text_of(refusals);
  const bool lost = !waiting.lost.empty() && vm.status.power != VmPower::stopped;
  if (!lost && (told || !room_for(plan_.unplaced.size()))) return;
  plan_.unplaced.push_back(
      {vm.id(), lost ? waiting.lost : LostCopies(), std::move(text), std::move(refusals)});
}

}  // namespace

Epoch next_epoch(const ClusterView& view, const Vm& vm) {
  const std::uint64_t above =
      std::max({vm.status.epoch.counter, vm.status.migration.epoch.counter, view.revision});
  return {std::max(view.incarnation, vm.status.epoch.incarnation), above + 1};
}

ClusterPlan plan_cluster(const ClusterView& view, const ClusterId& cluster,
                         const ClusterEvidence& evidence, const ClusterOptions& options) {
  return Planner(view, cluster, evidence, options).plan();
}

}  // namespace virga
