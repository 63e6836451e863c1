// What security groups cost: two guests on two hosts, network namespaces, with a tunnel between
// them; the same traffic with the filter and without it, in rounds that take turns, each told as a
// share of the round without. Without groups a host has no tables at all.
//
//   virga_groups_bench [rounds=9] [milliseconds a measurement=700]

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "driver/net/guest_fixture.h"

namespace virga::test {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint16_t kPort = 80;
constexpr double kBitsPerGigabit = 1e9;

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

  static Guest guest(WaitingFabric& fabric, const LaunchNic& nic) {
    const auto made = fabric.open_port(nic);
    VIRGA_CHECK(made.ok());
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

double gigabits(const Guest& from, const Guest& to, std::chrono::milliseconds span) {
  const Ends ends = open_connection(from, to, kPort);
  std::atomic<bool> over = false;
  std::thread sender([&] {
    const std::string block(256 << 10, 'x');
    while (!over) ::send(ends.opener.get(), block.data(), block.size(), MSG_NOSIGNAL);
  });
  std::vector<char> block(1 << 20);
  const auto begin = Clock::now();
  double bytes = 0;
  while (Clock::now() - begin < span) {
    const ssize_t count = ::recv(ends.other.get(), block.data(), block.size(), 0);
    if (count <= 0) break;
    bytes += static_cast<double>(count);
  }
  const std::chrono::duration<double> took = Clock::now() - begin;
  over = true;
  ::shutdown(ends.other.get(), SHUT_RDWR);
  ::shutdown(ends.opener.get(), SHUT_RDWR);
  sender.join();
  return bytes * 8 / kBitsPerGigabit / took.count();
}

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

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int run(int rounds, std::chrono::milliseconds span) {
  Lab lab;
  const Guest web = Lab::guest(*lab.first, lab.web), db = Lab::guest(*lab.second, lab.db);
  lab.guard(false);
  gigabits(web, db, span);
  std::vector<double> bulk[2], fresh[2], bulk_share, fresh_share;
  for (int round = 0; round < rounds; ++round) {
    for (const bool on : {round % 2 == 0, round % 2 != 0}) {
      lab.guard(on);
      bulk[on].push_back(gigabits(web, db, span));
      fresh[on].push_back(connections_per_s(web, db, span));
    }
    bulk_share.push_back(bulk[1].back() / bulk[0].back());
    fresh_share.push_back(fresh[1].back() / fresh[0].back());
  }
  fmt::print("groups_bulk_without {:.2f} Gbit/s\ngroups_bulk_with {:.2f} Gbit/s\n", median(bulk[0]),
             median(bulk[1]));
  fmt::print("groups_bulk_share {:.2f} of_without\n", median(bulk_share));
  fmt::print("groups_connections_without {:.0f} per_s\ngroups_connections_with {:.0f} per_s\n",
             median(fresh[0]), median(fresh[1]));
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
