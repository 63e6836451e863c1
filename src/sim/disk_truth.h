#pragma once

#include <vector>

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

}  // namespace virga::sim
