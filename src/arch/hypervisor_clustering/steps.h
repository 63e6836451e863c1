#pragma once

#include <boost/json.hpp>
#include <functional>
#include <string>
#include <vector>

#include "model/event.h"
#include "model/host.h"
#include "model/operation.h"
#include "model/vm.h"
#include "model/volume.h"
#include "runtime/cluster_view.h"
#include "runtime/host_commands.h"
#include "runtime/operation_runner.h"

/// What the step tables of this room share. All functions are pure but for the commit that a RecordContext carries.
namespace virga {

VmId vm_of(const Operation& operation);

/// The VM that the operation works on; nullptr when it is gone.
const Vm* subject_vm(const ClusterView& view, const Operation& operation);

/// True for a host that is proven unable to act, and for one that is not known any more.
bool is_fenced(const ClusterView& view, const HostId& host);

/// True when it is not known whether the command had its effect: ask again, or wait for a proof.
bool is_uncertain(const Error& error);

/// A copy that was ended through its agent, or that went with its fenced host.
LostCopy ended_copy(const ClusterView& view, const HostId& host);

Command command_for(CommandKind kind, const Operation& operation, const Epoch& epoch);

/// Ends one copy at once, without asking its guest.
Command forced_stop(const Operation& operation, const Epoch& epoch);

/// An upper bound, at a rate that any device has.
Duration copying_takes_at_most(const Volume& volume);

/// The mirrored volumes among a VM's disks that use more than one place.
std::vector<const Volume*> mirrored_volumes(const ClusterView& view, const Vm& vm);

/// Of the places that the volume uses `kept` alone counts from this commit on.
void keep_one_leg(Transaction& transaction, const Volume& volume, const DeviceId& kept);

/// A copy of the VM has ended otherwise than in order, and what was under way may stand in one place alone: of each
/// mirrored volume the first place that is served counts from this commit on. False when one of them has none: a place
/// of it is `chosen_later`, or else the first one counts.
bool keep_served_legs(Transaction& transaction, const ClusterView& view, const Vm& vm,
                      bool chosen_later = true);

/// Changes the subject VM in the commit; a VM that is gone or serves another operation is left alone.
void change_vm(const RecordContext& context, const std::function<void(VmStatus&)>& change);

/// An event about the subject with what the operation decided and measured; secrets stay out.
Event event_of(const RecordContext& context, std::string kind, std::string text);

/// Adds to the facts of an event why the older copies cannot act: "proof" of the last one, "earlier" of the others.
void tell_lost(boost::json::object& facts, const LostCopies& lost);

}  // namespace virga
