#include "driver/qemu/disk_mirror.h"

#include <fmt/format.h>

#include <utility>

#include "base/log.h"

namespace virga {
namespace {

constexpr Duration kLookEvery = milliseconds(50);
constexpr Duration kEndLookEvery = milliseconds(5);
constexpr Duration kEndDeadline = milliseconds(9500);
constexpr Duration kPausedMax = seconds(2);  ///< that a guest waits for the last writes

}  // namespace

DiskMirroring::DiskMirroring(VmContext& context, QmpClient& client, MirrorRecord record,
                             LegNodes nodes)
    : context_(context),
      client_(client),
      record_(std::move(record)),
      nodes_(std::move(nodes)),
      copy_(context.loop),
      end_(context.loop),
      poll_(context.loop) {}

void DiskMirroring::look(std::function<void(const qmp::MirrorState&)> then) {
  qmp::query_mirror(client_, record_.device, record_.target,
                    while_alive([this, then = std::move(then)](const auto& state) {
                      state ? then(*state) : abandon(state.error());
                    }));
}

void DiskMirroring::copy(std::shared_ptr<Descriptor> keys, const DiskMirror& limits,
                         Callback<MigrationProgress> done) {
  copy_.finish(make_error(Errc::cancelled, "asked for again"));
  if (ending_ || joining_) {
    return context_.loop.post([done = std::move(done)] {
      done(make_error(Errc::unavailable, "an earlier call of it has not ended"));
    });
  }
  keys_ = std::move(keys);
  limits_ = limits;
  moved_at_ = context_.loop.now();
  copy_.begin(limits_.total_ms_max, std::move(done), [this] {
    fail(
        make_error(Errc::timeout, fmt::format("not copied in {} ms", to_ms(limits_.total_ms_max))));
  });
  look([this](const qmp::MirrorState& state) {
    if (state.there && !state.concluded) return follow();
    if (state.node == goal() && (record_.joins || !state.there)) return settle();
    if (!record_.joins) return begin(state);
    // An agent that ended between the end of the copy and the switch has left its guest paused.
    if (state.node == nodes_.empty) return join();
    run_if_paused(while_alive([this, state](const Result<void>& runs) {
      runs ? begin(state) : fail(runs.error());
    }));
  });
}

void DiskMirroring::begin(const qmp::MirrorState& state) {
  const auto checked = [this](std::function<void()> then) {
    return while_alive([this, then = std::move(then)](const Result<void>& result) {
      result ? then() : fail(result.error());
    });
  };
  const auto mirror = [this, checked] {
    qmp::begin_mirror(client_,
                      {record_.target, record_.from, record_.target, limits_.bytes_per_second_max},
                      checked([this] { follow(); }));
  };
  const auto connect = [this, checked, mirror] {
    qmp::add_volume(client_, record_.target, nbd_of(record_.to, record_.joins), keys_->get(),
                    checked(mirror));
  };
  const auto clear = [this, checked, connect] {
    qmp::remove_volume(client_, record_.target, checked(connect));
  };
  if (!state.there) return clear();
  qmp::dismiss_job(client_, record_.target, checked(clear));
}

void DiskMirroring::follow() {
  poll_.set_after(paused_ ? kEndLookEvery : kLookEvery, [this] {
    look([this](const qmp::MirrorState& state) {
      if (!ending_) looked(state);
    });
  });
}

void DiskMirroring::looked(const qmp::MirrorState& state) {
  if (!state.there && state.node == goal()) return settle();
  if (!state.there) return fail(make_error(Errc::internal, "QEMU has ended the copy"));
  if (state.concluded) {
    if (!state.error.empty()) return fail(make_error(Errc::unavailable, state.error));
    return qmp::dismiss_job(client_, record_.target, while_alive([this](const Result<void>&) {
                              if (!ending_) record_.joins ? join() : settle();
                            }));
  }
  const Instant now = context_.loop.now();
  if (state.copied != progress_.transferred_bytes) moved_at_ = now;
  progress_.transferred_bytes = state.copied;
  progress_.remaining_bytes = state.total - state.copied;
  if (state.ready && !paused_) {
    paused_ = true;
    moved_at_ = now;
    const auto complete = while_alive([this](const Result<void>& paused) {
      if (ending_) return;
      if (!paused) return fail(paused.error());
      const auto asked = while_alive([this](const Result<void>& result) {
        if (!ending_) result ? follow() : fail(result.error());
      });
      record_.joins ? qmp::end_mirror(client_, record_.target, asked)
                    : qmp::complete_job(client_, record_.target, asked);
    });
    return qmp::pause(client_, complete);
  }
  const Duration still = now - moved_at_;
  if (still >= (paused_ ? kPausedMax : limits_.stall_ms_max)) {
    return fail(
        make_error(Errc::unavailable, fmt::format("nothing was copied for {} ms", to_ms(still))));
  }
  follow();
}

/// Both are equal as long as the guest is paused.
void DiskMirroring::join() {
  qmp::query_status(client_, while_alive([this](const Result<qmp::RunState>& state) {
    if (ending_) return;
    if (!state) return fail(state.error());
    if (*state != qmp::RunState::paused) {
      return fail(make_error(Errc::conflict, "its guest is not paused any more"));
    }
    joining_ = true;
    put_on_both(client_, nodes_, {record_.from, record_.target},
                while_alive([this](const Result<void>& joined) {
                  joining_ = false;
                  if (!ending_) joined ? settle() : fail(joined.error());
                }));
  }));
}

void DiskMirroring::settle() {
  progress_.remaining_bytes = Bytes();
  copy_.finish(progress_);
}

void DiskMirroring::fail(const Error& why) {
  if (std::exchange(ending_, true)) return;
  poll_.cancel();
  take_back([this, why](const Result<void>& back) {
    ending_ = false;
    if (!back) log_line(LogLevel::error, "qemu", record_.volume + ": " + back.error().text());
    copy_.finish(why);
  });
}

void DiskMirroring::go_back(Callback<void> done) {
  if (std::exchange(ending_, true)) {
    return context_.loop.post(
        [done] { done(make_error(Errc::unavailable, "it is being ended by an earlier call")); });
  }
  poll_.cancel();
  // What is under way goes on: each of its steps has a deadline of its own.
  end_.begin(kEndDeadline, std::move(done), [this] {
    end_.finish(make_error(Errc::unavailable, "QEMU did not give the copy up"));
  });
  copy_.finish(make_error(Errc::cancelled, "the copy was cancelled"));
  take_back([this](const Result<void>& back) {
    ending_ = false;
    end_.finish(back);
  });
}

/// A target that hangs would hold the job that is being cancelled.
void DiskMirroring::take_back(Callback<void> done) {
  if (joining_) return poll_.set_after(kEndLookEvery, [this, done] { take_back(done); });
  look([this, done = std::move(done)](const qmp::MirrorState& state) {
    const auto again = while_alive([this, done](const Result<void>&) {
      poll_.set_after(kEndLookEvery, [this, done] { take_back(done); });
    });
    if (state.there && state.concluded) {
      return qmp::dismiss_job(client_, record_.target, again);
    }
    if (state.there) {
      qmp::yank_volume(client_, record_.target, [](const Result<void>&) {});
      return qmp::cancel_job(client_, record_.target, again);
    }
    paused_ = false;
    const auto remove = while_alive([this, done](const Result<void>& used) {
      if (!used) return done(used);
      qmp::remove_volume(client_, record_.target, while_alive([this, done](const auto& removed) {
                           removed ? run_if_paused(done) : done(removed);
                         }));
    });
    if (record_.joins) return put_on_leg(client_, nodes_, record_.from, remove);
    if (state.node != record_.target) return remove(Result<void>());
    qmp::use_node(client_, record_.device, record_.from, remove);
  });
}

void DiskMirroring::finish(Callback<void> done) {
  if (std::exchange(ending_, true)) {
    return context_.loop.post(
        [done] { done(make_error(Errc::unavailable, "it is being ended by an earlier call")); });
  }
  end_.begin(kEndDeadline, std::move(done), [this] {
    end_.finish(make_error(Errc::unavailable, "QEMU does not answer"));
  });
  look([this](const qmp::MirrorState& state) {
    const auto ended = [this](const Result<void>& result) {
      ending_ = false;
      end_.finish(result);
    };
    if (state.there || state.node != goal()) {
      return ended(make_error(Errc::conflict, record_.volume + ": its copy is not complete"));
    }
    run_if_paused([this, ended](const Result<void>& runs) {
      if (!runs || record_.joins) return ended(runs);
      qmp::remove_volume(client_, record_.from, while_alive(ended));
    });
  });
}

/// A guest that is paused by something else stays as it is.
void DiskMirroring::run_if_paused(Callback<void> done) {
  qmp::query_status(
      client_, while_alive([this, done = std::move(done)](const Result<qmp::RunState>& state) {
        if (!state) return done(state.error());
        if (*state != qmp::RunState::paused) return done({});
        qmp::resume(client_, while_alive([done](const Result<void>& runs) { done(runs); }));
      }));
}

void DiskMirroring::abandon(const Error& why) {
  poll_.cancel();
  ending_ = false;
  const std::weak_ptr<int> alive = alive_;
  copy_.finish(why);
  if (!alive.expired()) end_.finish(why);
}

}  // namespace virga
