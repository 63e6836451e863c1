#pragma once

#include <string>

#include "base/result.h"
#include "edge/process.h"

namespace virga {

/// A socket that listens on an IPv4 address; port 0 = one that is free. Blocking, as children want it.
/// Errors: invalid (address), conflict (the port is taken), else as errno_error.
Result<Descriptor> listen_tcp(const std::string& address, int port, int backlog);

/// The port that a socket is bound to; 0 = none.
int port_of(const Descriptor& socket);

}  // namespace virga
