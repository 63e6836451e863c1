#pragma once

#include <functional>
#include <map>
#include <vector>

#include "agent/protocol.h"
#include "base/loop.h"

namespace virga {

/// Tells the server what guests have used, beside the heartbeats and so that they wait for nothing: in messages of at
/// most kCopiesAMessage copies (about 20 kB), a pause after each. Last figures of copies that have ended are told again
/// and again until the server has kept them for good. Loop thread only.
class UsageReporter {
 public:
  static constexpr Duration kEvery = seconds(10);
  static constexpr std::size_t kCopiesAMessage = 64;
  static constexpr Duration kPause = milliseconds(100);

  /// `send` gets each message; what it cannot send may be dropped.
  UsageReporter(Loop& loop, Hypervisor& hypervisor, std::function<void(UsageReport)> send);

  void start();

  /// What was told before may not have arrived.
  void session_begins();

  void kept(const UsageKept& kept);

 private:
  void look();
  void tell();

  Loop& loop_;
  Hypervisor& hypervisor_;
  std::function<void(UsageReport)> send_;
  Timer timer_;
  Instant due_;  ///< of the next look
  std::uint64_t sequence_;
  std::vector<VmUsage> rest_;  ///< of the last look, not told yet
  /// Copies that have ended, with the message of this session that told so first; 0: none yet.
  std::map<std::pair<VmId, Epoch>, std::uint64_t> ended_;
};

}  // namespace virga
