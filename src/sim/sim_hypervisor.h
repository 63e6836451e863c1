#pragma once

#include <map>
#include <memory>
#include <vector>

#include "driver/fabric.h"
#include "driver/hypervisor.h"
#include "driver/process_guard.h"
#include "sim/migrations.h"
#include "sim/world.h"

namespace virga::sim {

/// The hypervisor driver of one agent run. Its VMs are processes of the host and outlive it.
class SimHypervisor : public Hypervisor {
 public:
  struct Parts {
    World& world;
    Migrations& migrations;
    HostTruth& host;
    Loop& agent;
    ProcessGuard& guard;
    Fabric& fabric;
  };
  explicit SimHypervisor(const Parts& parts);

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
  Result<void> change_limits(const VmLaunch& launch) override;
  MigrationProgress progress(const VmId& vm) const override;
  std::vector<ObservedVm> observe() const override;
  std::vector<VmUsage> usage() const override;
  void forget_usage(const VmId& vm, const Epoch& epoch) override;
  Result<std::string> console_tail(const VmId& vm, std::size_t bytes_max) const override;

  /// The world tells what happened to a copy on this host.
  void copy_changed(const Copy& copy, bool ended);

 private:
  template <typename T>
  Callback<T> on_agent(Callback<T> done);
  Result<void> admit(const VmId& vm, const Epoch& epoch);
  Result<Copy*> find(const VmId& vm, const Epoch& epoch);
  ObservedVm observed(const Copy& copy) const;
  VmUsage used(const Copy& copy) const;
  Result<void> begin_process(const VmLaunch& launch, CopyState state);
  void run_started(const VmId& vm, std::uint64_t serial);
  Result<void> mirrored(const VmId& vm, const Epoch& epoch, const DiskMirror& mirror);
  Result<void> put_on_leg(const VmId& vm, const Epoch& epoch, const VolumeId& volume,
                          const DeviceId& device);
  void wait_received(const VmId& vm, const Epoch& epoch, Instant until, Callback<void> done);
  void finish_start(const VmId& vm, const Result<void>& outcome);
  void inspect(const VmId& vm, std::uint64_t serial, std::size_t nic);
  void found_isolated(const Copy& copy, const std::string& breach);

  World& world_;
  Migrations& migrations_;
  HostTruth& host_;
  Loop& agent_;
  ProcessGuard& guard_;
  Fabric& fabric_;
  HypervisorSink* sink_ = nullptr;
  std::map<VmId, std::vector<Callback<void>>> starts_;
  std::map<std::uint64_t, std::string>
      inspected_;  ///< serials of copies that have arrived here: what is broken
  std::vector<std::pair<VmUsage, Instant>>
      ended_;  ///< last figures of copies that are gone, since when
  std::shared_ptr<int> alive_ = std::make_shared<int>();
};

}  // namespace virga::sim
