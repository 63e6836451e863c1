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

/// What the places of a VM's volumes have answered to a copy that wants in.
struct VolumeAdmission {
  std::vector<std::pair<VolumeId, VolumeEndpoint>> endpoints;  ///< in the order of volumes_of()
  std::vector<ServedVolume>
      refused;  ///< those that did not let it in; whether they will is not known
  Error why;    ///< of the first of these
};

/// Lets copies of VMs in to their volumes, in all places that those use, and ends that. All are asked at the same
/// time; `done` runs once, when all have answered. Errors: those of volumes_of() and of BlockStore, naming the volume;
/// unavailable and timeout say that the effect is not known. Every call is idempotent and needs, until its end, the
/// commands alone, not this object. Loop thread only.
class Attachments {
 public:
  explicit Attachments(HostCommands& commands) : commands_(commands) {}

  /// Lets `epoch` in, alone: older epochs are over for ever first. A place that refuses is no error of the call.
  void attach(const ClusterView& view, const Vm& vm, const Epoch& epoch,
              Callback<VolumeAdmission> done);

  /// Lets `epoch` in, alone, to the place where a volume shall move to.
  void attach_at(const ServedVolume& place, const Vm& vm, const Epoch& epoch,
                 Callback<VolumeEndpoint> done);

  /// Lets `epoch` in beside the one that a live move leaves.
  void attach_beside(const ClusterView& view, const Vm& vm, const Epoch& epoch, const Epoch& beside,
                     Callback<VolumeAdmission> done);

  /// All up to `epoch` are over for ever: when it succeeds, nothing that one of them writes is acknowledged any more.
  /// Of a mirrored volume the word of one place is enough for that, and no other is waited for: `done` learns who has
  /// given it.
  void revoke(const ClusterView& view, const Vm& vm, const Epoch& epoch,
              Callback<std::vector<ServedVolume>> done);

  /// `epoch` alone is over for ever.
  void detach(const ClusterView& view, const Vm& vm, const Epoch& epoch, Callback<void> done);

 private:
  using Words = std::vector<std::pair<ServedVolume, Result<void>>>;

  void attach_one(const ServedVolume& one, Command attach, bool alone,
                  Callback<CommandResult> done);
  struct Question {
    CommandKind kind;
    Epoch epoch;
    std::function<bool(const Words&)> enough{};  ///< none = all are waited for
  };
  void ask_all(const ClusterView& view, const Vm& vm, const Question& question,
               Callback<Words> done);

  HostCommands& commands_;
};

/// Puts what lets a copy in into its launch. Errors: that of a place which refused; internal (a volume without).
Result<void> add_endpoints(VmLaunch& launch, const VolumeAdmission& admission);

}  // namespace virga
