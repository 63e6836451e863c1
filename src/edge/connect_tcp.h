#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "edge/process.h"

namespace virga {

/// A connection to an IPv4 address, non-blocking once it is there. Blocking until then, for a worker thread.
/// Errors: invalid (address), timeout, unavailable (nobody listens, no way there).
Result<Descriptor> connect_tcp(const std::string& address, std::uint16_t port, Duration deadline);

}  // namespace virga
