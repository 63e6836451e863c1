#include "store/sqlite_engine.h"

#include <fmt/format.h>
#include <sqlite3.h>

#include <algorithm>
#include <utility>

namespace virga {
namespace {

/// A row of history is placed by its commit's revision and its number in the commit, so that the
/// table is in order and its past is one range.
constexpr int kPlaceBits = 20;
constexpr int kLogPagesMax = 2'000;

std::int64_t place_of(Revision revision) {
  return static_cast<std::int64_t>(revision << kPlaceBits);
}

Error lease_not_found(StoreLeaseId lease) {
  return make_error(Errc::not_found,
                    fmt::format("store lease {}: it has ended or never was", lease));
}

constexpr const char* kSchema1 = R"(
  CREATE TABLE state (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID;
  CREATE TABLE entries (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL,
                        created INTEGER NOT NULL, modified INTEGER NOT NULL);
  INSERT INTO state VALUES ('revision', 0);
)";

constexpr const char* kSchema2 = R"(
  ALTER TABLE entries ADD COLUMN lease INTEGER NOT NULL DEFAULT 0;
  CREATE INDEX entries_of_lease ON entries (lease) WHERE lease <> 0;
  CREATE TABLE leases (id INTEGER PRIMARY KEY, time_to_live_ms INTEGER NOT NULL);
  CREATE TABLE history (place INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB,
                        created INTEGER NOT NULL, lease INTEGER NOT NULL);
  INSERT INTO state SELECT 'compacted', value FROM state WHERE name = 'revision';
  INSERT INTO state VALUES ('lease_last', 0);
)";

}  // namespace

const sqlite::FileKind& store_file_kind() {
  static const sqlite::FileKind kind{"store", 0x56726761, {{1, kSchema1}, {2, kSchema2}}};
  return kind;
}

Result<std::unique_ptr<SqliteEngine>> SqliteEngine::open(const std::string& path) {
  auto database = sqlite::open_file(path, store_file_kind());
  if (!database) return database.error();
  std::unique_ptr<SqliteEngine> engine(new SqliteEngine(*std::move(database)));
  if (auto done = engine->prepare(); !done) return wrap_error("open " + path, done.error());
  sqlite3_wal_hook(
      engine->database_.connection(),
      [](void* self, sqlite3*, const char*, int pages) {
        static_cast<SqliteEngine*>(self)->log_pages_ = pages;
        return SQLITE_OK;
      },
      engine.get());
  return engine;
}

Result<void> SqliteEngine::prepare() {
  const std::pair<sqlite::Statement*, const char*> statements[] = {
      {&begin_, "BEGIN IMMEDIATE"},
      {&end_, "COMMIT"},
      {&undo_, "ROLLBACK"},
      {&guard_, "SELECT modified FROM entries WHERE key = ?1"},
      {&put_,
       "INSERT INTO entries (key, value, created, modified, lease) VALUES (?1, ?2, ?3, ?3, ?4) "
       "ON CONFLICT (key) DO UPDATE SET value = excluded.value, modified = excluded.modified, "
       "lease = excluded.lease RETURNING created"},
      {&remove_, "DELETE FROM entries WHERE key = ?1 RETURNING created"},
      {&record_,
       "INSERT INTO history (place, key, value, created, lease) VALUES (?1, ?2, ?3, ?4, ?5)"},
      {&forget_, "DELETE FROM history WHERE place < ?1"},
      {&number_, "UPDATE state SET value = ?2 WHERE name = ?1"},
      {&lease_put_, "INSERT INTO leases (id, time_to_live_ms) VALUES (?1, ?2)"},
      {&lease_get_, "SELECT 1 FROM leases WHERE id = ?1"},
      {&lease_remove_, "DELETE FROM leases WHERE id = ?1"},
      {&lease_keys_, "SELECT key FROM entries WHERE lease = ?1 AND lease <> 0 ORDER BY key"},
  };
  for (const auto& [statement, sql] : statements) {
    auto prepared = database_.prepare(sql);
    if (!prepared) return prepared.error();
    *statement = *std::move(prepared);
  }
  return {};
}

Result<void> SqliteEngine::load(StoreState& state, std::map<StoreLeaseId, Duration>& leases) {
  const std::pair<Revision*, const char*> numbers[] = {
      {&revision_, "SELECT value FROM state WHERE name = 'revision'"},
      {&compacted_, "SELECT value FROM state WHERE name = 'compacted'"},
      {&lease_last_, "SELECT value FROM state WHERE name = 'lease_last'"},
  };
  for (const auto& [number, sql] : numbers) {
    const auto value = database_.number(sql);
    if (!value) return value.error();
    *number = static_cast<Revision>(*value);
  }
  if (auto done = load_entries(state); !done) return done;
  if (auto done = load_history(state); !done) return done;
  auto rows = database_.prepare("SELECT id, time_to_live_ms FROM leases ORDER BY id");
  if (!rows) return rows.error();
  while (true) {
    const auto row = rows->step();
    if (!row) return row.error();
    if (!*row) break;
    leases.emplace(static_cast<StoreLeaseId>(rows->integer(0)), milliseconds(rows->integer(1)));
  }
  state.trim();
  return {};
}

