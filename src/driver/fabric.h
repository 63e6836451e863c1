#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/launch.h"
#include "model/network.h"
#include "model/security_group.h"

namespace virga {

/// What one host must know of the cluster's networks and members; sent by the server, replaced as a whole.
struct FabricState {
  std::uint64_t version = 0;  ///< the store's revision that it was made of
  std::vector<Network> networks;
  std::vector<std::string>
      peer_addresses;  ///< tunnel ends of the other hosts; read by agents of before alone
};
BOOST_DESCRIBE_STRUCT(FabricState, (), (version, networks, peer_addresses))

/// Where one port is.
struct PortPlace {
  std::uint32_t vni = 0;
  std::string mac;
  std::string address;       ///< the guest's IPv4, "10.50.0.10"
  std::string host_address;  ///< tunnel end of its host; empty = nowhere
  std::string floating{};    ///< IPv4 by which the outside reaches it; empty = it does not
};
BOOST_DESCRIBE_STRUCT(PortPlace, (), (vni, mac, address, host_address, floating))

/// Where the ports of a host's networks are; sent by the server, the whole of a network or what changed of it.
struct FabricPlaces {
  std::vector<std::uint32_t> whole;  ///< networks of which `at` names every port
  std::vector<PortPlace> at;
  bool more = false;  ///< the rest comes with the next message; nothing is done before
};
BOOST_DESCRIBE_STRUCT(FabricPlaces, (), (whole, at, more))

/// A port of this host and its security groups.
struct PortGroups {
  std::string port;  ///< PortId
  std::uint32_t vni = 0;
  std::string address;              ///< the guest's IPv4, "10.50.0.10"
  std::vector<std::string> groups;  ///< SecurityGroupIds; none = it is open
};
BOOST_DESCRIBE_STRUCT(PortGroups, (), (port, vni, address, groups))

/// What a group allows its ports on one network; `remote_group` of a rule is a SecurityGroupId.
struct GroupRules {
  std::uint32_t vni = 0;
  std::string group;
  std::vector<SecurityRule> rules;
};
BOOST_DESCRIBE_STRUCT(GroupRules, (), (vni, group, rules))

/// Addresses that a group has on one network; what several entries of one message say adds up.
struct GroupMembers {
  std::uint32_t vni = 0;
  std::string group;
  std::vector<std::string> addresses;
};
BOOST_DESCRIBE_STRUCT(GroupMembers, (), (vni, group, addresses))

/// What ports of a host may exchange with others; sent by the server, all of it or what changed.
struct FabricGroups {
  bool whole =
      false;  ///< `ports` names every port that may be here; nothing passes at others that have groups
  std::vector<PortGroups> ports;
  std::vector<GroupRules> rules;  ///< replaces what the group allowed there
  std::vector<GroupMembers> members;
  bool more = false;  ///< the rest comes with the next message; nothing is done before
};
BOOST_DESCRIBE_STRUCT(FabricGroups, (), (whole, ports, rules, members, more))

/// One host's end of a VM's port. Who is called with it owns the descriptor; -1 in the simulator.
struct OpenPort {
  int tap_descriptor = -1;
  std::string tap_name;
  bool packets =
      false;  ///< the descriptor is a packet socket on a cable of that name, one frame a message
};

/// The place on a tenant's network of a load balancer, or of who asks it.
struct BalancerLeg {
  std::uint32_t vni = 0;
  std::string mac;      ///< "52:54:00:..."
  std::string address;  ///< IPv4 with prefix length, "10.50.0.10/24"
  int mtu = 1450;       ///< bytes, the network's
  std::string gateway{};  ///< IPv4, the way to all that is not on the network; empty = there is none

  friend bool operator==(const BalancerLeg&, const BalancerLeg&) = default;
};
BOOST_DESCRIBE_STRUCT(BalancerLeg, (), (vni, mac, address, mtu, gateway))

/// A network that has a gateway, as a host must know it.
struct GatewayNetwork {
  std::uint32_t vni = 0;
  std::string address;  ///< the gateway's, IPv4 with prefix length: "10.50.0.1/24"
  std::string domain;   ///< what names of its VMs end in: "front.acme.virga"
  int mtu = 1450;       ///< bytes, the network's
  bool nat = false;     ///< it leads out

  friend bool operator==(const GatewayNetwork&, const GatewayNetwork&) = default;
};
BOOST_DESCRIBE_STRUCT(GatewayNetwork, (), (vni, address, domain, mtu, nat))

/// A VM's port on a network that has a gateway.
struct GatewayMember {
  std::uint32_t vni = 0;
  std::string port;     ///< PortId
  std::string mac;      ///< "52:54:00:..."
  std::string address;  ///< IPv4, "10.50.0.10"; empty = it is no member any more
  std::string name;     ///< the VM's, "web"

