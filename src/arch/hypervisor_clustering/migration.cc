#include "arch/hypervisor_clustering/operations.h"

#include <fmt/format.h>

#include "arch/hypervisor_clustering/attachments.h"
#include "arch/hypervisor_clustering/launch.h"
#include "arch/hypervisor_clustering/steps.h"
#include "base/reflect.h"

/// Live migration: the one case with two admitted epochs. prepared -> switching -> committed |
/// aborted; the source never
/// goes on by itself once `switching` is stored unless the destination is known never to have run.
namespace virga {
namespace {

constexpr Duration kPrepareDeadline = seconds(25);
constexpr Duration kSendDeadline = seconds(320);
constexpr Duration kSwitchDeadline = seconds(12);
constexpr Duration kCleanDeadline = seconds(15);
constexpr Duration kSwitchPatience = seconds(30);
constexpr int kSentPercent = 90;  ///< of the whole, when the memory is there

class Migration {
 public:
  Migration(HostCommands& commands, Loop& loop) : commands_(commands), loop_(loop) {}

  void prepare(const Operation& operation, const ClusterView& view, StepDone done) const;
  void send(const Operation& operation, const ClusterView& view, StepDone done) const;
  void switch_over(const Operation& operation, const ClusterView& view, StepDone done) const {
    hand_over(operation, view, false, std::move(done));
  }
  void switch_over_impatiently(const Operation& operation, const ClusterView& view,
                               StepDone done) const {
    hand_over(operation, view, true, std::move(done));
  }
  void clean(const Operation& operation, const ClusterView& view, StepDone done) const;
  void undo(const Operation& operation, const ClusterView& view, StepDone done) const;

 private:
  void call(const HostId& host, Command command, Duration deadline,
            std::function<void(Result<CommandResult>)> done,
            HostCommands::Progress progressed = nullptr) const {
    commands_.call(host, std::move(command), deadline, std::move(done), std::move(progressed));
  }
  /// What remains when the destination cannot go on.
  enum class Fallback {
    source,   ///< it has the guest, the destination has never run
    restart,  ///< the destination may have run: the source's memory is old, both copies end
    none,     ///< the source is gone
  };
  void prepare_destination(const HostId& host, Command prepare, const StepDone& done) const;
  void resume(const Operation& operation, Fallback fallback, StepDone done) const;
  void end_destination(const Operation& operation, Fallback fallback, const Error& why,
                       StepDone done) const;
  void end_source(const Operation& operation, const Error& why, StepDone done) const;
  void run_source_again(const Operation& operation, const Error& why, StepDone done) const;
  void discard_destination(const Operation& operation, const ClusterView& view,
                           StepDone done) const;
  StepDone with_figures(const MigrationProgress& sent, StepDone done) const;
  void hand_over(const Operation& operation, const ClusterView& view, bool impatient,
                 StepDone done) const;

