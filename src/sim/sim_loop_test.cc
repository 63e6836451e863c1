#include "sim/sim_loop.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>

#include "base/rng.h"

namespace virga {
namespace {

TEST(SimLoop, F_B3_runs_by_time_then_by_order_of_adding) {
  SimLoop loop;
  std::string order;
  loop.after(seconds(2), [&] { order += 'c'; });
  loop.after(seconds(1), [&] { order += 'a'; });
  loop.after(seconds(1), [&] { order += 'b'; });
  loop.run_for(seconds(3));
  EXPECT_EQ(order, "abc");
  EXPECT_EQ(loop.elapsed(), seconds(3));
}

TEST(SimLoop, F_B3_post_runs_after_what_is_queued_now) {
  SimLoop loop;
  std::string order;
  loop.after(Duration::zero(), [&] {
    loop.post([&] { order += '3'; });
    order += '1';
  });
  loop.post([&] { order += '2'; });
  loop.run_for(Duration::zero());
  EXPECT_EQ(order, "123");
}

TEST(SimLoop, F_B3_cancelled_timers_do_not_run_and_their_ids_are_not_taken_for_others) {
  SimLoop loop;
  int runs = 0;
  const TimerId first = loop.after(seconds(1), [&] { runs += 1; });
  loop.cancel(first);
  loop.after(seconds(1), [&] { runs += 10; });
  loop.cancel(first);
  loop.cancel(0);
  loop.cancel(UINT64_MAX);
  loop.run_for(seconds(2));
  EXPECT_EQ(runs, 10);
  EXPECT_EQ(loop.pending(), 0U);
}

TEST(SimLoop, F_B3_order_is_that_of_a_sorted_list_with_many_cancels) {
  SimLoop loop;
  Rng rng(7);
  std::vector<std::pair<Instant, int>> expected;
  std::vector<std::pair<Instant, int>> seen;
  std::vector<TimerId> timers;
  for (int number = 0; number < 20'000; ++number) {
    const Instant when = loop.now() + milliseconds(static_cast<std::int64_t>(rng.below(500)));
    timers.push_back(loop.at(when, [&seen, &loop, number] {
      seen.push_back({loop.now(), number});
    }));
    expected.push_back({when, number});
  }
  for (int number = 19'999; number >= 0; --number) {
    if (number % 4 == 0) continue;
    loop.cancel(timers[static_cast<std::size_t>(number)]);
    expected.erase(expected.begin() + number);
  }
  std::sort(expected.begin(), expected.end());
  loop.run_for(seconds(1));
  EXPECT_EQ(seen, expected);
}

TEST(SimLoop, F_B3_frozen_groups_wait_and_run_in_order_at_thaw) {
  SimLoop loop;
  SimProcess process(loop);
  std::string order;
  process.after(seconds(1), [&] { order += 'a'; });
  const TimerId cancelled = process.after(seconds(2), [&] { order += 'x'; });
  process.after(seconds(3), [&] { order += 'b'; });
  process.freeze();
  loop.after(seconds(4), [&] { order += '-'; });
  loop.run_for(seconds(5));
  EXPECT_EQ(order, "-");
  process.cancel(cancelled);
  process.thaw();
  loop.run_for(Duration::zero());
  EXPECT_EQ(order, "-ab");
}

TEST(SimLoop, F_B3_an_ended_process_forgets_its_tasks_also_those_that_own_timers) {
  SimLoop loop;
  int runs = 0;
  {
    SimProcess process(loop);
    auto timer = std::make_shared<Timer>(process);
    timer->set_after(seconds(1), [&runs] { ++runs; });
    process.after(seconds(2), [timer, &runs] { ++runs; });
    timer.reset();
  }
  loop.run_for(seconds(5));
  EXPECT_EQ(runs, 0);
  EXPECT_EQ(loop.pending(), 0U);
}

TEST(SimLoop, F_B6_a_drifting_clock_reaches_its_timers_by_its_own_time) {
  SimLoop loop;
  SimProcess slow(loop);
  slow.set_drift(-100'000);
  const Instant due = slow.now() + seconds(9);
  Duration ran_at{};
  slow.at(due, [&] {
    ran_at = loop.elapsed();
    EXPECT_GE(slow.now(), due);
  });
  loop.run_for(seconds(20));
  EXPECT_NEAR(static_cast<double>(to_ms(ran_at)), 10'000.0, 5.0);
  slow.jump(seconds(5));
  EXPECT_NEAR(static_cast<double>(to_ms(slow.now() - due)), 18'000 - 9'000 + 5'000.0, 5.0);
}

TEST(SimLoop, F_B3_takes_tasks_that_other_threads_post) {
  SimLoop loop;
  int runs = 0;
  std::thread other([&] { loop.post([&] { ++runs; }); });
  other.join();
  EXPECT_TRUE(loop.run_until_true([&] { return runs == 1; }, seconds(1)));
}

}  // namespace
}  // namespace virga
