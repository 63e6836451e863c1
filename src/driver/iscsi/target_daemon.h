#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "driver/iscsi/iscsi_store.h"
#include "driver/iscsi/target_admin.h"
#include "edge/call_queue.h"
#include "edge/process.h"
#include "edge/worker.h"

namespace virga {

/// The tgtd of one device, and its targets. Calls are carried out one after the other. It outlives this object and is
/// adopted by the next. Loop thread only.
class TargetDaemon {
 public:
  TargetDaemon(AsioLoop& loop, const IscsiOptions& options);
  TargetDaemon(const TargetDaemon&) = delete;
  TargetDaemon& operator=(const TargetDaemon&) = delete;

  /// Whether an earlier agent has left one behind. Errors: nobody knows.
  Result<void> know();

  /// As TargetAdmin::align(), with a daemon that is started when there is none and replaced when it does not obey.
  void serve(const std::string& prefix, const std::vector<Target>& wanted, Callback<void> done);

  /// The same without starting one: no daemon, no consumers. One that does not obey is killed; its end is the proof.
  void cut(const std::string& prefix, const std::vector<Target>& wanted, Callback<void> done);

  /// Calls each handler when the daemon has ended. Returns what ends that when it is destroyed.
  std::shared_ptr<Task> on_ended(Task handler);

  bool running() const { return process_ != nullptr && process_->running(); }

 private:
  std::string state_folder() const { return options_.directory + "/.tgt"; }
  std::string record() const { return state_folder() + "/server.json"; }
  std::string control() const { return state_folder() + "/control"; }

  void work(std::function<Result<void>(TargetAdmin&)> job, Callback<void> done);
  void start(Callback<void> done);
  void greet(Instant until, Callback<void> done);
  void end(Callback<void> done);
  void follow(std::unique_ptr<Process> process);
  void ended();
  void exited_with(const Result<void>& outcome);

  AsioLoop& loop_;
  const IscsiOptions& options_;
  std::unique_ptr<Process> process_;
  bool known_ = false;
  CallQueue calls_;
  std::vector<std::weak_ptr<Task>> handlers_;
  Callback<void> on_exit_;
  Timer exit_deadline_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
  Worker worker_;  ///< one thread: tgtadm's words come one after the other
};

}  // namespace virga
