#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "arch/storage_workload/planner.h"
#include "base/loop.h"
#include "runtime/host_commands.h"
#include "runtime/store_mirror.h"
#include "runtime/transaction.h"
#include "runtime/work_queue.h"

namespace virga {

/// The loop of this room: observe (reports of storage hosts), decide (plan_storage), act (commands to their agents),
/// record (states and events in the same commits). Commands change no record: what they came to is seen in the next
/// report, so that a lost answer or a restarted server does no harm. Level-triggered, one round per cluster at a time.
/// Loop thread only.
class StorageController {
 public:
  /// The evidence about one cluster's devices at this moment; this controller adds what it knows of its commands.
  using Observe = std::function<StorageEvidence(const ClusterId& cluster)>;

  struct Options {
    StorageOptions planner;
    Duration retry_first = seconds(1);  ///< after a failed command; doubles up to retry_max
    Duration retry_max = seconds(30);
    Duration command_deadline = seconds(15);
  };

  StorageController(Loop& loop, Store& store, StoreMirror& mirror, HostCommands& commands,
                    NameSource& names);

  void start(Observe observe) { start(std::move(observe), Options()); }
  void start(Observe observe, Options options);

  /// Something about this cluster's storage changed: decide again soon.
  void mark(const ClusterId& cluster) { queue_.mark(cluster.value); }

 private:
  /// Commands about one subject (a key of the store): at most one under way, with growing pauses after failures.
  struct Tries {
    bool under_way = false;
    int failures = 0;
    Instant not_before;
    std::string failure;
  };

  void notice(const std::vector<Change>& changes);
  void run(const ClusterId& cluster);
  StorageEvidence gather(const ClusterId& cluster) const;
  void execute(const ClusterId& cluster, const StoragePlan& plan);
  bool change_device(Transaction& transaction, const DeviceChange& change);
  bool place(Transaction& transaction, const PlaceVolume& placement);
  bool is_lost(const DeviceId& id) const;
  void guard_regions(Transaction& transaction, const Volume& volume, const HostId& id) const;
  bool change_volume(Transaction& transaction, const VolumeChange& change);
  bool change_leg(Transaction& transaction, const LegChange& change);
  bool remove(Transaction& transaction, const VolumeId& id);
  void serve(const ClusterId& cluster, const ServeDevice& serve);
  void release(const ClusterId& cluster, const DeviceId& device, const HostId& host);
  void work(const ClusterId& cluster, const VolumeWork& work);
  void command(const ClusterId& cluster, const std::string& subject, const HostId& host,
               Command command);
  void ended(const ClusterId& cluster, const std::string& subject, const Result<void>& result);
  void event(Transaction& transaction, Event event);

  Loop& loop_;
  StoreMirror& mirror_;
  HostCommands& commands_;
  NameSource& names_;
  Observe observe_;
  Options options_;
  std::map<std::string, Tries> tries_;
  WorkQueue queue_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