  friend bool operator==(const GatewayMember&, const GatewayMember&) = default;
};
BOOST_DESCRIBE_STRUCT(GatewayMember, (), (vni, port, mac, address, name))

/// The gateways that a host shall have; sent by the server, all of it or what changed.
struct FabricGateways {
  bool whole = false;  ///< `networks` names every gateway that shall be here
  std::vector<GatewayNetwork> networks;  ///< of these, `members` names every one
  std::vector<std::uint32_t> gone;       ///< networks that have no gateway here any more
  std::vector<GatewayMember> members;    ///< of other networks: what changed
  bool more = false;  ///< the rest comes with the next message; nothing is done before
};
BOOST_DESCRIBE_STRUCT(FabricGateways, (), (whole, networks, gone, members, more))

/// Networks of one host. Implementations: LinuxFabric (bridge + VXLAN + tap by rtnetlink), SimFabric.
///
/// Idempotent. Loop thread only; calls return at once and take effect in their order; `done` is called once, on the
/// loop, never before the call returned. A call takes some milliseconds, and as long as the kernel's lock on networks
/// is held by others (0.4 s seen while namespaces were removed). Errors: denied (lacks CAP_NET_ADMIN), exhausted (too
/// many calls wait), internal (the kernel's words).
class Fabric {
 public:
  virtual ~Fabric() = default;

  /// Makes the host's bridges and tunnels equal to `state`; removes those of networks that are gone. A version
  /// older than the one in force is ignored.
  virtual void apply(const FabricState& state, Callback<void> done) = 0;

  /// Version in force; 0 = none yet.
  virtual std::uint64_t version() const = 0;

  /// Leads frames to where their receivers are. Told again after a restart of the agent; known places of networks that
  /// are not here are kept until they are. Where this host leads outside, it answers there for the floating address of
  /// a port whose place it is, from the moment that the port and its network's gateway are here, as long as they are.
  virtual void place(const FabricPlaces& places, Callback<void> done) = 0;

  /// Lets ports exchange what their groups allow and nothing else, from now on. What was told before and is not named
  /// stays. Errors beside those of all calls: unavailable (the kernel cannot track connections on bridges); ports that
  /// have groups are closed then.
  virtual void guard(const FabricGroups& groups, Callback<void> done) = 0;

  /// Makes the tap of a port, joined to its network, and opens it. One that is `guarded` and new is closed to all
  /// traffic but DHCP with its gateway until guard() has named it.
  virtual void open_port(const LaunchNic& nic, Callback<OpenPort> done) = 0;

  /// Reads back from the kernel whether what keeps a port apart is in force: it is on the bridge of its network, whose
  /// only tunnel has that network's number and learns nothing; it may send as itself alone; where it has groups, they
  /// are asked. Errors beside those of all calls: conflict (says what is not so).
  virtual void inspect_port(const LaunchNic& nic, Callback<void> done) = 0;

  /// Removes the tap; a port that is not there counts as removed.
  virtual void close_port(const LaunchNic& nic, Callback<void> done) = 0;

  /// Gives a service's load balancer a network namespace of its own with one device, joined to the network as a
  /// guest's port is, so that it sends only as itself and is reached where place() leads to its MAC. One that is there
  /// is made what `leg` says. It outlives this object; the next one finds it again. Errors beside those of all calls:
  /// not_found (the network is not on this host), invalid (MAC, address).
  virtual void open_leg(const ServiceId& service, const BalancerLeg& leg, Callback<void> done) = 0;

  /// Path of its namespace, whether it is there or not; empty in the simulator.
  virtual std::string leg_namespace(const ServiceId& service) const = 0;

  /// Removes it, with the name of the namespace; a process that is still in there is cut off. A leg that is not there
  /// counts as removed.
  virtual void close_leg(const ServiceId& service, Callback<void> done) = 0;

  /// The same for somebody who only comes to ask, but nothing of it outlives the agent: the descriptor of the visitor's
  /// namespace, -1 in the simulator; the namespace goes when nobody holds it any more. Each call makes a new one and
  /// takes the device of the last. Errors as open_leg().
  virtual void visit(const std::string& visitor, const BalancerLeg& leg,
                     Callback<std::shared_ptr<const int>> done) = 0;

  /// Takes the visitor off its network; one that is not there counts as gone.
  virtual void leave(const std::string& visitor, Callback<void> done) = 0;

  /// Gives a network its gateway on this host: a namespace of its own, joined to the network with the gateway's
  /// address and a MAC that is the same on all hosts. Guests of this host reach it, and nobody elsewhere does. With
  /// `nat`, where this host leads outside at all, what guests send to addresses outside goes out behind the host's own
  /// address; they reach neither the host nor its networks nor another gateway that way. One that is there is made
  /// what `network` says. It outlives this object. Errors beside those of all calls: not_found (the network is not on
  /// this host), invalid (address), exhausted (too many lead outside).
  virtual void open_gateway(const GatewayNetwork& network, Callback<void> done) = 0;

  /// Path of its namespace, whether it is there or not; empty in the simulator.
  virtual std::string gateway_namespace(std::uint32_t vni) const = 0;

  /// Removes it as close_leg() does.
  virtual void close_gateway(std::uint32_t vni, Callback<void> done) = 0;
};

}  // namespace virga
