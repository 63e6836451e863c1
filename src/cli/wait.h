#pragma once

#include "cli/client.h"

namespace virga::cli {

/// What --wait waits for at a VM.
enum class Goal { settled, running, stopped, moved, gone };

/// Polls the VM until the goal is reached. `host`: of `moved`, empty = any other than before. Errors: timeout (with the
/// reason that the VM itself gives), conflict (its operation failed: says why), not_found.
Result<boost::json::value> wait_for_vm(Session& session, const std::string& name, Goal goal,
                                       const std::string& host = "");

}  // namespace virga::cli
