#include "image/image_checks.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "edge/file.h"
#include "image/digest.h"

namespace virga {
namespace {

constexpr std::size_t kBlockBytes = 1 << 20;
constexpr std::size_t kSoundMax = 1024;

struct Facts {
  std::int64_t bytes = 0;
  std::string identity;  ///< changes when a file does
};

Result<Facts> facts_of(const std::vector<int>& files) {
  Facts facts;
  for (const int file : files) {
    struct stat seen {};
    if (::fstat(file, &seen) != 0) return errno_error("look at the image", errno);
    facts.bytes += seen.st_size;
    facts.identity += fmt::format(" {}:{}:{}:{}.{}", seen.st_dev, seen.st_ino, seen.st_size,
                                  seen.st_ctim.tv_sec, seen.st_ctim.tv_nsec);
  }
  return facts;
}

}  // namespace

bool ImageChecks::known(const std::vector<int>& files, const LaunchImage& registered) const {
  const auto facts = facts_of(files);
  const std::lock_guard lock(mutex_);
  return facts.ok() && sound_.contains(registered.sha256 + facts->identity);
}

Result<std::string> ImageChecks::digest_of(const std::vector<int>& files) const {
  Digest digest;
  std::string block(kBlockBytes, '\0');
  for (const int file : files) {
    off_t at = 0;
    ssize_t count = 0;
    do {
      if (cancelled_) return make_error(Errc::cancelled, "check the image: this agent ends");
      count = ::pread(file, block.data(), block.size(), at);
      if (count < 0) return errno_error("read the image", errno);
      digest.add({block.data(), static_cast<std::size_t>(count)});
      at += count;
    } while (count > 0);
  }
  return digest.hex();
}

Result<void> ImageChecks::check(const std::vector<int>& files, const LaunchImage& registered) {
  if (known(files, registered)) return {};
  const auto facts = facts_of(files);
  if (!facts) return facts.error();
  if (facts->bytes != registered.file_bytes.value) {
    return make_error(Errc::invalid,
                      fmt::format("the image's files have {} bytes; {} were registered",
                                  facts->bytes, registered.file_bytes.value));
  }
  const auto digest = digest_of(files);
  if (!digest) return digest.error();
  if (*digest != registered.sha256) {
    return make_error(Errc::invalid, fmt::format("the image's SHA-256 is {}; {} was registered",
                                                 *digest, registered.sha256));
  }
  const std::lock_guard lock(mutex_);
  if (sound_.size() >= kSoundMax) sound_.clear();
  sound_.insert(registered.sha256 + facts->identity);
  return {};
}

}  // namespace virga
