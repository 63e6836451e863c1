#include "arch/hypervisor_clustering/operations.h"

#include <fmt/format.h>

#include <algorithm>

#include "arch/hypervisor_clustering/attachments.h"
#include "arch/hypervisor_clustering/launch.h"
#include "arch/hypervisor_clustering/steps.h"
#include "base/reflect.h"

namespace virga {
namespace {

using Dependencies = std::shared_ptr<ClusterOperationDependencies>;

constexpr Duration kStartDeadline = seconds(25);
constexpr Duration kStopDeadline = seconds(45);
constexpr Duration kEraseDeadline = seconds(25);

void emit(const RecordContext& context, std::string kind, std::string text,
          Severity severity = Severity::info) {
  Event event = event_of(context, std::move(kind), std::move(text));
  event.severity = severity;
  context.event(std::move(event));
}

void give_back(VmStatus& status) { status.operation = OperationId(); }

/// Of a copy that has just begun, or is gone, nothing is known.
void begin_anew(VmStatus& status, VmPower power) {
  status.power = power;
  status.health = VmHealth::unknown;
  status.health_reason.clear();
  status.isolation_breach.clear();
}

/// Nothing was under way: the guest has ended by itself, or has never begun.
constexpr const char* kInOrder = "in_order";

StepOutcome ended(bool in_order) {
  StepOutcome outcome = StepOutcome::done();
  const auto note = [](Operation& noted) { noted.facts[kInOrder] = true; };
  if (in_order) outcome.note = note;
  return outcome;
}

/// Ends one copy and answers done when it is certain that it cannot run any more.
void stop_copy(const Dependencies& on, const Operation& operation, const ClusterView& view,
               const std::pair<HostId, Epoch>& copy, StepDone done) {
  if (copy.first.empty() || is_fenced(view, copy.first)) return done(StepOutcome::done());
  on->commands.call(copy.first, forced_stop(operation, copy.second), kStopDeadline,
                    [done](Result<CommandResult> result) {
                      if (result.ok()) return done(ended(result->in_order));
                      done(StepOutcome::failed(result.error()));
                    });
}

Callback<CommandResult> done_or_failed(const StepDone& done) {
  return [done](const Result<CommandResult>& result) {
    done(result.ok() ? StepOutcome::done() : StepOutcome::failed(result.error()));
  };
}

/// Keeps places of volumes in a fact, as "volume:device".
void note_places(Operation& operation, const char* fact, const std::vector<ServedVolume>& places) {
  boost::json::array names;
  for (const ServedVolume& one : places) {
    names.emplace_back(one.volume.value + ":" + one.device.value);
  }
  operation.facts[fact] = std::move(names);
}

std::function<bool(const DeviceId&)> is_noted(const boost::json::value& fact,
                                              const VolumeId& volume) {
  return [&names = fact.as_array(), volume](const DeviceId& device) {
    const boost::json::value name(volume.value + ":" + device.value);
    return std::ranges::find(names, name) != names.end();
  };
}

/// Of a start that was not sent to its host: the places which did not let it in.
constexpr const char* kRefused = "refused_by";

StepOutcome not_sent(const Error& why, bool mirrored, std::vector<ServedVolume> refused) {
  StepOutcome outcome = StepOutcome::failed(why);
  const auto note = [refused = std::move(refused)](Operation& noted) {
    note_places(noted, kRefused, refused);
  };
  if (mirrored) outcome.note = note;
  return outcome;
}

/// Whether a place is chosen where it has to be. A guest that may have run before it was ended, and
/// one that was never let in, whose places are equal: those that refused are done without. One that
/// its host has refused was in both, and wrote to none.
bool keep_legs_after_failed_start(const RecordContext& context) {
  const Vm* vm = subject_vm(context.view, context.operation);
  if (vm == nullptr || context.operation.facts.contains(kInOrder)) return true;
  const auto* refused = context.operation.facts.if_contains(kRefused);
  if (refused == nullptr) return keep_served_legs(context.transaction, context.view, *vm);
  const std::vector<const Volume*> volumes = mirrored_volumes(context.view, *vm);
  // Nobody answered: a server before this one may have sent it all the same.
  const bool nobody = std::ranges::any_of(volumes, [&](const Volume* volume) {
    return std::ranges::all_of(volume->in_use(), is_noted(*refused, volume->id()));
  });
  if (nobody) return keep_served_legs(context.transaction, context.view, *vm);
  for (const Volume* volume : volumes) {
    const std::vector<DeviceId> legs = volume->in_use();
    const auto has_refused = is_noted(*refused, volume->id());
    if (std::ranges::none_of(legs, has_refused)) continue;
    const auto kept = std::ranges::find_if_not(legs, has_refused);
    keep_one_leg(context.transaction, *volume, *kept);
  }
  return true;
}

OperationStepTable start_table(const Dependencies& on) {
  OperationStepTable table;
  OperationStepTable::Step start;
  start.name = "start";
  start.act = [on](const Operation& operation, const ClusterView& view, StepDone done) {
    const Vm* vm = subject_vm(view, operation);
    if (vm == nullptr)
      return done(StepOutcome::failed(make_error(Errc::not_found, "the VM is gone")));
    const bool mirrored = !mirrored_volumes(view, *vm).empty();
    auto launch = resolve_launch(view, *vm, operation.arguments.epoch);
    if (!launch) return done(not_sent(launch.error(), mirrored, {}));
    Command command = command_for(CommandKind::start, operation, operation.arguments.epoch);
    command.launch = std::move(*launch);
    command.launch->correlation = operation.correlation;
    const auto send = [on, mirrored, host = operation.arguments.destination,
                       command = std::move(command),
                       done](const Result<VolumeAdmission>& admitted) mutable {
      if (!admitted) return done(not_sent(admitted.error(), mirrored, {}));
      if (auto added = add_endpoints(*command.launch, *admitted); !added) {
        return done(not_sent(added.error(), mirrored, admitted->refused));
      }
      on->commands.call(host, std::move(command), kStartDeadline, done_or_failed(done));
    };
    Attachments(on->commands).attach(view, *vm, operation.arguments.epoch, send);
  };
  table.steps.push_back(std::move(start));
  table.record_success = [](const RecordContext& context) {
    change_vm(context, [](VmStatus& status) {
      give_back(status);
      begin_anew(status, VmPower::running);
      status.unplaced_reason.clear();
      status.recovering = false;
      status.lost.clear();
    });
    emit(context, "vm.started",
         "its processors run on " + context.operation.arguments.destination.value);
  };
  table.undo = [on](const Operation& operation, const ClusterView& view, StepDone done) {
    stop_copy(on, operation, view, {operation.arguments.destination, operation.arguments.epoch},
              std::move(done));
  };
  table.record_failure = [](const RecordContext& context) {
    const bool chosen = keep_legs_after_failed_start(context);
    const bool certain = !context.operation.facts.contains("undo_error");
    const auto* code = context.operation.facts.if_contains("error_code");
    const bool met_a_lock =
        code != nullptr && *code == boost::json::string(to_string(Errc::conflict));
    change_vm(context, [&](VmStatus& status) {
      give_back(status);
      if (!certain) return;
      status.power = VmPower::stopped;
      status.host = HostId();
      status.unplaced_reason = context.operation.error;
      if ((status.lost.empty() && chosen) || met_a_lock) return;
      remember(status.lost, ended_copy(context.view, context.operation.arguments.destination));
    });
    emit(context, "vm.start_failed", context.operation.error, Severity::warning);
  };
  return table;
}

/// Whether a place is chosen where it has to be. Whose VM goes has nobody who would choose later.
bool keep_legs_after_end(const RecordContext& context, bool chosen_later) {
  const Vm* vm = subject_vm(context.view, context.operation);
  const bool ran = !context.operation.arguments.source.empty();
  if (vm == nullptr || !ran || context.operation.facts.contains(kInOrder)) return true;
  return keep_served_legs(context.transaction, context.view, *vm, chosen_later);
}

OperationStepTable::Step stop_step(const Dependencies& on) {
  OperationStepTable::Step stop;
  stop.name = "stop";
  stop.act = [on](const Operation& operation, const ClusterView& view, StepDone done) {
    const HostId& host = operation.arguments.source;
    if (host.empty() || is_fenced(view, host)) return done(StepOutcome::done());
    Command command = command_for(CommandKind::stop, operation, operation.arguments.epoch);
    command.stop = StopOptions{operation.arguments.force, seconds(30)};
    on->commands.call(host, std::move(command), kStopDeadline,
                      [done](Result<CommandResult> result) {
                        if (result.ok()) return done(ended(result->in_order));
                        if (is_uncertain(result.error())) {
                          return done(StepOutcome::again(result.error(), milliseconds(500)));
                        }
                        done(StepOutcome::failed(result.error()));
                      });
  };
  return stop;
}

OperationStepTable stop_table(const Dependencies& on) {
  OperationStepTable table;
  table.steps.push_back(stop_step(on));
  table.record_success = [](const RecordContext& context) {
    const bool chosen = keep_legs_after_end(context, true);
    const Vm* vm = subject_vm(context.view, context.operation);
    const bool comes_back = vm != nullptr && vm->spec.power == DesiredPower::running;
    change_vm(context, [&](VmStatus& status) {
      give_back(status);
      begin_anew(status, VmPower::stopped);
      status.host = HostId();
      status.recovering = comes_back;
      if (context.operation.arguments.source.empty()) return;
      const LostCopy copy = ended_copy(context.view, context.operation.arguments.source);
      // What its agent ended in good order needs no proof when its owner starts it again. One whose
      // disks were out of reach is remembered: its next start chooses a place of each.
      const bool in_order = copy.proof == FenceProof::agent_confirmed_stop;
      if (!comes_back && in_order && status.lost.empty() && chosen) return;
      remember(status.lost, copy);
    });
    emit(context, "vm.stopped", "it does not run any more");
  };
  table.record_failure = [](const RecordContext& context) {
    change_vm(context, give_back);
    emit(context, "vm.stop_failed", context.operation.error, Severity::warning);
  };
  return table;
}

OperationStepTable delete_table(const Dependencies& on) {
  OperationStepTable table = stop_table(on);
  OperationStepTable::Step erase;
  erase.name = "erase";
  erase.act = [on](const Operation& operation, const ClusterView& view, StepDone done) {
    const Vm* vm = subject_vm(view, operation);
    if (vm == nullptr) return done(StepOutcome::done());
    auto launch = resolve_launch(view, *vm, operation.arguments.epoch);
    if (!launch) return done(StepOutcome::done());
    Command command = command_for(CommandKind::erase, operation, operation.arguments.epoch);
    std::erase_if(launch->disks, [](const LaunchDisk& disk) { return !disk.volume.empty(); });
    command.launch = std::move(*launch);
    on->commands.call(operation.arguments.destination, std::move(command), kEraseDeadline,
                      [done](Result<CommandResult> result) {
                        if (result.ok()) return done(StepOutcome::done());
                        done(StepOutcome::failed(result.error()));
                      });
  };
  table.steps.push_back(std::move(erase));
  table.record_success = [](const RecordContext& context) {
    const Vm* vm = subject_vm(context.view, context.operation);
    if (vm == nullptr || vm->status.operation != context.operation.id()) return;
    keep_legs_after_end(context, false);
    for (const Port* port : context.view.ports_of(vm->id())) {
      context.transaction.erase(*port);
      context.transaction.erase_with(keys::address(port->spec.network, port->spec.address));
    }
    for (const VmDisk& disk : vm->spec.disks) {
      if (disk.volume.empty()) continue;
      context.transaction.erase_with(keys::use(VolumeId(qualified(vm->meta.tenant, disk.volume))));
    }
    context.transaction.erase(*vm);
    emit(context, "vm.deleted", "it and its own disks are gone");
  };
  return table;
}

/// The places that have cut a copy off.
constexpr const char* kWords = "revoked";

Callback<std::vector<ServedVolume>> revoked(bool mirrored, const StepDone& done) {
  return [mirrored, done](const Result<std::vector<ServedVolume>>& words) {
    if (!words) return done(StepOutcome::failed(words.error()));
    StepOutcome outcome = StepOutcome::done();
    const auto note = [given = *words](Operation& noted) { note_places(noted, kWords, given); };
    if (mirrored) outcome.note = note;
    done(std::move(outcome));
  };
}

/// The proof holds because the copy's writes needed who has cut it off. So one place of each
/// mirrored volume that has done so counts from now on, and no other: what the copy wrote last may
/// stand there alone.
void give_up_silent_legs(const RecordContext& context) {
  const Vm* vm = subject_vm(context.view, context.operation);
  const auto* words = context.operation.facts.if_contains(kWords);
  if (vm == nullptr || words == nullptr) return;
  for (const Volume* volume : mirrored_volumes(context.view, *vm)) {
    const std::vector<DeviceId> legs = volume->in_use();
    const auto kept = std::ranges::find_if(legs, is_noted(*words, volume->id()));
    if (kept != legs.end()) keep_one_leg(context.transaction, *volume, *kept);
  }
}

/// A VM whose host is silent: when all its volumes have cut that copy off, it cannot do harm.
OperationStepTable fence_vm_table(const Dependencies& on) {
  OperationStepTable table;
  OperationStepTable::Step revoke;
  revoke.name = "revoke";
  revoke.act = [on](const Operation& operation, const ClusterView& view, const StepDone& done) {
    const Vm* vm = subject_vm(view, operation);
    if (vm == nullptr)
      return done(StepOutcome::failed(make_error(Errc::not_found, "the VM is gone")));
    const bool mirrored = !mirrored_volumes(view, *vm).empty();
    Attachments(on->commands).revoke(view, *vm, operation.arguments.epoch, revoked(mirrored, done));
  };
  table.steps.push_back(std::move(revoke));
  table.record_success = [](const RecordContext& context) {
    const HostId& host = context.operation.arguments.source;
    give_up_silent_legs(context);
    change_vm(context, [&](VmStatus& status) {
      give_back(status);
      begin_anew(status, VmPower::stopped);
      status.host = HostId();
      status.migration = VmMigration();
      status.recovering = true;
      remember(status.lost, {host, FenceProof::storage_revoked});
    });
    emit(context, "vm.fenced", "all its volumes have cut off the copy on " + host.value);
  };
  table.record_failure = [](const RecordContext& context) {
    change_vm(context, give_back);
    emit(context, "vm.fence_failed", context.operation.error, Severity::warning);
  };
  return table;
}

OperationStepTable fence_table(const Dependencies& on) {
  OperationStepTable table;
  OperationStepTable::Step fence;
  fence.name = "power_off";
  fence.act = [on](const Operation& operation, const ClusterView& view, StepDone done) {
    const HostId id(operation.subject.substr(keys::kHost.size()));
    const Host* host = view.hosts.find(id);
    const Machine* machine = host == nullptr ? nullptr : view.machines.find(host->spec.machine);
    if (machine == nullptr) {
      return done(StepOutcome::failed(make_error(Errc::not_found, "its machine is not known")));
    }
    const auto judge = [on, id, done](const std::string& claim) {
      const auto contradiction = on->seen_alive(id);
      if (!contradiction) return done(StepOutcome::done());
      done(StepOutcome::failed(make_error(Errc::conflict, claim + ", but " + *contradiction)));
    };
    if (operation.arguments.ask_only) {
      return on->bmc.power(*machine, [done, judge](Result<MachinePower> power) {
        if (!power) return done(StepOutcome::failed(power.error()));
        if (*power == MachinePower::off) return judge("the BMC says it is off");
        done(StepOutcome::failed(make_error(Errc::conflict, "the BMC says it is on")));
      });
    }
    on->bmc.set_power(*machine, MachinePower::off, [done, judge](Result<void> off) {
      if (!off) return done(StepOutcome::failed(off.error()));
      judge("the BMC says it switched off");
    });
  };
  table.steps.push_back(std::move(fence));
  const auto change_host = [](const RecordContext& context, bool fenced) {
    const Host* host =
        context.view.hosts.find(HostId(context.operation.subject.substr(keys::kHost.size())));
    if (host == nullptr || host->status.operation != context.operation.id()) return;
    Host changed = *host;
    changed.status.operation = OperationId();
    if (fenced) {
      changed.status.health = HostHealth::fenced;
      changed.status.fence_proof = FenceProof::bmc_power_off;
      changed.status.health_reason = "its BMC confirmed that it is off";
    }
    context.transaction.put(changed);
  };
  table.record_success = [change_host](const RecordContext& context) {
    change_host(context, true);
    emit(context, "host.fenced", "its BMC confirmed that it is off");
  };
  table.record_failure = [change_host](const RecordContext& context) {
    change_host(context, false);
    if (context.operation.arguments.ask_only) return;
    emit(context, "host.fence_failed", context.operation.error, Severity::alarm);
  };
  return table;
}

}  // namespace

/// In migration.cc.
OperationStepTable migrate_table(HostCommands& commands, Loop& loop);
/// In disk_move.cc.
OperationStepTable move_disk_table(HostCommands& commands);

void register_cluster_operations(OperationRunner& runner,
                                 ClusterOperationDependencies dependencies) {
  const auto on = std::make_shared<ClusterOperationDependencies>(std::move(dependencies));
  runner.set_table(OperationKind::start_vm, start_table(on));
  runner.set_table(OperationKind::stop_vm, stop_table(on));
  runner.set_table(OperationKind::delete_vm, delete_table(on));
  runner.set_table(OperationKind::fence_host, fence_table(on));
  runner.set_table(OperationKind::fence_vm, fence_vm_table(on));
  runner.set_table(OperationKind::move_disk, move_disk_table(on->commands));
  runner.set_table(OperationKind::migrate_vm, migrate_table(on->commands, on->loop));
}

}  // namespace virga
