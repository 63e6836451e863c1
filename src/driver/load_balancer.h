#pragma once

#include <cstdint>

#include "base/loop.h"
#include "base/result.h"
#include "model/balancer.h"

namespace virga {

/// The bounds of a spec: names, addresses, ranges, what refers to what. Pure.
/// Errors: invalid, naming the field ("pools[0].servers[2].port"), its value and what would be right.
Result<void> validate(const BalancerSpec& spec);

/// One load balancer. Implementations: HaproxyBalancer, SimLoadBalancer; one contract suite runs on both.
///
/// Idempotent. Loop thread only; calls take effect in their order; `done` is called once, on the loop, never before the
/// call returned. What balances outlives this object and is taken over by the next one's open(); when it ends by
/// itself it is started again: that cuts what was under way, and until then clients are refused.
class LoadBalancer {
 public:
  virtual ~LoadBalancer() = default;

  /// Finds what an earlier agent has left and goes on with it. Once, first. Deadline 30 s.
  virtual void open(Callback<void> done) = 0;

  /// Makes the balancer equal to `wanted`. A revision older than the one in force is ignored.
  ///
  /// No client's request fails through it while a server is left that can answer. A server that drains, is in
  /// maintenance or is no longer wanted finishes what it has; observe() lists it until then. With a frontend that is no
  /// longer wanted its port closes, and connections that it has go on. A connection of before a change of anything but
  /// servers ends after an hour at the latest.
  /// Errors: invalid (see validate(); a certificate that is none), conflict (somebody else has the address and port),
  /// unavailable (there is no such address; it does not answer), exhausted (too many calls wait), timeout. After any of
  /// them what was in force before still is. Deadline 30 s.
  virtual void apply(const BalancerSpec& wanted, Callback<void> done) = 0;

  /// In force; 0 = none.
  virtual std::uint64_t revision() const = 0;

  /// Servers in order of pool and name, the others in order of name. Errors: unavailable (it does not run),
  /// timeout. Deadline 10 s. Cost: 2 kB and about 0.3 ms a server, beside the loop.
  virtual void observe(Callback<ObservedBalancer> done) = 0;

  /// Ends it with all connections, and forgets it. Deadline 10 s.
  virtual void remove(Callback<void> done) = 0;
};

}  // namespace virga
