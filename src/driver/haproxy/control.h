#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/loop.h"
#include "base/reflect.h"
#include "edge/process.h"

namespace virga {

/// What the master knows of itself and its workers.
struct HaproxyWorkers {
  std::int64_t reloads = 0;       ///< that were tried
  std::int64_t failed = 0;        ///< since the last one that went well
  std::int64_t current = 0;       ///< pid of who serves; 0 = nobody
  std::vector<std::int64_t> old;  ///< pids of who finish what they have
};

/// Speaks to a running HAProxy through its master's socket, one connection a command. Blocking, on a worker's thread;
/// each call has a deadline. Errors: unavailable (nobody answers), timeout, internal (the answer makes no sense).
/// Source: HAProxy 2.6, management.txt, 9.3 "Unix Socket commands" and 9.4 "Master CLI".
class HaproxyControl {
 public:
  /// `process`: pidfd of the master, kept open by the caller.
  HaproxyControl(const Loop& clock, std::string directory, int process)
      : clock_(clock), directory_(std::move(directory)), process_(process) {}

  /// Waits until it serves.
  Result<void> await(Duration deadline) const;

  Result<HaproxyWorkers> workers() const;

  /// To who serves now.
  Result<std::string> ask(const std::string& command) const;

  /// Counters of one worker: a row for each frontend, pool and server, field -> value. 0 = who serves now.
  Result<std::vector<json::object>> rows(std::int64_t worker = 0) const;

  /// The configuration's description.
  Result<std::string> description() const;

  /// Lets a new worker read the configuration and take over the listening sockets. When it cannot, who served goes on
  /// serving. Errors: conflict (an address and port is taken), invalid (what HAProxy says).
  Result<void> reload(Duration deadline) const;

  std::string log_path() const { return directory_ + "/haproxy.log"; }

 private:
  Result<std::string> exchange(const std::string& line) const;
  Result<void> pause() const;

  const Loop& clock_;
  std::string directory_;
  int process_;
};

/// What HAProxy calls alerts in its output, from `begin` on, in one line.
std::string alerts_in(const std::string& output, std::size_t begin = 0);

}  // namespace virga
