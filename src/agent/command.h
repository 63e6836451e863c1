#pragma once

#include <optional>
#include <string>

#include "driver/block_store.h"
#include "driver/fabric.h"
#include "driver/hypervisor.h"
#include "model/balancer.h"

/// What a server asks of an agent, and the answers: part of the link of agent/protocol.h.
namespace virga {

enum class CommandKind {
  start,
  stop,
  prepare_incoming,
  send,
  switch_over,
  resume,
  cancel_send,
  erase,
  console,
  change_limits,
  serve_device,
  release_device,
  create_volume,
  grow_volume,
  erase_volume,
  attach_volume,
  detach_volume,
  revoke_volume,
  copy_volume,
  mirror_disk,
  switch_disk,
  cancel_mirror,
  grow_disk,
  apply_balancer,
  remove_balancer,
  keep_leg,
};
BOOST_DESCRIBE_ENUM(CommandKind, start, stop, prepare_incoming, send, switch_over, resume,
                    cancel_send, erase, console, change_limits, serve_device, release_device,
                    create_volume, grow_volume, erase_volume, attach_volume, detach_volume,
                    revoke_volume, copy_volume, mirror_disk, switch_disk, cancel_mirror, grow_disk,
                    apply_balancer, remove_balancer, keep_leg)

/// What a command is about that a storage device shall do; see BlockStore.
struct StorageCommand {
  DeviceId device;
  std::string directory;  ///< serve_device
  VolumeId volume;
  Mib size_mib;  ///< create_volume, grow_volume
  Epoch beside;  ///< attach_volume
  VolumeId source{};  ///< copy_volume
  std::optional<ImageDisk> image{};  ///< create_volume: what it begins with
  Mib copy_mib_per_second_max{100};  ///< serve_device
};
BOOST_DESCRIBE_STRUCT(StorageCommand, (),
                      (device, directory, volume, size_mib, beside, source, image,
                       copy_mib_per_second_max))

/// The load balancer of a service that the host shall have, or (remove_balancer: `service` alone is read) no more.
/// Certificates in `spec` are secret: they reach no log and no report.
struct BalancerCommand {
  ServiceId service;
  BalancerLeg leg;    ///< its frontends' address
  BalancerSpec spec;  ///< a revision older than the one in force changes nothing
};
BOOST_DESCRIBE_STRUCT(BalancerCommand, (), (service, leg, spec))

/// Something to do; idempotent by (kind, vm or volume, epoch), of balancers by (kind, service, revision). Only the
/// fields of its kind are set.
struct Command {
  std::uint64_t id = 0;  ///< unique in one session; comes back in the result
  CommandKind kind = CommandKind::start;
  std::string correlation;
  VmId vm;
  Epoch epoch;
  std::optional<VmLaunch> launch;
  std::optional<MigrationEndpoint> endpoint;
  std::optional<MigrationLimits> limits;
  std::optional<StopOptions> stop;
  std::optional<StorageCommand> storage;
  std::optional<DiskMirror> mirror;  ///< mirror_disk; others about a disk: only its `volume`, and keep_leg `to.device`
  std::optional<BalancerCommand> balancer;
};
BOOST_DESCRIBE_STRUCT(Command, (),
                      (id, kind, correlation, vm, epoch, launch, endpoint, limits, stop, storage,
                       mirror, balancer))

struct CommandResult {
  std::uint64_t id = 0;
  bool ok = false;
  std::string error_code;  ///< to_string(Errc)
  std::string error;
  std::optional<MigrationEndpoint> endpoint;
  std::optional<MigrationProgress> progress;
  std::string text;  ///< of a console; comes as an upload
  std::optional<VolumeEndpoint> attached;
  bool in_order = false;  ///< of a stop: nothing was under way: the guest had ended by itself, or its start was refused
};
BOOST_DESCRIBE_STRUCT(CommandResult, (),
                      (id, ok, error_code, error, endpoint, progress, text, attached, in_order))

/// A command that takes long goes on; sent with heartbeats, before its result.
struct CommandProgress {
  std::uint64_t id = 0;
  int percent = 0;
};
BOOST_DESCRIBE_STRUCT(CommandProgress, (), (id, percent))

}  // namespace virga
