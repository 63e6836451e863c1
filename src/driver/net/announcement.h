#pragma once

#include <cstdint>
#include <set>

#include "base/result.h"
#include "driver/net/netlink.h"

namespace virga {

/// Tells all on a device's segment that these addresses are at its MAC: one ARP request each for itself, as RFC 5227
/// calls an announcement, so that those who remember another MAC take this one. `socket`: of the namespace
/// `network_namespace` (descriptor; -1 = the caller's). Host byte order. Does not wait for anybody. Errors: denied,
/// not_found, unavailable (the device is down).
/// On a device that is no Ethernet nobody asks, and nothing is done: addresses are routed to this host there.
Result<void> announce_addresses(int network_namespace, NetlinkSocket& socket, int device,
                                const std::set<std::uint32_t>& addresses);

}  // namespace virga
