#include "driver/nbd/nbd_volume.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "base/log.h"
#include "edge/file.h"
#include "edge/listen_tcp.h"
#include "edge/tls.h"

namespace virga {
namespace {

constexpr std::size_t kWaitingMax = 32;
constexpr int kBacklog = 64;
constexpr Duration kRestartFirst = milliseconds(100);
constexpr Duration kRestartMax = seconds(5);
constexpr Duration kExitWithin = seconds(4);

/// The volume, the epoch and what nobody can guess. Without characters that mean something to QEMU.
AttachmentRecord new_attachment(const VolumeId& volume, const Epoch& epoch) {
  std::string name = volume.value;
  std::replace(name.begin(), name.end(), '/', '.');
  const std::string secret = random_secret();
  return {epoch, fmt::format("{}-{}-{}", name, to_string(epoch), secret.substr(0, 32)),
          fmt::format("e{}.{}", epoch.incarnation, epoch.counter), random_secret()};
}

}  // namespace

NbdVolume::NbdVolume(NbdContext& context, VolumeFolder folder, VolumeRecord record)
    : context_(context),
      folder_(std::move(folder)),
      record_(std::move(record)),
      exit_deadline_(context.loop),
      restart_(context.loop),
      restart_pause_(kRestartFirst) {}

NbdVolume::~NbdVolume() = default;

void NbdVolume::enqueue(Step step, Callback<void> done) {
  if (waiting_.size() >= kWaitingMax) {
    return context_.loop.post([done, id = record_.volume] {
      done(make_error(Errc::exhausted, "too many calls wait for volume " + id.value));
    });
  }
  waiting_.push_back([this, step = std::move(step), done = std::move(done)] {
    const auto ended = [this, done, alive = std::weak_ptr(alive_)](Result<void> outcome) {
      if (alive.expired()) return;
      busy_ = false;
      context_.loop.post([this, alive] {
        if (!alive.expired()) next();
      });
      done(std::move(outcome));
    };
    if (auto known = know_server(); !known) return ended(std::move(known));
    step(ended);
  });
  context_.loop.post([this, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) next();
  });
}

void NbdVolume::next() {
  if (busy_ || waiting_.empty()) return;
  busy_ = true;
  auto call = std::move(waiting_.front());
  waiting_.pop_front();
  call();
}

void NbdVolume::persist(Callback<void> done) {
  on_files(
      [folder = folder_, record = record_] {
        auto written = write_record(folder, record);
        return written ? write_keys(folder, record) : written;
      },
      std::move(done));
}

Result<AttachmentRecord*> NbdVolume::admit(const Epoch& epoch, const Epoch& beside) {
  const std::string what =
      fmt::format("attach {} with epoch {}", record_.volume.value, to_string(epoch));
  auto& all = record_.attachments;
  const auto same = std::find_if(all.begin(), all.end(),
                                 [&](const AttachmentRecord& one) { return one.epoch == epoch; });
  if (same != all.end()) return &*same;
  if (epoch <= record_.revoked) {
    return make_error(Errc::fenced, fmt::format("{}: all up to {} are revoked", what,
                                                to_string(record_.revoked)));
  }
  if (epoch <= record_.highest) {
    return make_error(Errc::fenced, fmt::format("{}: epoch {} was attached after it", what,
                                                to_string(record_.highest)));
  }
  for (const AttachmentRecord& other : all) {
    if (other.epoch == beside) continue;
    return make_error(Errc::conflict, fmt::format("{}: epoch {} is attached; revoke it first", what,
                                                  to_string(other.epoch)));
  }
  all.push_back(new_attachment(record_.volume, epoch));
  record_.highest = epoch;
  return &all.back();
}

VolumeEndpoint NbdVolume::endpoint_of(const Epoch& epoch) const {
  for (const AttachmentRecord& one : record_.attachments) {
    if (one.epoch != epoch) continue;
    return {"nbd", context_.options.address, record_.port, one.export_name, one.user, one.key};
  }
  return {};
}

void NbdVolume::attach(const Epoch& epoch, const Epoch& beside, Callback<VolumeEndpoint> done) {
  enqueue(
      [this, epoch, beside](const Callback<void>& ended) {
        const auto before = record_.attachments;
        const Epoch highest = record_.highest;
        const auto admitted = admit(epoch, beside);
        if (!admitted) return ended(admitted.error());
        // A server without exports lets nobody in: it may start while the record goes to the disk.
        const auto started = start_server();
        persist([this, before, highest, started, ended](Result<void> written) {
          if (written) {
            port_changed_ = false;
            return started ? serve(ended) : ended(started);
          }
          record_.attachments = before;
          record_.highest = highest;
          if (!before.empty()) return ended(std::move(written));
          end_server([written, ended](const Result<void>&) { ended(written); });
        });
      },
      [this, epoch, done](Result<void> ended) {
        if (!ended) return done(ended.error());
        done(endpoint_of(epoch));
      });
}

