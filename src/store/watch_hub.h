#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/loop.h"
#include "store/store_state.h"

namespace virga {

/// Delivers the kept commits of a StoreState to watches. Each watch has a cursor into the history and no queue of
/// its own: one that falls behind the history is told `compacted`. Loop thread only.
class WatchHub {
 public:
  WatchHub(Loop& loop, const StoreState& state);
  ~WatchHub();
  WatchHub(const WatchHub&) = delete;
  WatchHub& operator=(const WatchHub&) = delete;

  /// The first delivery comes in a later task.
  std::unique_ptr<Watch> add(std::string prefix, Revision after, WatchSink sink);

  /// Brings every watch up to date, 256 commits a watch at most; the rest follows in later tasks. A sink may end any
  /// watch and may destroy the hub: false then.
  bool pump();

 private:
  struct Watcher;
  class Handle;

  void schedule();
  bool deliver(Watcher& watcher);

  Loop& loop_;
  const StoreState& state_;
  std::vector<std::shared_ptr<Watcher>> watchers_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  bool scheduled_ = false;
};

}  // namespace virga
