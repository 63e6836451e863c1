#include "agent/leash_loop.h"

#include <poll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <array>

#include "agent/leash_core.h"
#include "base/check.h"

namespace virga {

LeashLoop::LeashLoop()
    : timer_descriptor_(timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK)) {
  VIRGA_CHECK(timer_descriptor_ >= 0);
}

LeashLoop::~LeashLoop() { close(timer_descriptor_); }

Instant LeashLoop::now() const {
  timespec time{};
  clock_gettime(CLOCK_BOOTTIME, &time);
  return Instant(std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec));
}

WallTime LeashLoop::wall_now() const {
  timespec time{};
  clock_gettime(CLOCK_REALTIME, &time);
  return WallTime{time.tv_sec * 1000 + time.tv_nsec / 1'000'000};
}

TimerId LeashLoop::at(Instant when, Task task) {
  const TimerId id = ++last_id_;
  due_.emplace(id, when);
  timers_.emplace(std::make_pair(when, id), std::move(task));
  return id;
}

void LeashLoop::cancel(TimerId timer) {
  const auto found = due_.find(timer);
  if (found == due_.end()) return;
  timers_.erase({found->second, timer});
  due_.erase(found);
}

void LeashLoop::post(Task task) { at(now(), std::move(task)); }

void LeashLoop::watch(int descriptor, Task ready) { watched_[descriptor] = std::move(ready); }

void LeashLoop::forget(int descriptor) { watched_.erase(descriptor); }

void LeashLoop::run() {
  while (!stopped_) {
    run_due_tasks();
    if (stopped_) return;
    arm_timer();
    wait_once();
  }
}

void LeashLoop::run_due_tasks() {
  while (!stopped_ && !timers_.empty() && timers_.begin()->first.first <= now()) {
    auto node = timers_.extract(timers_.begin());
    due_.erase(node.key().second);
    node.mapped()();
  }
}

void LeashLoop::arm_timer() {
  itimerspec when{};
  if (!timers_.empty()) {
    const auto due = timers_.begin()->first.first.time_since_epoch().count();
    when.it_value.tv_sec = due / 1'000'000'000;
    when.it_value.tv_nsec = due % 1'000'000'000;
    if (due <= 0) when.it_value.tv_nsec = 1;
  }
  VIRGA_CHECK(timerfd_settime(timer_descriptor_, TFD_TIMER_ABSTIME, &when, nullptr) == 0);
}

// Each watched descriptor is looked up again before it is called: a task may have forgotten it.
void LeashLoop::wait_once() {
  constexpr std::size_t kOthersMax = 8;
  std::array<pollfd, LeashCore::kGuardsMax + kOthersMax> list{};
  std::size_t count = 0;
  list[count++] = {timer_descriptor_, POLLIN, 0};
  for (const auto& [descriptor, ready] : watched_) {
    VIRGA_CHECK(count < list.size());
    list[count++] = {descriptor, POLLIN, 0};
  }
  if (poll(list.data(), count, -1) <= 0) return;
  if (list[0].revents != 0) {
    std::uint64_t expirations = 0;
    [[maybe_unused]] const auto got = read(timer_descriptor_, &expirations, sizeof expirations);
    run_due_tasks();
  }
  for (std::size_t i = 1; i < count && !stopped_; ++i) {
    const auto found = watched_.find(list[i].fd);
    if (list[i].revents == 0 || found == watched_.end()) continue;
    const Task ready = found->second;
    ready();
  }
}

}  // namespace virga
