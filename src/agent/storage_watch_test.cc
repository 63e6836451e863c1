#include "agent/storage_watch.h"

#include <gtest/gtest.h>

#include <vector>

#include "sim/sim_loop.h"

namespace virga {
namespace {

class Watch : public ::testing::Test {
 protected:
  Watch()
      : watch_(loop_, "shared directory /srv", [this](Callback<void> done) {
          looks_.push_back(std::move(done));
          if (answers_) looks_.back()(answer_);
        }) {
    watch_.start();
  }

  SimLoop loop_;
  bool answers_ = true;
  Result<void> answer_;
  std::vector<Callback<void>> looks_;
  StorageWatch watch_;
};

TEST_F(Watch, A1_10_storage_that_answers_is_not_failing) {
  loop_.run_for(seconds(60));
  EXPECT_EQ(watch_.failing(), "");
  EXPECT_EQ(looks_.size(), 31U);
}

TEST_F(Watch, A1_10_a_hang_is_told_after_a_while_asked_once_and_forgotten_when_it_answers) {
  loop_.run_for(milliseconds(100));
  answers_ = false;
  loop_.run_for(milliseconds(5800));
  EXPECT_EQ(watch_.failing(), "") << "a slow answer is no failure";
  const std::size_t asked = looks_.size();
  loop_.run_for(seconds(60));
  EXPECT_EQ(watch_.failing(), "shared directory /srv does not answer");
  EXPECT_EQ(looks_.size(), asked) << "nothing piles up behind a look that hangs";
  answers_ = true;
  looks_.back()({});
  EXPECT_EQ(watch_.failing(), "");
  loop_.run_for(seconds(60));
  EXPECT_EQ(watch_.failing(), "");
}

TEST_F(Watch, A1_10_errors_are_told_in_their_words_and_one_alone_is_no_failure) {
  answer_ = make_error(Errc::exhausted, "no space left");
  loop_.run_for(seconds(4));
  EXPECT_EQ(watch_.failing(), "");
  loop_.run_for(seconds(4));
  EXPECT_EQ(watch_.failing(), "shared directory /srv: no space left");
  answer_ = {};
  loop_.run_for(seconds(3));
  EXPECT_EQ(watch_.failing(), "");
}

TEST_F(Watch, A1_10_an_answer_after_the_end_is_not_heard) {
  auto late = std::make_unique<StorageWatch>(
      loop_, "storage", [this](Callback<void> done) { looks_.push_back(std::move(done)); });
  late->start();
  const auto done = looks_.back();
  late.reset();
  done({});
  loop_.run_for(seconds(5));
}

}  // namespace
}  // namespace virga
