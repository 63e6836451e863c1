#pragma once

#include "cli/client.h"

namespace virga::cli {

/// What --wait waits for at a VM.
enum class Goal { settled, running, stopped, moved, gone };

/// Polls the VM until the goal is reached. `host`: of `moved`, empty = any other than before. Errors: timeout (with the
/// reason that the VM itself gives), conflict (its operation failed: says why), not_found.
Result<boost::json::value> wait_for_vm(Session& session, const std::string& name, Goal goal,
                                       const std::string& host = "");

/// Polls until the volume can be attached and is as large as it is asked for; `gone`: until it is erased. Errors:
/// timeout (with the reason that the volume itself gives), not_found.
Result<boost::json::value> wait_for_volume(Session& session, const std::string& name, bool gone);

/// Polls until the service has as many copies as it is to have, all of which serve, and nothing is under way; `gone`:
/// until nothing of it is left. Errors: timeout (with the reason that the service itself gives), not_found.
Result<boost::json::value> wait_for_service(Session& session, const std::string& name, bool gone);

/// Polls until the local volumes of a VM are on the host that it runs on, and nowhere else, or it does not run. Errors:
/// timeout (names them and why they are not).
Result<void> wait_for_local_volumes(Session& session, const std::string& vm, Instant deadline);

/// Polls until no VM runs on the host and no local volume of one that runs elsewhere is on it; tells on standard error
/// how many are left. Errors: timeout (names them and why they have not gone).
Result<void> wait_for_empty_host(Session& session, const std::string& host);

/// Polls until the operation, which was asked to be undone, has ended. Errors: timeout, conflict (it could not be
/// undone any more, or undoing failed: says which).
Result<boost::json::value> wait_for_cancelled(Session& session, const std::string& name);

}  // namespace virga::cli
