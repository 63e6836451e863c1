// What a tenant's network costs: two guests on two hosts, network namespaces, with a tunnel between
// them. The same traffic between the hosts themselves, between the guests, and between the guests
// with security groups, in rounds that take turns, each told as a share of the same round: guests
// of hosts, groups of guests without. Without groups a host has no tables at all.
//
//   virga_network_bench [rounds=9] [milliseconds a measurement=700]

#include <fmt/format.h>
#include <linux/ethtool.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "bulk.h"

namespace virga::test {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint16_t kPort = 80;
constexpr std::uint16_t kBeside = 8080;  // of the hosts, beside the tunnel

struct Lab {
  Lab() {
    join(one, "10.77.0.1", two, "10.77.0.2");
    first = open(one, "10.77.0.1");
    second = open(two, "10.77.0.2");
    for (auto* fabric : {first.get(), second.get()}) {
      VIRGA_CHECK(fabric->apply({1, {network("acme", 1001)}, {}}).ok());
      VIRGA_CHECK(fabric
                      ->place({{1001},
                               {{1001, web.mac, "10.50.0.10", "10.77.0.1"},
                                {1001, db.mac, "10.50.0.11", "10.77.0.2"}},
                               false})
                      .ok());
    }
  }

  static std::unique_ptr<WaitingFabric> open(const Namespace& where, const std::string& address) {
    auto made = WaitingFabric::open({"uplink", address, "vgt", where.get(), true});
    VIRGA_CHECK(made.ok());
    return std::move(*made);
  }

  /// Like a guest at a tap, this one takes segments that are not cut into frames: a cable's own
  /// reader would not, so that its port has all of them cut.
  static void take_segments(const Namespace& where, const std::string& port) {
    ethtool_value on{ETHTOOL_STXCSUM, 1};
    ifreq request{};
    port.copy(request.ifr_name, IFNAMSIZ - 1);
    request.ifr_data = reinterpret_cast<char*>(&on);
    VIRGA_CHECK(in_network_namespace(where.get(), [&] {
                  const Descriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
                  VIRGA_CHECK(::ioctl(socket.get(), SIOCETHTOOL, &request) == 0);
                }).ok());
  }

  static Guest guest(const Namespace& where, WaitingFabric& fabric, const LaunchNic& nic) {
    const auto made = fabric.open_port(nic);
    VIRGA_CHECK(made.ok());
    take_segments(where, fabric.tap_name(nic.port));
    Guest guest(Descriptor(made->tap_descriptor), nic.mac,
                nic.address.substr(0, nic.address.find('/')));
    guest.leave_packets();
    return guest;
  }

  /// Both guests have a group of ten rules, of which the last allows the traffic, or none.
  void guard(bool on) const {
    std::vector<SecurityRule> rules(9);
    for (std::size_t at = 0; at < rules.size(); ++at)
      rules[at] = {RuleDirection::ingress,
                   RuleProtocol::tcp,
                   static_cast<int>(1000 + at),
                   0,
                   "10.50.0.0/24",
                   ""};
    rules.push_back({RuleDirection::ingress, RuleProtocol::tcp, kPort, 0, "", "acme/web"});
    rules.push_back({RuleDirection::egress, RuleProtocol::any, 0, 0, "", ""});
    const std::vector<std::string> groups(on ? 1 : 0, "acme/web");
    const FabricGroups told{
        true,
        {{web.port, 1001, "10.50.0.10", groups}, {db.port, 1001, "10.50.0.11", groups}},
        {{1001, "acme/web", rules}},
        {{1001, "acme/web", {"10.50.0.10", "10.50.0.11"}}},
        false};
    VIRGA_CHECK(first->guard(told).ok() && second->guard(told).ok());
  }

  Namespace one;
  Namespace two;
  std::unique_ptr<WaitingFabric> first;
  std::unique_ptr<WaitingFabric> second;
  const LaunchNic web{"acme/web-0", "net", 1001, "52:54:00:00:00:0a", "10.50.0.10/24"};
  const LaunchNic db{"acme/db-0", "net", 1001, "52:54:00:00:00:0b", "10.50.0.11/24"};
};

double connections_per_s(const Guest& from, const Guest& to, std::chrono::milliseconds span) {
  const Descriptor listener = to.socket(SOCK_STREAM, kPort);
  const linger at_once{1, 0};
  const auto begin = Clock::now();
  int count = 0;
  while (Clock::now() - begin < span) {
    const Descriptor opened = from.connect(to, kPort);
    const Descriptor accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!opened.valid() || !accepted.valid()) return 0;
    ::setsockopt(opened.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    ++count;
  }
  return count / std::chrono::duration<double>(Clock::now() - begin).count();
}

enum Way { kHosts, kGuests, kGroups, kWays };

int run(int rounds, std::chrono::milliseconds span) {
  Lab lab;
  const Guest web = Lab::guest(lab.one, *lab.first, lab.web);
  const Guest db = Lab::guest(lab.two, *lab.second, lab.db);
  lab.guard(false);
  gigabits(open_connection(web, db, kPort), span);
  std::vector<double> bulk[kWays], fresh[kWays], tunnel_share, bulk_share, fresh_share;
  for (int round = 0; round < rounds; ++round) {
    for (int turn = 0; turn < kWays; ++turn) {
      const Way way = static_cast<Way>((round + turn) % kWays);
      lab.guard(way == kGroups);
      bulk[way].push_back(gigabits(
          way == kHosts ? connect_spaces(lab.one.get(), lab.two.get(), "10.77.0.2", kBeside)
                        : open_connection(web, db, kPort),
          span));
      if (way != kHosts) fresh[way].push_back(connections_per_s(web, db, span));
    }
    tunnel_share.push_back(bulk[kGuests].back() / bulk[kHosts].back());
    bulk_share.push_back(bulk[kGroups].back() / bulk[kGuests].back());
    fresh_share.push_back(fresh[kGroups].back() / fresh[kGuests].back());
  }
  fmt::print("tunnel_bulk_hosts {:.2f} Gbit/s\ntunnel_bulk_guests {:.2f} Gbit/s\n",
             median(bulk[kHosts]), median(bulk[kGuests]));
  fmt::print("tunnel_bulk_share {:.2f} of_hosts\n", median(tunnel_share));
  fmt::print("groups_bulk_with {:.2f} Gbit/s\n", median(bulk[kGroups]));
  fmt::print("groups_bulk_share {:.2f} of_without\n", median(bulk_share));
  fmt::print("groups_connections_without {:.0f} per_s\ngroups_connections_with {:.0f} per_s\n",
             median(fresh[kGuests]), median(fresh[kGroups]));
  fmt::print("groups_connections_share {:.2f} of_without\n", median(fresh_share));
  return 0;
}

}  // namespace
}  // namespace virga::test

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 9;
  const int span = count > 2 ? std::atoi(arguments[2]) : 700;
  return virga::test::run(std::max(rounds, 1), std::chrono::milliseconds(std::max(span, 50)));
}
