#pragma once

#include <memory>
#include <string>

#include "lab/host_processes.h"
#include "lab/lab_options.h"
#include "lab/network.h"
#include "lab/supervised.h"

namespace virga {

/// One host of the lab: a network namespace, its processes, leash and agent first, and the BMC that outlives its power.
class LabHost {
 public:
  LabHost(AsioLoop& loop, const LabOptions& options, LabNetwork& network, int index, Task changed);
  LabHost(const LabHost&) = delete;
  LabHost& operator=(const LabHost&) = delete;

  const std::string& name() const { return name_; }
  LabHostStatus status() const;
  const Supervised& agent() const { return agent_; }
  const Supervised& leash() const { return leash_; }
  const Supervised& bmc() const { return bmc_; }

  /// Folders, limits, switch and watchdog pipe; then the BMC. Once.
  Result<void> prepare();
  Result<void> start_bmc();

  /// Another boot: fresh namespace, fresh boot id, leash and agent. A host that is on stays as it is.
  Result<void> power_on();

  /// Cables out, then everything killed before it could run another instruction, then the namespace ended.
  /// Completes when no process is left; timeout after 10 s.
  void power_off(Callback<void> done);

  /// The BMC has killed everything: ends the rest.
  void powered_off_by_bmc();

  /// Any fault but `power`.
  Result<void> fail(const LabRequest& fault);
  Result<void> set_bmc_mode(const std::string& mode);

  /// Undoes all faults; powers on.
  Result<void> heal();

 private:
  std::string runtime(const std::string& file) const {
    return paths_.host_runtime(name_) + "/" + file;
  }
  std::string cgroup() const;  ///< empty = it has none
  ProcessOptions program(const std::string& log_name) const;
  ProcessOptions leash_program() const;
  ProcessOptions agent_program() const;
  Result<void> mount_shared() const;
  Result<void> start_programs();
  void wait_until_empty(int looks_left, Callback<void> done);
  void finish_power_off();
  void kill_hypervisors() const;

  AsioLoop& loop_;
  const LabOptions& options_;
  LabNetwork& network_;
  int index_;
  std::string name_;
  LabPaths paths_;
  std::string processes_id_;
  std::unique_ptr<HostProcesses> processes_;  ///< from prepare() on
  Supervised agent_;
  Supervised leash_;
  Supervised bmc_;
  std::string boot_id_;
  Descriptor namespace_;
  Descriptor bmc_namespace_;
  bool plugged_ = false;
  bool frozen_ = false;
  bool on_again_ = false;  ///< healed while its BMC was switching it off
  Timer waiting_;
};

/// Environment of every program that the lab starts: nothing of the caller's but sanitizer options.
std::map<std::string, std::string> lab_environment();

}  // namespace virga
