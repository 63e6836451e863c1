#include "runtime/sqlite_journal.h"

#include <fmt/format.h>
#include <sqlite3.h>

#include <algorithm>
#include <utility>

#include "base/reflect.h"
#include "runtime/journal_audit.h"
#include "runtime/journal_file.h"

namespace virga {
namespace {

constexpr std::size_t kBatchMax = 256;
constexpr std::size_t kReadsMax = 256;
constexpr int kLogPagesMax = 2'000;

constexpr const char* kSchema1 = R"(
  CREATE TABLE entries (sequence INTEGER PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL,
                        tenant TEXT NOT NULL, event TEXT NOT NULL);
  CREATE INDEX entries_of_subject ON entries (subject, sequence);
  CREATE INDEX entries_of_tenant ON entries (tenant, sequence);
  CREATE TABLE sources (source TEXT PRIMARY KEY NOT NULL, sequence INTEGER NOT NULL) WITHOUT ROWID;
  CREATE INDEX sources_by_sequence ON sources (sequence);
  CREATE TABLE state (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID;
  INSERT INTO state VALUES ('last', 0);
)";

/// Each entry's hash covers the one before it. `anchor`: of the last that was trimmed.
constexpr const char* kSchema2 = R"(
  ALTER TABLE entries ADD COLUMN hash TEXT NOT NULL DEFAULT '';
  CREATE TABLE chain (name TEXT PRIMARY KEY NOT NULL, hash TEXT NOT NULL) WITHOUT ROWID;
  INSERT INTO chain VALUES ('head', ''), ('anchor', '');
)";

std::int64_t number(std::uint64_t value) { return static_cast<std::int64_t>(value); }

}  // namespace

const sqlite::FileKind& journal_file_kind() {
  static const sqlite::FileKind kind{"journal", 0x5672676a, {{1, kSchema1}, {2, kSchema2}}};
  return kind;
}

/// Lives on the write thread.
class SqliteJournal::Writer {
 public:
  explicit Writer(sqlite::Database database) : database_(std::move(database)) {}

  Result<void> prepare() {
    const std::pair<sqlite::Statement*, const char*> statements[] = {
        {&begin_, "BEGIN IMMEDIATE"},
        {&end_, "COMMIT"},
        {&undo_, "ROLLBACK"},
        {&known_, "SELECT sequence FROM sources WHERE source = ?1"},
        {&remember_, "INSERT INTO sources (source, sequence) VALUES (?1, ?2)"},
        {&append_,
         "INSERT INTO entries (sequence, kind, subject, tenant, event, hash) VALUES (?1, ?2, ?3, "
         "?4, ?5, ?6)"},
        {&head_put_, "UPDATE chain SET hash = ?1 WHERE name = 'head'"},
        {&anchor_put_,
         "UPDATE chain SET hash = (SELECT hash FROM entries WHERE sequence <= ?1 ORDER BY sequence "
         "DESC LIMIT 1) WHERE name = 'anchor' AND EXISTS (SELECT 1 FROM entries WHERE sequence <= "
         "?1)"},
        {&last_put_, "UPDATE state SET value = ?1 WHERE name = 'last'"},
        {&forget_, "DELETE FROM sources WHERE sequence <= ?1"},
        {&trim_, "DELETE FROM entries WHERE sequence <= ?1"},
    };
    for (const auto& [statement, sql] : statements) {
      auto prepared = database_.prepare(sql);
      if (!prepared) return prepared.error();
      *statement = *std::move(prepared);
    }
    const auto last = database_.number("SELECT value FROM state WHERE name = 'last'");
    if (!last) return last.error();
    last_ = static_cast<std::uint64_t>(*last);
    auto head = database_.prepare("SELECT hash FROM chain WHERE name = 'head'");
    if (!head) return head.error();
    if (const auto row = head->step(); !row) return row.error();
    head_ = head->text(0);
    return {};
  }

  /// Everything in `jobs` is durable, or has its error, when this returns.
  void run(std::vector<Job>& jobs) {
    const std::uint64_t last = last_;
    const std::string head = head_;
    Result<void> done = failure_ ? Result<void>(*failure_) : begin_.reset().run();
    for (Job& job : jobs) {
      if (done.ok()) done = job.trim_to ? trim(*job.trim_to) : append(job);
    }
    if (done.ok()) done = last_put_.reset().bind(1, number(last_)).run();
    if (done.ok()) done = head_put_.reset().bind_text(1, head_).run();
    if (done.ok()) done = end_.reset().run();
    if (done.ok()) return;
    if (!failure_) static_cast<void>(undo_.reset().run());
    last_ = last;
    head_ = head;
    refuse(jobs, done.error());
  }

