#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "driver/fabric.h"
#include "driver/hypervisor.h"
#include "driver/process_guard.h"
#include "driver/qemu/cgroup.h"
#include "driver/qemu/migration_relay.h"
#include "edge/worker.h"
#include "image/image_checks.h"
#include "edge/asio_loop.h"

namespace virga {

enum class MemoryKind {
  anonymous,
  memfd,
};

/// User ids of this machine that are nobody else's: of people and services neither, nor of Virga's own (disk_probe.h).
struct GuestUsers {
  std::uint32_t first = 70'000;  ///< 0 = privileges are kept
  std::uint32_t count = 4096;    ///< each VM of this host has one of its own; 1 = all share it
};

struct QemuOptions {
  std::string program = "/usr/bin/qemu-system-x86_64";
  std::string image_program = "/usr/bin/qemu-img";
  /// `PROGRAM wire` carries frames where a port is no tap, `PROGRAM relay` encrypts migrations.
  std::string own_program = "/proc/self/exe";
  std::string run_directory;                    ///< on this host, best on tmpfs: "/run/virga"
  std::string shared_directory;                 ///< of the cluster: "/srv/virga"
  std::string migration_address = "127.0.0.1";  ///< IPv4; a port is chosen per migration
  std::string
      cgroup_base;      ///< group of the host below which "virga" is made; empty = the root group
  bool cgroups = true;  ///< false: VMs run without limits
  bool cgroups_required = true;  ///< false: where no group can be made, VMs run without limits
  GuestUsers users;
  std::map<std::string, std::string> host_devices;  ///< that guests may hold: name to path
  std::uint32_t group = 65534;     ///< of all VMs; has no files
  bool encrypt_migrations = true;  ///< of those that arrive here: docs/adr/0035
  MemoryKind memory = MemoryKind::anonymous;
  Mib overhead_mib{256};  ///< of QEMU itself, on top of the guest's memory: docs/adr/0014
  std::string cpu_model_tcg = "qemu64-v1";
  std::string cpu_model_kvm = "Westmere-v2";
};

/// What all VMs of one host share. Outlives them.
struct VmContext {
  AsioLoop& loop;
  const QemuOptions& options;
  ProcessGuard& guard;
  Fabric& fabric;
  std::shared_ptr<Cgroups> cgroups;  ///< nullptr: without limits
  Worker& worker;
  Worker& reader;  ///< for what takes long, so that others' starts do not wait behind it
  Worker& prober;  ///< for questions whose answers may never come
  ImageChecks& image_checks;
  MigrationRelays& relays;
};

}  // namespace virga
