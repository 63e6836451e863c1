#include "driver/volumes/volume_access.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>

#include "edge/file.h"
#include "edge/process.h"

namespace virga {

Result<void> VolumeAccess::make_medium(const VolumeRecord& record) const {
  const std::string path = folder_.image();
  // Not truncated but made anew: who has what an erasure left open keeps that.
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return errno_error("remove " + path, errno);
  const Descriptor image(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!image.valid()) return errno_error("create " + path, errno);
  const off_t size = to_bytes(record.size_mib).value;
  if (::ftruncate(image.get(), size) != 0 || ::fsync(image.get()) != 0) {
    return errno_error("create " + path, errno);
  }
  // A copy that finds no room would hold up a guest that overwrites what is not in it yet.
  const bool copied = !record.source.empty();
  if (copied && ::fallocate(image.get(), 0, 0, size) != 0 && errno != EOPNOTSUPP) {
    return errno_error("create " + path, errno);
  }
  return {};
}

Result<void> VolumeAccess::grow_medium(const VolumeRecord&, Mib size_mib) const {
  const std::string path = folder_.image();
  if (::truncate(path.c_str(), to_bytes(size_mib).value) == 0) return {};
  return errno_error("grow " + path, errno);
}

Result<void> VolumeAccess::remove_medium(const VolumeRecord&) const {
  const std::string path = folder_.image();
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return {};
  return errno_error("remove " + path, errno);
}

/// Zeroes that were written as such may hold room that no hole does.
Result<void> VolumeAccess::settle_medium() const {
  const std::string path = folder_.image();
  const Descriptor image(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!image.valid() || ::fsync(image.get()) != 0) return errno_error("sync " + path, errno);
  const off_t size = ::lseek(image.get(), 0, SEEK_END);
  for (off_t data = 0; data < size;) {
    const off_t hole = ::lseek(image.get(), data, SEEK_HOLE);
    if (hole < 0 || hole >= size) break;
    data = ::lseek(image.get(), hole, SEEK_DATA);
    if (data < 0) data = size;  // none behind it
    constexpr int kKeep = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (::fallocate(image.get(), kKeep, hole, data - hole) == 0) continue;
    if (errno == EOPNOTSUPP) break;  // then it is not thin
    return errno_error("make holes in " + path, errno);
  }
  return {};
}

void VolumeAccess::copy(const VolumeRecord& record, const VolumeCopy&, Callback<CopyState> done) {
  done(make_error(Errc::unsupported, record.volume.value + ": its store copies nothing"));
}

void VolumeAccess::end_copy(const VolumeRecord&, const VolumeCopy&, Callback<void> done) {
  done({});
}

Bytes VolumeAccess::used_bytes() const {
  struct stat file {};
  if (::stat(folder_.image().c_str(), &file) != 0) return {};
  return {file.st_blocks * 512};
}

RealSpace DeviceAccess::space(const std::string& directory) const {
  struct statvfs seen {};
  if (::statvfs(directory.c_str(), &seen) != 0) return {};
  const auto bytes = [&](fsblkcnt_t blocks) {
    return Bytes{static_cast<std::int64_t>(blocks * seen.f_frsize)};
  };
  return {bytes(seen.f_blocks), bytes(seen.f_bavail)};
}

}  // namespace virga
