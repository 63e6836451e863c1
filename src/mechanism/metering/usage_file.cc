#include "mechanism/metering/usage_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace virga::metering {
namespace {

constexpr const char* kSchema1 = R"(
  CREATE TABLE subjects (id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, name TEXT NOT NULL,
                         tenant TEXT NOT NULL);
  CREATE INDEX subjects_by_name ON subjects (kind, name);
  CREATE TABLE charged (id INTEGER PRIMARY KEY, subject INTEGER NOT NULL,
                        incarnation INTEGER NOT NULL, counter INTEGER NOT NULL, place TEXT NOT NULL,
                        cpus INTEGER NOT NULL, memory_mib INTEGER NOT NULL,
                        at_ms INTEGER NOT NULL, counted BLOB NOT NULL);
  CREATE INDEX charged_by_subject ON charged (subject);
  CREATE TABLE points (key INTEGER PRIMARY KEY, data BLOB NOT NULL);
  CREATE TABLE rollups (key INTEGER PRIMARY KEY, data BLOB NOT NULL);
  CREATE TABLE ledger (key INTEGER PRIMARY KEY, from_ms INTEGER NOT NULL, to_ms INTEGER NOT NULL,
                       amounts BLOB NOT NULL);
  CREATE TABLE state (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID;
)";

constexpr unsigned kSubjectBits = 28;
constexpr unsigned kChargedBits = 36;
constexpr std::int64_t kDropMax =
    50'000;  ///< rows of one kind in one window: a long pause is caught up in parts

const sqlite::FileKind& file_kind() {
  static const sqlite::FileKind kind{"usage file", 0x56726775, {{1, kSchema1}}};
  return kind;
}

std::int64_t window_key(std::int64_t window, std::int64_t subject) {
  return window << kSubjectBits | subject;
}
std::int64_t ledger_key(std::int64_t day, std::int64_t charged) {
  return day << kChargedBits | charged;
}

/// Calls `take` for each row.
template <typename Take>
Result<void> each_row(sqlite::Statement& statement, Take take) {
  while (true) {
    const auto row = statement.step();
    if (!row) return row.error();
    if (!*row) return {};
    if (Result<void> taken = take(statement); !taken) return taken;
  }
}

Subject subject_at(const sqlite::Statement& row, int column) {
  return {row.integer(column), static_cast<SubjectKind>(row.integer(column + 1)),
          row.text(column + 2), row.text(column + 3)};
}

constexpr const char* kChargedColumns =
    "charged.id, charged.subject, incarnation, counter, place, cpus, memory_mib, at_ms, counted";

Result<Charged> charged_at(const sqlite::Statement& row, int column) {
  const auto counted = unpack(row.bytes(column + 8));
  if (!counted) return counted.error();
  return Charged{row.integer(column),
                 row.integer(column + 1),
                 {static_cast<std::uint64_t>(row.integer(column + 2)),
                  static_cast<std::uint64_t>(row.integer(column + 3))},
                 row.text(column + 4),
                 static_cast<int>(row.integer(column + 5)),
                 row.integer(column + 6),
                 row.integer(column + 7),
                 *counted};
}

}  // namespace

Result<UsageFile> UsageFile::open(const std::string& path, Retention retention) {
  auto database = sqlite::open_file(path, file_kind());
  if (!database) return database.error();
  UsageFile file(*std::move(database));
  file.retention_ = retention;
  if (auto prepared = file.prepare(); !prepared) return prepared.error();
  return file;
}

Result<UsageFile> UsageFile::open_to_read(const std::string& path) {
  auto database = sqlite::Database::open(path, sqlite::Database::Mode::read_only);
  if (!database) return database.error();
  return UsageFile(*std::move(database));
}

Result<void> UsageFile::prepare() {
  const std::pair<sqlite::Statement*, const char*> statements[] = {
      {&put_subject_, "INSERT OR REPLACE INTO subjects VALUES (?1, ?2, ?3, ?4)"},
      {&put_points_, "INSERT INTO points VALUES (?1, ?2)"},
      {&put_rollups_, "INSERT INTO rollups VALUES (?1, ?2)"},
      {&put_charged_, "INSERT OR REPLACE INTO charged VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"},
      {&get_ledger_, "SELECT from_ms, to_ms, amounts FROM ledger WHERE key = ?1"},
      {&put_ledger_, "INSERT OR REPLACE INTO ledger VALUES (?1, ?2, ?3, ?4)"},
      {&put_state_, "INSERT OR REPLACE INTO state VALUES (?1, ?2)"},
  };
  for (const auto& [statement, sql] : statements) {
    auto prepared = database_.prepare(sql);
    if (!prepared) return prepared.error();
    *statement = *std::move(prepared);
  }
  return {};
}

