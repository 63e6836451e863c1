#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>

#include "mechanism/metering/usage_store.h"
#include "server/core/agent_sessions.h"

namespace virga {

/// The usage monitors of the server: VMs by what their agents report, hosts, volumes and services by what it knows of
/// them, looked at once in ten seconds. Windows go to the store one after the other; when one could not be kept,
/// metering begins again from what was, and since samples are counters nothing is lost but points. Agents are told
/// what is kept for good. Loop thread only. Does nothing without a store.
class Metering {
 public:
  Metering(Loop& loop, metering::UsageStore* store, const StoreMirror& mirror,
           AgentSessions& sessions);

  void start();

  static constexpr std::size_t kWaitingMax =
      3;  ///< windows while the disk is stuck; then it begins again

 private:
  using Sequences = std::map<HostId, UsageKept>;

  void load();
  void tick();
  void take(const HostId& host, const UsageReport& usage);
  void look_at_hosts(std::int64_t now_ms);
  void look_at_volumes(std::int64_t now_ms);
  void look_at_services(std::int64_t now_ms);
  bool pass(std::int64_t now_ms);
  void keep_next();
  void kept(const Result<void>& outcome, const Sequences& told);
  void begin_again(const std::string& why);

  Loop& loop_;
  metering::UsageStore* store_;
  const StoreMirror& mirror_;
  AgentSessions& sessions_;
  std::optional<metering::Meter> meter_;
  Sequences taken_;             ///< reports of each host that are in the meter, without a gap
  std::deque<Sequences> over_;  ///< `taken_` at the end of each window that waits
  bool keeping_ = false;
  Timer timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
