#pragma once

#include <functional>
#include <optional>

#include "driver/bmc.h"
#include "runtime/host_commands.h"
#include "runtime/operation_runner.h"

namespace virga {

/// What the steps of this room act on.
struct ClusterOperationDependencies {
  Loop& loop;
  HostCommands& commands;
  Bmc& bmc;
  /// Says what contradicts that a host is off ("2 of 2 peers hear it"); nothing when nothing does.
  std::function<std::optional<std::string>(const HostId&)> seen_alive;
};

/// Registers the step tables of start_vm, stop_vm, delete_vm, migrate_vm and fence_host. The dependencies must outlive
/// the runner. How the safety rules map to steps stands in the room's README.md.
void register_cluster_operations(OperationRunner& runner,
                                 ClusterOperationDependencies dependencies);

}  // namespace virga
