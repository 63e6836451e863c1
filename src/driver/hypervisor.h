#pragma once

#include <boost/describe.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "model/launch.h"
#include "model/observed_vm.h"
#include "model/usage.h"

namespace virga {

/// Where the destination of a live migration listens. `secret` admits exactly one connection and is sent as it is; with
/// `key`, which never is, both ends encrypt all else and know each other. Of a simulated host it is empty.
struct MigrationEndpoint {
  std::string address;
  std::uint16_t port = 0;
  std::string secret;
  std::string key{};
};
BOOST_DESCRIBE_STRUCT(MigrationEndpoint, (), (address, port, secret, key))

struct MigrationLimits {
  Duration downtime_ms_max = milliseconds(300);
  Duration stall_ms_max = seconds(5);  ///< no byte moved for so long = failed
  Duration total_ms_max = seconds(300);
  std::int64_t bytes_per_second_max = 1 << 30;
  /// A guest that writes faster than it is sent loses up to so much of its processors' time until the send ends: 20 to
  /// 99, less counts as 20; 0 = none.
  int throttle_percent_max = 80;
};
BOOST_DESCRIBE_STRUCT(MigrationLimits, (),
                      (downtime_ms_max, stall_ms_max, total_ms_max, bytes_per_second_max,
                       throttle_percent_max))

struct MigrationProgress {
  Bytes transferred_bytes;
  Bytes remaining_bytes;
  int passes = 0;
  Duration downtime_ms{0};   ///< from the guest's pause to the hand-over; known at the end
  bool handed_over = false;  ///< by this very call: nobody could let the other copy run before it
  int throttle_percent = 0;  ///< the most that was taken of the guest's time; see MigrationLimits
};
BOOST_DESCRIBE_STRUCT(MigrationProgress, (),
                      (transferred_bytes, remaining_bytes, passes, downtime_ms, handed_over,
                       throttle_percent))

/// How much of what is known to be sent has been, 0 to 100. It falls when the guest writes faster than it is sent.
inline int percent_of(const MigrationProgress& progress) {
  const std::int64_t sent = progress.transferred_bytes.value;
  const std::int64_t all = sent + progress.remaining_bytes.value;
  const double part = all <= 0 ? 0 : static_cast<double>(sent) / static_cast<double>(all);
  return static_cast<int>(part * 100);
}

/// A disk of a running VM, and where it shall go on: there, or (`joins`, of a mirrored volume) there as well.
struct DiskMirror {
  std::string volume;  ///< VolumeId: which disk
  VolumeEndpoint to;   ///< lets the VM's epoch in, there. Secret
  bool joins = false;
  std::int64_t bytes_per_second_max = 100 << 20;
  Duration stall_ms_max = seconds(5);  ///< nothing copied for so long = failed
  Duration total_ms_max = seconds(3600);
};
BOOST_DESCRIBE_STRUCT(DiskMirror, (),
                      (volume, to, joins, bytes_per_second_max, stall_ms_max, total_ms_max))

struct StopOptions {
  bool force = false;  ///< true: kill at once; false: ask the guest, kill at the deadline
  Duration deadline_ms = seconds(30);
};
BOOST_DESCRIBE_STRUCT(StopOptions, (), (force, deadline_ms))

/// Told on the Loop whenever what observe() says about a VM changed in more than its figures.
class HypervisorSink {
 public:
  virtual ~HypervisorSink() = default;
  virtual void vm_changed(const ObservedVm& now, const std::string& why) = 0;
};

/// The hypervisor of one host. Implementations: QemuHypervisor, SimHypervisor; one contract suite runs on both.
///
/// Every call is idempotent by (vm, epoch): repeated, it succeeds without a second effect. An epoch older than one
/// seen for that VM is refused with `fenced`. All calls and completions happen on the Loop; every completion comes
/// within its stated deadline, with `timeout` at the latest. Nothing here is retried and nothing here decides.
class Hypervisor {
 public:
  virtual ~Hypervisor() = default;

  /// Finds out what this host can do and adopts VMs that run from before this process began. Once, first.
  /// Deadline 30 s.
  virtual void open(HypervisorSink& sink, Callback<HypervisorInfo> done) = 0;

  /// Creates missing disks, starts the VM and completes when its processors run. Deadline 20 s. An image whose first
  /// check takes longer ends it with timeout; the check goes on, and a start after it finds it done.
  /// Errors: fenced; conflict (a disk is locked by another running copy: says where it was seen); exhausted (no
  /// memory, no disk space); invalid (image is not there or broken).
  virtual void start(const VmLaunch& launch, Callback<void> done) = 0;

  /// Ends the VM; completes when no process of it is left. A VM that is not there counts as stopped.
  virtual void stop(const VmId& vm, const Epoch& epoch, const StopOptions& options,
                    Callback<void> done) = 0;

