#include <fmt/format.h>

#include <algorithm>

#include "arch/hypervisor_clustering/attachments.h"
#include "arch/hypervisor_clustering/operations.h"
#include "arch/hypervisor_clustering/steps.h"

/// A volume of a running VM moves to another device, or gets back its second place (mirrored).
/// copy: both places are made equal and the guest is paused, so that they stay so; the commit that
/// ends it says that the new place is the one that counts, or counts as well. switch: the guest
/// runs on. Whoever dies at any moment: what the store names first holds all that was acknowledged.
namespace virga {
namespace {

constexpr Duration kAskDeadline = seconds(12);
constexpr Duration kAgain = milliseconds(500);
constexpr std::int64_t kSlowestMibPerSecond = 5;  // a device may be set to 8

DiskMirror mirror_of(const Operation& operation) {
  DiskMirror mirror;
  mirror.volume = operation.arguments.volume.value;
  return mirror;
}

bool is_behind(const Volume& volume, const DeviceId& device) {
  return std::ranges::any_of(volume.status.legs, [&](const VolumeLeg& leg) {
    return leg.device == device && leg.state == LegState::behind;
  });
}

/// True once the store says that the new place counts.
bool has_moved(const ClusterView& view, const Operation& operation) {
  const Volume* volume = view.volumes.find(operation.arguments.volume);
  if (volume == nullptr) return false;
  const std::vector<DeviceId> used = volume->in_use();
  return std::ranges::find(used, operation.arguments.device) != used.end();
}

/// What both devices bear.
Mib copied_per_second(const ClusterView& view, const Volume& volume, const Device& to) {
  Mib rate = to.spec.copy_mib_per_second_max;
  for (const DeviceId& leg : volume.in_use()) {
    const Device* from = view.devices.find(leg);
    if (from != nullptr) rate = std::min(rate, from->spec.copy_mib_per_second_max);
  }
  return rate;
}

class DiskMove {
 public:
  explicit DiskMove(HostCommands& commands) : commands_(commands) {}

  void copy(const Operation& operation, const ClusterView& view, const StepDone& done) const;
  void switch_disk(const Operation& operation, const ClusterView& view,
                   const StepDone& done) const {
    end(CommandKind::switch_disk, operation, view, done);
  }
  void undo(const Operation& operation, const ClusterView& view, const StepDone& done) const {
    end(has_moved(view, operation) ? CommandKind::switch_disk : CommandKind::cancel_mirror,
        operation, view, done);
  }

 private:
  void mirror(const Operation& operation, DiskMirror wanted, const StepDone& done) const;
  void end(CommandKind how, const Operation& operation, const ClusterView& view,
           const StepDone& done) const;

