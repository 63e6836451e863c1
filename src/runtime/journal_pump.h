#pragma once

#include <deque>
#include <memory>

#include "base/loop.h"
#include "runtime/journal.h"
#include "runtime/store_mirror.h"

namespace virga {

/// Carries events from the outbox, where commits put them, to the journal; each is removed from the outbox after the
/// journal has it. A crash between the two is harmless: the journal knows what it took. Loop thread only.
class JournalPump {
 public:
  JournalPump(Loop& loop, Store& store, StoreMirror& mirror, Journal& journal);

  /// Before the mirror opens: what lies in the outbox from before comes with its first listing.
  void start();

 private:
  struct Parcel {
    std::string key;
    Revision revision = 0;
    std::string text;
  };

  void send_next();
  void sent(const Parcel& parcel);
  void remove_sent();

  Loop& loop_;
  Store& store_;
  StoreMirror& mirror_;
  Journal& journal_;
  std::deque<Parcel> waiting_;
  std::deque<Parcel> sent_;
  bool sending_ = false;
  bool removing_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
