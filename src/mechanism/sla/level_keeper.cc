#include "mechanism/sla/level_keeper.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace virga {
namespace {

constexpr std::int64_t kDayMs = 24 * 3600 * 1000;
constexpr std::int64_t kMillion = 1'000'000;

using Counts = std::vector<std::int64_t>;

void add(Counts& to, const Counts& more) {
  to.resize(std::max(to.size(), more.size()));
  for (std::size_t step = 0; step < more.size(); ++step) to[step] += more[step];
}

Counts grown(const Counts& now, const Counts& before) {
  Counts growth = now;
  for (std::size_t step = 0; step < std::min(now.size(), before.size()); ++step)
    growth[step] = std::max<std::int64_t>(0, now[step] - before[step]);
  return growth;
}

/// The upper end of the step in which so many percent of all answers are.
std::int64_t percentile(const Counts& responses, int percent) {
  const std::int64_t all = std::accumulate(responses.begin(), responses.end(), std::int64_t{0});
  std::int64_t seen = 0;
  for (std::size_t step = 0; step < responses.size(); ++step) {
    seen += responses[step];
    if (seen * 100 < all * percent || seen == 0) continue;
    return step < kResponseSteps.size() ? kResponseSteps[step] : -1;
  }
  return 0;
}

std::string percent_text(std::int64_t ppm) {
  return fmt::format("{}.{:04} %", ppm / 10'000, ppm % 10'000);
}

LevelFinding finding_of(const ServiceObjective& objective, const LevelMove& move) {
  const std::int64_t waited = to_ms(move.waited_ms);
  const std::int64_t promised = to_ms(objective.blackout_ms);
  const bool exceeded = promised > 0 && waited > promised;
  LevelFinding told;
  told.kind = exceeded ? "blackout_exceeded" : "blackout_measured";
  told.severity = exceeded ? Severity::warning : Severity::info;
  told.text = fmt::format(
      "while {} was relocated from {} to {} {} of {} requests of the monitor failed, "
      "the longest wait was {} ms",
      move.copy, move.source.value, move.host.value, move.failed, move.asked, waited);
  if (exceeded) told.text += fmt::format("; promised are {} ms", promised);
  told.facts = {{"vm", move.copy},        {"source", move.source.value}, {"host", move.host.value},
                {"asked", move.asked},    {"failed", move.failed},       {"waited_ms", waited},
                {"promised_ms", promised}};
  return told;
}

}  // namespace

LevelDay& LevelKeeper::today(WallTime wall) {
  const std::int64_t day = wall.unix_ms / kDayMs;
  std::vector<LevelDay>& days = level_.days;
  if (days.empty() || days.back().day < day) days.emplace_back().day = day;
  if (days.size() > kDaysMax) days.erase(days.begin());
  return days.back();
}

LevelMove* LevelKeeper::open_move() {
  return level_.moves.empty() || level_.moves.back().closed ? nullptr : &level_.moves.back();
}

/// Counts that it does not know are where it begins: they are of a time when nobody listened.
void LevelKeeper::take(const HostId& monitor, const ObservedProbe& seen, Instant now,
                       WallTime wall) {
  const bool known = level_.monitor == monitor && level_.counters == seen.counters;
  const std::int64_t asked = known ? std::max<std::int64_t>(0, seen.asked - level_.asked) : 0;
  const std::int64_t failed = known ? std::max<std::int64_t>(0, seen.failed - level_.failed) : 0;
  const Counts responses = known ? grown(seen.responses, level_.responses) : Counts();
  if (!reported_at_ && known) {  // counted while there was no server
    const Duration away = milliseconds(wall.unix_ms - level_.seen_at.unix_ms);
    if (away >= Duration{} && away <= kAwayMax) measured_to_ = now - away;
  } else if (!known || !reported_at_ || now - *reported_at_ > kSilenceMax) {
    measured_to_ = now;
  }
  reported_at_ = now;
  level_.monitor = monitor;
  level_.counters = seen.counters;
  level_.asked = seen.asked;
  level_.failed = seen.failed;
  level_.responses = seen.responses;
  failing_ = seen.failing;
  if (asked == 0) return;  // the next growth stands for the time until then
  LevelDay& day = today(wall);
  day.asked += asked;
  day.failed += failed;
  add(day.responses, responses);
  const Instant from = measured_to_.value_or(now);
  const std::int64_t passed = to_ms(now - from);
  day.measured_ms += passed;
  day.failed_ms += passed * failed / asked;
  measured_to_ = now;
  level_.seen_at = wall;
  if (failed < asked || seen.failing.empty()) failing_since_.reset();
  if (!seen.failing.empty() && !failing_since_) failing_since_ = from;
  if (LevelMove* move = open_move()) {
    const Duration age = milliseconds(wall.unix_ms - move->started_at.unix_ms);
    move->asked += asked;
    move->failed += failed;
    move->waited_ms = std::max(move->waited_ms, std::min(seen.waited_ms, age));
  }
}

