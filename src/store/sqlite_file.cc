#include "store/sqlite_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

namespace virga::sqlite {
namespace {

bool exists(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0;
}

Error system_error(const std::string& tried) {
  const int number = errno;
  const Errc code = number == ENOENT                       ? Errc::not_found
                    : number == EACCES || number == EROFS  ? Errc::denied
                    : number == ENOSPC || number == EDQUOT ? Errc::exhausted
                    : number == EEXIST                     ? Errc::conflict
                                                           : Errc::internal;
  return make_error(code, fmt::format("{}: {}", tried, std::strerror(number)));
}

/// Makes a renamed or new file's name durable.
Result<void> sync_folder_of(const std::string& path) {
  auto folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return system_error("open " + folder.string());
  const int code = ::fsync(descriptor);
  Result<void> done;
  if (code != 0) done = system_error("fsync " + folder.string());
  ::close(descriptor);
  return done;
}

/// Makes the database under another name first, so that a crash leaves no empty file under its own.
Result<void> make_file(const std::string& path, const FileKind& kind) {
  if (exists(path + "-wal")) {
    return make_error(Errc::internal,
                      fmt::format("{0}-wal is there, but {0} is not: put the database "
                                  "back, or remove both to start anew",
                                  path));
  }
  const std::string fresh = path + ".new";
  remove_file(fresh);
  {
    auto database = Database::open(fresh, Database::Mode::create);
    if (!database) return database.error();
    const auto mark = fmt::format("PRAGMA application_id = {}", kind.application_id);
    if (auto done = database->run(mark); !done) return done;
    if (auto done = migrate(*database, kind); !done) return done;
  }
  return publish_file(fresh, path);
}

Result<void> check_pages(Database& database) {
  auto check = database.prepare("PRAGMA quick_check(1)");
  if (!check) return check.error();
  const auto row = check->step();
  if (!row) return row.error();
  if (check->bytes(0) == "ok") return {};
  return make_error(Errc::internal, "damaged: " + check->text(0));
}

Result<void> check_kind(Database& database, const FileKind& kind) {
  const auto id = database.number("PRAGMA application_id");
  if (!id) return id.error();
  if (*id != kind.application_id) {
    return make_error(Errc::invalid,
                      fmt::format("it is an SQLite database, but not a Virga {0} (its "
                                  "application_id is {1}, a {0} has {2})",
                                  kind.name, *id, kind.application_id));
  }
  const auto version = database.number("PRAGMA user_version");
  if (!version) return version.error();
  if (*version > kind.newest()) {
    return make_error(Errc::unsupported,
                      fmt::format("its schema is {}, this program knows up to {}: "
                                  "run a newer Virga",
                                  *version, kind.newest()));
  }
  return check_pages(database);
}

Result<Database> open_checked(const std::string& path, const FileKind& kind, Database::Mode mode) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return system_error("open " + path);
  const std::string refused = fmt::format("open {} as Virga {} (left untouched)", path, kind.name);
  if (status.st_size == 0) {
    return wrap_error(refused,
                      make_error(Errc::invalid, "the file is empty; remove it to start anew"));
  }
  auto database = Database::open(path, mode);
  if (!database) return database.error();
  database->keep_log_at_close(true);
  if (auto fits = check_kind(*database, kind); !fits) return wrap_error(refused, fits.error());
  return database;
}

Result<void> copy_pages(Database& from, Database& to) {
  constexpr int kPagesPerStep = 4'096;
  sqlite3_backup* backup = sqlite3_backup_init(to.connection(), "main", from.connection(), "main");
  if (backup == nullptr) return error_of(to.connection(), sqlite3_errcode(to.connection()));
  int code = SQLITE_OK;
  while (code == SQLITE_OK) code = sqlite3_backup_step(backup, kPagesPerStep);
  const int finished = sqlite3_backup_finish(backup);
  if (code == SQLITE_DONE && finished == SQLITE_OK) return {};
  return error_of(nullptr, code == SQLITE_DONE ? finished : code);
}

/// The copy's header says WAL like the original's; a backup is one file.
Result<void> copy_to_new(Database& from, const std::string& to) {
  auto copy = Database::open(to, Database::Mode::create);
  if (!copy) return copy.error();
  // The read transaction keeps all steps at one moment while others commit.
  if (auto begun = from.run("BEGIN; SELECT count(*) FROM sqlite_schema"); !begun) return begun;
  auto copied = copy_pages(from, *copy);
  if (auto ended = from.run("COMMIT"); copied.ok() && !ended) copied = ended;
  if (!copied) return copied;
  return copy->run("PRAGMA journal_mode = DELETE");
}

}  // namespace

