#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/loop.h"
#include "store/backup.h"
#include "store/batch_thread.h"
#include "store/sqlite_engine.h"
#include "store/store_leases.h"
#include "store/store_state.h"
#include "store/watch_hub.h"

namespace virga {

struct SqliteStoreOptions {
  std::string path;  ///< in an existing folder
  HistoryBounds history;
  std::size_t queue_jobs_max =
      4'096;  ///< commits that wait for the disk; more are refused as `exhausted`
  std::size_t queue_bytes_max = 128 << 20;  ///< their keys and values
  Duration commit_deadline = seconds(10);  ///< then a commit that the disk still holds is `unknown`
};

/// Since the start, for metrics and benchmarks.
struct StoreStats {
  std::uint64_t commits = 0;
  std::uint64_t conflicts = 0;
  std::uint64_t transactions = 0;  ///< each is one fsync
  std::size_t queued = 0;          ///< now
};

/// The store of one node: an SQLite file (WAL, synchronous=FULL) behind a writer thread, and all keys mirrored in
/// memory for reads. Commits that wait are written in one transaction, so that many share one fsync. Memory: about
/// the size of keys, values and history.
///
/// A commit that the disk does not answer within the deadline is `unknown`; it may still happen later.
/// After a failed fsync nobody knows what the disk holds: the commits at hand are answered `unknown` and everything
/// after that, reads included, `unavailable`, until the server opens the file again.
/// A lease counts from the last open or renewal; renewals are not written.
/// Source: "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
class SqliteStore final : public Store {
 public:
  /// Blocks while it checks and loads the file (40,000 keys of 1 kB: well below 3 s). One process at a time.
  /// Errors: conflict (open elsewhere), invalid (not a store), unsupported (newer schema), internal (damaged),
  /// not_found (no folder), denied, exhausted.
  static Result<std::unique_ptr<SqliteStore>> open(Loop& loop, SqliteStoreOptions options);

  /// Writes what is queued; completions that did not come yet never come.
  ~SqliteStore() override;

  void get(std::string key, Callback<std::optional<KeyValue>> done) override;
  void list(ListRequest request, Callback<Page> done) override;
  void commit(std::vector<Guard> guards, std::vector<Write> writes,
              Callback<CommitOutcome> done) override;
  std::unique_ptr<Watch> watch(std::string prefix, Revision after, WatchSink sink) override;
  void grant(Duration time_to_live, Callback<StoreLeaseId> done) override;
  void renew(StoreLeaseId lease, Callback<void> done) override;
  void revoke(StoreLeaseId lease, Callback<void> done) override;
  void compact(Revision revision, Callback<void> done) override;

  /// Writes a copy of the store at one moment, with everything acknowledged before the call, to a new file. Commits
  /// go on meanwhile; one backup at a time. Errors: conflict (the file exists, or a backup is running), exhausted
  /// (disk full), not_found (no such folder).
  void backup(std::string path, Callback<BackupInfo> done);

  StoreStats stats() const;

 private:
  using Answer = std::function<void(StoreAnswer)>;

  /// Who waits for a job. Jobs end in the order of their tickets.
  struct Pending {
    std::uint64_t ticket = 0;
    Instant deadline{};
    StoreJob::Kind kind = StoreJob::Kind::commit;
    Answer done;
  };
  struct BackupJob {
    std::string path;
    Callback<BackupInfo> done;
  };

  SqliteStore(Loop& loop, SqliteStoreOptions options, sqlite::FileLock lock,
              std::unique_ptr<SqliteEngine> engine);

  void post(Task task);
  void submit(StoreJob job, Answer done);
  void flush();
  void write(std::vector<StoreJob> jobs);
  void finish(std::vector<StoreJob>& jobs, const SqliteEngine::Report& report);
  void take_effect(StoreJob& job);
  void watch_deadline();
  void give_up();
  void end_lease(StoreLeaseId lease);
  void run_backup(BackupJob job);

  Loop& loop_;
  const SqliteStoreOptions options_;
  const sqlite::FileLock lock_;
  std::unique_ptr<SqliteEngine> engine_;  ///< of the writer thread
  StoreState state_;                      ///< what is durable and acknowledged
  WatchHub hub_;
  StoreLeases leases_;
  std::vector<StoreJob> staged_;
  std::deque<Pending> pending_;
  std::uint64_t ticket_last_ = 0;
  Timer deadline_;
  bool deadline_watched_ = false;
  std::size_t queued_jobs_ = 0;
  std::size_t queued_bytes_ = 0;
  bool backing_up_ = false;
  std::optional<Error> failure_;
  StoreStats stats_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::unique_ptr<BatchThread<StoreJob>> writer_;
  std::unique_ptr<BatchThread<BackupJob>> copier_;
};

}  // namespace virga
