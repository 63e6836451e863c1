#include "store/sqlite_database.h"

#include <fmt/format.h>
#include <sqlite3.h>

namespace virga::sqlite {
namespace {

constexpr int kBusyMilliseconds = 5'000;

Errc errc_of(int code) {
  switch (code & 0xff) {
    case SQLITE_FULL:
      return Errc::exhausted;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return Errc::unavailable;
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
      return Errc::denied;
    case SQLITE_NOTADB:
      return Errc::invalid;
    default:
      return Errc::internal;
  }
}

}  // namespace

Error error_of(sqlite3* connection, int code) {
  const char* text = connection == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(connection);
  return make_error(errc_of(code), fmt::format("SQLite: {} (code {})", text, code));
}

void Statement::Finalize::operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }

Statement::Statement(sqlite3* connection, sqlite3_stmt* statement)
    : connection_(connection), statement_(statement) {}

Statement& Statement::reset() {
  sqlite3_reset(statement_.get());
  bind_code_ = SQLITE_OK;
  return *this;
}

Statement& Statement::bind(int index, std::int64_t value) {
  bind_code_ |= sqlite3_bind_int64(statement_.get(), index, value);
  return *this;
}

Statement& Statement::bind_text(int index, std::string_view value) {
  bind_code_ |= sqlite3_bind_text64(statement_.get(), index, value.data(), value.size(),
                                    SQLITE_STATIC, SQLITE_UTF8);
  return *this;
}

Statement& Statement::bind_blob(int index, std::string_view value) {
  // A null pointer would bind NULL; an empty value is a blob of no bytes.
  const char* data = value.empty() ? "" : value.data();
  bind_code_ |= sqlite3_bind_blob64(statement_.get(), index, data, value.size(), SQLITE_STATIC);
  return *this;
}

Statement& Statement::bind_null(int index) {
  bind_code_ |= sqlite3_bind_null(statement_.get(), index);
  return *this;
}

Result<bool> Statement::step() {
  if (bind_code_ != SQLITE_OK) return error_of(connection_, bind_code_);
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  Error error = error_of(connection_, sqlite3_extended_errcode(connection_));
  sqlite3_reset(statement_.get());
  return error;
}

Result<void> Statement::run() {
  auto stepped = step();
  sqlite3_reset(statement_.get());
  if (!stepped) return stepped.error();
  return {};
}

std::int64_t Statement::integer(int column) const {
  return sqlite3_column_int64(statement_.get(), column);
}

std::string_view Statement::bytes(int column) const {
  const auto* data = static_cast<const char*>(sqlite3_column_blob(statement_.get(), column));
  const int size = sqlite3_column_bytes(statement_.get(), column);
  return data == nullptr ? std::string_view()
                         : std::string_view(data, static_cast<std::size_t>(size));
}

void Database::Close::operator()(sqlite3* connection) const { sqlite3_close_v2(connection); }

Result<Database> Database::open(const std::string& path, Mode mode) {
  int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
  flags |= mode == Mode::read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
  if (mode == Mode::create) flags |= SQLITE_OPEN_CREATE;
  sqlite3* connection = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &connection, flags, nullptr);
  Database database;
  database.connection_.reset(connection);
  if (code != SQLITE_OK) return wrap_error("open " + path, error_of(connection, code));
  sqlite3_busy_timeout(connection, kBusyMilliseconds);
  sqlite3_db_config(connection, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  return database;
}

Result<void> Database::run(const std::string& sql) {
  const int code = sqlite3_exec(connection(), sql.c_str(), nullptr, nullptr, nullptr);
  if (code == SQLITE_OK) return {};
  return wrap_error(sql.substr(0, 60),
                    error_of(connection(), sqlite3_extended_errcode(connection())));
}

Result<Statement> Database::prepare(std::string_view sql) {
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v3(connection(), sql.data(), static_cast<int>(sql.size()),
                                      SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  if (code != SQLITE_OK)
    return wrap_error(std::string(sql.substr(0, 60)), error_of(connection(), code));
  return Statement(connection(), statement);
}

Result<std::int64_t> Database::number(std::string_view sql) {
  auto statement = prepare(sql);
  if (!statement) return statement.error();
  const auto row = statement->step();
  if (!row) return row.error();
  return *row ? statement->integer(0) : std::int64_t{0};
}

void Database::keep_log_at_close(bool keep) {
  sqlite3_db_config(connection(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep ? 1 : 0, nullptr);
}

}  // namespace virga::sqlite
