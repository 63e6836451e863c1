#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>

#include "mechanism/sla/level_keeper.h"
#include "runtime/work_queue.h"
#include "server/core/agent_sessions.h"

namespace virga {

/// SLA monitor and SLA management of all services that promise something: tells their monitors' hosts whom to ask and
/// how often, takes what they report, keeps each service's level in the store once a minute and whenever there is
/// something to tell, in one commit with the event of it. What was counted since then is not lost with this server: it
/// is in the monitors' counts. Loop thread only. Cost: O(services that promise) a tick.
class Monitoring {
 public:
  static constexpr Duration kKeepEvery = seconds(60);
  static constexpr Duration kPatience = seconds(60);  ///< with a monitor that asks nobody
  static constexpr int kDoublingsMax = 6;

  Monitoring(Loop& loop, Store& store, StoreMirror& mirror, AgentSessions& sessions,
             NameSource& names);

  void start();

  /// The view has taken these changes: who asks is told at once, so that relocations are watched from their beginning.
  void changed(const std::vector<Change>& changes);

  /// A host has (re)connected.
  void connected(const HostId& host);

  /// Time passes; a few times a second.
  void tick();

  /// That consumers have no answer, see LevelKeeper.
  std::optional<Duration> failing_for(const ServiceId& service) const;
  bool spent(const ServiceId& service) const;

  /// Its monitor's host reports and has asked nobody for kPatience and three of its intervals: another one may be able
  /// to. Each that cannot either is given twice the time of the one before, until one has asked.
  bool mute(const ServiceId& service) const;

  /// Nothing = it promises nothing, or is not there.
  std::optional<LevelReport> report(const ServiceId& service) const;

 private:
  struct Watched {
    LevelKeeper keeper;
    std::pair<SessionId, std::uint64_t> taken{};  ///< the newest report that is in the keeper
    Instant due;
    HostId monitor{};        ///< that is listened to
    std::int64_t asked = 0;  ///< in its last report
    Instant asked_at{};      ///< when that had grown, or it began
    Instant heard_at{};
    int mute_before = 0;  ///< monitors in a row that have asked nobody
  };

  void tell();
  void look_at(const Service& service);
  void listen(Watched& watched, const Service& service, const ObservedProbe* seen) const;
  LevelKeeper keeper_of(const Service& service) const;
  void run(const std::string& key);
  bool keep(Transaction& transaction, const Service& service, const Watched& watched);

  Loop& loop_;
  StoreMirror& mirror_;
  AgentSessions& sessions_;
  NameSource& names_;
  WorkQueue queue_;
  std::map<ServiceId, Watched> watched_;
  std::map<HostId, ServiceProbeList> told_;  ///< in its session
};

}  // namespace virga
