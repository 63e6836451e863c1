#include "driver/nbd/nbd_access.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "edge/listen_tcp.h"

namespace virga {
namespace {

constexpr int kBacklog = 64;
constexpr Duration kExitWithin = seconds(4);

}  // namespace

NbdAccess::NbdAccess(VolumeContext& context, const NbdOptions& options, VolumeFolder folder)
    : VolumeAccess(folder),
      context_(context),
      options_(options),
      files_{folder_},
      exit_deadline_(context.loop) {}

/// Whether an earlier agent has left a server behind.
Result<void> NbdAccess::know() {
  if (daemon_ != nullptr) return {};
  take_server();
  const auto adopted = daemon_->adopt();
  if (adopted || adopted.error().code == Errc::not_found) return {};
  daemon_ = nullptr;
  return wrap_error("the server below " + folder_.path, adopted.error());
}

void NbdAccess::take_server() {
  daemon_ = std::make_unique<StorageDaemon>(context_.loop, options_, files_,
                                            [this, alive = std::weak_ptr(alive_)] {
                                              if (!alive.expired()) server_exited();
                                            });
}

/// A server without exports lets nobody in: it may start while the record goes to the disk.
Result<void> NbdAccess::prepare(VolumeRecord& record) { return start_server(record.port); }

/// One that runs, whether it answers already or not.
Result<void> NbdAccess::start_server(int& port) {
  if (daemon_ != nullptr && daemon_->running()) return {};
  if (auto written = files_.make_keys(); !written) return written;  // it wants the files
  auto listener = listen_tcp(options_.address, port, kBacklog);
  if (!listener) return listener.error();
  take_server();
  if (auto launched = daemon_->launch(*listener); !launched) return launched;
  port = port_of(*listener);
  return {};
}

/// The daemon reads them when a consumer comes. Without a line a key opens nothing.
void NbdAccess::write_keys(Callback<void> done) {
  context_.worker.run<void>(
      [files = files_, admitted = admitted_of(wanted_)] { return files.write_keys(admitted); },
      [done, alive = std::weak_ptr(alive_)](Result<void> written) {
        if (!alive.expired()) done(std::move(written));
      });
}

void NbdAccess::serve(const VolumeRecord& record, Callback<void> done) {
  wanted_ = record;
  write_keys([this, done](Result<void> written) {
    if (!written) return done(std::move(written));
    serve_or_replace(done);
  });
}

/// A server that runs, is connected and has the exports of the record, no others. One that does not
/// do as it is told is replaced; its consumers wait for the same address.
void NbdAccess::serve_or_replace(Callback<void> done) {
  serve_once([this, done](Result<void> served) {
    if (served || daemon_ == nullptr || !daemon_->running()) return done(std::move(served));
    log_line(LogLevel::warning, "volume",
             wanted_.volume.value + ": its server is replaced: " + served.error().text());
    end_server([this, done](Result<void> ended) {
      if (!ended) return done(std::move(ended));
      serve_once(done);
    });
  });
}

void NbdAccess::serve_once(Callback<void> done) {
  if (auto started = start_server(wanted_.port); !started) return done(std::move(started));
  connected([this, done](Result<void> ready) {
    ready ? align(done) : done(std::move(ready));
  });
}

void NbdAccess::align(Callback<void> done) {
  daemon_->list_exports([this, done](Result<std::vector<std::string>> served) {
    if (!served) return done(served.error());
    align_with(*served, [this, done](Result<void> aligned) {
      served_ = aligned.ok();
      done(std::move(aligned));
    });
  });
}

void NbdAccess::align_with(const std::vector<std::string>& served, Callback<void> done) {
  const auto admitted = admitted_of(wanted_);
  const auto again = [this, done](Result<void> changed) {
    if (!changed) return done(std::move(changed));
    align(done);
  };
  for (const std::string& name : served) {
    const bool wanted =
        std::any_of(admitted.begin(), admitted.end(),
                    [&](const AttachmentRecord& one) { return one.export_name == name; });
    if (!wanted) return daemon_->remove_export(name, again);
  }
  for (const AttachmentRecord& one : admitted) {
    if (std::find(served.begin(), served.end(), one.export_name) == served.end()) {
      return daemon_->add_export(one.export_name, again);
    }
  }
  done({});
}

/// Who does not obey is killed; who is attached still is served by another.
void NbdAccess::cut(const VolumeRecord& record, Callback<void> done) {
  wanted_ = record;
  if (daemon_ == nullptr || !daemon_->running()) return done({});
  if (admitted_of(wanted_).empty()) return end_server(std::move(done));
  const auto kill = [this, done](const Error& why) {
    log_line(LogLevel::warning, "volume",
             wanted_.volume.value + ": its server does not obey and is killed: " + why.text());
    end_server(done);
  };
  write_keys([this, kill, done](const Result<void>& written) {
    if (!written) return kill(written.error());
    if (!daemon_->connected()) return kill(make_error(Errc::unavailable, "it is not connected"));
    align([kill, done](Result<void> aligned) {
      if (!aligned) return kill(aligned.error());
      done({});
    });
  });
}

/// Its end is the proof: a process that is gone writes nothing. One that a device holds back proves
/// nothing yet.
void NbdAccess::end_server(Callback<void> done) {
  served_ = false;
  if (daemon_ == nullptr || !daemon_->running()) return done({});
  exit_deadline_.set_after(kExitWithin, [this] {
    exited_with(make_error(Errc::timeout, "the server of " + wanted_.volume.value +
                                              " was killed and has not ended yet"));
  });
  on_exit_ = std::move(done);
  daemon_->kill();
}

void NbdAccess::exited_with(const Result<void>& outcome) {
  exit_deadline_.cancel();
  if (auto told = std::exchange(on_exit_, nullptr)) told(outcome);
}

void NbdAccess::server_exited() {
  served_ = false;
  if (on_exit_) return exited_with({});
  if (lost_) lost_();
}

void NbdAccess::connected(Callback<void> done) {
  daemon_->connected() ? done({}) : daemon_->connect(std::move(done));
}

void NbdAccess::copy(const VolumeRecord& record, const VolumeCopy& copy, Callback<CopyState> done) {
  wanted_ = record;
  const auto answered = [this, done](const Result<CopyState>& state) { copied(state, done); };
  connected([this, copy, answered](const Result<void>& ready) {
    ready ? daemon_->copy(copy, answered) : answered(ready.error());
  });
}

/// A server that nobody is let in by is there for its copies alone: it goes with the last, and when
/// it does not do as it is told.
void NbdAccess::copied(const Result<CopyState>& state, const Callback<CopyState>& done) {
  const bool over = !state || *state == CopyState::complete;
  if (!over || !admitted_of(wanted_).empty()) return done(state);
  end_server([state, done](const Result<void>&) { done(state); });
}

void NbdAccess::end_copy(const VolumeRecord& record, const VolumeCopy& copy, Callback<void> done) {
  wanted_ = record;
  if (daemon_ == nullptr || !daemon_->running()) return done({});
  if (admitted_of(wanted_).empty()) return end_server(std::move(done));
  connected([this, copy, done = std::move(done)](Result<void> ready) {
    ready ? daemon_->end_copy(copy, done) : done(std::move(ready));
  });
}

VolumeEndpoint NbdAccess::endpoint(const VolumeRecord& record,
                                   const AttachmentRecord& attachment) const {
  return {"nbd",           options_.address, record.port, attachment.export_name,
          attachment.user, attachment.key};
}

}  // namespace virga
