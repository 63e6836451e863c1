#include "runtime/journal_pump.h"

#include "base/log.h"
#include "base/reflect.h"
#include "model/keys.h"

namespace virga {

JournalPump::JournalPump(Loop& loop, Store& store, StoreMirror& mirror, Journal& journal)
    : loop_(loop), store_(store), mirror_(mirror), journal_(journal) {}

void JournalPump::start() {
  mirror_.listen([this](const std::vector<Change>& changes) {
    for (const Change& change : changes) {
      if (change.removed || !change.entry.key.starts_with(keys::kOutbox)) continue;
      waiting_.push_back({change.entry.key, change.entry.modified, change.entry.value});
    }
    send_next();
  });
}

void JournalPump::send_next() {
  if (sending_ || waiting_.empty()) return;
  auto event = from_json_text<Event>(waiting_.front().text, UnknownFields::ignore);
  if (!event) {
    log_line(LogLevel::error, "journal",
             "dropped " + waiting_.front().key + ": " + event.error().text());
    sent_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    return remove_sent();
  }
  sending_ = true;
  journal_.append(waiting_.front().key, std::move(*event),
                  [this, alive = std::weak_ptr(alive_)](Result<std::uint64_t> done) {
                    if (alive.expired()) return;
                    sending_ = false;
                    if (done.ok()) return sent(waiting_.front());
                    log_line(LogLevel::warning, "journal", done.error().text() + "; again in 1 s");
                    loop_.after(seconds(1), [this, alive] {
                      if (!alive.expired()) send_next();
                    });
                  });
}

void JournalPump::sent(const Parcel& parcel) {
  sent_.push_back(parcel);
  waiting_.pop_front();
  send_next();
  remove_sent();
}

void JournalPump::remove_sent() {
  if (removing_ || sent_.empty()) return;
  std::vector<Guard> guards;
  std::vector<Write> writes;
  while (!sent_.empty() && writes.size() < StoreLimits::kItemsMax / 2) {
    guards.push_back({sent_.front().key, sent_.front().revision});
    writes.push_back({sent_.front().key, std::nullopt, 0});
    sent_.pop_front();
  }
  removing_ = true;
  store_.commit(std::move(guards), std::move(writes),
                [this, alive = std::weak_ptr(alive_)](Result<CommitOutcome>) {
                  if (alive.expired()) return;
                  removing_ = false;
                  remove_sent();
                  send_next();
                });
}

}  // namespace virga
