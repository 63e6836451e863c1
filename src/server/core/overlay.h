#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "driver/fabric.h"
#include "runtime/cluster_view.h"

namespace virga {

/// Knows where every port is and tells the hosts that carry its network: those where a VM with a port on it is placed
/// or is expected by a live move. All follows from the stored state: a port is where its VM's epoch in force was
/// placed; from the moment that a move is recorded as switching, while both copies are paused, at its destination. A
/// move that is taken back, or a restart after a failure, is one more change of the record. The frontend of a service
/// is where its balancer is placed, who asks it where its monitor is. Machines outside that a network names are where
/// it says. A floating address is where the port is that it leads to.
///
/// Loop thread only. Cost: O(ports of the VMs that changed + hosts that carry their networks).
class Overlay {
 public:
  /// Sends to a host; does nothing when it is not connected.
  using Tell = std::function<void(const HostId& host, const FabricPlaces& places)>;

  Overlay(const ClusterView& view, Tell tell) : view_(view), tell_(std::move(tell)) {}

  /// Reads the whole view. Tells nobody.
  void load();

  /// The view has taken these changes.
  void changed(const std::vector<Change>& changes);

  /// One of these leads a port that was on a host to another: guests that talk to it wait until hosts know.
  bool leads_elsewhere(const std::vector<Change>& changes) const;

  /// A host has (re)connected: it is told all that it carries, and that of other networks of its cluster nothing is
  /// known there.
  void connected(const HostId& host);

 private:
  struct OverlayPort {
    std::uint32_t vni = 0;
    std::string mac;
    std::string address;
    HostId at;           ///< empty = nowhere, or outside
    std::string tunnel;  ///< of a machine outside
    std::string floating{};

    friend bool operator==(const OverlayPort&, const OverlayPort&) = default;
  };
  /// A VM, or the frontend of a service.
  struct OverlaySubject {
    std::vector<OverlayPort> ports;
    std::set<HostId> carriers;

    friend bool operator==(const OverlaySubject&, const OverlaySubject&) = default;
  };
  struct OverlayNetwork {
    std::map<std::string, OverlayPort> ports;  ///< by MAC
    std::map<HostId, int> carriers;            ///< how many ports make each of them one
  };
  /// What is to be told of one network.
  struct News {
    std::map<std::string, OverlayPort> changed;  ///< by MAC
    std::set<HostId> begins;                     ///< hosts that carry it from now on
  };

  OverlaySubject look_at(const std::string& key) const;
  void look_at_vm(const VmId& id, OverlaySubject& seen) const;
  void look_at_service(const ServiceId& id, OverlaySubject& seen) const;
  void add_port(const Port& port, const HostId& at, OverlaySubject& seen) const;
  void enter_floating(const FloatingAddressId& id, std::set<std::string>& affected);
  void enter_outside(const Network& network, std::map<std::uint32_t, News>& news);
  void enter(const std::string& key, OverlaySubject now, std::map<std::uint32_t, News>& news);
  void tell(const std::map<std::uint32_t, News>& news) const;
  void add_all(std::uint32_t vni, FabricPlaces& places) const;
  PortPlace place_of(const OverlayPort& port) const;

  const ClusterView& view_;
  Tell tell_;
  std::map<std::string, OverlaySubject> subjects_;  ///< by their store key
  std::map<std::uint32_t, OverlayNetwork> networks_;
  std::map<std::uint32_t, std::vector<OverlayPort>> outside_;  ///< by VNI
  std::map<HostId, std::string> addresses_;                    ///< tunnel ends that were told
  std::map<FloatingAddressId, std::string> floating_;          ///< key of whom each leads to
};

}  // namespace virga
