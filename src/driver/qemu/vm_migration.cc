#include "driver/qemu/vm_migration.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>

#include "driver/qemu/migration_socket.h"

namespace virga {
namespace {

constexpr Duration kConnectDeadline = seconds(5);
constexpr Duration kPollInterval = milliseconds(100);
constexpr Duration kGiveUpDeadline = seconds(4);
constexpr Duration kSwitchDeadline = milliseconds(9500);
// Of the pause that consumers see, the part that QEMU counts; handing over, running and being found
// there take the rest.
constexpr int kPartOfPause = 3;
constexpr Duration kSwitchCut = seconds(3);  ///< a peer that hangs is cut off then

}  // namespace

OutgoingMigration::OutgoingMigration(VmContext& context, QmpClient& client,
                                     const MigrationEndpoint& to, const MigrationLimits& limits,
                                     const LaunchRecord& record)
    : context_(context),
      client_(client),
      to_(to),
      limits_(limits),
      vm_(record.launch.vm),
      user_(record.user),
      send_(context.loop),
      switch_(context.loop),
      cancel_(context.loop),
      poll_timer_(context.loop),
      cut_timer_(context.loop) {}

OutgoingMigration::~OutgoingMigration() { cut_connection(); }

void OutgoingMigration::send(Callback<MigrationProgress> done) {
  send_.begin(limits_.total_ms_max, std::move(done), [this] {
    abort(
        make_error(Errc::timeout, fmt::format("migration to {}:{} was not over in {} ms",
                                              to_.address, to_.port, to_ms(limits_.total_ms_max))));
    send_.finish(*reason_);
  });
  context_.worker.run<std::shared_ptr<Descriptor>>(
      [to = to_]() -> Result<std::shared_ptr<Descriptor>> {
        auto connection = connect_migration(to, kConnectDeadline);
        if (!connection) return connection.error();
        return std::make_shared<Descriptor>(std::move(*connection));
      },
      while_alive([this](const Result<std::shared_ptr<Descriptor>>& connection) {
        if (!connection) return connected(connection.error());
        connected(std::move(**connection));
      }));
}

void OutgoingMigration::connected(Result<Descriptor> connection) {
  if (phase_ != Phase::connecting) return;
  if (reason_ != nullptr) return end(Phase::failed, *reason_);
  if (!connection) return end(Phase::failed, connection.error());
  if (!to_.key.empty()) {
    connection = context_.relays.begin(*connection, to_.key, RelayEnd::client, user_, vm_);
    if (!connection) return end(Phase::failed, connection.error());
  }
  connection_ = std::move(*connection);
  phase_ = Phase::sending;
  moved_at_ = context_.loop.now();
  qmp::MigrationParameters parameters;
  parameters.bytes_per_second_max = limits_.bytes_per_second_max;
  parameters.downtime_max = limits_.downtime_ms_max / kPartOfPause;
  parameters.throttle_percent_max = limits_.throttle_percent_max;
  qmp::prepare_migration(client_, parameters, while_alive([this](const Result<void>& prepared) {
                           if (phase_ != Phase::sending) return;
                           prepared ? migrate() : end(Phase::failed, prepared.error());
                         }));
}

void OutgoingMigration::migrate() {
  qmp::send_through(client_, connection_.get(), while_alive([this](const Result<void>& begun) {
                      if (phase_ == Phase::sending && !begun) end(Phase::failed, begun.error());
                    }));
  poll_timer_.set_after(kPollInterval, [this] { poll(); });
}

void OutgoingMigration::poll() {
  qmp::query_migration(
      client_, while_alive([this](const Result<qmp::MigrationInfo>& info) {
        if (phase_ != Phase::sending) return;
        if (info) polled(*info);
        if (phase_ != Phase::sending) return;
        const Duration still = context_.loop.now() - moved_at_;
        if (still >= limits_.stall_ms_max && reason_ == nullptr) {
          abort(make_error(Errc::unavailable,
                           fmt::format("migration to {}:{}: no byte moved for {} ms", to_.address,
                                       to_.port, to_ms(still))));
        }
        poll_timer_.set_after(kPollInterval, [this] { poll(); });
      }));
}

void OutgoingMigration::polled(const qmp::MigrationInfo& info) {
  if (info.transferred != progress_.transferred_bytes) moved_at_ = context_.loop.now();
  count(info);
  // Events tell the same earlier; this finds the end when one of them was lost with a connection.
  if (info.state == qmp::MigrationState::pre_switchover) reached_switchover();
  if (info.state == qmp::MigrationState::cancelling)
    qmp::free_cancelled(client_, [](Result<void>) {});
  if (info.state == qmp::MigrationState::failed || info.state == qmp::MigrationState::cancelled)
    failed();
}

void OutgoingMigration::count(const qmp::MigrationInfo& info) {
  progress_.transferred_bytes = info.transferred;
  progress_.remaining_bytes = info.remaining;
  progress_.passes = info.passes;
  progress_.throttle_percent = std::max(progress_.throttle_percent, info.throttle_percent);
}

void OutgoingMigration::migration_event(qmp::MigrationState state) {
  if (phase_ == Phase::completed || phase_ == Phase::failed || phase_ == Phase::connecting) return;
  if (state == qmp::MigrationState::pre_switchover) reached_switchover();
  if (state == qmp::MigrationState::completed) completed();
  if (state == qmp::MigrationState::failed || state == qmp::MigrationState::cancelled) failed();
}

void OutgoingMigration::reached_switchover() {
  if (phase_ != Phase::sending) return;
  phase_ = Phase::waiting;
  paused_at_ = context_.loop.now();
  poll_timer_.cancel();
  // Answered while the order to switch is on its way: the paused guest waits for no figure.
  qmp::query_migration(client_, while_alive([this](const Result<qmp::MigrationInfo>& info) {
                         if (info) count(*info);
                       }));
  if (reason_ == nullptr) send_.finish(progress_);
}

void OutgoingMigration::switch_over(Callback<MigrationProgress> done) {
  if (phase_ != Phase::waiting || reason_ != nullptr) {
    const bool passed = phase_ == Phase::switching;
    context_.loop.post([passed, done = std::move(done)] {
      done(passed ? make_error(Errc::unavailable, "it is being handed over")
                  : make_error(Errc::conflict, "the migration is not at its switch-over point"));
    });
    return;
  }
  phase_ = Phase::switching;
  cut_timer_.set_after(kSwitchCut, [this] {
    cut_connection();
    qmp::yank_migration(client_, [](Result<void>) {});
  });
  switch_.begin(kSwitchDeadline, std::move(done), [this] {
    switch_.finish(make_error(Errc::timeout, "QEMU neither handed over nor took the guest back"));
  });
  qmp::pass_switchover(
      client_, while_alive([this](const Result<void>& passed) {
        if (phase_ == Phase::switching && !passed && passed.error().code == Errc::internal) {
          end(Phase::failed, passed.error());
        }
      }));
}

void OutgoingMigration::completed() {
  if (phase_ != Phase::switching) return;
  phase_ = Phase::completed;
  cut_timer_.cancel();
  connection_.reset();
  progress_.downtime_ms = context_.loop.now() - paused_at_;
  switch_.finish(progress_);
}

void OutgoingMigration::failed() {
  if (reason_ != nullptr) return end(Phase::failed, *reason_);
  if (std::exchange(asking_why_, true)) return;
  qmp::query_migration(client_, while_alive([this](const Result<qmp::MigrationInfo>& info) {
                         const std::string words =
                             info && !info->error.empty() ? info->error : "the connection was lost";
                         end(Phase::failed, make_error(Errc::unavailable,
                                                       fmt::format("migration to {}:{} failed: {}",
                                                                   to_.address, to_.port, words)));
                       }));
}

void OutgoingMigration::cancel(Callback<void> done) {
  if (phase_ == Phase::failed || phase_ == Phase::completed) {
    context_.loop.post([done = std::move(done)] { done({}); });
    return;
  }
  cancel_.begin(kGiveUpDeadline, std::move(done), [this] {
    cancel_.finish(make_error(Errc::timeout, "QEMU did not give the migration up"));
  });
  abort(make_error(Errc::cancelled, "the migration was cancelled"));
}

void OutgoingMigration::abort(Error why) {
  if (reason_ == nullptr) reason_ = std::make_unique<Error>(std::move(why));
  if (phase_ == Phase::connecting) return end(Phase::failed, *reason_);
  if (phase_ != Phase::sending && phase_ != Phase::waiting) return;
  qmp::cancel_migration(client_, [](Result<void>) {});
  // QEMU notices a dead connection without its main loop, which the cancelling itself may wait for.
  cut_timer_.set_after(kPollInterval, [this] { cut_connection(); });
}

void OutgoingMigration::cut_connection() {
  if (connection_.valid()) ::shutdown(connection_.get(), SHUT_RDWR);
  connection_.reset();
}

void OutgoingMigration::abandon(const Error& why) { end(Phase::failed, why); }

void OutgoingMigration::end(Phase phase, const Error& why) {
  if (phase_ == Phase::failed || phase_ == Phase::completed) return;
  phase_ = phase;
  poll_timer_.cancel();
  cut_timer_.cancel();
  cut_connection();
  const std::weak_ptr<int> alive = alive_;
  send_.finish(why);
  if (alive.expired()) return;
  switch_.finish(why);
  if (alive.expired()) return;
  cancel_.finish({});
}

}  // namespace virga
