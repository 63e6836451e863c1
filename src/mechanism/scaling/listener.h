#pragma once

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "base/loop.h"
#include "model/service.h"

namespace virga {

/// One copy at one moment. Counters only grow. Errors are connections that failed and answers that were none.
struct CopyDemand {
  VmId vm;
  bool healthy = true;            ///< for the balancer
  std::int64_t requests = 0;      ///< counter: that were given to it
  std::int64_t errors = 0;        ///< counter: of them, that failed
  std::int64_t response_ms = 0;   ///< mean of late
  std::optional<int> cpu_percent;  ///< of its quota
};

/// What reaches a service at one moment, and what becomes of it.
struct DemandSample {
  std::string counters;       ///< another one than last time: counters began anew
  std::int64_t requests = 0;  ///< counter: that came to its address
  std::int64_t queue = 0;     ///< wait for a copy now
  std::vector<CopyDemand> copies;  ///< that are to serve, in a fixed order
};

enum class DemandLevel {
  normal,
  high,     ///< a limit is exceeded
  low,      ///< one copy fewer would be far from all limits
  failing,  ///< `copy` fails: its checks, or many of its requests
};

/// Who has noticed: what arrives and what it costs, or the balancer's own trouble.
enum class DemandInitiator { scaling_listener, load_balancer };
BOOST_DESCRIBE_ENUM(DemandInitiator, scaling_listener, load_balancer)

struct Demand {
  DemandLevel level = DemandLevel::normal;
  DemandInitiator initiator = DemandInitiator::scaling_listener;
  std::string measure;     ///< field of ServiceScaling that decided; low: empty
  std::int64_t value = 0;  ///< that was measured, in the field's unit
  std::int64_t limit = 0;
  VmId copy;  ///< high: the busiest that is healthy; failing: that one
};

/// Two findings, each may be normal: a copy that fails does not hide what the others are asked for.
struct DemandFindings {
  Demand demand;   ///< high or low
  Demand failing;  ///< failing
};

/// The automated scaling listener of one service: means over `sustained_ms` are compared with limits. Decides nothing:
/// who asks acts, and its act is seen as a change of the copies, after which nothing is found for `cooldown_ms`, and
/// nothing that a relocation answers for `calm_ms` after one: it may not have helped. Copies that are not healthy carry
/// nothing; while there are such demand is never low. The clock is the caller's; time does not go back.
/// Cost: O(copies) a look, at most 33 samples are kept.
class ScalingListener {
 public:
  /// The copies are being changed, or nobody knows: what was seen until now counts no more.
  void rest(Instant now, bool relocating = false);

  DemandFindings look(const ServiceScaling& limits, DemandSample sample, Instant now);

  /// Demand is low while one copy fewer would have at most this share of each limit.
  static constexpr int kLowPercent = 70;

 private:
  struct Means;
  struct Share;
  Share share_of(std::size_t index) const;
  void keep(const ServiceScaling& limits, DemandSample sample, Instant now);
  std::optional<Means> means() const;

  struct Kept {
    Instant at;
    DemandSample sample;
  };
  std::deque<Kept> kept_;  ///< the first is as old as `sustained_ms`, or not yet
  std::optional<Instant> changed_at_;
  std::optional<Instant> relocated_at_;
  std::optional<Instant> low_since_;
};

}  // namespace virga
