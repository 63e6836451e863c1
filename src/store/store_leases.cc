#include "store/store_leases.h"

namespace virga {

StoreLeases::StoreLeases(Loop& loop, Ended ended)
    : loop_(loop), ended_(std::move(ended)), timer_(loop) {}

void StoreLeases::add(StoreLeaseId lease, Duration time_to_live) {
  Lease& entry = leases_[lease];
  entry.time_to_live = time_to_live;
  entry.ended = false;
  move_deadline(lease, entry, loop_.now() + time_to_live);
}

bool StoreLeases::renew(StoreLeaseId lease) {
  const auto found = leases_.find(lease);
  if (found == leases_.end() || found->second.ended) return false;
  if (found->second.deadline <= loop_.now()) return false;
  move_deadline(lease, found->second, loop_.now() + found->second.time_to_live);
  return true;
}

void StoreLeases::erase(StoreLeaseId lease) {
  const auto found = leases_.find(lease);
  if (found == leases_.end()) return;
  deadlines_.erase({found->second.deadline, lease});
  leases_.erase(found);
  arm();
}

void StoreLeases::say_again(StoreLeaseId lease, Duration delay) {
  const auto found = leases_.find(lease);
  if (found == leases_.end()) return;
  move_deadline(lease, found->second, loop_.now() + delay);
}

void StoreLeases::move_deadline(StoreLeaseId lease, Lease& entry, Instant deadline) {
  deadlines_.erase({entry.deadline, lease});
  entry.deadline = deadline;
  deadlines_.insert({deadline, lease});
  arm();
}

void StoreLeases::arm() {
  if (deadlines_.empty()) return timer_.cancel();
  timer_.set_at(deadlines_.begin()->first, [this] { say_due(); });
}

void StoreLeases::say_due() {
  std::vector<StoreLeaseId> due;
  while (!deadlines_.empty() && deadlines_.begin()->first <= loop_.now()) {
    const StoreLeaseId lease = deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    leases_.at(lease).ended = true;
    due.push_back(lease);
  }
  arm();
  for (const StoreLeaseId lease : due) ended_(lease);
}

}  // namespace virga