void NbdVolume::take_server() {
  daemon_ = std::make_unique<StorageDaemon>(context_.loop, context_.options, folder_,
                                            [this, alive = std::weak_ptr(alive_)] {
                                              if (!alive.expired()) server_exited();
                                            });
}

/// One that runs, whether it answers already or not.
Result<void> NbdVolume::start_server() {
  if (daemon_ != nullptr && daemon_->running()) return {};
  if (auto written = write_keys(folder_, record_); !written) return written;  // it wants the file
  auto listener = listen_tcp(context_.options.address, record_.port, kBacklog);
  if (!listener) return listener.error();
  take_server();
  if (auto launched = daemon_->launch(*listener); !launched) return launched;
  port_changed_ = port_changed_ || record_.port != port_of(*listener);
  record_.port = port_of(*listener);
  return {};
}

/// A server that runs, is connected and has the exports of the record, no others. One that does not
/// do as it is told is replaced; its consumers wait for the same address.
void NbdVolume::serve(Callback<void> done) {
  restart_.cancel();
  serve_once([this, done](Result<void> served) {
    if (served || daemon_ == nullptr || !daemon_->running()) return done(std::move(served));
    log_line(LogLevel::warning, "volume",
             record_.volume.value + ": its server is replaced: " + served.error().text());
    end_server([this, done](Result<void> ended) {
      if (!ended) return done(std::move(ended));
      serve_once(done);
    });
  });
}

void NbdVolume::serve_once(Callback<void> done) {
  if (auto started = start_server(); !started) return done(std::move(started));
  if (daemon_->connected()) return align(done);
  daemon_->connect([this, done](Result<void> connected) {
    if (!connected) return done(std::move(connected));
    align(done);
  });
}

void NbdVolume::align(Callback<void> done) {
  daemon_->list_exports([this, done](Result<std::vector<std::string>> served) {
    if (!served) return done(served.error());
    align_with(*served, [this, done](Result<void> aligned) {
      served_ = aligned.ok();
      if (!aligned) return done(std::move(aligned));
      restart_pause_ = kRestartFirst;
      if (!std::exchange(port_changed_, false)) return done({});
      persist(done);  // nobody was told of the port before
    });
  });
}

void NbdVolume::align_with(const std::vector<std::string>& served, Callback<void> done) {
  const auto wanted = [&](const std::string& name) {
    return std::any_of(record_.attachments.begin(), record_.attachments.end(),
                       [&](const AttachmentRecord& one) { return one.export_name == name; });
  };
  const auto again = [this, done](Result<void> changed) {
    if (!changed) return done(std::move(changed));
    align(done);
  };
  for (const std::string& name : served) {
    if (!wanted(name)) return daemon_->remove_export(name, again);
  }
  for (const AttachmentRecord& one : record_.attachments) {
    if (std::find(served.begin(), served.end(), one.export_name) == served.end()) {
      return daemon_->add_export(one.export_name, again);
    }
  }
  done({});
}

void NbdVolume::revoke(const Epoch& epoch, Callback<void> done) {
  enqueue(
      [this, epoch](const Callback<void>& ended) {
        record_.revoked = std::max(record_.revoked, epoch);
        std::erase_if(record_.attachments,
                      [&](const AttachmentRecord& one) { return one.epoch <= epoch; });
        cut_off_recorded(ended);
      },
      std::move(done));
}

void NbdVolume::detach(const Epoch& epoch, Callback<void> done) {
  enqueue(
      [this, epoch](const Callback<void>& ended) {
        record_.highest = std::max(record_.highest, epoch);
        std::erase_if(record_.attachments,
                      [&](const AttachmentRecord& one) { return one.epoch == epoch; });
        cut_off_recorded(ended);
      },
      std::move(done));
}

/// A record that could not be written refuses in memory all the same; the caller asks again.
void NbdVolume::cut_off_recorded(const Callback<void>& ended) {
  persist([this, ended](Result<void> written) {
    cut_off([written, ended](Result<void> cut) {
      ended(written ? std::move(cut) : Result<void>(written));
    });
  });
}

/// Ends exports that the record does not know. Who does not obey is killed; what is attached still
/// is served by another.
void NbdVolume::cut_off(Callback<void> done) {
  if (daemon_ == nullptr || !daemon_->running()) return done({});
  const auto replace = [this, done](const Error& why) {
    log_line(LogLevel::warning, "volume",
             record_.volume.value + ": its server does not obey and is killed: " + why.text());
    end_server([this, done](Result<void> ended) {
      if (!ended) return done(std::move(ended));
      serve(done);
    });
  };
  if (record_.attachments.empty()) return end_server(std::move(done));
  if (!daemon_->connected()) return replace(make_error(Errc::unavailable, "it is not connected"));
  align([replace, done](Result<void> aligned) {
    if (!aligned) return replace(aligned.error());
    done({});
  });
}

