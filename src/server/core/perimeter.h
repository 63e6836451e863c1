#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "driver/fabric.h"
#include "runtime/cluster_view.h"

namespace virga {

/// Knows which security groups every port has, what they allow and who their members are, and tells the hosts where
/// the ports are: where their VM is placed or expected by a live move. All follows from the stored state. A host is
/// told of a port with the change that places its VM there, ahead of the command that starts it.
///
/// Loop thread only. Cost: O(ports of the VMs that changed); of a changed group O(its ports), of a changed membership
/// O(the tenants' groups + ports of those that name the group).
class Perimeter {
 public:
  /// Sends to a host; does nothing when it is not connected.
  using Tell = std::function<void(const HostId& host, const FabricGroups& groups)>;

  Perimeter(const ClusterView& view, Tell tell) : view_(view), tell_(std::move(tell)) {}

  /// Reads the whole view. Tells nobody.
  void load();

  /// The view has taken these changes.
  void changed(const std::vector<Change>& changes);

  /// A host has (re)connected: it is told of all ports that may be there; a cluster without networks has none.
  void connected(const HostId& host);

 private:
  struct KnownPort {
    VmId vm;
    std::uint32_t vni = 0;
    std::string address;
    std::vector<SecurityGroupId> groups;
    std::set<HostId> hosts;

    friend bool operator==(const KnownPort&, const KnownPort&) = default;
  };
  /// A group on one network.
  using Part = std::pair<std::uint32_t, SecurityGroupId>;
  struct News {
    std::set<PortId> ports;
    std::set<Part> rules;
    std::set<Part> members;
  };

  KnownPort look_at(const PortId& id) const;
  void enter(const PortId& id, std::map<HostId, News>& news, std::set<Part>& memberships);
  void enter_members(const std::set<Part>& memberships, std::map<HostId, News>& news) const;
  FabricGroups message_of(News news) const;

  const ClusterView& view_;
  Tell tell_;
  std::map<PortId, KnownPort> ports_;  ///< those that have groups
  std::map<SecurityGroupId, std::set<PortId>> members_;
};

}  // namespace virga
