#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/time.h"
#include "model/host.h"
#include "model/launch.h"

namespace virga::sim {

/// A volume as one copy of a VM uses it.
struct DiskTruth {
  std::vector<VolumeEndpoint>
      legs;               ///< each write goes to all, and is acknowledged when all have it
  bool mirrored = false;  ///< the volume is, in however many places it is written
};

/// A disk of a guest that is paused: its legs and this place are equal.
struct EqualPlace {
  VolumeEndpoint to;
  bool joins = false;
};

enum class CopyState {
  starting,  ///< its process exists; its processors have never run
  running,
  incoming,     ///< waits for a live migration; has never run
  paused,       ///< at the switch-over point of a live migration
  postmigrate,  ///< has handed over
};
BOOST_DESCRIBE_ENUM(CopyState, starting, running, incoming, paused, postmigrate)

/// One process of the simulated hypervisor: a copy of a VM on one host.
struct Copy {
  VmId vm;
  Epoch epoch;
  CopyState state = CopyState::starting;
  Capacity takes;
  int cpu_weight = 100;
  int processes_max = 256;
  std::uint64_t serial = 0;  ///< unique in the world
  std::uint64_t peer = 0;    ///< incoming: serial of the source that has connected; 0 = none
  bool received = false;     ///< incoming: the last of the state has arrived
  bool deaf = false;         ///< ignores QMP
  bool guest_hung = false;
  bool panicked = false;  ///< its guest: it stands still until it is ended
  Instant answers_at{};   ///< when its guest has booted
  Instant hung_at{};
  bool stopping = false;
  std::string trouble;  ///< "guest panicked"; empty = none
  std::vector<LaunchNic> nics;
  std::map<VolumeId, DiskTruth> volumes;
  std::map<VolumeId, Mib> disk_sizes;  ///< of volumes, as its guest has them
  std::map<VolumeId, EqualPlace> equal_places;
  bool own_files = true;  ///< it can write to what locks alone protect
  std::string address;    ///< IPv4 of its first card; empty = it has none
  int cpus = 1;
  Instant born{};
  Instant runs_since{};  ///< while it runs
  Duration ran{0};       ///< before that

  /// Its guest answers whoever asks, if its host acts.
  bool answers(Instant now) const {
    return state == CopyState::running && answers_at != Instant{} && answers_at <= now &&
           !guest_hung && !panicked;
  }

  Duration run_time(Instant now) const {
    return state == CopyState::running && !panicked ? ran + (now - runs_since) : ran;
  }
};

}  // namespace virga::sim
