#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "agent/leash_protocol.h"
#include "driver/process_guard.h"
#include "edge/asio_loop.h"
#include "edge/process.h"

namespace virga {

/// The agent's end of the leash. Connects by itself, again every 50 ms while there is no leash and at once for a
/// process to guard, and then hands over once more the deadline and all that is guarded. Nothing blocks: a leash that
/// does not read counts as gone.
class LeashClient final : public ProcessGuard {
 public:
  LeashClient(AsioLoop& loop, std::string socket_path);
  LeashClient(const LeashClient&) = delete;
  LeashClient& operator=(const LeashClient&) = delete;
  ~LeashClient() override;

  /// Also exhausted: no descriptor left. Remembered even when the leash does not answer, and handed over later.
  Result<void> guard(const std::string& name, int pidfd) override;
  /// Stops asking for it. The leash itself lets go only when the process has ended: no guest may run unguarded.
  void release(const std::string& name) override;
  void extend(Instant deadline, Duration lease) override;
  bool armed() const override;

  /// True while armed and a watchdog stands above the leash: then even a frozen host stops its guests.
  bool watchdog_armed() const override { return armed() && last_reply_.watchdog; }

  /// What the leash said that it holds; after a restart of the agent, what the former one had guarded.
  const std::vector<std::string>& held() const { return last_reply_.held; }
  Instant held_until() const override { return Instant(Duration(last_reply_.deadline_ns)); }

 private:
  void tick();
  void connect();
  void disconnect();
  void read_replies();
  void send_deadline();
  bool send(const LeashRequest& request, int pidfd = -1);

  AsioLoop& loop_;
  std::string socket_path_;
  int socket_ = -1;
  Instant deadline_{};
  Duration lease_{0};
  std::map<std::string, Descriptor> guarded_;
  LeashReply last_reply_;
  Instant replied_at_{};
  bool replied_ = false;  ///< on this connection
  Timer timer_;
};

}  // namespace virga
