#pragma once

#include <fmt/format.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "driver/net/fabric_fixture.h"
#include "edge/network_namespace.h"

namespace virga::test {

/// A guest: a kernel's own TCP/IP at the far end of a port's cable.
class Guest {
 public:
  Guest(Descriptor packets, std::string mac, std::string address)
      : packets_(std::move(packets)), mac_(std::move(mac)), address_(std::move(address)) {
    namespace_ = Descriptor(::ioctl(packets_.get(), SIOCGSKNS));
    EXPECT_TRUE(namespace_.valid());
    has("far");
  }

  const std::string& address() const { return address_; }
  int packets() const { return packets_.get(); }

  /// Nobody reads its frames any more; its kernel goes on with them.
  void leave_packets() { packets_.reset(); }

  /// A cable to another host, as a VM has after a move.
  void cable_to(const Namespace& host, const std::string& device) {
    ip({"link", "add", "moved", "address", mac_, "mtu", "1450", "type", "veth", "peer", "name",
        "away"});
    run({"/usr/bin/nsenter", fmt::format("--net=/proc/{}/fd/{}", ::getpid(), namespace_.get()),
         "/usr/sbin/ip", "link", "set", "away", "netns",
         "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(host.get()), "name",
         device},
        -1);
  }
  void moves() {
    ip({"addr", "del", address_ + "/24", "dev", "far"});
    has("moved");
  }

  Descriptor socket(int type, std::uint16_t port) const {
    Descriptor made;
    EXPECT_TRUE(in_network_namespace(namespace_.get(), [&] {
                  const int protocol = type == SOCK_RAW ? IPPROTO_ICMP : 0;
                  made = Descriptor(::socket(AF_INET, type | SOCK_CLOEXEC, protocol));
                }).ok());
    const int yes = 1;
    ::setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    const sockaddr_in own = end("0.0.0.0", port);
    EXPECT_EQ(::bind(made.get(), reinterpret_cast<const sockaddr*>(&own), sizeof own), 0);
    const bool serves = type == SOCK_STREAM && port != 0 && port < 1024;
    EXPECT_EQ(serves ? ::listen(made.get(), 8) : 0, 0);
    return made;
  }

  static sockaddr_in end(const std::string& address, std::uint16_t port) {
    sockaddr_in made{};
    made.sin_family = AF_INET;
    made.sin_port = htons(port);
    EXPECT_EQ(::inet_pton(AF_INET, address.c_str(), &made.sin_addr), 1);
    return made;
  }

  /// Not valid when there is no answer for `patience_ms`.
  Descriptor connect(const Guest& to, std::uint16_t port, int patience_ms = kDeadlineMs,
                     std::uint16_t from = 0) const {
    Descriptor made = socket(SOCK_STREAM, from);
    const timeval patience{patience_ms / 1000, patience_ms % 1000 * 1000};
    ::setsockopt(made.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    const sockaddr_in other = end(to.address(), port);
    const int done = ::connect(made.get(), reinterpret_cast<const sockaddr*>(&other), sizeof other);
    return done == 0 ? std::move(made) : Descriptor();
  }

  bool pings(const Guest& to, int patience_ms) const {
    const Descriptor from = socket(SOCK_RAW, 0);
    const std::string request("\x08\0\xf7\xfd\0\x01\0\x01", 8);
    const sockaddr_in other = end(to.address(), 0);
    ::sendto(from.get(), request.data(), request.size(), 0,
             reinterpret_cast<const sockaddr*>(&other), sizeof other);
    return !received(from, patience_ms).empty();
  }

  static std::string received(const Descriptor& socket, int patience_ms) {
    pollfd question{socket.get(), POLLIN, 0};
    if (::poll(&question, 1, patience_ms) <= 0) return "";
    char block[2048];
    const ssize_t count = ::recv(socket.get(), block, sizeof block, 0);
    return {block, static_cast<std::size_t>(std::max<ssize_t>(count, 0))};
  }

 private:
  void has(const std::string& device) {
    ip({"link", "set", device, "address", mac_, "up"});
    ip({"addr", "add", address_ + "/24", "dev", device});
  }
  void ip(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "/usr/sbin/ip");
    run(std::move(arguments), namespace_.get());
  }
  static void run(std::vector<std::string> arguments, int where) {
    ProcessOptions options;
    options.arguments = std::move(arguments);
    options.network_namespace = where;
    const auto ended = run_process(options, seconds(30));
    ASSERT_TRUE(ended.ok());
    EXPECT_EQ(ended->exit.code, 0) << ended->err;
  }

  Descriptor packets_;
  Descriptor namespace_;
  std::string mac_;
  std::string address_;
};

/// Two ends of one connection.
struct Ends {
  Descriptor opener;
  Descriptor other;

  bool passes(bool to_other, int patience_ms = kDeadlineMs) const {
    const Descriptor& from = to_other ? opener : other;
    if (::send(from.get(), "x", 1, MSG_NOSIGNAL) != 1) return false;
    return !Guest::received(to_other ? other : opener, patience_ms).empty();
  }
};

inline Ends open_connection(const Guest& from, const Guest& to, std::uint16_t port,
                            std::uint16_t from_port = 0) {
  const Descriptor listener = to.socket(SOCK_STREAM, port);
  Ends ends{from.connect(to, port, kDeadlineMs, from_port), {}};
  EXPECT_TRUE(ends.opener.valid()) << port;
  if (ends.opener.valid())
    ends.other = Descriptor(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  return ends;
}

}  // namespace virga::test
