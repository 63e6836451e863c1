#pragma once

#include <ctime>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "base/loop.h"
#include "base/result.h"

namespace virga::test {

/// A Loop for tests whose objects have threads of their own: tasks may be posted from any thread, the test's thread
/// runs them inside run_until(). Time stands still unless the test calls advance(), so that leases and deadlines are
/// tested without waiting; Clock::real follows CLOCK_BOOTTIME instead and runs timers when they are due.
class TestLoop final : public Loop {
 public:
  enum class Clock { manual, real };

  explicit TestLoop(Clock clock = Clock::manual) : clock_(clock) {}

  Instant now() const override {
    if (clock_ == Clock::manual) return now_;
    timespec time{};
    clock_gettime(CLOCK_BOOTTIME, &time);
    return Instant(seconds(time.tv_sec) + Duration(time.tv_nsec));
  }

  WallTime wall_now() const override { return {to_ms(now().time_since_epoch())}; }

  TimerId at(Instant when, Task task) override {
    const TimerId id = ++timer_last_;
    timers_.emplace(std::pair(when, id), std::move(task));
    times_.emplace(id, when);
    return id;
  }

  void cancel(TimerId timer) override {
    const auto found = times_.find(timer);
    if (found == times_.end()) return;
    timers_.erase({found->second, timer});
    times_.erase(found);
  }

  void post(Task task) override {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(task));
    arrived_.notify_one();
  }

  /// Runs tasks until `done` holds. False when it does not within `patience` of real time.
  bool run_until(const std::function<bool()>& done, Duration patience = seconds(60)) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (!done()) {
      if (run_one()) continue;
      std::unique_lock lock(mutex_);
      const auto wake = std::min(deadline, next_wake());
      arrived_.wait_until(lock, wake, [this] { return !posted_.empty(); });
      if (std::chrono::steady_clock::now() >= deadline && posted_.empty()) return false;
    }
    return true;
  }

  /// Runs what is posted and due, and what follows from it, without waiting for other threads.
  void run_ready() {
    while (run_one()) {
    }
  }

  /// Moves the manual clock on, running timers in order at their own times.
  void advance(Duration by) {
    const Instant target = now_ + by;
    run_ready();
    while (!timers_.empty() && timers_.begin()->first.first <= target) {
      now_ = std::max(now_, timers_.begin()->first.first);
      run_ready();
    }
    now_ = target;
  }

  /// Calls `start` with a completion and runs until it is called; an error `timeout` when it never is.
  template <typename T>
  Result<T> wait(const std::function<void(Callback<T>)>& start) {
    auto answer = std::make_shared<std::optional<Result<T>>>();
    start([answer](Result<T> result) { answer->emplace(std::move(result)); });
    if (!run_until([&] { return answer->has_value(); })) {
      return make_error(Errc::timeout, "test loop: the completion was never called");
    }
    return std::move(**answer);
  }

 private:
  bool run_one() {
    Task task;
    if (!timers_.empty() && timers_.begin()->first.first <= now()) {
      task = std::move(timers_.begin()->second);
      times_.erase(timers_.begin()->first.second);
      timers_.erase(timers_.begin());
    } else {
      const std::lock_guard lock(mutex_);
      if (posted_.empty()) return false;
      task = std::move(posted_.front());
      posted_.pop_front();
    }
    task();
    return true;
  }

  std::chrono::steady_clock::time_point next_wake() const {
    const auto wake = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    if (clock_ == Clock::manual || timers_.empty()) return wake;
    const Duration left = timers_.begin()->first.first - now();
    return std::min(wake, std::chrono::steady_clock::now() + std::max(left, Duration::zero()));
  }

  const Clock clock_;
  Instant now_{seconds(1'000'000)};
  TimerId timer_last_ = 0;
  std::map<std::pair<Instant, TimerId>, Task> timers_;
  std::map<TimerId, Instant> times_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Task> posted_;
};

}  // namespace virga::test
