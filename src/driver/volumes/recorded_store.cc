#include "driver/volumes/recorded_store.h"

#include <fmt/format.h>

#include <filesystem>
#include <utility>

#include "base/log.h"
#include "driver/volume_rules.h"
#include "edge/file.h"

namespace virga {
namespace {

constexpr int kWorkers = 2;
constexpr std::size_t kJobsMax = 256;

/// The medium first, anew: what an erasure that was cut short has left is nobody's to read. A
/// record that cannot be read is never replaced: it says who is shut out.
Result<void> make_files(const VolumeAccess& access, const VolumeFolder& folder,
                        const VolumeRecord& record) {
  if (auto made = make_folders(folder.path, 0700); !made) return made;
  const auto there = read_record(folder);
  const bool same = there && there->size_mib == record.size_mib && there->floor == record.floor &&
                    there->source == record.source && there->image == record.image;
  if (same) return {};  // by a call that nobody heard the end of
  if (there || there.error().code != Errc::not_found) {
    const std::string why = there ? "another of this name is there" : there.error().text();
    return make_error(Errc::conflict, "create " + record.volume.value + ": " + why);
  }
  auto made = access.make_medium(record);
  if (made) made = write_record(folder, record);
  if (made) return made;
  static_cast<void>(access.remove_medium(record));
  std::error_code left;  // the next create makes it anew
  std::filesystem::remove_all(folder.path, left);
  return made;
}

VolumeRecord new_record(const VolumeId& volume, Mib size_mib, const Epoch& revoked) {
  VolumeRecord record;
  record.volume = volume;
  record.size_mib = size_mib;
  record.revoked = revoked;
  record.floor = revoked;
  return record;
}

}  // namespace

RecordedStore::RecordedStore(AsioLoop& loop, std::string directory,
                             std::unique_ptr<DeviceAccess> access)
    : loop_(loop),
      directory_(std::move(directory)),
      access_(std::move(access)),
      context_{loop, worker_, access_->capabilities()},
      copies_(loop, [this](const VolumeId& volume) { return seek(volume); }),
      fills_(loop, [this](const VolumeId& volume) { return seek(volume); }),
      worker_(loop, kWorkers, kJobsMax) {}

RecordedStore::~RecordedStore() = default;

void RecordedStore::open(Callback<void> done) {
  access_->open(context_,
                [this, done = std::move(done), alive = std::weak_ptr(alive_)](Result<void> opened) {
                  if (alive.expired()) return;
                  if (!opened) return done(std::move(opened));
                  read_all(done);
                });
}

void RecordedStore::read_all(Callback<void> done) {
  worker_.run<std::vector<VolumeRecord>>(
      [directory = directory_]() -> Result<std::vector<VolumeRecord>> {
        if (auto made = make_folders(directory, 0700); !made) return made.error();
        return read_records(directory);
      },
      [this, done = std::move(done),
       alive = std::weak_ptr(alive_)](Result<std::vector<VolumeRecord>> records) {
        if (alive.expired()) return;
        if (!records) return done(records.error());
        for (const VolumeRecord& record : *records) {
          const auto folder = folder_of(directory_, record.volume);
          if (!folder) continue;
          volumes_[record.volume] = std::make_unique<RecordedVolume>(
              context_, *folder, record, access_->volume(context_, *folder, record.volume));
        }
        for (const auto& [id, volume] : volumes_) fill_on(id);
        resume_all(done);
      });
}

/// One that cannot be served now holds up no other.
void RecordedStore::resume_all(Callback<void> done) {
  auto left = std::make_shared<std::size_t>(volumes_.size());
  if (*left == 0) return done({});
  for (const auto& [id, volume] : volumes_) {
    volume->resume([left, done, id = id](Result<void> resumed) {
      if (!resumed) log_line(LogLevel::error, "volume", id.value + ": " + resumed.error().text());
      if (--*left == 0) done({});
    });
  }
}

Result<RecordedVolume*> RecordedStore::find(const VolumeId& volume) {
  const auto found = volumes_.find(volume);
  if (found != volumes_.end()) return found->second.get();
  return make_error(Errc::not_found, "there is no volume \"" + volume.value + "\" on this device");
}

RecordedVolume* RecordedStore::seek(const VolumeId& volume) {
  const auto found = find(volume);
  return found ? *found : nullptr;
}

/// If it is not whole yet.
void RecordedStore::fill_on(const VolumeId& volume) {
  copies_.begin(volume);
  fills_.begin(volume);
}

void RecordedStore::create(const VolumeId& volume, Mib size_mib, const Epoch& revoked,
                           Callback<void> done) {
  if (auto fine = check_volume_size(size_mib); !fine) {
    return answer(loop_, std::move(done), std::move(fine));
  }
  if (const auto there = find(volume)) {
    const VolumeRecord& has = (*there)->record();
    if (has.size_mib == size_mib && has.floor == revoked) {
      return answer<void>(loop_, std::move(done), {});
    }
    const std::string with = has.size_mib == size_mib
                                 ? "is there and another volume"
                                 : fmt::format("is there with {} MiB", has.size_mib.value);
    return answer<void>(loop_, std::move(done),
                        make_error(Errc::conflict, volume.value + " " + with));
  }
  make_new(new_record(volume, size_mib, revoked), std::move(done));
}

void RecordedStore::create_from_image(const VolumeId& volume, Mib size_mib, const ImageDisk& image,
                                      const Epoch& revoked, Callback<void> done) {
  const auto refuse = [&](Errc code, const std::string& why) {
    answer<void>(loop_, std::move(done), make_error(code, "create " + volume.value + ": " + why));
  };
  if (!context_.can.images) return refuse(Errc::unsupported, "this store has no use for images");
  if (auto fine = check_volume_size(size_mib); !fine) {
    return answer(loop_, std::move(done), std::move(fine));
  }
  if (const auto there = find(volume)) {
    if ((*there)->record().floor == revoked) return answer<void>(loop_, std::move(done), {});
    return refuse(Errc::conflict, "another volume of the name is there");
  }
  VolumeRecord record = new_record(volume, size_mib, revoked);
  record.image = image;
  make_new(record, std::move(done));
}

void RecordedStore::copy(const VolumeId& volume, const VolumeId& source, const Epoch& revoked,
                         Callback<void> done) {
  const auto refuse = [&](Errc code, const std::string& why) {
    answer<void>(loop_, std::move(done), make_error(code, "copy " + source.value + ": " + why));
  };
  if (!context_.can.copies) return refuse(Errc::unsupported, "this store copies nothing");
  if (const auto there = find(volume)) {
    if ((*there)->record().floor == revoked) return answer<void>(loop_, std::move(done), {});
    return refuse(Errc::conflict, "another volume " + volume.value + " is there");
  }
  const auto from = find(source);
  if (!from) return refuse(Errc::not_found, "it is not on this device");
  if (!(*from)->record().whole()) return refuse(Errc::unavailable, "it is not whole itself");
  VolumeRecord record = new_record(volume, (*from)->record().size_mib, revoked);
  record.source = source;
  make_new(record, std::move(done));
}

void RecordedStore::make_new(const VolumeRecord& record, Callback<void> done) {
  const auto folder = folder_of(directory_, record.volume);
  if (!folder) return answer<void>(loop_, std::move(done), folder.error());
  if (auto fits = check_room(record.volume, record.size_mib); !fits) {
    return answer(loop_, std::move(done), std::move(fits));
  }
  // A second medium under one that is being made would be its loss.
  if (!making_.insert(record.volume).second) {
    return answer<void>(loop_, std::move(done),
                        make_error(Errc::unavailable, record.volume.value + " is being made"));
  }
  make(*folder, record, std::move(done));
}

void RecordedStore::make(const VolumeFolder& folder, const VolumeRecord& record,
                         Callback<void> done) {
  auto access = std::make_shared<std::unique_ptr<VolumeAccess>>(
      access_->volume(context_, folder, record.volume));
  worker_.run<void>([access, folder, record] { return make_files(**access, folder, record); },
                    [this, access, folder, record, done = std::move(done),
                     alive = std::weak_ptr(alive_)](Result<void> made) {
                      if (alive.expired()) return;
                      making_.erase(record.volume);
                      if (made && !volumes_.contains(record.volume)) {
                        volumes_[record.volume] = std::make_unique<RecordedVolume>(
                            context_, folder, record, std::move(*access));
                        fill_on(record.volume);
                      }
                      done(std::move(made));
                    });
}

void RecordedStore::grow(const VolumeId& volume, Mib size_mib, Callback<void> done) {
  const auto found = find(volume);
  if (!found) return answer<void>(loop_, std::move(done), found.error());
  auto fits = check_room(volume, size_mib - (*found)->record().size_mib);
  if (!fits) return answer(loop_, std::move(done), std::move(fits));
  (*found)->grow(size_mib, std::move(done));
}

/// What is new must fit into what is really free now, thin as it is.
Result<void> RecordedStore::check_room(const VolumeId& volume, Mib more) const {
  const RealSpace real = space();
  if (real.size == Bytes() || more <= Mib() || to_bytes(more) <= real.free) return {};
  return make_error(Errc::exhausted,
                    fmt::format("{} needs {} MiB more; {} are free below {}", volume.value,
                                more.value, real.free.value >> 20, directory_));
}

void RecordedStore::erase(const VolumeId& volume, Callback<void> done) {
  std::erase_if(erased_, [](const auto& one) { return one->over(); });
  const auto found = find(volume);
  if (!found) return answer<void>(loop_, std::move(done), {});
  if (const VolumeId* copy = copies_.copy_of(volume)) {
    return answer<void>(loop_, std::move(done),
                        make_error(Errc::conflict,
                                   fmt::format("erase {}: {} is being copied from it", volume.value,
                                               copy->value)));
  }
  const auto stopped = [this, volume, done = std::move(done)](Result<void> ended) {
    const auto there = find(volume);
    if (!ended || !there) return answer<void>(loop_, done, std::move(ended));
    (*there)->erase(
        [this, volume, done](const Result<void>& erased) { note_erased(volume, erased, done); });
  };
  copies_.end(volume, [this, volume, stopped](Result<void> ended) {
    ended ? fills_.end(volume, stopped) : stopped(std::move(ended));
  });
}

void RecordedStore::note_erased(const VolumeId& volume, const Result<void>& erased,
                                const Callback<void>& done) {
  const auto there = volumes_.find(volume);
  if (erased && there != volumes_.end()) {
    erased_.push_back(std::move(there->second));  // its own call is still on the stack
    volumes_.erase(there);
  } else {
    fill_on(volume);
  }
  done(erased);
}

void RecordedStore::attach(const VolumeId& volume, const Epoch& epoch, const Epoch& beside,
                           Callback<VolumeEndpoint> done) {
  const auto found = find(volume);
  if (found) return (*found)->attach(epoch, beside, std::move(done));
  answer<VolumeEndpoint>(loop_, std::move(done), found.error());
}

void RecordedStore::revoke(const VolumeId& volume, const Epoch& epoch, Callback<void> done) {
  const auto found = find(volume);
  if (found) return (*found)->revoke(epoch, std::move(done));
  answer<void>(loop_, std::move(done), found.error());
}

void RecordedStore::release(const VolumeId& volume, const Epoch& epoch, Callback<void> done) {
  const auto found = find(volume);
  if (found) return (*found)->release(epoch, std::move(done));
  answer<void>(loop_, std::move(done), found.error());
}

void RecordedStore::detach(const VolumeId& volume, const Epoch& epoch, Callback<void> done) {
  const auto found = find(volume);
  if (found) return (*found)->detach(epoch, std::move(done));
  answer<void>(loop_, std::move(done), {});
}

void RecordedStore::limit_copies(Mib per_second) {
  access_->limit_copies(per_second);
  fills_.limit(per_second);
}

std::vector<ObservedVolume> RecordedStore::observe() const {
  std::vector<ObservedVolume> seen;
  for (const auto& [id, volume] : volumes_) seen.push_back(volume->observe());
  return seen;
}

}  // namespace virga
