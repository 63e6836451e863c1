#pragma once

#include <map>

#include "sim/world.h"

namespace virga::sim {

/// The live migrations under way between simulated hypervisor processes. They go on without the agents that began
/// them, as QEMU's do: memory flows while both machines act and the path stands, then the source pauses.
class Migrations {
 public:
  explicit Migrations(World& world);

  /// Connects a source to the incoming copy that `secret` admits and begins. `done` is told once: progress when the
  /// source is paused at the switch-over point, else why it failed (the source then runs).
  void begin(HostTruth& host, Copy& source, const MigrationEndpoint& to,
             const MigrationLimits& limits, Callback<MigrationProgress> done);

  /// Hands over; see Hypervisor::switch_over.
  void switch_over(Copy& source, Callback<MigrationProgress> done);

  /// Ends the migration of `source`; nothing when there is none.
  void cancel(std::uint64_t source);

  /// The agent that owned the migration of `source` is gone: it ends, unless it is past its switch-over point.
  void lose_owner(std::uint64_t source);

  MigrationProgress progress(std::uint64_t source) const;

 private:
  struct Transfer {
    std::uint64_t destination = 0;
    MigrationLimits limits;
    MigrationProgress progress;
    Instant began;
    Instant moved;        ///< when data last moved
    Instant paused;       ///< the guest
    bool ready = false;   ///< at the switch-over point
    bool passed = false;  ///< that point
    Callback<MigrationProgress> done;
  };

  void advance(std::uint64_t source);
  void fail(std::uint64_t source, const std::string& why);
  void hand_over(std::uint64_t source, Instant until, Callback<MigrationProgress> done);
  void confirm(std::uint64_t source, Callback<MigrationProgress> done);
  bool connected(std::uint64_t source, const Transfer& transfer);
  void copy_ended(const Copy& copy);

  World& world_;
  std::map<std::uint64_t, Transfer> transfers_;  ///< by the source's serial
};

}  // namespace virga::sim
