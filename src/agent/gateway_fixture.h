#pragma once

#include <fmt/format.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "driver/net/guest_fixture.h"
#include "edge/file.h"

/// What guests see of a gateway: a real DHCP client and real questions of names.
namespace virga::test {

/// Runs a program in a namespace to its end.
inline ProcessOutput run_in(int where, std::vector<std::string> arguments) {
  ProcessOptions options;
  options.arguments = std::move(arguments);
  options.environment = {{"PATH", "/usr/sbin:/usr/bin:/sbin:/bin"}};
  options.network_namespace = where;
  const auto ended = run_process(options, seconds(60));
  EXPECT_TRUE(ended.ok()) << ended.error().text();
  return ended.ok() ? *ended : ProcessOutput();
}

inline void ip_in(int where, const std::string& command) {
  std::vector<std::string> words{"/usr/sbin/ip"};
  std::istringstream text(command);
  for (std::string word; text >> word;) words.push_back(word);
  const ProcessOutput ended = run_in(where, words);
  EXPECT_EQ(ended.exit.code, 0) << command << ": " << ended.err;
}

/// A socket of a namespace, bound to a port of all its addresses.
inline Descriptor socket_in(int where, int type, std::uint16_t port) {
  Descriptor made;
  EXPECT_TRUE(in_network_namespace(where, [&] {
                made = Descriptor(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
              }).ok());
  const int yes = 1;
  ::setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  ::setsockopt(made.get(), SOL_SOCKET, SO_BROADCAST, &yes, sizeof yes);
  const sockaddr_in own = Guest::end("0.0.0.0", port);
  EXPECT_EQ(::bind(made.get(), reinterpret_cast<const sockaddr*>(&own), sizeof own), 0);
  return made;
}

/// A guest that knows nothing but its MAC, at the far end of a port's cable.
class DhcpGuest {
 public:
  /// `folder`: for what the client of DHCP was given.
  DhcpGuest(Descriptor packets, std::string mac, const std::string& folder)
      : packets_(std::move(packets)),
        given_(folder + "/given-" + mac),
        script_(folder + "/script") {
    namespace_ = Descriptor(::ioctl(packets_.get(), SIOCGSKNS));
    EXPECT_TRUE(namespace_.valid());
    ip("link set lo up");
    ip("link set far address " + mac + " up");
    std::ofstream(script_) << "#!/bin/sh\n"
                              "[ \"$1\" = bound ] || [ \"$1\" = renew ] || exit 0\n"
                              "ip addr replace \"$ip/$mask\" dev \"$interface\"\n"
                              "[ -z \"$router\" ] || ip route replace default via \"$router\"\n"
                              "set | sed \"s/'//g\" > \"$GIVEN\"\n";
    EXPECT_EQ(::chmod(script_.c_str(), 0755), 0);
  }

  int space() const { return namespace_.get(); }
  void ip(const std::string& command) const { ip_in(space(), command); }

  /// Asks for an address and takes it; what was given, nothing when there was no answer in `tries` seconds.
  std::map<std::string, std::string> lease(int tries = 20) const {
    ::unlink(given_.c_str());
    run_in(space(), {"/usr/bin/env",
                     "GIVEN=" + given_,
                     "/bin/busybox",
                     "udhcpc",
                     "-i",
                     "far",
                     "-f",
                     "-q",
                     "-n",
                     "-t",
                     std::to_string(tries),
                     "-T",
                     "1",
                     "-s",
                     script_,
                     "-x",
                     "hostname:pretender",
                     "-O",
                     "mtu",
                     "-O",
                     "search"});
    std::map<std::string, std::string> given;
    std::ifstream lines(given_);
    for (std::string line; std::getline(lines, line);) {
      const std::size_t equals = line.find('=');
      for (const char* name : {"ip", "mask", "router", "dns", "domain", "search", "mtu"}) {
        if (equals != std::string::npos && line.substr(0, equals) == name)
          given[name] = line.substr(equals + 1);
      }
    }
    return given;
  }

  /// A client that stays. It writes `given()` each time that it was given something; SIGUSR1 makes it renew, when it
  /// asks its server alone.
  ProcessOptions client() const {
    ProcessOptions made;
    made.arguments = {"/bin/busybox", "udhcpc", "-i", "far", "-f",   "-t",
                      "20",           "-T",     "1",  "-s",  script_};
    made.environment = {{"PATH", "/usr/sbin:/usr/bin:/sbin:/bin"}, {"GIVEN", given_}};
    made.network_namespace = space();
    made.die_with_parent = true;
    return made;
  }
  const std::string& given() const { return given_; }

  /// What the server says of a name: addresses, or the words of its refusal.
  std::string ask(const std::string& name, const std::string& server = "10.50.0.1") const {
    const ProcessOutput said =
        run_in(space(), {"/bin/busybox", "nslookup", "-type=a", name, server});
    std::istringstream lines(said.out.substr(std::min(said.out.size(), said.out.find("\n\n"))));
    std::string answers;
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("Address:")) answers += line.substr(line.find_last_of(' ') + 1) + " ";
      for (const char* word : {"NXDOMAIN", "REFUSED"}) {
        if (line.find(word) != std::string::npos) return word;
      }
    }
    return answers.empty() ? "no answer" : answers.substr(0, answers.size() - 1);
  }

 private:
  Descriptor packets_;
  Descriptor namespace_;
  std::string given_;
  std::string script_;
};

/// Where a TCP connection to ADDRESS:PORT, which `listener` serves, comes from; empty = it does not come.
inline std::string comes_from(int from, const std::string& address, std::uint16_t port,
                              int listening_namespace, int patience_ms = kDeadlineMs) {
  const Descriptor listener = socket_in(listening_namespace, SOCK_STREAM, port);
  EXPECT_EQ(::listen(listener.get(), 8), 0);
  const Descriptor client = socket_in(from, SOCK_STREAM, 0);
  const timeval patience{patience_ms / 1000, patience_ms % 1000 * 1000};
  ::setsockopt(client.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const sockaddr_in to = Guest::end(address, port);
  if (::connect(client.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) return "";
  sockaddr_in peer{};
  socklen_t size = sizeof peer;
  const Descriptor other(
      ::accept4(listener.get(), reinterpret_cast<sockaddr*>(&peer), &size, SOCK_CLOEXEC));
  char text[INET_ADDRSTRLEN] = {};
  ::inet_ntop(AF_INET, &peer.sin_addr, text, sizeof text);
  return text;
}

}  // namespace virga::test
