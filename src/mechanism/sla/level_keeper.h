#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/loop.h"
#include "model/event.h"
#include "model/service.h"
#include "model/service_level.h"

namespace virga {

/// What the SLA management has to tell of a service.
struct LevelFinding {
  std::string kind;  ///< of the event, without "service."
  Severity severity = Severity::info;
  std::string text;
  boost::json::object facts;
};

/// The SLA management of one service: a monitor's counts in, its level out, kept so that the next server goes on from
/// it. Counts are taken by their growth: a report that is lost or comes twice changes nothing, and what nobody measured
/// counts neither way. Time without answers is the share of requests that failed of the time between two
/// reports, so that it does not depend on how often is asked. A relocation is judged with its aftermath of kAftermath.
/// The clocks are the caller's; days are UTC. Pure; cost: O(days + moves) a call.
class LevelKeeper {
 public:
  static constexpr std::size_t kDaysMax = 90;
  static constexpr std::size_t kMovesMax = 32;
  static constexpr Duration kSilenceMax = seconds(10);  ///< reports further apart leave a gap
  static constexpr Duration kAwayMax =
      seconds(300);                       ///< between two servers; then it is a gap, too
  static constexpr int kLowPercent = 80;  ///< of the budget is used: it is told

  explicit LevelKeeper(ServiceLevel level) : level_(std::move(level)) {}

  /// What `monitor` has reported, and when.
  void take(const HostId& monitor, const ObservedProbe& seen, Instant now, WallTime wall);

  /// The relocation that the service's record names.
  void follow(const std::optional<ServiceRelocation>& relocation, WallTime wall);

  /// What is new to tell. `kept` is a copy of level(): it becomes what is to be stored together with that; adopt() it
  /// when it is, and each thing is told once.
  std::vector<LevelFinding> judge(const ServiceObjective& objective, WallTime wall,
                                  ServiceLevel& kept) const;
  bool has_news(const ServiceObjective& objective, WallTime wall) const;

  /// What is stored now: what it says that was told is told.
  void adopt(const ServiceLevel& stored);

  LevelReport report(const ServiceObjective& objective, WallTime wall) const;

  const ServiceLevel& level() const { return level_; }

  /// Consumers have had no answer for so long, as far as the monitor knows now; nothing = they have, or nobody knows.
  std::optional<Duration> failing_for(Instant now) const;

  /// The promise is broken: nothing that can wait is to cost consumers more.
  bool spent() const { return level_.breached; }

 private:
  LevelDay& today(WallTime wall);
  LevelMove* open_move();
  ServiceLevel level_;
  std::optional<Instant> reported_at_;
  std::optional<Instant> measured_to_;
  std::optional<Instant> failing_since_;
  std::string failing_;
};

}  // namespace virga
