#pragma once

#include <utility>

#include "base/loop.h"
#include "base/result.h"

namespace virga {

/// A caller that waits, with its deadline. Empty until begin(), and again after finish().
template <typename T>
class Completion {
 public:
  explicit Completion(Loop& loop) : deadline_(loop) {}

  /// Calls `expired` when nobody has finished this by the deadline; `expired` must finish it.
  void begin(Duration deadline, Callback<T> done, Task expired) {
    done_ = std::move(done);
    deadline_.set_after(deadline, std::move(expired));
  }

  bool waiting() const { return done_ != nullptr; }

  /// Does nothing when nobody waits. May destroy this object.
  void finish(Result<T> result) {
    deadline_.cancel();
    if (auto done = std::exchange(done_, nullptr)) done(std::move(result));
  }

 private:
  Callback<T> done_;
  Timer deadline_;
};

}  // namespace virga
