#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/result.h"
#include "driver/fabric.h"

/// What a gateway's namespace holds: the device "leg" on the network (see ensure_leg()), where it leads out the device
/// "out" (see WayOut), and a table of nftables between them. Plain calls of milliseconds.
namespace virga {

/// "02:67:77:00:03:e9": of the network, the same on all hosts and no VM's.
std::string gateway_mac(std::uint32_t vni);

/// The gateway's place on its network. Errors: invalid (address).
Result<BalancerLeg> gateway_leg(const GatewayNetwork& network);

/// "10.50.0.0/24". Errors: invalid (address).
Result<std::string> gateway_subnet(const GatewayNetwork& network);

/// Guests by the floating addresses that lead to them here; host byte order.
using FloatingGuests = std::map<std::uint32_t, std::uint32_t>;

/// Sets what may pass in `space`: guests ask for addresses and names and for an echo; with `leads_out` what they send
/// from the subnet's addresses goes out of "out" behind its address, and answers come back. What comes by a floating
/// address, from outside or from the network itself, goes to its guest, and what that guest sends out comes from it.
/// One transaction; connections under way go on. Errors: invalid (address), denied, internal.
Result<void> guard_gateway(int space, const GatewayNetwork& network, bool leads_out,
                           const FloatingGuests& floating);

/// Those that guard_gateway() has set last, by whomever; none when it was never called.
FloatingGuests present_floating(int space);

}  // namespace virga
