#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <mutex>
#include <thread>

namespace virga {

/// A thread on which sockets live. What lives there refers to it plainly; all others hold a weak_ptr, so that the
/// io_context goes, with all that waits in it, before the loop does.
class IoThread {
 public:
  using Context = boost::asio::io_context;

  IoThread();
  ~IoThread() { stop(); }
  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;

  /// Ends the thread after the handler at hand. Not from the thread itself. Idempotent.
  void stop();

  /// Any thread. After stop() the handler is dropped with this object.
  template <typename F>
  void post(F&& function) {
    boost::asio::post(context_, std::forward<F>(function));
  }

  Context& context() { return context_; }

 private:
  Context context_{1};
  boost::asio::executor_work_guard<Context::executor_type> work_{context_.get_executor()};
  std::thread thread_;
};

}  // namespace virga
