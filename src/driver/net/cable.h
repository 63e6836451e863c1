#pragma once

#include <linux/rtnetlink.h>

#include <cstdint>
#include <map>
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

/// One that is not there counts as removed.
Result<void> remove_device(NetlinkSocket& socket, const std::string& name);

/// Makes the cable from `name` in the namespace of `socket` to `far` in that of `inside` when it is not there; the far
/// end's index. What is left of another cable with one of the names goes first. No end of it gets an address by itself.
Result<int> ensure_cable(NetlinkSocket& socket, const std::string& name, NetlinkSocket& inside,
                         const CableEnd& far, int mtu);

Result<void> bring_up(NetlinkSocket& socket, int index);

/// As the kernel takes it.
struct DeviceAddress {
  std::uint32_t address = 0;  ///< network byte order
  int prefix_length = 0;

  friend bool operator==(const DeviceAddress&, const DeviceAddress&) = default;
};

/// IPv4 addresses of a namespace, by the index of their device.
Result<std::multimap<int, DeviceAddress>> device_addresses(NetlinkSocket& socket);

/// Afterwards the device has this address and no other.
Result<void> ensure_address(NetlinkSocket& socket, int index, const DeviceAddress& wanted);

/// A route of IPv4 in the main table. Network byte order.
struct Route {
  int device = 0;
  std::uint32_t by = 0;           ///< the next hop; 0 = there is to be no such route
  std::uint32_t destination = 0;  ///< with `prefix_length` 0: all that no other route knows
  std::uint8_t prefix_length = 0;
  std::uint8_t protocol = RTPROT_STATIC;  ///< whose it is
};

/// Makes or removes it; one that is not there counts as removed.
Result<void> ensure_route(NetlinkSocket& socket, const Route& route);

}  // namespace virga
