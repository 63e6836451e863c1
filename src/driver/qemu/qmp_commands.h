#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/units.h"
#include "driver/qemu/hardware.h"
#include "driver/qmp/qmp_client.h"
#include "model/usage.h"

/// The QMP commands that Virga uses, typed. Each has a deadline; errors are those of QmpClient.
/// Source: qemu/qemu, qapi/*.json of 7.2.
namespace virga::qmp {

enum class RunState {
  prelaunch,  ///< has never run
  running,
  paused,
  shut_down,
  io_error,
  panicked,
  watchdog,
  incoming,
  finish_migrate,  ///< paused by a migration that has not ended
  postmigrate,
};

/// What a MIGRATION event or query-migrate says; `other` = past the switch-over point.
enum class MigrationState {
  none,
  active,
  pre_switchover,
  completed,
  failed,
  cancelled,
  cancelling,
  other,
};

/// True for a migration that QEMU still works on.
bool under_way(MigrationState state);

MigrationState migration_state(std::string_view status);

struct MigrationInfo {
  MigrationState state = MigrationState::none;
  Bytes transferred;
  Bytes remaining;
  int passes = 0;
  int throttle_percent = 0;
  std::string error;
};

struct MigrationParameters {
  std::int64_t bytes_per_second_max = 1 << 30;
  Duration downtime_max = milliseconds(300);
  int throttle_percent_max = 80;  ///< 0 = the guest is not slowed; else at least 20
};

void query_status(QmpClient& client, Callback<RunState> done);
void resume(QmpClient& client, Callback<void> done);  ///< "cont"
void power_down(QmpClient& client, Callback<void> done);
void quit(QmpClient& client, Callback<void> done);
void announce_self(QmpClient& client, Callback<void> done);

/// Capabilities and parameters of a live migration; the same on both sides.
void prepare_migration(QmpClient& client, const MigrationParameters& parameters,
                       Callback<void> done);

/// Hands `socket` over and starts to send, or to receive. The caller keeps its own descriptor.
void send_through(QmpClient& client, int socket, Callback<void> done);
void receive_through(QmpClient& client, int socket, Callback<void> done);

void query_migration(QmpClient& client, Callback<MigrationInfo> done);
/// The block node that a disk uses.
struct DiskNode {
  std::string name;
  Bytes size;  ///< as the guest has it
};

/// A copy of one block node to another, and which of them the disk uses.
struct MirrorState {
  std::string node;  ///< of the disk now
  bool there = false;
  bool ready = false;  ///< what is left to copy is what the guest writes
  bool concluded = false;
  std::string error;  ///< why it concluded before its end; empty = it came to its end
  Bytes copied;
  Bytes total;
};

struct MirrorJob {
  std::string name;
  std::string from;  ///< block node
  std::string to;    ///< block node
  std::int64_t bytes_per_second_max = 0;
};

void pause(QmpClient& client, Callback<void> done);  ///< "stop"

/// `device`: id of the disk's device. Errors: not_found.
void query_disk(QmpClient& client, const std::string& device, Callback<DiskNode> done);
/// Takes over the size that the volume behind the node has.
void grow_node(QmpClient& client, const std::string& node, Bytes size, Callback<void> done);
void query_mirror(QmpClient& client, const std::string& device, const std::string& job,
                  Callback<MirrorState> done);
void begin_mirror(QmpClient& client, const MirrorJob& job, Callback<void> done);
void complete_job(QmpClient& client, const std::string& job, Callback<void> done);
/// Lets a mirror that is ready end where both are equal; its source stays in use.
void end_mirror(QmpClient& client, const std::string& job, Callback<void> done);
void cancel_job(QmpClient& client, const std::string& job, Callback<void> done);
void dismiss_job(QmpClient& client, const std::string& job, Callback<void> done);

/// Connects to a volume. `keys`: an open folder that holds its key; it stays the caller's.
void add_volume(QmpClient& client, const std::string& node, const NbdDisk& volume, int keys,
                Callback<void> done);
/// A node of this size that holds nothing and takes nothing: whatever is asked of it fails.
void add_empty(QmpClient& client, const std::string& node, Bytes size, Callback<void> done);
/// A node above others that writes to all of them, fails when one does, and reads from the first. See quorum_node().
void add_quorum(QmpClient& client, const std::string& node, const std::vector<std::string>& below,
                Callback<void> done);
/// What is not there counts as removed. Errors: internal (it is in use).
void remove_volume(QmpClient& client, const std::string& node, Callback<void> done);
/// Makes the disk use another node.
void use_node(QmpClient& client, const std::string& device, const std::string& node,
              Callback<void> done);
/// Breaks a volume's connection out of band; its node does not come back.
void yank_volume(QmpClient& client, const std::string& node, Callback<void> done);

void query_disk_full(QmpClient& client,
                     Callback<bool> done);  ///< that one of the disks found no room
/// What all disks of the guest together have moved; the rest of the answer is not set.
void query_disk_traffic(QmpClient& client, Callback<VmUsage> done);
void pass_switchover(QmpClient& client, Callback<void> done);  ///< "migrate-continue"
void cancel_migration(QmpClient& client, Callback<void> done);

/// Frees a migration that is being cancelled and waits for its switch-over: QEMU 7.2 overlooks a cancel that comes
/// between its last look and that wait (migration_maybe_pause(), migrate_fd_cancel()), and its guest would stay paused
/// for ever. Does nothing to one that does not wait there.
void free_cancelled(QmpClient& client, Callback<void> done);

/// Breaks the migration's connection out of band, also while QEMU's main loop hangs.
void yank_migration(QmpClient& client, Callback<void> done);

/// Whether the guest holds the named virtio-serial port open ("chardev" id).
void query_port_open(QmpClient& client, const std::string& chardev, Callback<bool> done);

}  // namespace virga::qmp
