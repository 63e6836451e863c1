#include "store/memory_store.h"

#include <fmt/format.h>

#include <algorithm>

namespace virga {
namespace {

Error lease_not_found(StoreLeaseId lease) {
  return make_error(Errc::not_found,
                    fmt::format("store lease {}: it has ended or never was", lease));
}

Error disk_full() {
  return make_error(Errc::exhausted, "commit: the store's disk is full; free some room on it");
}

}  // namespace

MemoryStore::MemoryStore(Loop& loop, Rng rng, MemoryStoreOptions options,
                         std::shared_ptr<MemoryDisk> disk)
    : loop_(loop),
      rng_(rng),
      options_(options),
      disk_(disk != nullptr ? std::move(disk) : std::make_shared<MemoryDisk>()),
      hub_(loop, disk_->state),
      leases_(loop, [this](StoreLeaseId lease) {
        if (auto ended = end_lease(lease); !ended) leases_.say_again(lease, seconds(1));
      }) {
  for (const auto& [lease, time_to_live] : disk_->leases) leases_.add(lease, time_to_live);
}

MemoryStore::~MemoryStore() { *alive_ = false; }

void MemoryStore::post(Task task) {
  loop_.post([alive = alive_, task = std::move(task)] {
    if (*alive) task();
  });
}

void MemoryStore::get(std::string key, Callback<std::optional<KeyValue>> done) {
  post([this, key = std::move(key), done = std::move(done)] {
    const auto entry = disk_->state.find(key);
    done(entry == nullptr ? std::optional<KeyValue>() : std::optional<KeyValue>(*entry));
  });
}

void MemoryStore::list(ListRequest request, Callback<Page> done) {
  post([this, request = std::move(request), done = std::move(done)] {
    done(disk_->state.list(request));
  });
}

void MemoryStore::commit(std::vector<Guard> guards, std::vector<Write> writes,
                         Callback<CommitOutcome> done) {
  if (auto valid = check_commit(guards, writes); !valid) {
    return post([error = valid.error(), done = std::move(done)] { done(error); });
  }
  const bool unknown_done = rng_.chance(options_.unknown_done_per_million);
  const bool unknown_lost = rng_.chance(options_.unknown_lost_per_million);
  const bool forget = rng_.chance(options_.compact_per_million);
  const Instant effect = draw_effect_time();
  Task task = [=, this, alive = alive_, guards = std::move(guards), writes = std::move(writes),
               done = std::move(done)]() mutable {
    if (!*alive) return;
    if (unknown_lost) return done(CommitOutcome{});
    auto outcome = apply(guards, std::move(writes));
    if (!*alive) return;
    if (forget) VIRGA_CHECK(disk_->state.compact(disk_->state.revision() + 1).ok());
    if (unknown_done && outcome.ok()) outcome = CommitOutcome{};
    done(std::move(outcome));
  };
  if (effect <= loop_.now()) return loop_.post(std::move(task));
  loop_.at(effect, std::move(task));
}

/// Never before the commit in front, so that commits take effect in the order of their calls.
Instant MemoryStore::draw_effect_time() {
  Instant effect = loop_.now();
  if (options_.commit_delay_max > Duration::zero()) {
    effect += Duration(
        rng_.between(options_.commit_delay_min.count(), options_.commit_delay_max.count()));
  }
  last_effect_ = std::max(last_effect_, effect);
  return last_effect_;
}

/// The object may be gone when this returns: a watch's sink may have destroyed it.
Result<CommitOutcome> MemoryStore::apply(const std::vector<Guard>& guards,
                                         std::vector<Write> writes) {
  if (disk_->full) return disk_full();
  for (const Write& write : writes) {
    if (write.lease != 0 && !disk_->leases.contains(write.lease))
      return lease_not_found(write.lease);
  }
  StoreState& state = disk_->state;
  if (!state.holds(guards)) return CommitOutcome{CommitVerdict::conflict, state.revision()};
  const CommitOutcome outcome{CommitVerdict::committed, state.apply(std::move(writes))};
  if (hub_.pump()) disk_->state.trim();
  return outcome;
}

std::unique_ptr<Watch> MemoryStore::watch(std::string prefix, Revision after, WatchSink sink) {
  return hub_.add(std::move(prefix), after, std::move(sink));
}

void MemoryStore::grant(Duration time_to_live, Callback<StoreLeaseId> done) {
  post([this, time_to_live, done = std::move(done)] {
    if (disk_->full) return done(disk_full());
    const StoreLeaseId lease = ++disk_->lease_last;
    disk_->leases.emplace(lease, time_to_live);
    leases_.add(lease, time_to_live);
    done(lease);
  });
}

void MemoryStore::renew(StoreLeaseId lease, Callback<void> done) {
  post([this, lease, done = std::move(done)] {
    done(leases_.renew(lease) ? Result<void>() : Result<void>(lease_not_found(lease)));
  });
}

void MemoryStore::revoke(StoreLeaseId lease, Callback<void> done) {
  post([this, lease, alive = alive_, done = std::move(done)] {
    const auto ended = end_lease(lease);
    if (*alive) done(ended);
  });
}

Result<void> MemoryStore::end_lease(StoreLeaseId lease) {
  if (disk_->full) return disk_full();
  if (disk_->leases.erase(lease) == 0) return lease_not_found(lease);
  leases_.erase(lease);
  disk_->state.apply(disk_->state.removals_of(lease));
  if (hub_.pump()) disk_->state.trim();
  return {};
}

void MemoryStore::compact(Revision revision, Callback<void> done) {
  post([this, revision, done = std::move(done)] { done(disk_->state.compact(revision)); });
}

}  // namespace virga
