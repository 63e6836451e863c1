#pragma once

#include "base/time.h"

namespace virga {

/// No delay for small messages; an end for a peer that is silent though it owes an answer: `user_timeout` for data
/// that is not acknowledged (TCP_USER_TIMEOUT), keep-alive probes after half of `idle_deadline`. Works on connected
/// and on listening sockets.
void set_link_options(int socket, Duration user_timeout, Duration idle_deadline);

}  // namespace virga
