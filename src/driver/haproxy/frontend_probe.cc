#include "driver/haproxy/frontend_probe.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "edge/file.h"
#include "edge/network_namespace.h"

namespace virga {
namespace {

Result<Descriptor> socket_in(const std::string& network_namespace) {
  Descriptor space;
  if (!network_namespace.empty()) {
    space = Descriptor(::open(network_namespace.c_str(), O_RDONLY | O_CLOEXEC));
    if (!space.valid()) return errno_error("open " + network_namespace, errno);
  }
  Descriptor made;
  int number = 0;
  auto entered = in_network_namespace(space.get(), [&] {
    made = Descriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    number = errno;
  });
  if (!entered) return wrap_error(network_namespace, entered.error());
  if (!made.valid()) return errno_error("make a socket", number);
  return made;
}

/// Bound and not listening: no client ends here.
Result<void> probe(const BalancerFrontend& frontend, const std::string& network_namespace) {
  const auto socket = socket_in(network_namespace);
  if (!socket) return socket.error();
  const int yes = 1;
  ::setsockopt(socket->get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(static_cast<std::uint16_t>(frontend.port));
  ::inet_pton(AF_INET, frontend.address.c_str(), &where.sin_addr);
  const auto* generic = reinterpret_cast<const sockaddr*>(&where);
  if (::bind(socket->get(), generic, sizeof where) == 0) return {};
  const std::string what =
      fmt::format("frontend {} on {}:{}", frontend.name, frontend.address, frontend.port);
  if (errno == EADDRINUSE)
    return make_error(Errc::conflict, what + ": somebody else listens there");
  if (errno == EADDRNOTAVAIL) {
    return make_error(Errc::unavailable, what + ": this host or namespace has no such address");
  }
  return errno_error(what, errno);
}

}  // namespace

Result<void> probe_frontends(const BalancerSpec& wanted, const BalancerSpec& in_force,
                             const std::string& network_namespace) {
  for (const BalancerFrontend& frontend : wanted.frontends) {
    const bool known = std::any_of(
        in_force.frontends.begin(), in_force.frontends.end(), [&](const BalancerFrontend& other) {
          return other.address == frontend.address && other.port == frontend.port;
        });
    if (known) continue;
    if (auto fine = probe(frontend, network_namespace); !fine) return fine;
  }
  return {};
}

}  // namespace virga
