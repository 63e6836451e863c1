#include <rapidcheck.h>

#include <map>

#include "../tests/tools/store_engines.h"

namespace virga {
namespace {

using test::removal;
using test::set;
using test::TestLoop;

struct Step {
  std::vector<std::pair<int, int>> writes;  ///< key, value; a value below 3 removes
  int guard_key = 0;
  bool guard_right = true;
};

rc::Gen<Step> any_step() {
  return rc::gen::build<Step>(
      rc::gen::set(&Step::writes,
                   rc::gen::container<std::vector<std::pair<int, int>>>(
                       rc::gen::pair(rc::gen::inRange(0, 12), rc::gen::inRange(0, 10)))),
      rc::gen::set(&Step::guard_key, rc::gen::inRange(0, 12)),
      rc::gen::set(&Step::guard_right, rc::gen::weightedElement<bool>({{4, true}, {1, false}})));
}

std::string model_key(int number) { return "key/" + std::to_string(number); }

using Model = std::map<std::string, std::pair<std::string, Revision>>;

/// What the contract says about one commit, in its simplest form. True when it is committed.
bool run_on_model(Model& model, Revision& revision, const Guard& guard,
                  const std::vector<Write>& writes) {
  const auto guarded = model.find(guard.key);
  if (guard.modified != (guarded == model.end() ? 0 : guarded->second.second)) return false;
  bool changed = false;
  for (const Write& write : writes) {
    if (write.value) model[write.key] = {*write.value, revision + 1};
    changed = (write.value ? true : model.erase(write.key) > 0) || changed;
  }
  revision += changed ? 1 : 0;
  return true;
}

std::pair<Guard, std::vector<Write>> commit_of(const Step& step, const Model& model) {
  const std::map<int, int> once(step.writes.begin(), step.writes.end());
  std::vector<Write> writes;
  for (const auto& [key, value] : once) {
    writes.push_back(value < 3 ? removal(model_key(key))
                               : set(model_key(key), std::to_string(value)));
  }
  const auto guarded = model.find(model_key(step.guard_key));
  const Revision modified = guarded == model.end() ? 0 : guarded->second.second;
  return {{model_key(step.guard_key), modified + (step.guard_right ? 0 : 1)}, std::move(writes)};
}

/// Runs the steps on a store and on the map; then opens the store again.
template <typename Engine>
void agree(const std::vector<Step>& steps) {
  TestLoop loop;
  Engine engine;
  auto store = engine.open(loop);
  Model model;
  Model watched;
  Revision revision = 0;
  const WatchSink sink{[&](Revision at, std::vector<Change> changes) {
                         for (const Change& change : changes) {
                           if (change.removed) watched.erase(change.entry.key);
                           if (!change.removed)
                             watched[change.entry.key] = {change.entry.value, at};
                         }
                       },
                       nullptr};
  auto watch = store->watch("key/", 0, sink);
  for (const Step& step : steps) {
    const auto [guard, writes] = commit_of(step, model);
    const bool committed = run_on_model(model, revision, guard, writes);
    const auto outcome = loop.wait<CommitOutcome>(
        [&](Callback<CommitOutcome> done) { store->commit({guard}, writes, std::move(done)); });
    RC_ASSERT(outcome.ok());
    RC_ASSERT((outcome->verdict == CommitVerdict::committed) == committed);
    RC_ASSERT(outcome->revision == revision);
  }
  loop.run_ready();
  RC_ASSERT(watched == model);
  watch.reset();
  store.reset();
  store = engine.open(loop);
  const auto page = loop.wait<Page>([&](Callback<Page> done) { store->list({}, std::move(done)); });
  RC_ASSERT(page.ok());
  Model stored;
  for (const KeyValue& entry : page->entries) stored[entry.key] = {entry.value, entry.modified};
  RC_ASSERT(stored == model);
}

TEST(StoreModel, F_B2_RandomCommitsInMemoryAgreeWithAPlainMap) {
  EXPECT_TRUE(rc::check("memory store == map", [] {
    agree<test::MemoryEngine>(*rc::gen::container<std::vector<Step>>(any_step()));
  }));
}

TEST(StoreModel, F_B2_RandomCommitsInTheFileAgreeWithAPlainMap) {
  EXPECT_TRUE(rc::check("SQLite store == map", [] {
    // Every step waits for the disk, so the histories are shorter than those in memory.
    agree<test::FileEngine>(
        *rc::gen::resize(25, rc::gen::container<std::vector<Step>>(any_step())));
  }));
}

}  // namespace
}  // namespace virga
