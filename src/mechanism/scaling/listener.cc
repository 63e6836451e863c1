#include "mechanism/scaling/listener.h"

#include <algorithm>
#include <utility>

namespace virga {
namespace {

constexpr int kSamples = 32;  ///< of one span of `sustained_ms`

bool same_source(const DemandSample& before, const DemandSample& after) {
  return before.counters == after.counters &&
         std::ranges::equal(before.copies, after.copies, {}, &CopyDemand::vm, &CopyDemand::vm);
}

}  // namespace

/// Of the samples that are kept, each in the unit of its limit.
struct ScalingListener::Means {
  std::int64_t copies = 0;
  std::int64_t requests = 0;  ///< a second, of all copies
  std::int64_t queue = 0;
  std::int64_t response_ms = 0;
  std::int64_t cpu_percent = 0;  ///< sum of all copies
  VmId busiest;
  VmId failing;
  std::int64_t failing_percent = 0;
};

void ScalingListener::rest(Instant now) {
  kept_.clear();
  low_since_.reset();
  changed_at_ = now;
}

void ScalingListener::keep(const ServiceScaling& limits, DemandSample sample, Instant now) {
  if (!changed_at_ || (!kept_.empty() && !same_source(kept_.back().sample, sample))) rest(now);
  // The newest sample is always the present one; those before it stand apart.
  const Duration apart = limits.sustained_ms / kSamples;
  if (kept_.size() > 1 && kept_.back().at - kept_[kept_.size() - 2].at < apart) kept_.pop_back();
  kept_.push_back({now, std::move(sample)});
  while (kept_.size() > 1 && now - kept_[1].at >= limits.sustained_ms) kept_.pop_front();
}

std::optional<ScalingListener::Means> ScalingListener::means() const {
  const DemandSample& first = kept_.front().sample;
  const DemandSample& last = kept_.back().sample;
  const std::int64_t span_ms = to_ms(kept_.back().at - kept_.front().at);
  const auto looks = static_cast<std::int64_t>(kept_.size());
  if (span_ms <= 0 || last.copies.empty()) return std::nullopt;
  Means means;
  means.copies = static_cast<std::int64_t>(last.copies.size());
  means.requests = (last.requests - first.requests) * 1000 / span_ms;
  std::int64_t responses = 0;
  std::int64_t busiest_load = -1;
  for (const Kept& kept : kept_) means.queue += kept.sample.queue;
  means.queue /= looks;
  for (std::size_t index = 0; index < last.copies.size(); ++index) {
    std::int64_t cpu = 0;
    bool healthy = false;
    for (const Kept& kept : kept_) {
      const CopyDemand& copy = kept.sample.copies[index];
      cpu += copy.cpu_percent.value_or(0);
      responses += copy.response_ms;
      healthy = healthy || copy.healthy;
    }
    const CopyDemand& now = last.copies[index];
    const std::int64_t asked = now.requests - first.copies[index].requests;
    const std::int64_t failed = now.errors - first.copies[index].errors;
    const std::int64_t percent = !healthy    ? 100
                                 : asked > 0 ? std::min<std::int64_t>(failed * 100 / asked, 100)
                                             : 0;
    if (percent > means.failing_percent) {
      means.failing_percent = percent;
      means.failing = now.vm;
    }
    means.cpu_percent += cpu / looks;
    // Who is asked more is busier where nobody knows what it costs.
    const std::int64_t load = cpu / looks * 1'000'000 + asked;
    if (!now.healthy || load <= busiest_load) continue;
    busiest_load = load;
    means.busiest = now.vm;
  }
  means.response_ms = responses / (looks * means.copies);
  return means;
}

Demand ScalingListener::look(const ServiceScaling& limits, DemandSample sample, Instant now) {
  keep(limits, std::move(sample), now);
  const bool early =
      now - kept_.front().at < limits.sustained_ms || now - *changed_at_ < limits.cooldown_ms;
  const auto found = means();
  if (early || !found) return {};
  const Means& means = *found;

  Demand demand;
  const auto exceeds = [&](const char* measure, std::int64_t value, std::int64_t limit,
                           DemandInitiator initiator) {
    if (limit <= 0 || value <= limit || demand.level != DemandLevel::normal) return;
    demand = {DemandLevel::high, initiator, measure, value, limit, means.busiest};
  };
  exceeds("errors_percent_max", means.failing_percent, limits.errors_percent_max,
          DemandInitiator::load_balancer);
  if (demand.level == DemandLevel::high) {
    demand.level = DemandLevel::failing;
    demand.copy = means.failing;
  }
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
  const bool low = demand.level == DemandLevel::normal && means.copies > 1 &&
                   far_below(means.requests, limits.requests_max) &&
                   far_below(means.cpu_percent, limits.cpu_percent_max) &&
                   far_below(means.queue * means.copies, limits.queue_max) &&
                   far_below(means.response_ms * means.copies, to_ms(limits.response_ms_max));
  if (!low) low_since_.reset();
  if (low && !low_since_) low_since_ = now;
  if (low && now - *low_since_ >= limits.calm_ms) demand.level = DemandLevel::low;
  return demand;
}

}  // namespace virga
