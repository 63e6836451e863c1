#include "driver/nbd/nbd_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/log.h"
#include "edge/file.h"

namespace virga {
namespace {

constexpr int kWorkers = 2;
constexpr std::size_t kJobsMax = 256;
constexpr std::int64_t kSizeMibMax = 64LL << 20;  // 64 TiB

/// Image first, anew: what an erasure that was cut short has left is nobody's to read. A record
/// that cannot be read is never replaced: it says who is shut out.
Result<void> make_files(const VolumeFolder& folder, const VolumeRecord& record) {
  if (auto made = make_folders(folder.path, 0700); !made) return made;
  const auto there = read_record(folder);
  if (there && there->size_mib == record.size_mib) return {};  // by a call a moment ago
  if (there || there.error().code != Errc::not_found) {
    const std::string why = there ? "it is there with another size" : there.error().text();
    return make_error(Errc::conflict, "create " + record.volume.value + ": " + why);
  }
  const std::string path = folder.image();
  const Descriptor image(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!image.valid()) return errno_error("create " + path, errno);
  if (::ftruncate(image.get(), to_bytes(record.size_mib).value) != 0 || ::fsync(image.get()) != 0) {
    return errno_error("create " + path, errno);
  }
  return write_record(folder, record);
}

}  // namespace

NbdStore::NbdStore(AsioLoop& loop, NbdOptions options)
    : loop_(loop),
      options_(std::move(options)),
      worker_(loop, kWorkers, kJobsMax),
      context_{loop, options_, worker_} {}

NbdStore::~NbdStore() = default;

void NbdStore::open(Callback<void> done) {
  worker_.run<std::vector<VolumeRecord>>(
      [directory = options_.directory]() -> Result<std::vector<VolumeRecord>> {
        if (auto made = make_folders(directory, 0700); !made) return made.error();
        return read_records(directory);
      },
      [this, done = std::move(done),
       alive = std::weak_ptr(alive_)](Result<std::vector<VolumeRecord>> records) {
        if (alive.expired()) return;
        if (!records) return done(records.error());
        for (const VolumeRecord& record : *records) {
          const auto folder = folder_of(options_.directory, record.volume);
          if (!folder) continue;
          volumes_[record.volume] = std::make_unique<NbdVolume>(context_, *folder, record);
        }
        resume_all(done);
      });
}

/// One that cannot be served now holds up no other.
void NbdStore::resume_all(Callback<void> done) {
  auto left = std::make_shared<std::size_t>(volumes_.size());
  if (*left == 0) return done({});
  for (const auto& [id, volume] : volumes_) {
    volume->resume([left, done, id = id](Result<void> resumed) {
      if (!resumed) log_line(LogLevel::error, "volume", id.value + ": " + resumed.error().text());
      if (--*left == 0) done({});
    });
  }
}

Result<NbdVolume*> NbdStore::find(const VolumeId& volume) {
  const auto found = volumes_.find(volume);
  if (found != volumes_.end()) return found->second.get();
  return make_error(Errc::not_found, "there is no volume \"" + volume.value + "\" on this device");
}

void NbdStore::create(const VolumeId& volume, Mib size_mib, const Epoch& revoked,
                      Callback<void> done) {
  const auto refuse = [&](Error why) { loop_.post([done, why = std::move(why)] { done(why); }); };
  const auto folder = folder_of(options_.directory, volume);
  if (!folder) return refuse(folder.error());
  if (size_mib.value < 1 || size_mib.value > kSizeMibMax) {
    return refuse(make_error(Errc::invalid, fmt::format("size_mib: {} is out of range: 1 to {} MiB",
                                                        size_mib.value, kSizeMibMax)));
  }
  if (const auto there = find(volume)) {
    const Mib has = (*there)->record().size_mib;
    if (has == size_mib) return loop_.post([done] { done({}); });
    return refuse(make_error(Errc::conflict,
                             fmt::format("{} is there with {} MiB", volume.value, has.value)));
  }
  VolumeRecord record;
  record.volume = volume;
  record.size_mib = size_mib;
  record.revoked = revoked;
  worker_.run<void>(
      [folder = *folder, record] { return make_files(folder, record); },
      [this, folder = *folder, record, done, alive = std::weak_ptr(alive_)](Result<void> made) {
        if (alive.expired()) return;
        if (made) {
          volumes_.try_emplace(record.volume,
                               std::make_unique<NbdVolume>(context_, folder, record));
        }
        done(std::move(made));
      });
}

void NbdStore::grow(const VolumeId& volume, Mib size_mib, Callback<void> done) {
  const auto found = find(volume);
  if (found) return (*found)->grow(size_mib, std::move(done));
  loop_.post([done, why = found.error()] { done(why); });
}

void NbdStore::erase(const VolumeId& volume, Callback<void> done) {
  const auto found = find(volume);
  if (!found) return loop_.post([done] { done({}); });
  (*found)->erase([this, volume, done](Result<void> erased) {
    // Not while its own call is still on the stack.
    if (erased)
      loop_.post([this, volume, alive = std::weak_ptr(alive_)] {
        if (!alive.expired()) volumes_.erase(volume);
      });
    done(std::move(erased));
  });
}

void NbdStore::attach(const VolumeId& volume, const Epoch& epoch, const Epoch& beside,
                      Callback<VolumeEndpoint> done) {
  const auto found = find(volume);
  if (found) return (*found)->attach(epoch, beside, std::move(done));
  loop_.post([done, why = found.error()] { done(why); });
}

void NbdStore::revoke(const VolumeId& volume, const Epoch& epoch, Callback<void> done) {
  const auto found = find(volume);
  if (found) return (*found)->revoke(epoch, std::move(done));
  loop_.post([done, why = found.error()] { done(why); });
}

void NbdStore::detach(const VolumeId& volume, const Epoch& epoch, Callback<void> done) {
  const auto found = find(volume);
  if (found) return (*found)->detach(epoch, std::move(done));
  loop_.post([done] { done({}); });
}

std::vector<ObservedVolume> NbdStore::observe() const {
  std::vector<ObservedVolume> seen;
  for (const auto& [id, volume] : volumes_) seen.push_back(volume->observe());
  return seen;
}

}  // namespace virga
