#pragma once

#include <deque>
#include <unordered_map>

#include "runtime/journal_rules.h"

namespace virga {

/// The journal of simulations and tests. Keeps the newest `entries_max` entries.
/// Cost: append O(1), read O(entries looked through).
class MemoryJournal final : public Journal {
 public:
  explicit MemoryJournal(Loop& loop, std::size_t entries_max = 1'000'000);
  ~MemoryJournal() override;

  void append(std::string source, Event event, Callback<std::uint64_t> done) override;
  void read(JournalQuery query, Callback<std::vector<Event>> done) override;
  std::shared_ptr<void> follow(Sink sink) override;
  void trim(std::size_t entries_max, Callback<void> done) override;

  /// All that is kept, oldest first.
  const std::deque<Event>& entries() const { return entries_; }

 private:
  void post(Task task);
  std::uint64_t append_now(const std::string& source, Event event);
  void drop_beyond(std::size_t entries_max);

  Loop& loop_;
  const std::size_t entries_max_;
  std::deque<Event> entries_;
  std::uint64_t last_ = 0;
  std::unordered_map<std::string, std::uint64_t> sequence_by_source_;  ///< never iterated
  std::deque<std::pair<std::uint64_t, std::string>> sources_;          ///< oldest first
  JournalFollowers followers_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
