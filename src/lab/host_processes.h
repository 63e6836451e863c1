#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "lab/lab_options.h"

namespace virga {

/// All processes of one host of the lab, followed in one of two ways. With control groups they are born into a group,
/// which also holds them to what the host declares. Without the right to make groups they are those in the host's
/// network namespace and in those that its agent has made, which no process of a host can leave; then nothing limits
/// them.
///
/// A view of what the kernel knows, without state of its own: lab and BMC each have one. Blocking, but only for
/// kernel calls.
class HostProcesses {
 public:
  virtual ~HostProcesses() = default;

  /// Makes what follows and limits them. Errors: denied, unsupported (says what is missing).
  virtual Result<void> prepare(const LabHostLimits& limits) const = 0;

  /// Files that take the pid of a program which is to be born as one of them; its namespace does the rest.
  virtual std::vector<std::string> birth_files() const = 0;

  /// In order of pid. What has ended and waits for its parent does not count.
  virtual std::vector<pid_t> list() const = 0;

  /// Stops or continues all of them. Errors: timeout (not stopped within 1 s), internal.
  virtual Result<void> freeze() const = 0;
  virtual Result<void> thaw() const = 0;

  /// Kills all of them, stopped before, so that none acts on the end of another. They are gone some milliseconds
  /// later, see list().
  virtual void kill_all() const = 0;
};

/// `id`: "cgroup:NAME", as virga-lab/dev/host-1, or "namespace:NAME", as vg-dev-h1. Errors: invalid.
Result<std::unique_ptr<HostProcesses>> open_host_processes(const std::string& id);

/// The id for a host of this lab.
std::string host_processes_id(const LabOptions& options, const std::string& host,
                              const std::string& network_namespace);

/// Makes the group of a part of the lab that is no host, as "server". Returns its birth files; none without groups.
Result<std::vector<std::string>> make_part(const LabOptions& options, const std::string& part);

/// Ends all processes in these network namespaces. Blocks, at most 10 s. Errors: timeout.
Result<void> end_processes_in(const std::vector<std::string>& network_namespaces);

}  // namespace virga
