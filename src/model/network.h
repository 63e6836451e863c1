#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/reflect.h"
#include "model/meta.h"

namespace virga {

/// A machine that is no VM and takes part in a network by a VXLAN tunnel end of its own: a router, bare metal.
struct OutsidePort {
  std::string mac;             ///< "02:00:00:..."; those of VMs begin with 52:54:00
  std::string address;         ///< IPv4 on the network, "10.50.0.250"; no VM gets it
  std::string tunnel_address;  ///< IPv4 of its tunnel end on the hosts' tenant network
};
BOOST_DESCRIBE_STRUCT(OutsidePort, (), (mac, address, tunnel_address))

/// What a network has at its subnet's first address, on each host that carries it.
enum class NetworkGateway {
  none,   ///< nothing
  local,  ///< addresses by DHCP and names by DNS for its VMs
  nat     ///< these, and a way out behind the addresses of the hosts
};
BOOST_DESCRIBE_ENUM(NetworkGateway, none, local, nat)

struct NetworkSpec {
  ClusterId cluster;
  std::uint32_t vni = 0;  ///< VXLAN network id, 1..2^24-1, unique in the cloud; 0 = the server picks
  std::string subnet;     ///< IPv4, "10.50.0.0/24"; addresses are handed out from .10 on
  int mtu = 1450;         ///< bytes, 1280..9000
  std::vector<OutsidePort> outside{};  ///< at most 64
  NetworkGateway gateway = NetworkGateway::none;
};
BOOST_DESCRIBE_STRUCT(NetworkSpec, (), (cluster, vni, subnet, mtu, outside, gateway))

/// A tenant's own layer-2 segment; two tenants may use the same addresses.
struct Network {
  Meta meta;
  NetworkSpec spec;

  NetworkId id() const { return NetworkId(qualified(meta.tenant, meta.name)); }

  /// What the names of its VMs end in: "front.acme.virga".
  std::string domain() const { return meta.name + "." + meta.tenant + ".virga"; }
};
BOOST_DESCRIBE_STRUCT(Network, (), (meta, spec))

struct PortSpec {
  VmId vm;
  NetworkId network;
  std::string mac;      ///< "52:54:00:..."
  std::string address;  ///< IPv4 with prefix length, "10.50.0.10/24"
  std::vector<SecurityGroupId> security_groups{};  ///< none = open within its network
  ServiceId service{};  ///< instead of `vm`: whose frontend it is
};
BOOST_DESCRIBE_STRUCT(PortSpec, (), (vm, network, mac, address, security_groups, service))

/// The place of a VM, or of a service's frontend, on a network. Lives apart from VM and host, so that it survives every
/// move.
struct Port {
  Meta meta;
  PortSpec spec;

  PortId id() const { return PortId(qualified(meta.tenant, meta.name)); }
};
BOOST_DESCRIBE_STRUCT(Port, (), (meta, spec))

// Read and written in one translation unit (model/json.cc): reflection is dear to compile.
extern template json::value to_json<Network>(const Network&);
extern template Result<Network> from_json<Network>(const json::value&, UnknownFields);
extern template json::value to_json<Port>(const Port&);
extern template Result<Port> from_json<Port>(const json::value&, UnknownFields);

}  // namespace virga
