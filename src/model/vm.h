#pragma once

#include <string>
#include <vector>

#include "base/reflect.h"
#include "base/units.h"
#include "model/host.h"
#include "model/meta.h"

namespace virga {

enum class DesiredPower { running, stopped };
BOOST_DESCRIBE_ENUM(DesiredPower, running, stopped)

/// Order of restart after a failure; `none` is not restarted elsewhere.
enum class RestartPriority { high, normal, low, none };
BOOST_DESCRIBE_ENUM(RestartPriority, high, normal, low, none)

struct VmDisk {
  std::string name;    ///< unique in the VM, see check_name
  Mib size_mib;        ///< 0 = the image's own size (root disk), or the volume's
  std::string volume{};  ///< of the same tenant; empty = a file of the VM's own that goes with it
};
BOOST_DESCRIBE_STRUCT(VmDisk, (), (name, size_mib, volume))

struct VmNic {
  std::string network;  ///< name of a network of the same tenant
  std::vector<std::string> security_groups{};  ///< names of groups of the same tenant, at most 5; none = open within it
};
BOOST_DESCRIBE_STRUCT(VmNic, (), (network, security_groups))

/// What the user asks for.
struct VmSpec {
  ClusterId cluster;
  ImageId image;
  int cpus = 1;
  Millicores cpu_millicores{0};  ///< quota in sum; 0 = cpus * 1000
  int cpu_weight = 100;          ///< share under contention, 1..10000
  int processes_max = 256;       ///< threads and processes of its hypervisor, 160..32768
  Mib memory_mib{128};
  std::vector<VmDisk> disks;  ///< beside the image's root disk, where it has one
  std::vector<VmNic> nics;
  DesiredPower power = DesiredPower::running;
  RestartPriority restart_priority = RestartPriority::normal;
  std::string anti_affinity_group;  ///< VMs of a tenant with the same word avoid one another's host
  HostId pinned_host;               ///< may run nowhere else; empty = anywhere in the cluster
  HostId move_to;          ///< operator's command: move alive to this host; cleared when decided
  bool direct_io = false;  ///< holds a device of its host: locked to it, never moved alive
  std::vector<std::string>
      host_devices{};  ///< those that it holds, at most kHostDevicesMax; as direct_io
  Duration downtime_ms_max = milliseconds(300);   ///< budget of a live migration's pause
  int throttle_percent_max = 80;  ///< of its time, for a move; see MigrationLimits
  std::map<std::string, std::string> parameters;  ///< handed to the guest (name=value)
  std::string
      user_data;  ///< for cloud-init in a disk image: "#cloud-config\n..." or a script, at most 32 KiB
  bool restart = false;  ///< operator's command: stop and start again; cleared when decided
  ServiceId service;     ///< it is a copy of this service, which alone changes it; empty = none
};
BOOST_DESCRIBE_STRUCT(VmSpec, (),
                      (cluster, image, cpus, cpu_millicores, cpu_weight, processes_max, memory_mib,
                       disks, nics, power, restart_priority, anti_affinity_group, pinned_host,
                       move_to, restart, direct_io, host_devices, downtime_ms_max,
                       throttle_percent_max, parameters, user_data, service))

inline constexpr std::size_t kHostDevicesMax = 4;

/// It is locked to its host: what it holds there can neither be copied nor be in two places.
inline bool holds_host_device(const VmSpec& spec) {
  return spec.direct_io || !spec.host_devices.empty();
}

/// What the hypervisor last said about the copy with the epoch in force.
enum class VmPower { stopped, starting, running, paused, stopping };
BOOST_DESCRIBE_ENUM(VmPower, stopped, starting, running, paused, stopping)

enum class VmHealth {
  unknown,       ///< nothing known yet
  healthy,       ///< the guest's own heartbeat arrives
  no_heartbeat,  ///< runs; the guest does not send (or has nothing that could)
  failing,       ///< panic, watchdog, I/O error: see health_reason
  unreachable,   ///< its host is silent
};
BOOST_DESCRIBE_ENUM(VmHealth, unknown, healthy, no_heartbeat, failing, unreachable)

/// Live migration's record: the one case with two admitted epochs.
enum class MigrationPhase { none, prepared, switching };
BOOST_DESCRIBE_ENUM(MigrationPhase, none, prepared, switching)

struct VmMigration {
  MigrationPhase phase = MigrationPhase::none;
  HostId destination;
  Epoch epoch;  ///< of the incoming copy
};
BOOST_DESCRIBE_STRUCT(VmMigration, (), (phase, destination, epoch))

/// Fixed at creation, so that the guest sees the same machine wherever it runs.
struct VmIdentity {
  std::string uuid;
  std::string machine_type;  ///< "pc-q35-7.2"
  std::string cpu_model;
  Accelerator accelerator = Accelerator::tcg;
};
BOOST_DESCRIBE_STRUCT(VmIdentity, (), (uuid, machine_type, cpu_model, accelerator))

struct VmStatus {
  VmPower power = VmPower::stopped;
  VmHealth health = VmHealth::unknown;
  std::string health_reason;
  HostId host;          ///< where the epoch in force was placed; empty = nowhere
  Epoch epoch;          ///< in force
  VmIdentity identity;  ///< empty until the first placement
  VmMigration migration;
  OperationId operation;        ///< the running operation; empty = none
  std::string unplaced_reason;  ///< why it does not run although it should, or not where or as it should
  bool recovering = false;      ///< lost its place by a failure and is to be started again
  LostCopies lost;   ///< copies since it last ran that it must not meet again; empty once it runs
  int restarts = 0;  ///< by high availability, since creation
  /// The copy of which, after it had moved alive, its host read back from its kernel what keeps its ports apart.
  Epoch isolation_checked{};
  std::string isolation_breach{};  ///< what of it was not in force there; empty = all was
};
BOOST_DESCRIBE_STRUCT(VmStatus, (),
                      (power, health, health_reason, host, epoch, identity, migration, operation,
                       unplaced_reason, recovering, lost, restarts, isolation_checked,
                       isolation_breach))

struct Vm {
  Meta meta;
  VmSpec spec;
  VmStatus status;

  VmId id() const { return VmId(qualified(meta.tenant, meta.name)); }
};
BOOST_DESCRIBE_STRUCT(Vm, (), (meta, spec, status))

// Read and written in one translation unit (model/json.cc): reflection is dear to compile.
extern template json::value to_json<Vm>(const Vm&);
extern template Result<Vm> from_json<Vm>(const json::value&, UnknownFields);

}  // namespace virga
