#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/loop.h"
#include "runtime/cluster_view.h"

namespace virga {

/// Keeps the ClusterView equal to the store: lists everything once, then follows the watch; lists again when the
/// watch says that history was compacted. Loop thread only.
class StoreMirror {
 public:
  /// Told after the view took over one commit's changes; after a new listing of all that there is and of what is gone.
  using Listener = std::function<void(const std::vector<Change>& changes)>;

  StoreMirror(Loop& loop, Store& store) : loop_(loop), store_(store) {}

  /// Loads; `ready` runs once when the view is complete, or with the error that prevents it.
  void open(Callback<void> ready);

  const ClusterView& view() const { return view_; }
  void set_incarnation(std::uint64_t incarnation) { view_.incarnation = incarnation; }
  void listen(Listener listener) { listeners_.push_back(std::move(listener)); }

  /// Runs `task` once the view has reached `revision`; at once (after this call) when it has.
  void when_reached(Revision revision, Task task);

 private:
  void load_page(ListRequest request, std::shared_ptr<ClusterView> loading,
                 std::shared_ptr<std::vector<Change>> outbox);
  void loaded(const std::shared_ptr<ClusterView>& loading, std::vector<Change> seen);
  void follow();
  void take(Revision revision, const std::vector<Change>& changes);
  void apply(ClusterView& view, const Change& change);

  Loop& loop_;
  Store& store_;
  ClusterView view_;
  std::unique_ptr<Watch> watch_;
  std::vector<Listener> listeners_;
  std::multimap<Revision, Task> waiting_;
  Callback<void> ready_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