void LevelKeeper::follow(const std::optional<ServiceRelocation>& relocation, WallTime wall) {
  LevelMove* open = open_move();
  const bool known = open != nullptr && relocation && open->started_at == relocation->started_at;
  if (known) return;
  if (open != nullptr && open->ended_at.unix_ms == 0) open->ended_at = wall;
  if (!relocation) return;
  LevelMove& move = level_.moves.emplace_back();
  move.started_at = relocation->started_at;
  move.cause = relocation->cause;
  move.copy = relocation->original.value;
  move.source = relocation->source;
  move.host = relocation->host;
  if (level_.moves.size() > kMovesMax) level_.moves.erase(level_.moves.begin());
}

std::vector<LevelFinding> LevelKeeper::judge(const ServiceObjective& objective, WallTime wall,
                                             ServiceLevel& kept) const {
  std::vector<LevelFinding> findings;
  for (LevelMove& move : kept.moves) {
    if (move.closed || move.ended_at.unix_ms == 0) continue;
    const std::int64_t since = wall.unix_ms - move.ended_at.unix_ms;
    const bool over = since >= to_ms(kAftermath) || &move != &kept.moves.back();
    // A server that has just begun waits for what the monitor has counted meanwhile.
    const bool awaited = !reported_at_ && since < to_ms(kAftermath + kAwayMax);
    if (!over || awaited) continue;
    move.closed = true;
    findings.push_back(finding_of(objective, move));
  }
  const LevelReport now = report(objective, wall);
  const std::int64_t used = now.budget_ms - now.budget_left_ms;
  kept.breached = now.budget_left_ms < 0;
  kept.low = kept.breached || (used > 0 && used * 100 >= now.budget_ms * kLowPercent);
  const std::string stands = fmt::format("it answered {} of the time in {} days, promised is {}",
                                         percent_text(now.availability_ppm), objective.window_days,
                                         percent_text(now.promised_ppm));
  const auto tell = [&](std::string kind, Severity severity, const std::string& more) {
    findings.push_back({std::move(kind),
                        severity,
                        stands + more,
                        {{"availability_ppm", now.availability_ppm},
                         {"promised_ppm", now.promised_ppm},
                         {"budget_ms", now.budget_ms},
                         {"budget_left_ms", now.budget_left_ms}}});
  };
  if (kept.breached && !level_.breached) {
    tell("level_breached", Severity::alarm,
         fmt::format(": without answers {} ms, allowed {} ms", used, now.budget_ms));
  } else if (kept.low && !level_.low) {
    tell("level_low", Severity::warning,
         fmt::format(": of {} ms without answers {} ms are left", now.budget_ms,
                     now.budget_left_ms));
  } else if (!kept.breached && level_.breached) {
    tell("level_restored", Severity::info, "");
  }
  return findings;
}

bool LevelKeeper::has_news(const ServiceObjective& objective, WallTime wall) const {
  ServiceLevel kept = level_;
  return !judge(objective, wall, kept).empty();
}

void LevelKeeper::adopt(const ServiceLevel& stored) {
  level_.low = stored.low;
  level_.breached = stored.breached;
  for (LevelMove& move : level_.moves) {
    const auto same = std::ranges::find(stored.moves, move.started_at, &LevelMove::started_at);
    if (same != stored.moves.end()) move.closed = move.closed || same->closed;
  }
}

LevelReport LevelKeeper::report(const ServiceObjective& objective, WallTime wall) const {
  LevelReport report;
  report.service = ServiceId(level_.id().value);
  report.monitor = level_.monitor;
  report.failing = reported_at_ ? failing_ : "its monitor has not reported yet";
  report.promised_ppm = objective.availability_ppm;
  const std::int64_t first = wall.unix_ms / kDayMs - objective.window_days + 1;
  std::int64_t failed_ms = 0;
  Counts responses;
  for (const LevelDay& day : level_.days) {
    if (day.day < first) continue;
    report.days.push_back(day);
    report.measured_ms += day.measured_ms;
    failed_ms += day.failed_ms;
    report.asked += day.asked;
    report.failed += day.failed;
    add(responses, day.responses);
  }
  report.availability_ppm =
      report.measured_ms == 0
          ? static_cast<int>(kMillion)
          : static_cast<int>(kMillion - failed_ms * kMillion / report.measured_ms);
  report.budget_ms =
      objective.window_days * kDayMs * (kMillion - objective.availability_ppm) / kMillion;
  report.budget_left_ms = report.budget_ms - failed_ms;
  report.response_ms_p50 = percentile(responses, 50);
  report.response_ms_p95 = percentile(responses, 95);
  report.response_ms_p99 = percentile(responses, 99);
  report.moves.assign(level_.moves.rbegin(), level_.moves.rend());
  return report;
}

std::optional<Duration> LevelKeeper::failing_for(Instant now) const {
  if (!reported_at_ || now - *reported_at_ > kSilenceMax || !failing_since_) return std::nullopt;
  return now - *failing_since_;
}

}  // namespace virga
