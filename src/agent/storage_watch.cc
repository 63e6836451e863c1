#include "agent/storage_watch.h"

namespace virga {

StorageWatch::StorageWatch(Loop& loop, std::string what, Look look)
    : loop_(loop), what_(std::move(what)), look_(std::move(look)), timer_(loop) {}

void StorageWatch::start() {
  answered_at_ = loop_.now();
  look();
}

void StorageWatch::look() {
  timer_.set_after(kEvery, [this] { look(); });
  if (asked_) return;
  asked_ = true;
  look_([this, alive = std::weak_ptr(alive_)](const Result<void>& answer) {
    if (alive.expired()) return;
    asked_ = false;
    error_ = answer.ok() ? "" : answer.error().text();
    if (answer.ok()) answered_at_ = loop_.now();
  });
}

std::string StorageWatch::failing() const {
  if (loop_.now() - answered_at_ <= kPatience) return {};
  return what_ + (error_.empty() ? " does not answer" : ": " + error_);
}

}  // namespace virga