Result<FileLock> FileLock::take(const std::string& path) {
  const std::string lock = path + ".lock";
  const int descriptor = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (descriptor < 0) return system_error("open " + lock);
  FileLock held(descriptor);
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    char holder[32] = {};
    const auto size = ::pread(descriptor, holder, sizeof(holder) - 1, 0);
    return make_error(Errc::conflict, fmt::format("open {}: process {} has it open; only one may",
                                                  path, size > 0 ? holder : "of unknown id"));
  }
  const std::string self = std::to_string(::getpid());
  if (::ftruncate(descriptor, 0) != 0 || ::pwrite(descriptor, self.data(), self.size(), 0) < 0) {
    // The id is a help for people; the lock holds without it, also on a full disk.
    errno = 0;
  }
  return held;
}

FileLock::~FileLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Result<Database> open_file(const std::string& path, const FileKind& kind) {
  if (!exists(path)) {
    if (auto made = make_file(path, kind); !made) return wrap_error("create " + path, made.error());
  }
  auto database = open_checked(path, kind, Database::Mode::read_write);
  if (!database) return database;
  const char* settings =
      "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; "
      "PRAGMA journal_size_limit = 67108864; PRAGMA temp_store = MEMORY; PRAGMA cache_size = "
      "-16384";
  if (auto set = database->run(settings); !set) return wrap_error("open " + path, set.error());
  if (auto done = migrate(*database, kind); !done) return wrap_error("open " + path, done.error());
  database->keep_log_at_close(false);
  return database;
}

Result<Database> open_file_to_read(const std::string& path, const FileKind& kind) {
  return open_checked(path, kind, Database::Mode::read_only);
}

Result<void> migrate(Database& database, const FileKind& kind) {
  const auto version = database.number("PRAGMA user_version");
  if (!version) return version.error();
  VIRGA_CHECK(*version <= kind.newest());
  if (*version == kind.newest()) return {};
  if (auto begun = database.run("BEGIN IMMEDIATE"); !begun) return begun;
  Result<void> done;
  for (const Migration& migration : kind.migrations) {
    if (migration.version <= *version || !done.ok()) continue;
    done = database.run(migration.sql);
    if (!done)
      done = wrap_error(fmt::format("bring the {} to schema {}", kind.name, migration.version),
                        done.error());
  }
  if (done.ok())
    done = database.run(fmt::format("PRAGMA user_version = {}; COMMIT", kind.newest()));
  if (!done) static_cast<void>(database.run("ROLLBACK"));
  return done;
}

void remove_file(const std::string& path) {
  for (const char* suffix : {"", "-wal", "-shm", "-journal"}) ::unlink((path + suffix).c_str());
}

Result<void> publish_file(const std::string& from, const std::string& to) {
  if (::chmod(from.c_str(), 0600) != 0) return system_error("chmod " + from);
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) != 0) {
    return system_error("rename " + from + " to " + to);
  }
  return sync_folder_of(to);
}

Result<void> check_absent(const std::string& path) {
  for (const char* suffix : {"", "-wal"}) {
    if (!exists(path + suffix)) continue;
    return make_error(Errc::conflict,
                      fmt::format("{}{}: the file exists and is not overwritten", path, suffix));
  }
  return {};
}

Result<void> copy_database(Database& from, const std::string& to) {
  if (auto absent = check_absent(to); !absent) return absent;
  const std::string partial = to + ".partial";
  remove_file(partial);
  auto done = copy_to_new(from, partial);
  if (done.ok()) done = publish_file(partial, to);
  if (!done) {
    remove_file(partial);
    return wrap_error("copy the database to " + to, done.error());
  }
  return {};
}

}  // namespace virga::sqlite
