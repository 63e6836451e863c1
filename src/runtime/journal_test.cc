#include "runtime/journal.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "../tests/tools/temp_folder.h"
#include "../tests/tools/test_loop.h"
#include "runtime/journal_audit.h"
#include "runtime/memory_journal.h"
#include "runtime/sqlite_journal.h"

namespace virga {
namespace {

using test::TestLoop;

struct InMemory {
  static constexpr bool kOutlivesRestart = false;
  std::unique_ptr<Journal> open(TestLoop& loop) { return std::make_unique<MemoryJournal>(loop); }
};

struct InFile {
  static constexpr bool kOutlivesRestart = true;
  test::TempFolder folder;

  std::unique_ptr<Journal> open(TestLoop& loop) {
    auto journal = SqliteJournal::open(loop, {folder.file("journal.db")});
    EXPECT_TRUE(journal.ok()) << journal.error().text();
    return *std::move(journal);
  }
};

Event event(std::string kind, std::string subject = "", std::string tenant = "") {
  Event made;
  made.kind = std::move(kind);
  made.subject = std::move(subject);
  made.tenant = std::move(tenant);
  made.at = {1'700'000'000'123};
  made.facts["epoch"] = "1.42";
  return made;
}

template <typename Kind>
class JournalContract : public testing::Test {
 protected:
  std::uint64_t append(std::string source, Event entry) {
    const auto sequence = loop.wait<std::uint64_t>([&](Callback<std::uint64_t> done) {
      journal->append(std::move(source), std::move(entry), std::move(done));
    });
    EXPECT_TRUE(sequence.ok());
    return *sequence;
  }
  std::vector<std::uint64_t> read(JournalQuery query) {
    const auto events = loop.wait<std::vector<Event>>(
        [&](Callback<std::vector<Event>> done) { journal->read(query, std::move(done)); });
    EXPECT_TRUE(events.ok());
    std::vector<std::uint64_t> sequences;
    for (const Event& each : *events) sequences.push_back(each.sequence);
    return sequences;
  }
  void trim(std::size_t entries_max) {
    EXPECT_TRUE(
        loop.wait<void>([&](Callback<void> done) { journal->trim(entries_max, std::move(done)); })
            .ok());
  }

