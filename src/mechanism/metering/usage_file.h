#pragma once

#include "mechanism/metering/usage_store.h"
#include "store/sqlite_file.h"

namespace virga::metering {

/// The file of metering, an SQLite database of its own. One thread at a time; blocking. Methods as those of UsageStore.
/// Keys of points and roll-ups are (window, subject), so that windows are appended at the end and dropped at the front.
class UsageFile {
 public:
  /// For one writer. Errors: as sqlite::open_file.
  static Result<UsageFile> open(const std::string& path, Retention retention);
  /// For reading beside it.
  static Result<UsageFile> open_to_read(const std::string& path);

  Result<MeterState> load(std::int64_t now_ms);
  Result<void> keep(const Window& window);
  Result<std::vector<UsageStep>> points(const PointsQuery& query);
  Result<std::vector<LedgerEntry>> ledger(const LedgerQuery& query);

  /// Bytes of the rows of points and of roll-ups with their keys; for benchmarks.
  struct Sizes {
    std::int64_t points = 0;
    std::int64_t rollups = 0;
  };
  Result<Sizes> sizes();

 private:
  explicit UsageFile(sqlite::Database database) : database_(std::move(database)) {}

  Result<void> prepare();
  Result<void> load_charged(std::int64_t now_ms, MeterState& state);
  Result<void> write(const Window& window);
  Result<void> write_points(const Window& window);
  Result<void> write_charge(std::int64_t day, const Charged& charged, const Charge& charge);
  Result<void> drop_old(std::int64_t window);
  Result<std::vector<Subject>> subjects_called(SubjectKind kind, const std::string& name);
  Result<void> read_window(std::int64_t window, const PointsQuery& query, std::int64_t subject,
                           std::vector<UsageStep>& steps);

  sqlite::Database database_;
  Retention retention_;
  sqlite::Statement put_subject_, put_points_, put_rollups_, put_charged_, get_ledger_, put_ledger_,
      put_state_;
};

}  // namespace virga::metering
