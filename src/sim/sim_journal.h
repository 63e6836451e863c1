#pragma once

#include <functional>
#include <set>
#include <string>
#include <utility>

#include "base/loop.h"
#include "runtime/journal.h"

namespace virga::sim {

/// What outlives a run of the server.
struct JournalDisk {
  std::uint64_t last = 0;
  std::set<std::string> sources;
};

/// A journal that hands every entry to `sink` and keeps none: the simulator's reader stands outside.
class SimJournal : public Journal {
 public:
  SimJournal(Loop& loop, JournalDisk& disk, std::function<void(const Event&)> sink)
      : loop_(loop), disk_(disk), sink_(std::move(sink)) {}

  void append(std::string source, Event event, Callback<std::uint64_t> done) override {
    if (disk_.sources.insert(std::move(source)).second) {
      event.sequence = ++disk_.last;
      sink_(event);
    }
    loop_.post([done = std::move(done), last = disk_.last] { done(last); });
  }
  void read(JournalQuery, Callback<std::vector<Event>> done) override {
    loop_.post([done = std::move(done)] { done(std::vector<Event>()); });
  }
  std::shared_ptr<void> follow(Sink) override { return nullptr; }
  void trim(std::size_t, Callback<void> done) override {
    loop_.post([done = std::move(done)] { done({}); });
  }

 private:
  Loop& loop_;
  JournalDisk& disk_;
  std::function<void(const Event&)> sink_;
};

}  // namespace virga::sim
