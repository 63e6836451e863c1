#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "runtime/cluster_view.h"

namespace virga {

/// The lowest address of the network that no port and no machine outside has and that is not `taken`: from .10 on, in
/// subnets of 16 addresses and fewer from .2 on. Errors: exhausted, naming the network. O(ports of the network).
Result<std::uint32_t> free_address(const ClusterView& view, const Network& network,
                                   const std::function<bool(std::uint32_t)>& taken);

/// The gateway's address with prefix length, "10.50.0.1/24": the subnet's first, which no port has. Empty when the
/// network has no gateway.
std::string gateway_address(const NetworkSpec& network);

/// The gateway's address without prefix length, where it leads out; empty where nothing does.
std::string way_out_of(const NetworkSpec& network);

/// Addresses of the network that no port may have: its gateway's and those of machines outside. "10.50.0.1".
std::set<std::string> reserved_addresses(const NetworkSpec& network);

/// A port with this address and the MAC that goes with it: 52:54:00 and 24 bits that no other address of the network
/// has. Without name, tenant, owner and times.
Port make_port(const Network& network, std::uint32_t address, std::vector<SecurityGroupId> groups);

}  // namespace virga
