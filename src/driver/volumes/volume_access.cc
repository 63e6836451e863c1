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
  if (::ftruncate(image.get(), to_bytes(record.size_mib).value) != 0 || ::fsync(image.get()) != 0) {
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
