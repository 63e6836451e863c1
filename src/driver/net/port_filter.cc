#include "driver/net/port_filter.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/ether.h>

#include <algorithm>
#include <cctype>
#include <utility>

#include "driver/net/gateway.h"
#include "model/ipv4.h"

namespace virga {
namespace {

// Lines of one transaction. {0} is the table, {1} how names of devices begin; the first hook stands
// before everything else on a bridge.
constexpr const char* kBase = R"(
add table bridge {0}
add map bridge {0} guests {{ type ifname : verdict ; }}
add chain bridge {0} entry {{ type filter hook prerouting priority -300 ; policy accept ; }}
flush chain bridge {0} entry
add rule bridge {0} entry iifname vmap @guests
add chain bridge {0} apart {{ type filter hook forward priority -300 ; policy accept ; }}
flush chain bridge {0} apart
add rule bridge {0} apart iifname "{1}g*" oifname "{1}vx*" counter drop
add rule bridge {0} apart iifname "{1}vx*" oifname "{1}g*" counter drop
)";

// {1} device, {2} its MAC, {3} its address.
constexpr const char* kPort = R"(
add chain bridge {0} {1}
flush chain bridge {0} {1}
add rule bridge {0} {1} ether saddr != {2} counter drop
add rule bridge {0} {1} ether type arp arp saddr ether {2} arp saddr ip {{ {3}, 0.0.0.0 }} accept
add rule bridge {0} {1} ether type 0x8035 accept
add rule bridge {0} {1} ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
add rule bridge {0} {1} udp sport 67 udp dport 68 counter drop
add rule bridge {0} {1} ip saddr {3} accept
add rule bridge {0} {1} counter drop
add element bridge {0} guests {{ "{1}" : jump {1} }}
)";

// {1} device, {2} its MAC, {3} its address, {4} what else it may send.
constexpr const char* kGateway = R"(
add chain bridge {0} {1}
flush chain bridge {0} {1}
add rule bridge {0} {1} ether saddr != {2} counter drop
add rule bridge {0} {1} ether type arp arp saddr ether {2} arp saddr ip {3} accept
add rule bridge {0} {1} ip saddr {3} accept
{4}
add rule bridge {0} {1} counter drop
add element bridge {0} guests {{ "{1}" : jump {1} }}
)";

// Made once more first: nftables refuses to delete what is not there.
constexpr const char* kForget = R"(
add chain bridge {0} {1}
add element bridge {0} guests {{ "{1}" : jump {1} }}
delete element bridge {0} guests {{ "{1}" }}
flush chain bridge {0} {1}
delete chain bridge {0} {1}
)";

constexpr const char* kRemove = "add table bridge {0}\ndelete table bridge {0}\n";

}  // namespace

PortFilter::PortFilter(const std::string& prefix, Nftables nftables)
    : prefix_(prefix), table_(prefix + "ports"), nftables_(std::move(nftables)) {}

std::string PortFilter::base_text() const { return fmt::format(kBase, table_, prefix_); }

Result<PortFilter> PortFilter::open(const std::string& prefix, int network_namespace) {
  auto nftables = Nftables::open(network_namespace);
  if (!nftables) return nftables.error();
  PortFilter made(prefix, std::move(*nftables));
  auto done = made.nftables_.run("make the filter of the guests' ports", made.base_text());
  if (!done) return done.error();
  return made;
}

// Both are brought into one form: nothing of them can be more than itself in a command.
Result<void> PortFilter::set(const std::string& device, const LaunchNic& nic) {
  const std::string what = "filter port " + nic.port;
  ether_addr mac{};
  if (::ether_aton_r(nic.mac.c_str(), &mac) == nullptr) {
    return make_error(Errc::invalid, fmt::format("{}: mac: \"{}\" is not one", what, nic.mac));
  }
  char mac_text[18] = {};
  ::ether_ntoa_r(&mac, mac_text);
  in_addr address{};
  const std::string plain = nic.address.substr(0, nic.address.find('/'));
  if (::inet_pton(AF_INET, plain.c_str(), &address) != 1) {
    return make_error(Errc::invalid,
                      fmt::format("{}: address: \"{}\" is not one of IPv4", what, nic.address));
  }
  return nftables_.run(what,
                       base_text() + fmt::format(kPort, table_, device, mac_text, plain));
}

Result<void> PortFilter::check(const std::string& device, const LaunchNic& nic) {
  constexpr std::size_t kRules = 7;  // of kPort
  const auto listed = nftables_.list_table("read the filter of " + device, "bridge", table_);
  if (!listed) return listed.error();
  std::string mac = nic.mac;
  std::ranges::transform(mac, mac.begin(), [](unsigned char c) { return std::tolower(c); });
  const std::string address = nic.address.substr(0, nic.address.find('/'));
  std::string rules;
  std::size_t count = 0;
  bool entered = false;
  for (const Nftables::Rule& rule : listed->rules) {
    entered = entered || rule.chain == "entry";
    if (rule.chain != device) continue;
    ++count;
    rules += rule.text;
  }
  if (!entered || listed->elements.find('"' + device + '"') == std::string::npos) {
    return make_error(Errc::conflict, "the filter of " + device + " is not asked for its frames");
  }
  const auto has = [&rules](const std::string& text) {
    return rules.find('"' + text + '"') != std::string::npos;
  };
  if (count == kRules && has(mac) && has(address)) return {};
  return make_error(Errc::conflict, fmt::format("the filter of {} does not hold it to {} and {}",
                                                device, mac, address));
}

Result<void> PortFilter::set_gateway(const std::string& device, const GatewayNetwork& network,
                                     bool leads_out) {
  const auto subnet = gateway_subnet(network);
  if (!subnet) return subnet.error();
  const std::string plain = ipv4_text(*parse_ipv4(network.address));
  std::string more;
  if (leads_out) {
    more = fmt::format("add rule bridge {} {} ip saddr != {} accept", table_, device, *subnet);
  }
  return nftables_.run(fmt::format("filter the gateway of VNI {}", network.vni),
                       base_text() + fmt::format(kGateway, table_, device,
                                                 gateway_mac(network.vni), plain, more));
}

Result<void> PortFilter::forget(const std::string& device) {
  return nftables_.run("forget the filter of " + device,
                       base_text() + fmt::format(kForget, table_, device));
}

Result<void> PortFilter::remove_all() {
  return nftables_.run("remove the filter of the guests' ports", fmt::format(kRemove, table_));
}

}  // namespace virga
