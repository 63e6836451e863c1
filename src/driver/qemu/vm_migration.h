#pragma once

#include <memory>
#include <string>
#include <utility>

#include "driver/hypervisor.h"
#include "edge/completion.h"
#include "driver/qemu/qmp_commands.h"
#include "driver/qemu/vm_context.h"
#include "driver/qemu/vm_files.h"
#include "edge/process.h"

namespace virga {

/// Source's side of one live migration. The agent owns the connection, or QEMU's end of what encrypts it: QEMU gets a
/// copy of its descriptor, and shutting the other down frees a QEMU that hangs in it. Loop thread only; not used again
/// after it has ended.
///
///   connecting -> sending -> waiting -> switching -> completed
///        `-----------`---------`-----------`-------> failed     (the guest runs on here)
class OutgoingMigration {
 public:
  enum class Phase { connecting, sending, waiting, switching, completed, failed };

  /// `record`: whose migration it is, and whom QEMU runs as.
  OutgoingMigration(VmContext& context, QmpClient& client, const MigrationEndpoint& to,
                    const MigrationLimits& limits, const LaunchRecord& record);
  ~OutgoingMigration();

  /// Ends with the guest paused at the switch-over point, or as `failed`.
  void send(Callback<MigrationProgress> done);

  /// Errors: conflict (not at the switch-over point).
  void switch_over(Callback<MigrationProgress> done);

  /// Ends what has not switched over; completes when QEMU has given up.
  void cancel(Callback<void> done);

  void migration_event(qmp::MigrationState state);

  /// QEMU's end, or the loss of its QMP connection: all who wait get `why`.
  void abandon(const Error& why);

  Phase phase() const { return phase_; }
  const MigrationProgress& progress() const { return progress_; }

 private:
  /// The same callback, dropped when this migration is gone before it comes.
  template <typename Then>
  auto while_alive(Then then) const {
    return [alive = std::weak_ptr<int>(alive_), then = std::move(then)](auto result) {
      if (!alive.expired()) then(result);
    };
  }

  void connected(Result<Descriptor> connection);
  void migrate();
  void poll();
  void polled(const qmp::MigrationInfo& info);
  void count(const qmp::MigrationInfo& info);
  void abort(Error why);
  void cut_connection();
  void reached_switchover();
  void completed();
  void failed();
  void end(Phase phase, const Error& why);

  VmContext& context_;
  QmpClient& client_;
  const MigrationEndpoint to_;
  const MigrationLimits limits_;
  Phase phase_ = Phase::connecting;
  const VmId vm_;
  const std::uint32_t user_;
  Descriptor connection_;
  MigrationProgress progress_;
  Instant moved_at_;
  Instant paused_at_;              ///< the guest, at the switch-over point
  std::unique_ptr<Error> reason_;  ///< why it is being ended; empty = QEMU's own
  bool asking_why_ = false;
  Completion<MigrationProgress> send_;
  Completion<MigrationProgress> switch_;
  Completion<void> cancel_;
  Timer poll_timer_;
  Timer cut_timer_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
