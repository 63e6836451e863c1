#include "edge/socket_options.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "edge/process.h"

namespace virga {
namespace {

constexpr int kProbeInterval = 5;  // s
constexpr int kProbes = 3;

void set(int socket, int level, int name, int value) {
  ::setsockopt(socket, level, name, &value, sizeof value);
}

}  // namespace

void set_link_options(int socket, Duration user_timeout, Duration idle_deadline) {
  const auto idle =
      static_cast<int>(std::clamp<std::int64_t>(to_ms(idle_deadline) / 2000, 1, 3600));
  set(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  set(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(socket, IPPROTO_TCP, TCP_KEEPIDLE, idle);
  set(socket, IPPROTO_TCP, TCP_KEEPINTVL, kProbeInterval);
  set(socket, IPPROTO_TCP, TCP_KEEPCNT, kProbes);
  set(socket, IPPROTO_TCP, TCP_USER_TIMEOUT,
      static_cast<int>(std::max<std::int64_t>(to_ms(user_timeout), 1)));
}

Result<void> hasten_keepalive() {
  constexpr std::pair<const char*, char> kWanted[] = {
      {"time", '8'}, {"intvl", '2'}, {"probes", '3'}};
  for (const auto& [name, seconds_or_count] : kWanted) {
    const std::string path = std::string("/proc/sys/net/ipv4/tcp_keepalive_") + name;
    const Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!file.valid() || ::write(file.get(), &seconds_or_count, 1) != 1) {
      return make_error(Errc::denied, "write " + path + ": " + std::strerror(errno));
    }
  }
  return {};
}

}  // namespace virga
