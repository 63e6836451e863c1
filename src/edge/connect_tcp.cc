#include "edge/connect_tcp.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace virga {

Result<Descriptor> connect_tcp(const std::string& address, std::uint16_t port, Duration deadline) {
  const std::string what = "connect to " + address + ":" + std::to_string(port);
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(port);
  if (::inet_pton(AF_INET, address.c_str(), &where.sin_addr) != 1) {
    return make_error(Errc::invalid, what + ": an IPv4 address is right");
  }
  Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return make_error(Errc::exhausted, what + ": " + std::strerror(errno));
  const auto* generic = reinterpret_cast<const sockaddr*>(&where);
  const int begun = ::connect(socket.get(), generic, sizeof where);
  if (begun != 0 && errno != EINPROGRESS) {
    return make_error(Errc::unavailable, what + ": " + std::strerror(errno));
  }
  pollfd question{socket.get(), POLLOUT, 0};
  if (begun != 0 && ::poll(&question, 1, static_cast<int>(to_ms(deadline))) != 1) {
    return make_error(Errc::timeout, what + ": no answer in time");
  }
  int outcome = 0;
  socklen_t size = sizeof outcome;
  ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &outcome, &size);
  if (outcome == 0) return socket;
  return make_error(Errc::unavailable, what + ": " + std::strerror(outcome));
}

}  // namespace virga
