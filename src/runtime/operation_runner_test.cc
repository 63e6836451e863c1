#include "runtime/operation_runner.h"

#include <gtest/gtest.h>

#include "sim/sim_loop.h"
#include "store/memory_store.h"

namespace virga {
namespace {

/// A runner with one table of two steps; what a step answers is the test's to say.
class Running : public ::testing::Test {
 protected:
  Running() {
    mirror_.set_incarnation(1);
    mirror_.open([](Result<void> opened) { ASSERT_TRUE(opened.ok()); });
    for (const char* name : {"first", "second"}) {
      OperationStepTable::Step step;
      step.name = name;
      step.act = [this, name](const Operation&, const ClusterView&, const StepDone& done) {
        ++acted_[name];
        loop_.after(milliseconds(10), [this, name, done] { done(answers_[name]); });
      };
      table_.steps.push_back(std::move(step));
    }
    runner_.set_table(OperationKind::stop_vm, table_);
    loop_.run_for(milliseconds(10));
    runner_.start();
  }

  void begin(Duration deadline) {
    Operation operation;
    operation.meta.name = "op-1";
    operation.meta.created_at = loop_.wall_now();
    operation.kind = OperationKind::stop_vm;
    operation.subject = "vm/acme/web";
    operation.deadline_at = WallTime{loop_.wall_now().unix_ms + to_ms(deadline)};
    Transaction transaction;
    transaction.put(operation);
    store_.commit(transaction.guards(), transaction.writes(), [](Result<CommitOutcome>) {});
  }

  const Operation& operation() const {
    return *mirror_.view().operations.find(OperationId("op-1"));
  }

  static StepOutcome busy() { return StepOutcome::again(make_error(Errc::unavailable, "busy")); }

  SimLoop loop_;
  MemoryStore store_{loop_, Rng(1), {}};
  NameSource names_;
  StoreMirror mirror_{loop_, store_};
  OperationRunner runner_{loop_, store_, mirror_, names_};
  OperationStepTable table_;
  std::map<std::string, StepOutcome> answers_;
  std::map<std::string, int> acted_;
};

TEST_F(Running, F_B3_steps_follow_one_another_and_each_is_kept) {
  begin(seconds(60));
  loop_.run_for(seconds(1));
  EXPECT_EQ(operation().state, OperationState::succeeded);
  EXPECT_EQ(operation().cursor, 2);
  ASSERT_EQ(operation().steps.size(), 2U);
  EXPECT_EQ(operation().steps[1].name, "second");
  EXPECT_EQ(runner_.active(), 0U);
}

TEST_F(Running, F_B3_a_step_that_is_not_possible_yet_is_tried_until_the_deadline) {
  answers_["second"] = busy();
  begin(seconds(60));
  loop_.run_for(seconds(59));
  EXPECT_EQ(operation().state, OperationState::running);
  loop_.run_for(seconds(2));
  EXPECT_EQ(operation().state, OperationState::failed);
  EXPECT_EQ(operation().error, "second did not end in time: busy");
  EXPECT_EQ(acted_["first"], 1);
}

/// The commit of the first step takes effect and its answer is lost; meanwhile the clock jumps.
TEST_F(Running, F_B3_F_F18_after_a_lost_commit_goes_on_with_the_patience_it_had) {
  for (const std::int64_t jump_s : {-86'400, 86'400}) {
    answers_["first"] = answers_["second"] = busy();
    begin(seconds(60));
    loop_.run_for(seconds(20));
    answers_["first"] = StepOutcome::done();
    const int tried = acted_["first"];
    ASSERT_TRUE(loop_.run_until_true([&] { return acted_["first"] > tried; }, seconds(5)));
    loop_.jump_wall(seconds(jump_s));
    MemoryStoreOptions lost;
    lost.unknown_done_per_million = 1'000'000;
    store_.set_options(lost);
    ASSERT_TRUE(loop_.run_until_true([&] { return acted_["second"] == 1; }, seconds(5)));
    store_.set_options({});
    EXPECT_EQ(acted_["first"], tried + 1) << "its commit had happened";
    loop_.run_for(seconds(30));
    EXPECT_EQ(operation().state, OperationState::running) << operation().error;
    loop_.run_for(seconds(12));
    EXPECT_EQ(operation().state, OperationState::failed);
    acted_.clear();
    Transaction transaction;
    transaction.erase(operation());
    store_.commit(transaction.guards(), transaction.writes(), [](Result<CommitOutcome>) {});
    loop_.run_for(seconds(1));
  }
}

TEST_F(Running, F_B3_F_B11_a_cancel_in_a_pause_between_two_tries_ends_it) {
  answers_["second"] = busy();
  begin(seconds(60));
  ASSERT_TRUE(loop_.run_until_true([&] { return acted_["second"] > 1; }, seconds(5)));
  loop_.run_for(milliseconds(50));  // the try has ended, the next is not due
  Operation asked = operation();
  asked.cancel_requested = true;
  Transaction transaction;
  transaction.put(asked);
  store_.commit(transaction.guards(), transaction.writes(), [](Result<CommitOutcome>) {});
  loop_.run_for(seconds(1));
  EXPECT_EQ(operation().state, OperationState::cancelled);
  EXPECT_EQ(runner_.active(), 0U);
}

}  // namespace
}  // namespace virga
