#include "agent/usage_reporter.h"

#include <utility>

namespace virga {

UsageReporter::UsageReporter(Loop& loop, Hypervisor& hypervisor,
                             std::function<void(UsageReport)> send)
    : hypervisor_(hypervisor), send_(std::move(send)), timer_(loop) {}

void UsageReporter::start() {
  timer_.set_after(kEvery, [this] { report(); });
}

void UsageReporter::report() {
  start();
  UsageReport report;
  report.sequence = ++sequence_;
  report.vms = hypervisor_.usage();
  std::map<std::pair<VmId, Epoch>, std::uint64_t> ended;
  for (const VmUsage& usage : report.vms) {
    if (!usage.ended) continue;
    const auto known = ended_.find({usage.vm, usage.epoch});
    ended[{usage.vm, usage.epoch}] = known == ended_.end() ? sequence_ : known->second;
  }
  ended_ = std::move(ended);
  send_(std::move(report));
}

void UsageReporter::kept(const UsageKept& kept) {
  for (auto next = ended_.begin(); next != ended_.end();) {
    const bool over = next->second <= kept.sequence;
    if (over) hypervisor_.forget_usage(next->first.first, next->first.second);
    next = over ? ended_.erase(next) : std::next(next);
  }
}

}  // namespace virga
