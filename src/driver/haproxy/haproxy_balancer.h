#pragma once

#include <memory>
#include <optional>
#include <string>

#include "driver/haproxy/configuration.h"
#include "driver/load_balancer.h"
#include "edge/call_queue.h"
#include "edge/process.h"
#include "edge/worker.h"

namespace virga {

/// One HAProxy in a folder of its own, which outlives this object. Its configuration file is always what is wanted:
/// whoever starts HAProxy from it gets that. Servers change in the running HAProxy through its socket; only another
/// shape (frontends, pools, checks, certificates) makes it reload, with the listening sockets handed over.
/// Loop thread only; files and sockets are a worker's. See README.md of this folder.
class HaproxyBalancer : public LoadBalancer {
 public:
  HaproxyBalancer(AsioLoop& loop, HaproxyOptions options);
  ~HaproxyBalancer() override;

  void open(Callback<void> done) override;
  void apply(const BalancerSpec& wanted, Callback<void> done) override;
  std::uint64_t revision() const override { return in_force_.revision; }
  void observe(Callback<ObservedBalancer> done) override;
  void remove(Callback<void> done) override;

 private:
  void open_now(const Callback<void>& done);
  void apply_now(const BalancerSpec& wanted, const Callback<void>& done);
  void run_with(const BalancerSpec& wanted, const Callback<void>& done);
  void take_back(const Error& why, const Callback<void>& done);
  void remove_now(const Callback<void>& done);
  void on_worker(std::function<Result<void>()> job, Callback<void> done);
  Result<void> start();
  Result<void> adopt();
  void follow(std::unique_ptr<Process> process);
  void exited();
  void restart_later();
  bool running() const { return process_ != nullptr && process_->running(); }

  AsioLoop& loop_;
  const HaproxyOptions options_;
  BalancerSpec in_force_;             ///< revision 0 = none
  std::unique_ptr<Process> process_;  ///< the master
  std::shared_ptr<Descriptor> watched_ =
      std::make_shared<Descriptor>();  ///< its pidfd, for the worker's threads
  Instant started_;
  CallQueue calls_;
  Callback<void> on_exit_;
  Timer exit_deadline_;
  Timer restart_;
  Duration restart_pause_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
  Worker worker_;  ///< last: its end waits for the job that is under way
};

}  // namespace virga
