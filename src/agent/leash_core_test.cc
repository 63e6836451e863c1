#include "agent/leash_core.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <set>

namespace virga {
namespace {

/// Time that the test moves.
class HandLoop final : public Loop {
 public:
  Instant now() const override { return now_; }
  WallTime wall_now() const override { return {}; }
  TimerId at(Instant when, Task task) override {
    timers_.emplace(std::make_pair(when, ++last_), std::move(task));
    return last_;
  }
  void cancel(TimerId timer) override {
    std::erase_if(timers_, [timer](const auto& entry) { return entry.first.second == timer; });
  }
  void post(Task task) override { at(now_, std::move(task)); }

  void move(Duration by) {
    const Instant end = now_ + by;
    while (!timers_.empty() && timers_.begin()->first.first <= end) {
      auto node = timers_.extract(timers_.begin());
      now_ = std::max(now_, node.key().first);
      node.mapped()();
    }
    now_ = end;
  }

 private:
  Instant now_ = Instant(seconds(100));
  TimerId last_ = 0;
  std::map<std::pair<Instant, TimerId>, Task> timers_;
};

struct Leash {
  HandLoop loop;
  std::vector<std::string> killed;
  LeashCore core{loop, [this](const std::string& name) { killed.push_back(name); }};
};

using Names = std::vector<std::string>;

TEST(LeashCore, F_B6_kills_all_guarded_at_the_deadline_and_not_before) {
  Leash leash;
  leash.core.extend(leash.loop.now() + seconds(10));
  ASSERT_TRUE(leash.core.guard("b").ok());
  ASSERT_TRUE(leash.core.guard("a").ok());
  leash.loop.move(milliseconds(9999));
  EXPECT_EQ(leash.killed, Names{});
  leash.loop.move(milliseconds(1));
  EXPECT_EQ(leash.killed, (Names{"a", "b"}));
}

TEST(LeashCore, F_B6_the_deadline_only_moves_forward) {
  Leash leash;
  leash.core.extend(leash.loop.now() + seconds(10));
  leash.core.extend(leash.loop.now() + seconds(2));
  ASSERT_TRUE(leash.core.guard("a").ok());
  leash.loop.move(seconds(5));
  EXPECT_EQ(leash.killed, Names{});
  leash.core.extend(leash.loop.now() + seconds(10));
  leash.loop.move(milliseconds(9999));
  EXPECT_EQ(leash.killed, Names{});
  leash.loop.move(milliseconds(1));
  EXPECT_EQ(leash.killed, Names{"a"});
}

TEST(LeashCore, F_B6_a_reset_is_never_put_off_beyond_what_follows_the_deadline) {
  Leash leash;
  EXPECT_TRUE(leash.core.may_put_off(seconds(10))) << "nothing is held: there is nothing to end";
  leash.core.extend(leash.loop.now() + seconds(10));
  ASSERT_TRUE(leash.core.guard("a").ok());
  EXPECT_TRUE(leash.core.may_put_off(seconds(10)));
  leash.loop.move(seconds(2));
  EXPECT_TRUE(leash.core.may_put_off(seconds(10))) << "to 2 s after the deadline";
  leash.loop.move(milliseconds(1));
  EXPECT_FALSE(leash.core.may_put_off(seconds(10)));
  leash.core.extend(leash.loop.now() + seconds(10));
  EXPECT_TRUE(leash.core.may_put_off(seconds(10))) << "the server answers again";
  leash.loop.move(seconds(10));
  EXPECT_EQ(leash.killed, Names{"a"});
  EXPECT_FALSE(leash.core.may_put_off(seconds(10))) << "killed and not ended yet";
  leash.core.release("a");
  EXPECT_TRUE(leash.core.may_put_off(seconds(10)));
}

TEST(LeashCore, F_B6_a_watchdog_that_is_too_slow_for_the_lease_does_not_suit_it) {
  EXPECT_TRUE(LeashCore::suits(seconds(10), seconds(10)));
  EXPECT_FALSE(LeashCore::suits(seconds(12), seconds(10)));
  EXPECT_FALSE(LeashCore::suits(seconds(10), seconds(6)));
  EXPECT_TRUE(LeashCore::suits(seconds(7), seconds(6)));
}

TEST(LeashCore, F_B6_a_process_guarded_after_the_deadline_dies_at_once_until_it_is_extended) {
  Leash leash;
  ASSERT_TRUE(leash.core.guard("before-any-lease").ok());
  leash.core.extend(leash.loop.now() + seconds(1));
  leash.loop.move(seconds(1));
  ASSERT_TRUE(leash.core.guard("late").ok());
  EXPECT_EQ(leash.killed, (Names{"before-any-lease", "late"}));
  leash.core.extend(leash.loop.now() + seconds(1));
  ASSERT_TRUE(leash.core.guard("in-time").ok());
  EXPECT_EQ(leash.killed.size(), 2u);
}

TEST(LeashCore, a_kill_may_release_any_name) {
  HandLoop loop;
  Names killed;
  LeashCore* reached = nullptr;
  LeashCore core(loop, [&](const std::string& name) {
    killed.push_back(name);
    for (const auto& other : reached->held()) reached->release(other);
  });
  reached = &core;
  core.extend(loop.now() + seconds(1));
  for (const auto* name : {"a", "b", "c"}) ASSERT_TRUE(core.guard(name).ok());
  loop.move(seconds(2));
  EXPECT_EQ(killed, Names{"a"});
  EXPECT_EQ(core.held(), Names{});
}

TEST(LeashCore, refuses_more_than_it_has_room_for) {
  Leash leash;
  leash.core.extend(leash.loop.now() + seconds(1));
  for (std::size_t i = 0; i < LeashCore::kGuardsMax; ++i) {
    ASSERT_TRUE(leash.core.guard(std::to_string(i)).ok());
  }
  const auto refused = leash.core.guard("one-more");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Errc::exhausted);
}

RC_GTEST_PROP(LeashCore, F_B6_nothing_lives_past_the_deadline_and_nothing_dies_before_it, ()) {
  HandLoop loop;
  std::set<std::string> alive;
  Instant deadline{};
  LeashCore core(loop, [&](const std::string& name) {
    RC_ASSERT(loop.now() >= deadline);
    alive.erase(name);
  });
  const int steps = *rc::gen::inRange(1, 60);
  for (int step = 0; step < steps; ++step) {
    const int kind = *rc::gen::inRange(0, 4);
    const int number = *rc::gen::inRange(0, 8);
    const std::string name = std::to_string(number);
    if (kind == 0) {
      const Instant to = loop.now() + milliseconds(number * 100);
      deadline = std::max(deadline, to);
      core.extend(to);
    } else if (kind == 1) {
      alive.insert(name);
      RC_ASSERT(core.guard(name).ok());
    } else if (kind == 2) {
      alive.erase(name);
      core.release(name);
    } else {
      loop.move(milliseconds(number * 50));
    }
    if (loop.now() >= deadline) RC_ASSERT(alive.empty());
  }
}

}  // namespace
}  // namespace virga
