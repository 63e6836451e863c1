#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "store/sqlite_file.h"
#include "store/store_state.h"

namespace virga {

/// The store's file: application id, schemas 1 (keys) and 2 (leases, history).
const sqlite::FileKind& store_file_kind();

struct StoreAnswer {
  std::optional<Error> error;  ///< else the rest holds
  CommitOutcome outcome;
  StoreLeaseId lease = 0;  ///< of a grant
};

/// One change that waits for the disk.
struct StoreJob {
  enum class Kind { commit, grant, revoke };

  Kind kind = Kind::commit;
  std::vector<Guard> guards;
  std::vector<Write> writes;  ///< of a revoke: filled with what it removed
  StoreLeaseId lease = 0;     ///< to revoke
  Duration time_to_live{};    ///< to grant
  Revision compacted = 0;     ///< history up to here may go
  std::size_t bytes = 0;      ///< counted against the queue's bound
  std::uint64_t ticket = 0;   ///< grows from job to job
  StoreAnswer answer;
};

/// SQL side of SqliteStore: many jobs in one transaction. Used by one thread at a time; blocks on the disk.
class SqliteEngine {
 public:
  /// Errors: those of sqlite::open_file.
  static Result<std::unique_ptr<SqliteEngine>> open(const std::string& path);

  /// Reads everything into an empty state. Errors: internal (contradictions in the file).
  Result<void> load(StoreState& state, std::map<StoreLeaseId, Duration>& leases);

  struct Report {
    bool written = false;  ///< one transaction reached the disk
    std::optional<Error>
        failure;  ///< set once the file can no longer be trusted: nothing is written any more
  };

  /// Fills in each job's answer, in order; all of them are durable when this returns. A full disk refuses the whole
  /// batch; an error of the final write makes its commits `unknown` and ends all writing, because what the file holds
  /// is then known only to the next open.
  Report run(std::vector<StoreJob>& jobs);

  /// Moves the log into the main file when it has grown; call when nobody waits.
  void checkpoint();

 private:
  explicit SqliteEngine(sqlite::Database database) : database_(std::move(database)) {}

  Result<void> prepare();
  Result<void> load_entries(StoreState& state);
  Result<void> load_history(StoreState& state);
  Result<void> run_one(StoreJob& job);
  Result<void> commit(StoreJob& job);
  Result<void> grant(StoreJob& job);
  Result<void> revoke(StoreJob& job);
  Result<bool> holds(const std::vector<Guard>& guards);
  Result<bool> has_lease(StoreLeaseId lease);
  Result<void> write_all(StoreJob& job);
  Result<bool> write_one(const Write& write, Revision revision, std::int64_t place);
  Result<void> write_numbers(const std::vector<StoreJob>& jobs);
  Result<void> write_number(std::string_view name, std::int64_t value);
  Report refuse(std::vector<StoreJob>& jobs, const Error& error);
  Report lose(std::vector<StoreJob>& jobs, const Error& error);

  sqlite::Database database_;
  sqlite::Statement begin_, end_, undo_, guard_, put_, remove_, record_, forget_, number_;
  sqlite::Statement lease_put_, lease_get_, lease_remove_, lease_keys_;
  Revision revision_ = 0;
  Revision compacted_ = 0;
  StoreLeaseId lease_last_ = 0;
  bool dirty_ = false;
  int log_pages_ = 0;
  std::optional<Error> failure_;
};

}  // namespace virga
