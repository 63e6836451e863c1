#pragma once

#include <string>

#include "driver/load_balancer.h"

namespace virga {

/// Whether the frontends that are not in force yet can have their address and port. HAProxy itself would find out only
/// after it has paused those that it has, and try for a second before it gives up. Blocking for some microseconds;
/// enters the namespace with the calling thread and comes back.
/// Errors: conflict (taken), unavailable (there is no such address), else as errno_error.
Result<void> probe_frontends(const BalancerSpec& wanted, const BalancerSpec& in_force,
                             const std::string& network_namespace);

}  // namespace virga
