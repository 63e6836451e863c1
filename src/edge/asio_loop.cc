#include "edge/asio_loop.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>

#include <boost/asio/post.hpp>

#include "base/check.h"
#include "base/log.h"
#include "edge/asio_loop_impl.h"
#include "edge/io_thread.h"

namespace virga {
namespace {

namespace asio = boost::asio;

constexpr Duration kStall = milliseconds(50);
constexpr int kTimersPerTurn = 1024;  // then descriptors and posted tasks get their turn
constexpr int kEventsPerTurn = 64;

Instant read_clock() {
  timespec now{};
  VIRGA_CHECK(::clock_gettime(CLOCK_BOOTTIME, &now) == 0);
  return Instant(std::chrono::seconds(now.tv_sec) + Duration(now.tv_nsec));
}

std::uint64_t event_key(int descriptor, std::uint32_t generation) {
  return (static_cast<std::uint64_t>(generation) << 32) | static_cast<std::uint32_t>(descriptor);
}

}  // namespace

AsioLoop::Impl::Impl() : work(context.get_executor()), set(context), signals(context) {
  const int set_descriptor = ::epoll_create1(EPOLL_CLOEXEC);
  VIRGA_CHECK(set_descriptor >= 0);
  set.assign(set_descriptor);
  timer_descriptor = ::timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
  VIRGA_CHECK(timer_descriptor >= 0);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = event_key(timer_descriptor, 0);
  VIRGA_CHECK(::epoll_ctl(set_descriptor, EPOLL_CTL_ADD, timer_descriptor, &event) == 0);
  wait_for_set();
}

AsioLoop::Impl::~Impl() {
  if (client) client->stop();
  client.reset();
  // A task that is dropped may own objects that cancel timers: the maps are whole meanwhile.
  while (!timers.empty() || !watches.empty()) {
    const auto dropped_timers = std::exchange(timers, {});
    const auto dropped_watches = std::exchange(watches, {});
  }
  ::close(timer_descriptor);
}

void AsioLoop::Impl::check_thread() const {
  const auto thread = owner.load(std::memory_order_relaxed);
  VIRGA_CHECK(thread == std::thread::id() || thread == std::this_thread::get_id());
}

void AsioLoop::Impl::run_task(const Task& task) {
  const Instant begin = read_clock();
  task();
  const Duration spent = read_clock() - begin;
  if (spent < kStall) return;
  stalls.fetch_add(1, std::memory_order_relaxed);
  log_line(
      LogLevel::warning, "loop",
      fmt::format("a task ran for {} ms; at most {} ms are right", to_ms(spent), to_ms(kStall)));
}

void AsioLoop::Impl::wait_for_set() {
  set.async_wait(asio::posix::stream_descriptor::wait_read,
                 [this](const boost::system::error_code& error) {
                   if (error) return;
                   on_set_ready();
                   wait_for_set();
                 });
}

void AsioLoop::Impl::on_set_ready() {
  std::array<epoll_event, kEventsPerTurn> events{};
  const int count = ::epoll_wait(set.native_handle(), events.data(), kEventsPerTurn, 0);
  for (int index = 0; index < count && !context.stopped(); ++index) {
    const std::uint64_t key = events[static_cast<std::size_t>(index)].data.u64;
    on_descriptor_ready(static_cast<int>(key & 0xffffffff), static_cast<std::uint32_t>(key >> 32));
  }
}

void AsioLoop::Impl::on_descriptor_ready(int descriptor, std::uint32_t generation) {
  if (generation == 0) return run_due_timers();
  const auto found = watches.find(descriptor);
  if (found == watches.end() || found->second.generation != generation) return;
  const Task ready = found->second.ready;  // it may forget itself
  run_task(ready);
}

void AsioLoop::Impl::run_due_timers() {
  std::uint64_t expirations = 0;
  [[maybe_unused]] const auto size = ::read(timer_descriptor, &expirations, sizeof expirations);
  armed = Instant::max();
  const Instant now = read_clock();
  for (int count = 0; count < kTimersPerTurn && !context.stopped(); ++count) {
    const auto first = timers.begin();
    if (first == timers.end() || first->first.first > now) break;
    const Task task = std::move(first->second);
    timer_times.erase(first->first.second);
    timers.erase(first);
    run_task(task);
  }
  arm_timer();
}

void AsioLoop::Impl::arm_timer() {
  if (timers.empty() || timers.begin()->first.first >= armed) return;
  armed = timers.begin()->first.first;
  const auto since_boot = std::max<std::int64_t>(armed.time_since_epoch().count(), 1);
  itimerspec when{};
  when.it_value.tv_sec = since_boot / 1'000'000'000;
  when.it_value.tv_nsec = since_boot % 1'000'000'000;
  VIRGA_CHECK(::timerfd_settime(timer_descriptor, TFD_TIMER_ABSTIME, &when, nullptr) == 0);
}

void AsioLoop::Impl::wait_for_signal() {
  signals.async_wait([this](const boost::system::error_code& error, int signal) {
    if (error) return;
    run_task([this, signal] { signal_task(signal); });
    wait_for_signal();
  });
}

std::shared_ptr<IoThread> AsioLoop::Impl::client_thread() {
  const std::lock_guard lock(client_mutex);
  if (!client) client = std::make_shared<IoThread>();
  return client;
}

AsioLoop::AsioLoop() : impl_(std::make_unique<Impl>()) {}
AsioLoop::~AsioLoop() = default;

Instant AsioLoop::now() const { return read_clock(); }

WallTime AsioLoop::wall_now() const {
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  return {std::chrono::duration_cast<std::chrono::milliseconds>(since_epoch).count()};
}

TimerId AsioLoop::at(Instant when, Task task) {
  impl_->check_thread();
  const TimerId timer = ++impl_->last_timer;
  impl_->timers.emplace(std::pair(when, timer), std::move(task));
  impl_->timer_times.emplace(timer, when);
  impl_->arm_timer();
  return timer;
}

void AsioLoop::cancel(TimerId timer) {
  const auto found = impl_->timer_times.find(timer);
  if (found == impl_->timer_times.end()) return;
  impl_->check_thread();
  const auto entry = impl_->timers.extract({found->second, timer});
  impl_->timer_times.erase(found);  // the entry's task goes last: it may cancel others
}

void AsioLoop::post(Task task) {
  asio::post(impl_->context,
             [impl = impl_.get(), task = std::move(task)] { impl->run_task(task); });
}

void AsioLoop::run() {
  impl_->owner = std::this_thread::get_id();
  impl_->context.run();
  impl_->context.restart();
  impl_->owner = std::thread::id();
}

void AsioLoop::stop() { impl_->context.stop(); }

void AsioLoop::on_signal(const std::vector<int>& signals, std::function<void(int signal)> task) {
  impl_->signal_task = std::move(task);
  for (const int signal : signals) impl_->signals.add(signal);
  impl_->wait_for_signal();
}

void AsioLoop::watch_descriptor(int descriptor, Task ready) {
  impl_->check_thread();
  forget_descriptor(descriptor);
  const std::uint32_t generation = ++impl_->last_generation;
  impl_->watches[descriptor] = {generation, std::move(ready)};
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = event_key(descriptor, generation);
  VIRGA_CHECK(::epoll_ctl(impl_->set.native_handle(), EPOLL_CTL_ADD, descriptor, &event) == 0);
}

void AsioLoop::forget_descriptor(int descriptor) {
  impl_->check_thread();
  const auto entry = impl_->watches.extract(descriptor);
  if (entry.empty()) return;
  ::epoll_ctl(impl_->set.native_handle(), EPOLL_CTL_DEL, descriptor, nullptr);
}

std::uint64_t AsioLoop::stalls() const { return impl_->stalls.load(std::memory_order_relaxed); }

}  // namespace virga