Result<void> SqliteEngine::load_entries(StoreState& state) {
  auto rows =
      database_.prepare("SELECT key, value, created, modified, lease FROM entries ORDER BY key");
  if (!rows) return rows.error();
  while (true) {
    const auto row = rows->step();
    if (!row) return row.error();
    if (!*row) return {};
    KeyValue entry;
    entry.key = rows->text(0);
    entry.value = rows->text(1);
    entry.created = static_cast<Revision>(rows->integer(2));
    entry.modified = static_cast<Revision>(rows->integer(3));
    entry.lease = static_cast<StoreLeaseId>(rows->integer(4));
    if (entry.modified > revision_) {
      return make_error(
          Errc::internal,
          fmt::format("key \"{}\" was modified at revision {}, but the store is at {}", entry.key,
                      entry.modified, revision_));
    }
    state.load_entry(std::move(entry));
  }
}

Result<void> SqliteEngine::load_history(StoreState& state) {
  auto rows = database_.prepare(
      "SELECT place, key, value, created, lease, value IS NULL FROM history WHERE place >= ?1 "
      "ORDER BY place");
  if (!rows) return rows.error();
  rows->bind(1, place_of(compacted_ + 1));
  StoreState::CommitRecord record;
  Revision loaded = compacted_;
  while (true) {
    const auto row = rows->step();
    if (!row) return row.error();
    const auto revision = *row ? static_cast<Revision>(rows->integer(0)) >> kPlaceBits : 0;
    if (!*row || revision != record.revision) {
      if (record.revision != 0) loaded = record.revision;
      if (record.revision != 0) state.load_record(std::exchange(record, {}));
      if (!*row) break;
      if (revision != loaded + 1) break;
      record.revision = revision;
    }
    auto entry = std::make_shared<KeyValue>();
    entry->key = rows->text(1);
    entry->value = rows->text(2);
    entry->created = static_cast<Revision>(rows->integer(3));
    entry->modified = revision;
    entry->lease = static_cast<StoreLeaseId>(rows->integer(4));
    const bool removed = rows->integer(5) != 0;
    record.changes.push_back(removed ? StoreState::ChangeRecord{entry, nullptr}
                                     : StoreState::ChangeRecord{nullptr, entry});
  }
  if (loaded != revision_) {
    return make_error(
        Errc::internal,
        fmt::format("the history ends at revision {}, but the store is at {}", loaded, revision_));
  }
  state.finish_load(revision_, compacted_);
  return {};
}

SqliteEngine::Report SqliteEngine::run(std::vector<StoreJob>& jobs) {
  if (failure_) return refuse(jobs, *failure_);
  const Revision revision = revision_;
  const Revision compacted = compacted_;
  const StoreLeaseId lease_last = lease_last_;
  const auto undo = [&] {
    static_cast<void>(undo_.reset().run());
    revision_ = revision;
    compacted_ = compacted;
    lease_last_ = lease_last;
  };
  dirty_ = false;
  Result<void> done = begin_.reset().run();
  for (StoreJob& job : jobs) {
    if (done.ok()) done = run_one(job);
  }
  if (done.ok() && dirty_) done = write_numbers(jobs);
  if (!done) {
    undo();
    return refuse(jobs, done.error());
  }
  if (!dirty_) {
    undo();
    return {};
  }
  if (auto ended = end_.reset().run(); !ended) {
    undo();
    if (ended.error().code == Errc::exhausted) return refuse(jobs, ended.error());
    return lose(jobs, ended.error());
  }
  return {true, std::nullopt};
}

/// Nothing of the batch happened.
SqliteEngine::Report SqliteEngine::refuse(std::vector<StoreJob>& jobs, const Error& error) {
  Error refusal = wrap_error("commit to the store's file", error);
  if (error.code == Errc::exhausted) {
    refusal =
        make_error(Errc::exhausted,
                   "commit: the store's disk is full; free some room on it (" + error.text() + ")");
  } else if (error.code != Errc::unavailable) {
    refusal.code = Errc::unavailable;
    failure_ = refusal;
  }
  for (StoreJob& job : jobs) job.answer = {refusal, {}, 0};
  return {false, failure_};
}

/// Nobody knows what of the batch the disk has: a log that could not be flushed may still be read
/// after a crash.
SqliteEngine::Report SqliteEngine::lose(std::vector<StoreJob>& jobs, const Error& error) {
  failure_ = make_error(
      Errc::unavailable,
      "the store's disk failed; restart the server once it works again (" + error.text() + ")");
  for (StoreJob& job : jobs) {
    if (job.answer.error || job.answer.outcome.verdict == CommitVerdict::conflict) continue;
    job.answer = {};
    if (job.kind != StoreJob::Kind::commit) job.answer.error = failure_;
  }
  return {false, failure_};
}

Result<void> SqliteEngine::run_one(StoreJob& job) {
  switch (job.kind) {
    case StoreJob::Kind::commit:
      return commit(job);
    case StoreJob::Kind::grant:
      return grant(job);
    case StoreJob::Kind::revoke:
      return revoke(job);
  }
  return {};
}

