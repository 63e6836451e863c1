#include "mechanism/metering/meter.h"

#include <algorithm>
#include <utility>

namespace virga::metering {
namespace {

Amounts counters_of(const VmUsage& usage) {
  Amounts counters{};
  counters[kRun] = to_ms(usage.run_ms);
  counters[kCpu] = to_ms(usage.cpu_ms);
  counters[kDiskReadBytes] = usage.disk_read_bytes;
  counters[kDiskWrittenBytes] = usage.disk_written_bytes;
  counters[kDiskReads] = usage.disk_reads;
  counters[kDiskWrites] = usage.disk_writes;
  counters[kNetReceivedBytes] = usage.net_received_bytes;
  counters[kNetSentBytes] = usage.net_sent_bytes;
  return counters;
}

}  // namespace

Meter::Meter(MeterState state)
    : born_ms_(state.born_ms),
      at_ms_(state.at_ms),
      window_(state.at_ms / kWindowMs),
      last_subject_(state.last_subject),
      last_charged_(state.last_charged) {
  std::map<std::int64_t, const Subject*> by_id;
  for (Subject& subject : state.subjects) {
    by_id[subject.id] = &subject;
    Known& known = subjects_[{subject.kind, subject.name}];
    // Of several of one name the newest is in use.
    if (known.subject.id < subject.id) known.subject = subject;
    known.kept = true;
  }
  for (const Charged& charged : state.charged) {
    const auto found = by_id.find(charged.subject);
    if (found == by_id.end()) continue;
    const Subject& subject = *found->second;
    accounts_[{subject.kind, subject.name, charged.epoch, charged.place}].charged = charged;
  }
}

std::int64_t Meter::clamp(std::int64_t at_ms) {
  at_ms_ = std::max(at_ms_, at_ms);
  if (at_ms_ / kWindowMs > window_) close_window();
  return at_ms_;
}

void Meter::pass(std::int64_t at_ms) { clamp(at_ms); }

Meter::Known& Meter::know(SubjectKind kind, const std::string& name, const std::string& tenant) {
  Known& known = subjects_[{kind, name}];
  if (known.subject.id == 0) known.subject = {++last_subject_, kind, name, tenant};
  if (kind != SubjectKind::host) known.at_ms = at_ms_;
  if (known.points.empty()) known.points.assign(series_of(kind).size() * kWindowPoints, kGap);
  return known;
}

Meter::Account& Meter::account(const AccountKey& key, Known& known) {
  Account& account = accounts_[key];
  if (account.charged.id == 0) {
    account.charged.id = ++last_charged_;
    account.charged.subject = known.subject.id;
    account.charged.epoch = std::get<Epoch>(key);
    account.charged.place = std::get<3>(key);
  }
  return account;
}

/// Sets a level, or adds to a counter's point; spread when the last sample is few points ago.
void Meter::put(Known& known, std::size_t series, std::int64_t value, std::int64_t since_ms) {
  const auto points = std::span(known.points).subspan(series * kWindowPoints, kWindowPoints);
  const std::int64_t begin = window_ * kWindowMs / kPointMs;
  const std::int64_t last = at_ms_ / kPointMs;
  std::int64_t first = std::max(since_ms / kPointMs + 1, begin);
  if (since_ms == 0 || last - since_ms / kPointMs > kBridged + 1) first = last;
  first = std::min(first, last);
  const std::int64_t count = last - first + 1;
  const bool level = series_of(known.subject.kind)[series].level;
  for (std::int64_t step = 0; step < count; ++step) {
    std::int64_t& point = points[static_cast<std::size_t>(first + step - begin)];
    const std::int64_t part = value / count + (step < value % count ? 1 : 0);
    point = level ? value : (point == kGap ? 0 : point) + part;
  }
}

void Meter::charge(Account& account, const Amounts& grown, std::int64_t from_ms,
                   std::int64_t to_ms) {
  account.charged.at_ms = at_ms_;
  if (grown == Amounts{} && account.to_ms != 0) return;
  account.to_ms = std::max(account.to_ms, to_ms);
  if (!account.open) account.open = Charge{account.charged.id, from_ms, to_ms, {}};
  account.open->to_ms = std::max(account.open->to_ms, to_ms);
  for (std::size_t series = 0; series < grown.size(); ++series) {
    account.open->amounts[series] += grown[series];
  }
}

void Meter::add_vm(const HostId& host, const std::string& tenant, const VmUsage& usage,
                   std::int64_t at_ms) {
  const std::int64_t at = clamp(at_ms);
  Known& known = know(SubjectKind::vm, usage.vm.value, tenant);
  Account& payer = account({SubjectKind::vm, usage.vm.value, usage.epoch, host.value}, known);
  Charged& charged = payer.charged;
  const bool first = charged.at_ms == 0;
  const std::int64_t began = at - to_ms(usage.age_ms);
  const Amounts counters = counters_of(usage);
  // What may have been counted before it was forgotten, or before there was this meter, is not
  // counted.
  const bool from_here = first && began < std::max(born_ms_, at - kRemembered);
  charged.cpus = usage.cpus;
  charged.memory_mib = usage.memory_mib.value;
  const std::int64_t since = charged.at_ms;
  Amounts grown{};
  for (std::size_t series = 0; series < kVmSeries; ++series) {
    if (counters[series] < 0 || series == kMemoryUsed) continue;
    const std::int64_t more = counters[series] - charged.counted[series];
    charged.counted[series] = std::max(charged.counted[series], counters[series]);
    if (!from_here) grown[series] = std::max<std::int64_t>(more, 0);
    put(known, series, grown[series], since);
  }
  if (!usage.ended) put(known, kMemoryUsed, usage.memory_mib_used.value, since);
  // A copy that handed over since then has run for the first part of the time.
  const std::int64_t from = std::min(at, first ? at - grown[kRun] : since);
  const std::int64_t end = std::min(at, from + grown[kRun]);
  charge(payer, grown, from, grown[kRun] == 0 && payer.to_ms != 0 ? payer.to_ms : end);
}

void Meter::add_volume(const VolumeSample& sample, std::int64_t at_ms) {
  const std::int64_t at = clamp(at_ms);
  Known& known = know(SubjectKind::volume, sample.volume, sample.tenant);
  Account& payer =
      account({SubjectKind::volume, sample.volume, sample.floor, sample.device}, known);
  Charged& charged = payer.charged;
  const std::int64_t since = charged.at_ms;
  Amounts grown{};
  // memory_mib stands for the size at the last sample.
  if (since != 0) grown[kHeld] = charged.memory_mib * (at - since);
  charged.memory_mib = sample.size_mib;
  put(known, kHeld, grown[kHeld], since);
  if (sample.used_mib >= 0) put(known, kVolumeUsed, sample.used_mib, since);
  charge(payer, grown, since == 0 ? at : since, at);
}

void Meter::add_service(const ServiceSample& sample, std::int64_t at_ms) {
  const std::int64_t at = clamp(at_ms);
  Known& known = know(SubjectKind::service, sample.service, sample.tenant);
  const Epoch counting{0, sample.counters};
  Account& payer = account({SubjectKind::service, sample.service, counting, sample.host}, known);
  Charged& charged = payer.charged;
  const std::int64_t since = charged.at_ms;
  Amounts counters{};
  counters[kRequests] = sample.requests;
  counters[kRequestErrors] = sample.errors;
  // What was counted before there was this meter is not counted.
  if (since == 0 && sample.created_ms < born_ms_ && at - born_ms_ < kWindowMs)
    charged.counted = counters;
  // Its number was in use before: it counts from 0 again.
  if (sample.requests < charged.counted[kRequests]) charged.counted = {};
  Amounts grown{};
  for (const std::size_t series : {kRequests, kRequestErrors}) {
    grown[series] = std::max<std::int64_t>(counters[series] - charged.counted[series], 0);
    charged.counted[series] = counters[series];
    put(known, series, grown[series], since);
  }
  put(known, kConnections, sample.connections, since);
  charge(payer, grown, since == 0 ? at : since, at);
}

void Meter::add_host(const std::string& host, std::int64_t cpu_millicores, std::int64_t memory_mib,
                     std::int64_t at_ms) {
  clamp(at_ms);
  Known& known = know(SubjectKind::host, host, "");
  const std::int64_t since = std::exchange(known.at_ms, at_ms_);
  put(known, kHostCpu, cpu_millicores, since);
  put(known, kHostMemory, memory_mib, since);
}

void Meter::close_window() {
  Window window;
  window.number = std::exchange(window_, at_ms_ / kWindowMs);
  for (auto& [key, known] : subjects_) {
    if (known.points.empty()) continue;
    if (!std::exchange(known.kept, true)) window.fresh.push_back(known.subject);
    window.subjects.push_back(
        {known.subject.id, known.subject.kind, std::exchange(known.points, {})});
  }
  for (auto& [key, account] : accounts_) {
    if (!account.open) continue;
    window.charged.push_back(account.charged);
    window.charges.push_back(*account.open);
    account.open.reset();
  }
  forget();
  if (window.subjects.empty()) return;
  over_.push_back(std::move(window));
}

void Meter::forget() {
  const std::int64_t before = at_ms_ - kRemembered;
  std::erase_if(accounts_, [&](const auto& one) { return one.second.charged.at_ms < before; });
  std::erase_if(subjects_, [&](const auto& one) { return one.second.at_ms < before; });
}

std::optional<Window> Meter::take() {
  if (over_.empty()) return std::nullopt;
  Window window = std::move(over_.front());
  over_.erase(over_.begin());
  return window;
}

}  // namespace virga::metering
