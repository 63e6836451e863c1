#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

struct sqlite3;
struct sqlite3_stmt;

/// SQLite with results instead of codes. A connection and its statements belong to one thread at a time.
namespace virga::sqlite {

/// One prepared statement. Texts and blobs that are bound must live until the next reset().
class Statement {
 public:
  Statement() = default;
  Statement(sqlite3* connection, sqlite3_stmt* statement);

  /// Makes it ready for another run; bindings are kept until they are bound again.
  Statement& reset();
  Statement& bind(int index, std::int64_t value);
  Statement& bind_text(int index, std::string_view value);
  Statement& bind_blob(int index, std::string_view value);
  Statement& bind_null(int index);

  /// True when there is a row, false at the end. Errors: see error_of.
  Result<bool> step();

  /// step() for what gives no rows, then reset().
  Result<void> run();

  std::int64_t integer(int column) const;
  std::string_view bytes(int column) const;  ///< valid until the next step or reset
  std::string text(int column) const { return std::string(bytes(column)); }

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };

  sqlite3* connection_ = nullptr;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
  int bind_code_ = 0;
};

/// One open connection.
class Database {
 public:
  enum class Mode { read_only, read_write, create };

  /// Errors: not_found, denied, unavailable, internal.
  static Result<Database> open(const std::string& path, Mode mode);

  Result<void> run(const std::string& sql);
  Result<Statement> prepare(std::string_view sql);

  /// The first column of the first row as a number; 0 when there is no row.
  Result<std::int64_t> number(std::string_view sql);

  /// Closing the last connection leaves the write-ahead log as it is, so that the file stays untouched.
  void keep_log_at_close(bool keep);

  sqlite3* connection() const { return connection_.get(); }

 private:
  struct Close {
    void operator()(sqlite3* connection) const;
  };

  std::unique_ptr<sqlite3, Close> connection_;
};

/// The connection's last error: exhausted (disk or page limit full), not_found, denied, unavailable (locked by
/// another process), internal (damaged, input/output error).
Error error_of(sqlite3* connection, int code);

}  // namespace virga::sqlite
