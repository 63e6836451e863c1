#pragma once

#include <vector>

#include "base/result.h"
#include "driver/fabric.h"

namespace virga {

/// What one gateway hands out and answers.
struct GatewaySpec {
  GatewayNetwork network;
  std::vector<GatewayMember> members;
};

/// DHCP and DNS of one network's gateway on this host. Implementations: DnsmasqServer, one in tests.
///
/// Members get their address, and with it the network's MTU, the gateway as resolver, and as router where the network
/// leads out; others get nothing. NAME.DOMAIN is a member's address; other names of all networks do not exist; the rest
/// is asked of the host's resolvers where the network leads out, and refused else. What guests call themselves is
/// ignored.
///
/// Idempotent. Loop thread only; calls take effect in their order; `done` is called once, on the loop, never before the
/// call returned. What serves outlives this object and is taken over by the next one's open(); when it ends by itself
/// it is started again.
class GatewayServer {
 public:
  virtual ~GatewayServer() = default;

  /// Finds what an earlier agent has left and goes on with it. Once, first. Deadline 10 s.
  virtual void open(Callback<void> done) = 0;

  /// Makes it serve `wanted`. Changes of members alone interrupt nothing. Errors: invalid (naming the field),
  /// unavailable (it ended, with its words), timeout, exhausted (too many calls wait). Deadline 15 s.
  virtual void apply(const GatewaySpec& wanted, Callback<void> done) = 0;

  /// Ends it and forgets it. Deadline 10 s.
  virtual void remove(Callback<void> done) = 0;
};

}  // namespace virga
