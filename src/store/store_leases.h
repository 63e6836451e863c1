#pragma once

#include <functional>
#include <map>
#include <set>

#include "base/loop.h"
#include "store/store.h"

namespace virga {

/// Deadlines of a store's leases. Says once for each lease that its time is over; the store then removes its keys.
/// Loop thread only. O(log leases) a call.
class StoreLeases {
 public:
  using Ended = std::function<void(StoreLeaseId)>;

  /// `ended` is called in a task of its own.
  StoreLeases(Loop& loop, Ended ended);

  /// Starts a lease now, or starts it anew.
  void add(StoreLeaseId lease, Duration time_to_live);

  /// False when the lease does not exist or its end was said.
  bool renew(StoreLeaseId lease);

  void erase(StoreLeaseId lease);

  /// Says the end again after `delay`, when it could not be carried out.
  void say_again(StoreLeaseId lease, Duration delay);

 private:
  struct Lease {
    Duration time_to_live{};
    Instant deadline{};
    bool ended = false;
  };

  void move_deadline(StoreLeaseId lease, Lease& entry, Instant deadline);
  void arm();
  void say_due();

  Loop& loop_;
  Ended ended_;
  std::map<StoreLeaseId, Lease> leases_;
  std::set<std::pair<Instant, StoreLeaseId>> deadlines_;
  Timer timer_;
};

}  // namespace virga
