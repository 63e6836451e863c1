#include "store/watch_hub.h"

#include <algorithm>

namespace virga {
namespace {

constexpr int kCommitsPerTurn = 256;

std::vector<Change> changes_for(const StoreState::CommitRecord& record, const std::string& prefix) {
  std::vector<Change> changes;
  for (const StoreState::ChangeRecord& from : record.changes) {
    const std::string& key = key_of(from);
    if (key.compare(0, prefix.size(), prefix) != 0) continue;
    Change& change = changes.emplace_back();
    change.removed = from.after == nullptr;
    if (change.removed) {
      change.entry.key = key;
      change.entry.modified = record.revision;
    } else {
      change.entry = *from.after;
    }
  }
  return changes;
}

}  // namespace

struct WatchHub::Watcher {
  std::string prefix;
  Revision seen = 0;
  WatchSink sink;
  bool ended = false;
  bool delivering = false;
};

class WatchHub::Handle final : public Watch {
 public:
  explicit Handle(std::shared_ptr<Watcher> watcher) : watcher_(std::move(watcher)) {}
  ~Handle() override {
    watcher_->ended = true;
    if (!watcher_->delivering) watcher_->sink = {};
  }

 private:
  std::shared_ptr<Watcher> watcher_;
};

WatchHub::WatchHub(Loop& loop, const StoreState& state) : loop_(loop), state_(state) {}

WatchHub::~WatchHub() { *alive_ = false; }

std::unique_ptr<Watch> WatchHub::add(std::string prefix, Revision after, WatchSink sink) {
  auto watcher = std::make_shared<Watcher>();
  watcher->prefix = std::move(prefix);
  watcher->seen = after;
  watcher->sink = std::move(sink);
  watchers_.push_back(watcher);
  schedule();
  return std::make_unique<Handle>(std::move(watcher));
}

void WatchHub::schedule() {
  if (scheduled_) return;
  scheduled_ = true;
  loop_.post([this, alive = alive_] {
    if (!*alive) return;
    scheduled_ = false;
    pump();
  });
}

bool WatchHub::pump() {
  const auto alive = alive_;
  const auto watchers = watchers_;
  bool more = false;
  for (const auto& watcher : watchers) {
    watcher->delivering = true;
    more = deliver(*watcher) || more;
    watcher->delivering = false;
    if (watcher->ended) watcher->sink = {};
    if (!*alive) return false;
  }
  std::erase_if(watchers_, [](const auto& watcher) { return watcher->ended; });
  if (more) schedule();
  return true;
}

/// True when more is left for a later turn.
bool WatchHub::deliver(Watcher& watcher) {
  const auto alive = alive_;
  for (int turn = 0; !watcher.ended && watcher.seen < state_.revision(); ++turn) {
    if (watcher.seen < state_.compacted()) {
      watcher.ended = true;
      if (watcher.sink.compacted) watcher.sink.compacted(state_.compacted());
      return false;
    }
    if (turn == kCommitsPerTurn) return true;
    const auto& record = state_.record(++watcher.seen);
    auto changes = changes_for(record, watcher.prefix);
    if (!changes.empty()) watcher.sink.changed(record.revision, std::move(changes));
    if (!*alive) return false;
  }
  return false;
}

}  // namespace virga
