#pragma once

#include <string>
#include <vector>

#include "mechanism/metering/meter.h"

namespace virga::metering {

/// How long what is kept; each in milliseconds.
struct Retention {
  std::int64_t points_ms = kDayMs;
  std::int64_t rollups_ms = 90 * kDayMs;
  std::int64_t ledger_ms = 800 * kDayMs;
};

/// One row of the ledger: what one copy has used within one day (UTC).
struct LedgerEntry {
  Subject subject;
  Charged charged;
  Charge charge;
};

struct LedgerQuery {
  std::string tenant;                  ///< empty = all
  std::string name;                    ///< of a subject; empty = all
  std::int64_t from_day = 0;           ///< of kDayMs since 1970
  std::int64_t to_day = 0;             ///< the first that is not wanted
  SubjectKind kind = SubjectKind::vm;  ///< of `name`
};

struct PointsQuery {
  SubjectKind kind = SubjectKind::vm;
  std::string name;
  std::int64_t from_ms = 0;
  std::int64_t to_ms = 0;
  std::int64_t step_ms = kWindowMs;  ///< below kWindowMs: from points of kPointMs
};

/// What was used in one step, by series.
struct UsageStep {
  std::int64_t at_ms = 0;  ///< its beginning
  std::vector<Rollup> series;
};

inline constexpr std::size_t kStepsMax = 10'000;  ///< of one answer

/// Where windows are kept. Implementations: SqliteUsageStore, MemoryUsageStore (simulation; no points). Asynchronous on
/// the Loop like Store.
class UsageStore {
 public:
  virtual ~UsageStore() = default;

  /// What a meter goes on from; `now_ms` in UTC. A store without a past is born now.
  virtual void load(std::int64_t now_ms, Callback<MeterState> done) = 0;

  /// Keeps a window whole or not at all, drops what is too old. After an error it is not known which: load again and go
  /// on with a new meter. Errors: conflict (that window or a later one is there), exhausted (the disk is full),
  /// internal.
  virtual void keep(Window window, Callback<void> done) = 0;

  /// Steps in order of time; those that nobody measured are left out. Errors: invalid (more than kStepsMax).
  virtual void points(PointsQuery query, Callback<std::vector<UsageStep>> done) = 0;

  /// In order of tenant, subject, time, copy.
  virtual void ledger(LedgerQuery query, Callback<std::vector<LedgerEntry>> done) = 0;
};

}  // namespace virga::metering
