#include "driver/dnsmasq/configuration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "model/ipv4.h"

namespace virga {
namespace {

// {0} directory, {1} base of the subnet, {2} its mask, {3} gateway, {4} domain, {5} MTU.
// Leases are kept in no file: a member's address is its own for ever, so that nobody else can have
// it. None has a name either: a name would be answered until the lease ends.
constexpr const char* kText = R"(# Written by the agent; changes are lost.
pid-file={0}/pid
log-facility=-
quiet-dhcp
bind-interfaces
interface=leg
except-interface=lo
no-hosts
no-resolv
no-poll
domain-needed
bogus-priv
local=/virga/
addn-hosts={0}/names
dhcp-range={1},static,{2},1h
dhcp-hostsfile={0}/members
dhcp-ignore=tag:!known
dhcp-ignore-names
dhcp-authoritative
dhcp-lease-max=65536
leasefile-ro
no-ping
dhcp-option=option:dns-server,{3}
dhcp-option=option:domain-name,{4}
dhcp-option=option:domain-search,{4}
dhcp-option=option:mtu,{5}
)";

bool plain_name(const std::string& text, const char* more) {
  constexpr std::size_t kMax = 253;
  const std::string right = std::string("abcdefghijklmnopqrstuvwxyz0123456789-") + more;
  return !text.empty() && text.size() <= kMax && text.find_first_not_of(right) == std::string::npos;
}

Error wrong(const std::string& field, const std::string& value, const char* right) {
  return make_error(Errc::invalid, fmt::format("{}: \"{}\" is not {}", field, value, right));
}

}  // namespace

Result<DnsmasqFiles> render(const GatewaySpec& spec, const DnsmasqOptions& options) {
  const GatewayNetwork& network = spec.network;
  const std::size_t slash = network.address.find('/');
  const auto address = parse_ipv4(network.address);
  const int prefix =
      slash == std::string::npos ? 0 : std::atoi(network.address.c_str() + slash + 1);
  if (!address || prefix < 1 || prefix > 30)
    return wrong("network.address", network.address, "an address such as 10.50.0.1/24");
  if (!plain_name(network.domain, "."))
    return wrong("network.domain", network.domain, "a name such as front.acme.virga");
  const std::uint32_t mask = ~((1U << (32 - prefix)) - 1);
  const std::string gateway = ipv4_text(*address);
  DnsmasqFiles files;
  files.configuration = fmt::format(kText, options.directory, ipv4_text(*address & mask),
                                    ipv4_text(mask), gateway, network.domain, network.mtu);
  files.configuration += options.user.empty() ? "user=root\n" : "user=" + options.user + "\n";
  // Without a value the option is not told; unsaid it would be.
  files.configuration += "dhcp-option=option:router" + (network.nat ? "," + gateway : "") + "\n";
  for (const std::string& resolver : options.resolvers) {
    if (!parse_ipv4(resolver)) return wrong("resolver", resolver, "an IPv4 address");
    if (network.nat) files.configuration += "server=" + resolver + "\n";
  }
  std::vector<const GatewayMember*> members;
  for (const GatewayMember& member : spec.members) members.push_back(&member);
  std::sort(members.begin(), members.end(),
            [](const auto* left, const auto* right) { return left->port < right->port; });
  for (const GatewayMember* member : members) {
    const std::string field = "member " + member->port + ": ";
    if (!is_mac(member->mac)) return wrong(field + "mac", member->mac, "a MAC in lower case");
    const auto own = parse_ipv4(member->address);
    if (!own) return wrong(field + "address", member->address, "an IPv4 address");
    if (!plain_name(member->name, ""))
      return wrong(field + "name", member->name, "a name of letters, digits and hyphens");
    files.members += fmt::format("{},{}\n", member->mac, ipv4_text(*own));
    files.names += fmt::format("{} {}.{}\n", ipv4_text(*own), member->name, network.domain);
  }
  return files;
}

}  // namespace virga
