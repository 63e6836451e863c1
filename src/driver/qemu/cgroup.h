#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "base/units.h"

namespace virga {

struct CgroupLimits {
  Millicores cpu_quota;  ///< > 0
  int cpu_weight = 100;  ///< 1..10000, share under contention
  Mib memory_mib_max;    ///< > 0
  int processes_max = 256;
};

struct CgroupUsage {
  Duration cpu_time{0};  ///< since the group was made
  Bytes memory;          ///< resident, without caches
};

/// Groups of processes with limits, under one base. Implementations: cgroups v1 and v2.
/// Plain kernel calls of microseconds; loop thread only. `group` is a path below the base: "acme/web".
class Cgroups {
 public:
  virtual ~Cgroups() = default;

  /// Makes the group or changes the limits of one that is there, also while processes run in it.
  /// Errors: denied (no right to make groups), invalid (a limit), exhausted.
  virtual Result<void> set(const std::string& group, const CgroupLimits& limits) = 0;

  /// The files that a process writes itself into, to be born in the group.
  virtual std::vector<std::string> procs_files(const std::string& group) const = 0;

  virtual Result<CgroupUsage> usage(const std::string& group) const = 0;

  /// Removes an empty group; one that is not there counts as removed. Errors: conflict (a process is in it).
  virtual Result<void> remove(const std::string& group) = 0;

  /// "v1" or "v2".
  virtual std::string version() const = 0;
};

/// Picks v2 where it has cpu, memory and pids, else v1. `mounts` is the text of /proc/mounts; groups are made below
/// `<mount>/<base>/virga`. Errors: unsupported (neither is mounted with these controllers).
Result<std::unique_ptr<Cgroups>> find_cgroups(const std::string& mounts, const std::string& base);

}  // namespace virga
