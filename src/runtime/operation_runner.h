#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/loop.h"
#include "runtime/store_mirror.h"
#include "runtime/transaction.h"

namespace virga {

/// How one try of a step ended, or how far it is.
struct StepOutcome {
  enum class Kind {
    done,      ///< its effect is there; `record` joins the commit that moves the cursor
    failed,    ///< it cannot succeed; the operation is undone
    again,     ///< not now: tried again after `retry_after` until the operation's deadline
    progress,  ///< not ended: the operation is `percent` done
  };
  Kind kind = Kind::done;
  Error error;
  Duration retry_after = milliseconds(200);
  std::function<void(Operation&)> note;  ///< facts to keep in the operation; may be empty
  int percent = 0;

  static StepOutcome done() { return {}; }
  static StepOutcome failed(Error error) { return {Kind::failed, std::move(error), {}, {}}; }
  static StepOutcome again(Error error, Duration after = milliseconds(200)) {
    return {Kind::again, std::move(error), after, {}};
  }
  static StepOutcome progress(int percent) { return {Kind::progress, {}, {}, {}, percent}; }
};

/// Called once a try, before that any number of times with `progress`.
using StepDone = std::function<void(StepOutcome)>;

/// What a commit of the runner is made of. `view` is the latest; resources read from it and put into `transaction`
/// are guarded by their revision, and the whole is built again when a guard did not hold.
struct RecordContext {
  const ClusterView& view;
  const Operation& operation;
  Transaction& transaction;
  std::function<void(Event)> event;  ///< puts an event into the same commit
};
using Record = std::function<void(const RecordContext&)>;

/// One idempotent step: `act` causes the effect and answers within its own deadline; `record` writes what follows from
/// it, in the commit that moves the cursor.
struct OperationStepTable {
  struct Step {
    std::string name;
    std::function<void(const Operation&, const ClusterView&, StepDone)> act;
    Record record;
    bool past_deadline = false;  ///< goes on trying after the deadline: giving up would not be safe
    /// Instead of `act` once this server has tried it for `patience`; empty = `act` for ever.
    std::function<void(const Operation&, const ClusterView&, StepDone)> act_impatient;
    Duration patience{0};
  };
  std::vector<Step> steps;
  /// Takes back what the steps up to `operation.cursor` may have done; errors are noted and do not stop the record.
  std::function<void(const Operation&, const ClusterView&, StepDone)> undo;
  Record record_success;  ///< joins the commit of the last step
  Record
      record_failure;  ///< after the undo; the outcome of the undo is in operation.facts["undo_error"]
};

/// Carries out operations that stand in the store: from the cursor on, one step after the other, each followed by one
/// commit. A new leader goes on where the last one stopped. What it does not have a table for is left alone.
/// An operation that was superseded in the store is dropped: later effects are refused by epoch.
/// Spans are measured by the Loop's own clock: a wall clock that jumps ends nothing early and delays nothing.
/// Loop thread only. Cost: one commit per step; how many run at once is bounded by who begins them.
class OperationRunner {
 public:
  OperationRunner(Loop& loop, Store& store, StoreMirror& mirror, NameSource& names);

  void set_table(OperationKind kind, OperationStepTable table);

  /// Begins: takes up what runs in the view now, and what appears later.
  void start();

  std::size_t active() const { return active_.size(); }

 private:
  struct Execution;

  void notice(const std::vector<Change>& changes);
  void take_up(const OperationId& id);
  void take_up_again(const std::shared_ptr<Execution>& execution, const Operation& operation);
  void go_on(const std::shared_ptr<Execution>& execution, const Operation& operation);
  void consider_cancel(const std::shared_ptr<Execution>& execution, const Operation& operation);
  const Operation* current(const std::shared_ptr<Execution>& execution) const;
  void run_step(const std::shared_ptr<Execution>& execution);
  Duration time_left(const Operation& operation) const;
  void progressed(const std::shared_ptr<Execution>& execution, int percent);
  void step_ended(const std::shared_ptr<Execution>& execution, StepOutcome outcome);
  void undo(const std::shared_ptr<Execution>& execution, const Error& error,
            const std::function<void(Operation&)>& note = nullptr);
  void undone(const std::shared_ptr<Execution>& execution, const StepOutcome& outcome);
  void commit(const std::shared_ptr<Execution>& execution, std::function<void(Operation&)> change,
              Record record, Task then);
  void commit_ended(const std::shared_ptr<Execution>& execution,
                    std::function<void(Operation&)> change, Record record, Task then,
                    const Result<CommitOutcome>& outcome);
  void forget(const std::shared_ptr<Execution>& execution);
  void prune();

  Loop& loop_;
  Store& store_;
  StoreMirror& mirror_;
  NameSource& names_;
  std::map<OperationKind, OperationStepTable> tables_;
  std::map<OperationId, std::shared_ptr<Execution>> active_;
  bool pruning_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
