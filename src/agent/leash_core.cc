#include "agent/leash_core.h"

#include <algorithm>

namespace virga {

LeashCore::LeashCore(Loop& loop, Kill kill) : loop_(loop), kill_(std::move(kill)), timer_(loop) {}

void LeashCore::extend(Instant deadline) {
  if (deadline <= deadline_) return;
  deadline_ = deadline;
  if (!watching_) watch_deadline();
}

// One timer serves many extensions: when it fires early it is set again, so that an extension costs
// no timer.
void LeashCore::watch_deadline() {
  watching_ = true;
  timer_.set_at(deadline_, [this] {
    watching_ = false;
    if (expired()) {
      kill_all();
    } else {
      watch_deadline();
    }
  });
}

Result<void> LeashCore::guard(const std::string& name) {
  if (!holds(name) && guarded_.size() >= kGuardsMax) {
    return make_error(Errc::exhausted, "guard \"" + name + "\": the leash holds " +
                                           std::to_string(kGuardsMax) + " processes already");
  }
  guarded_[name] = Fate::alive;
  if (expired()) kill_all();
  return {};
}

void LeashCore::release(const std::string& name) { guarded_.erase(name); }

std::vector<std::string> LeashCore::held() const {
  std::vector<std::string> names;
  names.reserve(guarded_.size());
  for (const auto& [name, fate] : guarded_) names.push_back(name);
  return names;
}

// Searches from the start after each kill, because kill_ may release any name.
void LeashCore::kill_all() {
  for (;;) {
    const auto next = std::find_if(guarded_.begin(), guarded_.end(),
                                   [](const auto& entry) { return entry.second == Fate::alive; });
    if (next == guarded_.end()) return;
    next->second = Fate::killed;
    kill_(next->first);
  }
}

}  // namespace virga