  TestLoop loop;
  Kind kind;
  std::unique_ptr<Journal> journal = kind.open(loop);
};

using Sequences = std::vector<std::uint64_t>;
using Kinds = testing::Types<InMemory, InFile>;
TYPED_TEST_SUITE(JournalContract, Kinds);

TYPED_TEST(JournalContract, F_B3_EntriesGetSequencesWithoutGapsAndKeepEverything) {
  int answered = 0;
  for (int index = 0; index < 300; ++index) {
    this->journal->append("outbox/" + std::to_string(index), event("vm.started", "vm/a/b", "a"),
                          [&answered](Result<std::uint64_t> sequence) {
                            EXPECT_EQ(*sequence, static_cast<std::uint64_t>(++answered));
                          });
  }
  ASSERT_TRUE(this->loop.run_until([&] { return answered == 300; }));
  const auto events =
      this->loop.template wait<std::vector<Event>>([&](Callback<std::vector<Event>> done) {
        this->journal->read({299, false, 100, "", "", ""}, std::move(done));
      });
  ASSERT_EQ(events->size(), 1u);
  EXPECT_EQ(events->at(0).sequence, 300u);
  EXPECT_EQ(events->at(0).kind, "vm.started");
  EXPECT_EQ(events->at(0).at.unix_ms, 1'700'000'000'123);
  EXPECT_EQ(events->at(0).facts.at("epoch"), "1.42");
}

TYPED_TEST(JournalContract, F_B3_ASourceIsWrittenOnce) {
  EXPECT_EQ(this->append("outbox/1", event("a")), 1u);
  EXPECT_EQ(this->append("outbox/2", event("b")), 2u);
  EXPECT_EQ(this->append("outbox/1", event("a")), 1u);
  EXPECT_EQ(this->append("", event("c")), 3u);
  EXPECT_EQ(this->append("", event("c")), 4u);
  EXPECT_EQ(this->read({}), (Sequences{1, 2, 3, 4}));
  this->trim(1);
  EXPECT_EQ(this->append("outbox/2", event("b")), 2u);
  EXPECT_EQ(this->read({}), Sequences{4});
}

TYPED_TEST(JournalContract, F_B3_ReadsFilterAndPageBothWays) {
  for (int round = 0; round < 3; ++round) {
    this->append("", event("host.suspect", "host/1"));
    this->append("", event("vm.started", "vm/acme/web", "acme"));
    this->append("", event("vm.stopped", "vm/zeta/db", "zeta"));
  }
  EXPECT_EQ(this->read({0, false, 2, "", "", ""}), (Sequences{1, 2}));
  EXPECT_EQ(this->read({2, false, 2, "", "", ""}), (Sequences{3, 4}));
  EXPECT_EQ(this->read({0, true, 2, "", "", ""}), (Sequences{9, 8}));
  EXPECT_EQ(this->read({8, true, 3, "", "", ""}), (Sequences{7, 6, 5}));
  EXPECT_EQ(this->read({0, false, 100, "vm.", "", ""}), (Sequences{2, 3, 5, 6, 8, 9}));
  EXPECT_EQ(this->read({0, false, 100, "%", "", ""}), Sequences{});
  EXPECT_EQ(this->read({0, false, 100, "", "host/1", ""}), (Sequences{1, 4, 7}));
  EXPECT_EQ(this->read({0, true, 2, "vm.s", "", "acme"}), (Sequences{8, 5}));
  EXPECT_EQ(this->read({9, false, 100, "", "", ""}), Sequences{});
  EXPECT_EQ(this->read({1, true, 100, "", "", ""}), Sequences{});
}

TYPED_TEST(JournalContract, F_B3_FollowersGetNewEntriesUntilTheyLetGo) {
  this->append("", event("before"));
  Sequences first;
  Sequences second;
  auto follow_first =
      this->journal->follow([&](const Event& entry) { first.push_back(entry.sequence); });
  auto follow_second = this->journal->follow([&](const Event& entry) {
    second.push_back(entry.sequence);
    follow_first.reset();
  });
  this->append("x", event("after"));
  this->append("x", event("after"));
  follow_second.reset();
  this->append("", event("late"));
  EXPECT_EQ(first, Sequences{2});
  EXPECT_EQ(second, Sequences{2});
}

TYPED_TEST(JournalContract, F_B3_TrimDropsTheOldestAndNumbersGoOn) {
  for (int index = 0; index < 10; ++index) this->append("", event("a"));
  this->trim(3);
  EXPECT_EQ(this->read({}), (Sequences{8, 9, 10}));
  this->trim(5);
  this->trim(0);
  EXPECT_EQ(this->read({}), Sequences{});
  EXPECT_EQ(this->append("", event("b")), 11u);
}

TYPED_TEST(JournalContract, F_B3_NothingIsCalledAfterTheJournalIsGone) {
  const auto token = this->journal->follow([&](const Event&) { this->journal.reset(); });
  this->journal->append("", event("a"), [](Result<std::uint64_t>) { FAIL(); });
  this->journal->read({}, [](Result<std::vector<Event>>) {});
  ASSERT_TRUE(this->loop.run_until([&] { return this->journal == nullptr; }));
  this->loop.run_ready();
}

TYPED_TEST(JournalContract, F_B3_WhatWasAcknowledgedIsThereAfterARestart) {
  this->append("outbox/1", event("a"));
  this->trim(0);
  this->append("outbox/2", event("b"));
  if constexpr (TypeParam::kOutlivesRestart) {
    this->journal.reset();
    this->journal = this->kind.open(this->loop);
  }
  EXPECT_EQ(this->read({}), Sequences{2});
  EXPECT_EQ(this->append("outbox/1", event("a")), 1u);
  EXPECT_EQ(this->append("outbox/3", event("c")), 3u);
}

TEST(SqliteJournalTest, F_B3_AStoreFileIsNoJournalAndTwoDoNotShareOne) {
  TestLoop loop;
  const test::TempFolder folder;
  const std::string path = folder.file("journal.db");
  {
    auto other = sqlite::Database::open(path, sqlite::Database::Mode::create);
    ASSERT_TRUE(
        other->run("PRAGMA application_id = 1450338145; CREATE TABLE entries (key TEXT)").ok());
  }
  EXPECT_EQ(SqliteJournal::open(loop, {path}).error().code, Errc::invalid);
  const std::string fresh = folder.file("fresh.db");
  const auto journal = SqliteJournal::open(loop, {fresh});
  ASSERT_TRUE(journal.ok());
  EXPECT_EQ(SqliteJournal::open(loop, {fresh}).error().code, Errc::conflict);
}

/// A journal of ten entries in a file that a test changes behind its back.
class JournalAuditTest : public testing::Test {
 protected:
  JournalAuditTest() { append(10); }

