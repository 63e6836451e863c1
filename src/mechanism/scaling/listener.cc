#include "mechanism/scaling/listener.h"

#include <algorithm>
#include <utility>

namespace virga {
namespace {

constexpr int kSamples = 32;               ///< of one span of `sustained_ms`
constexpr std::int64_t kRequestsMin = 10;  ///< of a span, before their failures say anything

bool same_source(const DemandSample& before, const DemandSample& after) {
  return before.counters == after.counters &&
         std::ranges::equal(before.copies, after.copies, {}, &CopyDemand::vm, &CopyDemand::vm);
}

}  // namespace

/// Of the samples that are kept, each in the unit of its limit.
struct ScalingListener::Means {
  std::int64_t copies = 0;    ///< that are healthy now
  bool all_known = true;      ///< none is not, and of each it is known what it costs
  std::int64_t requests = 0;  ///< a second, of all copies
  std::int64_t queue = 0;
  std::int64_t response_ms = 0;  ///< of copies that were asked
  std::int64_t cpu_percent = 0;  ///< sum of the healthy
  VmId busiest;
  VmId failing;
  std::int64_t failing_percent = 0;
};

void ScalingListener::rest(Instant now, bool relocating) {
  kept_.clear();
  low_since_.reset();
  changed_at_ = now;
  if (relocating) relocated_at_ = now;
}

void ScalingListener::keep(const ServiceScaling& limits, DemandSample sample, Instant now) {
  if (!changed_at_ || (!kept_.empty() && !same_source(kept_.back().sample, sample))) rest(now);
  // The newest sample is always the present one; those before it stand apart.
  const Duration apart = limits.sustained_ms / kSamples;
  if (kept_.size() > 1 && kept_.back().at - kept_[kept_.size() - 2].at < apart) kept_.pop_back();
  kept_.push_back({now, std::move(sample)});
  while (kept_.size() > 1 && now - kept_[1].at >= limits.sustained_ms) kept_.pop_front();
}

/// What one copy has done in the time that is kept.
struct ScalingListener::Share {
  bool was_healthy = false;  ///< at some look
  std::int64_t asked = 0;
  std::int64_t failed = 0;
  std::int64_t response_ms = 0;
  std::optional<std::int64_t> cpu_percent;

