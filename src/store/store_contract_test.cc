#include <gtest/gtest.h>

#include "../tests/tools/store_engines.h"

namespace virga {
namespace {

using test::removal;
using test::set;
using test::TestLoop;

struct SeenCommit {
  Revision revision = 0;
  std::vector<std::string> changes;  ///< "key=value" or "-key"
  friend bool operator==(const SeenCommit&, const SeenCommit&) = default;
};

struct Seen {
  std::vector<SeenCommit> commits;
  std::vector<Revision> compacted;

  WatchSink sink() {
    return {[this](Revision revision, std::vector<Change> changes) {
              SeenCommit& commit = commits.emplace_back();
              commit.revision = revision;
              for (const Change& change : changes) {
                EXPECT_EQ(change.entry.modified, revision);
                commit.changes.push_back(change.removed
                                             ? "-" + change.entry.key
                                             : change.entry.key + "=" + change.entry.value);
              }
            },
            [this](Revision revision) { compacted.push_back(revision); }};
  }
};

template <typename Engine>
class StoreContract : public testing::Test {
 protected:
  Result<CommitOutcome> commit(std::vector<Guard> guards, std::vector<Write> writes) {
    return loop.wait<CommitOutcome>([&](Callback<CommitOutcome> done) {
      store->commit(std::move(guards), std::move(writes), std::move(done));
    });
  }
  Revision must_commit(std::vector<Write> writes, std::vector<Guard> guards = {}) {
    const auto outcome = commit(std::move(guards), std::move(writes));
    EXPECT_TRUE(outcome.ok());
    EXPECT_EQ(outcome->verdict, CommitVerdict::committed);
    return outcome->revision;
  }
  std::optional<KeyValue> get(const std::string& key) {
    auto found = loop.wait<std::optional<KeyValue>>(
        [&](Callback<std::optional<KeyValue>> done) { store->get(key, std::move(done)); });
    EXPECT_TRUE(found.ok());
    return *std::move(found);
  }
  Result<Page> list(ListRequest request) {
    return loop.wait<Page>([&](Callback<Page> done) { store->list(request, std::move(done)); });
  }
  std::vector<std::string> keys(const std::string& prefix = "") {
    const auto page = list({prefix, "", 0, 1000});
    EXPECT_TRUE(page.ok());
    std::vector<std::string> names;
    for (const KeyValue& entry : page->entries) names.push_back(entry.key);
    return names;
  }
  StoreLeaseId grant(Duration time_to_live) {
    const auto lease = loop.wait<StoreLeaseId>(
        [&](Callback<StoreLeaseId> done) { store->grant(time_to_live, std::move(done)); });
    EXPECT_TRUE(lease.ok());
    return *lease;
  }
  Result<void> renew(StoreLeaseId lease) {
    return loop.wait<void>([&](Callback<void> done) { store->renew(lease, std::move(done)); });
  }
  Result<void> revoke(StoreLeaseId lease) {
    return loop.wait<void>([&](Callback<void> done) { store->revoke(lease, std::move(done)); });
  }
  Result<void> compact(Revision revision) {
    return loop.wait<void>([&](Callback<void> done) { store->compact(revision, std::move(done)); });
  }
  void reopen() {
    store.reset();
    store = engine.open(loop);
  }

