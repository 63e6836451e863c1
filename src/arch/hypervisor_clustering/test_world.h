#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "arch/hypervisor_clustering/controller.h"
#include "arch/hypervisor_clustering/operations.h"
#include "runtime/operation_runner.h"
#include "sim/sim_loop.h"
#include "store/memory_store.h"

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
    std::set<HostId> places;
    for (const auto& [host, machine] : machines) {
      const auto copy = machine.copies.find(vm);
      if (copy != machine.copies.end() && copy->second.power == VmPower::running)
        places.insert(host);
    }
    return places;
  }

  int count(CommandKind kind) const {
    int found = 0;
    for (const auto& [host, command] : commands) found += command.kind == kind ? 1 : 0;
    return found;
  }

  Result<CommandResult> execute(const HostId& host, const Command& command);

  SimLoop& loop;
  std::map<HostId, Machine> machines;
  std::vector<std::pair<HostId, Command>> commands;
  std::map<VmId, Epoch> highest;
  std::map<CommandKind, Error> failing;  ///< answered instead of an effect
  std::set<CommandKind> unanswered;      ///< done, but the answer is lost
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

inline Result<CommandResult> FakeHosts::execute(const HostId& host, const Command& command) {
  commands.emplace_back(host, command);
  if (const auto error = failing.find(command.kind); error != failing.end()) return error->second;
  auto& copies = machines[host].copies;
  const auto copy = copies.find(command.vm);
  CommandResult result;
  result.ok = true;
  switch (command.kind) {
    case CommandKind::start:
      if (command.epoch < highest[command.vm]) return make_error(Errc::fenced, "an older epoch");
      highest[command.vm] = command.epoch;
      run_copy(host, command.vm, command.epoch, VmPower::running);
      break;
    case CommandKind::stop:
      if (copy != copies.end() && copy->second.epoch <= command.epoch) copies.erase(copy);
      break;
    case CommandKind::prepare_incoming:
      run_copy(host, command.vm, command.epoch, VmPower::paused);
      result.endpoint = MigrationEndpoint{"127.0.0.1", 4444, "secret"};
      break;
    case CommandKind::switch_over:
      if (copy == copies.end()) return make_error(Errc::not_found, "no such copy");
      result.progress = MigrationProgress{};
      result.progress->handed_over = !copy->second.postmigrate;
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

/// One run of the server's core: what ends with it is forgotten, the store's disk and the hosts stay.
class FakeServer : private HostCommands, private Bmc {
 public:
  FakeServer(SimLoop& world, FakeHosts& hosts, std::shared_ptr<MemoryDisk> disk,
             MemoryStoreOptions faults, std::uint64_t seed)
      : hosts_(hosts),
        process_(std::make_unique<SimProcess>(world)),
        began_(world.now()),
        store_(*process_, Rng(seed), faults, std::move(disk)),
        mirror_(*process_, store_),
        runner_(*process_, store_, mirror_, names_),
        controller_(*process_, store_, mirror_, *this, names_) {
    register_cluster_operations(runner_, {*process_, *this, *this, [this](const HostId& host) {
                                            return seen_alive(host);
                                          }});
    mirror_.set_incarnation(1);
    mirror_.open([this](Result<void> opened) {
      if (!opened) return;
      runner_.start();
      controller_.start([this](const ClusterId&) { return observe(); });
      tick();
    });
  }
  ~FakeServer() override { process_->end(); }

  const ClusterView& view() const { return mirror_.view(); }
  MemoryStore& store() { return store_; }
  std::size_t active() const { return runner_.active(); }
  std::uint64_t rounds() const { return controller_.rounds(); }

 private:
  void call(const HostId& host, Command command, Duration, Callback<CommandResult> done) override {
    // The answer comes to this run of the server only.
    process_->after(hosts_.answer_after, [this, host, command = std::move(command), done] {
      if (!hosts_.answers(host)) return done(make_error(Errc::unavailable, "no session"));
      auto result = hosts_.execute(host, command);
      if (hosts_.unanswered.count(command.kind) > 0) {
        result = make_error(Errc::unavailable, "the connection was lost");
      }
      process_->after(hosts_.answer_after, [done, result] { done(result); });
    });
  }

  void power(const Machine& machine, Callback<MachinePower> done) override {
    set_power(machine, MachinePower::on, [this, machine, done](Result<void> asked) {
      if (!asked) return done(asked.error());
      const bool on = hosts_.machines.at(host_of(machine)).powered;
      const bool said = on && hosts_.bmc != FakeHosts::BmcMode::lies;
      done(said ? MachinePower::on : MachinePower::off);
    });
  }

  void set_power(const Machine& machine, MachinePower to, Callback<void> done) override {
    process_->after(milliseconds(100), [this, machine, to, done] {
      if (hosts_.bmc == FakeHosts::BmcMode::silent) {
        return done(make_error(Errc::timeout, "the BMC does not answer"));
      }
      const bool obeys = hosts_.bmc == FakeHosts::BmcMode::answers && to == MachinePower::off;
      if (obeys) hosts_.cut_power(host_of(machine));
      done({});
    });
  }

  static HostId host_of(const Machine& machine) {
    return HostId(machine.meta.name.substr(std::string("machine-").size()));
  }

  /// The peers hear what has power and answers them; only the link to the server can be cut in this world.
  std::optional<std::string> seen_alive(const HostId& host) const {
    if (!hosts_.machines.at(host).powered) return std::nullopt;
    return "2 of 2 peers hear it";
  }

  ClusterEvidence observe() const {
    ClusterEvidence evidence;
    for (const auto& [host, machine] : hosts_.machines) {
      HostEvidence& seen = evidence.hosts[host];
      seen.reported = machine.last_report >= began_;
      const Instant since = seen.reported ? machine.last_report : began_;
      seen.silence = process_->now() - since;
      seen.lease_over = seen.silence > seconds(13);
      seen.boot_id = "boot-" + host.value;
      seen.observers = 2;
      seen.observers_silent = machine.powered ? 0 : 2;
      seen.vms = machine.reported;
    }
    return evidence;
  }

  void tick() {
    controller_.mark(ClusterId("c1"));
    process_->after(milliseconds(500), [this] { tick(); });
  }

  FakeHosts& hosts_;
  std::unique_ptr<SimProcess> process_;
  Instant began_;
  MemoryStore store_;
  NameSource names_;
  StoreMirror mirror_;
  OperationRunner runner_;
  ClusterController controller_;
};

}  // namespace virga::test
