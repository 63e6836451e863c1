#pragma once

#include <string>

#include "edge/asio_loop.h"
#include "edge/process.h"
#include "lab/bmc_service.h"
#include "lab/host_processes.h"

namespace virga {

/// What a program writes to its watchdog for it to stop counting: the kernel's "magic close" (watchdog-api).
constexpr char kWatchdogDisarmed = 'V';

struct LabMachineOptions {
  std::string host;           ///< "host-1"
  std::string instance;       ///< whose lab starts the host again
  std::string processes;      ///< of the host: see open_host_processes()
  std::string power_path;     ///< file with "on" or "off": the position of the switch
  std::string mode_path;      ///< file with a BmcMode; missing = answers
  std::string watchdog_path;  ///< pipe that the host's leash feeds; empty = none
  Duration watchdog_ms = seconds(10);
};

/// The power of a lab host: on as long as one process of it exists.
///
/// It is the host's watchdog too, as a real BMC is: armed by the first byte that the host writes, disarmed by
/// kWatchdogDisarmed and by a boot; when nothing came for `watchdog_ms`, the host is switched off. So a host that is
/// frozen as a whole, with its leash, still stops before its lease counts as a proof.
class LabMachine final : public MachineSwitch {
 public:
  /// Errors: not_found, denied (the pipe), invalid (processes).
  static Result<std::unique_ptr<LabMachine>> open(AsioLoop& loop,
                                                     const LabMachineOptions& options);
  ~LabMachine() override;

  MachinePower power() override;
  void force_off() override;
  Result<void> switch_on() override;
  BmcMode mode() override;

 private:
  LabMachine(AsioLoop& loop, const LabMachineOptions& options,
             std::unique_ptr<HostProcesses> processes);
  void kill_until_empty(int passes_left);
  /// Whether the host had written anything.
  bool read_watchdog();
  void on_watchdog_due();
  void tell_lab(LabRequestKind kind);

  AsioLoop& loop_;
  LabMachineOptions options_;
  std::unique_ptr<HostProcesses> processes_;
  Descriptor watchdog_;
  Timer killing_;
  Timer watchdog_timer_;
};

/// The switch's position as the file says; "on" unless it says "off".
MachinePower read_power_switch(const std::string& path);

/// Errors: exhausted, denied.
Result<void> write_power_switch(const std::string& path, MachinePower power);

/// What a machine does when it begins to boot: what its last life fed counts no more. Without a reader it does nothing.
void disarm_watchdog(const std::string& path);

/// "answers" unless the file names another mode.
BmcMode read_bmc_mode(const std::string& path);

}  // namespace virga
