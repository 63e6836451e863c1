#include "driver/net/gateway.h"

#include <fmt/format.h>

#include <cstdlib>
#include <exception>
#include <vector>

#include "base/reflect.h"
#include "driver/net/nftables.h"
#include "model/ipv4.h"

namespace virga {
namespace {

// Replaced as a whole, so that nothing of what was there before stays.
constexpr const char* kTable = R"(
add table ip gateway
delete table ip gateway
add table ip gateway
add chain ip gateway entry { type filter hook input priority 0 ; policy drop ; }
add chain ip gateway pass { type filter hook forward priority 0 ; policy drop ; }
add rule ip gateway entry iifname "lo" accept
add rule ip gateway entry ct state established,related accept
add rule ip gateway entry iifname "leg" udp dport { 53, 67 } accept
add rule ip gateway entry iifname "leg" tcp dport 53 accept
add rule ip gateway entry iifname "leg" icmp type echo-request accept
)";

// {0} subnet.
constexpr const char* kWayOut = R"(
add chain ip gateway hide {{ type nat hook postrouting priority 100 ; policy accept ; }}
add rule ip gateway pass iifname "leg" oifname "out" ip saddr {0} accept
add rule ip gateway pass iifname "out" oifname "leg" ct state established,related accept
add rule ip gateway hide oifname "out" ip saddr {0} masquerade
)";

// {0} floating address : guest, {1} guest : floating address. Before what hides all others.
constexpr const char* kFloating = R"(
add map ip gateway inward {{ type ipv4_addr : ipv4_addr ; elements = {{ {0} }} ; }}
add map ip gateway outward {{ type ipv4_addr : ipv4_addr ; elements = {{ {1} }} ; }}
add chain ip gateway lead {{ type nat hook prerouting priority -100 ; policy accept ; }}
add rule ip gateway lead iifname {{ "out", "leg" }} dnat to ip daddr map @inward
add rule ip gateway pass iifname {{ "out", "leg" }} oifname "leg" ct status dnat accept
insert rule ip gateway hide iifname "leg" oifname "leg" ct status dnat masquerade
insert rule ip gateway hide oifname "out" snat to ip saddr map @outward
)";

std::string floating_text(const FloatingGuests& floating) {
  std::vector<std::string> inward;
  std::vector<std::string> outward;
  for (const auto& [address, guest] : floating) {
    inward.push_back(ipv4_text(address) + " : " + ipv4_text(guest));
    outward.push_back(ipv4_text(guest) + " : " + ipv4_text(address));
  }
  return fmt::format(kFloating, fmt::join(inward, ", "), fmt::join(outward, ", "));
}

}  // namespace

std::string gateway_mac(std::uint32_t vni) {
  return fmt::format("02:67:77:{:02x}:{:02x}:{:02x}", vni >> 16 & 255, vni >> 8 & 255, vni & 255);
}

Result<std::string> gateway_subnet(const GatewayNetwork& network) {
  const std::size_t slash = network.address.find('/');
  const auto address = parse_ipv4(network.address);
  int prefix = 0;
  if (slash != std::string::npos) prefix = std::atoi(network.address.c_str() + slash + 1);
  if (!address || prefix < 1 || prefix > 31) {
    return make_error(Errc::invalid,
                      fmt::format("gateway of VNI {}: address: \"{}\" is no IPv4 address with "
                                  "prefix length such as 10.50.0.1/24",
                                  network.vni, network.address));
  }
  return fmt::format("{}/{}", ipv4_text(*address & ~((1U << (32 - prefix)) - 1)), prefix);
}

Result<BalancerLeg> gateway_leg(const GatewayNetwork& network) {
  const auto subnet = gateway_subnet(network);
  if (!subnet) return subnet.error();
  return BalancerLeg{network.vni, gateway_mac(network.vni), network.address, network.mtu};
}

Result<void> guard_gateway(int space, const GatewayNetwork& network, bool leads_out,
                           const FloatingGuests& floating) {
  const auto subnet = gateway_subnet(network);
  if (!subnet) return subnet.error();
  auto nftables = Nftables::open(space);
  if (!nftables) return nftables.error();
  std::string way_out;
  if (leads_out) way_out = fmt::format(kWayOut, *subnet);
  if (leads_out && !floating.empty()) way_out += floating_text(floating);
  return nftables->run(fmt::format("guard the gateway of VNI {}", network.vni), kTable + way_out);
}

FloatingGuests present_floating(int space) {
  FloatingGuests found;
  auto nftables = Nftables::open(space);
  const auto said = nftables ? nftables->list("look for floating addresses",
                                              "list map ip gateway inward")
                             : Result<std::string>(nftables.error());
  const auto parsed = said ? parse_json(*said) : said.error();
  if (!parsed) return found;
  try {
    for (const auto& entry : parsed->at("nftables").as_array()) {
      const json::value* map = entry.as_object().if_contains("map");
      const json::value* all = map == nullptr ? nullptr : map->as_object().if_contains("elem");
      if (all == nullptr) continue;
      for (const auto& pair : all->as_array()) {
        const auto address = parse_ipv4(pair.at(0).as_string());
        const auto guest = parse_ipv4(pair.at(1).as_string());
        if (address && guest) found[*address] = *guest;
      }
    }
  } catch (const std::exception&) {
    return {};  // of another form: not of ours
  }
  return found;
}

}  // namespace virga
