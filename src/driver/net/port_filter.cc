#include "driver/net/port_filter.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/ether.h>

namespace virga {
namespace {

// Lines of one transaction. {0} is the table; the hook stands before everything else on a bridge.
constexpr const char* kBase = R"(
add table bridge {0}
add map bridge {0} guests {{ type ifname : verdict ; }}
add chain bridge {0} entry {{ type filter hook prerouting priority -300 ; policy accept ; }}
flush chain bridge {0} entry
add rule bridge {0} entry iifname vmap @guests
)";

// {1} device, {2} its MAC, {3} its address.
constexpr const char* kPort = R"(
add chain bridge {0} {1}
flush chain bridge {0} {1}
add rule bridge {0} {1} ether saddr != {2} counter drop
add rule bridge {0} {1} ether type arp arp saddr ether {2} arp saddr ip {{ {3}, 0.0.0.0 }} accept
add rule bridge {0} {1} ether type 0x8035 accept
add rule bridge {0} {1} ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
add rule bridge {0} {1} ip saddr {3} accept
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

Result<PortFilter> PortFilter::open(const std::string& table, int network_namespace) {
  auto nftables = Nftables::open(network_namespace);
  if (!nftables) return nftables.error();
  PortFilter made(table, std::move(*nftables));
  auto done =
      made.nftables_.run("make the filter of the guests' ports", fmt::format(kBase, table));
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
  return nftables_.run(
      what, fmt::format(kBase, table_) + fmt::format(kPort, table_, device, mac_text, plain));
}

Result<void> PortFilter::forget(const std::string& device) {
  return nftables_.run("forget the filter of " + device,
                       fmt::format(kBase, table_) + fmt::format(kForget, table_, device));
}

Result<void> PortFilter::remove_all() {
  return nftables_.run("remove the filter of the guests' ports", fmt::format(kRemove, table_));
}

}  // namespace virga
