#pragma once

#include <sys/epoll.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

namespace virga::guest {

/// One thread's event loop over epoll. Handlers may add and remove descriptors, their own included.
class Poller {
 public:
  using Handler = std::function<void(std::uint32_t events)>;

  Poller() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {}
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;
  ~Poller() { ::close(epoll_); }

  /// Does not own `descriptor`. False when the kernel refuses.
  bool add(int descriptor, std::uint32_t events, Handler handler) {
    epoll_event event{};
    event.events = events;
    event.data.fd = descriptor;
    if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &event) != 0) return false;
    handlers_[descriptor] = std::move(handler);
    return true;
  }

  void change(int descriptor, std::uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.fd = descriptor;
    ::epoll_ctl(epoll_, EPOLL_CTL_MOD, descriptor, &event);
  }

  void remove(int descriptor) {
    ::epoll_ctl(epoll_, EPOLL_CTL_DEL, descriptor, nullptr);
    handlers_.erase(descriptor);
  }

  [[noreturn]] void run() {
    constexpr int kEventsMax = 64;
    epoll_event ready[kEventsMax];
    while (true) {
      const int count = ::epoll_wait(epoll_, ready, kEventsMax, -1);
      for (int index = 0; index < count; ++index) {
        const auto found = handlers_.find(ready[index].data.fd);
        if (found == handlers_.end()) continue;
        const Handler handler = found->second;  // it may remove itself while it runs
        handler(ready[index].events);
      }
    }
  }

 private:
  int epoll_;
  std::map<int, Handler> handlers_;
};

}  // namespace virga::guest
