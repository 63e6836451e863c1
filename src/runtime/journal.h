#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/event.h"

namespace virga {

struct JournalQuery {
  std::uint64_t after = 0;   ///< sequence; 0 = from the first kept
  bool newest_first = false; ///< then `after` counts downwards; 0 = from the last
  std::size_t limit = 100;   ///< at most 1000
  std::string kind_prefix;   ///< "host."
  std::string subject;       ///< exact; empty = all
  std::string tenant;        ///< exact; empty = all
};

/// The append-only record of what happened. Implementations: MemoryJournal, SqliteJournal; one contract suite.
/// Asynchronous on the Loop like Store. An entry that was acknowledged survives kill -9.
class Journal {
 public:
  using Sink = std::function<void(const Event&)>;

  virtual ~Journal() = default;

  /// Appends in order and gives each event the next sequence. `source` (an outbox key) makes it idempotent: a
  /// source that was appended before is acknowledged with its old sequence and not written twice.
  virtual void append(std::string source, Event event, Callback<std::uint64_t> done) = 0;

  virtual void read(JournalQuery query, Callback<std::vector<Event>> done) = 0;

  /// Calls `sink` for each event appended from now on; ends when the returned token is destroyed.
  virtual std::shared_ptr<void> follow(Sink sink) = 0;

  /// Drops the oldest entries beyond `entries_max`.
  virtual void trim(std::size_t entries_max, Callback<void> done) = 0;
};

}  // namespace virga
