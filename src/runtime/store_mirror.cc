#include "runtime/store_mirror.h"

#include "base/log.h"
#include "model/keys.h"

namespace virga {
namespace {

/// What `now` has no more, as changes: their history is gone, so nobody else tells of them.
template <typename Resources>
void add_gone(const Resources& before, const Resources& now, std::vector<Change>& changes) {
  for (const auto& [id, resource] : before.all()) {
    if (now.find(id) != nullptr) continue;
    Change gone;
    gone.entry.key = keys::of(id);
    gone.removed = true;
    changes.push_back(std::move(gone));
  }
}

}  // namespace

void StoreMirror::open(Callback<void> ready) {
  ready_ = std::move(ready);
  load_page({}, std::make_shared<ClusterView>(), std::make_shared<std::vector<Change>>());
}

void StoreMirror::load_page(ListRequest request, std::shared_ptr<ClusterView> loading,
                            std::shared_ptr<std::vector<Change>> seen) {
  store_.list(request, [this, loading, seen, alive = std::weak_ptr(alive_)](Result<Page> page) {
    if (alive.expired()) return;
    if (!page) {
      if (ready_) {
        const auto ready = std::exchange(ready_, nullptr);
        ready(wrap_error("load the state from the store", page.error()));
        return;
      }
      log_line(LogLevel::warning, "mirror", page.error().text() + "; trying again in 1 s");
      loop_.after(seconds(1), [this, alive] {
        if (!alive.expired()) open(nullptr);
      });
      return;
    }
    for (KeyValue& entry : page->entries) {
      Change change{std::move(entry), false};
      apply(*loading, change);
      seen->push_back(std::move(change));
    }
    loading->revision = page->revision;
    if (!page->more) return loaded(loading, std::move(*seen));
    load_page({"", seen->back().entry.key, page->revision, StoreLimits::kPageMax}, loading, seen);
  });
}

void StoreMirror::loaded(const std::shared_ptr<ClusterView>& loading, std::vector<Change> seen) {
  loading->incarnation = view_.incarnation;
  add_gone(view_.machines, loading->machines, seen);
  add_gone(view_.tenants, loading->tenants, seen);
  add_gone(view_.clusters, loading->clusters, seen);
  add_gone(view_.hosts, loading->hosts, seen);
  add_gone(view_.images, loading->images, seen);
  add_gone(view_.networks, loading->networks, seen);
  add_gone(view_.ports, loading->ports, seen);
  add_gone(view_.security_groups, loading->security_groups, seen);
  add_gone(view_.floating_addresses, loading->floating_addresses, seen);
  add_gone(view_.vms, loading->vms, seen);
  add_gone(view_.devices, loading->devices, seen);
  add_gone(view_.volumes, loading->volumes, seen);
  add_gone(view_.services, loading->services, seen);
  add_gone(view_.levels, loading->levels, seen);
  add_gone(view_.operations, loading->operations, seen);
  view_ = *loading;
  follow();
  take(view_.revision, seen);
  if (ready_) std::exchange(ready_, nullptr)({});
}

void StoreMirror::follow() {
  WatchSink sink;
  sink.changed = [this](Revision revision, std::vector<Change> changes) {
    for (const Change& change : changes) apply(view_, change);
    take(revision, changes);
  };
  sink.compacted = [this](Revision) {
    log_line(LogLevel::info, "mirror", "the store's history is gone; listing again");
    open(nullptr);
  };
  watch_ = store_.watch("", view_.revision, std::move(sink));
}

void StoreMirror::take(Revision revision, const std::vector<Change>& changes) {
  view_.revision = std::max(view_.revision, revision);
  for (const Listener& listener : listeners_) listener(changes);
  while (!waiting_.empty() && waiting_.begin()->first <= view_.revision) {
    const Task task = std::move(waiting_.begin()->second);
    waiting_.erase(waiting_.begin());
    task();
  }
}

void StoreMirror::apply(ClusterView& view, const Change& change) {
  if (auto done = view.apply(change); !done) {
    log_line(LogLevel::error, "mirror", done.error().text());
  }
}

void StoreMirror::when_reached(Revision revision, Task task) {
  if (revision <= view_.revision) {
    loop_.post(std::move(task));
    return;
  }
  waiting_.emplace(revision, std::move(task));
}

}  // namespace virga
