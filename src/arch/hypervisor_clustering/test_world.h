#pragma once

#include <memory>
#include <optional>
#include <string>

#include "arch/hypervisor_clustering/controller.h"
#include "arch/hypervisor_clustering/operations.h"
#include "arch/hypervisor_clustering/test_hosts.h"
#include "runtime/operation_runner.h"
#include "store/memory_store.h"

namespace virga::test {

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
  void call(const HostId& host, Command command, Duration deadline, Callback<CommandResult> done,
            Progress progressed) override {
    if (hosts_.mute.contains(host)) {
      process_->after(deadline, [done] { done(make_error(Errc::timeout, "no answer")); });
      return;
    }
    // The answer comes to this run of the server only.
    process_->after(hosts_.answer_after,
                    [this, host, command = std::move(command), done, progressed] {
                      if (!hosts_.answers(host))
                        return done(make_error(Errc::unavailable, "no session"));
                      for (const int percent : hosts_.progress) {
                        if (progressed) progressed(percent);
                      }
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
