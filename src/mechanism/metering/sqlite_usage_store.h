#pragma once

#include <functional>
#include <memory>

#include "base/loop.h"
#include "mechanism/metering/usage_file.h"
#include "store/batch_thread.h"

namespace virga::metering {

/// UsageFile with a thread for writing and one for reading, so that a long bill delays no window.
class SqliteUsageStore final : public UsageStore {
 public:
  /// `path`: in an existing folder; not the store's file. Errors: as UsageFile::open.
  static Result<std::unique_ptr<SqliteUsageStore>> open(Loop& loop, const std::string& path,
                                                        Retention retention = {});

  /// Finishes what was begun; completions that did not come yet never come.
  ~SqliteUsageStore() override;

  void load(std::int64_t now_ms, Callback<MeterState> done) override;
  void keep(Window window, Callback<void> done) override;

  /// Errors: exhausted (kReadsMax wait already).
  void points(PointsQuery query, Callback<std::vector<UsageStep>> done) override;
  void ledger(LedgerQuery query, Callback<std::vector<LedgerEntry>> done) override;

  static constexpr std::size_t kReadsMax = 64;

 private:
  using Job = std::function<void()>;

  SqliteUsageStore(Loop& loop, sqlite::FileLock lock, UsageFile to_write, UsageFile to_read);

  template <typename T>
  Job job(std::function<Result<T>()> work, Callback<T> done);
  template <typename T>
  void read(std::function<Result<T>()> work, Callback<T> done);

  Loop& loop_;
  const sqlite::FileLock lock_;
  UsageFile to_write_;
  UsageFile to_read_;
  std::size_t reading_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::unique_ptr<BatchThread<Job>> write_thread_;
  std::unique_ptr<BatchThread<Job>> read_thread_;
};

}  // namespace virga::metering
