#pragma once

#include <csignal>
#include <memory>
#include <vector>

#include "base/loop.h"

namespace virga {

/// The real Loop: CLOCK_BOOTTIME, one thread inside run(). Tasks longer than 50 ms are logged and counted.
class AsioLoop final : public Loop {
 public:
  AsioLoop();
  ~AsioLoop() override;

  Instant now() const override;
  WallTime wall_now() const override;
  TimerId at(Instant when, Task task) override;
  void cancel(TimerId timer) override;
  void post(Task task) override;

  /// Runs tasks until stop(); the calling thread is the loop thread.
  void run();

  /// Lets run() return after the task at hand. Any thread.
  void stop();

  /// Calls `task` on the loop when one of the signals arrives. Once, before run().
  void on_signal(const std::vector<int>& signals, std::function<void(int signal)> task);

  /// Calls `ready` on the loop each time the descriptor can be read, until forget_descriptor. Does not own it.
  void watch_descriptor(int descriptor, Task ready);
  void forget_descriptor(int descriptor);

  /// Tasks that ran longer than 50 ms since the start.
  std::uint64_t stalls() const;

  struct Impl;  ///< known to the files of src/edge alone
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace virga
