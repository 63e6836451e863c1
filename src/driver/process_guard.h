#pragma once

#include <string>

#include "base/result.h"
#include "base/time.h"

namespace virga {

/// What stands above the guests of a host: it kills every guarded process when the deadline passes, also when the
/// agent is dead or stopped. Implementations: LeashClient (speaks to `virgad leash`), SimLeash. Loop thread only.
class ProcessGuard {
 public:
  virtual ~ProcessGuard() = default;

  /// Hands a hypervisor process over before its guest runs; a guest never runs unguarded. `pidfd` is duplicated.
  /// Idempotent by name. Errors: unavailable (no leash answers).
  virtual Result<void> guard(const std::string& name, int pidfd) = 0;
  virtual void release(const std::string& name) = 0;

  /// Moves the deadline; only ever forward. CLOCK_BOOTTIME of this host, as Loop::now(). `lease`: how far ahead of now
  /// it is moved each time while the server answers.
  virtual void extend(Instant deadline, Duration lease) = 0;

  /// The deadline that is in force, also of an agent before this one; Instant() = it has not been said yet.
  virtual Instant held_until() const { return {}; }

  /// True while the leash has confirmed, within the last 2 s, that it lives and holds what was guarded.
  virtual bool armed() const = 0;

  /// True while, besides, something outside the host (a hardware watchdog) stands above the guard and ends its guests
  /// soon after the deadline when it cannot: only then does the end of a lease prove anything about a host that may
  /// be frozen as a whole, or have lost agent and guard.
  virtual bool watchdog_armed() const { return armed(); }
};

}  // namespace virga
