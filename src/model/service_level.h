#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/reflect.h"
#include "base/units.h"
#include "model/meta.h"

namespace virga {

/// What a service promises its consumers. Measured by a monitor that asks at the service's address from another host as
/// its checks ask its copies.
struct ServiceObjective {
  int availability_ppm =
      0;  ///< of the time: 999000 = 99.9 %; 0 = nothing is promised, nothing is measured
  Duration response_ms = seconds(1);  ///< what takes longer counts as no answer; at most 10 s
  Duration blackout_ms{
      0};  ///< longest that a consumer waits while a copy is relocated; 0 = no promise
  int window_days = 30;  ///< of UTC, today is one of them; at most 90
  Duration every_ms =
      seconds(1);  ///< how often it is asked; while a copy is relocated kRelocationProbes
};
BOOST_DESCRIBE_STRUCT(ServiceObjective, (),
                      (availability_ppm, response_ms, blackout_ms, window_days, every_ms))

/// How often a service is asked while one of its copies is relocated.
inline constexpr Duration kRelocationProbes = milliseconds(100);

/// Answers are counted by the time that they took: up to so many milliseconds, and in the last place those above.
inline constexpr std::array<std::int64_t, 12> kResponseSteps = {1,   2,   5,   10,   20,   50,
                                                                100, 200, 500, 1000, 2000, 5000};

/// What a monitor has seen of a service. Counts only grow.
struct ObservedProbe {
  ServiceId service;
  std::string counters;                 ///< another one than last time: counts began at 0 again
  std::int64_t asked = 0;               ///< requests that have ended
  std::int64_t failed = 0;              ///< of them, those without an answer in time
  std::vector<std::int64_t> responses;  ///< answers, see kResponseSteps
  Duration waited_ms{
      0};  ///< longest that a consumer has waited within the last kWaitKept, or waits still
  std::string failing;  ///< why the last one failed, or none is asked; empty = it was answered
};
BOOST_DESCRIBE_STRUCT(ObservedProbe, (),
                      (service, counters, asked, failed, responses, waited_ms, failing))

inline constexpr Duration kWaitKept = seconds(3);

/// One day of a service as its consumers had it.
struct LevelDay {
  std::int64_t day = 0;          ///< since 1970, UTC
  std::int64_t measured_ms = 0;  ///< time that its monitor has watched
  std::int64_t failed_ms = 0;    ///< of it, without answers
  std::int64_t asked = 0;
  std::int64_t failed = 0;
  std::vector<std::int64_t> responses;  ///< see kResponseSteps

  friend bool operator==(const LevelDay&, const LevelDay&) = default;
};
BOOST_DESCRIBE_STRUCT(LevelDay, (), (day, measured_ms, failed_ms, asked, failed, responses))

/// One relocation of a copy as consumers had it, until kAftermath behind its end.
struct LevelMove {
  WallTime started_at;
  WallTime ended_at{};  ///< 0 = it goes on
  std::string cause;
  std::string copy;  ///< its VM
  HostId source;
  HostId host;
  std::int64_t asked = 0;
  std::int64_t failed = 0;
  Duration waited_ms{0};  ///< longest that a consumer has waited
  bool closed = false;    ///< its aftermath is over, too

  friend bool operator==(const LevelMove&, const LevelMove&) = default;
};
BOOST_DESCRIBE_STRUCT(LevelMove, (),
                      (started_at, ended_at, cause, copy, source, host, asked, failed, waited_ms,
                       closed))

inline constexpr Duration kAftermath = seconds(30);

/// Services that one host asks at most.
inline constexpr std::size_t kMonitorsMax = 64;

/// What is kept of how a service has served. Its name and tenant are the service's.
struct ServiceLevel {
  Meta meta;
  HostId monitor;  ///< that was heard last, with its counts then
  WallTime seen_at{};    ///< to this moment time is measured
  std::string counters;
  std::int64_t asked = 0;
  std::int64_t failed = 0;
  std::vector<std::int64_t> responses;
  std::vector<LevelDay> days;    ///< in order, at most 90
  std::vector<LevelMove> moves;  ///< in order, at most 32
  bool low = false;              ///< told: little of the budget is left
  bool breached = false;         ///< told: it is used up

  LevelId id() const { return LevelId(qualified(meta.tenant, meta.name)); }
};
BOOST_DESCRIBE_STRUCT(ServiceLevel, (),
                      (meta, monitor, seen_at, counters, asked, failed, responses, days, moves, low,
                       breached))

/// How a service stands against its objective.
struct LevelReport {
  ServiceId service;
  HostId monitor;            ///< where it is asked from
  std::string failing;       ///< why it has no answer now, or is not measured; empty = it answers
  int availability_ppm = 0;  ///< of the measured time of the window
  int promised_ppm = 0;
  std::int64_t budget_ms = 0;       ///< time without answers that the promise allows in a window
  std::int64_t budget_left_ms = 0;  ///< negative: the promise is broken
  std::int64_t measured_ms = 0;
  std::int64_t asked = 0;
  std::int64_t failed = 0;
  std::int64_t response_ms_p50 =
      0;  ///< at most so much, by kResponseSteps; -1 = more than the last
  std::int64_t response_ms_p95 = 0;
  std::int64_t response_ms_p99 = 0;
  std::vector<LevelDay> days;    ///< of the window
  std::vector<LevelMove> moves;  ///< the last 32, the newest first
};
BOOST_DESCRIBE_STRUCT(LevelReport, (),
                      (service, monitor, failing, availability_ppm, promised_ppm, budget_ms,
                       budget_left_ms, measured_ms, asked, failed, response_ms_p50, response_ms_p95,
                       response_ms_p99, days, moves))

}  // namespace virga
