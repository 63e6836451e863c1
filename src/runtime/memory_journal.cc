#include "runtime/memory_journal.h"

#include <algorithm>

namespace virga {

MemoryJournal::MemoryJournal(Loop& loop, std::size_t entries_max)
    : loop_(loop), entries_max_(entries_max) {}

MemoryJournal::~MemoryJournal() { *alive_ = false; }

void MemoryJournal::post(Task task) {
  loop_.post([alive = alive_, task = std::move(task)] {
    if (*alive) task();
  });
}

void MemoryJournal::append(std::string source, Event event, Callback<std::uint64_t> done) {
  post([this, alive = alive_, source = std::move(source), event = std::move(event),
        done = std::move(done)] {
    const std::uint64_t sequence = append_now(source, event);
    if (*alive) done(sequence);
  });
}

std::uint64_t MemoryJournal::append_now(const std::string& source, Event event) {
  if (!source.empty()) {
    const auto [known, fresh] = sequence_by_source_.emplace(source, last_ + 1);
    if (!fresh) return known->second;
    sources_.emplace_back(last_ + 1, source);
    while (sources_.front().first + kJournalSourcesKept <= last_ + 1) {
      sequence_by_source_.erase(sources_.front().second);
      sources_.pop_front();
    }
  }
  const std::uint64_t sequence = ++last_;
  event.sequence = sequence;
  entries_.push_back(event);
  drop_beyond(entries_max_);
  followers_.tell(event);
  return sequence;
}

void MemoryJournal::read(JournalQuery query, Callback<std::vector<Event>> done) {
  post([this, query = std::move(query), done = std::move(done)] {
    const std::size_t limit = std::clamp<std::size_t>(query.limit, 1, kJournalPageMax);
    std::vector<Event> found;
    const auto take = [&](const Event& event) {
      if (found.size() < limit && matches(query, event)) found.push_back(event);
      return found.size() == limit;
    };
    const auto before = [](const Event& event, std::uint64_t sequence) {
      return event.sequence < sequence;
    };
    if (query.newest_first) {
      auto end = query.after == 0
                     ? entries_.end()
                     : std::lower_bound(entries_.begin(), entries_.end(), query.after, before);
      static_cast<void>(std::find_if(std::make_reverse_iterator(end), entries_.rend(), take));
    } else {
      auto begin = std::lower_bound(entries_.begin(), entries_.end(), query.after + 1, before);
      static_cast<void>(std::find_if(begin, entries_.end(), take));
    }
    done(std::move(found));
  });
}

std::shared_ptr<void> MemoryJournal::follow(Sink sink) { return followers_.add(std::move(sink)); }

void MemoryJournal::trim(std::size_t entries_max, Callback<void> done) {
  post([this, entries_max, done = std::move(done)] {
    drop_beyond(entries_max);
    done({});
  });
}

void MemoryJournal::drop_beyond(std::size_t entries_max) {
  while (entries_.size() > entries_max) entries_.pop_front();
}

}  // namespace virga
