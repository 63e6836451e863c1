#include "edge/io_thread.h"

#include <csignal>

namespace virga {

IoThread::IoThread() {
  // Signals belong to the loop thread; a blocked SIGPIPE lets OpenSSL write to a closed socket.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { context_.run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void IoThread::stop() {
  context_.stop();
  if (thread_.joinable()) thread_.join();
}

}  // namespace virga
