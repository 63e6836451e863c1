#pragma once

#include <string>

#include "base/result.h"
#include "driver/net/netlink.h"
#include "edge/process.h"

/// Virtual cables and the network namespaces that they lead into. Plain calls of milliseconds; errors: denied,
/// exhausted, conflict (the device exists), internal.
namespace virga {

/// Opens the one that has its name at `path`, "/run/netns/vg-l0123456789", and makes it when there is none. Names are
/// mounts, as ip-netns(8) makes them: it stays, empty or not, until remove_network_namespace() or the end of this boot.
Result<Descriptor> ensure_network_namespace(const std::string& path);

/// Takes the name away; what holds the namespace besides goes on. One that is not there counts as removed.
Result<void> remove_network_namespace(const std::string& path);

struct CableEnd {
  std::string name;
  int network_namespace = -1;
  std::string mac{};  ///< 6 bytes; empty = the kernel picks one
};

/// A cable whose near end is the device `name` in the namespace of `socket`. Both ends are down.
Result<void> make_cable(NetlinkSocket& socket, const std::string& name, int mtu,
                        const CableEnd& far);

/// Errors: not_found beside the others.
Result<int> device_index(NetlinkSocket& socket, const std::string& name);

}  // namespace virga
