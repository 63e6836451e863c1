#include "runtime/journal_rules.h"

namespace virga {

bool matches(const JournalQuery& query, const Event& event) {
  return event.kind.compare(0, query.kind_prefix.size(), query.kind_prefix) == 0 &&
         (query.subject.empty() || query.subject == event.subject) &&
         (query.tenant.empty() || query.tenant == event.tenant);
}

std::shared_ptr<void> JournalFollowers::add(Journal::Sink sink) {
  auto follower = std::make_shared<Follower>(Follower{std::move(sink)});
  followers_->emplace(++last_, follower);
  return follower;
}

void JournalFollowers::tell(const Event& event) const {
  const auto followers = followers_;
  std::erase_if(*followers, [](const auto& each) { return each.second.expired(); });
  const Followers present = *followers;
  for (const auto& [number, weak] : present) {
    if (const auto follower = weak.lock()) follower->sink(event);
  }
}

}  // namespace virga
