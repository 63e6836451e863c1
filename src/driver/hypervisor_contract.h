#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "driver/contract.h"
#include "driver/hypervisor.h"
#include "driver/null_fabric.h"

/// The promises of Hypervisor as tests. A test program makes a HypervisorLab for its implementation, includes
/// hypervisor_contract_tests.h in one file and instantiates the suite there:
/// INSTANTIATE_TEST_SUITE_P(Qemu, HypervisorContract, testing::Values(&make_lab)).
namespace virga {

/// Two hosts on one shared storage, both open, without VMs.
class HypervisorLab {
 public:
  virtual ~HypervisorLab() = default;

  virtual Hypervisor& host(int index) = 0;  ///< 0 or 1

  /// What that host's ports come from and are read back by.
  virtual NullFabric& fabric(int index) = 0;

  /// A small guest that runs for ever.
  virtual VmLaunch launch(const std::string& name, std::uint64_t epoch) = 0;

  /// Ends the agent of a host and starts another; VMs live on. Host is open again when this returns.
  virtual void restart_agent(int index) = 0;

  virtual void kill_vm(int index, const VmId& vm) = 0;  ///< kill -9 of the hypervisor process
  virtual void hang_vm(int index, const VmId& vm) = 0;  ///< the process lives and answers nothing

  /// What sink of that host was told last about the VM.
  virtual std::optional<ObservedVm> told(int index, const VmId& vm) = 0;

  /// What is left of a VM on a host: processes, groups, taps. Empty = nothing.
  virtual std::vector<std::string> leftovers(int index, const VmId& vm) = 0;

  /// Runs the loop until `condition` holds; false = not within `deadline`.
  virtual bool run_until(const std::function<bool()>& condition, Duration deadline) = 0;
};

using MakeHypervisorLab = std::unique_ptr<HypervisorLab> (*)();

class HypervisorContract : public testing::TestWithParam<MakeHypervisorLab> {
 protected:
  template <typename T>
  using Call = std::function<void(Callback<T>)>;

  /// Runs a call to its end.
  template <typename T>
  Result<T> wait(const Call<T>& call, Duration deadline = seconds(40)) {
    auto outcome = std::make_shared<std::optional<Result<T>>>();
    call([outcome](Result<T> result) {
      EXPECT_FALSE(outcome->has_value()) << "completed twice";
      outcome->emplace(std::move(result));
    });
    EXPECT_FALSE(outcome->has_value()) << "completed before the call returned";
    if (!lab->run_until([&] { return outcome->has_value(); }, deadline)) {
      return make_error(Errc::internal, "the call did not complete within its deadline");
    }
    return **outcome;
  }

  Result<void> start(int host, const VmLaunch& launch) {
    return wait<void>([&](Callback<void> done) { lab->host(host).start(launch, std::move(done)); });
  }
  Result<void> stop(int host, const VmLaunch& launch,
                    const StopOptions& options = {true, seconds(5)}) {
    return wait<void>([&](Callback<void> done) {
      lab->host(host).stop(launch.vm, launch.epoch, options, std::move(done));
    });
  }
  Result<MigrationEndpoint> prepare(int host, const VmLaunch& launch) {
    return wait<MigrationEndpoint>([&](Callback<MigrationEndpoint> done) {
      lab->host(host).prepare_incoming(launch, std::move(done));
    });
  }
  Result<MigrationProgress> send(int host, const VmLaunch& launch, const MigrationEndpoint& to,
                                 const MigrationLimits& limits = {}) {
    return wait<MigrationProgress>([&](Callback<MigrationProgress> done) {
      lab->host(host).send(launch.vm, launch.epoch, to, limits, std::move(done));
    });
  }
  Result<MigrationProgress> switch_over(int host, const VmLaunch& launch) {
    return wait<MigrationProgress>([&](Callback<MigrationProgress> done) {
      lab->host(host).switch_over(launch.vm, launch.epoch, std::move(done));
    });
  }
  Result<void> resume(int host, const VmLaunch& launch) {
    return wait<void>([&](Callback<void> done) {
      lab->host(host).resume(launch.vm, launch.epoch, std::move(done));
    });
  }
  Result<void> cancel(int host, const VmLaunch& launch) {
    return wait<void>([&](Callback<void> done) {
      lab->host(host).cancel_send(launch.vm, launch.epoch, std::move(done));
    });
  }

  std::optional<ObservedVm> seen(int host, const VmId& vm) {
    for (const ObservedVm& observed : lab->host(host).observe()) {
      if (observed.vm == vm) return observed;
    }
    return std::nullopt;
  }
  bool runs(int host, const VmId& vm) {
    const auto observed = seen(host, vm);
    return observed && observed->power == VmPower::running;
  }
  bool soon(const std::function<bool()>& condition) {
    return lab->run_until(condition, seconds(20));
  }

  std::unique_ptr<HypervisorLab> lab = GetParam()();
};

}  // namespace virga
