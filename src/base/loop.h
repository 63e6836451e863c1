#pragma once

#include <cstdint>
#include <functional>

#include "base/result.h"
#include "base/time.h"

namespace virga {

using Task = std::function<void()>;
using TimerId = std::uint64_t;  ///< 0 is never a timer

/// One thread that runs tasks one after the other: the only place where control code gets time from.
/// Two implementations: AsioLoop (real time) and SimLoop (virtual time, deterministic order).
///
/// Tasks that are due at the same instant run in the order in which they were added. A task may add and cancel
/// others. A task must not block; AsioLoop logs and counts one that runs longer than 50 ms.
class Loop {
 public:
  virtual ~Loop() = default;

  /// The monotonic time. Constant while a task runs under SimLoop.
  virtual Instant now() const = 0;

  /// The time for people. Never decide by it.
  virtual WallTime wall_now() const = 0;

  /// Runs `task` once at `when`, or as soon as possible when that has passed. Loop thread only.
  virtual TimerId at(Instant when, Task task) = 0;

  /// Forgets a timer. Unknown, finished and zero ids are allowed and do nothing. Loop thread only.
  virtual void cancel(TimerId timer) = 0;

  /// Runs `task` after all that is queued now. The one call that is allowed from any thread.
  virtual void post(Task task) = 0;

  TimerId after(Duration delay, Task task) { return at(now() + delay, std::move(task)); }
};

/// Calls `done` with `result` after all that is queued now: for answers that are known before the call returns.
template <typename T>
void answer(Loop& loop, Callback<T> done, Result<T> result) {
  loop.post([done = std::move(done), result = std::move(result)] { done(result); });
}

/// Owns one timer: cancelled when this goes out of scope, replaced when it is set again.
class Timer {
 public:
  explicit Timer(Loop& loop) : loop_(loop) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() { cancel(); }

  void set_at(Instant when, Task task) {
    cancel();
    id_ = loop_.at(when, std::move(task));
  }
  void set_after(Duration delay, Task task) { set_at(loop_.now() + delay, std::move(task)); }
  void cancel() {
    loop_.cancel(id_);
    id_ = 0;
  }

 private:
  Loop& loop_;
  TimerId id_ = 0;
};

}  // namespace virga
