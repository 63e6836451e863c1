#pragma once

#include <string>

#include "base/reflect.h"
#include "base/result.h"
#include "lab/lab_protocol.h"

namespace virga {

constexpr const char* kLabControlFolder = "/run/virga-lab";

/// Where a user's labs have their sockets and locks: kLabControlFolder for root, as inside a lab's own user namespace;
/// else a folder on tmpfs. Its owner alone may write there.
std::string lab_control_folder(unsigned user);

/// Where the lab of that name listens, as the calling user sees it.
std::string lab_socket_path(const std::string& instance);

/// One request to a running `virgad dev`, for the command line. Blocks for at most 30 s.
/// Errors: unavailable (no such lab runs: says how to start one), denied (the lab or its folder belongs to another
/// user), timeout, and the lab's own.
Result<json::value> call_lab(const std::string& instance, const LabRequest& request);

/// LabStatus of the whole lab.
Result<json::value> lab_status(const std::string& instance);

/// Breaks a host; completes when the fault is in force.
Result<json::value> lab_fail(const std::string& instance, const LabRequest& fault);

/// Undoes all faults of a host ("" = of all, and of the server) and powers it on when it is off.
Result<json::value> lab_heal(const std::string& instance, const std::string& host);

/// Attaches the client namespace to a tenant's network: {"namespace", "device", "mac", "tunnel_address"}.
Result<json::value> lab_attach_client(const std::string& instance, std::uint32_t vni,
                                      const std::string& address);

}  // namespace virga
