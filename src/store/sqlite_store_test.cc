#include "store/sqlite_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <sstream>

#include "../tests/tools/store_engines.h"
#include "base/rng.h"

namespace {
std::atomic<int> on_disk{0};  ///< how often this process has waited until data were on the disk
}  // namespace

/// SQLite's own call comes here, as the program's symbols go before those of libraries.
extern "C" int fdatasync(int file) {
  ++on_disk;
  return static_cast<int>(::syscall(SYS_fdatasync, file));
}

namespace virga {
namespace {

using test::removal;
using test::set;
using test::TestLoop;

std::string read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void write_all(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

struct SqliteStoreTest : testing::Test {
  Result<std::unique_ptr<SqliteStore>> open() {
    SqliteStoreOptions options;
    options.path = path;
    return SqliteStore::open(loop, options);
  }
  std::unique_ptr<SqliteStore> must_open() {
    auto store = open();
    EXPECT_TRUE(store.ok()) << store.error().text();
    return *std::move(store);
  }
  Result<CommitOutcome> commit(Store& store, std::vector<Write> writes) {
    return loop.wait<CommitOutcome>([&](Callback<CommitOutcome> done) {
      store.commit({}, std::move(writes), std::move(done));
    });
  }
  std::optional<KeyValue> get(Store& store, const std::string& key) {
    return *loop.wait<std::optional<KeyValue>>(
        [&](Callback<std::optional<KeyValue>> done) { store.get(key, std::move(done)); });
  }
  /// The error of opening the file, which must be the same bytes afterwards.
  Error refusal() {
    const std::string before = read_all(path);
    const auto store = open();
    EXPECT_FALSE(store.ok());
    EXPECT_EQ(read_all(path), before);
    return store.ok() ? Error() : store.error();
  }
  void run_sql(const std::string& sql) {
    auto database = sqlite::Database::open(path, sqlite::Database::Mode::create);
    ASSERT_TRUE(database.ok());
    const auto done = database->run(sql);
    ASSERT_TRUE(done.ok()) << done.error().text();
  }

  TestLoop loop;
  test::TempFolder folder;
  const std::string path = folder.file("store.db");
};

TEST_F(SqliteStoreTest, F_B2_ADatabaseOfSchema1IsBroughtUpToDate) {
  run_sql(R"(
    PRAGMA application_id = 1450338145;
    CREATE TABLE state (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE entries (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL,
                          created INTEGER NOT NULL, modified INTEGER NOT NULL);
    INSERT INTO state VALUES ('revision', 42);
    INSERT INTO entries VALUES ('vm/acme/web', CAST('{}' AS BLOB), 7, 41);
    PRAGMA user_version = 1;
  )");
  for (int run = 0; run < 2; ++run) {
    const auto store = must_open();
    const auto entry = get(*store, "vm/acme/web");
    ASSERT_TRUE(entry.has_value());
    EXPECT_EQ(entry->value, "{}");
    EXPECT_EQ(entry->created, 7u);
    EXPECT_EQ(entry->modified, 41u);
    EXPECT_EQ(commit(*store, {set("run", std::to_string(run))})->revision,
              43u + static_cast<Revision>(run));
  }
  EXPECT_EQ(verify_backup(path)->schema, 2);
}

TEST_F(SqliteStoreTest, F_B2_ANewerSchemaIsRefusedAndLeftUntouched) {
  must_open().reset();
  run_sql("PRAGMA journal_mode = DELETE; PRAGMA user_version = 3");
  const Error error = refusal();
  EXPECT_EQ(error.code, Errc::unsupported);
  EXPECT_NE(error.text().find("its schema is 3, this program knows up to 2"), std::string::npos)
      << error.text();
}

TEST_F(SqliteStoreTest, F_B2_WhatIsNoStoreIsRefusedAndLeftUntouched) {
  write_all(path, std::string(10'000, 'x'));
  EXPECT_EQ(refusal().code, Errc::invalid);
  write_all(path, "");
  EXPECT_EQ(refusal().code, Errc::invalid);
  std::filesystem::remove(path);
  run_sql("CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('mine')");
  const Error error = refusal();
  EXPECT_EQ(error.code, Errc::invalid);
  EXPECT_NE(error.text().find("not a Virga store"), std::string::npos) << error.text();
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  EXPECT_FALSE(open().ok());
}

TEST_F(SqliteStoreTest, F_B2_ADamagedDatabaseIsRefusedAndLeftUntouched) {
  {
    const auto store = must_open();
    for (int index = 0; index < 100; ++index) {
      ASSERT_TRUE(
          commit(*store, {set("key/" + std::to_string(index), std::string(2'000, 'v'))}).ok());
    }
  }
  const std::string sound = read_all(path);
  ASSERT_GT(sound.size(), 200'000u);
  Rng rng(5);
  int refused = 0;
  for (int round = 0; round < 20; ++round) {
    std::string damaged = sound;
    const std::size_t page = 4'096 * rng.below(sound.size() / 4'096);
    damaged.replace(page, 2'048, std::string(2'048, '\xa5'));
    write_all(path, damaged);
    // Free pages and the inside of values carry no structure; all else must be seen.
    const auto store = open();
    if (store.ok()) continue;
    ++refused;
    EXPECT_TRUE(store.error().code == Errc::internal || store.error().code == Errc::invalid)
        << store.error().text();
    EXPECT_EQ(read_all(path), damaged);
  }
  EXPECT_GE(refused, 10);
  write_all(path, sound.substr(0, sound.size() / 2));
  EXPECT_EQ(refusal().code, Errc::internal);
}

TEST_F(SqliteStoreTest, F_B2_ALogWithoutItsDatabaseIsNotThrownAway) {
  write_all(path + "-wal", "the only copy of something");
  const auto store = open();
  ASSERT_FALSE(store.ok());
  EXPECT_EQ(read_all(path + "-wal"), "the only copy of something");
}

TEST_F(SqliteStoreTest, F_B2_OneProcessHasTheFileOpen) {
  auto store = must_open();
  const auto second = open();
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, Errc::conflict);
  EXPECT_NE(second.error().text().find("process " + std::to_string(::getpid())), std::string::npos);
  store.reset();
  EXPECT_TRUE(open().ok());
}

TEST_F(SqliteStoreTest, F_B2_AMissingFolderIsNamed) {
  SqliteStoreOptions options;
  options.path = folder.file("missing/store.db");
  const auto store = SqliteStore::open(loop, options);
  ASSERT_FALSE(store.ok());
  EXPECT_EQ(store.error().code, Errc::not_found);
  EXPECT_NE(store.error().text().find("missing/store.db"), std::string::npos);
}

TEST_F(SqliteStoreTest, F_B2_WhatIsAnsweredIsOnTheDisk) {
  const auto store = must_open();
  for (int number = 0; number < 3; ++number) {
    const int before = on_disk;
    ASSERT_TRUE(commit(*store, {set("key", "value")}).ok());
    EXPECT_GT(on_disk, before) << "commit " << number;
  }
}

TEST_F(SqliteStoreTest, F_B2_CommitsThatWaitTogetherShareATransaction) {
  const auto store = must_open();
  int answered = 0;
  for (int index = 0; index < 200; ++index) {
    store->commit({}, {set("k" + std::to_string(index), "v")}, [&](Result<CommitOutcome> outcome) {
      EXPECT_EQ(outcome->verdict, CommitVerdict::committed);
      ++answered;
    });
  }
  ASSERT_TRUE(loop.run_until([&] { return answered == 200; }));
  EXPECT_EQ(store->stats().commits, 200u);
  EXPECT_EQ(store->stats().transactions, 1u);
  EXPECT_EQ(store->stats().queued, 0u);
}

TEST_F(SqliteStoreTest, F_B2_ACommitThatTheDiskHoldsTooLongIsUnknownAndMayStillHappen) {
  const auto store = must_open();
  auto other = sqlite::Database::open(path, sqlite::Database::Mode::read_write);
  ASSERT_TRUE(other->run("BEGIN IMMEDIATE").ok());
  std::vector<CommitVerdict> verdicts;
  store->commit({}, {set("k", "v")}, [&](Result<CommitOutcome> outcome) {
    ASSERT_TRUE(outcome.ok());
    verdicts.push_back(outcome->verdict);
  });
  loop.advance(seconds(9));
  EXPECT_TRUE(verdicts.empty());
  loop.advance(seconds(1));
  EXPECT_EQ(verdicts, std::vector<CommitVerdict>{CommitVerdict::unknown});
  EXPECT_FALSE(get(*store, "k").has_value());
  ASSERT_TRUE(other->run("ROLLBACK").ok());
  ASSERT_TRUE(loop.run_until([&] { return store->stats().commits == 1; }));
  EXPECT_TRUE(get(*store, "k").has_value());
  EXPECT_EQ(verdicts.size(), 1u);
}

TEST_F(SqliteStoreTest, F_B2_TheQueueIsBounded) {
  SqliteStoreOptions options;
  options.path = path;
  options.queue_jobs_max = 10;
  options.queue_bytes_max = 100'000;
  auto opened = SqliteStore::open(loop, options);
  ASSERT_TRUE(opened.ok());
  const auto store = *std::move(opened);
  int committed = 0;
  int refused = 0;
  const auto count = [&](Result<CommitOutcome> outcome) {
    if (!outcome.ok()) {
      EXPECT_EQ(outcome.error().code, Errc::exhausted);
    }
    ++(outcome.ok() ? committed : refused);
  };
  for (int index = 0; index < 30; ++index)
    store->commit({}, {set("k" + std::to_string(index), "v")}, count);
  ASSERT_TRUE(loop.run_until([&] { return committed + refused == 30; }));
  EXPECT_EQ(committed, 10);
  store->commit({}, {set("large", std::string(100'000, 'v'))}, count);
  ASSERT_TRUE(loop.run_until([&] { return committed + refused == 31; }));
  EXPECT_EQ(refused, 21);
  store->commit({}, {set("small", "v")}, count);
  ASSERT_TRUE(loop.run_until([&] { return committed == 11; }));
}

/// Runs `body` in a child process that may be killed. It writes to the pipe that the parent reads.
template <typename Body>
pid_t start_child(int pipe_ends[2], Body body) {
  VIRGA_CHECK(::pipe2(pipe_ends, O_CLOEXEC) == 0);
  const pid_t child = ::fork();
  VIRGA_CHECK(child >= 0);
  if (child == 0) {
    ::close(pipe_ends[0]);
    ::alarm(120);
    body(pipe_ends[1]);
    ::_exit(0);
  }
  ::close(pipe_ends[1]);
  return child;
}

/// Eight writers without end; the number of each acknowledged write goes to the pipe.
void commit_for_ever(const std::string& path, int pipe) {
  TestLoop loop;
  SqliteStoreOptions options;
  options.path = path;
  auto store = *SqliteStore::open(loop, options);
  std::function<void(int)> write = [&](int number) {
    const std::string text = std::to_string(number);
    store->commit({}, {set("left/" + text, text), set("right/" + text, text)},
                  [&, number](Result<CommitOutcome> done) {
                    if (::write(pipe, &number, sizeof(number)) != sizeof(number) || !done.ok())
                      ::_exit(1);
                    write(number + 8);
                  });
  };
  for (int writer = 0; writer < 8; ++writer) write(writer * 1'000'000);
  loop.run_until([] { return false; }, seconds(100));
}

TEST_F(SqliteStoreTest, F_F1_KillingTheServerLosesNoAcknowledgedWriteAndTearsNone) {
  Rng rng(11);
  for (int round = 0; round < 12; ++round) {
    std::filesystem::remove_all(path);
    int pipe_ends[2];
    const pid_t child = start_child(pipe_ends, [&](int pipe) { commit_for_ever(path, pipe); });
    std::vector<int> acknowledged;
    int number = 0;
    const std::size_t enough = 1 + rng.below(400);
    while (acknowledged.size() < enough &&
           ::read(pipe_ends[0], &number, sizeof(number)) == sizeof(number)) {
      acknowledged.push_back(number);
    }
    ::kill(child, SIGKILL);
    while (::read(pipe_ends[0], &number, sizeof(number)) == sizeof(number))
      acknowledged.push_back(number);
    ::close(pipe_ends[0]);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    ASSERT_GE(acknowledged.size(), enough);

    const auto store = must_open();
    for (const int each : acknowledged) {
      ASSERT_TRUE(get(*store, "left/" + std::to_string(each)).has_value()) << "round " << round;
    }
    const auto page = loop.wait<Page>([&](Callback<Page> done) {
      store->list({"", "", 0, 1000}, std::move(done));
    });
    for (const KeyValue& entry : page->entries) {
      const auto slash = entry.key.find('/');
      const std::string twin = (entry.key[0] == 'l' ? "right" : "left") + entry.key.substr(slash);
      ASSERT_TRUE(get(*store, twin).has_value()) << entry.key << " came without its other half";
    }
  }
}

/// A disk of its own, `size` large, under `at`: mounted in a namespace that ends with the process.
void mount_small_disk(const std::string& at, const char* size) {
  const int spaces = ::geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWNS | CLONE_NEWUSER;
  VIRGA_CHECK(::unshare(spaces) == 0);
  VIRGA_CHECK(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
  VIRGA_CHECK(::mount("virga-test", at.c_str(), "tmpfs", 0, size) == 0);
}

/// Fills the disk through the store, then makes room; tells what went wrong, or "good".
std::string live_through_a_full_disk(const std::string& folder) {
  mount_small_disk(folder, "size=4m");
  const std::string ballast = folder + "/ballast";
  write_all(ballast, std::string(1 << 20, 'b'));
  TestLoop loop;
  SqliteStoreOptions options;
  options.path = folder + "/store.db";
  auto store = *SqliteStore::open(loop, options);
  const auto commit = [&](const std::string& key, std::size_t bytes) {
    return loop.wait<CommitOutcome>([&](Callback<CommitOutcome> done) {
      store->commit({}, {set(key, std::string(bytes, 'v'))}, std::move(done));
    });
  };
  const auto has = [&](const std::string& key) {
    const auto found = loop.wait<std::optional<KeyValue>>(
        [&](Callback<std::optional<KeyValue>> done) { store->get(key, std::move(done)); });
    return found.ok() && found->has_value();
  };
  int stored = 0;
  Result<CommitOutcome> outcome = commit("k0", 50'000);
  while (outcome.ok() && stored < 1'000) outcome = commit("k" + std::to_string(++stored), 50'000);
  if (outcome.ok() || stored < 2) return "the disk was never full";
  const auto again = commit("again", 50'000);
  if (outcome.error().code != Errc::exhausted) return "refused with " + outcome.error().text();
  if (again.ok() || again.error().code != Errc::exhausted) return "the second refusal differs";
  if (has("k" + std::to_string(stored)) || !has("k0"))
    return "a refused commit shows, or one is lost";
  std::filesystem::remove(ballast);
  const auto room = commit("room", 50'000);
  if (!room.ok()) return "with room again: " + room.error().text();
  if (room->revision != static_cast<Revision>(stored) + 1)
    return "a refused commit took a revision";
  store.reset();
  store = *SqliteStore::open(loop, options);
  for (int index = 0; index < stored; ++index) {
    if (!has("k" + std::to_string(index))) return "lost k" + std::to_string(index);
  }
  return has("room") && !has("again") ? "good" : "wrong after the restart";
}

TEST_F(SqliteStoreTest, F_F13_AFullDiskRefusesAndTheStoreGoesOnWhenThereIsRoom) {
  int pipe_ends[2];
  const pid_t child = start_child(pipe_ends, [&](int pipe) {
    const std::string story = live_through_a_full_disk(folder.path());
    if (::write(pipe, story.data(), story.size()) < 0) ::_exit(1);
  });
  char story[400] = {};
  EXPECT_GE(::read(pipe_ends[0], story, sizeof(story) - 1), 0);
  ::close(pipe_ends[0]);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_STREQ(story, "good");
}

/// The disk gives an input/output error in the middle of a write: RLIMIT_FSIZE does to the log what
/// a dying disk does.
void commit_until_the_disk_fails(const std::string& path, int pipe) {
  TestLoop loop;
  SqliteStoreOptions options;
  options.path = path;
  auto store = *SqliteStore::open(loop, options);
  ::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{300'000, 300'000};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  std::string story;
  const auto commit = [&](const std::string& key) {
    return loop.wait<CommitOutcome>([&](Callback<CommitOutcome> done) {
      store->commit({}, {set(key, std::string(20'000, 'v'))}, std::move(done));
    });
  };
  for (int index = 0; index < 100; ++index) {
    const auto outcome = commit("k" + std::to_string(index));
    const bool sure = outcome.ok() && outcome->verdict == CommitVerdict::committed;
    story += sure                                        ? 'c'
             : outcome.ok()                              ? 'u'
             : outcome.error().code == Errc::unavailable ? 'x'
                                                         : '?';
    if (!sure) break;
  }
  const auto later = commit("later");
  story += !later.ok() && later.error().code == Errc::unavailable ? 'x' : '?';
  const auto read = loop.wait<std::optional<KeyValue>>(
      [&](Callback<std::optional<KeyValue>> done) { store->get("k0", std::move(done)); });
  story += !read.ok() && read.error().code == Errc::unavailable ? 'x' : '?';
  if (::write(pipe, story.data(), story.size()) < 0) ::_exit(1);
}

TEST_F(SqliteStoreTest, F_B2_AFailingDiskEndsInUnknownAndThenNothingMore) {
  int pipe_ends[2];
  const pid_t child =
      start_child(pipe_ends, [&](int pipe) { commit_until_the_disk_fails(path, pipe); });
  char story[200] = {};
  const auto size = ::read(pipe_ends[0], story, sizeof(story) - 1);
  ::close(pipe_ends[0]);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  ASSERT_GT(size, 4);
  const std::string told(story);
  const std::size_t committed = told.find_first_not_of('c');
  EXPECT_GE(committed, 1u);
  EXPECT_EQ(told.substr(committed), "uxx") << told;
  const auto store = must_open();
  for (std::size_t index = 0; index < committed; ++index) {
    EXPECT_TRUE(get(*store, "k" + std::to_string(index)).has_value());
  }
}

TEST_F(SqliteStoreTest, F_B2_TheLogIsMovedIntoTheFileWhileItIsUsed) {
  const auto store = must_open();
  for (int index = 0; index < 400; ++index) {
    ASSERT_TRUE(commit(*store, {set("k", std::string(100'000, 'v'))}).ok());
  }
  EXPECT_LT(std::filesystem::file_size(path + "-wal"), 30u << 20);
}

}  // namespace
}  // namespace virga
