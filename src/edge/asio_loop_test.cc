#include "edge/asio_loop.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "base/log.h"

namespace virga {
namespace {

TEST(AsioLoop, F_B3_timers_run_in_order_of_time_then_of_addition) {
  AsioLoop loop;
  std::string order;
  const Instant base = loop.now();
  loop.at(base + milliseconds(3), [&] {
    order += 'd';
    loop.stop();
  });
  loop.at(base + milliseconds(1), [&] { order += 'b'; });
  loop.at(base + milliseconds(1), [&] { order += 'c'; });
  loop.at(base - seconds(1), [&] { order += 'a'; });
  const TimerId dropped = loop.at(base + milliseconds(2), [&] { order += 'x'; });
  loop.cancel(dropped);
  loop.cancel(dropped);
  loop.cancel(0);
  loop.run();
  EXPECT_EQ(order, "abcd");
}

TEST(AsioLoop, F_B3_a_timer_never_runs_early_and_a_task_may_cancel_another) {
  AsioLoop loop;
  const Instant when = loop.now() + milliseconds(5);
  bool victim_ran = false;
  TimerId victim = 0;
  loop.at(when, [&] {
    EXPECT_GE(loop.now(), when);
    loop.cancel(victim);
    loop.after(milliseconds(1), [&] { loop.stop(); });
  });
  victim = loop.at(when, [&] { victim_ran = true; });
  loop.run();
  EXPECT_FALSE(victim_ran);
}

TEST(AsioLoop, F_B3_posts_from_other_threads_all_run_on_the_loop_in_order) {
  AsioLoop loop;
  constexpr int kPosts = 10'000;
  int next = 0;
  const auto loop_thread = std::this_thread::get_id();
  std::thread other([&] {
    for (int number = 0; number < kPosts; ++number) {
      loop.post([&, number] {
        EXPECT_EQ(number, next++);
        EXPECT_EQ(std::this_thread::get_id(), loop_thread);
        if (next == kPosts) loop.stop();
      });
    }
  });
  loop.run();
  other.join();
  EXPECT_EQ(next, kPosts);
}

TEST(AsioLoop, F_B3_a_timer_that_sets_itself_again_does_not_starve_posts) {
  AsioLoop loop;
  int runs = 0;
  std::function<void()> again = [&] {
    if (++runs == 1) loop.post([&] { loop.stop(); });
    loop.at(Instant(), again);
  };
  again();
  loop.run();
  EXPECT_GE(runs, 1);
}

TEST(AsioLoop, F_B3_a_hundred_thousand_timers_are_cheap) {
  AsioLoop loop;
  constexpr int kTimers = 100'000;
  std::vector<TimerId> timers;
  for (int number = 0; number < kTimers; ++number) {
    timers.push_back(loop.after(seconds(3600), [] { ADD_FAILURE(); }));
  }
  for (const TimerId timer : timers) loop.cancel(timer);
  int ran = 0;
  for (int number = 0; number < kTimers; ++number) {
    loop.after(Duration(0), [&] {
      if (++ran == kTimers) loop.stop();
    });
  }
  loop.run();
  EXPECT_EQ(ran, kTimers);
}

TEST(AsioLoop, F_B3_a_long_task_is_counted_and_logged) {
  static std::string logged;
  set_log_sink([](LogLevel, std::string_view component, std::string_view text) {
    logged = std::string(component) + ": " + std::string(text);
  });
  AsioLoop loop;
  loop.post([&] {
    const Instant end = loop.now() + milliseconds(55);
    while (loop.now() < end) {
    }
  });
  loop.post([&] { loop.stop(); });
  loop.run();
  set_log_sink(nullptr);
  EXPECT_GE(loop.stalls(), 1u);
  EXPECT_NE(logged.find("loop: a task ran for"), std::string::npos);
}

TEST(AsioLoop, F_B3_a_watched_descriptor_keeps_its_flags_and_is_forgotten) {
  AsioLoop loop;
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  std::string got;
  loop.watch_descriptor(ends[0], [&] {
    char byte = 0;
    ASSERT_EQ(::read(ends[0], &byte, 1), 1);
    got += byte;
    if (got.size() == 2) {
      loop.forget_descriptor(ends[0]);
      loop.after(milliseconds(2), [&] { loop.stop(); });
    }
  });
  EXPECT_EQ(::fcntl(ends[0], F_GETFL) & O_NONBLOCK, 0);
  ASSERT_EQ(::write(ends[1], "abc", 3), 3);
  loop.run();
  EXPECT_EQ(got, "ab");
  EXPECT_EQ(::fcntl(ends[0], F_GETFL) & O_NONBLOCK, 0);
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST(AsioLoop, F_B3_signals_arrive_as_tasks) {
  AsioLoop loop;
  int seen = 0;
  loop.on_signal({SIGUSR1}, [&](int signal) {
    seen = signal;
    loop.stop();
  });
  loop.post([] { ::raise(SIGUSR1); });
  loop.run();
  EXPECT_EQ(seen, SIGUSR1);
}

TEST(AsioLoop, F_B3_stop_before_run_is_kept_and_run_may_be_called_again) {
  AsioLoop loop;
  loop.stop();
  loop.run();
  bool ran = false;
  loop.post([&] {
    ran = true;
    loop.stop();
  });
  loop.run();
  EXPECT_TRUE(ran);
}

TEST(AsioLoop, F_B3_dropped_tasks_may_own_timers) {
  auto loop = std::make_unique<AsioLoop>();
  auto inner = std::make_shared<Timer>(*loop);
  inner->set_after(seconds(3600), [] {});
  loop->post([inner] {});
  loop->after(seconds(3600), [inner] {});
  const std::weak_ptr<Timer> watched = inner;
  inner.reset();
  ASSERT_FALSE(watched.expired());
  loop.reset();
  EXPECT_TRUE(watched.expired());
}

}  // namespace
}  // namespace virga
