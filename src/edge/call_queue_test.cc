#include "edge/call_queue.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "edge/asio_loop.h"

namespace virga {
namespace {

class CallQueueTest : public ::testing::Test {
 protected:
  /// A call whose step answers when the test says so.
  void call(int number) {
    queue_->run(
        [this, number](Callback<void> ended) {
          begun_.push_back(number);
          under_way_ = std::move(ended);
        },
        [this, number](const Result<void>& outcome) {
          ended_.push_back(outcome ? number : -number);
          if (!outcome) refused_ = outcome.error();
        });
  }

  void turn() {
    loop_.after(milliseconds(1), [this] { loop_.stop(); });
    loop_.run();
  }

  AsioLoop loop_;
  std::unique_ptr<CallQueue> queue_ = std::make_unique<CallQueue>(loop_, 2, "the drill");
  std::vector<int> begun_, ended_;
  Callback<void> under_way_;
  Error refused_;
};

TEST_F(CallQueueTest, calls_begin_one_after_the_other_and_never_within_run) {
  call(1);
  call(2);
  EXPECT_TRUE(begun_.empty());
  turn();
  EXPECT_EQ(begun_, (std::vector{1}));
  EXPECT_FALSE(queue_->idle());
  under_way_({});
  EXPECT_EQ(ended_, (std::vector{1}));
  EXPECT_EQ(begun_, (std::vector{1})) << "the next one begins when the first has told its caller";
  turn();
  EXPECT_EQ(begun_, (std::vector{1, 2}));
  under_way_(make_error(Errc::conflict, "no"));
  EXPECT_EQ(ended_, (std::vector{1, -2}));
  EXPECT_TRUE(queue_->idle());
}

TEST_F(CallQueueTest, one_too_many_is_refused_and_the_others_are_not_hurt) {
  call(1);
  turn();
  call(2);
  call(3);
  call(4);
  EXPECT_TRUE(ended_.empty()) << "not within run()";
  turn();
  EXPECT_EQ(ended_, (std::vector{-4}));
  EXPECT_EQ(refused_.code, Errc::exhausted);
  EXPECT_EQ(refused_.what, "2 calls wait for the drill");
  for (int left = 0; left < 3; ++left) {
    under_way_({});
    turn();
  }
  EXPECT_EQ(ended_, (std::vector{-4, 1, 2, 3}));
}

TEST_F(CallQueueTest, its_end_answers_nobody) {
  call(1);
  call(2);
  turn();
  queue_.reset();
  under_way_({});
  turn();
  EXPECT_EQ(begun_, (std::vector{1}));
  EXPECT_TRUE(ended_.empty());
}

TEST_F(CallQueueTest, a_caller_may_end_the_queue) {
  queue_->run([](const Callback<void>& ended) { ended({}); },
              [this](const Result<void>&) { queue_.reset(); });
  call(1);
  turn();
  EXPECT_EQ(queue_, nullptr);
  EXPECT_TRUE(begun_.empty());
}

}  // namespace
}  // namespace virga
