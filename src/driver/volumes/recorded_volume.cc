#include "driver/volumes/recorded_volume.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/log.h"
#include "driver/volume_rules.h"
#include "edge/file.h"

namespace virga {
namespace {

constexpr std::size_t kWaitingMax = 32;
constexpr Duration kPauseFirst = milliseconds(100);
constexpr Duration kPauseMax = seconds(5);

Result<void> check_whole(const VolumeRecord& record) {
  if (record.whole()) return {};
  const std::string how =
      record.image ? "filled from " + record.image->path : "copied from " + record.source.value;
  return make_error(Errc::unavailable, record.volume.value + " is being " + how);
}

}  // namespace

RecordedVolume::RecordedVolume(VolumeContext& context, VolumeFolder folder, VolumeRecord record,
                               std::unique_ptr<VolumeAccess> access)
    : context_(context),
      folder_(std::move(folder)),
      record_(std::move(record)),
      access_(std::move(access)),
      calls_(context.loop, kWaitingMax, "volume " + record_.volume.value),
      again_(context.loop),
      pause_(kPauseFirst) {
  access_->on_lost([this] {
    if (record_.attachments.empty()) return;
    log_line(LogLevel::warning, "volume", record_.volume.value + ": what served it has ended");
    serve_later();
  });
}

void RecordedVolume::enqueue(CallQueue::Step step, Callback<void> done) {
  calls_.run(
      [this, step = std::move(step)](Callback<void> ended) {
        if (erased_) {
          return ended(make_error(Errc::not_found, record_.volume.value + " was erased just now"));
        }
        if (auto known = access_->know(); !known) return ended(std::move(known));
        step(std::move(ended));
      },
      std::move(done));
}

void RecordedVolume::on_worker(std::function<Result<void>()> job, Callback<void> done) {
  context_.worker.run<void>(std::move(job),
                            [done, alive = std::weak_ptr(alive_)](Result<void> ended) {
                              if (!alive.expired()) done(std::move(ended));
                            });
}

void RecordedVolume::persist(Callback<void> done) {
  on_worker([folder = folder_, record = record_] { return write_record(folder, record); },
            std::move(done));
}

void RecordedVolume::attach(const Epoch& epoch, const Epoch& beside,
                            Callback<VolumeEndpoint> done) {
  enqueue([this, epoch, beside](const Callback<void>& ended) { attach_now(epoch, beside, ended); },
          [this, epoch, done](Result<void> ended) {
            if (!ended) return done(ended.error());
            for (const AttachmentRecord& one : record_.attachments) {
              if (one.epoch == epoch) return done(access_->endpoint(record_, one));
            }
            done(make_error(Errc::internal, "an attachment is gone that was made just now"));
          });
}

Result<void> RecordedVolume::let_in(const Epoch& epoch, const Epoch& beside) {
  const auto admission =
      admit(record_.volume, {record_.revoked, record_.highest, epochs_of(record_)}, epoch, beside);
  if (!admission) return admission.error();
  if (*admission == Admission::admitted) {
    record_.attachments.push_back(new_attachment(record_.volume, epoch));
    record_.highest = epoch;
  }
  return {};
}

void RecordedVolume::attach_now(const Epoch& epoch, const Epoch& beside,
                                const Callback<void>& done) {
  if (auto whole = check_whole(record_); !whole) return done(std::move(whole));
  const auto before = record_.attachments;
  const Epoch highest = record_.highest;
  if (auto admitted = let_in(epoch, beside); !admitted) return done(std::move(admitted));
  const auto prepared = access_->prepare(record_);
  persist([this, before, highest, prepared, done](const Result<void>& written) {
    if (written) {
      if (!prepared) return done(prepared);
      again_.cancel();
      return access_->serve(record_, done);
    }
    record_.attachments = before;
    record_.highest = highest;
    cut([written, done](const Result<void>&) { done(written); });
  });
}

/// Whom the record admits. What the endpoints name is on the disk before anybody is told of it.
void RecordedVolume::serve(Callback<void> done) {
  again_.cancel();
  if (admitted_of(record_).empty()) return cut(std::move(done));
  const int port = record_.port;
  if (auto prepared = access_->prepare(record_); !prepared) return done(std::move(prepared));
  if (record_.port == port) return access_->serve(record_, std::move(done));
  persist([this, done](Result<void> written) {
    if (!written) return done(std::move(written));
    access_->serve(record_, done);
  });
}

/// Who stays and is not served any more is served again soon.
void RecordedVolume::cut(Callback<void> done) {
  access_->cut(record_, [this, done = std::move(done)](Result<void> ended) {
    if (!admitted_of(record_).empty() && !access_->served()) serve_later();
    done(std::move(ended));
  });
}

void RecordedVolume::cut_all(Callback<void> done) {
  VolumeRecord nobody = record_;
  nobody.attachments.clear();
  access_->cut(nobody, std::move(done));
}

void RecordedVolume::revoke(const Epoch& epoch, Callback<void> done) {
  enqueue(
      [this, epoch](const Callback<void>& ended) {
        access_->cut_proves() ? strike(epoch, ended) : bar(epoch, ended);
      },
      std::move(done));
}

void RecordedVolume::release(const Epoch& epoch, Callback<void> done) {
  enqueue([this, epoch](const Callback<void>& ended) { strike(epoch, ended); }, std::move(done));
}

void RecordedVolume::detach(const Epoch& epoch, Callback<void> done) {
  enqueue([this, epoch](const Callback<void>& ended) { detach_now(epoch, ended); },
          std::move(done));
}

void RecordedVolume::detach_now(const Epoch& epoch, const Callback<void>& done) {
  record_.highest = std::max(record_.highest, epoch);
  std::erase_if(record_.attachments,
                [&](const AttachmentRecord& one) { return one.epoch == epoch; });
  persist([this, done](const Result<void>& written) {
    cut([written, done](const Result<void>& ended) { done(written ? ended : written); });
  });
}

void RecordedVolume::forget(const Epoch& epoch, Callback<void> done) {
  record_.revoked = std::max(record_.revoked, epoch);
  std::erase_if(record_.attachments,
                [&](const AttachmentRecord& one) { return one.epoch <= epoch; });
  persist(std::move(done));
}

/// A record that could not be written refuses in memory all the same; the caller asks again.
void RecordedVolume::strike(const Epoch& epoch, const Callback<void>& done) {
  forget(epoch, [this, done](const Result<void>& written) {
    cut([written, done](const Result<void>& ended) { done(written ? ended : written); });
  });
}

/// Where a cut alone proves nothing: they stay on record until their end is known.
void RecordedVolume::bar(const Epoch& epoch, const Callback<void>& done) {
  record_.revoked = std::max(record_.revoked, epoch);
  if (admitted_of(record_).size() == record_.attachments.size()) return strike(epoch, done);
  const auto looked = [this, epoch, done](Result<void> over) {
    over ? forget(epoch, done) : done(std::move(over));
  };
  persist([this, looked, done](Result<void> written) {
    if (!written) return done(std::move(written));
    cut([this, looked, done](Result<void> ended) {
      if (!ended) return done(std::move(ended));
      access_->prove_ended(record_, looked);
    });
  });
}

void RecordedVolume::serve_later() {
  again_.set_after(pause_, [this] {
    pause_ = std::min(pause_ * 2, kPauseMax);
    resume([this](const Result<void>& resumed) {
      if (resumed) return;
      log_line(LogLevel::warning, "volume", record_.volume.value + ": " + resumed.error().text());
    });
  });
}

void RecordedVolume::resume(Callback<void> done) {
  enqueue([this](const Callback<void>& ended) { serve(ended); },
          [this, done = std::move(done)](Result<void> resumed) {
            if (resumed) pause_ = kPauseFirst;
            if (!resumed) serve_later();
            done(std::move(resumed));
          });
}

void RecordedVolume::grow(Mib size_mib, Callback<void> done) {
  enqueue([this, size_mib](const Callback<void>& ended) { grow_now(size_mib, ended); },
          std::move(done));
}

void RecordedVolume::grow_now(Mib size_mib, const Callback<void>& done) {
  if (auto whole = check_whole(record_); !whole) return done(std::move(whole));
  if (auto fine = check_growth(record_.volume, record_.size_mib, size_mib); !fine) {
    return done(std::move(fine));
  }
  if (access_->growth() == Growth::detached && !record_.attachments.empty()) {
    const Epoch& last = record_.attachments.back().epoch;
    return done(make_error(Errc::conflict, fmt::format("grow {}: epoch {} is attached",
                                                       record_.volume.value, to_string(last))));
  }
  // Whatever became of it, consumers that are attached are served again.
  const auto serve_again = [this, done](const Result<void>& grown) {
    if (access_->growth() != Growth::cut_off || record_.attachments.empty()) return done(grown);
    serve([grown, done](const Result<void>& served) { done(grown ? served : grown); });
  };
  const auto note = [this, size_mib, serve_again](const Result<void>& grown) {
    if (!grown) return serve_again(grown);
    const Mib before = std::exchange(record_.size_mib, size_mib);
    persist([this, before, serve_again](const Result<void>& written) {
      if (!written) record_.size_mib = before;
      serve_again(written);
    });
  };
  const auto enlarge = [this, size_mib, note](const Result<void>& ended) {
    if (!ended) return note(ended);
    on_worker([access = access_.get(), record = record_,
               size_mib] { return access->grow_medium(record, size_mib); },
              note);
  };
  access_->growth() == Growth::cut_off ? cut_all(enlarge) : enlarge({});
}

void RecordedVolume::copy(const VolumeCopy& copy, Callback<CopyState> done) {
  const auto state = std::make_shared<CopyState>(CopyState::waits);
  enqueue([this, copy, state](const Callback<void>& ended) { copy_now(copy, state, ended); },
          [state, done = std::move(done)](const Result<void>& ended) {
            ended ? done(*state) : done(ended.error());
          });
}

/// It may take a server, whose place must be on the disk as serve() has it.
void RecordedVolume::copy_now(const VolumeCopy& copy, const std::shared_ptr<CopyState>& state,
                              const Callback<void>& done) {
  if (auto whole = check_whole(record_); !whole) return done(std::move(whole));
  const int port = record_.port;
  if (auto prepared = access_->prepare(record_); !prepared) return done(std::move(prepared));
  const auto look = [this, copy, state, done](const Result<void>& written) {
    if (!written) return done(written);
    access_->copy(record_, copy, [state, done](Result<CopyState> seen) {
      if (!seen) return done(seen.error());
      *state = *seen;
      done({});
    });
  };
  record_.port == port ? look({}) : persist(look);
}

void RecordedVolume::end_copy(const VolumeCopy& copy, Callback<void> done) {
  enqueue([this, copy](const Callback<void>& ended) { access_->end_copy(record_, copy, ended); },
          std::move(done));
}

void RecordedVolume::refit(Mib size_mib, Callback<void> done) {
  enqueue(
      [this, size_mib](const Callback<void>& ended) {
        record_.size_mib = size_mib;
        on_worker(
            [access = access_.get(), folder = folder_, record = record_]() -> Result<void> {
              if (auto made = access->make_medium(record); !made) return made;
              return write_record(folder, record);
            },
            ended);
      },
      std::move(done));
}

void RecordedVolume::taken(WallTime at, Callback<void> done) {
  enqueue(
      [this, at](const Callback<void>& ended) {
        record_.taken_at = at;
        persist(ended);
      },
      std::move(done));
}

/// What it holds goes to the disk before the record that calls it whole.
void RecordedVolume::filled(Callback<void> done) {
  enqueue(
      [this](const Callback<void>& ended) {
        VolumeRecord whole = record_;
        whole.source = VolumeId();
        whole.image.reset();
        on_worker(
            [access = access_.get(), folder = folder_, whole]() -> Result<void> {
              if (auto settled = access->settle_medium(); !settled) return settled;
              return write_record(folder, whole);
            },
            [this, ended](const Result<void>& written) {
              if (written) {
                record_.source = VolumeId();
                record_.image.reset();
              }
              ended(written);
            });
      },
      std::move(done));
}

void RecordedVolume::erase(Callback<void> done) {
  enqueue([this](const Callback<void>& ended) { erase_now(ended); }, std::move(done));
}

void RecordedVolume::erase_now(const Callback<void>& done) {
  if (!record_.attachments.empty()) {
    return done(
        make_error(Errc::conflict,
                   fmt::format("erase {}: epoch {} is attached; revoke it first",
                               record_.volume.value, to_string(record_.attachments.back().epoch))));
  }
  const auto remove = [access = access_.get(), folder = folder_,
                       record = record_]() -> Result<void> {
    if (auto removed = access->remove_medium(record); !removed) return removed;
    std::error_code failed;
    std::filesystem::remove_all(folder.path, failed);
    if (!failed) return {};
    return errno_error("remove " + folder.path, failed.value());
  };
  const auto note = [this, done](Result<void> removed) {
    erased_ = removed.ok();
    if (erased_) again_.cancel();
    done(std::move(removed));
  };
  cut_all([this, remove, note, done](Result<void> ended) {
    if (!ended) return done(std::move(ended));
    on_worker(remove, note);
  });
}

ObservedVolume RecordedVolume::observe() const {
  ObservedVolume seen;
  seen.volume = record_.volume;
  seen.size_mib = record_.size_mib;
  seen.used_bytes = access_->used_bytes();
  seen.revoked = record_.revoked;
  seen.floor = record_.floor;
  seen.epochs = epochs_of(record_);
  seen.served = access_->served();
  seen.source = record_.source;
  seen.taken_at = record_.taken_at;
  if (record_.image) seen.image = record_.image->path;
  seen.failing = failing_;
  return seen;
}

}  // namespace virga
