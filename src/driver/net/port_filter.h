#pragma once

#include <string>

#include "base/result.h"
#include "driver/fabric.h"
#include "driver/net/nftables.h"
#include "model/launch.h"

namespace virga {

/// What a guest may send: frames of its own MAC that carry IPv4 from its own address, ARP that says no other, what asks
/// for an address by DHCP, and RARP, by which QEMU tells of a guest that has moved. Everything else is dropped where it
/// enters the bridge: foreign MACs and addresses, forged ARP, answers of DHCP, IPv6 and VLANs. By nftables, family
/// bridge, one chain a port, so that it outlives the agent as the ports do. Gateways and tunnels are kept apart.
///
/// Plain calls of a few milliseconds. Errors: denied, internal (the words of nftables).
class PortFilter {
 public:
  /// `prefix`: begins the names of all devices here, and of the table; `network_namespace`: descriptor, -1 = the
  /// caller's.
  static Result<PortFilter> open(const std::string& prefix, int network_namespace);

  /// Before the port is joined to its network: from now on the device may send this and nothing else. Replaces what was
  /// said of it before. Errors: invalid (MAC, address).
  Result<void> set(const std::string& device, const LaunchNic& nic);

  /// Whether the kernel holds the device to that. Errors beside the others: conflict (it does not: says in what).
  Result<void> check(const std::string& device, const LaunchNic& nic);

  /// The same for a network's gateway: it answers DHCP, and where it `leads_out` it also passes on what comes from
  /// addresses beyond its subnet. Errors: invalid (address).
  Result<void> set_gateway(const std::string& device, const GatewayNetwork& network,
                           bool leads_out);

  /// A device that is not known counts as forgotten.
  Result<void> forget(const std::string& device);

  Result<void> remove_all();

 private:
  PortFilter(const std::string& prefix, Nftables nftables);
  std::string base_text() const;

  std::string prefix_;
  std::string table_;
  Nftables nftables_;
};

}  // namespace virga