  void checkpoint() {
    int pages = 0;
    sqlite3_wal_checkpoint_v2(database_.connection(), nullptr, SQLITE_CHECKPOINT_PASSIVE, &pages,
                              nullptr);
    written_ = 0;
  }

  bool log_is_long() const { return written_ > kLogPagesMax; }

 private:
  Result<void> append(Job& job) {
    if (!job.source.empty()) {
      const auto known = known_.reset().bind_text(1, job.source).step();
      if (!known) return known.error();
      const auto sequence = *known ? static_cast<std::uint64_t>(known_.integer(0)) : 0;
      known_.reset();
      if (sequence != 0) {
        job.event.sequence = sequence;
        return {};
      }
      if (auto done = remember_.reset().bind_text(1, job.source).bind(2, number(last_ + 1)).run();
          !done)
        return done;
    }
    job.event.sequence = last_ + 1;
    job.fresh = true;
    const std::string text = to_json_text(job.event);
    append_.reset()
        .bind(1, number(last_ + 1))
        .bind_text(2, job.event.kind)
        .bind_text(3, job.event.subject);
    std::string hash = chain_hash(head_, text);
    append_.bind_text(4, job.event.tenant).bind_text(5, text).bind_text(6, hash);
    if (auto done = append_.run(); !done) return done;
    ++last_;
    head_ = std::move(hash);
    ++written_;
    // Now and then is enough: remembering more than promised harms nobody.
    if (last_ % 1'024 != 0 || last_ <= kJournalSourcesKept) return {};
    return forget_.reset().bind(1, number(last_ - kJournalSourcesKept)).run();
  }

  Result<void> trim(std::size_t entries_max) {
    if (entries_max >= last_) return {};
    if (auto kept = anchor_put_.reset().bind(1, number(last_ - entries_max)).run(); !kept)
      return kept;
    return trim_.reset().bind(1, number(last_ - entries_max)).run();
  }

  void refuse(std::vector<Job>& jobs, const Error& error) {
    Error refusal = error;
    if (error.code == Errc::exhausted) {
      refusal.what =
          "append to the journal: its disk is full; free some room on it (" + error.text() + ")";
    } else if (error.code != Errc::unavailable) {
      refusal.code = Errc::unavailable;
      refusal.what =
          "append to the journal: its disk failed; restart the server once it works again (" +
          error.text() + ")";
    }
    if (refusal.code == Errc::unavailable && error.code != Errc::unavailable) failure_ = refusal;
    for (Job& job : jobs) {
      job.fresh = false;
      job.error = refusal;
    }
  }

  sqlite::Database database_;
  sqlite::Statement begin_, end_, undo_, known_, remember_, append_, last_put_, forget_, trim_,
      head_put_, anchor_put_;
  std::uint64_t last_ = 0;
  std::string head_;  ///< hash of the last entry
  int written_ = 0;
  std::optional<Error> failure_;
};

/// Lives on the read thread.
class SqliteJournal::Reader {
 public:
  explicit Reader(sqlite::Database database) : database_(std::move(database)) {}

  Result<std::vector<Event>> read(const JournalQuery& query) {
    std::string sql = "SELECT event FROM entries WHERE sequence ";
    sql += query.newest_first ? "< ?1" : "> ?1";
    if (!query.subject.empty()) sql += " AND subject = ?2";
    if (!query.tenant.empty()) sql += " AND tenant = ?3";
    if (!query.kind_prefix.empty()) sql += " AND substr(kind, 1, length(?4)) = ?4";
    sql += query.newest_first ? " ORDER BY sequence DESC LIMIT ?5" : " ORDER BY sequence LIMIT ?5";
    auto rows = database_.prepare(sql);
    if (!rows) return rows.error();
    const bool from_end = query.newest_first && query.after == 0;
    rows->bind(1, from_end ? INT64_MAX : number(query.after));
    if (!query.subject.empty()) rows->bind_text(2, query.subject);
    if (!query.tenant.empty()) rows->bind_text(3, query.tenant);
    if (!query.kind_prefix.empty()) rows->bind_text(4, query.kind_prefix);
    rows->bind(5, number(std::clamp<std::size_t>(query.limit, 1, kJournalPageMax)));
    std::vector<Event> events;
    while (true) {
      const auto row = rows->step();
      if (!row) return wrap_error("read the journal", row.error());
      if (!*row) return events;
      auto event = from_json_text<Event>(rows->text(0), UnknownFields::ignore);
      if (!event) return wrap_error("read the journal", event.error());
      events.push_back(*std::move(event));
    }
  }

