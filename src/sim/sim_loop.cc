#include "sim/sim_loop.h"

#include "base/check.h"

namespace virga {
namespace {

constexpr Instant kStart = Instant() + seconds(1000);
constexpr std::int64_t kStartUnixMs = 1'767'225'600'000;  // 2026-01-01T00:00:00Z
constexpr std::int64_t kMillion = 1'000'000;
constexpr std::size_t kBranches = 4;
constexpr std::size_t kStaleMin = 1024;
constexpr int kSpanBits = 22;  // of nanoseconds: 4.2 ms
constexpr std::int64_t kSpans = 4096;
constexpr std::size_t kSpanKept = 1024;  // entries whose memory stays for another span

}  // namespace

SimLoop::SimLoop()
    : now_(kStart),
      ring_(kSpans),
      span_(span_of(kStart)),
      groups_(1),
      owner_(std::this_thread::get_id()) {}
SimLoop::~SimLoop() {
  // Closures may own timers of this loop: let them cancel while everything still stands.
  for (std::size_t index = 0; index < slots_.size(); ++index) {
    const Task task = std::move(slots_[index].task);
    slots_[index].task = nullptr;
  }
}

WallTime SimLoop::wall_now() const { return {kStartUnixMs + to_ms(now_ - kStart + wall_jumped_)}; }

Duration SimLoop::elapsed() const { return now_ - kStart; }

std::uint32_t SimLoop::take_slot() {
  if (free_slots_.empty()) {
    slots_.emplace_back();
    return static_cast<std::uint32_t>(slots_.size() - 1);
  }
  const std::uint32_t index = free_slots_.back();
  free_slots_.pop_back();
  return index;
}

void SimLoop::free_slot(std::uint32_t index) {
  Slot& slot = slots_[index];
  if (slot.next != kNone) slots_[slot.next].previous = slot.previous;
  (slot.previous != kNone ? slots_[slot.previous].next : groups_[slot.group].first) = slot.next;
  slot.sequence = 0;
  ++slot.generation;
  --live_;
  free_slots_.push_back(index);
}

TimerId SimLoop::at_in(Group group, Instant when, Task task) {
  VIRGA_CHECK(task != nullptr);
  const std::uint32_t index = take_slot();
  Slot& slot = slots_[index];
  slot.task = std::move(task);
  slot.sequence = next_sequence_++;
  slot.group = group;
  slot.previous = kNone;
  slot.next = groups_[group].first;
  if (slot.next != kNone) slots_[slot.next].previous = index;
  groups_[group].first = index;
  ++live_;
  push({when < now_ ? now_ : when, slot.sequence, index});
  return (static_cast<TimerId>(slot.generation) << 32) | (index + 1);
}

void SimLoop::cancel(TimerId timer) {
  const auto number = static_cast<std::uint32_t>(timer & UINT32_MAX);
  if (number == 0 || number > slots_.size()) return;
  Slot& slot = slots_[number - 1];
  if (slot.sequence == 0 || slot.generation != static_cast<std::uint32_t>(timer >> 32)) return;
  const Task task = std::move(slot.task);
  slot.task = nullptr;
  free_slot(number - 1);
  ++stale_;
  if (stale_ > kStaleMin && stale_ > 4 * live_) drop_stale();
}

void SimLoop::post(Task task) {
  if (std::this_thread::get_id() == owner_) {
    at(now_, std::move(task));
    return;
  }
  const std::lock_guard lock(inbox_mutex_);
  inbox_.push_back(std::move(task));
  inbox_filled_.store(true, std::memory_order_release);
}

void SimLoop::take_inbox() {
  if (!inbox_filled_.load(std::memory_order_acquire)) return;
  std::vector<Task> tasks;
  {
    const std::lock_guard lock(inbox_mutex_);
    tasks.swap(inbox_);
    inbox_filled_.store(false, std::memory_order_relaxed);
  }
  for (Task& task : tasks) at(now_, std::move(task));
}

void SimLoop::Heap::push(const Entry& entry) {
  std::size_t position = entries_.size();
  entries_.push_back(entry);
  while (position > 0) {
    const std::size_t parent = (position - 1) / kBranches;
    if (!entry.before(entries_[parent])) break;
    entries_[position] = entries_[parent];
    position = parent;
  }
  entries_[position] = entry;
}

void SimLoop::Heap::sift_down(std::size_t position) {
  const Entry moving = entries_[position];
  while (true) {
    const std::size_t first = position * kBranches + 1;
    if (first >= entries_.size()) break;
    const std::size_t end = std::min(first + kBranches, entries_.size());
    std::size_t least = first;
    for (std::size_t child = first + 1; child < end; ++child) {
      if (entries_[child].before(entries_[least])) least = child;
    }
    if (!entries_[least].before(moving)) break;
    entries_[position] = entries_[least];
    position = least;
  }
  entries_[position] = moving;
}

void SimLoop::Heap::pop() {
  entries_.front() = entries_.back();
  entries_.pop_back();
  if (!entries_.empty()) sift_down(0);
}

void SimLoop::Heap::order() {
  if (entries_.size() < 2) return;
  for (std::size_t position = (entries_.size() - 2) / kBranches + 1; position-- > 0;) {
    sift_down(position);
  }
}

void SimLoop::Heap::take(std::vector<Entry>& entries) {
  entries_.swap(entries);
  order();
}

std::int64_t SimLoop::span_of(Instant when) { return when.time_since_epoch().count() >> kSpanBits; }

void SimLoop::push(const Entry& entry) {
  const std::int64_t span = span_of(entry.when);
  if (span <= span_) return near_.push(entry);
  if (span >= span_ + kSpans) return far_.push(entry);
  auto& waiting = ring_[static_cast<std::size_t>(span % kSpans)];
  if (waiting.capacity() == 0 && !spare_.empty()) {
    waiting.swap(spare_.back());
    spare_.pop_back();
  }
  waiting.push_back(entry);
  ++in_ring_;
}

/// Goes on to the next span in which something is due; there is one.
void SimLoop::next_span() {
  if (in_ring_ == 0) span_ = span_of(far_.top().when) - 1;
  do {
    ++span_;
    while (!far_.empty() && span_of(far_.top().when) < span_ + kSpans) {
      push(far_.top());
      far_.pop();
    }
  } while (near_.empty() && ring_[static_cast<std::size_t>(span_ % kSpans)].empty());
  auto& due = ring_[static_cast<std::size_t>(span_ % kSpans)];
  in_ring_ -= due.size();
  std::erase_if(due, [this](const Entry& entry) {
    const bool old = stale(entry);
    if (old && stale_ > 0) --stale_;
    return old;
  });
  if (near_.empty()) {
    near_.take(due);
  } else {
    for (const Entry& entry : due) near_.push(entry);
  }
  due.clear();
  if (due.capacity() > kSpanKept) due.shrink_to_fit();
  if (due.capacity() > 0) spare_.emplace_back().swap(due);
}

void SimLoop::drop_stale() {
  const auto old = [this](const Entry& entry) { return stale(entry); };
  near_.erase_if(old);
  far_.erase_if(old);
  in_ring_ = 0;
  for (auto& span : ring_) in_ring_ += span.size() - std::erase_if(span, old);
  stale_ = 0;
}

/// Brings the next entry that may run to the top. False: there is none.
bool SimLoop::find_next() {
  take_inbox();
  while (true) {
    if (near_.empty()) {
      if (in_ring_ == 0 && far_.empty()) return false;
      next_span();
      continue;
    }
    const Entry top = near_.top();
    if (stale(top)) {
      if (stale_ > 0) --stale_;
    } else if (frozen_groups_ > 0 && groups_[slots_[top.slot].group].frozen) {
      groups_[slots_[top.slot].group].parked.push_back(top);
    } else {
      return true;
    }
    near_.pop();
  }
}

void SimLoop::run_next() {
  const Entry top = near_.top();
  near_.pop();
  now_ = std::max(now_, top.when);
  const Task task = std::move(slots_[top.slot].task);
  slots_[top.slot].task = nullptr;
  free_slot(top.slot);
  ++executed_;
  task();
}

bool SimLoop::step() {
  owner_ = std::this_thread::get_id();
  if (!find_next()) return false;
  run_next();
  return true;
}

void SimLoop::run_until(Instant when) {
  owner_ = std::this_thread::get_id();
  while (find_next() && near_.top().when <= when) run_next();
  now_ = std::max(now_, when);
}

bool SimLoop::run_until_true(const std::function<bool()>& done, Duration limit) {
  owner_ = std::this_thread::get_id();
  const Instant end = now_ + limit;
  while (!done()) {
    if (!find_next() || near_.top().when > end) {
      now_ = std::max(now_, end);
      return done();
    }
    run_next();
  }
  return true;
}

SimLoop::Group SimLoop::add_group() {
  groups_.emplace_back();
  return static_cast<Group>(groups_.size() - 1);
}

void SimLoop::freeze(Group group) {
  if (!groups_[group].frozen) ++frozen_groups_;
  groups_[group].frozen = true;
}

void SimLoop::thaw(Group group) {
  if (groups_[group].frozen) --frozen_groups_;
  groups_[group].frozen = false;
  std::vector<Entry> parked;
  parked.swap(groups_[group].parked);
  for (Entry& entry : parked) {
    if (stale(entry)) continue;
    entry.when = now_;
    entry.sequence = slots_[entry.slot].sequence = next_sequence_++;
    push(entry);
  }
}

void SimLoop::drop(Group group) {
  std::vector<Task> dropped;  // destroyed last: closures may cancel other timers
  while (groups_[group].first != kNone) {
    const std::uint32_t index = groups_[group].first;
    dropped.push_back(std::move(slots_[index].task));
    slots_[index].task = nullptr;
    free_slot(index);
    ++stale_;
  }
  groups_[group].parked.clear();
  if (groups_[group].frozen) --frozen_groups_;
  groups_[group].frozen = false;
}

Duration SimProcess::scaled(Duration real) const {
  const std::int64_t whole = real.count() / kMillion;
  const std::int64_t rest = real.count() % kMillion;
  return real + Duration(whole * drift_per_million_ + rest * drift_per_million_ / kMillion);
}

TimerId SimProcess::at(Instant when, Task task) {
  Duration real = when - now();
  if (drift_per_million_ != 0 && real > Duration::zero()) {
    // The inverse of scaled(), rounded up so that the clock has reached `when` when the task runs.
    const std::int64_t rate = kMillion + drift_per_million_;
    real = Duration(real.count() / rate * kMillion + real.count() % rate * kMillion / rate + 2);
  }
  return loop_.at_in(group_, loop_.now() + real, std::move(task));
}

void SimProcess::set_drift(std::int64_t per_million) {
  shown_ = now();
  origin_ = loop_.now();
  drift_per_million_ = per_million;
}

void SimProcess::follow(const SimProcess& other) {
  shown_ = other.now();
  origin_ = loop_.now();
  drift_per_million_ = other.drift_per_million_;
}

void SimProcess::jump(Duration by) { shown_ += by; }

}  // namespace virga
