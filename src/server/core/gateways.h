#pragma once

#include <functional>
#include <map>
#include <set>
#include <vector>

#include "driver/fabric.h"
#include "runtime/cluster_view.h"

namespace virga {

/// Knows which networks have a gateway, who their VMs are, and which hosts carry them: those where a VM of the network
/// is placed or expected by a live move, or the balancer of a service on it. Tells these hosts, ahead of the command
/// that starts the VM. All follows from the stored state. Members are all VMs of a network, wherever they are and
/// whether they run.
///
/// Loop thread only. Cost: O(ports of the VMs that changed * hosts that carry their networks); of a network that
/// changed, or that a host begins to carry, O(its ports).
class NetworkGateways {
 public:
  /// Sends to a host; does nothing when it is not connected.
  using Tell = std::function<void(const HostId& host, const FabricGateways& gateways)>;

  NetworkGateways(const ClusterView& view, Tell tell) : view_(view), tell_(std::move(tell)) {}

  /// Reads the whole view. Tells nobody.
  void load();

  /// The view has taken these changes.
  void changed(const std::vector<Change>& changes);

  /// A host has (re)connected: it is told all that it shall have; a cluster without networks has nothing.
  void connected(const HostId& host);

 private:
  struct KnownPort {
    NetworkId network;
    GatewayMember member;
    std::set<HostId> hosts;

    friend bool operator==(const KnownPort&, const KnownPort&) = default;
  };
  struct KnownNetwork {
    GatewayNetwork gateway;  ///< without an address when it has none
    std::set<PortId> ports;
    std::map<HostId, int> carriers;  ///< how many ports make each of them one
  };
  /// What is to be told of one network.
  struct News {
    bool whole = false;                       ///< the gateway itself has changed
    std::map<PortId, GatewayMember> members;  ///< that changed
    std::map<HostId, bool> carried;           ///< by hosts that may have begun or ended: before
  };
  using AllNews = std::map<NetworkId, News>;

  KnownPort look_at(const PortId& id) const;
  GatewayNetwork gateway_of(const NetworkId& id) const;
  void enter(const PortId& id, AllNews& news);
  void leave(const PortId& id, AllNews& news);
  void enter_network(const NetworkId& id, AllNews& news);
  void add_all(const KnownNetwork& network, FabricGateways& told) const;
  void tell(const AllNews& news);

  const ClusterView& view_;
  Tell tell_;
  std::map<PortId, KnownPort> ports_;
  std::map<NetworkId, KnownNetwork> networks_;
};

}  // namespace virga
