#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "mechanism/storage/vm_volumes.h"
#include "model/launch.h"
#include "runtime/cluster_view.h"
#include "runtime/host_commands.h"

namespace virga {

/// Lets copies of VMs in to their volumes, in all places that those use, and ends that. All are asked at the same
/// time; `done` runs once, when all have answered. Errors: those of volumes_of() and of BlockStore, naming the volume;
/// unavailable and timeout say that the effect is not known. Every call is idempotent and needs, until its end, the
/// commands alone, not
/// this object. Loop thread only.
class Attachments {
 public:
  using Endpoints = std::vector<std::pair<VolumeId, VolumeEndpoint>>;  ///< in the order of volumes_of()

  explicit Attachments(HostCommands& commands) : commands_(commands) {}

  /// Lets `epoch` in, alone: older epochs are over for ever first.
  void attach(const ClusterView& view, const Vm& vm, const Epoch& epoch, Callback<Endpoints> done);

  /// Lets `epoch` in, alone, to the place where a volume shall move to.
  void attach_at(const ServedVolume& place, const Vm& vm, const Epoch& epoch,
                 Callback<VolumeEndpoint> done);

  /// Lets `epoch` in beside the one that a live move leaves.
  void attach_beside(const ClusterView& view, const Vm& vm, const Epoch& epoch, const Epoch& beside,
                     Callback<Endpoints> done);

  /// All up to `epoch` are over for ever: when it succeeds, nothing that one of them writes is acknowledged any more.
  /// Of a mirrored volume the word of one place is enough for that: those that have given it are answered.
  void revoke(const ClusterView& view, const Vm& vm, const Epoch& epoch,
              Callback<std::vector<ServedVolume>> done);

  /// `epoch` alone is over for ever.
  void detach(const ClusterView& view, const Vm& vm, const Epoch& epoch, Callback<void> done);

 private:
  using Words = std::vector<std::pair<ServedVolume, Result<void>>>;

  void attach_one(const ServedVolume& one, Command attach, bool alone,
                  Callback<CommandResult> done);
  void ask_all(const ClusterView& view, const Vm& vm, CommandKind kind, const Epoch& epoch,
               Callback<Words> done);

  HostCommands& commands_;
};

/// Puts what lets a copy in into its launch. Errors: internal (a volume without).
Result<void> add_endpoints(VmLaunch& launch, const Attachments::Endpoints& endpoints);

}  // namespace virga