  /// Gives a running VM the processor quota, weight and number of processes of `launch`; all else in it stays as it was
  /// started. At once.
  /// Errors: not_found, fenced, conflict (it is being started or is ending: ask again), invalid (a limit).
  virtual Result<void> change_limits(const VmLaunch& launch) = 0;

  /// Removes the disks and the folder of a VM that runs nowhere; what is not there counts as removed. Deadline 20 s.
  virtual void erase(const VmLaunch& launch, Callback<void> done) = 0;

  /// Destination, step 1: the VM's second copy, stopped, ready to receive one connection. Deadline 20 s.
  virtual void prepare_incoming(const VmLaunch& launch, Callback<MigrationEndpoint> done) = 0;

  /// Source, step 2: sends memory while the guest runs; completes when all but the last bit is over and the guest
  /// is paused at the switch-over point. On error the guest runs on here. Deadline limits.total_ms_max.
  virtual void send(const VmId& vm, const Epoch& epoch, const MigrationEndpoint& to,
                    const MigrationLimits& limits, Callback<MigrationProgress> done) = 0;

  /// Source, step 3: hands over. Success: this copy will not run again by itself (`postmigrate`), also when it was
  /// handed over before; `handed_over` tells which. Errors: unavailable (it is being handed over by an earlier call or
  /// an earlier agent: ask again); any other: the guest runs on here and the other side has never run.
  /// Deadline 10 s; a peer that hangs is cut off before that.
  virtual void switch_over(const VmId& vm, const Epoch& epoch,
                           Callback<MigrationProgress> done) = 0;

  /// Destination, step 4: waits for the last of the state, runs the guest and announces its address. Deadline 10 s.
  virtual void resume(const VmId& vm, const Epoch& epoch, Callback<void> done) = 0;

  /// Source: ends a send that has not switched over; the guest runs on here. Also runs a `postmigrate` copy again
  /// (the destination is proven never to have run). Nothing to cancel counts as success. Deadline 10 s.
  virtual void cancel_send(const VmId& vm, const Epoch& epoch, Callback<void> done) = 0;

  /// Shows a running guest the size that a volume of it has now. Deadline 20 s.
  /// Errors: those of mirror_disk().
  virtual void grow_disk(const VmId& vm, const Epoch& epoch, const std::string& volume,
                         Callback<void> done) = 0;

  /// The guest goes on with `device` alone of the places that its mirrored volume has; it runs again if what failed
  /// had paused it. Where it does so already it counts as done. Deadline 20 s.
  /// Errors: not_found (no such disk, or it does not write there), conflict (it is being moved), unavailable.
  virtual void keep_leg(const VmId& vm, const Epoch& epoch, const std::string& volume,
                        const DeviceId& device, Callback<void> done) = 0;

  /// Copies a disk that is a volume to its new place while the guest uses it; completes when both are equal and the
  /// guest is paused on the new one, or on both (`joins`): so it stays until switch_disk() or cancel_mirror() says who
  /// holds the data from then on. On error the guest runs on where the disk was. An agent that comes later goes on
  /// with the copy that it finds. Deadline `total_ms_max` + 10 s.
  /// Errors: conflict (it does not run, is being moved, or another mirror is not over), not_found (no such disk).
  virtual void mirror_disk(const VmId& vm, const Epoch& epoch, const DiskMirror& mirror,
                           Callback<MigrationProgress> done) = 0;

  /// The guest runs on the new place and the old one is let go, or on both. What is not mirrored counts as switched.
  /// Deadline 10 s.
  /// Errors: conflict (the copy is not complete), unavailable.
  virtual void switch_disk(const VmId& vm, const Epoch& epoch, const std::string& volume,
                           Callback<void> done) = 0;

  /// The guest runs on where the disk was. What is not mirrored counts as cancelled. Deadline 10 s.
  virtual void cancel_mirror(const VmId& vm, const Epoch& epoch, const std::string& volume,
                             Callback<void> done) = 0;

  /// What is logged about the VM from now on belongs to this request, down to its hypervisor's commands. A VM that is
  /// not here is no error: its start carries the request in its launch.
  virtual void attribute(const VmId&, const std::string& /*correlation*/) {}

  /// How far a running send or mirror is; zeroes when there is none.
  virtual MigrationProgress progress(const VmId& vm) const = 0;

  /// All copies on this host, running or not, in order of id. Cheap: what is known, no question is asked.
  virtual std::vector<ObservedVm> observe() const = 0;

  /// What each copy has used since it began, as last measured; with those that have ended until they are forgotten, of
  /// these the newest kEndedUsagesMax. Cheap as observe(). A hypervisor that measures nothing tells of none.
  virtual std::vector<VmUsage> usage() const { return {}; }
  virtual void forget_usage(const VmId&, const Epoch&) {}
  static constexpr std::size_t kEndedUsagesMax = 1024;

  /// The last `bytes_max` of the VM's console.
  virtual Result<std::string> console_tail(const VmId& vm, std::size_t bytes_max) const = 0;
};

}  // namespace virga