  std::int64_t failing_percent() const {
    if (!was_healthy) return 100;
    return asked < kRequestsMin ? 0 : std::min<std::int64_t>(failed * 100 / asked, 100);
  }
};

ScalingListener::Share ScalingListener::share_of(std::size_t index) const {
  const CopyDemand& first = kept_.front().sample.copies[index];
  const CopyDemand& last = kept_.back().sample.copies[index];
  Share share;
  share.asked = last.requests - first.requests;
  share.failed = last.errors - first.errors;
  std::int64_t cpu = 0;
  std::int64_t known = 0;
  for (const Kept& kept : kept_) {
    const CopyDemand& copy = kept.sample.copies[index];
    share.was_healthy = share.was_healthy || copy.healthy;
    share.response_ms += copy.response_ms;
    cpu += copy.cpu_percent.value_or(0);
    known += copy.cpu_percent ? 1 : 0;
  }
  share.response_ms /= static_cast<std::int64_t>(kept_.size());
  if (known > 0) share.cpu_percent = cpu / known;
  return share;
}

std::optional<ScalingListener::Means> ScalingListener::means() const {
  const DemandSample& first = kept_.front().sample;
  const DemandSample& last = kept_.back().sample;
  const std::int64_t span_ms = to_ms(kept_.back().at - kept_.front().at);
  if (span_ms <= 0 || last.copies.empty()) return std::nullopt;
  Means means;
  means.requests = (last.requests - first.requests) * 1000 / span_ms;
  for (const Kept& kept : kept_) means.queue += kept.sample.queue;
  means.queue /= static_cast<std::int64_t>(kept_.size());
  std::int64_t asked = 0;
  std::int64_t busiest_load = -1;
  for (std::size_t index = 0; index < last.copies.size(); ++index) {
    const CopyDemand& now = last.copies[index];
    const Share share = share_of(index);
    if (share.failing_percent() > means.failing_percent) {
      means.failing_percent = share.failing_percent();
      means.failing = now.vm;
    }
    means.all_known = means.all_known && now.healthy && share.cpu_percent.has_value();
    if (!now.healthy) continue;
    ++means.copies;
    means.cpu_percent += share.cpu_percent.value_or(0);
    if (share.asked > 0) {
      means.response_ms += share.response_ms;
      ++asked;
    }
    // Who is asked more is busier where nobody knows what it costs.
    const std::int64_t load = share.cpu_percent.value_or(0) * 1'000'000 + share.asked;
    if (load <= busiest_load) continue;
    busiest_load = load;
    means.busiest = now.vm;
  }
  if (asked > 0) means.response_ms /= asked;
  return means;
}

DemandFindings ScalingListener::look(const ServiceScaling& limits, DemandSample sample,
                                     Instant now) {
  keep(limits, std::move(sample), now);
  const bool early =
      now - kept_.front().at < limits.sustained_ms || now - *changed_at_ < limits.cooldown_ms;
  const auto found = means();
  if (early || !found) return {};
  const Means& means = *found;
  const bool relocated = relocated_at_ && now - *relocated_at_ < limits.calm_ms;

  DemandFindings findings;
  if (limits.errors_percent_max > 0 && means.failing_percent > limits.errors_percent_max &&
      !relocated) {
    findings.failing = {DemandLevel::failing,  DemandInitiator::load_balancer, "errors_percent_max",
                        means.failing_percent, limits.errors_percent_max,      means.failing};
  }
  if (means.copies == 0) {  // there is nobody whom demand could be too much for, or too little
    low_since_.reset();
    return findings;
  }

  Demand& demand = findings.demand;
  const auto exceeds = [&](const char* measure, std::int64_t value, std::int64_t limit,
                           DemandInitiator initiator) {
    if (limit <= 0 || value <= limit || demand.level != DemandLevel::normal) return;
    demand = {DemandLevel::high, initiator, measure, value, limit, means.busiest};
  };
  exceeds("queue_max", means.queue, limits.queue_max, DemandInitiator::load_balancer);
  exceeds("requests_max", means.requests / means.copies, limits.requests_max,
          DemandInitiator::scaling_listener);
  exceeds("response_ms_max", means.response_ms, to_ms(limits.response_ms_max),
          DemandInitiator::scaling_listener);
  exceeds("cpu_percent_max", means.cpu_percent / means.copies, limits.cpu_percent_max,
          DemandInitiator::scaling_listener);

  // What all copies carry now, carried by one fewer.
  const auto far_below = [&](std::int64_t sum, std::int64_t limit) {
    return limit <= 0 || sum * 100 <= limit * kLowPercent * (means.copies - 1);
  };
  const auto healthy = [](const CopyDemand& copy) { return copy.healthy; };
  const bool known = limits.cpu_percent_max > 0
                         ? means.all_known
                         : std::ranges::all_of(kept_.back().sample.copies, healthy);
  const bool low = demand.level == DemandLevel::normal && means.copies > 1 && known &&
                   far_below(means.requests, limits.requests_max) &&
                   far_below(means.cpu_percent, limits.cpu_percent_max) &&
                   far_below(means.queue * means.copies, limits.queue_max) &&
                   far_below(means.response_ms * means.copies, to_ms(limits.response_ms_max));
  if (!low) low_since_.reset();
  if (low && !low_since_) low_since_ = now;
  if (low && now - *low_since_ >= limits.calm_ms) demand.level = DemandLevel::low;
  if (relocated && limits.action != ScalingAction::scale) demand = {};
  return findings;
}

}  // namespace virga
