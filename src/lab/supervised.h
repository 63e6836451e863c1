#pragma once

#include <functional>
#include <memory>
#include <string>

#include "edge/asio_loop.h"
#include "edge/process.h"

namespace virga {

/// One program of the lab that is started again 1 s after it ended, as an init system would, for as long as it is
/// wanted and not held down by a fault.
class Supervised {
 public:
  /// `changed` is called whenever the process started or ended.
  Supervised(AsioLoop& loop, std::string name, Task changed);

  const std::string& name() const { return name_; }
  pid_t pid() const { return running() ? process_->pid() : 0; }
  std::uint64_t start_ticks() const { return running() ? process_->start_ticks() : 0; }
  bool running() const { return process_ != nullptr && process_->running(); }
  bool held() const { return held_; }

  /// From now on it is wanted. Errors: of the first start; later ones are logged and tried again.
  Result<void> start(ProcessOptions options);

  /// It is not wanted any more; a running process stays as it is.
  void give_up();

  void signal(int number);

  /// Keeps it down after its next end, or lets it be started again.
  void hold(bool held);

 private:
  Result<void> spawn();
  void ended(ProcessExit exit);
  void start_later();

  AsioLoop& loop_;
  std::string name_;
  Task changed_;
  ProcessOptions options_;
  bool wanted_ = false;
  bool held_ = false;
  std::unique_ptr<Process> process_;
  Timer restart_;
};

}  // namespace virga
