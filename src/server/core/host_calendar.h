#pragma once

#include <string>

#include "runtime/work_queue.h"

namespace virga {

/// Puts hosts into maintenance while one of their windows is open, as an operator would, and activates them when it
/// ends. What an operator does meanwhile counts: who was in maintenance before stays so, who is activated stays active
/// until the next window opens. What it has done is stored with the host: the next server goes on. Loop thread only.
class HostCalendar {
 public:
  static constexpr Duration kEvery = seconds(5);

  HostCalendar(Loop& loop, Store& store, StoreMirror& mirror, NameSource& names)
      : loop_(loop), mirror_(mirror), names_(names), queue_(loop, store, mirror, "calendar") {}

  void start();

  /// Time passes; looks every kEvery. Cost: O(hosts) a look.
  void tick();

 private:
  void run(const std::string& name);

  Loop& loop_;
  StoreMirror& mirror_;
  NameSource& names_;
  WorkQueue queue_;
  Instant due_;
};

}  // namespace virga
