#include "edge/listen_tcp.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>

#include "edge/file.h"

namespace virga {

Result<Descriptor> listen_tcp(const std::string& address, int port, int backlog) {
  const std::string what = "listen on " + address + ":" + std::to_string(port);
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(static_cast<std::uint16_t>(port));
  if (::inet_pton(AF_INET, address.c_str(), &where.sin_addr) != 1) {
    return make_error(Errc::invalid, what + ": an IPv4 address is right");
  }
  Descriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!listener.valid()) return errno_error(what, errno);
  const int yes = 1;
  ::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  const auto* generic = reinterpret_cast<const sockaddr*>(&where);
  if (::bind(listener.get(), generic, sizeof where) == 0 &&
      ::listen(listener.get(), backlog) == 0) {
    return listener;
  }
  if (errno == EADDRINUSE) return make_error(Errc::conflict, what + ": the port is taken");
  return errno_error(what, errno);
}

int port_of(const Descriptor& socket) {
  sockaddr_in bound{};
  socklen_t size = sizeof bound;
  if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&bound), &size) != 0) return 0;
  return ntohs(bound.sin_port);
}

}  // namespace virga
