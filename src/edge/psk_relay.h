#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace virga {

enum class RelayEnd {
  client,  ///< speaks first
  server,
};

/// Exit code of a process that carries, when the outcome is `denied`.
inline constexpr int kRelayDenied = 3;

struct RelayOptions {
  RelayEnd end = RelayEnd::client;
  std::string key;  ///< that both ends share: 16 to 64 bytes
  /// The keys of what is sent are renewed after so much: AES-GCM is good for about 2^24 records (RFC 8446, 5.5).
  std::int64_t renewal_bytes = std::int64_t{64} << 30;
};

/// Carries bytes between `plain`, a stream socket of this host, and `wire`, a TCP connection on which they are
/// encrypted and known to come from who has the key: TLS 1.3 with a key that is shared beforehand, and with forward
/// secrecy. Returns when one of both has ended and what it had said is passed on, or nobody takes it for 10 s.
///
/// Both sockets are made non-blocking and belong to the caller. For a process or a thread of its own: it blocks, and
/// blocks SIGPIPE there.
/// Errors: denied (the other end does not know the key, or what came was changed), unavailable (the wire broke),
/// timeout (nobody takes what is left), invalid (key), internal. Cost: two copies, 256 KiB for each direction, a system
/// call for each 16 KiB that is sent.
Result<void> relay_encrypted(int plain, int wire, const RelayOptions& options);

}  // namespace virga