Result<void> SqliteEngine::commit(StoreJob& job) {
  for (const Write& write : job.writes) {
    if (write.lease == 0) continue;
    const auto alive = has_lease(write.lease);
    if (!alive) return alive.error();
    if (*alive) continue;
    job.answer.error = lease_not_found(write.lease);
    return {};
  }
  const auto held = holds(job.guards);
  if (!held) return held.error();
  if (!*held) {
    job.answer.outcome = {CommitVerdict::conflict, revision_};
    return {};
  }
  return write_all(job);
}

Result<bool> SqliteEngine::holds(const std::vector<Guard>& guards) {
  for (const Guard& guard : guards) {
    const auto row = guard_.reset().bind_text(1, guard.key).step();
    if (!row) return row.error();
    const auto modified = *row ? static_cast<Revision>(guard_.integer(0)) : 0;
    guard_.reset();
    if (modified != guard.modified) return false;
  }
  return true;
}

Result<bool> SqliteEngine::has_lease(StoreLeaseId lease) {
  const auto row = lease_get_.reset().bind(1, static_cast<std::int64_t>(lease)).step();
  lease_get_.reset();
  return row;
}

Result<void> SqliteEngine::write_all(StoreJob& job) {
  const Revision revision = revision_ + 1;
  std::int64_t place = place_of(revision);
  for (const Write& write : job.writes) {
    const auto changed = write_one(write, revision, place);
    if (!changed) return changed.error();
    if (!*changed) continue;
    ++place;
    revision_ = revision;
    dirty_ = true;
  }
  job.answer.outcome = {CommitVerdict::committed, revision_};
  return {};
}

/// False when it changes nothing: the removal of a key that does not exist.
Result<bool> SqliteEngine::write_one(const Write& write, Revision revision, std::int64_t place) {
  sqlite::Statement& statement = write.value ? put_ : remove_;
  statement.reset().bind_text(1, write.key);
  if (write.value) {
    statement.bind_blob(2, *write.value).bind(3, static_cast<std::int64_t>(revision));
    statement.bind(4, static_cast<std::int64_t>(write.lease));
  }
  const auto row = statement.step();
  if (!row) return row.error();
  const std::int64_t created = *row ? statement.integer(0) : 0;
  statement.reset();
  if (!*row) return false;
  record_.reset().bind(1, place).bind_text(2, write.key).bind(4, created);
  record_.bind(5, static_cast<std::int64_t>(write.lease));
  if (write.value) {
    record_.bind_blob(3, *write.value);
  } else {
    record_.bind_null(3);
  }
  if (auto recorded = record_.run(); !recorded) return recorded.error();
  return true;
}

Result<void> SqliteEngine::grant(StoreJob& job) {
  const StoreLeaseId lease = lease_last_ + 1;
  const auto done = lease_put_.reset()
                        .bind(1, static_cast<std::int64_t>(lease))
                        .bind(2, to_ms(job.time_to_live))
                        .run();
  if (!done) return done;
  lease_last_ = lease;
  dirty_ = true;
  job.answer.lease = lease;
  return {};
}

Result<void> SqliteEngine::revoke(StoreJob& job) {
  const auto alive = has_lease(job.lease);
  if (!alive) return alive.error();
  if (!*alive) {
    job.answer.error = lease_not_found(job.lease);
    return {};
  }
  const auto lease = static_cast<std::int64_t>(job.lease);
  lease_keys_.reset().bind(1, lease);
  while (true) {
    const auto row = lease_keys_.step();
    if (!row) return row.error();
    if (!*row) break;
    job.writes.push_back({lease_keys_.text(0), std::nullopt, 0});
  }
  lease_keys_.reset();
  if (auto removed = lease_remove_.reset().bind(1, lease).run(); !removed) return removed;
  dirty_ = true;
  return write_all(job);
}

Result<void> SqliteEngine::write_numbers(const std::vector<StoreJob>& jobs) {
  Revision forget = compacted_;
  for (const StoreJob& job : jobs) forget = std::max(forget, job.compacted);
  if (forget > compacted_) {
    if (auto done = forget_.reset().bind(1, place_of(forget + 1)).run(); !done) return done;
    compacted_ = forget;
    if (auto done = write_number("compacted", static_cast<std::int64_t>(compacted_)); !done)
      return done;
  }
  if (auto done = write_number("lease_last", static_cast<std::int64_t>(lease_last_)); !done)
    return done;
  return write_number("revision", static_cast<std::int64_t>(revision_));
}

Result<void> SqliteEngine::write_number(std::string_view name, std::int64_t value) {
  return number_.reset().bind_text(1, name).bind(2, value).run();
}

void SqliteEngine::checkpoint() {
  if (log_pages_ < kLogPagesMax || failure_) return;
  // A failure (disk full, a reader in the way) leaves the log longer; a later batch tries again.
  sqlite3_wal_checkpoint_v2(database_.connection(), nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr,
                            nullptr);
}

}  // namespace virga