Result<MeterState> UsageFile::load(std::int64_t now_ms) {
  MeterState state;
  std::map<std::string, std::int64_t> values;
  auto rows = database_.prepare("SELECT name, value FROM state");
  if (!rows) return rows.error();
  auto read = each_row(*rows, [&](const sqlite::Statement& row) -> Result<void> {
    values[row.text(0)] = row.integer(1);
    return {};
  });
  if (!read) return read.error();
  const bool first = !values.contains("born_ms");
  if (first) {
    if (read = put_state_.reset().bind_text(1, "born_ms").bind(2, now_ms).run(); !read) {
      return read.error();
    }
  }
  state.born_ms = first ? now_ms : values["born_ms"];
  state.at_ms = values.contains("window") ? (values["window"] + 1) * kWindowMs : now_ms;
  for (const auto& [sql, last] : {std::pair{"SELECT max(id) FROM subjects", &state.last_subject},
                                  std::pair{"SELECT max(id) FROM charged", &state.last_charged}}) {
    const auto number = database_.number(sql);
    if (!number) return number.error();
    *last = *number;
  }
  read = load_charged(now_ms, state);
  if (!read) return read.error();
  return state;
}

Result<void> UsageFile::load_charged(std::int64_t now_ms, MeterState& state) {
  auto charged = database_.prepare(
      fmt::format("SELECT {} FROM charged WHERE at_ms >= ?1 ORDER BY id", kChargedColumns));
  if (!charged) return charged.error();
  charged->bind(1, now_ms - Meter::kRemembered);
  auto read = each_row(*charged, [&](const sqlite::Statement& row) -> Result<void> {
    auto one = charged_at(row, 0);
    if (!one) return one.error();
    state.charged.push_back(*std::move(one));
    return {};
  });
  if (!read) return read;
  auto subjects = database_.prepare(
      "SELECT id, kind, name, tenant FROM subjects WHERE kind = ?1 OR id IN (SELECT subject FROM "
      "charged WHERE at_ms >= ?2) ORDER BY id");
  if (!subjects) return subjects.error();
  subjects->bind(1, static_cast<std::int64_t>(SubjectKind::host));
  subjects->bind(2, now_ms - Meter::kRemembered);
  return each_row(*subjects, [&](const sqlite::Statement& row) -> Result<void> {
    state.subjects.push_back(subject_at(row, 0));
    return {};
  });
}

Result<void> UsageFile::keep(const Window& window) {
  const auto last = database_.number("SELECT value FROM state WHERE name = 'window'");
  if (!last) return last.error();
  if (window.number <= *last) {
    return make_error(Errc::conflict, fmt::format("keep window {} of usage: window {} is there",
                                                  window.number, *last));
  }
  if (auto begun = database_.run("BEGIN IMMEDIATE"); !begun) return begun;
  Result<void> done = write(window);
  if (done.ok()) done = database_.run("COMMIT");
  if (!done) {
    static_cast<void>(database_.run("ROLLBACK"));
    return wrap_error("keep the usage of VMs", done.error());
  }
  return database_.run("PRAGMA wal_checkpoint(PASSIVE)");
}

Result<void> UsageFile::write(const Window& window) {
  for (const Subject& subject : window.fresh) {
    put_subject_.reset()
        .bind(1, subject.id)
        .bind(2, static_cast<std::int64_t>(subject.kind))
        .bind_text(3, subject.name)
        .bind_text(4, subject.tenant);
    if (auto put = put_subject_.run(); !put) return put;
  }
  if (auto put = write_points(window); !put) return put;
  const std::int64_t day = window.number * kWindowMs / kDayMs;
  for (std::size_t at = 0; at < window.charges.size(); ++at) {
    auto put = write_charge(day, window.charged[at], window.charges[at]);
    if (!put) return put;
  }
  auto put = put_state_.reset().bind_text(1, "window").bind(2, window.number).run();
  return put ? drop_old(window.number) : put;
}

Result<void> UsageFile::write_points(const Window& window) {
  std::string points;
  std::string rollups;
  for (const SubjectWindow& one : window.subjects) {
    points.clear();
    rollups.clear();
    for (std::size_t at = 0; at < one.points.size(); at += kWindowPoints) {
      const auto series = std::span(one.points).subspan(at, kWindowPoints);
      append_points(points, series);
      append_rollup(rollups, roll_up(series));
    }
    const std::int64_t key = window_key(window.number, one.subject);
    auto put = put_points_.reset().bind(1, key).bind_blob(2, points).run();
    if (put.ok()) put = put_rollups_.reset().bind(1, key).bind_blob(2, rollups).run();
    if (!put) return put;
  }
  return {};
}

