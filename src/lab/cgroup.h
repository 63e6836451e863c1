#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"

namespace virga {

/// What a lab host declares and cannot exceed.
struct LabHostLimits {
  Millicores cpu_millicores;
  Mib memory_mib;
};

/// One control group of the lab under all controllers that it uses: cpu, cpuacct, memory, pids and freezer of
/// version 1, or the same of version 2. Named relative to the mount, "virga-lab/dev/host-1". A value that can be
/// copied; the group lives in the kernel. Blocking, but only for kernel calls.
class LabCgroup {
 public:
  /// `mount` is another folder in tests alone.
  explicit LabCgroup(std::string name, std::string mount = "/sys/fs/cgroup");

  const std::string& name() const { return name_; }
  LabCgroup child(const std::string& child_name) const;

  /// Errors: unsupported (no controllers: says which), denied.
  Result<void> create() const;

  /// The period is 20 ms, so that who is held back by the quota waits no longer than that.
  Result<void> limit(const LabHostLimits& limits) const;

  /// Its share of processor time against its siblings, as weight of version 2: 100 is usual, 1 to 10,000.
  Result<void> weigh(int weight) const;

  /// Files that take the pid of a process which is to be born in here.
  std::vector<std::string> procs_files() const;

  /// All processes in here and below, in order of pid.
  std::vector<pid_t> processes() const;

  /// Stops or continues all of them. Errors: timeout (not frozen within 1 s), internal.
  Result<void> freeze() const;
  Result<void> thaw() const;

  /// Kills all that is in here without letting it run another instruction: frozen, killed, thawed. They are gone
  /// some milliseconds later, see processes().
  void kill_all() const;

  /// Kills until none is left. Blocks, at most 10 s. Errors: timeout.
  Result<void> end_all() const;

  /// Removes it and all below. Blocks, at most 2 s a folder. Errors: conflict (still holds processes).
  Result<void> remove() const;

  /// Removes it when no group is below. Errors: conflict.
  Result<void> remove_if_empty() const;

 private:
  std::vector<std::string> folders() const;
  std::string tracking_folder() const;
  Result<void> thaw_folder(const std::string& folder) const;

  std::string name_;
  std::string mount_;
  bool version_2_ = false;
};

}  // namespace virga
