#include "store/backup.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "store/sqlite_engine.h"
#include "store/sqlite_file.h"

namespace virga {
namespace {

using sqlite::Database;

Result<std::uint64_t> read_incarnation(Database& database) {
  auto row = database.prepare("SELECT value FROM entries WHERE key = ?1");
  if (!row) return row.error();
  const auto found = row->bind_text(1, kIncarnationKey).step();
  if (!found) return found.error();
  if (!*found) return std::uint64_t{0};
  const std::string text = row->text(0);
  std::uint64_t incarnation = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), incarnation);
  if (code == std::errc() && end == text.data() + text.size()) return incarnation;
  return make_error(Errc::internal, fmt::format("key {} holds \"{}\", which is no decimal number",
                                                kIncarnationKey, text.substr(0, 40)));
}

Result<void> check_integrity(Database& database) {
  auto check = database.prepare("PRAGMA integrity_check(1)");
  if (!check) return check.error();
  const auto row = check->step();
  if (!row) return row.error();
  if (check->bytes(0) != "ok") return make_error(Errc::internal, "damaged: " + check->text(0));
  const auto beyond = database.number(
      "SELECT count(*) FROM entries WHERE modified > (SELECT value FROM state WHERE name = "
      "'revision')");
  if (!beyond) return beyond.error();
  if (*beyond == 0) return {};
  return make_error(Errc::internal,
                    fmt::format("{} keys are newer than the store's revision", *beyond));
}

Result<BackupInfo> inspect(Database& database, const std::string& path) {
  const auto schema = database.number("PRAGMA user_version");
  if (!schema) return schema.error();
  const auto revision = database.number("SELECT value FROM state WHERE name = 'revision'");
  if (!revision) return revision.error();
  const auto keys = database.number("SELECT count(*) FROM entries");
  if (!keys) return keys.error();
  const auto incarnation = read_incarnation(database);
  if (!incarnation) return incarnation.error();
  BackupInfo info;
  info.schema = static_cast<int>(*schema);
  info.revision = static_cast<Revision>(*revision);
  info.incarnation = *incarnation;
  info.keys = static_cast<std::uint64_t>(*keys);
  std::error_code ignored;
  info.bytes.value = static_cast<std::int64_t>(std::filesystem::file_size(path, ignored));
  return info;
}

/// One transaction: the cloud's next life, which believes nothing of the time after the backup.
Result<void> begin_incarnation(Database& database, std::uint64_t above) {
  const auto before = read_incarnation(database);
  if (!before) return before.error();
  const std::uint64_t next = std::max(*before, above) + 1;
  if (auto begun = database.run("BEGIN IMMEDIATE"); !begun) return begun;
  const std::string raise = fmt::format(
      "UPDATE state SET value = value + {0} WHERE name = 'revision';"
      "UPDATE state SET value = (SELECT value FROM state WHERE name = 'revision') WHERE name = "
      "'compacted';"
      "DELETE FROM history;"
      "INSERT INTO entries (key, value, created, modified)"
      " SELECT '{1}', CAST('{2}' AS BLOB), value, value FROM state WHERE name = 'revision'"
      " ON CONFLICT (key) DO UPDATE SET value = excluded.value, modified = excluded.modified;"
      "COMMIT",
      kRestoreRevisionStep * (next - *before), kIncarnationKey, next);
  return database.run(raise);
}

Result<BackupInfo> prepare_restored(const std::string& path, std::uint64_t above) {
  auto database = Database::open(path, Database::Mode::read_write);
  if (!database) return database.error();
  if (auto done = sqlite::migrate(*database, store_file_kind()); !done) return done.error();
  if (auto done = begin_incarnation(*database, above); !done) return done.error();
  return inspect(*database, path);
}

}  // namespace

Result<BackupInfo> verify_backup(const std::string& path) {
  const std::string tried = "verify backup " + path;
  auto database = sqlite::open_file_to_read(path, store_file_kind());
  if (!database) return wrap_error(tried, database.error());
  if (auto sound = check_integrity(*database); !sound) return wrap_error(tried, sound.error());
  auto info = inspect(*database, path);
  if (!info) return wrap_error(tried, info.error());
  return info;
}

Result<BackupInfo> restore_backup(const std::string& from, const std::string& to,
                                  std::uint64_t above) {
  const std::string tried = "restore " + from + " to " + to;
  const auto lock = sqlite::FileLock::take(to);
  if (!lock) return wrap_error(tried, lock.error());
  if (auto absent = sqlite::check_absent(to); !absent) return wrap_error(tried, absent.error());
  if (auto sound = verify_backup(from); !sound) return wrap_error(tried, sound.error());
  auto source = sqlite::open_file_to_read(from, store_file_kind());
  if (!source) return wrap_error(tried, source.error());
  const std::string fresh = to + ".restored";
  sqlite::remove_file(fresh);
  auto done = sqlite::copy_database(*source, fresh);
  Result<BackupInfo> info =
      done.ok() ? prepare_restored(fresh, above) : Result<BackupInfo>(done.error());
  if (info.ok()) done = sqlite::publish_file(fresh, to);
  if (info.ok() && !done) info = done.error();
  if (info.ok()) return info;
  sqlite::remove_file(fresh);
  return wrap_error(tried, info.error());
}

}  // namespace virga