  void append(int count) {
    const auto journal = SqliteJournal::open(loop, {path});
    ASSERT_TRUE(journal.ok()) << journal.error().text();
    for (int index = 0; index < count; ++index) {
      const auto done = loop.wait<std::uint64_t>([&](Callback<std::uint64_t> told) {
        (*journal)->append("", event("vm.started", "vm/acme/web", "acme"), std::move(told));
      });
      ASSERT_TRUE(done.ok());
    }
  }
  void trim(std::size_t kept) {
    const auto journal = *SqliteJournal::open(loop, {path});
    ASSERT_TRUE(
        loop.wait<void>([&](Callback<void> done) { journal->trim(kept, std::move(done)); }).ok());
  }
  void tamper(const std::string& sql) {
    auto database = sqlite::Database::open(path, sqlite::Database::Mode::read_write);
    ASSERT_TRUE(database.ok());
    ASSERT_TRUE(database->run(sql).ok());
  }
  void remove_journal() {
    for (const char* part : {"", "-wal", "-shm"}) std::filesystem::remove(path + part);
  }
  void expect_found(const std::string& words,
                    const std::optional<JournalPoint>& known = std::nullopt) {
    const auto audit = audit_journal(path, known);
    ASSERT_FALSE(audit.ok());
    EXPECT_EQ(audit.error().code, Errc::conflict);
    EXPECT_NE(audit.error().text().find(words), std::string::npos) << audit.error().text();
  }

