#pragma once

#include <condition_variable>
#include <functional>
#include <iterator>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace virga {

/// A thread that takes whatever waits, up to `batch_max` jobs at once, and hands it to `run`: the next batch gathers
/// while one is worked on. The owner bounds how much it pushes. Destroying it finishes what was pushed.
template <typename Job>
class BatchThread {
 public:
  using Run = std::function<void(std::vector<Job> batch)>;

  /// `run` is called on the thread, one batch at a time, in the order of pushes.
  BatchThread(std::size_t batch_max, Run run)
      : batch_max_(batch_max), run_(std::move(run)), thread_([this] { work(); }) {}

  BatchThread(const BatchThread&) = delete;
  BatchThread& operator=(const BatchThread&) = delete;

  ~BatchThread() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    arrived_.notify_one();
    thread_.join();
  }

  /// Any thread. What is pushed in one call is not parted unless it exceeds a batch.
  void push(std::vector<Job> jobs) {
    {
      const std::lock_guard lock(mutex_);
      waiting_.insert(waiting_.end(), std::make_move_iterator(jobs.begin()),
                      std::make_move_iterator(jobs.end()));
    }
    arrived_.notify_one();
  }

 private:
  void work() {
    while (true) {
      auto batch = take();
      if (batch.empty()) return;
      run_(std::move(batch));
    }
  }

  /// Empty when the thread is to end.
  std::vector<Job> take() {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (waiting_.size() <= batch_max_) return std::exchange(waiting_, {});
    const auto end = waiting_.begin() + static_cast<std::ptrdiff_t>(batch_max_);
    std::vector<Job> batch(std::make_move_iterator(waiting_.begin()), std::make_move_iterator(end));
    waiting_.erase(waiting_.begin(), end);
    return batch;
  }

  const std::size_t batch_max_;
  const Run run_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<Job> waiting_;
  bool stopping_ = false;
  std::thread thread_;  ///< last: starts when all else is there
};

}  // namespace virga
