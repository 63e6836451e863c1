#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "driver/fabric.h"
#include "driver/net/gateway.h"
#include "driver/net/group_filter.h"
#include "driver/net/netlink.h"
#include "driver/net/port_filter.h"
#include "driver/net/way_out.h"
#include "edge/worker.h"

namespace virga {

struct LinuxFabricOptions {
  std::string tenant_device;  ///< device that carries the tunnels; empty = as the routes say
  std::string local_address;  ///< this host's IPv4 address on it
  std::string name_prefix =
      "vg";  ///< 1..4 letters or digits; begins the names of all devices made here
  int network_namespace = -1;  ///< descriptor, must stay open; -1 = the caller's
  bool packet_ports =
      false;  ///< ports are cables with a packet socket, see open_packet_port(), instead of taps
  std::string
      space_prefix{};  ///< begins the names of namespaces in /run/netns; empty = `name_prefix`-
  WayOutOptions outside{};
};

/// Bridge + VXLAN + taps by rtnetlink: per network one bridge `<prefix>br<vni>` and one tunnel device
/// `<prefix>vx<vni>` (UDP 4789); per port one tap `<prefix>t<hash>`. The names tell what belongs here, so that what a
/// crash left over is found and put right. A tunnel neither floods nor learns: it leads to the ports that place() told
/// of, and the bridge answers for them when a guest asks who has their address.
/// The host itself has no address on the tenants' bridges. What a port may send is set before it joins (PortFilter);
/// what it exchanges with others when it has security groups (GroupFilter) needs the kernel's module br_netfilter,
/// which is switched on for the bridges of such ports alone.
/// A load balancer's leg is a cable `<prefix>l<hash>` into the namespace `<space_prefix>l<hash>`, filtered as a tap is.
/// A network's gateway has a cable `<prefix>g<vni>` into `<space_prefix>g<vni>`, see gateway.h and WayOut. New ways of
/// floating addresses are announced outside at once and, as that may be lost, twice again.
/// One thread of its own talks to the kernel.
///
/// open_port: the descriptor is -1 when another process holds the tap already (a VM that was adopted after a restart of
/// the agent); the tap is then only put right. A tap lives as long as a process holds it.
/// Errors of apply: the first one; the other networks are brought up all the same and version() stays.
class LinuxFabric final : public Fabric {
 public:
  /// Errors: invalid (address, prefix), not_found (tenant device), denied.
  static Result<std::unique_ptr<LinuxFabric>> open(Loop& loop, LinuxFabricOptions options);

  void apply(const FabricState& state, Callback<void> done) override;
  void place(const FabricPlaces& places, Callback<void> done) override;
  void guard(const FabricGroups& groups, Callback<void> done) override;
  std::uint64_t version() const override { return version_; }
  void open_port(const LaunchNic& nic, Callback<OpenPort> done) override;
  void inspect_port(const LaunchNic& nic, Callback<void> done) override;
  void close_port(const LaunchNic& nic, Callback<void> done) override;

  void open_leg(const ServiceId& service, const BalancerLeg& leg, Callback<void> done) override;
  std::string leg_namespace(const ServiceId& service) const override;
  void close_leg(const ServiceId& service, Callback<void> done) override;
  void visit(const std::string& visitor, const BalancerLeg& leg,
             Callback<std::shared_ptr<const int>> done) override;
  void leave(const std::string& visitor, Callback<void> done) override;
  void open_gateway(const GatewayNetwork& network, Callback<void> done) override;
  std::string gateway_namespace(std::uint32_t vni) const override;
  void close_gateway(std::uint32_t vni, Callback<void> done) override;

  /// Removes every device and namespace with these prefixes.
  void remove_all(Callback<void> done);

  std::string bridge_name(std::uint32_t vni) const;
  std::string tunnel_name(std::uint32_t vni) const;
  std::string tap_name(const std::string& port) const;
  std::string leg_name(const std::string& owner) const;
  std::string gateway_name(std::uint32_t vni) const;

 private:
  struct Link {
    int index = 0;
    std::string name;
    std::string kind;
    std::string mac;
    int master = 0;
    std::uint32_t mtu = 0;
    bool up = false;
    std::uint32_t vni = 0;          ///< of a tunnel
    std::uint32_t local = 0;        ///< of a tunnel, network byte order
    std::uint16_t port = 0;         ///< of a tunnel, network byte order
    std::uint32_t lower_index = 0;  ///< of a tunnel
    bool learns = false;            ///< of a tunnel
    bool tracked = false;           ///< of a bridge: IPv4 passes the kernel's IP hooks
  };
  struct Tunnel {
    int index = 0;
    int bridge = 0;  ///< that it is a port of
  };
  struct Place {
    std::string address;     ///< of the guest; network byte order, 4 bytes
    std::uint32_t host = 0;  ///< tunnel end, network byte order; 0 = nowhere
    std::uint32_t floating = 0;  ///< host byte order; 0 = none
  };
  using Places = std::map<std::string, Place>;  ///< by MAC, 6 bytes

