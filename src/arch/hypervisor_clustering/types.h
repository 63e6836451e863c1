#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "mechanism/placement/placement.h"
#include "model/observed_vm.h"
#include "model/operation.h"

namespace virga {

/// What is known of one host beside what is stored: volatile, held by the leader alone.
struct HostEvidence {
  bool reported = false;        ///< at least once since this server leads
  Duration silence{0};          ///< since its last report, or since the server began to lead
  bool lease_over = true;       ///< the server's view of its lease, with grace, has ended
  std::string boot_id;          ///< of its present session; empty = none
  std::string degraded;         ///< what it says is failing on it; empty = nothing
  bool cut_off = false;         ///< its session is gone
  int observers = 0;            ///< peers with fresh reports that probe it
  int observers_silent = 0;     ///< of those: how many get no answer
  std::vector<ObservedVm> vms;  ///< of its last report
  bool fence_may_begin = true;  ///< false while a failed try to switch it off is too recent
};

/// Evidence about one cluster at one moment. Silence of everything together is the observer's problem.
struct ClusterEvidence {
  std::map<HostId, HostEvidence> hosts;
  Duration observer_lag{0};  ///< how late this server's own timers run
  bool recovery_held =
      false;  ///< restored from a backup and not yet confirmed: nothing is fenced or restarted
  std::map<VmId, std::set<HostId>> failed_lately;  ///< starts that failed: hosts to avoid
  std::set<VmId> cut_off;  ///< one of their volumes has ended the attachment of the epoch in force
  /// VMs whose last start, move, end or fence failed a moment ago: no new try of that kind yet.
  std::set<VmId> starts_resting, moves_resting, stops_resting, fences_resting;
  std::set<VmId> disks_resting;  ///< one of its disks is being settled, or was a moment ago
};

struct HostChange {
  HostId host;
  HostHealth health = HostHealth::unknown;
  FenceProof proof = FenceProof::none;
  std::string reason;
};

struct FenceHost {
  HostId host;
  std::string boot_id;
  bool ask_only = false;  ///< true: read the power state as a proof; switch nothing
  std::string reason;
};

/// The host is silent: the VM's volumes shall cut its copy off, which proves it unable to act.
struct FenceVm {
  VmId vm;
  HostId host;
  Epoch epoch;  ///< all up to it
  std::string reason;
};

struct StartVm {
  VmId vm;
  HostId host;
  Epoch epoch;
  LostCopies lost;        ///< why no older copy can act; empty = there was none
  bool recovery = false;  ///< high availability starts it again, not its owner
  std::string reason;
  /// After a loss: the place of each mirrored volume that counts from then on. What the lost copy had under way when it
  /// ended may stand in one place alone.
  std::map<VolumeId, DeviceId> kept_legs{};
};

struct MoveVm {
  VmId vm;
  HostId source;
  HostId destination;
  Epoch epoch;
  Epoch next_epoch;
  std::string reason;
};

/// A volume of a running VM has a second place that it shall move to, or (mirrored) have again.
struct MoveDisk {
  VmId vm;
  HostId host;
  Epoch epoch;
  VolumeId volume;
  DeviceId device;
  std::string reason;
};

struct StopVm {
  VmId vm;
  HostId host;
  Epoch epoch;
  bool force = false;
  bool then_delete = false;  ///< `host` may be empty then; `eraser` removes its disks
  HostId eraser;
  std::string reason;
};

/// A copy with an old epoch on a host that reports: to be ended at once, without an operation.
struct RevokeCopy {
  VmId vm;
  HostId host;
  Epoch epoch;
  std::string reason;
};

/// A running copy gets the limits that are asked for now, at once, without an operation.
struct LimitVm {
  VmId vm;
  HostId host;
  std::string reason;
};

/// A volume of a running VM is larger than its guest knows: it is shown, at once, without an operation.
struct GrowDisk {
  VmId vm;
  HostId host;
  VolumeId volume;
};

enum class DiskSettlement {
  keep_leg,       ///< it writes to a place that does not count any more: it goes on with `device` alone
  finish_mirror,  ///< what was copied to `device` counts: it goes on there, or there as well
  drop_mirror,    ///< nobody carries on the copy to `device`: it goes on where it was
};

/// A disk of a running copy follows what the store says of its volume, at once, without an operation.
struct SettleDisk {
  VmId vm;
  HostId host;
  VolumeId volume;
  DeviceId device;
  DiskSettlement how = DiskSettlement::keep_leg;
};

/// A move stands in the way of what its guest waits for.
struct CallOff {
  OperationId operation;
  VmId vm;
  std::string reason;
};

/// The stored state of a VM follows what its host reports.
struct ObserveVm {
  VmId vm;
  VmPower power = VmPower::stopped;
  VmHealth health = VmHealth::unknown;
  std::string health_reason;
  HostId host;  ///< where it is; empty = nowhere any more
  Epoch epoch;  ///< as stored, or what runs after a restore from a backup
  Epoch isolation_checked{};  ///< nothing of it is new = zero
  std::string isolation_breach{};
};

struct Unplaced {
  VmId vm;
  LostCopies lost;  ///< not empty: its last copy cannot act any more, it counts as stopped
  std::string
      reason;  ///< one line with every candidate's; empty = nothing stands in its way any more
  std::vector<Refusal> refusals;
};

struct StrayVm {
  VmId vm;
  HostId host;
};

/// The room's decision. At most one action per host and per VM; beside it a VM may be told why something waits
/// (`unplaced`).
struct ClusterPlan {
  std::vector<HostChange> host_changes;
  std::vector<FenceHost> fences;
  std::vector<FenceVm> vm_fences;
  std::vector<RevokeCopy> revokes;
  std::vector<ObserveVm> observations;
  std::vector<StartVm> starts;
  std::vector<MoveVm> moves;
  std::vector<MoveDisk> disk_moves;
  std::vector<StopVm> stops;
  std::vector<LimitVm> limits;
  std::vector<GrowDisk> disk_growths;
  std::vector<SettleDisk> settlements;
  std::vector<CallOff> called_off;
  std::vector<Unplaced> unplaced;
  std::vector<StrayVm> strays;

  bool empty() const {
    return host_changes.empty() && fences.empty() && vm_fences.empty() && revokes.empty() &&
           observations.empty() && starts.empty() && moves.empty() && disk_moves.empty() &&
           stops.empty() && limits.empty() && disk_growths.empty() && settlements.empty() &&
           called_off.empty() && unplaced.empty();
  }
};

struct ClusterOptions {
  int actions_max = 128;  ///< of each kind in one round; the rest waits for the next
  Duration observer_lag_max =
      milliseconds(500);  ///< above it the server suspects itself, not the hosts
};

}  // namespace virga
