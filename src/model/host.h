#pragma once

#include <string>
#include <vector>

#include "base/reflect.h"
#include "base/units.h"
#include "model/meta.h"

namespace virga {

enum class Accelerator { tcg, kvm };
BOOST_DESCRIBE_ENUM(Accelerator, tcg, kvm)

/// What of a host is for guests; the operator may keep part of the machine back.
struct Capacity {
  Millicores cpu_millicores;
  Mib memory_mib;
};
BOOST_DESCRIBE_STRUCT(Capacity, (), (cpu_millicores, memory_mib))

/// What decides whether a guest may move here alive: processor and accelerator must be equal, QEMU not older.
struct HypervisorInfo {
  Accelerator accelerator = Accelerator::tcg;
  std::string accelerator_reason;          ///< why KVM is (not) used: the functional probe's words
  std::string qemu_version;                ///< "7.2.22"
  std::string cpu_model;                   ///< QEMU's name of the model that guests get by default
  std::vector<std::string> machine_types;  ///< versioned names, newest first: "pc-q35-7.2"
};
BOOST_DESCRIBE_STRUCT(HypervisorInfo, (),
                      (accelerator, accelerator_reason, qemu_version, cpu_model, machine_types))

enum class Weekday { monday, tuesday, wednesday, thursday, friday, saturday, sunday };
BOOST_DESCRIBE_ENUM(Weekday, monday, tuesday, wednesday, thursday, friday, saturday, sunday)

/// Times at which a host is in maintenance by itself, in UTC.
struct MaintenanceWindow {
  std::vector<Weekday> days;  ///< on which it opens; empty = every day
  std::string from = "00:00";  ///< hour and minute at which it opens
  Duration for_ms = seconds(3600);  ///< a minute to a day

  friend bool operator==(const MaintenanceWindow&, const MaintenanceWindow&) = default;
};
BOOST_DESCRIBE_STRUCT(MaintenanceWindow, (), (days, from, for_ms))

struct HostSpec {
  ClusterId cluster;
  MachineId machine;         ///< its bare metal, where the BMC is known; may be empty
  std::string zone;          ///< failure domain, for spreading
  std::string region{};      ///< where it stands, for who may have data only in some; empty = in none
  bool maintenance = false;  ///< true: evacuate alive, then let go; nothing is placed here
  std::string
      confirmed_off_boot_id;  ///< a person vouches that this boot of the host runs nothing any more
  std::vector<MaintenanceWindow> windows{};  ///< at most 16
};
BOOST_DESCRIBE_STRUCT(HostSpec, (),
                      (cluster, machine, zone, region, maintenance, confirmed_off_boot_id,
                       windows))

/// What the cloud believes about a host's life.
enum class HostHealth {
  unknown,   ///< never reported since this server leads
  alive,     ///< lease valid, reports arrive
  degraded,  ///< reports arrive and say that something on the host is failing
  suspect,   ///< reports are missing; being asked about
  dead,      ///< server and peers agree that it is silent; to be fenced
  fenced,    ///< proven to run nothing; its VMs may start elsewhere
};
BOOST_DESCRIBE_ENUM(HostHealth, unknown, alive, degraded, suspect, dead, fenced)

/// Why the old copies on a host cannot act any more. The one used is recorded and shown.
enum class FenceProof {
  none,
  agent_confirmed_stop,  ///< the host's agent reported that the VMs do not run; after a reboot that of the new boot
  bmc_power_off,    ///< the BMC said "off" and nothing contradicts it
  lease_and_leash,  ///< lease + grace ended, and the leash (or watchdog) had been armed for it
  storage_revoked,  ///< every leg's storage confirmed that access is revoked
  operator_confirmed,  ///< a person vouched for it
};
BOOST_DESCRIBE_ENUM(FenceProof, none, agent_confirmed_stop, bmc_power_off, lease_and_leash,
                    storage_revoked, operator_confirmed)

/// A copy of a VM that may have run and cannot act any more, and why.
struct LostCopy {
  HostId host;
  FenceProof proof = FenceProof::none;

  friend bool operator==(const LostCopy&, const LostCopy&) = default;
};
BOOST_DESCRIBE_STRUCT(LostCopy, (), (host, proof))

/// The lost copies of one VM, the newest last, one a host: a later proof of a host covers the earlier copies there.
using LostCopies = std::vector<LostCopy>;
void remember(LostCopies& lost, LostCopy copy);

enum class HostDeviceKind { block, character };
BOOST_DESCRIBE_ENUM(HostDeviceKind, block, character)

/// A device of a host that its operator offers to guests, by a name of the host's own.
struct HostDevice {
  std::string name;
  HostDeviceKind kind = HostDeviceKind::block;
  Bytes size{};  ///< of a block device, when the agent began

  friend bool operator==(const HostDevice&, const HostDevice&) = default;
};
BOOST_DESCRIBE_STRUCT(HostDevice, (), (name, kind, size))

struct HostStatus {
  HostHealth health = HostHealth::unknown;
  std::string health_reason;
  std::string boot_id;
  std::string address;  ///< management address of its agent
  std::string tenant_address;  ///< its end of tenants' networks
  std::string agent_version;
  Capacity capacity;
  HypervisorInfo hypervisor;
  bool leads_outside = false;  ///< guests of networks with `gateway: nat` and floating addresses
  std::vector<HostDevice> host_devices{};  ///< in order of name
  bool leash_armed = false;  ///< at the last report: what stops its VMs if the agent cannot
  FenceProof fence_proof = FenceProof::none;  ///< with health fenced
  OperationId operation;                      ///< the running operation on the host itself
  bool window_open = false;                   ///< one of its windows is
  bool window_maintenance = false;            ///< ... and has begun the maintenance: it ends with it
};
BOOST_DESCRIBE_STRUCT(HostStatus, (),
                      (health, health_reason, boot_id, address, tenant_address, agent_version,
                       capacity, hypervisor, leads_outside, host_devices, leash_armed, fence_proof,
                       operation, window_open, window_maintenance))

struct Host {
  Meta meta;
  HostSpec spec;
  HostStatus status;

  HostId id() const { return HostId(meta.name); }
};
BOOST_DESCRIBE_STRUCT(Host, (), (meta, spec, status))

enum class BmcProtocol { none, redfish };
BOOST_DESCRIBE_ENUM(BmcProtocol, none, redfish)

/// How to reach a machine's management controller.
struct BmcAccess {
  BmcProtocol protocol = BmcProtocol::none;
  std::string url;  ///< "http://10.77.0.11:8000/redfish/v1/Systems/host-1"
  std::string user;
  std::string password;
};
BOOST_DESCRIBE_STRUCT(BmcAccess, (), (protocol, url, user, password))

struct MachineSpec {
  BmcAccess bmc;
};
BOOST_DESCRIBE_STRUCT(MachineSpec, (), (bmc))

/// Bare metal: identity and power. A host refers to it; it lives on when no agent runs.
struct Machine {
  Meta meta;
  MachineSpec spec;

  MachineId id() const { return MachineId(meta.name); }
};
BOOST_DESCRIBE_STRUCT(Machine, (), (meta, spec))

// Read and written in one translation unit (model/json.cc): reflection is dear to compile.
extern template json::value to_json<Host>(const Host&);
extern template Result<Host> from_json<Host>(const json::value&, UnknownFields);
extern template json::value to_json<Machine>(const Machine&);
extern template Result<Machine> from_json<Machine>(const json::value&, UnknownFields);

}  // namespace virga
