#include "agent/usage_reporter.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace virga {

/// Sequences grow over runs as well: what the server kept of an earlier one is none of this one's.
UsageReporter::UsageReporter(Loop& loop, Hypervisor& hypervisor,
                             std::function<void(UsageReport)> send)
    : loop_(loop),
      hypervisor_(hypervisor),
      send_(std::move(send)),
      timer_(loop),
      sequence_(static_cast<std::uint64_t>(loop.wall_now().unix_ms)) {}

void UsageReporter::start() {
  due_ = loop_.now() + kEvery;
  timer_.set_at(due_, [this] { look(); });
}

void UsageReporter::session_begins() {
  for (auto& [copy, told] : ended_) told = 0;
}

void UsageReporter::look() {
  due_ = loop_.now() + kEvery;
  rest_ = hypervisor_.usage();
  std::map<std::pair<VmId, Epoch>, std::uint64_t> ended;
  for (const VmUsage& usage : rest_) {
    if (!usage.ended) continue;
    const auto known = ended_.find({usage.vm, usage.epoch});
    ended[{usage.vm, usage.epoch}] = known == ended_.end() ? 0 : known->second;
  }
  ended_ = std::move(ended);
  tell();
}

void UsageReporter::tell() {
  UsageReport report;
  report.sequence = ++sequence_;
  const auto first = rest_.end() - std::ptrdiff_t(std::min(rest_.size(), kCopiesAMessage));
  report.vms.assign(std::make_move_iterator(first), std::make_move_iterator(rest_.end()));
  rest_.erase(first, rest_.end());
  for (const VmUsage& usage : report.vms) {
    const auto ended = ended_.find({usage.vm, usage.epoch});
    if (ended != ended_.end() && ended->second == 0) ended->second = sequence_;
  }
  if (rest_.empty()) {
    timer_.set_at(due_, [this] { look(); });
  } else {
    timer_.set_after(kPause, [this] { tell(); });
  }
  send_(std::move(report));
}

void UsageReporter::kept(const UsageKept& kept) {
  for (auto next = ended_.begin(); next != ended_.end();) {
    std::uint64_t& told = next->second;
    if (told < kept.since) told = 0;
    const bool over = told != 0 && told <= kept.sequence;
    if (over) hypervisor_.forget_usage(next->first.first, next->first.second);
    next = over ? ended_.erase(next) : std::next(next);
  }
}

}  // namespace virga
