#pragma once

#include <memory>
#include <string>

#include "driver/hypervisor.h"
#include "driver/qemu/disk_legs.h"
#include "driver/qemu/mirror_record.h"
#include "driver/qemu/qmp_commands.h"
#include "driver/qemu/vm_context.h"
#include "driver/qemu/vm_files.h"
#include "edge/completion.h"

namespace virga {

/// One disk of a guest on its way to another volume. What it has come to is QEMU's knowledge alone: every call begins
/// with a look at it, so that another agent can go on.
///
///   copying -> ready -> guest paused -> disk on the target, both equal -> finish(): runs there
///      `---------`------------`------------------------------------------> go_back(): runs where it was
///
/// One that joins (a mirrored volume) ends its copy without a switch and goes on, after finish(), in both places.
/// A guest's pause lasts from "nothing but fresh writes is left" until finish() or go_back(): about 10 ms and what its
/// owner needs between. Loop thread only. Source: QEMU 7.2, qapi/block-core.json, qapi/job.json.
class DiskMirroring {
 public:
  DiskMirroring(VmContext& context, QmpClient& client, MirrorRecord record, LegNodes nodes);

  /// `keys`: see qmp::add_volume. A second caller replaces the first, who gets `cancelled`.
  void copy(std::shared_ptr<Descriptor> keys, const DiskMirror& limits,
            Callback<MigrationProgress> done);
  void finish(Callback<void> done);
  void go_back(Callback<void> done);

  /// QEMU's end, or the loss of its QMP connection: all who wait get `why`.
  void abandon(const Error& why);

  const MirrorRecord& record() const { return record_; }
  const MigrationProgress& progress() const { return progress_; }

 private:
  template <typename Then>
  auto while_alive(Then then) const {
    return [alive = std::weak_ptr<int>(alive_), then = std::move(then)](auto result) {
      if (!alive.expired()) then(result);
    };
  }

  void look(std::function<void(const qmp::MirrorState&)> then);
  void begin(const qmp::MirrorState& state);
  void follow();
  void looked(const qmp::MirrorState& state);
  void join();
  void settle();
  void fail(const Error& why);
  void take_back(Callback<void> done);
  void run_if_paused(Callback<void> done);

  /// The node that the disk uses in the end.
  const std::string& goal() const { return record_.joins ? nodes_.both : record_.target; }

  VmContext& context_;
  QmpClient& client_;
  const MirrorRecord record_;
  const LegNodes nodes_;  ///< of one that joins
  DiskMirror limits_;
  std::shared_ptr<Descriptor> keys_;
  MigrationProgress progress_;
  Instant moved_at_;
  bool paused_ = false;
  bool ending_ = false;  ///< a finish or a way back is under way
  bool joining_ = false;  ///< the disk is being put on both places
  Completion<MigrationProgress> copy_;
  Completion<void> end_;
  Timer poll_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
