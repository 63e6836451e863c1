#pragma once

#include "arch/hypervisor_clustering/types.h"
#include "runtime/cluster_view.h"

namespace virga {

/// Decides for one cluster: which hosts are believed dead and may be taken as fenced, which VMs start, move or stop,
/// and where. The contract of every planner (ARCHITECTURE.md):
///  1. reads only its arguments; the same input gives the same plan on every compiler (order by id);
///  2. at most one action per subject (a word about what waits is none);
///  3. actions in flight count as done;
///  4. fixpoint: plan, execute, plan again gives nothing;
///  5. bounded: at most options.actions_max of each kind a round;
///  6. every action has a reason, every refusal names the constraint per candidate;
///  7. no clock, no randomness: evidence carries spans of time that the caller measured;
///  8. no intermediate state breaks a hard constraint: moving VMs count on both ends.
///
/// Safety, which no option switches off: a VM starts only where its last copy is proven unable to act (StartVm.lost),
/// with an epoch above every one it ever had. Cost: O(hosts + VMs + actions * hosts).
ClusterPlan plan_cluster(const ClusterView& view, const ClusterId& cluster,
                         const ClusterEvidence& evidence, const ClusterOptions& options);

/// What one host's condition is believed to be now, and why. Part of plan_cluster; also shown by the API.
/// `most_are_silent`: more than half of the members, and at least two, do not report. `has_bmc`: something can be asked
/// for its power.
HostChange judge_host(const Host& host, const HostEvidence& evidence, const ClusterPolicy& policy,
                      bool most_are_silent, bool has_bmc);

/// Whether a management controller is registered with its machine.
bool has_bmc(const ClusterView& view, const Host& host);

/// In maintenance, and nothing needs it any more: its silence is no failure. It may be off, or be taken away.
bool is_let_go(const ClusterView& view, const Host& host, const HostEvidence& evidence);

/// Whether nothing but a new start cures its guest.
bool wants_restart(const Vm& vm);

/// What its owner or the state of its host asks of a VM; empty = nothing.
std::string called_for(const Vm& vm, const Host* host, bool armed);

/// The epoch of a VM's next placement: above all it ever had, also under an earlier VM of the same name.
Epoch next_epoch(const ClusterView& view, const Vm& vm);

}  // namespace virga
