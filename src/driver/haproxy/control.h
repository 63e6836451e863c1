#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/loop.h"
#include "edge/process.h"

namespace virga {

/// What the master knows of itself and its workers.
struct HaproxyWorkers {
  std::int64_t reloads = 0;       ///< that were tried
  std::int64_t failed = 0;        ///< since the last one that went well
  std::int64_t current = 0;       ///< pid of who serves; 0 = nobody
  std::vector<std::int64_t> old;  ///< pids of who finish what they have
};

/// Statistics: a row for each frontend, pool and server, field -> value.
using HaproxyRow = std::map<std::string, std::string>;
using HaproxyRows = std::vector<HaproxyRow>;

/// Speaks to a running HAProxy through its master's socket, one connection a command. Blocking, on a worker's thread.
/// Errors: unavailable (nobody answers), timeout, internal (the answer makes no sense).
/// Source: HAProxy 2.6, management.txt, 9.3 "Unix Socket commands" and 9.4 "Master CLI".
class HaproxyControl {
 public:
  /// `process`: pidfd of the master, kept open by the caller. `deadline`: of all calls together.
  HaproxyControl(const Loop& clock, std::string directory, int process, Duration deadline)
      : clock_(clock),
        directory_(std::move(directory)),
        process_(process),
        until_(clock.now() + deadline) {}

  /// Waits until it serves.
  Result<void> await() const;

  Result<HaproxyWorkers> workers() const;

  /// To who serves now.
  Result<std::string> ask(const std::string& command) const;

  /// Counters of one worker, 0 = of who serves now. As "typed" text: the same as JSON is six times as long, and HAProxy
  /// makes it in the thread that serves clients.
  Result<HaproxyRows> rows(std::int64_t worker = 0) const;

  /// The configuration's description.
  Result<std::string> description() const;

  /// Lets a new worker read the configuration and take over the listening sockets. When it cannot, who served goes on
  /// serving. Errors: conflict (an address and port is taken), unavailable (what HAProxy says).
  Result<void> reload() const;

  std::string log_path() const { return directory_ + "/haproxy.log"; }

 private:
  Result<std::string> exchange(const std::string& line) const;
  Result<void> pause() const;
  Error refusal(const std::string& what, std::size_t begin) const;

  const Loop& clock_;
  std::string directory_;
  int process_;
  Instant until_;
};

/// What HAProxy calls alerts in its output, from `begin` on, in one line.
std::string alerts_in(const std::string& output, std::size_t begin = 0);

}  // namespace virga
