#include <fmt/format.h>

#include <ctime>

#include "store/sqlite_store.h"
#include "tools/temp_folder.h"
#include "tools/test_loop.h"

/// Figures of the store on the disk under $TMPDIR: one line each, `name value unit`.
namespace virga {
namespace {

using test::TestLoop;

constexpr int kVms = 40'000;
constexpr int kRounds = 3;

double now_seconds() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

void print(const std::string& name, double value, const std::string& unit) {
  fmt::print("{} {:.2f} {}\n", name, value, unit);
}

std::unique_ptr<SqliteStore> open(TestLoop& loop, const std::string& path) {
  SqliteStoreOptions options;
  options.path = path;
  auto store = SqliteStore::open(loop, options);
  VIRGA_CHECK(store.ok());
  return *std::move(store);
}

std::string vm_key(int number) {
  return fmt::format("vm/tenant-{:03}/vm-{:05}", number % 200, number);
}

struct Rate {
  double per_second = 0;
  double per_fsync = 0;
};

/// Each writer changes its own key, guarded by the last revision, and starts anew when answered.
Rate measure_writers(TestLoop& loop, SqliteStore& store, int writers, int round) {
  constexpr double kDuration = 1.5;
  const StoreStats before = store.stats();
  const double start = now_seconds();
  int running = 0;
  std::vector<Revision> modified(static_cast<std::size_t>(writers), 0);
  std::function<void(int)> write = [&](int writer) {
    const std::string key = fmt::format("bench/{}/{}/{}", round, writers, writer);
    auto& revision = modified[static_cast<std::size_t>(writer)];
    store.commit({{key, revision}}, {{key, std::string(1'000, 'v'), 0}},
                 [&, writer](Result<CommitOutcome> outcome) {
                   VIRGA_CHECK(outcome.ok() && outcome->verdict == CommitVerdict::committed);
                   revision = outcome->revision;
                   if (now_seconds() - start < kDuration) return write(writer);
                   --running;
                 });
  };
  for (int writer = 0; writer < writers; ++writer) {
    ++running;
    write(writer);
  }
  VIRGA_CHECK(loop.run_until([&] { return running == 0; }, seconds(60)));
  const double elapsed = now_seconds() - start;
  const StoreStats after = store.stats();
  const auto commits = static_cast<double>(after.commits - before.commits);
  return {commits / elapsed,
          commits / static_cast<double>(after.transactions - before.transactions)};
}

/// Interleaved, so that what else the disk does meets both alike.
void bench_group_commit(TestLoop& loop, SqliteStore& store) {
  Rate one;
  Rate many;
  for (int round = 0; round < kRounds; ++round) {
    const Rate single = measure_writers(loop, store, 1, round);
    const Rate group = measure_writers(loop, store, 64, round);
    one.per_second += single.per_second / kRounds;
    many.per_second += group.per_second / kRounds;
    many.per_fsync += group.per_fsync / kRounds;
  }
  print("store_commits_1_writer", one.per_second, "per_s");
  print("store_commits_64_writers", many.per_second, "per_s");
  print("store_commits_64_writers_over_1", many.per_second / one.per_second, "times");
  print("store_commits_per_fsync_64_writers", many.per_fsync, "commits");
}

void fill(TestLoop& loop, SqliteStore& store) {
  int answered = 0;
  for (int number = 0; number < kVms; number += 100) {
    std::vector<Write> writes;
    for (int each = number; each < number + 100; ++each)
      writes.push_back({vm_key(each), std::string(1'000, 'v'), 0});
    store.commit({}, std::move(writes), [&](Result<CommitOutcome> outcome) {
      VIRGA_CHECK(outcome.ok());
      answered += 100;
    });
  }
  VIRGA_CHECK(loop.run_until([&] { return answered == kVms; }));
}

void bench_list(TestLoop& loop, SqliteStore& store) {
  const double start = now_seconds();
  ListRequest request{"vm/", "", 0, 1'000};
  std::size_t read = 0;
  while (true) {
    const auto page =
        loop.wait<Page>([&](Callback<Page> done) { store.list(request, std::move(done)); });
    VIRGA_CHECK(page.ok());
    read += page->entries.size();
    if (!page->more) break;
    request.after = page->entries.back().key;
    request.revision = page->revision;
  }
  VIRGA_CHECK(read == kVms);
  print("store_list_40000_vms", (now_seconds() - start) * 1e3, "ms");
}

void bench_backup(TestLoop& loop, SqliteStore& store, const std::string& to) {
  const double start = now_seconds();
  const auto info =
      loop.wait<BackupInfo>([&](Callback<BackupInfo> done) { store.backup(to, std::move(done)); });
  VIRGA_CHECK(info.ok());
  print("store_backup_40000_vms", now_seconds() - start, "s");
  print("store_file_40000_vms", static_cast<double>(info->bytes.value) / 1e6, "MB");
}

void run() {
  TestLoop loop(TestLoop::Clock::real);
  const test::TempFolder folder;
  const std::string path = folder.file("store.db");
  auto store = open(loop, path);
  bench_group_commit(loop, *store);
  fill(loop, *store);
  bench_list(loop, *store);
  bench_backup(loop, *store, folder.file("backup.db"));
  store.reset();
  const double start = now_seconds();
  store = open(loop, path);
  print("store_open_40000_vms", now_seconds() - start, "s");
}

}  // namespace
}  // namespace virga

int main() { virga::run(); }
