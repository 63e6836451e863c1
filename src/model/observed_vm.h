#pragma once

#include <boost/describe.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "model/vm.h"

namespace virga {

/// How health_reason begins for failures that only a restart of the guest cures.
inline constexpr std::string_view kGuestPanicked = "guest panicked";
inline constexpr std::string_view kWatchdogExpired = "watchdog expired";

/// A volume as the guest has it.
struct ObservedDisk {
  VolumeId volume;
  Mib size_mib;
  std::vector<DeviceId> legs{};     ///< the places that are written; empty = its agent does not say
  std::vector<DeviceId> failing{};  ///< of these: which did not take what was written
  DeviceId copied_to{};             ///< a copy to it is under way, or has ended and nobody has said how to go on

  friend bool operator==(const ObservedDisk&, const ObservedDisk&) = default;
};
BOOST_DESCRIBE_STRUCT(ObservedDisk, (), (volume, size_mib, legs, failing, copied_to))

/// What really exists on this host for one VM.
struct ObservedVm {
  VmId vm;
  Epoch epoch;
  VmPower power = VmPower::stopped;
  bool incoming = false;  ///< waits for a live migration; has never run
  bool postmigrate =
      false;  ///< its state has left in a live migration; stopped for ever unless resumed
  VmHealth health = VmHealth::unknown;
  std::string health_reason;       ///< "guest panicked", "disk root: no space left"
  Duration heartbeat_age_ms{-1};   ///< since the guest's last sign of life; negative = never
  Millicores cpu_millicores_used;  ///< over the last second
  Mib memory_mib_used;             ///< resident
  Millicores cpu_millicores_max;   ///< quota in force
  int cpu_weight = 0;              ///< in force; 0 = not told
  int processes_max = 0;           ///< in force; 0 = not told
  std::vector<ObservedDisk> disks;  ///< that are volumes; empty = none, or not told
  /// It arrived alive, and what keeps its ports apart from others was read back from its host's kernel.
  bool isolation_checked = false;
  std::string isolation_breach{};  ///< what of it is not in force; empty = all is
};
BOOST_DESCRIBE_STRUCT(ObservedVm, (),
                      (vm, epoch, power, incoming, postmigrate, health, health_reason,
                       heartbeat_age_ms, cpu_millicores_used, memory_mib_used, cpu_millicores_max,
                       cpu_weight, processes_max, disks, isolation_checked, isolation_breach))

}  // namespace virga
