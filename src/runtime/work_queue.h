#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/loop.h"
#include "runtime/store_mirror.h"
#include "runtime/transaction.h"

namespace virga {

/// Which keys a controller has to look at. A mark says "look again", never what to do: each key waits once, however
/// often it was marked, and has one round at a time. A round ends when the view contains all that it has committed;
/// what was marked meanwhile, or could not be committed, begins the next. Rounds of a key begin kApart from each other
/// at least: what is marked by each of many commits is looked at for many of them at once. When the store refuses a
/// commit for want of room the next round waits for `store_full_pause`. Loop thread only. Cost: O(log keys) a mark.
class WorkQueue {
 public:
  static constexpr Duration kApart = milliseconds(10);

  /// Looks at a key and commits what follows from it, before it returns.
  using Run = std::function<void(const std::string& key)>;

  /// Puts one action into a transaction; false = it is not valid any more, nothing is committed.
  using Build = std::function<bool(Transaction&)>;

  WorkQueue(Loop& loop, Store& store, StoreMirror& mirror, std::string name);

  /// Once, before the first mark().
  void start(Run run, Duration store_full_pause = milliseconds(250));

  void mark(const std::string& key);

  /// Within the round of `key`: a commit of its own. A conflict is no error: the key is looked at again.
  void commit(const std::string& key, const Build& build);

  /// Within the round of `key`: look at it again when the round has ended.
  void look_again(const std::string& key);

  /// Rounds that were begun since the start.
  std::uint64_t rounds() const { return rounds_; }

 private:
  struct Round {
    int outstanding = 0;
    Revision reached = 0;
    bool again = false;
    bool refused = false;  ///< the store was full
  };

  void begin(const std::string& key);
  void finished(const std::string& key);
  void end(const std::string& key);

  Loop& loop_;
  Store& store_;
  StoreMirror& mirror_;
  std::string name_;
  Run run_;
  Duration store_full_pause_{0};
  std::map<std::string, Round> running_;
  std::map<std::string, Instant> begun_;  ///< the last round of each key
  std::uint64_t rounds_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
