#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "arch/service_relocation/planner.h"
#include "base/loop.h"
#include "runtime/host_commands.h"
#include "runtime/store_mirror.h"
#include "runtime/transaction.h"
#include "runtime/work_queue.h"

namespace virga {

/// The loop of this room: observe (balancers as hosts report them), decide (plan_services), act (commands to agents),
/// record (a service's step, its VMs and its events in one commit). Commands change no record. Level-triggered, one
/// round per cluster at a time. Loop thread only.
class ServiceController {
 public:
  /// The evidence about one cluster's hosts at this moment; this controller adds what it has measured.
  using Observe = std::function<ServiceEvidence(const ClusterId& cluster)>;

  struct Options {
    ServiceOptions planner;
    Duration retry_first = seconds(1);  ///< after a failed command; doubles up to retry_max
    Duration retry_max = seconds(30);
    Duration command_deadline = seconds(60);  ///< a balancer's start with its network
    Duration demand_every = seconds(1);       ///< how often scaling listeners look
  };

  ServiceController(Loop& loop, Store& store, StoreMirror& mirror, HostCommands& commands,
                    NameSource& names);

  void start(Observe observe) { start(std::move(observe), Options()); }
  void start(Observe observe, Options options);

  /// Something about this cluster's services changed: decide again soon.
  void mark(const ClusterId& cluster) { queue_.mark(cluster.value); }

  /// Time passes: clusters with services that wait for something decide again. A few times a second.
  void tick();

 private:
  using Place = std::pair<ServiceId, HostId>;

  /// Commands about one balancer: at most one under way, with growing pauses after failures.
  struct Tries {
    bool under_way = false;
    int failures = 0;
    Instant not_before;
    std::string failure;
  };
  /// Since when a copy is in its state, and since when it is seen healthy there.
  struct CopyWatch {
    ServiceCopyState state = ServiceCopyState::starting;
    Instant since;
    HostId balancer;
    std::optional<Instant> up_since;
  };
  struct ServiceWatch {
    std::optional<WallTime> relocation;  ///< which one
    Instant relocating_since;
    std::string counters;
    std::int64_t total = 0;
    Instant quiet_since;
    ScalingListener listener;
  };

  void notice(const std::vector<Change>& changes);
  void run(const ClusterId& cluster);
  ServiceEvidence gather(const ClusterId& cluster);
  void measure(const Service& service, ServiceEvidence& evidence);
  void measure_copies(const Service& service, const ServiceBalancer* seen,
                      ServiceEvidence& evidence);
  void listen(const Service& service, const ServiceBalancer* seen, ServiceEvidence& evidence);
  bool take_step(Transaction& transaction, const ServiceStep& step);
  bool add_vm(Transaction& transaction, const Service& service, const NewCopy& copy);
  void change_vms(Transaction& transaction, const ServiceStep& step);
  void remove(Transaction& transaction, const Service& service);
  void work(const ClusterId& cluster, const BalancerWork& work);
  void ended(const ClusterId& cluster, const Place& place, const Result<void>& result);

  Loop& loop_;
  StoreMirror& mirror_;
  HostCommands& commands_;
  NameSource& names_;
  Observe observe_;
  Options options_;
  std::map<Place, Tries> tries_;
  std::map<VmId, CopyWatch> copies_;
  std::map<ServiceId, ServiceWatch> services_;
  Instant look_at_demand_;
  WorkQueue queue_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