 private:
  sqlite::Database database_;
};

Result<std::unique_ptr<SqliteJournal>> SqliteJournal::open(Loop& loop,
                                                           SqliteJournalOptions options) {
  auto lock = sqlite::FileLock::take(options.path);
  if (!lock) return lock.error();
  auto to_write = sqlite::open_file(options.path, journal_file_kind());
  if (!to_write) return to_write.error();
  auto to_read = sqlite::Database::open(options.path, sqlite::Database::Mode::read_only);
  if (!to_read) return to_read.error();
  auto writer = std::make_unique<Writer>(*std::move(to_write));
  if (auto done = writer->prepare(); !done) return wrap_error("open " + options.path, done.error());
  std::unique_ptr<SqliteJournal> journal(
      new SqliteJournal(loop, std::move(options), *std::move(lock)));
  journal->writer_ = std::move(writer);
  journal->reader_ = std::make_unique<Reader>(*std::move(to_read));
  return journal;
}

SqliteJournal::SqliteJournal(Loop& loop, SqliteJournalOptions options, sqlite::FileLock lock)
    : loop_(loop), options_(std::move(options)), lock_(std::move(lock)) {
  write_thread_ = std::make_unique<BatchThread<Job>>(kBatchMax, [this](std::vector<Job> jobs) {
    writer_->run(jobs);
    auto shared = std::make_shared<std::vector<Job>>(std::move(jobs));
    loop_.post([this, alive = alive_, shared = std::move(shared)] {
      if (*alive) finish(*shared);
    });
    if (writer_->log_is_long()) writer_->checkpoint();
  });
  read_thread_ = std::make_unique<BatchThread<Read>>(1, [this](std::vector<Read> reads) {
    auto events = std::make_shared<Result<std::vector<Event>>>(reader_->read(reads.front().query));
    loop_.post([this, alive = alive_, events, done = std::move(reads.front().done)] {
      if (!*alive) return;
      --reading_;
      done(std::move(*events));
    });
  });
}

SqliteJournal::~SqliteJournal() {
  *alive_ = false;
  if (!staged_.empty()) write_thread_->push(std::move(staged_));
  read_thread_.reset();
  write_thread_.reset();
}

void SqliteJournal::post(Task task) {
  loop_.post([alive = alive_, task = std::move(task)] {
    if (*alive) task();
  });
}

void SqliteJournal::append(std::string source, Event event, Callback<std::uint64_t> done) {
  Job job;
  job.source = std::move(source);
  job.event = std::move(event);
  job.done = std::move(done);
  submit(std::move(job));
}

void SqliteJournal::submit(Job job) {
  if (queued_ >= options_.queue_jobs_max) {
    return post([queued = queued_, done = std::move(job.done)] {
      done(make_error(Errc::exhausted,
                      fmt::format("append to the journal: {} entries wait for its disk already; "
                                  "try again later",
                                  queued)));
    });
  }
  ++queued_;
  staged_.push_back(std::move(job));
  if (staged_.size() > 1) return;
  post([this] { write_thread_->push(std::exchange(staged_, {})); });
}

void SqliteJournal::finish(std::vector<Job>& jobs) {
  const auto alive = alive_;
  queued_ -= jobs.size();
  for (const Job& job : jobs) {
    if (job.fresh) followers_.tell(job.event);
    if (!*alive) return;
  }
  for (Job& job : jobs) {
    job.done(job.error ? Result<std::uint64_t>(*job.error)
                       : Result<std::uint64_t>(job.event.sequence));
    if (!*alive) return;
  }
}

void SqliteJournal::read(JournalQuery query, Callback<std::vector<Event>> done) {
  if (reading_ >= kReadsMax) {
    return post([done = std::move(done)] {
      done(make_error(Errc::exhausted,
                      fmt::format("read the journal: {} reads wait already", kReadsMax)));
    });
  }
  ++reading_;
  std::vector<Read> reads;
  reads.push_back({std::move(query), std::move(done)});
  read_thread_->push(std::move(reads));
}

std::shared_ptr<void> SqliteJournal::follow(Sink sink) { return followers_.add(std::move(sink)); }

void SqliteJournal::trim(std::size_t entries_max, Callback<void> done) {
  Job job;
  job.trim_to = entries_max;
  job.done = [done = std::move(done)](Result<std::uint64_t> trimmed) {
    done(trimmed.ok() ? Result<void>() : Result<void>(trimmed.error()));
  };
  submit(std::move(job));
}

}  // namespace virga