/// Its end is the proof: a process that is gone writes nothing. One that a device holds back proves
/// nothing yet.
void NbdVolume::end_server(Callback<void> done) {
  served_ = false;
  if (daemon_ == nullptr || !daemon_->running()) return done({});
  exit_deadline_.set_after(kExitWithin, [this] {
    exited_with(make_error(Errc::timeout, "the server of " + record_.volume.value +
                                              " was killed and has not ended yet"));
  });
  on_exit_ = std::move(done);
  daemon_->kill();
}

void NbdVolume::exited_with(const Result<void>& outcome) {
  exit_deadline_.cancel();
  if (auto told = std::exchange(on_exit_, nullptr)) told(outcome);
}

void NbdVolume::server_exited() {
  served_ = false;
  if (on_exit_) return exited_with({});
  if (record_.attachments.empty()) return;
  log_line(LogLevel::warning, "volume", record_.volume.value + ": its server has ended");
  restart_later();
}

void NbdVolume::restart_later() {
  restart_.set_after(restart_pause_, [this] {
    restart_pause_ = std::min(restart_pause_ * 2, kRestartMax);
    resume([this](Result<void> resumed) {
      if (resumed) return;
      log_line(LogLevel::warning, "volume", record_.volume.value + ": " + resumed.error().text());
    });
  });
}

/// One that cannot be served now is tried again by itself.
void NbdVolume::resume(Callback<void> done) {
  enqueue(
      [this](const Callback<void>& ended) {
        record_.attachments.empty() ? end_server(ended) : serve(ended);
      },
      [this, done = std::move(done)](Result<void> resumed) {
        if (!resumed) restart_later();
        done(std::move(resumed));
      });
}

/// Whether an earlier agent has left a server behind. Until that is known nothing is done: a
/// consumer might still write through it.
Result<void> NbdVolume::know_server() {
  if (daemon_ != nullptr) return {};
  take_server();
  const auto adopted = daemon_->adopt();
  if (adopted || adopted.error().code == Errc::not_found) return {};
  daemon_ = nullptr;
  return wrap_error("the server of " + record_.volume.value, adopted.error());
}

/// A job on the device's files, on a worker.
void NbdVolume::on_files(std::function<Result<void>()> job, Callback<void> done) {
  context_.worker.run<void>(std::move(job),
                            [done, alive = std::weak_ptr(alive_)](Result<void> ended) {
                              if (!alive.expired()) done(std::move(ended));
                            });
}

void NbdVolume::grow(Mib size_mib, Callback<void> done) {
  enqueue([this, size_mib](const Callback<void>& ended) { grow_now(size_mib, ended); },
          std::move(done));
}

// QEMU 7.2 resizes nothing that is exported; a new server takes less than 0.1 s.
void NbdVolume::grow_now(Mib size_mib, const Callback<void>& done) {
  if (size_mib < record_.size_mib) {
    return done(make_error(Errc::invalid,
                           fmt::format("size_mib: {} is less than the {} MiB of {}", size_mib.value,
                                       record_.size_mib.value, record_.volume.value)));
  }
  // Whatever became of it, consumers that are attached are served again.
  const auto serve_again = [this, done](Result<void> grown) {
    if (record_.attachments.empty()) return done(std::move(grown));
    serve([grown, done](Result<void> served) { done(grown ? std::move(served) : grown); });
  };
  const auto note = [this, size_mib, serve_again](Result<void> grown) {
    if (!grown) return serve_again(std::move(grown));
    record_.size_mib = size_mib;
    persist(serve_again);
  };
  const auto enlarge = [path = folder_.image(),
                        bytes = to_bytes(size_mib).value]() -> Result<void> {
    if (::truncate(path.c_str(), bytes) == 0) return {};
    return errno_error("grow " + path, errno);
  };
  end_server([this, enlarge, note](Result<void> ended) {
    if (!ended) return note(std::move(ended));
    on_files(enlarge, note);
  });
}

void NbdVolume::erase(Callback<void> done) {
  enqueue([this](const Callback<void>& ended) { erase_now(ended); }, std::move(done));
}

void NbdVolume::erase_now(const Callback<void>& done) {
  if (!record_.attachments.empty()) {
    return done(
        make_error(Errc::conflict,
                   fmt::format("erase {}: epoch {} is attached; revoke it "
                               "first",
                               record_.volume.value, to_string(record_.attachments.back().epoch))));
  }
  const auto remove = [path = folder_.path]() -> Result<void> {
    std::error_code failed;
    std::filesystem::remove_all(path, failed);
    if (!failed) return {};
    return errno_error("remove " + path, failed.value());
  };
  end_server([this, remove, done](Result<void> ended) {
    if (!ended) return done(std::move(ended));
    on_files(remove, done);
  });
}

ObservedVolume NbdVolume::observe() const {
  ObservedVolume seen;
  seen.volume = record_.volume;
  seen.size_mib = record_.size_mib;
  struct stat file {};
  if (::stat(folder_.image().c_str(), &file) == 0) seen.used_bytes = {file.st_blocks * 512};
  seen.revoked = record_.revoked;
  for (const AttachmentRecord& one : record_.attachments) seen.epochs.push_back(one.epoch);
  seen.served = served_;
  return seen;
}

}  // namespace virga
