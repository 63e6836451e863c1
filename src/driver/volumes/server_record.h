#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/reflect.h"
#include "edge/process.h"

namespace virga {

/// A process that serves volumes and outlives the agent; of one boot of this machine, lost with it.
struct ServerRecord {
  std::string boot_id;
  std::int64_t pid = 0;
  std::uint64_t start_ticks = 0;
};
BOOST_DESCRIBE_STRUCT(ServerRecord, (), (boot_id, pid, start_ticks))

/// Taken before a server is started and handed to it under some number: held for as long as it lives, whether it was
/// noted or not. Errors: conflict (one lives).
Result<Descriptor> claim_server(const std::string& path);

/// Notes a process that was started just now, for a later agent.
Result<void> note_server(const std::string& path, const Process& server);

/// Follows the process that an earlier agent has noted. Errors: not_found (there is none, for certain: nobody holds the
/// claim); after any other nobody knows.
Result<std::unique_ptr<Process>> adopt_server(AsioLoop& loop, const std::string& path);

}  // namespace virga
