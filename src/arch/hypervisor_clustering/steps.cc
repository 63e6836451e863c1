#include "arch/hypervisor_clustering/steps.h"

#include <algorithm>

#include "base/reflect.h"

namespace virga {

VmId vm_of(const Operation& operation) { return VmId(operation.subject.substr(keys::kVm.size())); }

const Vm* subject_vm(const ClusterView& view, const Operation& operation) {
  return view.vms.find(vm_of(operation));
}

bool is_fenced(const ClusterView& view, const HostId& host) {
  const Host* found = view.hosts.find(host);
  return found == nullptr || found->status.health == HostHealth::fenced;
}

bool is_uncertain(const Error& error) {
  return error.code == Errc::unavailable || error.code == Errc::timeout;
}

LostCopy ended_copy(const ClusterView& view, const HostId& host) {
  const Host* found = view.hosts.find(host);
  const bool fenced = found != nullptr && found->status.health == HostHealth::fenced;
  return {host, fenced ? found->status.fence_proof : FenceProof::agent_confirmed_stop};
}

Command command_for(CommandKind kind, const Operation& operation, const Epoch& epoch) {
  Command command;
  command.kind = kind;
  command.correlation = operation.correlation;
  command.vm = vm_of(operation);
  command.epoch = epoch;
  return command;
}

Command forced_stop(const Operation& operation, const Epoch& epoch) {
  Command command = command_for(CommandKind::stop, operation, epoch);
  command.stop = StopOptions{true, seconds(5)};
  return command;
}

std::vector<const Volume*> mirrored_volumes(const ClusterView& view, const Vm& vm) {
  std::vector<const Volume*> found;
  for (const VmDisk& disk : vm.spec.disks) {
    if (disk.volume.empty()) continue;
    const Volume* volume = view.volumes.find(VolumeId(qualified(vm.meta.tenant, disk.volume)));
    if (volume != nullptr && volume->in_use().size() > 1) found.push_back(volume);
  }
  return found;
}

void keep_one_leg(Transaction& transaction, const Volume& volume, const DeviceId& kept) {
  Volume changed = volume;
  for (const DeviceId& device : volume.in_use()) {
    if (device != kept) set_leg(changed.status, device, LegState::behind);
  }
  transaction.put(changed);
}

bool keep_served_legs(Transaction& transaction, const ClusterView& view, const Vm& vm,
                      bool chosen_later) {
  bool all = true;
  for (const Volume* volume : mirrored_volumes(view, vm)) {
    const std::vector<DeviceId> legs = volume->in_use();
    auto kept = std::ranges::find_if(legs, [&](const DeviceId& id) {
      const Device* device = view.devices.find(id);
      return device != nullptr && device->status.available;
    });
    if (kept == legs.end() && !chosen_later) kept = legs.begin();
    all = all && kept != legs.end();
    if (kept != legs.end()) keep_one_leg(transaction, *volume, *kept);
  }
  return all;
}

void change_vm(const RecordContext& context, const std::function<void(VmStatus&)>& change) {
  const Operation& operation = context.operation;
  const Vm* vm = subject_vm(context.view, operation);
  if (vm == nullptr || vm->status.operation != operation.id()) return;
  Vm changed = *vm;
  change(changed.status);
  if (operation.kind == OperationKind::stop_vm) changed.spec.restart = false;
  const bool tried =
      operation.kind == OperationKind::migrate_vm && changed.status.operation.empty();
  if (tried && changed.spec.move_to == operation.arguments.destination) {
    changed.spec.move_to = HostId();
  }
  context.transaction.put(changed);
}

Event event_of(const RecordContext& context, std::string kind, std::string text) {
  const OperationArguments& arguments = context.operation.arguments;
  const Epoch epoch = std::max(arguments.epoch, arguments.next_epoch);
  Event event;
  event.kind = std::move(kind);
  event.subject = context.operation.subject;
  event.tenant = context.operation.meta.tenant;
  event.text = std::move(text);
  event.facts["operation"] = context.operation.meta.name;
  if (!arguments.source.empty()) event.facts["source"] = arguments.source.value;
  if (!arguments.destination.empty()) event.facts["host"] = arguments.destination.value;
  if (epoch.counter > 0) event.facts["epoch"] = to_string(epoch);
  tell_lost(event.facts, arguments.lost);
  for (const auto& [name, value] : context.operation.facts) {
    if (name != "endpoint") event.facts[name] = value;
  }
  return event;
}

void tell_lost(boost::json::object& facts, const LostCopies& lost) {
  if (lost.empty()) return;
  facts["proof"] = std::string(enum_name(lost.back().proof));
  std::string earlier;
  for (std::size_t i = 0; i + 1 < lost.size(); ++i) {
    earlier +=
        (i == 0 ? "" : ", ") + lost[i].host.value + " " + std::string(enum_name(lost[i].proof));
  }
  if (!earlier.empty()) facts["earlier"] = earlier;
}

}  // namespace virga
