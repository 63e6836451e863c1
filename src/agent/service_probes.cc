#include "agent/service_probes.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace virga {
namespace {

constexpr Duration kVisitAgain = seconds(1);
constexpr Duration kSettles = seconds(2);  // until then all hosts know where the asker is
constexpr Duration kEveryMin = milliseconds(10);

std::string visitor_of(const ServiceId& service) { return "monitor of " + service.value; }

}  // namespace

ServiceProbes::Watch* ServiceProbes::find(const ServiceId& service, std::uint64_t number) {
  const auto found = watches_.find(service);
  return found == watches_.end() || found->second.number != number ? nullptr : &found->second;
}

/// A probe that only changes its pace goes on counting.
void ServiceProbes::take(const ServiceProbeList& wanted) {
  if (asker_ == nullptr) return;
  confirm_by_.reset();
  std::set<ServiceId> named;
  for (const ServiceProbe& probe : wanted.probes) {
    if (named.size() < kMonitorsMax) named.insert(probe.service);
  }
  for (auto watch = watches_.begin(); watch != watches_.end();) {
    if (named.contains(watch->first)) {
      ++watch;
      continue;
    }
    fabric_.leave(visitor_of(watch->first), [](const Result<void>&) {});
    watch = watches_.erase(watch);
  }
  for (const ServiceProbe& probe : wanted.probes) {
    if (!named.contains(probe.service)) continue;
    const auto found = watches_.find(probe.service);
    const bool stays = found != watches_.end() && found->second.probe.leg == probe.leg;
    if (!stays) {
      begin(probe);
      continue;
    }
    Watch& watch = found->second;
    if (watch.probe == probe) continue;
    watch.probe = probe;
    const Instant soon = loop_.now() + std::max(probe.every_ms, kEveryMin);
    watch.due = std::max(watch.settled, std::min(watch.due, soon));
    if (watch.place != nullptr) watch.timer.set_at(watch.due, [this, &watch] { turn(watch); });
  }
}

void ServiceProbes::look() {
  if (confirm_by_ && loop_.now() >= *confirm_by_) take({});
}

void ServiceProbes::begin(const ServiceProbe& probe) {
  watches_.erase(probe.service);
  Watch& watch = watches_.try_emplace(probe.service, loop_).first->second;
  watch.probe = probe;
  watch.number = ++watches_made_;
  watch.seen.service = probe.service;
  watch.seen.counters = fmt::format("{}-{}", run_, watch.number);
  watch.seen.responses.resize(kResponseSteps.size() + 1);
  watch.seen.failing = "nobody has asked yet";
  visit(watch);
}

void ServiceProbes::visit(Watch& watch) {
  fabric_.visit(visitor_of(watch.probe.service), watch.probe.leg,
                [this, service = watch.probe.service, number = watch.number,
                 alive = std::weak_ptr(alive_)](Result<std::shared_ptr<const int>> place) {
                  if (alive.expired()) return;
                  Watch* still = find(service, number);
                  if (still == nullptr) return;
                  if (!place) {
                    still->seen.failing = "this host cannot ask: " + place.error().text();
                    return still->timer.set_after(kVisitAgain, [this, still] { visit(*still); });
                  }
                  still->place = *std::move(place);
                  still->due = still->settled = loop_.now() + kSettles;
                  still->timer.set_at(still->due, [this, still] { turn(*still); });
                });
}

void ServiceProbes::turn(Watch& watch) {
  const Instant now = loop_.now();
  watch.due = std::max(watch.due + std::max(watch.probe.every_ms, kEveryMin), now);
  watch.timer.set_at(watch.due, [this, &watch] { turn(watch); });
  if (watch.asked_at) return;
  watch.asked_at = now;
  asker_->ask(watch.probe, watch.place,
              [this, service = watch.probe.service, number = watch.number,
               alive = std::weak_ptr(alive_)](const Result<Duration>& answered) {
                if (alive.expired()) return;
                if (Watch* still = find(service, number)) ended(*still, answered);
              });
}

/// Who asks again after a failure has waited since the first.
void ServiceProbes::ended(Watch& watch, const Result<Duration>& answered) {
  const Instant now = loop_.now();
  const Instant asked_at = *watch.asked_at;
  const Duration took = answered ? *answered : now - asked_at;
  watch.asked_at.reset();
  ObservedProbe& seen = watch.seen;
  ++seen.asked;
  const bool late = took > watch.probe.timeout_ms;
  if (!answered || late) {
    ++seen.failed;
    seen.failing =
        answered ? fmt::format("answered after {} ms only", to_ms(took)) : answered.error().text();
    if (!watch.unanswered_since) watch.unanswered_since = asked_at;
    return;
  }
  const auto step = std::ranges::lower_bound(kResponseSteps, to_ms(took));
  ++seen.responses[static_cast<std::size_t>(step - kResponseSteps.begin())];
  seen.failing.clear();
  watch.waits.emplace_back(now, asked_at + took - watch.unanswered_since.value_or(asked_at));
  watch.unanswered_since.reset();
  while (watch.waits.front().first < now - kWaitKept) watch.waits.pop_front();
}

std::vector<ObservedProbe> ServiceProbes::observe() const {
  std::vector<ObservedProbe> all;
  all.reserve(watches_.size());
  const Instant now = loop_.now();
  for (const auto& [service, watch] : watches_) {
    ObservedProbe& seen = all.emplace_back(watch.seen);
    const auto since = watch.unanswered_since ? watch.unanswered_since : watch.asked_at;
    if (since) seen.waited_ms = now - *since;
    for (const auto& [at, wait] : watch.waits) {
      if (at >= now - kWaitKept) seen.waited_ms = std::max(seen.waited_ms, wait);
    }
  }
  return all;
}

}  // namespace virga