  /// What leads from a tunnel to one port; the part that is not there is empty or 0.
  struct Entries {
    std::uint32_t host = 0;  ///< of the tunnel's own table
    bool bridged = false;    ///< in the bridge's
    std::set<std::string> addresses;
  };
  using Links = std::map<std::string, Link>;

  struct Filters {
    PortFilter ports;
    GroupFilter groups;
    WayOut way_out;
  };

  LinuxFabric(Loop& loop, LinuxFabricOptions options, NetlinkSocket socket, Filters filters,
              std::uint32_t local);

  // All below runs on the worker's thread.
  Result<void> make_equal_to(const FabricState& state);
  Result<void> take_places(const FabricPlaces& places);
  Result<void> take_groups(const FabricGroups& groups);
  Result<void> guard_new(const LaunchNic& nic, const std::string& tap);
  Result<void> ensure_tracking();
  Result<OpenPort> make_port(const LaunchNic& nic);
  Result<void> remove_port(const LaunchNic& nic);
  Result<void> inspect(const LaunchNic& nic);
  Result<void> make_leg(const ServiceId& service, const BalancerLeg& leg);
  using MakeSpace = std::function<Result<Descriptor>()>;
  Result<Descriptor> join_leg(const std::string& owner, const BalancerLeg& leg,
                              const MakeSpace& make_space);
  Result<std::shared_ptr<const int>> make_visit(const std::string& visitor, const BalancerLeg& leg);
  Result<void> remove_leg(const ServiceId& service);
  Result<void> remove_leg_device(const std::string& owner);
  Result<void> make_gateway(const GatewayNetwork& network);
  std::optional<FloatingGuests> wanted_floating(std::uint32_t vni) const;
  Result<void> ensure_floating(std::uint32_t vni);
  Result<void> lead_floating(std::uint32_t vni, const FloatingGuests& floating);
  Callback<void> then_announce(Callback<void> done);
  void announce_later();
  Result<void> remove_gateway(std::uint32_t vni);
  Result<void> remove_spaces() const;
  Result<void> remove_devices();
  static Link parse_link(std::string_view body);
  Result<Links> links();
  Result<Link> link(const std::string& name);
  bool is_ours(const std::string& name, std::string_view part) const;
  Result<void> remove_stale(const Links& present, const std::set<std::uint32_t>& wanted);
  Result<void> ensure_network(const Links& present, const NetworkSpec& spec);
  Result<int> ensure_bridge(const Links& present, const NetworkSpec& spec);
  Result<void> finish_link(const std::string& name, int mtu, int master);
  Result<void> ensure_tunnel(const Links& present, const NetworkSpec& spec, int bridge);
  Result<void> finish_tunnel(const std::string& name, int mtu, int bridge);
  Result<Descriptor> open_tap(const std::string& name) const;
  Result<Descriptor> open_packets(const std::string& name, int mtu);
  Result<void> adjust(const Link& now, std::uint32_t mtu, int master);
  Result<void> remove_link(const std::string& name);
  /// By device index of the tunnel, then by MAC.
  Result<std::map<int, std::map<std::string, Entries>>> present_entries();
  Result<void> ensure_places();
  Result<void> lead(const Tunnel& tunnel, const std::string& mac, const Entries& now,
                    const Place& to);
  Result<void> change_forward(int tunnel, const std::string& mac, std::uint32_t host, bool add);
  Result<void> change_bridge(int tunnel, const std::string& mac, bool add);
  Result<void> change_neighbour(int bridge, const std::string& mac, const std::string& address,
                                bool add);

  const LinuxFabricOptions options_;
  NetlinkSocket socket_;
  PortFilter filter_;
  GroupFilter groups_;
  WayOut way_out_;
  std::set<std::uint32_t>
      tracked_;                ///< networks whose bridges hand packets to GroupFilter's tables
  const std::uint32_t local_;  ///< network byte order
  std::map<std::uint32_t, Tunnel> tunnels_;  ///< by VNI
  std::map<std::uint32_t, Places> places_;   ///< by VNI
  std::map<std::uint32_t, std::set<std::string>>
      present_;  ///< by VNI: MACs of ports and balancers of this host
  std::map<ServiceId, BalancerLeg> legs_;
  struct Leading {
    GatewayNetwork network;
    std::optional<FloatingGuests> floating;  ///< that are in force; none = not known
  };
  std::map<std::uint32_t, Leading> leading_;  ///< by VNI: gateways that lead out
  std::atomic<int> announcements_ = 0;        ///< of floating addresses that are still to be made
  bool astray_ = false;  ///< the kernel did not take all of the places; the next call tries again
  std::atomic<std::uint64_t> version_ = 0;
  Timer announcing_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  Worker worker_;  ///< last: its end waits for the call that is under way
};

}  // namespace virga
