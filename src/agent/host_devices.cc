#include "agent/host_devices.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <optional>

#include "base/log.h"
#include "edge/file.h"
#include "edge/process.h"

namespace virga {
namespace {

Error wrong(const std::string& word, const std::string& why) {
  return make_error(Errc::invalid, fmt::format("--host-device \"{}\": {}", word, why));
}

/// Nothing where the device does not answer: its guest will be told why.
Bytes size_of(const std::string& path) {
  const Descriptor device(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  std::uint64_t size = 0;
  if (!device.valid() || ::ioctl(device.get(), BLKGETSIZE64, &size) != 0) return Bytes{};
  return Bytes{static_cast<std::int64_t>(size)};
}

Result<std::optional<OfferedDevice>> offer(const std::string& word) {
  const std::size_t equals = word.find('=');
  if (equals == std::string::npos || word.substr(equals + 1, 1) != "/") {
    return wrong(word, "NAME=/dev/... is right");
  }
  OfferedDevice made;
  made.device.name = word.substr(0, equals);
  made.path = word.substr(equals + 1);
  if (auto fine = check_name("--host-device NAME", made.device.name); !fine) return fine.error();
  struct stat seen {};
  if (::stat(made.path.c_str(), &seen) != 0) {
    const Error why = errno_error("look at " + made.path, errno);
    log_line(LogLevel::warning, "agent",
             fmt::format("host device {} is not offered: {}", made.device.name, why.text()));
    return std::optional<OfferedDevice>();
  }
  if (!S_ISBLK(seen.st_mode) && !S_ISCHR(seen.st_mode)) {
    return wrong(word, "neither a block nor a character device");
  }
  const bool block = S_ISBLK(seen.st_mode);
  made.device.kind = block ? HostDeviceKind::block : HostDeviceKind::character;
  if (block) made.device.size = size_of(made.path);
  return std::optional(std::move(made));
}

}  // namespace

Result<std::vector<OfferedDevice>> offer_devices(const std::vector<std::string>& words) {
  std::vector<OfferedDevice> offered;
  for (const std::string& word : words) {
    auto one = offer(word);
    if (!one) return one.error();
    if (*one) offered.push_back(std::move(**one));
  }
  const auto name = [](const OfferedDevice& one) -> const std::string& { return one.device.name; };
  std::ranges::sort(offered, {}, name);
  const auto twice = std::ranges::adjacent_find(offered, {}, name);
  if (twice != offered.end()) {
    return wrong(twice->device.name + "=" + twice->path, "another device has that name");
  }
  return offered;
}

}  // namespace virga
