#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "arch/service_relocation/planner.h"
#include "mechanism/placement/placement.h"

/// Parts of the planner: what one service does next, and where things may go.
namespace virga {

inline constexpr const char* kServiceFrontend = "service";
inline constexpr const char* kServicePool = "copies";

/// The name of a copy's server in the pool: that of its VM without the tenant.
std::string server_name(const VmId& vm);

/// Where a plan puts balancers and copies; what it has given away counts.
class ServicePlaces {
 public:
  ServicePlaces(const ClusterView& view, const ClusterId& cluster, const ServiceEvidence& evidence);

  const BalancerHostEvidence& evidence_of(const HostId& host) const;

  /// A new balancer may begin there.
  bool may_balance(const Service& service, const HostId& host) const;
  /// The host with the fewest balancers, one that failed it lately only when nothing else is left, its monitor's as the
  /// last before those; empty = none.
  HostId choose_balancer(const Service& service, const HostId& other_than);

  /// Whether it can be asked from there.
  bool may_monitor(const Service& service, const HostId& host) const;

  /// Its agent knows how to ask this service.
  bool can_monitor(const Service& service, const HostId& host) const;
  /// The host with the fewest monitors, its balancer's only when there is no other, never `other_than`; empty = none.
  HostId choose_monitor(const Service& service, const HostId& balancer, const HostId& other_than);

  /// A host for a new copy that has none of this service's copies if possible. Errors: exhausted, with one reason a
  /// host.
  Result<HostId> choose_copy(const Service& service, const NewCopy& copy, const HostId& wanted,
                             const HostId& other_than);
  /// A host that can take the VM alive. Errors: exhausted, with one reason a host.
  Result<HostId> choose_move(const Vm& vm, const HostId& wanted);

 private:
  PlacementState& state();
  Result<HostId> choose(const PlacementQuery& query, const HostId& wanted, const HostId& excluded);

  const ClusterView& view_;
  const ClusterId& cluster_;
  const ServiceEvidence& evidence_;
  std::map<HostId, int> balancers_;
  std::map<HostId, int> monitors_;
  std::deque<Vm> promised_;  ///< copies of this plan; `state_` points at them
  std::optional<PlacementState> state_;
};

/// What the service does next; nothing = all is as it should be, or waits.
std::optional<ServiceStep> next_step(const ClusterView& view, const Service& service,
                                     const ServiceEvidence& evidence, const ServiceOptions& options,
                                     ServicePlaces& places);

}  // namespace virga