  HostCommands& commands_;
  Loop& loop_;
};

void Migration::prepare(const Operation& operation, const ClusterView& view, StepDone done) const {
  const Vm* vm = subject_vm(view, operation);
  if (vm == nullptr)
    return done(StepOutcome::failed(make_error(Errc::not_found, "the VM is gone")));
  auto launch = resolve_launch(view, *vm, operation.arguments.next_epoch);
  if (!launch) return done(StepOutcome::failed(launch.error()));
  Command prepare =
      command_for(CommandKind::prepare_incoming, operation, operation.arguments.next_epoch);
  prepare.launch = std::move(*launch);
  const auto attached = [this, host = operation.arguments.destination, prepare,
                         done](const Result<VolumeAdmission>& admitted) mutable {
    if (!admitted) return done(StepOutcome::failed(admitted.error()));
    if (auto added = add_endpoints(*prepare.launch, *admitted); !added) {
      return done(StepOutcome::failed(added.error()));
    }
    prepare_destination(host, std::move(prepare), done);
  };
  Attachments(commands_).attach_beside(view, *vm, operation.arguments.next_epoch,
                                       operation.arguments.epoch, attached);
}

void Migration::prepare_destination(const HostId& host, Command prepare,
                                    const StepDone& done) const {
  call(host, std::move(prepare), kPrepareDeadline, [done](Result<CommandResult> result) {
    if (!result) return done(StepOutcome::failed(result.error()));
    if (!result->endpoint) {
      return done(
          StepOutcome::failed(make_error(Errc::internal, "the destination named no end point")));
    }
    StepOutcome outcome = StepOutcome::done();
    outcome.note = [endpoint = *result->endpoint](Operation& noted) {
      noted.facts["endpoint"] = to_json(endpoint);
    };
    done(std::move(outcome));
  });
}

void Migration::send(const Operation& operation, const ClusterView& view, StepDone done) const {
  const Vm* vm = subject_vm(view, operation);
  const auto* stored = operation.facts.if_contains("endpoint");
  if (vm == nullptr || stored == nullptr) {
    return done(StepOutcome::failed(make_error(Errc::internal, "the end point was not recorded")));
  }
  auto endpoint = from_json<MigrationEndpoint>(*stored);
  if (!endpoint) return done(StepOutcome::failed(endpoint.error()));
  Command send = command_for(CommandKind::send, operation, operation.arguments.epoch);
  send.endpoint = *endpoint;
  send.limits = MigrationLimits{};
  send.limits->downtime_ms_max = vm->spec.downtime_ms_max;
  send.limits->throttle_percent_max = vm->spec.throttle_percent_max;
  call(
      operation.arguments.source, std::move(send), kSendDeadline,
      [done](Result<CommandResult> result) {
        if (!result) return done(StepOutcome::failed(result.error()));
        StepOutcome outcome = StepOutcome::done();
        outcome.note = [](Operation& noted) {
          noted.facts.erase("endpoint");  // its secret is used
          noted.progress_percent = kSentPercent;
        };
        done(std::move(outcome));
      },
      [done](int sent) { done(StepOutcome::progress(sent * kSentPercent / 100)); });
}

/// Both halves in one step: a commit between them would only lengthen the guest's pause, and each
/// half is idempotent. Only the answer "handed over by this very call" proves that the destination
/// has never run; without it a failure ends both copies, and the VM starts anew from its disks.
///
/// Impatiently: the source's host is well and its QEMU does not say for long how the switch went.
/// It may wait for a destination that hangs; nobody knows then who has the guest.
void Migration::hand_over(const Operation& operation, const ClusterView& view, bool impatient,
                          StepDone done) const {
  const bool source_fenced = is_fenced(view, operation.arguments.source);
  if (is_fenced(view, operation.arguments.destination)) {
    const Error lost = make_error(Errc::unavailable, "the destination was lost while it took over");
    if (source_fenced) return done(StepOutcome::failed(lost));
    return end_source(operation, lost, std::move(done));
  }
  if (source_fenced) return resume(operation, Fallback::none, std::move(done));
  Command over = command_for(CommandKind::switch_over, operation, operation.arguments.epoch);
  const Host* source = view.hosts.find(operation.arguments.source);
  const bool source_well = source != nullptr && (source->status.health == HostHealth::alive ||
                                                 source->status.health == HostHealth::degraded);
  const bool enough = impatient && source_well;
  call(operation.arguments.source, std::move(over), kSwitchDeadline,
       [this, operation, enough, done](Result<CommandResult> result) {
         // Uncertain: the source is asked again when it answers, or is gone when it is fenced.
         if (!result && is_uncertain(result.error())) {
           if (!enough) return done(StepOutcome::again(result.error()));
           return end_destination(operation, Fallback::restart, result.error(), done);
         }
         if (!result && result.error().code != Errc::not_found) {
           return end_destination(operation, Fallback::source, result.error(), done);
         }
         if (result.ok() && result->progress && result->progress->handed_over) {
           return resume(operation, Fallback::source, with_figures(*result->progress, done));
         }
         resume(operation, result.ok() ? Fallback::restart : Fallback::none, done);
       });
}

/// Keeps what the move was in its operation. The guest's pause is what the source counted until it
/// had handed over, and from there until the destination says that the guest runs.
StepDone Migration::with_figures(const MigrationProgress& sent, StepDone done) const {
  return [this, sent, handed_over = loop_.now(), done = std::move(done)](StepOutcome outcome) {
    if (outcome.kind == StepOutcome::Kind::done) {
      const Duration paused = sent.downtime_ms + (loop_.now() - handed_over);
      outcome.note = [sent, paused](Operation& noted) {
        noted.facts["transferred_bytes"] = sent.transferred_bytes.value;
        noted.facts["passes"] = sent.passes;
        if (sent.throttle_percent > 0) noted.facts["throttle_percent"] = sent.throttle_percent;
        noted.facts["downtime_ms"] = to_ms(paused);
      };
    }
    done(std::move(outcome));
  };
}

void Migration::resume(const Operation& operation, Fallback fallback, StepDone done) const {
  Command go_on = command_for(CommandKind::resume, operation, operation.arguments.next_epoch);
  call(operation.arguments.destination, std::move(go_on), kSwitchDeadline,
       [this, operation, fallback, done](Result<CommandResult> result) {
         if (result.ok()) return done(StepOutcome::done());
         const Errc code = result.error().code;
         if (code == Errc::unavailable) return done(StepOutcome::again(result.error()));
         // A QEMU that does not answer in time may run a moment later.
         const bool may_run = code == Errc::timeout && fallback == Fallback::source;
         end_destination(operation, may_run ? Fallback::restart : fallback, result.error(), done);
       });
}

void Migration::end_destination(const Operation& operation, Fallback fallback, const Error& why,
                                StepDone done) const {
  Command stop = forced_stop(operation, operation.arguments.next_epoch);
  call(operation.arguments.destination, std::move(stop), kCleanDeadline,
       [this, operation, fallback, why, done](Result<CommandResult> stopped) {
         if (!stopped) return done(StepOutcome::again(stopped.error()));
         if (fallback == Fallback::source) return run_source_again(operation, why, done);
         if (fallback == Fallback::restart) return end_source(operation, why, done);
         done(StepOutcome::failed(why));
       });
}

void Migration::end_source(const Operation& operation, const Error& why, StepDone done) const {
  call(operation.arguments.source, forced_stop(operation, operation.arguments.epoch),
       kCleanDeadline, [why, done](Result<CommandResult> stopped) {
         if (!stopped) return done(StepOutcome::again(stopped.error()));
         done(StepOutcome::failed(why));
       });
}

void Migration::run_source_again(const Operation& operation, const Error& why,
                                 StepDone done) const {
  Command back = command_for(CommandKind::cancel_send, operation, operation.arguments.epoch);
  call(operation.arguments.source, std::move(back), kSwitchDeadline,
       [done, why](Result<CommandResult> result) {
         if (!result.ok() && is_uncertain(result.error())) {
           return done(StepOutcome::again(result.error()));
         }
         done(StepOutcome::failed(why));
       });
}

void Migration::clean(const Operation& operation, const ClusterView& view, StepDone done) const {
  // Whatever the answers: a copy that stays is of an old epoch and is revoked when its host reports
  // it, and attachments that nobody may have any more are ended by the room of storage.
  const auto stop_source = [this, operation, done,
                            fenced = is_fenced(view, operation.arguments.source)] {
    if (fenced) return done(StepOutcome::done());
    call(operation.arguments.source, forced_stop(operation, operation.arguments.epoch),
         kCleanDeadline, [done](Result<CommandResult>) { done(StepOutcome::done()); });
  };
  const Vm* vm = subject_vm(view, operation);
  if (vm == nullptr) return stop_source();
  Attachments(commands_).revoke(view, *vm, operation.arguments.epoch,
                                [stop_source](const auto&) { stop_source(); });
}

/// The source has the guest: it runs on there. An answer that is lost is asked for again until its
/// host is known to be gone: a guest that stays paused would have nobody who lets it run.
void Migration::undo(const Operation& operation, const ClusterView& view, StepDone done) const {
  if (is_fenced(view, operation.arguments.source)) {
    return discard_destination(operation, view, std::move(done));
  }
  Command cancel = command_for(CommandKind::cancel_send, operation, operation.arguments.epoch);
  const auto then = [this, operation, view, done](Result<CommandResult> cancelled) {
    if (!cancelled && is_uncertain(cancelled.error()))
      return done(StepOutcome::again(cancelled.error()));
    discard_destination(operation, view, done);
  };
  call(operation.arguments.source, std::move(cancel), kSwitchDeadline, then);
}

void Migration::discard_destination(const Operation& operation, const ClusterView& view,
                                    StepDone done) const {
  const auto let_out = [this, operation, view, done] {
    const Vm* vm = subject_vm(view, operation);
    if (vm == nullptr) return done(StepOutcome::done());
    Attachments(commands_).detach(view, *vm, operation.arguments.next_epoch,
                                  [done](const Result<void>&) { done(StepOutcome::done()); });
  };
  if (is_fenced(view, operation.arguments.destination)) return let_out();
  Command stop = forced_stop(operation, operation.arguments.next_epoch);
  call(operation.arguments.destination, std::move(stop), kCleanDeadline,
       [done, let_out](Result<CommandResult> result) {
         if (result.ok()) return let_out();
         done(StepOutcome::failed(result.error()));
       });
}

}  // namespace

OperationStepTable migrate_table(HostCommands& commands, Loop& loop) {
  const auto migration = std::make_shared<Migration>(commands, loop);
  const auto step = [migration](const char* name, auto method) {
    OperationStepTable::Step made;
    made.name = name;
    made.act = [migration, method](const Operation& operation, const ClusterView& view,
                                   StepDone done) {
      ((*migration).*method)(operation, view, std::move(done));
    };
    return made;
  };
  OperationStepTable table;
  table.steps.push_back(step("prepare", &Migration::prepare));
  table.steps.push_back(step("send", &Migration::send));
  table.steps.back().record = [](const RecordContext& context) {
    change_vm(context,
              [](VmStatus& status) { status.migration.phase = MigrationPhase::switching; });
  };
  table.steps.push_back(step("switch", &Migration::switch_over));
  table.steps.back().past_deadline = true;
  table.steps.back().act_impatient = step("switch", &Migration::switch_over_impatiently).act;
  table.steps.back().patience = kSwitchPatience;
  table.steps.back().record = [](const RecordContext& context) {
    change_vm(context, [&](VmStatus& status) {
      status.host = context.operation.arguments.destination;
      status.epoch = context.operation.arguments.next_epoch;
      status.migration = VmMigration();
      status.power = VmPower::running;
    });
  };
  table.steps.push_back(step("clean", &Migration::clean));
  table.steps.back().past_deadline = true;
  table.undo = [migration](const Operation& operation, const ClusterView& view, StepDone done) {
    migration->undo(operation, view, std::move(done));
  };
  table.record_success = [](const RecordContext& context) {
    change_vm(context, [](VmStatus& status) {
      status.operation = OperationId();
      status.unplaced_reason.clear();
    });
    std::string text = "runs on " + context.operation.arguments.destination.value;
    if (const auto* paused = context.operation.facts.if_contains("downtime_ms")) {
      text += fmt::format(", paused for {} ms", paused->to_number<std::int64_t>());
    }
    context.event(event_of(context, "vm.moved", std::move(text)));
  };
  table.record_failure = [](const RecordContext& context) {
    change_vm(context, [&](VmStatus& status) {
      // Once it was to take over it may have run.
      if (status.migration.phase == MigrationPhase::switching) {
        remember(status.lost, ended_copy(context.view, status.migration.destination));
      }
      status.operation = OperationId();
      status.migration = VmMigration();
    });
    Event event = event_of(context, "vm.move_failed", context.operation.error);
    event.severity = Severity::warning;
    context.event(std::move(event));
  };
  return table;
}

}  // namespace virga
