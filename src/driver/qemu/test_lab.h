#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "driver/hypervisor_contract.h"
#include "driver/null_fabric.h"
#include "driver/qemu/qemu_hypervisor.h"

namespace virga {

/// A leash that only remembers.
class RememberingGuard final : public ProcessGuard {
 public:
  Result<void> guard(const std::string& name, int pidfd) override {
    if (refuse) return make_error(Errc::unavailable, "no leash answers");
    guarded[name] = pidfd;
    return {};
  }
  void release(const std::string& name) override { guarded.erase(name); }
  void extend(Instant, Duration) override {}
  bool armed() const override { return !refuse; }

  std::map<std::string, int> guarded;
  bool refuse = false;
};

/// Two hosts of this machine with real QEMU processes, in a folder of its own. Its end leaves nothing.
class QemuLab final : public HypervisorLab {
 public:
  QemuLab();
  ~QemuLab() override;

  Hypervisor& host(int index) override { return *hosts_[index].hypervisor; }
  VmLaunch launch(const std::string& name, std::uint64_t epoch) override;
  void restart_agent(int index) override;
  void kill_vm(int index, const VmId& vm) override { signal(index, vm, SIGKILL); }
  void hang_vm(int index, const VmId& vm) override { signal(index, vm, SIGSTOP); }
  std::optional<ObservedVm> told(int index, const VmId& vm) override;
  std::vector<std::string> leftovers(int index, const VmId& vm) override;
  bool run_until(const std::function<bool()>& condition, Duration deadline) override;

  /// Runs a call of a host to its end.
  template <typename T>
  Result<T> wait(const std::function<void(Callback<T>)>& call) {
    std::optional<Result<T>> outcome;
    call([&](Result<T> result) { outcome = std::move(result); });
    EXPECT_TRUE(run_until([&] { return outcome.has_value(); }, seconds(40)));
    return outcome ? *outcome : make_error(Errc::internal, "the call did not complete");
  }

  QemuHypervisor& qemu(int index) { return *hosts_[index].hypervisor; }
  RememberingGuard& guard(int index) { return hosts_[index].guard; }
  NullFabric& fabric(int index) override { return *hosts_[index].fabric; }
  const HypervisorInfo& info(int index) const { return hosts_[index].info; }
  const std::string& why(int index) const { return hosts_[index].sink.last_why; }
  int tells(int index) const { return hosts_[index].sink.tells; }
  std::string shared() const { return folder_ + "/shared"; }
  std::string run(int index) const { return folder_ + "/run" + std::to_string(index); }
  std::int64_t pid(int index, const VmId& vm) const;
  AsioLoop& loop() { return loop_; }

  /// Of an agent that is started from now on.
  bool encrypt_migrations = true;
  std::map<std::string, std::string> host_devices;

  /// A file of the VM's control group, whichever hierarchy has it: "pids.max". Empty = there is none.
  std::string group_file(int index, const VmId& vm, const std::string& file) const;

  /// Puts a boot sector onto the root disk of a VM that was not started yet.
  void write_root(const VmLaunch& launch, const std::string& sector);

 private:
  struct Sink final : HypervisorSink {
    void vm_changed(const ObservedVm& now, const std::string& reason) override {
      last[now.vm] = now;
      last_why = reason;
      ++tells;
    }
    std::map<VmId, ObservedVm> last;
    std::string last_why;
    int tells = 0;
  };
  struct Host {
    RememberingGuard guard;
    std::unique_ptr<NullFabric> fabric;
    Sink sink;
    std::unique_ptr<QemuHypervisor> hypervisor;
    HypervisorInfo info;
  };

  void signal(int index, const VmId& vm, int number);
  void open(int index);
  std::string group(int index) const;

  std::string folder_;
  AsioLoop loop_;
  Host hosts_[2];
};

}  // namespace virga
