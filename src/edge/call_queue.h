#pragma once

#include <fmt/format.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/loop.h"
#include "base/result.h"

namespace virga {

/// Calls that are carried out one after the other, in the order in which they came; at most `waiting_max` wait.
/// Loop thread only. Its end answers nobody, nor does a step that answers after it.
class CallQueue {
 public:
  /// Has its effect and answers once, in a time that its owner bounds.
  using Step = std::function<void(Callback<void>)>;

  /// `whose`: for the message of a refusal, as "volume v1".
  CallQueue(Loop& loop, std::size_t waiting_max, std::string whose)
      : loop_(loop), waiting_max_(waiting_max), whose_(std::move(whose)) {}
  CallQueue(const CallQueue&) = delete;
  CallQueue& operator=(const CallQueue&) = delete;

  /// Errors: exhausted (too many wait), those of the step.
  void run(Step step, Callback<void> done) {
    if (waiting_.size() >= waiting_max_) {
      return loop_.post([done = std::move(done), whose = whose_, most = waiting_max_] {
        done(make_error(Errc::exhausted, fmt::format("{} calls wait for {}", most, whose)));
      });
    }
    waiting_.push_back({std::move(step), std::move(done)});
    next_later();
  }

  bool idle() const { return !busy_ && waiting_.empty(); }

 private:
  struct Call {
    Step step;
    Callback<void> done;
  };

  void next_later() {
    loop_.post([this, alive = std::weak_ptr(alive_)] {
      if (!alive.expired()) next();
    });
  }

  void next() {
    if (busy_ || waiting_.empty()) return;
    busy_ = true;
    Call call = std::move(waiting_.front());
    waiting_.pop_front();
    call.step(
        [this, done = std::move(call.done), alive = std::weak_ptr(alive_)](Result<void> outcome) {
          if (alive.expired()) return;
          busy_ = false;
          next_later();
          done(std::move(outcome));
        });
  }

  Loop& loop_;
  const std::size_t waiting_max_;
  const std::string whose_;
  std::deque<Call> waiting_;
  bool busy_ = false;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
