#pragma once

#include <cstdint>
#include <string>

#include "base/units.h"
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

/// What a MIGRATION event or query-migrate says; `other` = past the switch-over point or being cancelled.
enum class MigrationState { none, active, pre_switchover, completed, failed, cancelled, other };

/// True for a migration that QEMU still works on.
bool under_way(MigrationState state);

MigrationState migration_state(std::string_view status);

struct MigrationInfo {
  MigrationState state = MigrationState::none;
  Bytes transferred;
  Bytes remaining;
  int passes = 0;
  std::string error;
};

struct MigrationParameters {
  std::int64_t bytes_per_second_max = 1 << 30;
  Duration downtime_max = milliseconds(300);
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
void query_disk_full(QmpClient& client, Callback<bool> done);  ///< that one of the disks found no room
/// What all disks of the guest together have moved; the rest of the answer is not set.
void query_disk_traffic(QmpClient& client, Callback<VmUsage> done);
void pass_switchover(QmpClient& client, Callback<void> done);  ///< "migrate-continue"
void cancel_migration(QmpClient& client, Callback<void> done);

/// Breaks the migration's connection out of band, also while QEMU's main loop hangs.
void yank_migration(QmpClient& client, Callback<void> done);

/// Whether the guest holds the named virtio-serial port open ("chardev" id).
void query_port_open(QmpClient& client, const std::string& chardev, Callback<bool> done);

}  // namespace virga::qmp
