#pragma once

#include <string>

#include "base/result.h"
#include "driver/fabric.h"
#include "driver/net/netlink.h"

namespace virga {

/// Errors: invalid (MAC, address), naming the field. Pure.
Result<void> check_leg(const BalancerLeg& leg);

/// Makes a leg what it shall be, whatever is there: a cable from the device `device` in the namespace of `host` to the
/// device "leg" in `space`, which alone has the leg's MAC and address there and is up. The near end is left to the
/// caller, and down when it is new. Connections over a leg that stays as it is notice nothing.
/// Plain calls of milliseconds. Errors: invalid (MAC, address), denied, exhausted, internal (the kernel's words).
Result<void> ensure_leg(NetlinkSocket& host, const std::string& device, int space,
                        const BalancerLeg& leg);

}  // namespace virga
