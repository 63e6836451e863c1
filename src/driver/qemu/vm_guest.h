#pragma once

#include <optional>
#include <string>

#include "driver/qemu/vm_context.h"
#include "driver/qemu/vm_files.h"
#include "edge/process.h"

namespace virga {

/// Signs of life from inside a guest: sequence numbers on its heartbeat port, and answers of qemu-guest-agent to
/// `guest-ping`. What a guest sends is not trusted: bounded, and used as "it lives" alone. Loop thread only.
class VmGuest {
 public:
  VmGuest(AsioLoop& loop, VmFolder folder);
  ~VmGuest();
  VmGuest(const VmGuest&) = delete;
  VmGuest& operator=(const VmGuest&) = delete;

  /// Connects what is not connected, and asks the guest agent every 5 s while the guest holds its port open. Call
  /// it every second while QEMU lives. A guest that does not run is left alone: opening a channel makes QEMU write
  /// into its memory, which a migration may be reading or loading at that moment. A channel of a running guest that
  /// stays silent is opened anew, ever more seldom: the guest may have missed that it was opened.
  void tick(bool runs);

  /// The guest opened or closed the agent's port.
  void set_agent_open(bool open) { agent_open_ = open; }

  /// When the guest was last known to live.
  std::optional<Instant> last_sign() const { return last_sign_; }

  /// Forgets all signs: the guest begins anew.
  void reset() { last_sign_.reset(); }

 private:
  static constexpr int kPatienceFirst = 6;

  struct Channel {
    Descriptor socket;
    std::string line;
    int silent_ticks = 0;
    int patience_ticks = kPatienceFirst;
  };
  void connect(Channel& channel, const std::string& path,
               void (VmGuest::*handle)(const std::string&));
  void read(Channel& channel, void (VmGuest::*handle)(const std::string&));
  void close(Channel& channel);
  void close_silent(Channel& channel);
  void heartbeat_line(const std::string& line);
  void agent_line(const std::string& line);
  void ping();

  AsioLoop& loop_;
  VmFolder folder_;
  Channel heartbeat_;
  Channel agent_;
  bool agent_open_ = false;
  std::string last_number_;
  std::uint64_t ping_id_ = 0;
  bool synced_ = false;  ///< the agent has answered the last question's number
  int ticks_ = 0;
  std::optional<Instant> last_sign_;
};

/// Keeps the console's file between 256 and 512 KiB by freeing its beginning. QEMU appends to it, also while no agent
/// runs; nothing is lost but the oldest text.
void trim_console(const std::string& path);

/// Errors: not_found.
Result<std::string> console_tail(const std::string& path, std::size_t bytes_max);

}  // namespace virga
