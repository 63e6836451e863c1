#include "store/memory_store.h"

#include <gtest/gtest.h>

#include "../tests/tools/test_loop.h"

namespace virga {
namespace {

using test::TestLoop;

constexpr std::uint32_t kAlways = 1'000'000;

struct MemoryStoreTest : testing::Test {
  Result<CommitOutcome> commit(MemoryStore& store, std::vector<Guard> guards, std::string key) {
    return loop.wait<CommitOutcome>([&](Callback<CommitOutcome> done) {
      store.commit(std::move(guards), {{std::move(key), "1", 0}}, std::move(done));
    });
  }

  TestLoop loop;
};

TEST_F(MemoryStoreTest, F_B2_AnUnknownOutcomeMayHaveHappenedOrNot) {
  MemoryStore store(loop, Rng(1));
  MemoryStoreOptions options;
  options.unknown_done_per_million = kAlways;
  store.set_options(options);
  EXPECT_EQ(commit(store, {}, "done")->verdict, CommitVerdict::unknown);
  EXPECT_NE(store.disk()->state.find("done"), nullptr);
  options = {};
  options.unknown_lost_per_million = kAlways;
  store.set_options(options);
  EXPECT_EQ(commit(store, {}, "lost")->verdict, CommitVerdict::unknown);
  EXPECT_EQ(store.disk()->state.find("lost"), nullptr);
}

TEST_F(MemoryStoreTest, F_B2_AGuardMakesARetryAfterUnknownSafe) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    MemoryStoreOptions options;
    options.unknown_done_per_million = 300'000;
    options.unknown_lost_per_million = 300'000;
    MemoryStore store(loop, Rng(seed), options);
    CommitVerdict verdict = CommitVerdict::unknown;
    while (verdict == CommitVerdict::unknown)
      verdict = commit(store, {{"once", 0}}, "once")->verdict;
    EXPECT_EQ(store.disk()->state.revision(), 1u) << "seed " << seed;
  }
}

TEST_F(MemoryStoreTest, F_B2_SlowCommitsKeepTheirOrderAndTheirTime) {
  MemoryStoreOptions options;
  options.commit_delay_min = milliseconds(10);
  options.commit_delay_max = milliseconds(500);
  MemoryStore store(loop, Rng(3), options);
  std::vector<Revision> answered;
  for (int index = 0; index < 50; ++index) {
    store.commit({}, {{"k", std::to_string(index), 0}},
                 [&](Result<CommitOutcome> outcome) { answered.push_back(outcome->revision); });
  }
  loop.advance(milliseconds(9));
  EXPECT_TRUE(answered.empty());
  loop.advance(milliseconds(491));
  ASSERT_EQ(answered.size(), 50u);
  EXPECT_TRUE(std::is_sorted(answered.begin(), answered.end()));
  EXPECT_EQ(store.disk()->state.find("k")->value, "49");
}

TEST_F(MemoryStoreTest, F_B2_CompactionOnDemandOfTheSeed) {
  MemoryStoreOptions options;
  options.compact_per_million = kAlways;
  MemoryStore store(loop, Rng(1), options);
  ASSERT_TRUE(commit(store, {}, "a").ok());
  Revision compacted = 0;
  const auto watch =
      store.watch("", 0, {nullptr, [&](Revision revision) { compacted = revision; }});
  loop.run_ready();
  EXPECT_EQ(compacted, 1u);
}

TEST_F(MemoryStoreTest, F_F13_AFullDiskRefusesAndRecovers) {
  MemoryStore store(loop, Rng(1));
  store.disk()->full = true;
  EXPECT_EQ(commit(store, {}, "a").error().code, Errc::exhausted);
  store.disk()->full = false;
  EXPECT_EQ(commit(store, {}, "a")->revision, 1u);
}

TEST_F(MemoryStoreTest, F_F1_WhatWasNotAppliedWhenTheProcessDiesNeverHappens) {
  MemoryStoreOptions options;
  options.commit_delay_min = options.commit_delay_max = seconds(1);
  auto store = std::make_unique<MemoryStore>(loop, Rng(1), options);
  const auto disk = store->disk();
  store->commit({}, {{"a", "1", 0}}, [](Result<CommitOutcome>) { FAIL(); });
  store.reset();
  loop.advance(seconds(2));
  EXPECT_EQ(disk->state.revision(), 0u);
}

}  // namespace
}  // namespace virga
