#pragma once

#include <string>

#include "base/result.h"
#include "driver/net/netlink.h"
#include "edge/process.h"

namespace virga {

/// The end of a VM's port where no tap can be made, for want of /dev/net/tun: a virtual cable. Its near end is the
/// device `name` in the namespace of `socket`, which is `network_namespace` (-1 = the caller's); its far end lies alone
/// in a namespace without a name, where no address answers. Returns a packet socket on the far end: each read and write
/// is one whole Ethernet frame, with its checksums made. Like a tap, the device ends with the last holder of the
/// descriptor.
/// Errors: conflict (the device exists), denied, internal.
Result<Descriptor> open_packet_port(NetlinkSocket& socket, int network_namespace,
                                    const std::string& name, int mtu);

}  // namespace virga
