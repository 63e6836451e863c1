#include "runtime/work_queue.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace virga {
namespace {

constexpr std::size_t kRemembered = 1000;  // keys, of which most have rested for long

}  // namespace

WorkQueue::WorkQueue(Loop& loop, Store& store, StoreMirror& mirror, std::string name)
    : loop_(loop), store_(store), mirror_(mirror), name_(std::move(name)) {}

void WorkQueue::start(Run run, Duration store_full_pause) {
  run_ = std::move(run);
  store_full_pause_ = store_full_pause;
}

void WorkQueue::mark(const std::string& key) {
  const auto [round, fresh] = running_.try_emplace(key);
  if (!fresh) {
    round->second.again = true;
    return;
  }
  const auto begin_it = [this, key, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) begin(key);
  };
  const auto before = begun_.find(key);
  const Duration rest =
      before == begun_.end() ? Duration::zero() : before->second + kApart - loop_.now();
  if (rest <= Duration::zero()) return loop_.post(begin_it);
  loop_.after(rest, begin_it);
}

void WorkQueue::begin(const std::string& key) {
  ++rounds_;
  const Instant now = loop_.now();
  if (begun_.size() > kRemembered)
    std::erase_if(begun_, [now](const auto& one) { return one.second + kApart <= now; });
  begun_[key] = now;
  running_[key] = {.outstanding = 1};
  run_(key);
  finished(key);
}

void WorkQueue::look_again(const std::string& key) { running_.at(key).again = true; }

void WorkQueue::commit(const std::string& key, const Build& build) {
  Transaction transaction;
  if (!build(transaction)) return;
  ++running_.at(key).outstanding;
  store_.commit(transaction.guards(), transaction.writes(),
                [this, key, alive = std::weak_ptr(alive_)](Result<CommitOutcome> done) {
                  if (alive.expired()) return;
                  Round& round = running_.at(key);
                  if (done.ok() && done->verdict == CommitVerdict::committed) {
                    round.reached = std::max(round.reached, done->revision);
                  } else {
                    round.again = true;
                    if (!done.ok()) log_line(LogLevel::warning, name_, done.error().text());
                    const bool full = !done.ok() && done.error().code == Errc::exhausted;
                    round.refused = round.refused || full;
                  }
                  finished(key);
                });
}

void WorkQueue::finished(const std::string& key) {
  Round& round = running_.at(key);
  if (--round.outstanding > 0) return;
  mirror_.when_reached(round.reached, [this, key, alive = std::weak_ptr(alive_)] {
    if (alive.expired()) return;
    if (!running_.at(key).refused) return end(key);
    // Asking at once again would only fill the queue anew.
    loop_.after(store_full_pause_, [this, key, alive] {
      if (!alive.expired()) end(key);
    });
  });
}

void WorkQueue::end(const std::string& key) {
  const bool again = running_.at(key).again;
  running_.erase(key);
  if (again) mark(key);
}

}  // namespace virga
