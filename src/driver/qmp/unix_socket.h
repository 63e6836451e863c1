#pragma once

#include <string>

#include "base/result.h"
#include "edge/process.h"

namespace virga {

/// A listening stream socket at `path` (mode 0600), replacing an older one. Paths may be longer than the 108 bytes
/// of the kernel's address, as the folder is named by a descriptor. Errors: as errno_error.
Result<Descriptor> listen_unix(const std::string& path);

/// A connected, non-blocking stream socket. A listener that has not accepted yet counts as connected.
/// Errors: not_found, unavailable (nobody listens).
Result<Descriptor> connect_unix(const std::string& path);

/// Sends all of `bytes` at once, with `descriptor` as ancillary data if it is not negative.
/// Errors: unavailable (closed, or the peer does not read: the kernel's buffer is full).
Result<void> send_unix(int socket, const std::string& bytes, int descriptor = -1);

}  // namespace virga
