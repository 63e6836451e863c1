#include "runtime/store_mirror.h"

#include <gtest/gtest.h>

#include <set>

#include "model/keys.h"
#include "sim/sim_loop.h"
#include "store/memory_store.h"

namespace virga {
namespace {

class StoreMirrorTest : public testing::Test {
 protected:
  void commit(const std::string& key, std::optional<std::string> value) {
    bool done = false;
    store_.commit({}, {{key, std::move(value)}}, [&](Result<CommitOutcome> outcome) {
      EXPECT_TRUE(outcome.ok());
      done = true;
    });
    EXPECT_TRUE(loop_.run_until_true([&] { return done; }, seconds(5)));
  }
  void put(const char* name) {
    Machine machine;
    machine.meta.name = name;
    commit(keys::of(machine.id()), to_json_text(machine));
  }

  SimLoop loop_;
  MemoryStore store_{loop_, Rng(1), {}};
  StoreMirror mirror_{loop_, store_};
};

TEST_F(StoreMirrorTest, F_B2_WhatWentWhileHistoryWasLostIsTold) {
  put("kept");
  put("gone");
  mirror_.open([](const Result<void>& ready) { EXPECT_TRUE(ready.ok()); });
  ASSERT_TRUE(
      loop_.run_until_true([&] { return mirror_.view().machines.size() == 2; }, seconds(5)));
  std::set<std::string> removed;
  mirror_.listen([&](const std::vector<Change>& changes) {
    for (const Change& change : changes) {
      if (change.removed) removed.insert(change.entry.key);
    }
  });
  StoreState& state = store_.disk()->state;  // beside the store, so that no watch hears of it
  state.apply({{"machine/gone", std::nullopt}});
  ASSERT_TRUE(state.compact(state.revision() + 1).ok());
  put("new");
  EXPECT_TRUE(loop_.run_until_true([&] { return !removed.empty(); }, seconds(5)));
  EXPECT_EQ(removed, std::set<std::string>{"machine/gone"});
  EXPECT_EQ(mirror_.view().machines.find(MachineId("gone")), nullptr);
}

}  // namespace
}  // namespace virga
