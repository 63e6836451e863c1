#include "runtime/operation_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "base/log.h"
#include "base/reflect.h"

namespace virga {
namespace {

constexpr std::size_t kEndedKept = 500;
constexpr std::size_t kPrunedAtOnce = 60;
constexpr Duration kCommitRetry = milliseconds(50);
constexpr int kProgressKept = 5;  ///< percent: less is not worth a commit

}  // namespace

struct OperationRunner::Execution {
  explicit Execution(Loop& loop) : timer(loop) {}

  OperationId id;
  const OperationStepTable* table = nullptr;
  Timer timer;
  Instant deadline;
  int cursor = -1;      ///< of the step that is being tried
  Instant tried_since;  ///< that step, by this server
  WallTime step_began_at;
  Revision commit_read_at = 0;       ///< of the operation, when the commit under way was made
  std::uint64_t turn = 0;            ///< late answers of an earlier try are told apart by it
  bool noting = false;               ///< a commit of progress is under way
  std::optional<StepOutcome> ended;  ///< meanwhile
};

OperationRunner::OperationRunner(Loop& loop, Store& store, StoreMirror& mirror, NameSource& names)
    : loop_(loop), store_(store), mirror_(mirror), names_(names) {}

void OperationRunner::set_table(OperationKind kind, OperationStepTable table) {
  tables_[kind] = std::move(table);
}

void OperationRunner::start() {
  mirror_.listen([this](const std::vector<Change>& changes) { notice(changes); });
  std::vector<OperationId> running;
  for (const Operation* operation : mirror_.view().operations.in<OperationsByEnd>(false)) {
    running.push_back(operation->id());
  }
  for (const OperationId& id : running) take_up(id);
}

void OperationRunner::notice(const std::vector<Change>& changes) {
  for (const Change& change : changes) {
    const std::string_view key = change.entry.key;
    if (key.starts_with(keys::kOperation)) {
      take_up(OperationId(std::string(key.substr(keys::kOperation.size()))));
    }
  }
}

void OperationRunner::take_up(const OperationId& id) {
  const Operation* operation = mirror_.view().operations.find(id);
  const auto running = active_.find(id);
  if (operation == nullptr || operation->ended()) {
    if (running != active_.end()) forget(running->second);
    if (operation != nullptr) prune();
    return;
  }
  if (running != active_.end()) return consider_cancel(running->second, *operation);
  const auto table = tables_.find(operation->kind);
  if (table == tables_.end()) return;
  auto execution = std::make_shared<Execution>(loop_);
  execution->id = id;
  execution->table = &table->second;
  execution->deadline = loop_.now() + time_left(*operation);
  go_on(execution, *operation);
}

/// From what is stored.
void OperationRunner::go_on(const std::shared_ptr<Execution>& execution,
                            const Operation& operation) {
  active_[execution->id] = execution;
  if (operation.state == OperationState::undoing) {
    undo(execution, make_error(Errc::cancelled, operation.error));
  } else {
    run_step(execution);
  }
}

/// Nothing that is still under way for it counts; its patience goes on.
void OperationRunner::take_up_again(const std::shared_ptr<Execution>& execution,
                                    const Operation& operation) {
  forget(execution);
  auto next = std::make_shared<Execution>(loop_);
  next->id = execution->id;
  next->table = execution->table;
  next->deadline = execution->deadline;
  next->cursor = execution->cursor;
  next->tried_since = execution->tried_since;
  go_on(next, operation);
}

/// What a wall clock that jumped since the operation began says is kept between nothing and all.
Duration OperationRunner::time_left(const Operation& operation) const {
  const std::int64_t end = operation.deadline_at.unix_ms;
  const std::int64_t all = std::max<std::int64_t>(end - operation.meta.created_at.unix_ms, 0);
  return milliseconds(std::clamp<std::int64_t>(end - loop_.wall_now().unix_ms, 0, all));
}

void OperationRunner::consider_cancel(const std::shared_ptr<Execution>& execution,
                                      const Operation& operation) {
  if (!operation.cancel_requested || operation.state != OperationState::running) return;
  if (execution->table->steps.at(static_cast<std::size_t>(operation.cursor)).past_deadline) return;
  ++execution->turn;
  undo(execution, make_error(Errc::cancelled, "it was cancelled on request"));
}

const Operation* OperationRunner::current(const std::shared_ptr<Execution>& execution) const {
  const auto found = active_.find(execution->id);
  if (found == active_.end() || found->second != execution) return nullptr;
  return mirror_.view().operations.find(execution->id);
}

void OperationRunner::run_step(const std::shared_ptr<Execution>& execution) {
  const Operation* operation = current(execution);
  if (operation == nullptr) return;
  const auto& step = execution->table->steps.at(static_cast<std::size_t>(operation->cursor));
  if (!step.past_deadline && operation->cancel_requested) {
    return undo(execution, make_error(Errc::cancelled, "it was cancelled on request"));
  }
  execution->step_began_at = loop_.wall_now();
  if (std::exchange(execution->cursor, operation->cursor) != operation->cursor) {
    execution->tried_since = loop_.now();
  }
  const bool impatient =
      step.act_impatient && loop_.now() - execution->tried_since >= step.patience;
  const std::uint64_t turn = ++execution->turn;
  const auto& act = impatient ? step.act_impatient : step.act;
  act(*operation, mirror_.view(),
      [this, execution, turn, alive = std::weak_ptr(alive_)](StepOutcome outcome) {
        if (alive.expired() || execution->turn != turn) return;
        if (outcome.kind == StepOutcome::Kind::progress) {
          return progressed(execution, outcome.percent);
        }
        ++execution->turn;
        step_ended(execution, std::move(outcome));
      });
}

/// Keeps how far the step is, for those who watch the operation. Its end waits for this commit: two
/// at once would end in a conflict, and a step that has ended would be tried again.
void OperationRunner::progressed(const std::shared_ptr<Execution>& execution, int percent) {
  const Operation* operation = current(execution);
  if (operation == nullptr || execution->noting) return;
  if (percent < operation->progress_percent + kProgressKept) return;
  Operation changed = *operation;
  changed.progress_percent = percent;
  Transaction transaction;
  transaction.put(changed);
  execution->noting = true;
  const auto noted = [this, execution] {
    execution->noting = false;
    const auto ended = std::exchange(execution->ended, std::nullopt);
    if (ended) step_ended(execution, *ended);
  };
  store_.commit(transaction.guards(), transaction.writes(),
                [this, noted, alive = std::weak_ptr(alive_)](Result<CommitOutcome> done) {
                  if (alive.expired()) return;
                  if (!done.ok() || done->verdict != CommitVerdict::committed) return noted();
                  mirror_.when_reached(done->revision, noted);
                });
}

void OperationRunner::step_ended(const std::shared_ptr<Execution>& execution, StepOutcome outcome) {
  if (execution->noting) {
    execution->ended = std::move(outcome);
    return;
  }
  const Operation* operation = current(execution);
  if (operation == nullptr) return;
  const auto& step = execution->table->steps.at(static_cast<std::size_t>(operation->cursor));
  if (outcome.kind == StepOutcome::Kind::again) {
    const bool late = loop_.now() > execution->deadline && !step.past_deadline;
    if (late) return undo(execution, wrap_error(step.name + " did not end in time", outcome.error));
    execution->timer.set_after(outcome.retry_after, [this, execution] { run_step(execution); });
    return;
  }
  if (outcome.kind == StepOutcome::Kind::failed) {
    return undo(execution, wrap_error(step.name, outcome.error), outcome.note);
  }
  const bool last =
      static_cast<std::size_t>(operation->cursor) + 1 == execution->table->steps.size();
  const WallTime began_at = execution->step_began_at;
  commit(
      execution,
      [this, last, began_at, name = step.name, note = outcome.note](Operation& changed) {
        changed.steps.push_back({name, began_at, loop_.wall_now(), ""});
        ++changed.cursor;
        if (note) note(changed);
        if (last) changed.state = OperationState::succeeded;
        if (last) changed.progress_percent = 100;
      },
      [last, &step, table = execution->table](const RecordContext& context) {
        if (step.record) step.record(context);
        if (last && table->record_success) table->record_success(context);
      },
      [this, execution, last] {
        if (last) return forget(execution);
        run_step(execution);
      });
}

void OperationRunner::undo(const std::shared_ptr<Execution>& execution, const Error& error,
                           const std::function<void(Operation&)>& note) {
  const Operation* operation = current(execution);
  if (operation == nullptr) return;
  const auto begin = [this, execution] {
    const Operation* undoing = current(execution);
    if (undoing == nullptr) return;
    const std::uint64_t turn = ++execution->turn;
    if (!execution->table->undo) return undone(execution, StepOutcome::done());
    execution->table->undo(
        *undoing, mirror_.view(),
        [this, execution, turn, alive = std::weak_ptr(alive_)](StepOutcome done) {
          if (alive.expired() || execution->turn != turn) return;
          ++execution->turn;
          undone(execution, done);
        });
  };
  if (operation->state == OperationState::undoing) return begin();
  log_line(LogLevel::warning, "operation",
           fmt::format("{} {} {}: {}", execution->id.value, enum_name(operation->kind),
                       operation->subject, error.text()),
           operation->correlation);
  commit(
      execution,
      [text = error.text(), code = error.code, note](Operation& changed) {
        changed.state = OperationState::undoing;
        changed.error = text;
        changed.facts["error_code"] = std::string(to_string(code));
        if (note) note(changed);
      },
      nullptr, begin);
}

void OperationRunner::undone(const std::shared_ptr<Execution>& execution,
                             const StepOutcome& outcome) {
  const Operation* operation = current(execution);
  if (operation == nullptr) return;
  if (outcome.kind == StepOutcome::Kind::again) {
    execution->timer.set_after(outcome.retry_after, [this, execution] {
      undo(execution, make_error(Errc::internal, "undo again"));
    });
    return;
  }
  const bool clean = outcome.kind == StepOutcome::Kind::done;
  const bool cancelled = operation->cancel_requested;
  commit(
      execution,
      [clean, cancelled, note = outcome.note,
       text = clean ? std::string() : outcome.error.text()](Operation& changed) {
        changed.state = cancelled ? OperationState::cancelled : OperationState::failed;
        if (!clean) changed.facts["undo_error"] = text;
        if (note) note(changed);
      },
      execution->table->record_failure, [this, execution] { forget(execution); });
}

void OperationRunner::commit(const std::shared_ptr<Execution>& execution,
                             std::function<void(Operation&)> change, Record record, Task then) {
  const Operation* operation = current(execution);
  if (operation == nullptr) return;
  execution->commit_read_at = operation->meta.revision;
  Operation changed = *operation;
  change(changed);
  Transaction transaction;
  transaction.put(changed);
  if (record) {
    record({mirror_.view(), changed, transaction, [&](Event event) {
              event.at = loop_.wall_now();
              event.correlation = changed.correlation;
              transaction.event(names_.outbox_key(mirror_.view().revision), event);
            }});
  }
  store_.commit(
      transaction.guards(), transaction.writes(),
      [this, execution, change = std::move(change), record = std::move(record),
       then = std::move(then), alive = std::weak_ptr(alive_)](Result<CommitOutcome> done) {
        if (alive.expired()) return;
        commit_ended(execution, change, record, then, done);
      });
}

void OperationRunner::commit_ended(const std::shared_ptr<Execution>& execution,
                                   std::function<void(Operation&)> change, Record record, Task then,
                                   const Result<CommitOutcome>& outcome) {
  if (outcome.ok() && outcome->verdict == CommitVerdict::committed) {
    mirror_.when_reached(outcome->revision, std::move(then));
    return;
  }
  if (current(execution) == nullptr) return;
  const Revision read_at = execution->commit_read_at;
  if (!outcome.ok()) {
    log_line(LogLevel::warning, "operation", outcome.error().text() + "; trying again");
  }
  execution->timer.set_after(kCommitRetry, [this, execution, change, record, then, read_at] {
    const Operation* now = current(execution);
    if (now == nullptr) return;
    if (now->meta.revision != read_at) {
      // The lost commit happened after all, or somebody asked to cancel.
      return take_up_again(execution, *now);
    }
    commit(execution, change, record, then);
  });
}

void OperationRunner::forget(const std::shared_ptr<Execution>& execution) {
  ++execution->turn;
  execution->timer.cancel();
  const auto found = active_.find(execution->id);
  if (found != active_.end() && found->second == execution) active_.erase(found);
}

/// Ended operations are history; the journal keeps what matters of them for good.
void OperationRunner::prune() {
  const auto& all = mirror_.view().operations;
  const bool few = all.count<OperationsByEnd>(true) <= kEndedKept;
  if (pruning_ || few || all.size() < kEndedKept * 2) return;
  std::vector<const Operation*> ended = all.in<OperationsByEnd>(true);
  const std::size_t surplus = std::min(ended.size() - kEndedKept, kPrunedAtOnce);
  std::partial_sort(ended.begin(), ended.begin() + static_cast<std::ptrdiff_t>(surplus),
                    ended.end(), [](const Operation* left, const Operation* right) {
                      return std::tie(left->meta.revision, left->meta.name) <
                             std::tie(right->meta.revision, right->meta.name);
                    });
  Transaction transaction;
  for (std::size_t index = 0; index < surplus; ++index) transaction.erase(*ended[index]);
  pruning_ = true;
  store_.commit(transaction.guards(), transaction.writes(),
                [this, alive = std::weak_ptr(alive_)](Result<CommitOutcome>) {
                  if (!alive.expired()) pruning_ = false;
                });
}

}  // namespace virga
