#include "mechanism/metering/memory_usage_store.h"

#include <algorithm>
#include <tuple>

namespace virga::metering {

Result<void> MemoryUsage::keep(const Window& given) {
  if (given.number <= window) {
    return make_error(Errc::conflict, "keep a window of usage: a later one is there");
  }
  window = given.number;
  for (const Subject& subject : given.fresh) subjects[subject.id] = subject;
  const std::int64_t day = given.number * kWindowMs / kDayMs;
  for (std::size_t at = 0; at < given.charges.size(); ++at) {
    const Charge& charge = given.charges[at];
    charged[charge.charged] = given.charged[at];
    const auto [place, fresh] = ledger.try_emplace({day, charge.charged}, charge);
    if (fresh) continue;
    Charge& sum = place->second;
    sum.from_ms = std::min(sum.from_ms, charge.from_ms);
    sum.to_ms = std::max(sum.to_ms, charge.to_ms);
    for (std::size_t one = 0; one < sum.amounts.size(); ++one) {
      sum.amounts[one] += charge.amounts[one];
    }
  }
  return {};
}

std::vector<LedgerEntry> MemoryUsage::entries(const LedgerQuery& query) const {
  std::vector<LedgerEntry> found;
  for (const auto& [key, charge] : ledger) {
    const Charged& payer = charged.at(key.second);
    const Subject& subject = subjects.at(payer.subject);
    const bool wanted =
        key.first >= query.from_day && key.first < query.to_day &&
        (query.tenant.empty() || query.tenant == subject.tenant) &&
        (query.name.empty() || (query.name == subject.name && query.kind == subject.kind));
    if (wanted) found.push_back({subject, payer, charge});
  }
  const auto order = [](const LedgerEntry& one) {
    return std::tie(one.subject.tenant, one.subject.kind, one.subject.name, one.charge.from_ms,
                    one.charged.id);
  };
  std::sort(found.begin(), found.end(), [&](const LedgerEntry& left, const LedgerEntry& right) {
    return order(left) < order(right);
  });
  return found;
}

void MemoryUsageStore::load(std::int64_t now_ms, Callback<MeterState> done) {
  MeterState state;
  if (disk_->born_ms == 0) disk_->born_ms = std::max<std::int64_t>(now_ms, 1);
  state.born_ms = disk_->born_ms;
  state.at_ms = disk_->window < 0 ? now_ms : (disk_->window + 1) * kWindowMs;
  for (const auto& [id, subject] : disk_->subjects) state.subjects.push_back(subject);
  for (const auto& [id, payer] : disk_->charged) {
    if (payer.at_ms >= now_ms - Meter::kRemembered) state.charged.push_back(payer);
  }
  state.last_subject = disk_->subjects.empty() ? 0 : disk_->subjects.rbegin()->first;
  state.last_charged = disk_->charged.empty() ? 0 : disk_->charged.rbegin()->first;
  answer<MeterState>(loop_, std::move(done), std::move(state));
}

void MemoryUsageStore::keep(Window window, Callback<void> done) {
  answer<void>(loop_, std::move(done), disk_->keep(window));
}

void MemoryUsageStore::points(PointsQuery, Callback<std::vector<UsageStep>> done) {
  answer<std::vector<UsageStep>>(loop_, std::move(done), std::vector<UsageStep>{});
}

void MemoryUsageStore::ledger(LedgerQuery query, Callback<std::vector<LedgerEntry>> done) {
  answer<std::vector<LedgerEntry>>(loop_, std::move(done), disk_->entries(query));
}

}  // namespace virga::metering
