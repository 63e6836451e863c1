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

/// It has an operation while it is fenced: it may be back, and its controller may still switch it off. Nothing that
/// runs is moved there; who places what does not run avoids it.
inline bool may_lose_power(const Host& host) { return !host.status.operation.empty(); }

/// Why a host cannot take a VM.
struct Refusal {
  HostId host;
  std::string reason;
};

/// For people: the first five, and how many more.
std::string text_of(const std::vector<Refusal>& refusals);

struct PlacementQuery {
  const Vm* vm = nullptr;
  bool live = false;  ///< a running guest moves: same processor, no older QEMU, not where it is
  std::set<HostId> avoid;  ///< failed it lately, or may lose power; used when nothing else is left
  std::set<HostId> prefer{};  ///< used before all others, the one with the most room first
};

/// How the hosts of one cluster are filled: the one definition of "free". Moves in flight count at both ends, starts
/// in flight at their destination. Built from a view in O(the cluster's hosts + VMs), then changed step by step while
/// a plan grows, so that the plan's own actions count as done. Pure; deterministic (ties by id). Points into the view.
class PlacementState {
 public:
  PlacementState(const ClusterView& view, const ClusterId& cluster);

  /// Capacity left on a host; nothing for a host that is not a member.
  Capacity free_on(const HostId& host) const;

  /// The host with the most room left, in proportion, that can take the VM, or none. Hosts are tried in that order:
  /// O(1) while there is room, O(hosts) at worst.
  std::optional<HostId> choose(const PlacementQuery& query) const;

  /// One reason per member that cannot take the VM; empty entries are left out.
  std::vector<Refusal> explain(const PlacementQuery& query) const;

  /// True when one member could take all that the lost ones carry. Then any order of placing absorbs the loss: each VM
  /// finds room there at the latest. False says nothing. O(hosts + VMs of the lost).
  bool one_takes_all_of(const std::vector<HostId>& lost) const;

  /// False when the VM was counted there before (was not counted there): nothing has changed.
  bool add(const Vm& vm, const HostId& host);
  bool remove(const Vm& vm, const HostId& host);

  /// Counts more as used there than its VMs are promised: what a copy still has although it is to have less.
  void charge(const HostId& host, const Capacity& more);

  /// Takes a host out of consideration (it is lost, or will be), and back.
  void exclude(const HostId& host, bool excluded = true);

  /// The VMs counted on a host, in order of tenant and name.
  std::vector<const Vm*> carried_by(const HostId& host) const;

  std::vector<HostId> members() const;

  /// How many members are alive, in maintenance or not.
  int alive() const;

 private:
  struct Member {
    const Host* host = nullptr;
    Capacity total;
    Capacity used;
    std::vector<const Vm*> vms;                               ///< in order of tenant and name
    std::map<std::pair<std::string, std::string>, int> groups;  ///< (tenant, word) -> how many
    bool excluded = false;
  };

  const Member* find(const HostId& host) const;
  Member* find(const HostId& host);
  std::int64_t room(const Member& member) const;
  void use(Member& member, const Capacity& more);
  static Capacity free_on(const Member& member);
  static bool carries(const Member& member, const Vm& vm);
  bool takes(const Member& member, const PlacementQuery& query) const;
  std::string refusal(const Member& member, const PlacementQuery& query) const;
  std::string compatibility_refusal(const Member& member, const PlacementQuery& query) const;

  const ClusterView* view_;
  std::vector<Member> members_;                              ///< in order of id
  std::set<std::pair<std::int64_t, std::size_t>> by_room_;  ///< (less room, index): the most room first
  std::string tenant_;
};

/// What the loss of a set of hosts would mean.
struct LossPlan {
  std::vector<HostId> lost;
  std::vector<std::pair<VmId, HostId>> restarts;                ///< VM -> host, in order of restart
  std::vector<std::pair<VmId, std::vector<Refusal>>> stranded;  ///< cannot be restarted, and why
  std::vector<VmId> pinned;  ///< may run nowhere else: they wait for their host, no room would help them
};

/// Where each VM of the lost hosts would restart: by priority, then by size. VMs with priority `none` are left out.
/// The state is as before when it returns. O(VMs of the lost) while there is room.
LossPlan plan_loss(PlacementState& state, const std::vector<HostId>& lost);

/// The failure reserve: the first loss of as many members as `tolerated` (never of all that are alive) that strands a
/// VM with `after` which it would not strand with `before`, and only such VMs; nothing = what was absorbed still is.
/// For one host every loss is tried; for more, combinations up to 2,000, largest load first.
std::optional<LossPlan> broken_reserve(const PlacementState& before, const PlacementState& after,
                                       int tolerated);

/// Why a VM may not have the processor quota of `after` where it is (at both ends of a move): too little is free there,
/// or the cluster's failure reserve would be broken. Empty = it may; less than `before` always may, and a VM that is
/// nowhere is judged when it is placed.
std::vector<Refusal> refuse_quota(const ClusterView& view, const Vm& before, const Vm& after);

/// Order of restart after a failure: priority, then memory (large first), then id.
bool restarts_before(const Vm& left, const Vm& right);

}  // namespace virga