Result<void> UsageFile::write_charge(std::int64_t day, const Charged& charged,
                                     const Charge& charge) {
  const std::string counted = pack(charged.counted);
  put_charged_.reset()
      .bind(1, charged.id)
      .bind(2, charged.subject)
      .bind(3, static_cast<std::int64_t>(charged.epoch.incarnation))
      .bind(4, static_cast<std::int64_t>(charged.epoch.counter))
      .bind_text(5, charged.place)
      .bind(6, charged.cpus)
      .bind(7, charged.memory_mib)
      .bind(8, charged.at_ms)
      .bind_blob(9, counted);
  if (auto put = put_charged_.run(); !put) return put;
  Charge sum = charge;
  const std::int64_t key = ledger_key(day, charged.id);
  const auto known = get_ledger_.reset().bind(1, key).step();
  if (!known) return known.error();
  if (*known) {
    const auto amounts = unpack(get_ledger_.bytes(2));
    if (!amounts) return amounts.error();
    sum.from_ms = std::min(sum.from_ms, get_ledger_.integer(0));
    sum.to_ms = std::max(sum.to_ms, get_ledger_.integer(1));
    for (std::size_t one = 0; one < sum.amounts.size(); ++one) sum.amounts[one] += (*amounts)[one];
  }
  get_ledger_.reset();
  const std::string amounts = pack(sum.amounts);
  put_ledger_.reset().bind(1, key).bind(2, sum.from_ms).bind(3, sum.to_ms).bind_blob(4, amounts);
  return put_ledger_.run();
}

Result<void> UsageFile::drop_old(std::int64_t window) {
  const std::int64_t now_ms = (window + 1) * kWindowMs;
  const std::int64_t points = (now_ms - retention_.points_ms) / kWindowMs;
  const std::int64_t rollups = (now_ms - retention_.rollups_ms) / kWindowMs;
  const std::int64_t day = (now_ms - retention_.ledger_ms) / kDayMs;
  const std::pair<const char*, std::int64_t> tables[] = {
      {"points", window_key(points, 0)},
      {"rollups", window_key(rollups, 0)},
      {"ledger", ledger_key(day, 0)},
  };
  for (const auto& [table, before] : tables) {
    auto dropped = database_.run(
        fmt::format("DELETE FROM {0} WHERE key IN (SELECT key FROM {0} WHERE key < {1} LIMIT {2})",
                    table, before, kDropMax));
    if (!dropped) return dropped;
  }
  // Once a day: who is in no ledger any more, and whom nobody refers to.
  if (window % (kDayMs / kWindowMs) != 0) return {};
  return database_.run(
      fmt::format("DELETE FROM charged WHERE at_ms < {0}; DELETE FROM subjects WHERE kind != {1} "
                  "AND id NOT IN (SELECT subject FROM charged)",
                  now_ms - retention_.ledger_ms, static_cast<int>(SubjectKind::host)));
}

Result<std::vector<Subject>> UsageFile::subjects_called(SubjectKind kind, const std::string& name) {
  std::vector<Subject> found;
  auto rows = database_.prepare(
      "SELECT id, kind, name, tenant FROM subjects WHERE kind = ?1 AND name = ?2 ORDER BY id");
  if (!rows) return rows.error();
  rows->bind(1, static_cast<std::int64_t>(kind)).bind_text(2, name);
  auto read = each_row(*rows, [&](const sqlite::Statement& row) -> Result<void> {
    found.push_back(subject_at(row, 0));
    return {};
  });
  if (!read) return read.error();
  return found;
}

namespace {

/// The step that `at_ms` falls into, made when it is not there; steps are asked for in order of
/// time.
UsageStep& step_at(std::vector<UsageStep>& steps, std::int64_t at_ms, std::size_t series) {
  const auto place =
      std::lower_bound(steps.begin(), steps.end(), at_ms,
                       [](const UsageStep& step, std::int64_t time) { return step.at_ms < time; });
  if (place != steps.end() && place->at_ms == at_ms) return *place;
  return *steps.insert(place, UsageStep{at_ms, std::vector<Rollup>(series)});
}

}  // namespace

