#pragma once

#include "base/result.h"
#include "model/host.h"

namespace virga {

enum class MachinePower { off, on };
BOOST_DESCRIBE_ENUM(MachinePower, off, on)

/// Power of one machine through its management controller. Implementations: RedfishBmc, SimBmc.
///
/// One command at a time per machine; further ones wait in order (at most 8, then `exhausted`). Each call completes
/// on the Loop within its deadline: 5 s to ask, 15 s to switch. Errors: unavailable (does not answer), timeout,
/// unauthenticated (user or password refused), internal (an answer that makes no sense).
class Bmc {
 public:
  virtual ~Bmc() = default;

  virtual void power(const Machine& machine, Callback<MachinePower> done) = 0;

  /// Switches at once, without asking the operating system; completes when the controller itself reports the new
  /// state. A machine that is already in that state is a success.
  virtual void set_power(const Machine& machine, MachinePower to, Callback<void> done) = 0;
};

}  // namespace virga
