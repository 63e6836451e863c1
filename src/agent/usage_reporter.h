#pragma once

#include <functional>
#include <map>

#include "agent/protocol.h"
#include "base/loop.h"

namespace virga {

/// Tells the server what guests have used, beside the heartbeats. Last figures of copies that have ended are told again
/// and again until the server has kept them for good. Loop thread only.
class UsageReporter {
 public:
  static constexpr Duration kEvery = seconds(10);

  /// `send` gets each report; what it cannot send may be dropped.
  UsageReporter(Loop& loop, Hypervisor& hypervisor, std::function<void(UsageReport)> send);

  void start();
  void kept(const UsageKept& kept);

 private:
  void report();

  Hypervisor& hypervisor_;
  std::function<void(UsageReport)> send_;
  Timer timer_;
  std::uint64_t sequence_ = 0;
  std::map<std::pair<VmId, Epoch>, std::uint64_t>
      ended_;  ///< with the report that told of their end first
};

}  // namespace virga
