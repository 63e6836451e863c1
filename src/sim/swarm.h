#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sim/cloud.h"

namespace virga::sim {

struct SwarmOptions {
  std::uint64_t seed = 1;
  int hosts = 20;
  int vms = 60;
  int cluster_hosts = 32;  ///< hosts of one cluster; the last one may be smaller
  Duration length = seconds(600);
  bool journal = false;  ///< keeps the journal in the outcome
  bool faults =
      true;  ///< a random choice of fault kinds for each seed, then healing and a bounded wait
  std::optional<bool> codec;  ///< every message through its text, or none; unset = the seed decides
};

struct SwarmOutcome {
  std::vector<Violation> violations;
  std::vector<std::string> faults;  ///< what was done, one line each
  std::string journal;
  std::uint64_t hash = 0;
  std::uint64_t tasks = 0;
  std::uint64_t messages = 0;
  std::uint64_t datagrams = 0;
  std::size_t events = 0;
  Duration settled_after{
      -1};  ///< from healing until every VM that should run ran; negative = never
};

/// One random life of a cloud. Equal options give an equal outcome on every machine and compiler.
/// Source: Groce and others, "Swarm testing", ISSTA 2012 (a random subset of faults finds more than all at once).
SwarmOutcome run_swarm(const SwarmOptions& options);

}  // namespace virga::sim
