#include "arch/hypervisor_clustering/controller.h"

#include <fmt/format.h>

#include <algorithm>

#include "arch/hypervisor_clustering/launch.h"
#include "arch/hypervisor_clustering/steps.h"
#include "base/log.h"
#include "base/reflect.h"

namespace virga {
namespace {

/// More changes of hosts than these share commits; fewer stand alone, so that one that conflicts
/// holds up no other.
constexpr std::size_t kHostChangesAlone = 16;
constexpr std::size_t kItemsPerHostChange = 3;  // guard, host, event

Severity severity_of(HostHealth health) {
  if (health == HostHealth::alive) return Severity::info;
  return health == HostHealth::suspect ? Severity::warning : Severity::alarm;
}

}  // namespace

ClusterController::ClusterController(Loop& loop, Store& store, StoreMirror& mirror,
                                     HostCommands& commands, NameSource& names)
    : loop_(loop),
      store_(store),
      mirror_(mirror),
      commands_(commands),
      names_(names),
      queue_(loop, store, mirror, "cluster") {}

void ClusterController::start(Observe observe, Options options) {
  observe_ = std::move(observe);
  options_ = options;
  queue_.start([this](const std::string& key) { run(ClusterId(key)); }, options_.store_full_pause);
  mirror_.listen([this](const std::vector<Change>& changes) { notice(changes); });
  for (const auto& [id, cluster] : mirror_.view().clusters.all()) mark(id);
}

void ClusterController::notice(const std::vector<Change>& changes) {
  const ClusterView& view = mirror_.view();
  for (const Change& change : changes) {
    const std::string_view key = change.entry.key;
    const auto rest = [&](std::string_view prefix) {
      return std::string(key.substr(prefix.size()));
    };
    if (key.starts_with(keys::kVm)) {
      if (const Vm* vm = view.vms.find(VmId(rest(keys::kVm)))) mark(vm->spec.cluster);
    } else if (key.starts_with(keys::kHost)) {
      if (const Host* host = view.hosts.find(HostId(rest(keys::kHost)))) mark(host->spec.cluster);
    } else if (key.starts_with(keys::kVolume)) {
      const Volume* volume = view.volumes.find(VolumeId(rest(keys::kVolume)));
      if (volume != nullptr) mark(volume->spec.cluster);
    } else if (key.starts_with(keys::kCluster)) {
      mark(ClusterId(rest(keys::kCluster)));
    } else if (key.starts_with(keys::kOperation)) {
      const Operation* operation = view.operations.find(OperationId(rest(keys::kOperation)));
      if (operation != nullptr && operation->ended()) notice_ended(*operation);
    }
  }
}

void ClusterController::notice_ended(const Operation& operation) {
  if (operation.kind == OperationKind::fence_host) {
    const HostId host(operation.subject.substr(keys::kHost.size()));
    if (operation.state == OperationState::failed) {
      fence_not_before_[host] = loop_.now() + options_.fence_retry;
    }
    if (const Host* stored = mirror_.view().hosts.find(host)) mark(stored->spec.cluster);
    return;
  }
  const VmId id(operation.subject.substr(keys::kVm.size()));
  const bool fence = operation.kind == OperationKind::fence_vm;
  if (operation.state == OperationState::succeeded) {
    if (!fence) retries_.erase(id);
    // A deleted VM is in the view no more; its room may be what another one waits for.
    const Host* eraser = mirror_.view().hosts.find(operation.arguments.destination);
    if (operation.kind == OperationKind::delete_vm && eraser != nullptr) {
      mark(eraser->spec.cluster);
    }
    return;
  }
  if (operation.state != OperationState::failed) return;
  Retry& retry = retries_[id];
  Duration wait = fence ? options_.fence_retry : options_.move_retry;
  if (operation.kind == OperationKind::start_vm) {
    retry.hosts.insert(operation.arguments.destination);
  }
  const bool moves =
      operation.kind == OperationKind::migrate_vm || operation.kind == OperationKind::move_disk;
  if (!moves && !fence) {
    wait = options_.start_retry_first * (1 << std::min(retry.failures, 5));
    wait = std::min(wait, options_.start_retry_max);
    ++retry.failures;
  }
  rest(id, operation.kind, wait);
}

ClusterEvidence ClusterController::gather(const ClusterId& cluster) const {
  ClusterEvidence evidence = observe_(cluster);
  for (const auto& [id, retry] : retries_) {
    evidence.failed_lately[id] = retry.hosts;
    for (const auto& [kind, when] : retry.not_before) {
      if (when <= loop_.now()) continue;
      const bool ends = kind == OperationKind::stop_vm || kind == OperationKind::delete_vm;
      const bool moves = kind == OperationKind::migrate_vm || kind == OperationKind::move_disk;
      auto& resting = moves                             ? evidence.moves_resting
                      : kind == OperationKind::fence_vm ? evidence.fences_resting
                      : ends                            ? evidence.stops_resting
                                                        : evidence.starts_resting;
      resting.insert(id);
    }
  }
  evidence.disks_resting = settling_;
  for (const auto& [host, when] : fence_not_before_) {
    const auto found = evidence.hosts.find(host);
    if (found != evidence.hosts.end()) found->second.fence_may_begin = when <= loop_.now();
  }
  return evidence;
}

void ClusterController::run(const ClusterId& cluster) {
  execute(cluster, plan_cluster(mirror_.view(), cluster, gather(cluster), options_.planner));
}

/// What is believed of hosts is stored before anything is built on it: a start's proof must be
/// durable first.
void ClusterController::execute(const ClusterId& cluster, const ClusterPlan& plan) {
  change_hosts(cluster, plan.host_changes);
  if (!plan.host_changes.empty()) {
    return queue_.look_again(cluster.value);
  }
  const auto commit = [&](const WorkQueue::Build& build) { queue_.commit(cluster.value, build); };
  for (const FenceHost& fence : plan.fences) {
    commit([&](Transaction& into) { return begin_fence(into, fence); });
  }
  for (const FenceVm& fence : plan.vm_fences) {
    commit([&](Transaction& into) { return begin_vm_fence(into, fence); });
  }
  for (const ObserveVm& seen : plan.observations) {
    commit([&](Transaction& into) { return observe_vm(into, seen); });
  }
  for (const StartVm& start : plan.starts) {
    commit([&](Transaction& into) { return begin_start(into, start); });
  }
  for (const MoveVm& move : plan.moves) {
    commit([&](Transaction& into) { return begin_move(into, move); });
  }
  for (const MoveDisk& move : plan.disk_moves) {
    commit([&](Transaction& into) { return begin_disk_move(into, move); });
  }
  for (const CallOff& called_off : plan.called_off) {
    commit([&](Transaction& into) { return call_off(into, called_off); });
  }
  for (const StopVm& stop : plan.stops) {
    commit([&](Transaction& into) { return begin_stop(into, stop); });
  }
  for (const Unplaced& unplaced : plan.unplaced) {
    commit([&](Transaction& into) { return leave_unplaced(into, unplaced); });
  }
  for (const RevokeCopy& copy : plan.revokes) revoke(copy);
  for (const LimitVm& change : plan.limits) limit(change);
  for (const GrowDisk& growth : plan.disk_growths) grow(growth);
  for (const SettleDisk& settlement : plan.settlements) settle(settlement);
  tell_strays(plan.strays);
}

/// A whole cluster that falls silent or comes back changes in few commits: one each would fill the
/// store's queue.
void ClusterController::change_hosts(const ClusterId& cluster,
                                     const std::vector<HostChange>& changes) {
  const std::size_t together =
      changes.size() <= kHostChangesAlone ? 1 : StoreLimits::kItemsMax / kItemsPerHostChange;
  for (std::size_t begin = 0; begin < changes.size(); begin += together) {
    const std::size_t end = std::min(begin + together, changes.size());
    queue_.commit(cluster.value, [&](Transaction& into) {
      bool any = false;
      for (std::size_t index = begin; index < end; ++index) {
        any = change_host(into, changes[index]) || any;
      }
      return any;
    });
  }
}

void ClusterController::revoke(const RevokeCopy& copy) {
  Command command;
  command.kind = CommandKind::stop;
  command.vm = copy.vm;
  command.epoch = copy.epoch;
  command.stop = StopOptions{true, seconds(5)};
  log_line(LogLevel::info, "cluster",
           fmt::format("revoke {} with epoch {} on {}: {}", copy.vm.value, to_string(copy.epoch),
                       copy.host.value, copy.reason));
  commands_.call(copy.host, std::move(command), seconds(10), [](Result<CommandResult>) {});
}

void ClusterController::limit(const LimitVm& change) {
  const Vm* vm = mirror_.view().vms.find(change.vm);
  if (vm == nullptr) return;
  auto launch = resolve_launch(mirror_.view(), *vm, vm->status.epoch);
  if (!launch) return log_line(LogLevel::warning, "cluster", launch.error().text());
  Command command;
  command.kind = CommandKind::change_limits;
  command.correlation = vm->meta.correlation;
  command.vm = change.vm;
  command.epoch = vm->status.epoch;
  command.launch = std::move(*launch);
  log_line(LogLevel::info, "cluster", fmt::format("{}: {}", change.vm.value, change.reason));
  commands_.call(change.host, std::move(command), seconds(10), [](Result<CommandResult> done) {
    if (!done) log_line(LogLevel::warning, "cluster", done.error().text());
  });
}

void ClusterController::grow(const GrowDisk& growth) {
  const Vm* vm = mirror_.view().vms.find(growth.vm);
  if (vm == nullptr) return;
  Command command;
  command.kind = CommandKind::grow_disk;
  command.correlation = vm->meta.correlation;
  command.vm = growth.vm;
  command.epoch = vm->status.epoch;
  command.mirror.emplace().volume = growth.volume.value;
  // Not before a report could tell what it came to.
  rest(growth.vm, OperationKind::move_disk, options_.growth_retry);
  commands_.call(growth.host, std::move(command), seconds(25), [](Result<CommandResult> done) {
    if (!done) log_line(LogLevel::warning, "cluster", done.error().text());
  });
}

void ClusterController::settle(const SettleDisk& settlement) {
  const Vm* vm = mirror_.view().vms.find(settlement.vm);
  if (vm == nullptr) return;
  Command command;
  command.kind = settlement.how == DiskSettlement::keep_leg        ? CommandKind::keep_leg
                 : settlement.how == DiskSettlement::finish_mirror ? CommandKind::switch_disk
                                                                   : CommandKind::cancel_mirror;
  command.correlation = vm->meta.correlation;
  command.vm = settlement.vm;
  command.epoch = vm->status.epoch;
  DiskMirror& mirror = command.mirror.emplace();
  mirror.volume = settlement.volume.value;
  mirror.to.device = settlement.device;
  settling_.insert(settlement.vm);
  commands_.call(
      settlement.host, std::move(command), seconds(25),
      [this, id = settlement.vm, alive = std::weak_ptr(alive_)](const Result<CommandResult>& done) {
        if (alive.expired()) return;
        if (!done) log_line(LogLevel::warning, "cluster", done.error().text());
        // Not before a report could tell what it came to.
        loop_.after(options_.settle_retry, [this, id, alive] {
          if (alive.expired()) return;
          settling_.erase(id);
          const Vm* stored = mirror_.view().vms.find(id);
          if (stored != nullptr) mark(stored->spec.cluster);
        });
      });
}

bool ClusterController::call_off(Transaction& transaction, const CallOff& called_off) {
  const Operation* stored = mirror_.view().operations.find(called_off.operation);
  if (stored == nullptr || stored->ended() || stored->cancel_requested) return false;
  Operation changed = *stored;
  changed.cancel_requested = true;
  transaction.put(changed);
  Event told;
  told.kind = "operation.cancel_requested";
  told.subject = keys::of(called_off.vm);
  told.tenant = stored->meta.tenant;
  told.correlation = stored->correlation;
  told.severity = Severity::warning;
  told.text =
      fmt::format("{} shall be cancelled: {}", called_off.operation.value, called_off.reason);
  event(transaction, std::move(told));
  return true;
}

void ClusterController::rest(const VmId& id, OperationKind kind, Duration wait) {
  retries_[id].not_before[kind] = loop_.now() + wait;
  loop_.at(loop_.now() + wait, [this, id, alive = std::weak_ptr(alive_)] {
    if (alive.expired()) return;
    if (const Vm* vm = mirror_.view().vms.find(id)) mark(vm->spec.cluster);
  });
}

void ClusterController::event(Transaction& transaction, Event event) {
  event.at = loop_.wall_now();
  transaction.event(names_.outbox_key(mirror_.view().revision), event);
}

void ClusterController::tell_strays(const std::vector<StrayVm>& strays) {
  for (const StrayVm& stray : strays) {
    if (!told_strays_.emplace(stray.vm, stray.host).second) continue;
    Event told;
    told.kind = "vm.stray";
    told.severity = Severity::alarm;
    told.subject = keys::of(stray.host);
    told.text = fmt::format("{} runs vm {}, which this cloud does not know; it is left alone",
                            stray.host.value, stray.vm.value);
    told.facts["vm"] = stray.vm.value;
    Transaction transaction;
    event(transaction, std::move(told));
    store_.commit(transaction.guards(), transaction.writes(), [](Result<CommitOutcome>) {});
  }
}

bool ClusterController::change_host(Transaction& transaction, const HostChange& change) {
  const Host* stored = mirror_.view().hosts.find(change.host);
  if (stored == nullptr) return false;
  Host changed = *stored;
  changed.status.health = change.health;
  changed.status.health_reason = change.reason;
  changed.status.fence_proof = change.proof;
  transaction.put(changed);
  if (stored->status.health == change.health) return true;
  Event told;
  told.kind = "host." + std::string(enum_name(change.health));
  told.severity = severity_of(change.health);
  told.subject = keys::of(change.host);
  told.text = change.reason;
  told.facts["before"] = std::string(enum_name(stored->status.health));
  if (change.proof != FenceProof::none) told.facts["proof"] = std::string(enum_name(change.proof));
  event(transaction, std::move(told));
  return true;
}

bool ClusterController::observe_vm(Transaction& transaction, const ObserveVm& seen) {
  const Vm* stored = mirror_.view().vms.find(seen.vm);
  if (stored == nullptr || !stored->status.operation.empty()) return false;
  Vm changed = *stored;
  changed.status.power = seen.power;
  changed.status.health = seen.health;
  changed.status.health_reason = seen.health_reason;
  const bool looked = seen.isolation_checked != Epoch();
  if (looked) changed.status.isolation_checked = seen.isolation_checked;
  const bool another = seen.epoch != stored->status.epoch || seen.power == VmPower::stopped;
  if (looked || another) changed.status.isolation_breach = seen.isolation_breach;
  if (changed.spec.move_to == seen.host) changed.spec.move_to = HostId();
  changed.status.host = seen.host;
  changed.status.epoch = seen.epoch;
  const bool had_place = !stored->status.host.empty() && seen.host.empty();
  if (had_place && is_fenced(mirror_.view(), stored->status.host)) {
    remember(changed.status.lost, ended_copy(mirror_.view(), stored->status.host));
    changed.status.recovering = stored->spec.power == DesiredPower::running;
  }
  if (seen.power == VmPower::running) {
    const bool ran = stored->status.power == VmPower::running;
    const bool there = stored->status.host == seen.host && stored->status.epoch == seen.epoch;
    if (!ran || !there) changed.status.unplaced_reason.clear();
    changed.status.recovering = false;
    changed.status.lost.clear();
  }
  transaction.put(changed);
  Event told;
  told.subject = keys::of(seen.vm);
  told.tenant = stored->meta.tenant;
  told.facts["host"] = seen.host.value;
  told.facts["epoch"] = to_string(seen.epoch);
  told.text = seen.health_reason;
  if (seen.epoch != stored->status.epoch) {
    told.kind = "vm.adopted";
    told.text = "found running on " + seen.host.value;
  } else if (seen.power == VmPower::stopped && stored->status.power != VmPower::stopped) {
    told.kind = "vm.ended";
    told.severity = Severity::warning;
    if (told.text.empty()) told.text = "its host reports that it does not run any more";
  } else if (seen.health == VmHealth::healthy && stored->status.health != VmHealth::healthy) {
    told.kind = "vm.answering";
    told.text = "its guest sends heartbeats";
  } else if (seen.health == VmHealth::failing || seen.health == VmHealth::unreachable) {
    told.kind = "vm." + std::string(enum_name(seen.health));
    told.severity = Severity::warning;
  }
  if (!told.kind.empty()) event(transaction, told);
  if (!looked || seen.isolation_breach == stored->status.isolation_breach) return true;
  const bool broken = !seen.isolation_breach.empty();
  told.kind = broken ? "perimeter.isolation_broken" : "perimeter.isolation_held";
  told.severity = broken ? Severity::alarm : Severity::info;
  told.text = broken ? "what keeps it apart from others is not in force: " + seen.isolation_breach
                     : "what keeps it apart from others is in force again";
  event(transaction, std::move(told));
  return true;
}

Operation ClusterController::make_operation(OperationKind kind, std::string subject,
                                            std::string reason) {
  Operation operation;
  operation.meta.name = names_.operation(mirror_.view().revision).value;
  operation.meta.created_at = loop_.wall_now();
  operation.kind = kind;
  operation.subject = std::move(subject);
  operation.reason = std::move(reason);
  operation.deadline_at = WallTime{loop_.wall_now().unix_ms + to_ms(options_.operation_deadline)};
  operation.correlation = operation.meta.name;
  return operation;
}

void ClusterController::supersede(Transaction& transaction, const OperationId& id) {
  const Operation* running = id.empty() ? nullptr : mirror_.view().operations.find(id);
  if (running == nullptr || running->ended()) return;
  Operation changed = *running;
  changed.state = OperationState::superseded;
  changed.error = "a recovery took over";
  transaction.put(changed);
}

bool ClusterController::begin_fence(Transaction& transaction, const FenceHost& fence) {
  const Host* stored = mirror_.view().hosts.find(fence.host);
  if (stored == nullptr || !stored->status.operation.empty()) return false;
  Operation operation =
      make_operation(OperationKind::fence_host, keys::of(fence.host), fence.reason);
  operation.arguments.source = fence.host;
  operation.arguments.boot_id = fence.boot_id;
  operation.arguments.ask_only = fence.ask_only;
  Host changed = *stored;
  changed.status.operation = operation.id();
  transaction.put(operation);
  transaction.put(changed);
  return true;
}

bool ClusterController::begin_vm_fence(Transaction& transaction, const FenceVm& fence) {
  const Vm* stored = mirror_.view().vms.find(fence.vm);
  if (stored == nullptr) return false;
  const OperationId& busy = stored->status.operation;
  const Operation* running = busy.empty() ? nullptr : mirror_.view().operations.find(busy);
  const bool moving =
      running != nullptr && (running->kind == OperationKind::move_disk ||
                             (running->kind == OperationKind::migrate_vm &&
                              stored->status.migration.phase != MigrationPhase::switching));
  if (!busy.empty() && !moving) return false;
  supersede(transaction, busy);
  Operation operation = make_operation(OperationKind::fence_vm, keys::of(fence.vm), fence.reason);
  operation.meta.tenant = stored->meta.tenant;
  operation.arguments.source = fence.host;
  operation.arguments.epoch = fence.epoch;
  Vm changed = *stored;
  changed.status.operation = operation.id();
  transaction.put(operation);
  transaction.put(changed);
  return true;
}

/// What binds the VM to regions is as the plan has seen it.
void ClusterController::guard_regions(Transaction& transaction, const Vm& vm) const {
  const TenantId tenant(vm.meta.tenant);
  const Tenant* rules = mirror_.view().tenants.find(tenant);
  transaction.guard(keys::of(tenant), rules == nullptr ? 0 : rules->meta.revision);
  for (const VmDisk& disk : vm.spec.disks) {
    if (disk.volume.empty()) continue;
    const Volume* volume =
        mirror_.view().volumes.find(VolumeId(qualified(vm.meta.tenant, disk.volume)));
    const bool binds = volume != nullptr && !volume->spec.regions.empty();
    if (binds) transaction.guard(keys::of(volume->id()), volume->meta.revision);
  }
}

bool ClusterController::begin_start(Transaction& transaction, const StartVm& start) {
  const Vm* stored = mirror_.view().vms.find(start.vm);
  const Host* host = mirror_.view().hosts.find(start.host);
  if (stored == nullptr || host == nullptr) return false;
  supersede(transaction, stored->status.operation);
  Operation operation = make_operation(OperationKind::start_vm, keys::of(start.vm), start.reason);
  operation.meta.tenant = stored->meta.tenant;
  // What high availability starts again was asked for by nobody.
  if (!start.recovery && !stored->meta.correlation.empty())
    operation.correlation = stored->meta.correlation;
  if (!start.lost.empty()) operation.arguments.source = start.lost.back().host;
  operation.arguments.destination = start.host;
  operation.arguments.epoch = start.epoch;
  operation.arguments.lost = start.lost;
  Vm changed = *stored;
  changed.status.identity = make_identity(*stored, *host);
  changed.status.power = VmPower::starting;
  changed.status.host = start.host;
  changed.status.epoch = start.epoch;
  changed.status.migration = VmMigration();
  changed.status.operation = operation.id();
  changed.spec.move_to = HostId();  // the order was about a run that has ended
  changed.spec.restart = false;
  if (start.recovery && !stored->status.recovering) ++changed.status.restarts;
  // Kept until it runs: a start that fails is tried again on the same proofs.
  changed.status.recovering = start.recovery;
  changed.status.lost = start.lost;
  transaction.put(operation);
  transaction.put(changed);
  transaction.guard(keys::of(start.host), host->meta.revision);
  guard_regions(transaction, *stored);
  for (const auto& [id, device] : start.kept_legs) {
    const Volume* volume = mirror_.view().volumes.find(id);
    if (volume != nullptr) keep_one_leg(transaction, *volume, device);
  }
  Event told;
  told.kind = "vm.placed";
  told.subject = keys::of(start.vm);
  told.tenant = stored->meta.tenant;
  told.text = start.reason;
  told.correlation = operation.correlation;
  told.facts["host"] = start.host.value;
  told.facts["epoch"] = to_string(start.epoch);
  told.facts["operation"] = operation.meta.name;
  if (!start.lost.empty()) told.facts["lost_host"] = start.lost.back().host.value;
  tell_lost(told.facts, start.lost);
  event(transaction, std::move(told));
  return true;
}

/// The request that led to it: an order to move this VM, or to empty its host. Empty = nobody's.
std::string ClusterController::who_asked_for(const MoveVm& move, const Vm& vm) const {
  if (vm.spec.move_to == move.destination) return vm.meta.correlation;
  const Host* source = mirror_.view().hosts.find(move.source);
  const bool ordered = source != nullptr && source->spec.maintenance &&
                       !source->status.window_maintenance;
  return ordered ? source->meta.correlation : std::string();
}

bool ClusterController::begin_move(Transaction& transaction, const MoveVm& move) {
  const Vm* stored = mirror_.view().vms.find(move.vm);
  const Host* destination = mirror_.view().hosts.find(move.destination);
  if (stored == nullptr || destination == nullptr || !stored->status.operation.empty())
    return false;
  Operation operation = make_operation(OperationKind::migrate_vm, keys::of(move.vm), move.reason);
  operation.meta.tenant = stored->meta.tenant;
  if (const std::string asked = who_asked_for(move, *stored); !asked.empty())
    operation.correlation = asked;
  operation.arguments.source = move.source;
  operation.arguments.destination = move.destination;
  operation.arguments.epoch = move.epoch;
  operation.arguments.next_epoch = move.next_epoch;
  Vm changed = *stored;
  changed.status.operation = operation.id();
  changed.status.migration = {MigrationPhase::prepared, move.destination, move.next_epoch};
  transaction.put(operation);
  transaction.put(changed);
  transaction.guard(keys::of(move.destination), destination->meta.revision);
  guard_regions(transaction, *stored);
  return true;
}

bool ClusterController::begin_disk_move(Transaction& transaction, const MoveDisk& move) {
  const Vm* stored = mirror_.view().vms.find(move.vm);
  const Volume* volume = mirror_.view().volumes.find(move.volume);
  if (stored == nullptr || volume == nullptr || !stored->status.operation.empty()) return false;
  Operation operation = make_operation(OperationKind::move_disk, keys::of(move.vm), move.reason);
  operation.meta.tenant = stored->meta.tenant;
  if (!volume->meta.correlation.empty()) operation.correlation = volume->meta.correlation;
  operation.deadline_at.unix_ms += to_ms(copying_takes_at_most(*volume));
  operation.arguments.source = move.host;
  operation.arguments.epoch = move.epoch;
  operation.arguments.volume = move.volume;
  operation.arguments.device = move.device;
  Vm changed = *stored;
  changed.status.operation = operation.id();
  transaction.put(operation);
  transaction.put(changed);
  transaction.guard(keys::of(move.volume), volume->meta.revision);
  return true;
}

bool ClusterController::begin_stop(Transaction& transaction, const StopVm& stop) {
  const Vm* stored = mirror_.view().vms.find(stop.vm);
  if (stored == nullptr || !stored->status.operation.empty()) return false;
  const auto kind = stop.then_delete ? OperationKind::delete_vm : OperationKind::stop_vm;
  Operation operation = make_operation(kind, keys::of(stop.vm), stop.reason);
  operation.meta.tenant = stored->meta.tenant;
  if (!stored->meta.correlation.empty()) operation.correlation = stored->meta.correlation;
  operation.arguments.source = stop.host;
  operation.arguments.destination = stop.eraser;
  operation.arguments.epoch = stop.epoch;
  operation.arguments.force = stop.force;
  Vm changed = *stored;
  changed.status.operation = operation.id();
  if (changed.status.power != VmPower::stopped) changed.status.power = VmPower::stopping;
  transaction.put(operation);
  transaction.put(changed);
  return true;
}

bool ClusterController::leave_unplaced(Transaction& transaction, const Unplaced& unplaced) {
  const Vm* stored = mirror_.view().vms.find(unplaced.vm);
  if (stored == nullptr) return false;
  const bool told_before = stored->status.unplaced_reason == unplaced.reason;
  if (told_before && unplaced.lost.empty()) return false;
  Vm changed = *stored;
  changed.status.unplaced_reason = unplaced.reason;
  if (!unplaced.lost.empty()) {
    supersede(transaction, stored->status.operation);
    changed.status.operation = OperationId();
    changed.status.migration = VmMigration();
    changed.status.power = VmPower::stopped;
    changed.status.host = HostId();
    changed.status.recovering = true;
    changed.status.lost = unplaced.lost;
  }
  transaction.put(changed);
  if (unplaced.reason.empty()) return true;
  Event told;
  told.kind = "vm.unplaced";
  told.severity = Severity::warning;
  told.subject = keys::of(unplaced.vm);
  told.tenant = stored->meta.tenant;
  told.text = unplaced.reason;
  if (!unplaced.lost.empty()) {
    told.facts["lost_host"] = unplaced.lost.back().host.value;
    tell_lost(told.facts, unplaced.lost);
  }
  event(transaction, std::move(told));
  return true;
}

}  // namespace virga
