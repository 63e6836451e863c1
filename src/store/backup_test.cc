#include "store/backup.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "../tests/tools/store_engines.h"

namespace virga {
namespace {

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

struct BackupTest : testing::Test {
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
  Result<BackupInfo> backup(SqliteStore& store, const std::string& to) {
    return loop.wait<BackupInfo>(
        [&](Callback<BackupInfo> done) { store.backup(to, std::move(done)); });
  }

  TestLoop loop;
  test::TempFolder folder;
  const std::string path = folder.file("store.db");
};

TEST_F(BackupTest, F_B2_ABackupOfARunningStoreIsOneMoment) {
  const auto store = must_open();
  ASSERT_TRUE(commit(*store, {set("before", "1"), set("left", "0"), set("right", "0")}).ok());
  bool running = true;
  int number = 0;
  std::function<void()> write = [&] {
    const std::string text = std::to_string(++number);
    store->commit(
        {}, {set("left", text), set("right", text), set("fill/" + text, std::string(5'000, 'v'))},
        [&](Result<CommitOutcome>) {
          if (running) write();
        });
  };
  write();
  ASSERT_TRUE(loop.run_until([&] { return number > 20; }));
  const std::string copy = folder.file("backup.db");
  const auto info = backup(*store, copy);
  running = false;
  ASSERT_TRUE(info.ok()) << info.error().text();
  EXPECT_GT(info->revision, 20u);
  EXPECT_EQ(backup(*store, copy).error().code, Errc::conflict);
  EXPECT_FALSE(std::filesystem::exists(copy + "-wal"));
  EXPECT_FALSE(std::filesystem::exists(copy + ".partial"));

  SqliteStoreOptions options;
  options.path = copy;
  auto opened = SqliteStore::open(loop, options);
  ASSERT_TRUE(opened.ok()) << opened.error().text();
  EXPECT_EQ(get(**opened, "before")->value, "1");
  EXPECT_EQ(get(**opened, "left")->value, get(**opened, "right")->value);
  EXPECT_EQ(get(**opened, "left")->modified, info->revision);
}

TEST_F(BackupTest, F_F11_ARestoreBeginsANewIncarnationThatNoOldRevisionFits) {
  const std::string copy = folder.file("backup.db");
  Revision old_revision = 0;
  {
    const auto store = must_open();
    ASSERT_TRUE(commit(*store, {set(kIncarnationKey, "3"), set("vm/acme/web", "old")}).ok());
    ASSERT_TRUE(backup(*store, copy).ok());
    old_revision = commit(*store, {set("vm/acme/web", "new")})->revision;
    EXPECT_EQ(restore_backup(copy, path).error().code, Errc::conflict);
  }
  const std::string live = read_all(path);
  EXPECT_EQ(restore_backup(copy, path).error().code, Errc::conflict);
  EXPECT_EQ(read_all(path), live);
  EXPECT_EQ(verify_backup(copy)->incarnation, 3u);

  const std::string restored = folder.file("restored.db");
  const auto info = restore_backup(copy, restored);
  ASSERT_TRUE(info.ok()) << info.error().text();
  EXPECT_EQ(info->incarnation, 4u);
  EXPECT_EQ(info->keys, 2u);
  SqliteStoreOptions options;
  options.path = restored;
  const auto store = *SqliteStore::open(loop, options);
  EXPECT_EQ(get(*store, "vm/acme/web")->value, "old");
  EXPECT_EQ(get(*store, kIncarnationKey)->value, "4");
  EXPECT_GT(get(*store, kIncarnationKey)->modified, old_revision);
  const auto stale = loop.wait<CommitOutcome>([&](Callback<CommitOutcome> done) {
    store->commit({{"vm/acme/web", old_revision}}, {set("vm/acme/web", "late")}, std::move(done));
  });
  EXPECT_EQ(stale->verdict, CommitVerdict::conflict);
  Revision compacted = 0;
  const auto watch =
      store->watch("", old_revision, {nullptr, [&](Revision revision) { compacted = revision; }});
  ASSERT_TRUE(loop.run_until([&] { return compacted != 0; }));
}

TEST_F(BackupTest, F_F11_ARestoreBeginsAboveTheLastLifeThatItIsToldOf) {
  const std::string old = folder.file("old.db");
  {
    const auto store = must_open();
    ASSERT_TRUE(commit(*store, {set(kIncarnationKey, "1")}).ok());
    ASSERT_TRUE(backup(*store, old).ok());
  }
  const auto first = restore_backup(old, folder.file("first.db"));
  const auto second = restore_backup(old, folder.file("second.db"), first->incarnation);
  EXPECT_EQ(first->incarnation, 2u);
  EXPECT_EQ(second->incarnation, 3u);
  EXPECT_GE(second->revision, first->revision + kRestoreRevisionStep)
      << "what the first life did comes not again with another meaning";
}

TEST_F(BackupTest, F_B2_ARestoreOfABadBackupLeavesNothing) {
  const std::string bad = folder.file("bad.db");
  write_all(bad, std::string(8'192, 'x'));
  EXPECT_EQ(verify_backup(bad).error().code, Errc::invalid);
  EXPECT_EQ(verify_backup(folder.file("none.db")).error().code, Errc::not_found);
  EXPECT_FALSE(restore_backup(bad, path).ok());
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_FALSE(std::filesystem::exists(path + ".restored"));
}

TEST_F(BackupTest, F_B2_ABackupToWhereThereIsNoFolderSaysSo) {
  const auto store = must_open();
  EXPECT_FALSE(backup(*store, folder.file("missing/backup.db")).ok());
  EXPECT_TRUE(backup(*store, folder.file("backup.db")).ok());
  EXPECT_EQ(verify_backup(folder.file("backup.db"))->incarnation, 0u);
  EXPECT_EQ(restore_backup(folder.file("backup.db"), folder.file("restored.db"))->incarnation, 1u);
}

}  // namespace
}  // namespace virga
