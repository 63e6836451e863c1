#include "mechanism/network/addresses.h"

#include <fmt/format.h>

#include "model/ipv4.h"

namespace virga {
namespace {

constexpr std::uint32_t kFirstAddress = 10;  ///< offset in the subnet; below it is room for routers
constexpr std::uint32_t kFirstAddressSmall = 2;  ///< in subnets of 16 addresses and fewer

/// Bits of the network's name: with the address they make a MAC that no other port of it can have.
std::uint32_t hash_of(const std::string& text) {
  std::uint32_t hash = 2166136261U;  // FNV-1a
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
  return hash;
}

/// 52:54:00 and 24 bits that are the address's own within its network (subnets have at most 16 host
/// bits), mixed with the network's name so that equal addresses of two networks differ.
std::string mac_of(const NetworkId& network, std::uint32_t address) {
  const std::uint32_t bits = (hash_of(network.value) ^ address) & 0xffffff;
  return fmt::format("52:54:00:{:02x}:{:02x}:{:02x}", bits >> 16, bits >> 8 & 255, bits & 255);
}

}  // namespace

Result<std::uint32_t> free_address(const ClusterView& view, const Network& network,
                                   const std::function<bool(std::uint32_t)>& taken) {
  const auto subnet = parse_subnet("spec.subnet", network.spec.subnet);
  if (!subnet.ok()) return wrap_error("network " + network.id().value, subnet.error());
  const std::set<std::uint32_t>& used = view.addresses_on(network.id());
  std::set<std::uint32_t> outside;
  for (const OutsidePort& port : network.spec.outside)
    outside.insert(parse_ipv4(port.address).value_or(0));
  std::uint32_t candidate =
      subnet->base + (subnet->size() > 16 ? kFirstAddress : kFirstAddressSmall);
  auto next_used = used.lower_bound(candidate);
  for (; candidate < subnet->broadcast(); ++candidate) {
    while (next_used != used.end() && *next_used < candidate) ++next_used;
    const bool in_use = next_used != used.end() && *next_used == candidate;
    if (in_use || outside.contains(candidate) || taken(candidate)) continue;
    return candidate;
  }
  return make_error(Errc::exhausted, fmt::format("network {}: all addresses of {} are in use",
                                                 network.id().value, network.spec.subnet));
}

std::string gateway_address(const NetworkSpec& network) {
  const auto subnet = parse_subnet("spec.subnet", network.subnet);
  if (network.gateway == NetworkGateway::none || !subnet) return {};
  return fmt::format("{}/{}", ipv4_text(subnet->base + 1), subnet->prefix);
}

std::string way_out_of(const NetworkSpec& network) {
  const std::string gateway = gateway_address(network);
  return network.gateway == NetworkGateway::nat ? gateway.substr(0, gateway.find('/')) : "";
}

std::set<std::string> reserved_addresses(const NetworkSpec& network) {
  std::set<std::string> reserved;
  for (const OutsidePort& port : network.outside) reserved.insert(port.address);
  const std::string gateway = gateway_address(network);
  if (!gateway.empty()) reserved.insert(gateway.substr(0, gateway.find('/')));
  return reserved;
}

Port make_port(const Network& network, std::uint32_t address, std::vector<SecurityGroupId> groups) {
  Port made;
  made.meta.generation = 1;
  made.spec.network = network.id();
  made.spec.mac = mac_of(network.id(), address);
  made.spec.address =
      ipv4_text(address) + network.spec.subnet.substr(network.spec.subnet.find('/'));
  made.spec.security_groups = std::move(groups);
  return made;
}

}  // namespace virga
