#pragma once

#include <string>
#include <vector>

#include "store/sqlite_database.h"

namespace virga::sqlite {

/// One step of a schema: brings a database from `version - 1` to `version`. `sql` may be several statements.
struct Migration {
  int version = 0;
  const char* sql = "";
};

/// What makes a file one of Virga's: the kind is in SQLite's application_id, the schema number in user_version.
struct FileKind {
  const char* name = "";  ///< "store", for messages
  int application_id = 0;
  std::vector<Migration> migrations;  ///< 1, 2, 3 ...

  int newest() const { return static_cast<int>(migrations.size()); }
};

/// Held while a process has a file open; a second holder is refused. Kept by flock on `<path>.lock`, so the kernel
/// drops it with the process.
class FileLock {
 public:
  /// Errors: conflict (naming the holder's process id), not_found (no such folder), denied.
  static Result<FileLock> take(const std::string& path);

  FileLock(FileLock&& other) noexcept : descriptor_(other.descriptor_) { other.descriptor_ = -1; }
  FileLock& operator=(FileLock&&) = delete;
  ~FileLock();

 private:
  explicit FileLock(int descriptor) : descriptor_(descriptor) {}

  int descriptor_ = -1;
};

/// Opens a database for writing: makes it when there is none, else checks it whole and brings its schema up to date
/// in one transaction. WAL, synchronous=FULL, checkpoints are left to the caller. The caller holds the FileLock.
/// A file that is refused is left untouched. Errors: invalid (not a database of this kind), unsupported (a newer
/// schema), internal (damaged), denied, not_found.
/// Cost: reads the whole file.
Result<Database> open_file(const std::string& path, const FileKind& kind);

/// Opens a database for reading and checks it: kind, schema (older ones are fine) and every page.
Result<Database> open_file_to_read(const std::string& path, const FileKind& kind);

/// Brings the schema up to the newest in one transaction. Errors: unsupported (it is newer).
Result<void> migrate(Database& database, const FileKind& kind);

/// Gives a finished database its name, durably, for its owner alone to read. Errors: conflict (the name is taken).
Result<void> publish_file(const std::string& from, const std::string& to);

/// Removes a database with its log, for example one that was left half made.
void remove_file(const std::string& path);

/// Errors: conflict, when there is a database at `path` or a write-ahead log of one.
Result<void> check_absent(const std::string& path);

/// Copies a database at one moment to a new single file, also while others write to it; `to` appears whole or not at
/// all. Errors: conflict (`to` exists), exhausted (disk full), and those of reading `from`.
Result<void> copy_database(Database& from, const std::string& to);

}  // namespace virga::sqlite
