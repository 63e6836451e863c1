#pragma once

#include <map>

#include "base/loop.h"
#include "runtime/store_mirror.h"

namespace virga {

/// Ends what ClusterStatus::lease_ms remembers of a longer policy: once a lease that was granted under it has ended for
/// sure, under one leader, the policy's own counts for the next leader too. Loop thread only.
class LeaseBounds {
 public:
  LeaseBounds(Loop& loop, Store& store, StoreMirror& mirror)
      : loop_(loop), store_(store), mirror_(mirror) {}

  /// Often. Cost: O(clusters).
  void tick();

 private:
  struct Noted {
    Duration lease{0};  ///< of the policy ...
    Instant since;      ///< ... which this leader has granted nothing longer than since then
  };

  Loop& loop_;
  Store& store_;
  StoreMirror& mirror_;
  std::map<ClusterId, Noted> noted_;
};

}  // namespace virga