Result<void> UsageFile::read_window(std::int64_t window, const PointsQuery& query,
                                    std::int64_t subject, std::vector<UsageStep>& steps) {
  const bool fine = query.step_ms < kWindowMs;
  auto row = database_.prepare(fine ? "SELECT data FROM points WHERE key = ?1"
                                    : "SELECT data FROM rollups WHERE key = ?1");
  if (!row) return row.error();
  const auto found = row->bind(1, window_key(window, subject)).step();
  if (!found) return found.error();
  if (!*found) return {};
  std::string_view data = row->bytes(0);
  const std::size_t count = series_of(query.kind).size();
  const std::int64_t begin = window * kWindowMs;
  const auto add = [&](std::size_t series, std::int64_t at_ms, const Rollup& rollup) {
    if (rollup.points == 0 || at_ms < query.from_ms || at_ms >= query.to_ms) return;
    Rollup& into = step_at(steps, at_ms - at_ms % query.step_ms, count).series[series];
    into = joined(into, rollup);
  };
  for (std::size_t series = 0; series < count && !data.empty(); ++series) {
    if (!fine) {
      const auto rollup = take_rollup(data);
      if (!rollup) return rollup.error();
      add(series, begin, *rollup);
      continue;
    }
    std::array<std::int64_t, kWindowPoints> points{};
    if (auto taken = take_points(data, points); !taken) return taken;
    for (std::size_t at = 0; at < points.size(); ++at) {
      add(series, begin + static_cast<std::int64_t>(at) * kPointMs,
          roll_up(std::span(points).subspan(at, 1)));
    }
  }
  return {};
}

Result<std::vector<UsageStep>> UsageFile::points(const PointsQuery& query) {
  const std::int64_t steps_asked =
      (query.to_ms - query.from_ms) / std::max<std::int64_t>(query.step_ms, kPointMs);
  if (steps_asked > static_cast<std::int64_t>(kStepsMax) || query.step_ms % kPointMs != 0) {
    return make_error(Errc::invalid, fmt::format("step: at most {} steps of a multiple of {} s",
                                                 kStepsMax, kPointMs / 1000));
  }
  std::vector<UsageStep> steps;
  const auto subjects = subjects_called(query.kind, query.name);
  if (!subjects) return subjects.error();
  for (std::int64_t window = query.from_ms / kWindowMs; window * kWindowMs < query.to_ms;
       ++window) {
    for (const Subject& subject : *subjects) {
      if (auto read = read_window(window, query, subject.id, steps); !read) return read.error();
    }
  }
  return steps;
}

Result<std::vector<LedgerEntry>> UsageFile::ledger(const LedgerQuery& query) {
  std::vector<LedgerEntry> entries;
  auto rows = database_.prepare(fmt::format(
      "SELECT subjects.id, kind, name, tenant, {}, from_ms, to_ms, amounts FROM ledger JOIN "
      "charged ON charged.id = ledger.key & {} JOIN subjects ON subjects.id = charged.subject "
      "WHERE ledger.key >= ?1 AND ledger.key < ?2 AND (?3 = '' OR tenant = ?3) AND (?4 = '' OR "
      "name = ?4 AND kind = ?5) ORDER BY tenant, kind, name, from_ms, charged.id",
      kChargedColumns, (std::int64_t{1} << kChargedBits) - 1));
  if (!rows) return rows.error();
  rows->bind(1, ledger_key(query.from_day, 0)).bind(2, ledger_key(query.to_day, 0));
  rows->bind_text(3, query.tenant).bind_text(4, query.name);
  rows->bind(5, static_cast<std::int64_t>(query.kind));
  auto read = each_row(*rows, [&](const sqlite::Statement& row) -> Result<void> {
    auto charged = charged_at(row, 4);
    if (!charged) return charged.error();
    const auto amounts = unpack(row.bytes(15));
    if (!amounts) return amounts.error();
    const Charge charge{charged->id, row.integer(13), row.integer(14), *amounts};
    entries.push_back({subject_at(row, 0), *std::move(charged), charge});
    return {};
  });
  if (!read) return read.error();
  return entries;
}

Result<UsageFile::Sizes> UsageFile::sizes() {
  Sizes sizes;
  for (const auto& [table, bytes] :
       {std::pair{"points", &sizes.points}, std::pair{"rollups", &sizes.rollups}}) {
    const auto found = database_.number(fmt::format(
        "SELECT sum(pgsize) FROM dbstat WHERE name = '{}' AND aggregate = TRUE", table));
    if (!found) return found.error();
    *bytes = *found;
  }
  return sizes;
}

}  // namespace virga::metering
