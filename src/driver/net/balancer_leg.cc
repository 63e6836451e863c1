#include "driver/net/balancer_leg.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <netinet/ether.h>

#include <charconv>
#include <utility>
#include <vector>

#include "driver/net/cable.h"

namespace virga {
namespace {

const std::string kDevice = "leg";
constexpr int kLoopback = 1;  // the index of "lo" in every namespace

Result<DeviceAddress> parse_leg_address(const std::string& text) {
  const std::size_t slash = text.find('/');
  in_addr address{};
  DeviceAddress parsed;
  bool right = slash != std::string::npos &&
               ::inet_pton(AF_INET, text.substr(0, slash).c_str(), &address) == 1;
  if (right) {
    const char* end = text.data() + text.size();
    const auto [rest, failed] = std::from_chars(text.data() + slash + 1, end, parsed.prefix_length);
    right = failed == std::errc() && rest == end && parsed.prefix_length >= 1 &&
            parsed.prefix_length <= 32;
  }
  if (!right) {
    return make_error(Errc::invalid, fmt::format("leg.address: \"{}\" is no IPv4 address with "
                                                 "prefix length such as 10.50.0.10/24",
                                                 text));
  }
  parsed.address = address.s_addr;
  return parsed;
}

Result<std::string> parse_leg_mac(const std::string& text) {
  ether_addr mac{};
  if (::ether_aton_r(text.c_str(), &mac) == nullptr) {
    return make_error(Errc::invalid, fmt::format("leg.mac: \"{}\" is no MAC", text));
  }
  return std::string(reinterpret_cast<const char*>(&mac), sizeof mac);
}

Result<std::uint32_t> parse_gateway(const std::string& text) {
  in_addr by{};
  if (text.empty() || ::inet_pton(AF_INET, text.c_str(), &by) == 1) return by.s_addr;
  return make_error(Errc::invalid, fmt::format("leg.gateway: \"{}\" is no IPv4 address", text));
}

}  // namespace

Result<void> check_leg(const BalancerLeg& leg) {
  if (const auto mac = parse_leg_mac(leg.mac); !mac) return mac.error();
  if (const auto address = parse_leg_address(leg.address); !address) return address.error();
  if (const auto gateway = parse_gateway(leg.gateway); !gateway) return gateway.error();
  return {};
}

Result<void> ensure_leg(NetlinkSocket& host, const std::string& device, int space,
                        const BalancerLeg& leg) {
  const auto mac = parse_leg_mac(leg.mac);
  if (!mac) return mac.error();
  const auto address = parse_leg_address(leg.address);
  if (!address) return address.error();
  const auto gateway = parse_gateway(leg.gateway);
  if (!gateway) return gateway.error();
  auto inside = NetlinkSocket::open(space);
  if (!inside) return inside.error();
  const auto index = ensure_cable(host, device, *inside, {kDevice, space, *mac}, leg.mtu);
  if (!index) return index.error();
  if (auto done = bring_up(*inside, kLoopback); !done) return done;
  ifinfomsg header{};
  header.ifi_index = *index;
  header.ifi_flags = header.ifi_change = IFF_UP;
  NetlinkMessage message(RTM_NEWLINK, 0);
  message.header(header)
      .bytes(IFLA_ADDRESS, *mac)
      .number(IFLA_MTU, static_cast<std::uint32_t>(leg.mtu));
  if (auto done = inside->execute(message).as_result("bring a leg up"); !done) return done;
  if (auto done = ensure_address(*inside, *index, *address); !done) return done;
  return ensure_route(*inside, {*index, *gateway});
}

}  // namespace virga
