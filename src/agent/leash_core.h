#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/loop.h"
#include "base/result.h"

namespace virga {

/// The deciding part of the leash: kills everything that is guarded when the deadline passes, and goes on killing
/// what is guarded later until the deadline is moved into the future again. Without any extension the deadline has
/// always passed. Used by `virgad leash` and, as it is, by the simulator. Loop thread only.
///
/// Cost: the killing path allocates nothing, so that it works on a host that has run out of memory.
class LeashCore {
 public:
  using Kill = std::function<void(const std::string& name)>;
  static constexpr std::size_t kGuardsMax = 256;
  static constexpr Duration kOverrun = seconds(2);  ///< below every `policy.grace_ms`

  /// Whether a watchdog of this length ends everything by the deadline and kOverrun and yet is fed in time while the
  /// deadline is moved ahead by `lease` again and again.
  static constexpr bool suits(Duration watchdog, Duration lease) {
    return watchdog + seconds(1) <= lease + kOverrun;
  }

  /// `kill` is called once for each guarded name; it may call release().
  LeashCore(Loop& loop, Kill kill);

  /// Moves the deadline forward; an earlier one is ignored.
  void extend(Instant deadline);

  /// Takes a process under guard; killed at once when the deadline has passed. A name that is guarded already
  /// stands for a new process from now on. Errors: exhausted (kGuardsMax names).
  Result<void> guard(const std::string& name);

  /// Forgets a name; unknown ones are allowed.
  void release(const std::string& name);

  /// Whether the reset of the host may be put off by `watchdog` from now: while something is guarded never beyond
  /// kOverrun after the deadline, so that guests also end in time when this process is lost before it.
  bool may_put_off(Duration watchdog) const {
    return guarded_.empty() || loop_.now() + watchdog <= deadline_ + kOverrun;
  }

  bool expired() const { return loop_.now() >= deadline_; }
  Instant deadline() const { return deadline_; }
  bool holds(const std::string& name) const { return guarded_.contains(name); }
  std::vector<std::string> held() const;  ///< in order of name

 private:
  enum class Fate { alive, killed };

  void kill_all();
  void watch_deadline();

  Loop& loop_;
  Kill kill_;
  Instant deadline_{};  ///< the epoch of the clock lies in the past of every loop
  bool watching_ = false;
  std::map<std::string, Fate> guarded_;
  Timer timer_;
};

}  // namespace virga
