#pragma once

#include <map>
#include <memory>

#include "base/loop.h"
#include "runtime/journal.h"

namespace virga {

/// Sources are remembered for so many newest entries, also when trim() has dropped the entries themselves.
inline constexpr std::uint64_t kJournalSourcesKept = 100'000;

/// Entries in one answer.
inline constexpr std::size_t kJournalPageMax = 1'000;

/// True when the query asks for an entry like this; `after` and `limit` are not looked at.
bool matches(const JournalQuery& query, const Event& event);

/// Who follows a journal. Loop thread only.
class JournalFollowers {
 public:
  std::shared_ptr<void> add(Journal::Sink sink);

  /// A sink may drop any token; the caller must expect that it is itself destroyed.
  void tell(const Event& event) const;

 private:
  struct Follower {
    Journal::Sink sink;
  };
  using Followers = std::map<std::uint64_t, std::weak_ptr<Follower>>;

  std::shared_ptr<Followers> followers_ = std::make_shared<Followers>();
  std::uint64_t last_ = 0;
};

}  // namespace virga
