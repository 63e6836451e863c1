#include "store/sqlite_store.h"

#include <fmt/format.h>

#include <utility>

namespace virga {
namespace {

/// Bounds the time the loop needs to hand out the answers of one batch.
constexpr std::size_t kBatchMax = 256;

std::size_t bytes_of(const std::vector<Guard>& guards, const std::vector<Write>& writes) {
  std::size_t bytes = 0;
  for (const Guard& guard : guards) bytes += guard.key.size() + sizeof(Guard);
  for (const Write& write : writes) {
    bytes += write.key.size() + sizeof(Write) + (write.value ? write.value->size() : 0);
  }
  return bytes;
}

template <typename T>
std::function<void(StoreAnswer)> answering(Callback<T> done, T (*pick)(const StoreAnswer&)) {
  return [done = std::move(done), pick](StoreAnswer answer) {
    if (answer.error) return done(*answer.error);
    done(pick(answer));
  };
}

}  // namespace

Result<std::unique_ptr<SqliteStore>> SqliteStore::open(Loop& loop, SqliteStoreOptions options) {
  auto lock = sqlite::FileLock::take(options.path);
  if (!lock) return lock.error();
  auto engine = SqliteEngine::open(options.path);
  if (!engine) return engine.error();
  const std::string path = options.path;
  std::unique_ptr<SqliteStore> store(
      new SqliteStore(loop, std::move(options), *std::move(lock), *std::move(engine)));
  std::map<StoreLeaseId, Duration> leases;
  if (auto loaded = store->engine_->load(store->state_, leases); !loaded) {
    return wrap_error("load " + path, loaded.error());
  }
  for (const auto& [lease, time_to_live] : leases) store->leases_.add(lease, time_to_live);
  store->writer_ = std::make_unique<BatchThread<StoreJob>>(
      kBatchMax,
      [self = store.get()](std::vector<StoreJob> jobs) { self->write(std::move(jobs)); });
  return store;
}

SqliteStore::SqliteStore(Loop& loop, SqliteStoreOptions options, sqlite::FileLock lock,
                         std::unique_ptr<SqliteEngine> engine)
    : loop_(loop),
      options_(std::move(options)),
      lock_(std::move(lock)),
      engine_(std::move(engine)),
      state_(options_.history),
      hub_(loop, state_),
      leases_(loop, [this](StoreLeaseId lease) { end_lease(lease); }),
      deadline_(loop) {}

SqliteStore::~SqliteStore() {
  *alive_ = false;
  if (writer_ != nullptr && !staged_.empty()) writer_->push(std::move(staged_));
  copier_.reset();
  writer_.reset();
}

void SqliteStore::post(Task task) {
  loop_.post([alive = alive_, task = std::move(task)] {
    if (*alive) task();
  });
}

void SqliteStore::get(std::string key, Callback<std::optional<KeyValue>> done) {
  post([this, key = std::move(key), done = std::move(done)] {
    if (failure_) return done(*failure_);
    const auto entry = state_.find(key);
    done(entry == nullptr ? std::optional<KeyValue>() : std::optional<KeyValue>(*entry));
  });
}

void SqliteStore::list(ListRequest request, Callback<Page> done) {
  post([this, request = std::move(request), done = std::move(done)] {
    done(failure_ ? Result<Page>(*failure_) : state_.list(request));
  });
}

void SqliteStore::commit(std::vector<Guard> guards, std::vector<Write> writes,
                         Callback<CommitOutcome> done) {
  if (auto valid = check_commit(guards, writes); !valid) {
    return post([error = valid.error(), done = std::move(done)] { done(error); });
  }
  StoreJob job;
  job.bytes = bytes_of(guards, writes);
  job.guards = std::move(guards);
  job.writes = std::move(writes);
  submit(std::move(job), answering<CommitOutcome>(std::move(done), [](const StoreAnswer& answer) {
           return answer.outcome;
         }));
}

std::unique_ptr<Watch> SqliteStore::watch(std::string prefix, Revision after, WatchSink sink) {
  return hub_.add(std::move(prefix), after, std::move(sink));
}

void SqliteStore::grant(Duration time_to_live, Callback<StoreLeaseId> done) {
  StoreJob job;
  job.kind = StoreJob::Kind::grant;
  job.time_to_live = time_to_live;
  submit(std::move(job), answering<StoreLeaseId>(std::move(done), [](const StoreAnswer& answer) {
           return answer.lease;
         }));
}

void SqliteStore::renew(StoreLeaseId lease, Callback<void> done) {
  post([this, lease, done = std::move(done)] {
    if (failure_) return done(*failure_);
    if (leases_.renew(lease)) return done({});
    done(make_error(Errc::not_found,
                    fmt::format("store lease {}: it has ended or never was", lease)));
  });
}

void SqliteStore::revoke(StoreLeaseId lease, Callback<void> done) {
  StoreJob job;
  job.kind = StoreJob::Kind::revoke;
  job.lease = lease;
  submit(std::move(job), [done = std::move(done)](StoreAnswer answer) {
    done(answer.error ? Result<void>(*answer.error) : Result<void>());
  });
}

void SqliteStore::end_lease(StoreLeaseId lease) {
  revoke(lease, [this, lease](Result<void> ended) {
    constexpr Duration kRetry = seconds(1);
    if (!ended.ok() && ended.error().code != Errc::not_found) leases_.say_again(lease, kRetry);
  });
}

void SqliteStore::compact(Revision revision, Callback<void> done) {
  post([this, revision, done = std::move(done)] {
    done(failure_ ? Result<void>(*failure_) : state_.compact(revision));
  });
}

void SqliteStore::submit(StoreJob job, Answer done) {
  const bool full = queued_jobs_ >= options_.queue_jobs_max ||
                    queued_bytes_ + job.bytes > options_.queue_bytes_max;
  if (full || failure_) {
    StoreAnswer answer;
    answer.error = failure_ ? *failure_
                            : make_error(Errc::exhausted,
                                         fmt::format("commit: {} commits of {} bytes wait for the "
                                                     "store's disk already; try again later",
                                                     queued_jobs_, queued_bytes_));
    return post([answer, done = std::move(done)] { done(answer); });
  }
  ++queued_jobs_;
  queued_bytes_ += job.bytes;
  job.ticket = ++ticket_last_;
  pending_.push_back(
      {job.ticket, loop_.now() + options_.commit_deadline, job.kind, std::move(done)});
  watch_deadline();
  staged_.push_back(std::move(job));
  // All that one task submits goes to the writer together and shares one fsync.
  if (staged_.size() == 1) post([this] { flush(); });
}

void SqliteStore::flush() {
  for (StoreJob& job : staged_) job.compacted = state_.compacted();
  writer_->push(std::exchange(staged_, {}));
}

/// On the writer thread.
void SqliteStore::write(std::vector<StoreJob> jobs) {
  const auto report = engine_->run(jobs);
  auto shared = std::make_shared<std::vector<StoreJob>>(std::move(jobs));
  loop_.post([this, alive = alive_, report, shared = std::move(shared)] {
    if (*alive) finish(*shared, report);
  });
  engine_->checkpoint();
}

void SqliteStore::finish(std::vector<StoreJob>& jobs, const SqliteEngine::Report& report) {
  const auto alive = alive_;
  if (report.failure) failure_ = report.failure;
  stats_.transactions += report.written ? 1 : 0;
  for (StoreJob& job : jobs) take_effect(job);
  if (!hub_.pump()) return;
  state_.trim();
  for (StoreJob& job : jobs) {
    // Whoever was told `unknown` at the deadline is not told again.
    if (pending_.empty() || pending_.front().ticket != job.ticket) continue;
    const Answer done = std::move(pending_.front().done);
    pending_.pop_front();
    done(std::move(job.answer));
    if (!*alive) return;
  }
}

void SqliteStore::watch_deadline() {
  if (deadline_watched_ || pending_.empty()) return;
  deadline_watched_ = true;
  deadline_.set_at(pending_.front().deadline, [this] {
    deadline_watched_ = false;
    give_up();
  });
}

/// The disk hangs: it may still carry out what it was given.
void SqliteStore::give_up() {
  const auto alive = alive_;
  while (!pending_.empty() && pending_.front().deadline <= loop_.now()) {
    const Pending pending = std::move(pending_.front());
    pending_.pop_front();
    StoreAnswer answer;
    if (pending.kind != StoreJob::Kind::commit) {
      answer.error = make_error(
          Errc::timeout, fmt::format("store lease: the store's disk did not answer within {} ms",
                                     to_ms(options_.commit_deadline)));
    }
    pending.done(std::move(answer));
    if (!*alive) return;
  }
  watch_deadline();
}

void SqliteStore::take_effect(StoreJob& job) {
  --queued_jobs_;
  queued_bytes_ -= job.bytes;
  if (job.answer.error) return;
  if (job.kind == StoreJob::Kind::grant) return leases_.add(job.answer.lease, job.time_to_live);
  if (job.kind == StoreJob::Kind::revoke) leases_.erase(job.lease);
  if (job.answer.outcome.verdict == CommitVerdict::conflict) ++stats_.conflicts;
  if (job.answer.outcome.verdict != CommitVerdict::committed) return;
  ++stats_.commits;
  const Revision revision = state_.apply(std::move(job.writes));
  VIRGA_CHECK(revision == job.answer.outcome.revision);
}

void SqliteStore::backup(std::string path, Callback<BackupInfo> done) {
  if (backing_up_) {
    return post([done = std::move(done)] {
      done(make_error(Errc::conflict,
                      "backup: another one is running; try again when it has ended"));
    });
  }
  backing_up_ = true;
  if (copier_ == nullptr) {
    copier_ = std::make_unique<BatchThread<BackupJob>>(1, [this](std::vector<BackupJob> jobs) {
      for (BackupJob& job : jobs) run_backup(std::move(job));
    });
  }
  std::vector<BackupJob> jobs;
  jobs.push_back({std::move(path), std::move(done)});
  copier_->push(std::move(jobs));
}

/// On the copier thread, on a connection of its own.
void SqliteStore::run_backup(BackupJob job) {
  Result<BackupInfo> info = BackupInfo();
  {
    auto source = sqlite::Database::open(options_.path, sqlite::Database::Mode::read_only);
    const auto copied =
        source.ok() ? sqlite::copy_database(*source, job.path) : Result<void>(source.error());
    info = copied.ok() ? verify_backup(job.path)
                       : Result<BackupInfo>(wrap_error("backup", copied.error()));
  }
  loop_.post([this, alive = alive_, info = std::move(info), done = std::move(job.done)] {
    if (!*alive) return;
    backing_up_ = false;
    done(info);
  });
}

StoreStats SqliteStore::stats() const {
  StoreStats stats = stats_;
  stats.queued = queued_jobs_;
  return stats;
}

}  // namespace virga
