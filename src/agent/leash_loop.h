#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <utility>

#include "base/loop.h"

namespace virga {

/// The leash's own Loop: poll(2) and one timerfd on CLOCK_BOOTTIME, so that it needs no library and counts time
/// that the machine slept. One thread only, post() included.
class LeashLoop final : public Loop {
 public:
  LeashLoop();
  LeashLoop(const LeashLoop&) = delete;
  LeashLoop& operator=(const LeashLoop&) = delete;
  ~LeashLoop() override;

  Instant now() const override;
  WallTime wall_now() const override;
  TimerId at(Instant when, Task task) override;
  void cancel(TimerId timer) override;
  void post(Task task) override;

  /// Calls `ready` each time the descriptor can be read or has hung up. Does not own it.
  void watch(int descriptor, Task ready);
  void forget(int descriptor);

  void run();
  void stop() { stopped_ = true; }

 private:
  void run_due_tasks();
  void arm_timer();
  void wait_once();

  int timer_descriptor_ = -1;
  bool stopped_ = false;
  TimerId last_id_ = 0;
  std::map<std::pair<Instant, TimerId>, Task> timers_;
  std::map<TimerId, Instant> due_;
  std::map<int, Task> watched_;
};

}  // namespace virga
