#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "driver/qemu/vm.h"

namespace virga {

/// Who VMs are. `range` is an operator's word, "70000-74095"; empty = as GuestUsers says, or user 65534 for all where
/// the user namespace of this process has not all of those. `uid_map`: text of /proc/self/uid_map; empty = the kernel
/// has no such namespaces. Errors: invalid (no range, ids of others, ids that are not mapped in one piece). Pure.
Result<GuestUsers> choose_guest_users(const std::string& range, const std::string& uid_map);

/// Hypervisor on QEMU processes of this host, spoken to by QMP.
///
/// What it must not forget lies in files below `run_directory`: the record of each process, so that a restarted
/// agent finds it again, and the highest epoch per VM. A start with an epoch whose guest has run here, or that was
/// stopped, is refused with `conflict`: a late repetition must not bring a VM back to life.
///
/// Each VM is a user of its own from the order to start it until its process is gone, also for the next agent: a guest
/// that breaks out into its QEMU can neither signal nor trace another's. A start without a free user is `exhausted`.
class QemuHypervisor final : public Hypervisor {
 public:
  QemuHypervisor(AsioLoop& loop, QemuOptions options, ProcessGuard& guard, Fabric& fabric);
  ~QemuHypervisor() override;

  void open(HypervisorSink& sink, Callback<HypervisorInfo> done) override;
  void start(const VmLaunch& launch, Callback<void> done) override;
  void stop(const VmId& vm, const Epoch& epoch, const StopOptions& options,
            Callback<void> done) override;
  void erase(const VmLaunch& launch, Callback<void> done) override;
  void prepare_incoming(const VmLaunch& launch, Callback<MigrationEndpoint> done) override;
  void send(const VmId& vm, const Epoch& epoch, const MigrationEndpoint& to,
            const MigrationLimits& limits, Callback<MigrationProgress> done) override;
  void switch_over(const VmId& vm, const Epoch& epoch, Callback<MigrationProgress> done) override;
  void resume(const VmId& vm, const Epoch& epoch, Callback<void> done) override;
  void cancel_send(const VmId& vm, const Epoch& epoch, Callback<void> done) override;
  Result<void> change_limits(const VmLaunch& launch) override;
  void grow_disk(const VmId& vm, const Epoch& epoch, const std::string& volume,
                 Callback<void> done) override;
  void keep_leg(const VmId& vm, const Epoch& epoch, const std::string& volume,
                const DeviceId& device, Callback<void> done) override;
  void mirror_disk(const VmId& vm, const Epoch& epoch, const DiskMirror& mirror,
                   Callback<MigrationProgress> done) override;
  void switch_disk(const VmId& vm, const Epoch& epoch, const std::string& volume,
                   Callback<void> done) override;
  void cancel_mirror(const VmId& vm, const Epoch& epoch, const std::string& volume,
                     Callback<void> done) override;
  void attribute(const VmId& vm, const std::string& correlation) override;
  MigrationProgress progress(const VmId& vm) const override;
  std::vector<ObservedVm> observe() const override;
  std::vector<VmUsage> usage() const override;
  void forget_usage(const VmId& vm, const Epoch& epoch) override;
  Result<std::string> console_tail(const VmId& vm, std::size_t bytes_max) const override;

 private:
  void adopt_all(std::shared_ptr<HypervisorInfo> info, Callback<HypervisorInfo> done);
  void tick();
  Result<VmFolder> admit(const VmId& vm, const Epoch& epoch);
  Result<void> admit_new(const VmLaunch& launch);
  Result<void> remember(const VmId& vm, const EpochRecord& record);
  Result<std::shared_ptr<QemuVm>> find(const VmId& vm, const Epoch& epoch) const;
  std::shared_ptr<QemuVm> make_vm(const VmFolder& folder, const VmLaunch& launch);
  void begin(const VmLaunch& launch, bool incoming, Callback<void> done);
  Result<std::uint32_t> pick_user();
  void ended(const VmId& vm);

  AsioLoop& loop_;
  const QemuOptions options_;
  ImageChecks image_checks_;
  Worker worker_;
  Worker reader_;
  Worker prober_;
  MigrationRelays relays_;
  VmContext context_;
  HypervisorSink* sink_ = nullptr;
  std::map<VmId, EpochRecord> epochs_;
  std::map<VmId, std::shared_ptr<QemuVm>> vms_;
  std::map<VmId, std::uint32_t> users_;  ///< of `vms_`, also of those whose process is yet to come
  std::uint32_t users_picked_ = 0;
  std::vector<std::pair<VmUsage, Instant>> ended_;  ///< last figures of copies that are gone, since when
  Timer ticker_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