  TestLoop loop;
  Engine engine;
  std::unique_ptr<Store> store = engine.open(loop);
};

using Engines = testing::Types<test::MemoryEngine, test::FileEngine>;
TYPED_TEST_SUITE(StoreContract, Engines);

TYPED_TEST(StoreContract, F_B2_KeysCarryTheRevisionsOfTheirCommits) {
  EXPECT_EQ(this->must_commit({set("a", "1"), set("b", "2")}), 1u);
  EXPECT_EQ(this->must_commit({set("a", "3")}), 2u);
  const auto a = this->get("a");
  ASSERT_TRUE(a.has_value());
  EXPECT_EQ(a->value, "3");
  EXPECT_EQ(a->created, 1u);
  EXPECT_EQ(a->modified, 2u);
  EXPECT_EQ(this->must_commit({removal("a"), set("c", "")}), 3u);
  EXPECT_FALSE(this->get("a").has_value());
  EXPECT_EQ(this->get("c")->value, "");
  EXPECT_EQ(this->must_commit({set("a", "4")}), 4u);
  EXPECT_EQ(this->get("a")->created, 4u);
  EXPECT_EQ(this->keys(), (std::vector<std::string>{"a", "b", "c"}));
}

TYPED_TEST(StoreContract, F_B2_AllGuardsOrNothing) {
  this->must_commit({set("a", "1")}, {{"a", 0}});
  const auto lost = this->commit({{"a", 1}, {"b", 5}}, {set("a", "2"), set("x", "2")});
  ASSERT_TRUE(lost.ok());
  EXPECT_EQ(lost->verdict, CommitVerdict::conflict);
  EXPECT_EQ(lost->revision, 1u);
  EXPECT_EQ(this->get("a")->value, "1");
  EXPECT_FALSE(this->get("x").has_value());
  EXPECT_EQ(this->commit({{"a", 0}}, {set("a", "2")})->verdict, CommitVerdict::conflict);
  EXPECT_EQ(this->commit({{"a", 1}, {"b", 0}}, {set("a", "2")})->verdict, CommitVerdict::committed);
}

TYPED_TEST(StoreContract, F_B2_OfManyWritersWithOneGuardOneWins) {
  int won = 0;
  int lost = 0;
  for (int writer = 0; writer < 100; ++writer) {
    this->store->commit({{"leader", 0}}, {set("leader", std::to_string(writer))},
                        [&](Result<CommitOutcome> outcome) {
                          ASSERT_TRUE(outcome.ok());
                          ++(outcome->verdict == CommitVerdict::committed ? won : lost);
                        });
  }
  ASSERT_TRUE(this->loop.run_until([&] { return won + lost == 100; }));
  EXPECT_EQ(won, 1);
  EXPECT_EQ(this->get("leader")->value, "0");
}

TYPED_TEST(StoreContract, F_B2_ACommitThatChangesNothingHasNoRevisionOfItsOwn) {
  this->must_commit({set("a", "1")});
  EXPECT_EQ(this->must_commit({}, {{"a", 1}}), 1u);
  EXPECT_EQ(this->must_commit({removal("never-was")}), 1u);
  EXPECT_EQ(this->must_commit({set("a", "1")}), 2u);
}

TYPED_TEST(StoreContract, F_B2_ACompletionNeverComesBeforeItsCallReturned) {
  bool returned = false;
  int called = 0;
  const auto after = [&](const auto&) {
    EXPECT_TRUE(returned);
    ++called;
  };
  this->store->commit({}, {set("", "no key")}, after);
  this->store->commit({}, {set("a", "1")}, after);
  this->store->get("a", after);
  this->store->list({}, after);
  this->store->renew(99, after);
  this->store->compact(0, after);
  this->store->grant(seconds(1), after);
  returned = true;
  ASSERT_TRUE(this->loop.run_until([&] { return called == 7; }));
}

TYPED_TEST(StoreContract, F_B2_LimitsAreHeldBeforeAnythingHappens) {
  std::vector<Write> many;
  for (int index = 0; index < 129; ++index) many.push_back(set("k" + std::to_string(index), "v"));
  EXPECT_EQ(this->commit({}, many).error().code, Errc::invalid);
  many.pop_back();
  EXPECT_EQ(this->commit({{"guard", 0}}, many).error().code, Errc::invalid);
  const std::string value(512 << 10, 'v');
  const std::string key(512, 'k');
  EXPECT_EQ(this->commit({}, {set("a", value + "v")}).error().code, Errc::invalid);
  EXPECT_EQ(this->commit({}, {set(key + "k", "v")}).error().code, Errc::invalid);
  EXPECT_EQ(this->commit({{key + "k", 0}}, {}).error().code, Errc::invalid);
  EXPECT_EQ(this->commit({}, {set("", "v")}).error().code, Errc::invalid);
  EXPECT_EQ(this->commit({}, {set("a", "1"), removal("a")}).error().code, Errc::invalid);
  EXPECT_EQ(this->commit({{"a", 0}, {"a", 1}}, {}).error().code, Errc::invalid);
  EXPECT_TRUE(this->keys().empty());
  EXPECT_EQ(this->must_commit(many), 1u);
  EXPECT_EQ(this->must_commit({set(key, value)}), 2u);
  EXPECT_EQ(this->get(key)->value, value);
}

TYPED_TEST(StoreContract, F_B2_AnyBytesAreKeptInKeysAndValues) {
  const std::string odd("\0\xff'\"\n%_\x01", 8);
  this->must_commit({set("k" + odd, odd), set("../climb", "x"), set("k", "short")});
  this->reopen();
  EXPECT_EQ(this->get("k" + odd)->value, odd);
  EXPECT_EQ(this->keys("k"), (std::vector<std::string>{"k", "k" + odd}));
  EXPECT_EQ(this->keys("%"), std::vector<std::string>{});
}

TYPED_TEST(StoreContract, F_B2_AWatchGetsEveryCommitOnceInOrderAndWhole) {
  Seen all;
  Seen hosts;
  const auto watch_all = this->store->watch("", 0, all.sink());
  const auto watch_hosts = this->store->watch("host/", 0, hosts.sink());
  this->must_commit({set("host/a", "1"), set("vm/x", "1"), set("host/b", "1")});
  this->must_commit({set("vm/x", "2")});
  this->must_commit({removal("host/a"), set("host/b", "3")});
  ASSERT_TRUE(
      this->loop.run_until([&] { return all.commits.size() >= 3 && hosts.commits.size() >= 2; }));
  this->loop.run_ready();
  EXPECT_EQ(all.commits, (std::vector<SeenCommit>{{1, {"host/a=1", "vm/x=1", "host/b=1"}},
                                                  {2, {"vm/x=2"}},
                                                  {3, {"-host/a", "host/b=3"}}}));
  EXPECT_EQ(hosts.commits,
            (std::vector<SeenCommit>{{1, {"host/a=1", "host/b=1"}}, {3, {"-host/a", "host/b=3"}}}));
}

TYPED_TEST(StoreContract, F_B2_AWatchStartsInThePastAlsoAfterARestart) {
  this->must_commit({set("a", "1")});
  this->must_commit({set("b", "2")});
  this->must_commit({removal("a")});
  this->reopen();
  this->must_commit({set("c", "4")});
  Seen seen;
  const auto watch = this->store->watch("", 1, seen.sink());
  ASSERT_TRUE(this->loop.run_until([&] { return seen.commits.size() >= 3; }));
  EXPECT_EQ(seen.commits, (std::vector<SeenCommit>{{2, {"b=2"}}, {3, {"-a"}}, {4, {"c=4"}}}));
  EXPECT_TRUE(seen.compacted.empty());
}

TYPED_TEST(StoreContract, F_B2_AWatchSeesACommitBeforeItsWriterIsAnswered) {
  Seen seen;
  const auto watch = this->store->watch("", 0, seen.sink());
  this->loop.run_ready();
  this->must_commit({set("a", "1")});
  EXPECT_EQ(seen.commits.size(), 1u);
}

TYPED_TEST(StoreContract, F_B2_NothingIsDeliveredAfterAWatchEnded) {
  Seen seen;
  auto watch = this->store->watch("", 0, seen.sink());
  this->must_commit({set("a", "1")});
  watch.reset();
  this->must_commit({set("a", "2")});
  this->loop.run_ready();
  EXPECT_EQ(seen.commits.size(), 1u);

  int calls = 0;
  auto guard = std::make_shared<int>(0);
  const std::weak_ptr<int> captured = guard;
  watch = this->store->watch("", 0,
                             {[&, guard = std::move(guard)](Revision, std::vector<Change>) {
                                ++calls;
                                watch.reset();
                                EXPECT_FALSE(captured.expired());
                              },
                              nullptr});
  ASSERT_TRUE(this->loop.run_until([&] { return calls > 0; }));
  this->must_commit({set("a", "3")});
  this->loop.run_ready();
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(captured.expired());
}

TYPED_TEST(StoreContract, F_B2_AStoreMayBeDestroyedByWhatItCalls) {
  std::unique_ptr<Watch> watch = this->store->watch(
      "", 0, {[&](Revision, std::vector<Change>) { this->store.reset(); }, nullptr});
  this->store->commit({}, {set("a", "1")},
                      [](Result<CommitOutcome>) { FAIL() << "a completion of a dead store"; });
  ASSERT_TRUE(this->loop.run_until([&] { return this->store == nullptr; }));
  this->loop.run_ready();
  watch.reset();
  this->store = this->engine.open(this->loop);
  EXPECT_EQ(this->keys(), std::vector<std::string>{"a"});
  this->store->get("a", [&](Result<std::optional<KeyValue>>) { this->store.reset(); });
  ASSERT_TRUE(this->loop.run_until([&] { return this->store == nullptr; }));
}

TYPED_TEST(StoreContract, F_B2_CompactionEndsWatchesOnceAndRefusesOldLists) {
  for (int value = 1; value <= 5; ++value) this->must_commit({set("a", std::to_string(value))});
  ASSERT_TRUE(this->compact(4).ok());
  Seen old;
  Seen recent;
  const auto watch_old = this->store->watch("", 2, old.sink());
  const auto watch_recent = this->store->watch("", 3, recent.sink());
  ASSERT_TRUE(
      this->loop.run_until([&] { return !old.compacted.empty() && recent.commits.size() == 2; }));
  this->must_commit({set("a", "6")});
  this->loop.run_ready();
  EXPECT_EQ(old.compacted, std::vector<Revision>{3});
  EXPECT_TRUE(old.commits.empty());
  EXPECT_EQ(recent.commits.size(), 3u);
  EXPECT_EQ(this->list({"", "", 2, 10}).error().code, Errc::invalid);
  EXPECT_EQ(this->list({"", "", 4, 10})->entries.at(0).value, "4");
  EXPECT_EQ(this->list({"", "", 7, 10}).error().code, Errc::invalid);
  EXPECT_EQ(this->compact(99).error().code, Errc::invalid);
}

TYPED_TEST(StoreContract, F_B2_HistoryIsBoundedAlsoOverRestarts) {
  for (int value = 1; value <= 100; ++value) this->must_commit({set("a", std::to_string(value))});
  for (int run = 0; run < 2; ++run) {
    Seen old;
    Seen recent;
    const auto watch_old = this->store->watch("", 20, old.sink());
    const auto watch_recent = this->store->watch("", 90, recent.sink());
    ASSERT_TRUE(this->loop.run_until(
        [&] { return !old.compacted.empty() && recent.commits.size() == 10; }));
    EXPECT_EQ(old.compacted, std::vector<Revision>{60});
    this->reopen();
  }
}

TYPED_TEST(StoreContract, F_B2_PagesAreReadAtOneRevisionWhileOthersWrite) {
  for (int index = 10; index < 30; ++index)
    this->must_commit({set("k/" + std::to_string(index), "old")});
  ListRequest request{"k/", "", 0, 7};
  std::vector<std::string> read;
  for (int page_number = 0;; ++page_number) {
    const auto page = this->list(request);
    ASSERT_TRUE(page.ok());
    EXPECT_EQ(page->revision, 20u);
    for (const KeyValue& entry : page->entries) read.push_back(entry.key + "=" + entry.value);
    if (!page->more) break;
    request.after = page->entries.back().key;
    request.revision = page->revision;
    this->must_commit({set("k/28", "new"), removal("k/29"), set("k/205", "between")});
    this->must_commit({set("k/29", "again"), removal("k/27")});
  }
  std::vector<std::string> expected;
  for (int index = 10; index < 30; ++index)
    expected.push_back("k/" + std::to_string(index) + "=old");
  EXPECT_EQ(read, expected);
  EXPECT_EQ(this->list({"k/", "k/28", 0, 1})->entries.at(0).value, "again");
  EXPECT_FALSE(this->list({"k/", "k/28", 0, 1})->more);
}

TYPED_TEST(StoreContract, F_B2_ReadsSeeAllThatWasAcknowledged) {
  for (int value = 0; value < 50; ++value) {
    this->must_commit({set("a", std::to_string(value))});
    EXPECT_EQ(this->get("a")->value, std::to_string(value));
  }
}

TYPED_TEST(StoreContract, F_B2_AnAcknowledgedCommitSurvivesARestart) {
  const StoreLeaseId lease = this->grant(seconds(10));
  this->must_commit({set("a", "1"), set("b", "2", lease)});
  this->must_commit({removal("a")});
  this->reopen();
  EXPECT_EQ(this->keys(), std::vector<std::string>{"b"});
  EXPECT_EQ(this->get("b")->lease, lease);
  EXPECT_EQ(this->get("b")->created, 1u);
  EXPECT_EQ(this->must_commit({set("a", "3")}), 3u);
}

TYPED_TEST(StoreContract, F_B2_TheKeysOfALeaseGoTogetherWhenItEnds) {
  const StoreLeaseId lease = this->grant(seconds(10));
  const StoreLeaseId other = this->grant(seconds(100));
  EXPECT_NE(lease, other);
  this->must_commit(
      {set("a", "1", lease), set("b", "1", lease), set("c", "1", other), set("d", "1", lease)});
  this->must_commit({set("d", "2")});
  Seen seen;
  const auto watch = this->store->watch("", 2, seen.sink());
  this->loop.advance(seconds(9));
  EXPECT_TRUE(this->renew(lease).ok());
  this->loop.advance(seconds(9));
  EXPECT_EQ(this->keys().size(), 4u);
  this->loop.advance(seconds(1));
  ASSERT_TRUE(this->loop.run_until([&] { return !seen.commits.empty(); }));
  EXPECT_EQ(seen.commits, (std::vector<SeenCommit>{{3, {"-a", "-b"}}}));
  EXPECT_EQ(this->renew(lease).error().code, Errc::not_found);
  EXPECT_EQ(this->revoke(lease).error().code, Errc::not_found);
  EXPECT_EQ(this->commit({}, {set("e", "1", lease)}).error().code, Errc::not_found);
  EXPECT_EQ(this->commit({}, {set("e", "1", 999)}).error().code, Errc::not_found);
  EXPECT_TRUE(this->revoke(other).ok());
  EXPECT_EQ(this->keys(), std::vector<std::string>{"d"});
}

TYPED_TEST(StoreContract, F_B2_ALeaseCountsInFullAfterARestartAndItsNumberIsNotGivenAgain) {
  const StoreLeaseId lease = this->grant(seconds(10));
  this->must_commit({set("a", "1", lease)});
  this->loop.advance(seconds(9));
  this->reopen();
  this->loop.advance(seconds(9));
  EXPECT_EQ(this->keys().size(), 1u);
  EXPECT_TRUE(this->renew(lease).ok());
  EXPECT_TRUE(this->revoke(lease).ok());
  this->reopen();
  EXPECT_TRUE(this->keys().empty());
  EXPECT_GT(this->grant(seconds(1)), lease);
}

}  // namespace
}  // namespace virga
