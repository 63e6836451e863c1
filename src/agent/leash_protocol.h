#pragma once

#include <boost/describe.hpp>
#include <cstdint>
#include <string>
#include <vector>

/// The link between the agent and `virgad leash`: JSON, one object a SOCK_SEQPACKET message, at most 64 KiB. Each
/// request is answered by one LeashReply. `guard` carries the process's pidfd by SCM_RIGHTS.
namespace virga {

constexpr std::size_t kLeashMessageBytesMax = 64 << 10;
constexpr std::size_t kLeashNameBytesMax = 159;

enum class LeashRequestKind { ask, guard, extend };
BOOST_DESCRIBE_ENUM(LeashRequestKind, ask, guard, extend)

struct LeashRequest {
  LeashRequestKind kind = LeashRequestKind::ask;
  std::string name;              ///< of guard
  std::int64_t deadline_ns = 0;  ///< of extend: CLOCK_BOOTTIME
  std::int64_t lease_ns = 0;     ///< of extend: how far ahead deadlines are moved; 0 = not known
};
BOOST_DESCRIBE_STRUCT(LeashRequest, (), (kind, name, deadline_ns, lease_ns))

struct LeashReply {
  std::vector<std::string> held;  ///< names of the guarded processes that still exist, in order
  std::int64_t deadline_ns = 0;
  bool watchdog =
      false;  ///< a hardware watchdog is armed, and ends what is held in time when this leash cannot
  std::string error;  ///< of the request; empty = done
};
BOOST_DESCRIBE_STRUCT(LeashReply, (), (held, deadline_ns, watchdog, error))

}  // namespace virga
