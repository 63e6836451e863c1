#include "runtime/work_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "sim/sim_loop.h"
#include "store/memory_store.h"

namespace virga {
namespace {

class Queue : public ::testing::Test {
 protected:
  Queue() {
    mirror_.set_incarnation(1);
    mirror_.open([](Result<void> opened) { ASSERT_TRUE(opened.ok()); });
    loop_.run_for(milliseconds(10));
    queue_.start([this](const std::string& key) {
      seen_.push_back(key);
      if (look_) look_(key);
    });
  }

  /// Commits a cluster of that name, as read at `revision` (0 = there was none).
  void write(const std::string& key, Revision revision) {
    queue_.commit(key, [&](Transaction& into) {
      Cluster cluster;
      cluster.meta.name = key;
      cluster.meta.revision = revision;
      into.put(cluster);
      return true;
    });
  }

  bool stored(const std::string& key) {
    return mirror_.view().clusters.find(ClusterId(key)) != nullptr;
  }

  SimLoop loop_;
  MemoryStore store_{loop_, Rng(1), {}};
  StoreMirror mirror_{loop_, store_};
  WorkQueue queue_{loop_, store_, mirror_, "test"};
  std::function<void(const std::string&)> look_;
  std::vector<std::string> seen_;
};

TEST_F(Queue, F_B3_a_key_waits_once_however_often_it_is_marked) {
  for (int time = 0; time < 5; ++time) queue_.mark("a");
  queue_.mark("b");
  EXPECT_TRUE(seen_.empty()) << "never within mark()";
  loop_.run_for(milliseconds(100));
  EXPECT_EQ(seen_, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(queue_.rounds(), 2U);
}

TEST_F(Queue, F_B3_a_round_ends_when_the_view_has_all_that_it_wrote) {
  MemoryStoreOptions slow;
  slow.commit_delay_min = slow.commit_delay_max = milliseconds(50);
  store_.set_options(slow);
  bool there = false;
  look_ = [&](const std::string& key) {
    there = stored(key);
    if (!there) write(key, 0);
  };
  queue_.mark("a");
  loop_.run_for(milliseconds(10));
  queue_.mark("a");  // meanwhile: one more round, after this one
  queue_.mark("a");
  loop_.run_for(milliseconds(30));
  EXPECT_EQ(seen_.size(), 1U);
  loop_.run_for(milliseconds(200));
  EXPECT_EQ(seen_.size(), 2U);
  EXPECT_TRUE(there) << "the second round sees what the first has written";
}

TEST_F(Queue, F_B3_what_met_another_commit_is_looked_at_again) {
  look_ = [&](const std::string& key) {
    if (seen_.size() == 1) write(key, 77);
  };
  queue_.mark("a");
  loop_.run_for(milliseconds(100));
  EXPECT_EQ(seen_.size(), 2U);
}

TEST_F(Queue, F_B3_F_F13_a_full_store_is_asked_again_after_a_pause) {
  store_.disk()->full = true;
  look_ = [&](const std::string& key) {
    if (!stored(key)) write(key, 0);
  };
  queue_.mark("a");
  loop_.run_for(seconds(1));
  EXPECT_GE(seen_.size(), 3U);
  EXPECT_LE(seen_.size(), 6U) << "each 250 ms, not as fast as it can";
  store_.disk()->full = false;
  loop_.run_for(seconds(1));
  EXPECT_TRUE(stored("a"));
  const std::size_t settled = seen_.size();
  loop_.run_for(seconds(5));
  EXPECT_EQ(seen_.size(), settled);
}

TEST_F(Queue, F_B3_a_key_that_is_marked_again_and_again_has_a_round_for_many_at_once) {
  queue_.mark("a");
  loop_.run_for(Duration::zero());
  EXPECT_EQ(seen_.size(), 1U) << "the first at once";
  for (int time = 0; time < 100; ++time) {
    queue_.mark("a");
    queue_.mark("b" + std::to_string(time));
    loop_.run_for(milliseconds(1));
  }
  loop_.run_for(seconds(1));
  EXPECT_GE(std::ranges::count(seen_, "a"), 10);
  EXPECT_LE(std::ranges::count(seen_, "a"), 12);
  EXPECT_EQ(queue_.rounds() - static_cast<std::uint64_t>(std::ranges::count(seen_, "a")), 100U)
      << "and none waits for another";
  const std::size_t before = seen_.size();
  queue_.mark("a");
  loop_.run_for(Duration::zero());
  EXPECT_EQ(seen_.size(), before + 1) << "after a rest at once again";
}

TEST_F(Queue, F_B3_who_is_not_done_asks_for_another_look) {
  look_ = [&](const std::string& key) {
    if (seen_.size() < 3) queue_.look_again(key);
  };
  queue_.mark("a");
  loop_.run_for(milliseconds(100));
  EXPECT_EQ(seen_.size(), 3U);
}

}  // namespace
}  // namespace virga
