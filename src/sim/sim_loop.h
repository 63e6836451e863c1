#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "base/loop.h"

namespace virga {

/// A Loop in virtual time: time moves only from one due task to the next, so an hour passes as fast as its tasks run.
///
/// Order is total and repeatable: by (due time, order of adding). Nothing depends on addresses, hashes, threads or the
/// real clock. Time begins 1,000 s after zero (no code may take Instant{} for "now") and, for people, at
/// 2026-01-01T00:00:00Z.
///
/// Tasks belong to a group (one a simulated process; 0 = the world itself). A group can be frozen (its due tasks wait)
/// and dropped (its tasks are forgotten, as if the process was killed).
///
/// Cost: adding O(1) for what is due within 17 s, running O(log of what is due within the same 4 ms), cancelling O(1),
/// dropping a group O(its tasks). Not thread-safe but for post(), whose tasks from other threads are taken over before
/// the next task.
class SimLoop : public Loop {
 public:
  using Group = std::uint32_t;
  static constexpr Group kWorld = 0;

  SimLoop();
  ~SimLoop() override;
  SimLoop(const SimLoop&) = delete;
  SimLoop& operator=(const SimLoop&) = delete;

  Instant now() const override { return now_; }
  WallTime wall_now() const override;
  TimerId at(Instant when, Task task) override { return at_in(kWorld, when, std::move(task)); }
  void cancel(TimerId timer) override;
  void post(Task task) override;

  /// The wall clock of everybody shows `by` more from now on.
  void jump_wall(Duration by) { wall_jumped_ += by; }

  /// Virtual time since this loop was made.
  Duration elapsed() const;

  /// Moves to the next due task and runs it. False when none is left that could run.
  bool step();

  /// Runs all that is due until `when`, that included; then it is `when`.
  void run_until(Instant when);
  void run_for(Duration duration) { run_until(now_ + duration); }

  /// Runs until `done` says true or `limit` has passed; returns what `done` said last.
  bool run_until_true(const std::function<bool()>& done, Duration limit);

  Group add_group();
  TimerId at_in(Group group, Instant when, Task task);

  /// Due tasks of a frozen group wait and run at thaw(), in their order.
  void freeze(Group group);
  void thaw(Group group);
  bool frozen(Group group) const { return groups_[group].frozen; }

  /// Forgets all tasks of the group. The group stays usable.
  void drop(Group group);

  /// Tasks that wait now, and tasks that have run so far.
  std::size_t pending() const { return live_; }
  std::uint64_t executed() const { return executed_; }

 private:
  static constexpr std::uint32_t kNone = UINT32_MAX;
  struct Slot {
    Task task;
    std::uint64_t sequence = 0;  ///< of its entry in the heap; 0 = free
    std::uint32_t generation = 0;
    Group group = kWorld;
    std::uint32_t next = kNone;  ///< the tasks of a group are a list
    std::uint32_t previous = kNone;
  };
  struct Entry {
    Instant when;
    std::uint64_t sequence;
    std::uint32_t slot;
    bool before(const Entry& other) const {
      return when != other.when ? when < other.when : sequence < other.sequence;
    }
  };
  struct GroupState {
    bool frozen = false;
    std::uint32_t first = kNone;  ///< slot of its newest task
    std::vector<Entry> parked;
  };
  /// A 4-ary heap, the earliest on top.
  class Heap {
   public:
    bool empty() const { return entries_.empty(); }
    std::size_t size() const { return entries_.size(); }
    const Entry& top() const { return entries_.front(); }
    void push(const Entry& entry);
    void pop();
    /// Takes all of `entries`, in any order, and leaves it empty. Only while this heap is empty.
    void take(std::vector<Entry>& entries);
    template <typename Unwanted>
    void erase_if(Unwanted unwanted) {
      std::erase_if(entries_, unwanted);
      order();
    }

   private:
    void order();
    void sift_down(std::size_t position);

    std::vector<Entry> entries_;
  };

  static std::int64_t span_of(Instant when);
  std::uint32_t take_slot();
  void free_slot(std::uint32_t index);
  void push(const Entry& entry);
  void next_span();
  void drop_stale();
  void take_inbox();
  bool stale(const Entry& entry) const { return slots_[entry.slot].sequence != entry.sequence; }
  bool find_next();
  void run_next();

  Instant now_;
  Duration wall_jumped_{0};
  std::uint64_t next_sequence_ = 1;
  std::uint64_t executed_ = 0;
  std::size_t live_ = 0;
  std::size_t stale_ = 0;
  std::size_t frozen_groups_ = 0;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_slots_;
  // What waits is parted by when it is due: now or in the present span of 4 ms, in a later span within the ring, after.
  Heap near_;
  std::vector<std::vector<Entry>> ring_;
  std::vector<std::vector<Entry>> spare_;  ///< empty, their memory warm: for the next spans
  Heap far_;
  std::int64_t span_;  ///< the present one
  std::size_t in_ring_ = 0;
  std::vector<GroupState> groups_;

  std::thread::id owner_;
  std::atomic<bool> inbox_filled_{false};
  std::mutex inbox_mutex_;
  std::vector<Task> inbox_;
};

/// The Loop of one simulated process: its own group of the SimLoop and its own clock, which may start elsewhere, run
/// too fast or too slow, and jump. Destroying it forgets its tasks.
class SimProcess : public Loop {
 public:
  explicit SimProcess(SimLoop& loop)
      : loop_(loop), group_(loop.add_group()), origin_(loop.now()), shown_(loop.now()) {}
  ~SimProcess() override { end(); }
  SimProcess(const SimProcess&) = delete;
  SimProcess& operator=(const SimProcess&) = delete;

  Instant now() const override {
    return drift_per_million_ == 0 ? shown_ + (loop_.now() - origin_)
                                   : shown_ + scaled(loop_.now() - origin_);
  }
  WallTime wall_now() const override { return loop_.wall_now(); }
  TimerId at(Instant when, Task task) override;
  void cancel(TimerId timer) override { loop_.cancel(timer); }
  void post(Task task) override { loop_.at_in(group_, loop_.now(), std::move(task)); }

  /// Its clock gains `per_million` microseconds a second from now on (negative: loses). Timers that are set already
  /// keep their true time.
  void set_drift(std::int64_t per_million);
  /// Shows from now on what `other` shows, with its drift.
  void follow(const SimProcess& other);
  /// Its clock shows `by` more at once; timers that are set already keep their true time.
  void jump(Duration by);

  void freeze() { loop_.freeze(group_); }
  void thaw() { loop_.thaw(group_); }
  bool frozen() const { return loop_.frozen(group_); }
  /// Forgets its tasks, as a killed process does.
  void end() { loop_.drop(group_); }
  SimLoop::Group group() const { return group_; }

 private:
  Duration scaled(Duration real) const;

  SimLoop& loop_;
  SimLoop::Group group_;
  Instant origin_;  ///< true time when the drift was last set ...
  Instant shown_;   ///< ... and what this clock showed then
  std::int64_t drift_per_million_ = 0;
};

}  // namespace virga