  HostCommands& commands_;
};

void DiskMove::copy(const Operation& operation, const ClusterView& view,
                    const StepDone& done) const {
  const OperationArguments& wanted = operation.arguments;
  const Vm* vm = subject_vm(view, operation);
  const Volume* volume = view.volumes.find(wanted.volume);
  const bool there = volume != nullptr && is_behind(*volume, wanted.device);
  const Device* device = view.devices.find(wanted.device);
  if (vm == nullptr || !there || device == nullptr || is_fenced(view, wanted.source)) {
    return done(StepOutcome::failed(
        make_error(Errc::conflict, "the VM, its host or the place for the volume is gone")));
  }
  Attachments(commands_).attach_at(
      {wanted.volume, wanted.device, device->spec.host}, *vm, wanted.epoch,
      [this, operation, joins = volume->spec.mirrored, limit = copying_takes_at_most(*volume),
       rate = copied_per_second(view, *volume, *device),
       done](const Result<VolumeEndpoint>& to) {
        if (!to) return done(StepOutcome::failed(to.error()));
        DiskMirror wanted_mirror = mirror_of(operation);
        wanted_mirror.to = *to;
        wanted_mirror.joins = joins;
        wanted_mirror.bytes_per_second_max = to_bytes(rate).value;
        wanted_mirror.total_ms_max = limit;
        mirror(operation, std::move(wanted_mirror), done);
      });
}

void DiskMove::mirror(const Operation& operation, DiskMirror wanted, const StepDone& done) const {
  const Duration limit = wanted.total_ms_max;
  Command command = command_for(CommandKind::mirror_disk, operation, operation.arguments.epoch);
  command.mirror = std::move(wanted);
  commands_.call(
      operation.arguments.source, std::move(command), limit + kAskDeadline,
      [done](const Result<CommandResult>& equal) {
        done(equal ? StepOutcome::done() : StepOutcome::failed(equal.error()));
      },
      [done](int percent) { done(StepOutcome::progress(percent)); });
}

/// A guest that is paused has nobody else who lets it run: asked until it is known what came of it.
void DiskMove::end(CommandKind how, const Operation& operation, const ClusterView& view,
                   const StepDone& done) const {
  const HostId& host = operation.arguments.source;
  if (is_fenced(view, host)) return done(StepOutcome::done());
  Command command = command_for(how, operation, operation.arguments.epoch);
  command.mirror = mirror_of(operation);
  commands_.call(host, std::move(command), kAskDeadline,
                 [done](const Result<CommandResult>& ended) {
                   const Errc code = ended ? Errc::not_found : ended.error().code;
                   // Another copy, or none: that guest is not there any more.
                   const bool over = code == Errc::not_found || code == Errc::fenced;
                   done(over ? StepOutcome::done() : StepOutcome::again(ended.error(), kAgain));
                 });
}

/// From now on the new place counts: instead of the other one, or beside it.
void turn_over(const RecordContext& context) {
  const DeviceId& device = context.operation.arguments.device;
  const Volume* volume = context.view.volumes.find(context.operation.arguments.volume);
  if (volume == nullptr || !is_behind(*volume, device)) return;
  Volume changed = *volume;
  if (!volume->spec.mirrored) {
    set_leg(changed.status, changed.status.legs.front().device, LegState::behind);
  }
  set_leg(changed.status, device, LegState::in_sync);
  context.transaction.put(changed);
}

}  // namespace

Duration copying_takes_at_most(const Volume& volume) {
  return seconds(60) + seconds(volume.status.size_mib.value / kSlowestMibPerSecond);
}

OperationStepTable move_disk_table(HostCommands& commands) {
  const auto move = std::make_shared<DiskMove>(commands);
  const auto give_back = [](VmStatus& status) { status.operation = OperationId(); };
  OperationStepTable table;
  OperationStepTable::Step copy;
  copy.name = "copy";
  copy.act = [move](const auto& operation, const auto& view, const auto& done) {
    move->copy(operation, view, done);
  };
  copy.record = turn_over;
  table.steps.push_back(std::move(copy));
  OperationStepTable::Step over;
  over.name = "switch";
  over.past_deadline = true;
  over.act = [move](const auto& operation, const auto& view, const auto& done) {
    move->switch_disk(operation, view, done);
  };
  table.steps.push_back(std::move(over));
  table.undo = [move](const auto& operation, const auto& view, const auto& done) {
    move->undo(operation, view, done);
  };
  const auto tell = [](const RecordContext& context, const char* kind, const std::string& text,
                       Severity severity) {
    Event event = event_of(context, kind, text);
    event.severity = severity;
    event.facts["volume"] = context.operation.arguments.volume.value;
    event.facts["device"] = context.operation.arguments.device.value;
    context.event(std::move(event));
  };
  table.record_success = [give_back, tell](const RecordContext& context) {
    change_vm(context, give_back);
    const OperationArguments& moved = context.operation.arguments;
    const Volume* volume = context.view.volumes.find(moved.volume);
    if (volume != nullptr && volume->spec.mirrored) {
      return tell(context, "vm.disk_mirrored",
                  moved.volume.value + " is on " + moved.device.value + " as well", Severity::info);
    }
    tell(context, "vm.disk_moved",
         moved.volume.value + " is on " + moved.device.value + ", nothing was missed",
         Severity::info);
  };
  table.record_failure = [give_back, tell](const RecordContext& context) {
    change_vm(context, give_back);
    tell(context, "vm.disk_move_failed", context.operation.error, Severity::warning);
  };
  return table;
}

}  // namespace virga
