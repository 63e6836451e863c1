// What a way out costs: a guest that sends to somebody outside through its network's gateway, which
// translates its address, beside its host that sends to the same one, in rounds that take turns.
//
//   virga_gateway_bench [rounds=9] [milliseconds a measurement=700]

#include <fmt/format.h>

#include <cstdlib>

#include "agent/gateway_hosts_fixture.h"
#include "bulk.h"

namespace virga::test {
namespace {

constexpr std::uint16_t kPort = 8080;

class Bench final : public GatewayHosts {
 public:
  void run(int rounds, std::chrono::milliseconds span) {
    tell(*near_, {gateway(true)}, {member(10, "web")});
    const auto web = guest(*near_, 10);
    VIRGA_CHECK(web->lease()["ip"] == "10.50.0.10");
    std::vector<double> hosts, guests, share;
    for (int round = 0; round < rounds; ++round) {
      for (const bool by_guest : {round % 2 == 0, round % 2 != 0}) {
        const int from = by_guest ? web->space() : one_.get();
        const Ends ends = connect_spaces(from, outside_.get(), kFar, kPort);
        (by_guest ? guests : hosts).push_back(gigabits(ends, span));
      }
      share.push_back(guests.back() / hosts.back());
    }
    fmt::print("gateway_bulk_host {:.2f} Gbit/s\ngateway_bulk_guest {:.2f} Gbit/s\n", median(hosts),
               median(guests));
    fmt::print("gateway_bulk_share {:.2f} of_host\n", median(share));
  }

 private:
  void TestBody() override {}
};

}  // namespace
}  // namespace virga::test

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 9;
  const int span = count > 2 ? std::atoi(arguments[2]) : 700;
  virga::test::Bench().run(std::max(rounds, 1), std::chrono::milliseconds(std::max(span, 50)));
  return 0;
}
