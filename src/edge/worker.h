#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/loop.h"
#include "base/result.h"

namespace virga {

/// A few threads for calls that block: files on shared storage, helper programs. The destructor waits for the jobs
/// that have begun; each of them has a deadline of its own.
class Worker {
 public:
  Worker(Loop& loop, int threads, std::size_t queue_max);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// Runs `work` on a thread, then `done` with its result on the loop. Errors: exhausted (the queue is full).
  template <typename T>
  void run(std::function<Result<T>()> work, Callback<T> done) {
    auto shared_done = std::make_shared<Callback<T>>(std::move(done));
    const bool queued = push([this, work = std::move(work), shared_done] {
      auto result = std::make_shared<Result<T>>(work());
      loop_.post([result, shared_done] { (*shared_done)(std::move(*result)); });
    });
    if (queued) return;
    loop_.post([shared_done] {
      (*shared_done)(make_error(Errc::exhausted, "too many slow calls wait on this host"));
    });
  }

 private:
  bool push(std::function<void()> job);
  void serve();

  Loop& loop_;
  const std::size_t queue_max_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace virga
