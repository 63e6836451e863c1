#include "driver/qemu/vm.h"

#include <fmt/format.h>

#include "base/log.h"

namespace virga {
namespace {

constexpr Duration kResumeDeadline = milliseconds(9500);
constexpr Duration kRunAgainDeadline = seconds(5);
constexpr Duration kInspectionMax = seconds(10);
constexpr Duration kAskAgain = milliseconds(20);
constexpr Duration kLeftSendCut = seconds(3);  ///< a peer that hangs is cut off then

template <typename T>
void refuse(Loop& loop, Callback<T> done, Error why) {
  loop.post([done = std::move(done), why = std::move(why)] { done(why); });
}

}  // namespace

void QemuVm::peer_connected(Descriptor connection) {
  const auto warn = [this](const Error& why) {
    log_line(LogLevel::warning, "qemu", launch_.vm.value + ": " + why.text(), launch_.correlation);
  };
  if (process_.qmp() == nullptr) return;
  auto from_host = std::make_shared<Descriptor>(std::move(connection));
  auto to_qemu = from_host;
  if (!migration_key_.empty()) {
    auto relayed = context_.relays.begin(*from_host, migration_key_, RelayEnd::server,
                                         process_.record().user, launch_.vm);
    if (!relayed) return warn(relayed.error());
    to_qemu = std::make_shared<Descriptor>(std::move(*relayed));
  }
  qmp::receive_through(*process_.qmp(), to_qemu->get(),
                       [warn, from_host, to_qemu](const Result<void>& begun) {
                         if (!begun) return warn(begun.error());
                         const auto confirmed = confirm_migration(from_host->get());
                         if (!confirmed) warn(confirmed.error());
                       });
}

/// Its state is on its way, or may be: also by the word of an agent that is gone.
bool QemuVm::is_moving() const {
  return left_send_ ||
         (outgoing_ != nullptr && outgoing_->phase() != OutgoingMigration::Phase::failed);
}

void QemuVm::send(const MigrationEndpoint& to, const MigrationLimits& limits,
                  Callback<MigrationProgress> done) {
  if (process_.record().mirror) {
    return refuse<MigrationProgress>(
        context_.loop, std::move(done),
        mirror_error(process_.record().mirror->volume, Errc::conflict, "is not over"));
  }
  const bool begun = is_moving();
  if (begun || power_ != VmPower::running || process_.qmp() == nullptr) {
    const char* why =
        begun ? "a send is under way or over" : "its guest does not run, or QEMU does not answer";
    return refuse<MigrationProgress>(
        context_.loop, std::move(done),
        make_error(Errc::conflict, fmt::format("send {}: {}", launch_.vm.value, why)));
  }
  outgoing_ =
      std::make_unique<OutgoingMigration>(context_, *process_.qmp(), to, limits, process_.record());
  outgoing_->send(std::move(done));
}

void QemuVm::switch_over(Callback<MigrationProgress> done) {
  if (postmigrate_) {
    const MigrationProgress known = progress();
    return context_.loop.post([done = std::move(done), known] { done(known); });
  }
  if (left_send_ || outgoing_ == nullptr) {
    const Errc code = left_send_ ? Errc::unavailable : Errc::conflict;
    const char* why =
        left_send_ ? ": a migration of an earlier agent has not ended" : ": nothing was sent";
    return refuse<MigrationProgress>(context_.loop, std::move(done),
                                     make_error(code, "switch over " + launch_.vm.value + why));
  }
  outgoing_->switch_over(
      [weak = weak_from_this(), done = std::move(done)](Result<MigrationProgress> result) {
        const auto self = weak.lock();
        if (self != nullptr && result) {
          self->postmigrate_ = true;
          self->volume_awaited_ = false;
          self->disk_full_ = false;
          self->power_ = VmPower::paused;
          self->changed("handed over");
          result->handed_over = true;
        }
        done(std::move(result));
      });
}

MigrationProgress QemuVm::progress() const {
  if (mirroring_ != nullptr) return mirroring_->progress();
  return outgoing_ != nullptr ? outgoing_->progress() : MigrationProgress{};
}

void QemuVm::state_arrived() {
  if (!incoming_ || std::exchange(arrived_, true)) return;
  if (resume_.waiting()) run_arrived();
}

void QemuVm::resume(Callback<void> done) {
  if (stage_ == Stage::ready && !incoming_ && power_ == VmPower::running) {
    return context_.loop.post([done = std::move(done)] { done({}); });
  }
  if (!incoming_ || stage_ != Stage::ready || resume_.waiting()) {
    return refuse<void>(context_.loop, std::move(done),
                        make_error(Errc::conflict, "resume " + launch_.vm.value +
                                                       ": it does not wait for a migration"));
  }
  resume_.begin(kResumeDeadline, std::move(done), [this] {
    resume_.finish(make_error(
        Errc::timeout,
        fmt::format("resume {}: {}", launch_.vm.value,
                    arrived_ ? "QEMU does not answer" : "the rest of its state did not arrive")));
  });
  if (arrived_) run_arrived();
}

void QemuVm::run_arrived() {
  auto stored = handlers_.before_run();
  if (stored) stored = process_.mark_incoming(false);
  if (!stored || process_.qmp() == nullptr) {
    return finish_resume(stored ? make_error(Errc::unavailable, "QEMU does not answer")
                                : stored.error());
  }
  qmp::resume(*process_.qmp(), [this](Result<void> running) {
    if (!running) return finish_resume(running.error());
    incoming_ = false;
    power_ = VmPower::running;
    guest_.tick(true);
    if (process_.qmp() != nullptr) qmp::announce_self(*process_.qmp(), [](Result<void>) {});
    learn_disks();
    changed("runs after a live migration");
    inspect_due_ = true;
    inspect_ports(0);
    finish_resume({});
    // Nobody waits for what is written for people and for later starts.
    context_.worker.run<bool>(
        [directory = context_.options.shared_directory, launch = launch_]() -> Result<bool> {
          auto written = write_shared_launch(directory, launch);
          if (!written) return written.error();
          return true;
        },
        [](Result<bool> written) {
          if (!written) log_line(LogLevel::warning, "qemu", written.error().text());
        });
  });
}

/// Not assumed after a move: what keeps its ports apart is read back, one after the other. What is
/// found broken is looked at again until it is mended.
void QemuVm::inspect_ports(std::size_t index) {
  inspected_by_ = Instant();
  if (index >= launch_.nics.size()) return found_isolated("");
  inspected_by_ = context_.loop.now() + kInspectionMax;
  context_.fabric.inspect_port(launch_.nics[index], [weak = weak_from_this(), index,
                                                     by = inspected_by_](const Result<void>& held) {
    const auto self = weak.lock();
    if (self == nullptr || self->inspected_by_ != by) return;  // another look has begun
    if (held) return self->inspect_ports(index + 1);
    self->inspected_by_ = Instant();
    if (held.error().code == Errc::conflict) return self->found_isolated(held.error().what);
    log_line(LogLevel::warning, "qemu", self->launch_.vm.value + ": " + held.error().text());
  });
}

void QemuVm::found_isolated(std::string breach) {
  const bool told = isolation_checked_ && isolation_breach_ == breach;
  isolation_checked_ = true;
  inspect_due_ = !breach.empty();
  isolation_breach_ = std::move(breach);
  if (told) return;
  changed(isolation_breach_.empty() ? "its ports are kept apart" : isolation_breach_);
}

void QemuVm::finish_resume(const Result<void>& outcome) {
  resume_.finish(outcome ? outcome
                         : Result<void>(wrap_error("resume " + launch_.vm.value, outcome.error())));
}

void QemuVm::cancel_send(Callback<void> done) {
  if (outgoing_ != nullptr && !postmigrate_ &&
      outgoing_->phase() == OutgoingMigration::Phase::switching) {
    return refuse<void>(context_.loop, std::move(done),
                        make_error(Errc::conflict, "cancel the send of " + launch_.vm.value +
                                                       ": it is being handed over"));
  }
  const Instant until = context_.loop.now() + kRunAgainDeadline;
  if (outgoing_ == nullptr || postmigrate_) return run_again(std::move(done), until);
  outgoing_->cancel(
      [weak = weak_from_this(), until, done = std::move(done)](Result<void> given_up) mutable {
        const auto self = weak.lock();
        if (self == nullptr || !given_up) return done(given_up);
        self->run_again(std::move(done), until);
      });
}

/// Takes over a migration whose owner, the agent before this one, is gone. Before its switch-over
/// point the other side cannot have run: it is given up. Past it QEMU alone knows how it ends, but
/// a peer that hangs is cut off.
void QemuVm::end_left_send(qmp::MigrationState state) {
  left_send_ = true;
  const auto yank = [this] {
    if (left_send_ && process_.qmp() != nullptr) {
      qmp::yank_migration(*process_.qmp(), [](Result<void>) {});
    }
  };
  left_send_cut_.set_after(kLeftSendCut, yank);
  const bool decided =
      state == qmp::MigrationState::other || state == qmp::MigrationState::cancelling;
  if (decided || process_.qmp() == nullptr) return;
  qmp::cancel_migration(*process_.qmp(), [](Result<void>) {});
}

/// Events tell the same earlier; this finds the end when one of them was lost with a connection.
void QemuVm::ask_left_send() {
  if (!left_send_ || process_.qmp() == nullptr) return;
  qmp::query_migration(*process_.qmp(), [this](Result<qmp::MigrationInfo> info) {
    if (!info || process_.qmp() == nullptr) return;
    const bool may_be_given_up = info->state == qmp::MigrationState::active ||
                                 info->state == qmp::MigrationState::pre_switchover;
    if (may_be_given_up) return qmp::cancel_migration(*process_.qmp(), [](Result<void>) {});
    if (info->state == qmp::MigrationState::cancelling)
      qmp::free_cancelled(*process_.qmp(), [](Result<void>) {});
    follow_left_send(info->state);
  });
}

void QemuVm::follow_left_send(qmp::MigrationState state) {
  if (!left_send_ || under_way(state) || process_.qmp() == nullptr) return;
  // A guest that came here by a migration says "completed" of that one: the run state tells which.
  qmp::query_status(*process_.qmp(), [this](Result<qmp::RunState> now) {
    if (!left_send_ || !now || *now == qmp::RunState::finish_migrate) return;
    left_send_ = false;
    left_send_cut_.cancel();
    postmigrate_ = *now == qmp::RunState::postmigrate;
    if (postmigrate_) power_ = VmPower::paused;
    changed(postmigrate_ ? "handed over by an earlier agent"
                         : "stays here: its migration has ended");
  });
}

/// Lets a guest run that a migration has paused here; one that runs, or is paused for another
/// reason, is left alone. While QEMU still ends the migration the guest can neither run nor be
/// called lost: it is asked again.
void QemuVm::run_again(Callback<void> done, Instant until) {
  if (process_.qmp() == nullptr) {
    return refuse<void>(context_.loop, std::move(done),
                        make_error(Errc::unavailable, launch_.vm.value + ": QEMU does not answer"));
  }
  qmp::query_status(
      *process_.qmp(), [this, until, done = std::move(done)](Result<qmp::RunState> state) mutable {
        if (!state) return done(state.error());
        if (left_send_ || *state == qmp::RunState::finish_migrate) {
          if (context_.loop.now() >= until) {
            return done(
                make_error(Errc::unavailable, launch_.vm.value + ": its migration has not ended"));
          }
          context_.loop.after(kAskAgain, [weak = weak_from_this(), until, done] {
            if (const auto self = weak.lock()) return self->run_again(done, until);
            done(make_error(Errc::unavailable, "its process has ended"));
          });
          return;
        }
        const bool paused_by_move = *state == qmp::RunState::postmigrate ||
                                    (*state == qmp::RunState::paused && outgoing_ != nullptr);
        if (!paused_by_move || process_.qmp() == nullptr) return done({});
        qmp::resume(*process_.qmp(), [this, done = std::move(done)](Result<void> running) {
          if (running) {
            postmigrate_ = false;
            outgoing_.reset();
            power_ = VmPower::running;
            changed("runs here again");
          }
          done(running);
        });
      });
}

}  // namespace virga
