#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "agent/leash_core.h"
#include "agent/leash_loop.h"
#include "agent/leash_protocol.h"
#include "agent/leash_table.h"
#include "base/result.h"

namespace virga {

struct LeashOptions {
  std::string socket_path;    ///< made with mode 0600; an old one is replaced
  std::string watchdog_path;  ///< "/dev/watchdog" or a pipe that behaves like it; empty = none
  std::string state_path;     ///< on tmpfs; empty = a killed leash forgets what it held
  std::string boot_id;
  Duration watchdog_ms = seconds(10);  ///< the machine is reset when it was not fed for so long
};

/// The leash of one host: the socket, the pidfds and the watchdog around LeashCore.
///
/// One client at a time; a second one waits until the first has gone. A message that makes no sense ends the
/// connection, never the guarding. A process that has ended is forgotten by itself; one that still runs stays
/// guarded for ever, because no guest may run unguarded.
class LeashServer {
 public:
  /// Errors: denied, invalid (path too long), unavailable (watchdog does not open).
  static Result<std::unique_ptr<LeashServer>> open(LeashLoop& loop, const LeashOptions& options);
  ~LeashServer();

 private:
  struct Held {
    std::string name;
    pid_t pid = -1;
    int pidfd = -1;
    Instant killed_at{};  ///< meaningful once the core has killed it
    bool killed = false;
  };

  LeashServer(LeashLoop& loop, const LeashOptions& options, LeashTable table);
  Result<void> listen();
  Result<void> open_watchdog();
  void adopt_from_table();

  void accept_client();
  void drop_client(const std::string& why);
  void read_client();
  LeashReply handle(const LeashRequest& request, int pidfd);
  Result<void> guard(const std::string& name, int pidfd);
  Result<void> hold(const std::string& name, pid_t pid, int pidfd);
  void forget(const std::string& key);
  void kill(const std::string& key);
  void send_reply(const LeashReply& reply);
  void keep_feeding();
  void feed_watchdog();
  bool watchdog_suits() const { return LeashCore::suits(options_.watchdog_ms, lease_); }
  bool killing_is_stuck() const;

  LeashLoop& loop_;
  LeashOptions options_;
  LeashTable table_;
  LeashCore core_;
  std::map<std::string, Held> held_;  ///< by "name/pid"
  int listener_ = -1;
  int client_ = -1;
  int watchdog_ = -1;
  Duration lease_{0};  ///< as the agent said it; 0 = not yet
  Timer feeding_;
};

}  // namespace virga
