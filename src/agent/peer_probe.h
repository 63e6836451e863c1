#pragma once

#include <functional>
#include <optional>
#include <string>

#include "model/host.h"

namespace virga {

/// What peers tell each other.
struct PeerProbe {
  HostId from;
  HostId to;
  bool answer = false;
  std::uint64_t sequence = 0;
  std::string boot_id;
  Capacity free;
  std::string degraded{};  ///< what is failing on the host; empty = nothing
  Duration lease_ms_left{0};
};

/// Keyed digest of probe datagrams (HMAC-SHA-256).
using ProbeSigner = std::function<std::string(const std::string& key, const std::string& data)>;

/// The datagram of a probe: JSON, authenticated by `key`. Pure.
std::string encode_probe(const PeerProbe& probe, const std::string& key, const ProbeSigner& sign);

/// The probe in a datagram; nothing when it is not authentic or cannot be read, or when `key` is empty. Pure.
std::optional<PeerProbe> decode_probe(const std::string& data, const std::string& key,
                                      const ProbeSigner& sign);

}  // namespace virga
