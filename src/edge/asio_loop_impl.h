#pragma once

#include <array>
#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/signal_set.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "edge/asio_loop.h"

namespace virga {

class IoThread;

/// What the files of src/edge see of the loop.
struct AsioLoop::Impl {
  /// Descriptors and the timer stand in an epoll set of their own, because Asio would make them non-blocking, which
  /// reaches every process that shares them. Asio waits for the set.
  struct Watch {
    std::uint64_t generation = 0;
    Task ready;
  };

  Impl();
  ~Impl();

  void run_task(const Task& task);
  void wait_for_set();
  void on_set_ready();
  void on_descriptor_ready(int descriptor, std::uint32_t generation);
  void run_due_timers();
  void arm_timer();
  void wait_for_signal();
  void check_thread() const;

  /// The thread on which all client connections of this loop live; started at the first use.
  std::shared_ptr<IoThread> client_thread();

  std::map<std::pair<Instant, TimerId>, Task> timers;
  std::unordered_map<TimerId, Instant> timer_times;
  TimerId last_timer = 0;
  Instant armed = Instant::max();
  std::map<int, Watch> watches;
  std::uint32_t last_generation = 0;
  std::function<void(int)> signal_task;
  std::atomic<std::thread::id> owner;
  std::atomic<std::uint64_t> stalls = 0;
  int timer_descriptor = -1;
  std::mutex client_mutex;
  std::shared_ptr<IoThread> client;

  boost::asio::io_context context;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work;
  boost::asio::posix::stream_descriptor set;
  boost::asio::signal_set signals;
};

}  // namespace virga
