#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "arch/hypervisor_clustering/planner.h"
#include "base/loop.h"
#include "runtime/host_commands.h"
#include "runtime/store_mirror.h"
#include "runtime/transaction.h"
#include "runtime/work_queue.h"

namespace virga {

/// The loop of this room: observe (evidence), decide (plan_cluster), act (operations in the store), record (events in
/// the same commits). Level-triggered, one round per cluster at a time (WorkQueue). Loop thread only.
class ClusterController {
 public:
  /// The evidence about one cluster at this moment; this controller adds what it knows of failed tries.
  using Observe = std::function<ClusterEvidence(const ClusterId& cluster)>;

  struct Options {
    ClusterOptions planner;
    Duration start_retry_first =
        seconds(1);  ///< after a failed start; doubles up to start_retry_max
    Duration start_retry_max = seconds(30);
    Duration growth_retry = seconds(2);  ///< a grown volume is shown to its guest again after that
    Duration settle_retry = seconds(1);  ///< a disk is told again after that where it goes on
    Duration move_retry = seconds(30);
    Duration fence_retry = seconds(5);
    Duration operation_deadline = seconds(600);
    Duration store_full_pause =
        milliseconds(250);  ///< until the next round when the store was full
  };

  ClusterController(Loop& loop, Store& store, StoreMirror& mirror, HostCommands& commands,
                    NameSource& names);

  void start(Observe observe) { start(std::move(observe), Options()); }
  void start(Observe observe, Options options);

  /// Something about this cluster changed: decide again soon.
  void mark(const ClusterId& cluster) { queue_.mark(cluster.value); }

  /// Rounds that were planned since the start.
  std::uint64_t rounds() const { return queue_.rounds(); }

 private:
  struct Retry {
    int failures = 0;
    std::map<OperationKind, Instant> not_before;
    std::set<HostId> hosts;
  };

  void notice(const std::vector<Change>& changes);
  void notice_ended(const Operation& operation);
  void run(const ClusterId& cluster);
  ClusterEvidence gather(const ClusterId& cluster) const;
  void execute(const ClusterId& cluster, const ClusterPlan& plan);
  void change_hosts(const ClusterId& cluster, const std::vector<HostChange>& changes);

  bool change_host(Transaction& transaction, const HostChange& change);
  bool begin_vm_fence(Transaction& transaction, const FenceVm& fence);
  bool begin_fence(Transaction& transaction, const FenceHost& fence);
  bool observe_vm(Transaction& transaction, const ObserveVm& seen);
  bool begin_start(Transaction& transaction, const StartVm& start);
  bool begin_move(Transaction& transaction, const MoveVm& move);
  std::string who_asked_for(const MoveVm& move, const Vm& vm) const;
  void guard_regions(Transaction& transaction, const Vm& vm) const;
  bool begin_disk_move(Transaction& transaction, const MoveDisk& move);
  bool begin_stop(Transaction& transaction, const StopVm& stop);
  bool leave_unplaced(Transaction& transaction, const Unplaced& unplaced);
  void revoke(const RevokeCopy& copy);
  void limit(const LimitVm& change);
  void grow(const GrowDisk& growth);
  void settle(const SettleDisk& settlement);
  bool call_off(Transaction& transaction, const CallOff& called_off);
  void rest(const VmId& id, OperationKind kind, Duration wait);
  void supersede(Transaction& transaction, const OperationId& id);
  Operation make_operation(OperationKind kind, std::string subject, std::string reason);
  void event(Transaction& transaction, Event event);
  void tell_strays(const std::vector<StrayVm>& strays);

  Loop& loop_;
  Store& store_;
  StoreMirror& mirror_;
  HostCommands& commands_;
  NameSource& names_;
  Observe observe_;
  Options options_;
  std::map<VmId, Retry> retries_;
  std::map<HostId, Instant> fence_not_before_;
  std::set<std::pair<VmId, HostId>> told_strays_;
  std::set<VmId> settling_;  ///< one of its disks is told where to go on, or was a moment ago
  WorkQueue queue_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
