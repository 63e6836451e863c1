#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"

namespace virga {

/// The step that failed, a literal, and errno; no step = all went well.
struct NamespaceFailure {
  const char* step = nullptr;
  int error = 0;
};

/// What of the outside stays visible inside, where /run and /dev/shm are new and empty.
struct LabNamespaces {
  std::string control;            ///< folder outside; it is /run/virga-lab inside
  std::vector<std::string> kept;  ///< folders that keep their path
};

/// Runs `task` as root of a new user namespace, over mounts, processes and a network of its own: only the loopback
/// device, up. Outside it stays the caller's user, and needs no right but what the kernel gives to everybody.
///
/// Blocks until the task has ended and returns its exit code, 128 + N when signal N ended it. SIGTERM, SIGINT and
/// SIGHUP are handed on to the task. When the task ends, or this process in whatever way, the kernel ends every
/// process inside, and nothing of the namespaces is left. `enter`: see LabStatus::enter.
/// Errors: denied, internal; with the step. One thread may exist: the caller's.
Result<int> run_in_user_namespace(const LabNamespaces& places,
                                  const std::function<int(const std::string& enter)>& task);

/// Goes through the same steps in a child that ends at once.
NamespaceFailure try_user_namespace();

/// Makes the caller's folder of sockets and locks, mode 0700; see lab_control_folder(). Errors: denied (another user
/// was there first).
Result<void> make_lab_control_folder();

}  // namespace virga
