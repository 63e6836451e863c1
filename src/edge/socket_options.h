#pragma once

#include "base/result.h"
#include "base/time.h"

namespace virga {

/// No delay for small messages; an end for a peer that is silent though it owes an answer: `user_timeout` for data
/// that is not acknowledged (TCP_USER_TIMEOUT), keep-alive probes after half of `idle_deadline`. Works on connected
/// and on listening sockets.
void set_link_options(int socket, Duration user_timeout, Duration idle_deadline);

/// Lets keep-alive probes of sockets that do not say when (programs that can only switch them on) begin after 8 s
/// of silence, in this process's network namespace: a peer that is gone is known after 14 s, one that is back without
/// the connection after 8 s. Errors: denied. Source: Linux, Documentation/networking/ip-sysctl.rst.
Result<void> hasten_keepalive();

}  // namespace virga
