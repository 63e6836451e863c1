#pragma once

#include <optional>

#include "runtime/journal_rules.h"
#include "store/batch_thread.h"
#include "store/sqlite_file.h"

namespace virga {

struct SqliteJournalOptions {
  std::string path;  ///< in an existing folder; not the store's file
  std::size_t queue_jobs_max =
      4'096;  ///< appends that wait for the disk; more are refused as `exhausted`
};

/// The journal of one node: an SQLite file of its own. Appends that wait share one transaction; reads run on a thread
/// and a connection of their own, so that a long search delays no append. A full disk refuses appends (`exhausted`);
/// the outbox key of each stays in the store until it is acknowledged, so nothing is lost. After an input/output
/// error appends are refused as `unavailable` until the file is opened again.
/// Cost of a read: an index for subject and for tenant; a search by kind alone reads entries one by one.
class SqliteJournal final : public Journal {
 public:
  /// Errors: as SqliteStore::open.
  static Result<std::unique_ptr<SqliteJournal>> open(Loop& loop, SqliteJournalOptions options);

  /// Writes what is queued; completions that did not come yet never come.
  ~SqliteJournal() override;

  void append(std::string source, Event event, Callback<std::uint64_t> done) override;
  void read(JournalQuery query, Callback<std::vector<Event>> done) override;
  std::shared_ptr<void> follow(Sink sink) override;
  void trim(std::size_t entries_max, Callback<void> done) override;

 private:
  class Writer;
  class Reader;
  struct Job {
    std::string source;
    Event event;
    std::optional<std::size_t> trim_to;  ///< a trim, not an append
    bool fresh = false;                  ///< written now, so followers are told
    std::optional<Error> error;
    Callback<std::uint64_t> done;
  };
  struct Read {
    JournalQuery query;
    Callback<std::vector<Event>> done;
  };

  SqliteJournal(Loop& loop, SqliteJournalOptions options, sqlite::FileLock lock);

  void post(Task task);
  void submit(Job job);
  void finish(std::vector<Job>& jobs);

  Loop& loop_;
  const SqliteJournalOptions options_;
  const sqlite::FileLock lock_;
  std::unique_ptr<Writer> writer_;
  std::unique_ptr<Reader> reader_;
  std::vector<Job> staged_;
  std::size_t queued_ = 0;
  std::size_t reading_ = 0;
  JournalFollowers followers_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::unique_ptr<BatchThread<Job>> write_thread_;
  std::unique_ptr<BatchThread<Read>> read_thread_;
};

}  // namespace virga