  TestLoop loop;
  const test::TempFolder folder;
  const std::string path = folder.file("journal.db");
};

TEST_F(JournalAuditTest, R_B10_AJournalThatNobodyChangedIsSound) {
  const auto audit = audit_journal(path, std::nullopt);
  ASSERT_TRUE(audit.ok()) << audit.error().text();
  EXPECT_EQ(audit->entries, 10U);
  EXPECT_EQ(audit->first, 1U);
  EXPECT_EQ(audit->head.sequence, 10U);
  append(5);
  const auto later = audit_journal(path, audit->head);
  ASSERT_TRUE(later.ok()) << later.error().text();
  EXPECT_EQ(later->entries, 15U);
  trim(4);
  const auto trimmed = audit_journal(path, later->head);
  ASSERT_TRUE(trimmed.ok()) << trimmed.error().text();
  EXPECT_EQ(trimmed->first, 12U);
  EXPECT_EQ(audit_journal(path, audit->head).error().code, Errc::not_found) << "it was trimmed";
  trim(0);
  append(1);
  EXPECT_TRUE(audit_journal(path, std::nullopt).ok());
}

TEST_F(JournalAuditTest, R_B10_WhatWasChangedRemovedOrMovedIsFound) {
  const std::pair<const char*, const char*> cases[] = {
      {"UPDATE entries SET event = replace(event, 'acme', 'evil') WHERE sequence = 4",
       "entry 4 was changed"},
      {"UPDATE entries SET event = (SELECT event FROM entries WHERE sequence = 6) "
       "WHERE sequence = 5",
       "entry 5 was changed"},
      {"DELETE FROM entries WHERE sequence = 7", "entry 7 is missing"},
      {"DELETE FROM entries WHERE sequence > 8", "entry 9 and all after it are missing"},
      {"DELETE FROM entries WHERE sequence < 3", "entry 3 was changed, or one before it"},
      {"DELETE FROM entries", "entry 1 and all after it are missing"},
  };
  const std::string clean = folder.file("clean.db");
  tamper("VACUUM INTO '" + clean + "'");
  for (const auto& [sql, words] : cases) {
    tamper(sql);
    expect_found(words);
    remove_journal();
    std::filesystem::copy_file(clean, path);
  }
  EXPECT_TRUE(audit_journal(path, std::nullopt).ok());
}

TEST_F(JournalAuditTest, R_B10_AChainThatWasRewrittenDoesNotFitWhatWasNoted) {
  const auto noted = audit_journal(path, std::nullopt);
  ASSERT_TRUE(noted.ok());
  remove_journal();
  append(10);  // other entries, well chained
  ASSERT_TRUE(audit_journal(path, std::nullopt).ok());
  JournalPoint other = noted->head;
  other.hash = std::string(64, '0');
  expect_found("has another hash than was noted", other);
  expect_found("are missing: 12 was noted", JournalPoint{12, noted->head.hash});
  EXPECT_FALSE(parse_journal_point("10").ok());
  EXPECT_FALSE(parse_journal_point("x:" + noted->head.hash).ok());
  EXPECT_EQ(parse_journal_point("10:" + noted->head.hash)->sequence, 10U);
}

TEST_F(JournalAuditTest, R_B10_AJournalOfBeforeBeginsItsChain) {
  tamper(
      "UPDATE entries SET hash = ''; UPDATE chain SET hash = '';"
      "ALTER TABLE entries DROP COLUMN hash; DROP TABLE chain; PRAGMA user_version = 1");
  EXPECT_EQ(audit_journal(path, std::nullopt).error().code, Errc::unsupported);
  append(3);
  const auto audit = audit_journal(path, std::nullopt);
  ASSERT_TRUE(audit.ok()) << audit.error().text();
  EXPECT_EQ(audit->before_chain, 10U);
  EXPECT_EQ(audit->entries, 3U);
}

void append_for_ever(const std::string& path, int pipe) {
  TestLoop loop;
  const auto journal = *SqliteJournal::open(loop, {path});
  std::uint64_t asked = 0;
  std::function<void()> append = [&] {
    journal->append("source/" + std::to_string(++asked), event("a"),
                    [&](Result<std::uint64_t> sequence) {
                      if (::write(pipe, &*sequence, sizeof(*sequence)) != sizeof(*sequence))
                        ::_exit(1);
                      append();
                    });
  };
  for (int writer = 0; writer < 4; ++writer) append();
  loop.run_until([] { return false; }, seconds(100));
}

TEST(SqliteJournalTest, F_F1_KillingTheServerLosesNoAcknowledgedEntry) {
  const test::TempFolder folder;
  const std::string path = folder.file("journal.db");
  for (std::uint64_t round = 1; round <= 5; ++round) {
    int pipe_ends[2];
    ASSERT_EQ(::pipe(pipe_ends), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      ::close(pipe_ends[0]);
      ::alarm(120);
      append_for_ever(path, pipe_ends[1]);
      ::_exit(0);
    }
    ::close(pipe_ends[1]);
    std::uint64_t acknowledged = 0;
    std::uint64_t sequence = 0;
    while (acknowledged < round * 60 &&
           ::read(pipe_ends[0], &sequence, sizeof(sequence)) == sizeof(sequence)) {
      acknowledged = std::max(acknowledged, sequence);
    }
    ::kill(child, SIGKILL);
    while (::read(pipe_ends[0], &sequence, sizeof(sequence)) == sizeof(sequence)) {
      acknowledged = std::max(acknowledged, sequence);
    }
    ::close(pipe_ends[0]);
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    ASSERT_GE(acknowledged, round * 60);

    TestLoop loop;
    const auto journal = *SqliteJournal::open(loop, {path});
    const auto events = loop.wait<std::vector<Event>>([&](Callback<std::vector<Event>> done) {
      journal->read({0, false, 1'000, "", "", ""}, std::move(done));
    });
    ASSERT_GE(events->size(), acknowledged);
    for (std::size_t index = 0; index < events->size(); ++index)
      ASSERT_EQ(events->at(index).sequence, index + 1);
  }
}

}  // namespace
}  // namespace virga
