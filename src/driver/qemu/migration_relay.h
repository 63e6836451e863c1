#pragma once

#include <list>
#include <memory>
#include <string>

#include "edge/process.h"
#include "edge/psk_relay.h"
#include "model/meta.h"

namespace virga {

/// Processes that encrypt the connections of live migrations: `PROGRAM relay`. They outlive this object, and end with
/// either side of what they carry. Loop thread only.
class MigrationRelays {
 public:
  /// `group`: of relays that are a user of their own.
  MigrationRelays(AsioLoop& loop, std::string program, std::uint32_t group)
      : loop_(loop), program_(std::move(program)), group_(group) {}

  /// QEMU's end of a migration of `vm` whose `connection` to the other host is encrypted with `key` from now on.
  /// `user`: who the relay is; 0 = as this process. A connection that was tampered with is logged. Errors: those of
  /// Process::spawn().
  Result<Descriptor> begin(const Descriptor& connection, const std::string& key, RelayEnd end,
                           std::uint32_t user, const VmId& vm);

 private:
  AsioLoop& loop_;
  const std::string program_;
  const std::uint32_t group_;
  std::list<std::unique_ptr<Process>> running_;  ///< so that nothing is left of them when they end
};

}  // namespace virga
