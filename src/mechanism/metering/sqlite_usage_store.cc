#include "mechanism/metering/sqlite_usage_store.h"

#include <fmt/format.h>

#include <utility>

namespace virga::metering {

Result<std::unique_ptr<SqliteUsageStore>> SqliteUsageStore::open(Loop& loop,
                                                                 const std::string& path,
                                                                 Retention retention) {
  auto lock = sqlite::FileLock::take(path);
  if (!lock) return lock.error();
  auto to_write = UsageFile::open(path, retention);
  if (!to_write) return to_write.error();
  auto to_read = UsageFile::open_to_read(path);
  if (!to_read) return to_read.error();
  return std::unique_ptr<SqliteUsageStore>(
      new SqliteUsageStore(loop, *std::move(lock), *std::move(to_write), *std::move(to_read)));
}

SqliteUsageStore::SqliteUsageStore(Loop& loop, sqlite::FileLock lock, UsageFile to_write,
                                   UsageFile to_read)
    : loop_(loop),
      lock_(std::move(lock)),
      to_write_(std::move(to_write)),
      to_read_(std::move(to_read)) {
  const auto run = [](std::vector<Job> jobs) {
    for (const Job& job : jobs) job();
  };
  write_thread_ = std::make_unique<BatchThread<Job>>(1, run);
  read_thread_ = std::make_unique<BatchThread<Job>>(1, run);
}

SqliteUsageStore::~SqliteUsageStore() {
  *alive_ = false;
  read_thread_.reset();
  write_thread_.reset();
}

template <typename T>
SqliteUsageStore::Job SqliteUsageStore::job(std::function<Result<T>()> work, Callback<T> done) {
  return [this, alive = alive_, work = std::move(work), done = std::move(done)] {
    auto result = std::make_shared<Result<T>>(work());
    loop_.post([alive, result, done] {
      if (*alive) done(std::move(*result));
    });
  };
}

template <typename T>
void SqliteUsageStore::read(std::function<Result<T>()> work, Callback<T> done) {
  if (reading_ >= kReadsMax) {
    return answer<T>(
        loop_, std::move(done),
        make_error(Errc::exhausted, fmt::format("read usage: {} reads wait already", kReadsMax)));
  }
  ++reading_;
  std::vector<Job> jobs;
  jobs.push_back(job<T>(std::move(work), [this, done = std::move(done)](Result<T> result) {
    --reading_;
    done(std::move(result));
  }));
  read_thread_->push(std::move(jobs));
}

void SqliteUsageStore::load(std::int64_t now_ms, Callback<MeterState> done) {
  std::vector<Job> jobs;
  jobs.push_back(
      job<MeterState>([this, now_ms] { return to_write_.load(now_ms); }, std::move(done)));
  write_thread_->push(std::move(jobs));
}

void SqliteUsageStore::keep(Window window, Callback<void> done) {
  auto held = std::make_shared<Window>(std::move(window));
  std::vector<Job> jobs;
  jobs.push_back(job<void>([this, held] { return to_write_.keep(*held); }, std::move(done)));
  write_thread_->push(std::move(jobs));
}

void SqliteUsageStore::points(PointsQuery query, Callback<std::vector<UsageStep>> done) {
  read<std::vector<UsageStep>>([this, query = std::move(query)] { return to_read_.points(query); },
                               std::move(done));
}

void SqliteUsageStore::ledger(LedgerQuery query, Callback<std::vector<LedgerEntry>> done) {
  read<std::vector<LedgerEntry>>(
      [this, query = std::move(query)] { return to_read_.ledger(query); }, std::move(done));
}

}  // namespace virga::metering
