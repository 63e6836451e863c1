#pragma once

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "agent/protocol.h"
#include "sim/sim_loop.h"

namespace virga::test {

/// The hosts as they really are: which copies exist, what answers, what has power. It outlives every server.
class FakeHosts {
 public:
  struct Machine {
    bool powered = true;
    bool linked = true;            ///< to the server
    Instant last_report;
    Instant leash_end;
    std::map<VmId, ObservedVm> copies;
    std::vector<ObservedVm> reported;
  };
  /// Who may write to a volume in one of its places, by that device's own count.
  struct Attached {
    Epoch revoked;
    std::set<Epoch> epochs;
  };
  enum class BmcMode { answers, silent, lies };

  explicit FakeHosts(SimLoop& world) : loop(world) { beat(); }

  void add(const HostId& host) { machines[host].leash_end = loop.now() + seconds(10); }

  void cut_power(const HostId& host) {
    machines[host].powered = false;
    machines[host].copies.clear();
  }

  bool answers(const HostId& host) const {
    const Machine& machine = machines.at(host);
    return machine.powered && machine.linked;
  }

  /// Where copies of the VM run now, by the world's own count.
  std::set<HostId> running(const VmId& vm) const {
    std::set<HostId> found;
    for (const auto& [host, machine] : machines) {
      const auto copy = machine.copies.find(vm);
      if (copy != machine.copies.end() && copy->second.power == VmPower::running)
        found.insert(host);
    }
    return found;
  }

  int count(CommandKind kind) const {
    int found = 0;
    for (const auto& [host, command] : commands) found += command.kind == kind ? 1 : 0;
    return found;
  }

  Result<CommandResult> execute(const HostId& host, const Command& command);
  Result<CommandResult> attach(const Command& command);

  SimLoop& loop;
  std::map<HostId, Machine> machines;
  std::vector<std::pair<HostId, Command>> commands;
  std::map<VmId, Epoch> highest;
  std::map<std::pair<VolumeId, DeviceId>, Attached> places;
  std::set<DeviceId> closed;             ///< let nobody in
  std::set<HostId> mute;                 ///< they report and answer to nothing
  std::map<CommandKind, Error> failing;  ///< answered instead of an effect
  std::set<CommandKind> unanswered;      ///< done, but the answer is lost
  bool in_order = false;                 ///< what they say of a stop
  std::vector<int> progress;             ///< told of each command before its answer
  Duration answer_after = milliseconds(40);
  BmcMode bmc = BmcMode::answers;
  bool doubled = false;  ///< a second copy of some VM ran at some moment
  bool aged = false;     ///< a copy went on although one with a higher epoch had run

 private:
  void beat() {
    for (auto& [host, machine] : machines) {
      if (answers(host)) report(machine);
      if (loop.now() >= machine.leash_end) machine.copies.clear();
    }
    loop.after(milliseconds(500), [this] { beat(); });
  }

  void report(Machine& machine) {
    machine.last_report = loop.now();
    machine.leash_end = loop.now() + seconds(10);
    machine.reported.clear();
    for (const auto& [vm, copy] : machine.copies) machine.reported.push_back(copy);
  }

  static void limit_copy(ObservedVm& copy, const VmLaunch& launch) {
    copy.cpu_millicores_max = launch.cpu_millicores;
    copy.cpu_weight = launch.cpu_weight;
    copy.processes_max = launch.processes_max;
  }

  void run_copy(const HostId& host, const VmId& vm, const Epoch& epoch, VmPower power) {
    ObservedVm copy;
    copy.vm = vm;
    copy.epoch = epoch;
    copy.power = power;
    copy.incoming = power == VmPower::paused;
    copy.health = power == VmPower::running ? VmHealth::healthy : VmHealth::unknown;
    machines[host].copies[vm] = copy;
    doubled = doubled || running(vm).size() > 1;
    aged = aged || (power == VmPower::running && epoch < highest[vm]);
  }
};

inline Result<CommandResult> FakeHosts::attach(const Command& command) {
  CommandResult result;
  result.ok = true;
  Attached& volume = places[{command.storage->volume, command.storage->device}];
  if (command.kind == CommandKind::attach_volume) {
    if (closed.contains(command.storage->device)) return make_error(Errc::exhausted, "no room");
    if (command.epoch <= volume.revoked) return make_error(Errc::fenced, "an older epoch");
    for (const Epoch& other : volume.epochs) {
      const bool fits = other == command.epoch || other == command.storage->beside;
      if (!fits) return make_error(Errc::conflict, "attached otherwise");
    }
    volume.epochs.insert(command.epoch);
    result.attached = VolumeEndpoint{
        "nbd", "127.0.0.1", 1, command.storage->volume.value + to_string(command.epoch), "u", "k"};
  } else if (command.kind == CommandKind::detach_volume) {
    volume.epochs.erase(command.epoch);
  } else {
    volume.revoked = std::max(volume.revoked, command.epoch);
    std::erase_if(volume.epochs, [&](const Epoch& one) { return one <= command.epoch; });
  }
  return result;
}

inline Result<CommandResult> FakeHosts::execute(const HostId& host, const Command& command) {
  commands.emplace_back(host, command);
  if (const auto error = failing.find(command.kind); error != failing.end()) return error->second;
  if (command.storage) return attach(command);
  auto& copies = machines[host].copies;
  const auto copy = copies.find(command.vm);
  CommandResult result;
  result.ok = true;
  switch (command.kind) {
    case CommandKind::start:
      if (command.epoch < highest[command.vm]) return make_error(Errc::fenced, "an older epoch");
      highest[command.vm] = command.epoch;
      run_copy(host, command.vm, command.epoch, VmPower::running);
      if (command.launch) limit_copy(copies[command.vm], *command.launch);
      break;
    case CommandKind::change_limits:
      if (copy == copies.end()) return make_error(Errc::not_found, "no such copy");
      limit_copy(copy->second, *command.launch);
      break;
    case CommandKind::stop:
      if (copy != copies.end() && copy->second.epoch <= command.epoch) copies.erase(copy);
      result.in_order = in_order;
      break;
    case CommandKind::prepare_incoming:
      run_copy(host, command.vm, command.epoch, VmPower::paused);
      result.endpoint = MigrationEndpoint{"127.0.0.1", 4444, "secret"};
      break;
    case CommandKind::switch_over:
      if (copy == copies.end()) return make_error(Errc::not_found, "no such copy");
      result.progress = MigrationProgress{};
      result.progress->handed_over = !copy->second.postmigrate;
      result.progress->transferred_bytes = Bytes{1 << 20};
      result.progress->downtime_ms = milliseconds(30);
      copy->second.power = VmPower::paused;
      copy->second.postmigrate = true;
      break;
    case CommandKind::resume:
      if (copy == copies.end()) return make_error(Errc::not_found, "no such copy");
      highest[command.vm] = command.epoch;
      run_copy(host, command.vm, command.epoch, VmPower::running);
      break;
    case CommandKind::cancel_send:
      if (copy != copies.end()) run_copy(host, command.vm, copy->second.epoch, VmPower::running);
      break;
    default:
      break;
  }
  report(machines[host]);
  return result;
}

}  // namespace virga::test
