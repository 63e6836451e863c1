#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "runtime/cluster_view.h"

namespace virga {

/// What one VM takes from a host: its memory with the hypervisor's own part, its processor quota.
Capacity demand_of(const Vm& vm);

/// Why a host cannot take a VM.
struct Refusal {
  HostId host;
  std::string reason;
};

struct PlacementQuery {
  const Vm* vm = nullptr;
  bool live = false;  ///< a running guest moves: same processor, no older QEMU, not where it is
  std::set<HostId> avoid;  ///< hosts that failed it lately; used only when nothing else is left
};

/// How the hosts of one cluster are filled: the one definition of "free". Moves in flight count at both ends, starts
/// in flight at their destination. Built from a view in O(the cluster's hosts + VMs), then changed step by step while
/// a plan grows, so that the plan's own actions count as done. Pure; deterministic (ties by id).
class PlacementState {
 public:
  PlacementState(const ClusterView& view, const ClusterId& cluster);

  /// Capacity left on a host; nothing for a host that is not a member.
  Capacity free_on(const HostId& host) const;

  /// The host with the most room left after taking the VM, or none. O(hosts).
  std::optional<HostId> choose(const PlacementQuery& query) const;

  /// One reason per member that cannot take the VM; empty entries are left out.
  std::vector<Refusal> explain(const PlacementQuery& query) const;

  /// True when one member could take all that the lost ones carry. Then any order of placing absorbs the loss: each VM
  /// finds room there at the latest. False says nothing. O(hosts + VMs of the lost).
  bool one_takes_all_of(const std::vector<HostId>& lost) const;

  void add(const Vm& vm, const HostId& host);
  void remove(const Vm& vm, const HostId& host);

  /// Counts more as used there than its VMs are promised: what a copy still has although it is to have less.
  void charge(const HostId& host, const Capacity& more);

  /// Takes a host out of consideration (it is lost, or will be).
  void exclude(const HostId& host);

  /// The VMs counted on a host, in order of id.
  std::vector<const Vm*> carried_by(const HostId& host) const;

  std::vector<HostId> members() const;

  /// How many members are alive, in maintenance or not.
  int alive() const;

 private:
  struct Member {
    const Host* host = nullptr;
    Capacity total;
    Capacity used;
    std::map<VmId, const Vm*> vms;
    std::map<std::pair<std::string, std::string>, int> groups;  ///< (tenant, word) -> how many
    bool excluded = false;
  };

  static Capacity free_on(const Member& member);
  std::string refusal(const Member& member, const PlacementQuery& query) const;
  std::string compatibility_refusal(const Member& member, const PlacementQuery& query) const;

  std::map<HostId, Member> members_;
  std::string tenant_;
};

/// What the loss of a set of hosts would mean.
struct LossPlan {
  std::vector<HostId> lost;
  std::vector<std::pair<VmId, HostId>> restarts;                ///< VM -> host, in order of restart
  std::vector<std::pair<VmId, std::vector<Refusal>>> stranded;  ///< cannot be restarted, and why
};

/// Where each VM of the lost hosts would restart: by priority, then by size. VMs with priority `none` are left out.
LossPlan plan_loss(const PlacementState& before, const std::vector<HostId>& lost);

/// The losses of `count` members that strand a VM, the first `limit` found; empty = all can be absorbed. For one
/// host every loss is tried; for more, combinations up to 2,000, largest load first.
std::vector<LossPlan> unabsorbed_losses(const PlacementState& state, int count, std::size_t limit);

/// The failure reserve: the first loss of as many members as `tolerated` (never of all that are alive) that strands a
/// VM; nothing = every such loss is absorbed.
std::optional<LossPlan> broken_reserve(const PlacementState& state, int tolerated);

/// Why a VM may not grow from `before` to `after` where it is (at both ends of a move): too little is free there, or
/// the cluster's failure reserve would be broken. Empty = it may; a VM that is nowhere is judged when it is placed.
std::vector<Refusal> refuse_growth(const ClusterView& view, const Vm& before, const Vm& after);

/// Order of restart after a failure: priority, then memory (large first), then id.
bool restarts_before(const Vm& left, const Vm& right);

}  // namespace virga
