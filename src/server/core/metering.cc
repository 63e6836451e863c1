#include "server/core/metering.h"

#include <cstdlib>

#include "base/log.h"

namespace virga {
namespace {

constexpr Duration kLook = milliseconds(metering::kPointMs);
constexpr std::int64_t kMibBytes = 1 << 20;

}  // namespace

Metering::Metering(Loop& loop, metering::UsageStore* store, const StoreMirror& mirror,
                   AgentSessions& sessions)
    : loop_(loop), store_(store), mirror_(mirror), sessions_(sessions), timer_(loop) {}

void Metering::start() {
  if (store_ == nullptr) return;
  sessions_.set_usage_sink(
      [this](const HostId& host, const UsageReport& usage) { take(host, usage); });
  load();
  timer_.set_after(kLook, [this] { tick(); });
}

void Metering::load() {
  store_->load(loop_.wall_now().unix_ms,
               [this, alive = std::weak_ptr(alive_)](Result<metering::MeterState> state) {
                 if (alive.expired()) return;
                 keeping_ = false;
                 if (state.ok()) return meter_.emplace(*std::move(state)), void();
                 begin_again(state.error().text());
               });
}

/// `keeping_` holds everything back until the store has said how it stands.
void Metering::begin_again(const std::string& why) {
  log_line(LogLevel::error, "metering", "begins again from what was kept: " + why);
  meter_.reset();
  taken_.clear();
  over_.clear();
  keeping_ = true;
  loop_.after(kLook, [this, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) load();
  });
}

void Metering::tick() {
  timer_.set_after(kLook, [this] { tick(); });
  const std::int64_t now_ms = loop_.wall_now().unix_ms;
  if (!pass(now_ms)) return;
  look_at_hosts(now_ms);
  look_at_volumes(now_ms);
  look_at_services(now_ms);
}

void Metering::take(const HostId& host, const UsageReport& usage) {
  const std::int64_t now_ms = loop_.wall_now().unix_ms;
  if (!pass(now_ms)) return;
  for (const VmUsage& vm : usage.vms) {
    const std::size_t slash = vm.vm.value.find('/');
    if (slash == std::string::npos) continue;
    meter_->add_vm(host, vm.vm.value.substr(0, slash), vm, now_ms);
  }
  UsageKept& taken = taken_[host];
  if (usage.sequence != taken.sequence + 1) taken.since = usage.sequence;
  taken.sequence = usage.sequence;
}

void Metering::look_at_hosts(std::int64_t now_ms) {
  const Instant fresh = loop_.now() - kLook;
  for (const auto& [host, live] : sessions_.hosts()) {
    if (!live.reported || live.last_report_at < fresh) continue;  // a gap
    const Capacity& used = live.report.used;
    meter_->add_host(host.value, used.cpu_millicores.value, used.memory_mib.value, now_ms);
  }
}

void Metering::look_at_volumes(std::int64_t now_ms) {
  if (mirror_.view().volumes.size() == 0) return;
  std::map<std::pair<DeviceId, VolumeId>, std::int64_t> used;
  const Instant fresh = loop_.now() - kLook;
  for (const auto& [host, live] : sessions_.hosts()) {
    if (live.last_report_at < fresh) continue;
    for (const ObservedDevice& device : live.report.devices) {
      for (const ObservedVolume& volume : device.volumes) {
        used[{device.device, volume.volume}] = volume.used_bytes.value / kMibBytes;
      }
    }
  }
  for (const auto& [id, volume] : mirror_.view().volumes.all()) {
    if (!volume->ready()) continue;
    const DeviceId& device = volume->status.legs.front().device;
    const auto seen = used.find({device, id});
    meter_->add_volume({id.value, volume->meta.tenant, device.value, volume->status.floor,
                        volume->status.size_mib.value, seen == used.end() ? -1 : seen->second},
                       now_ms);
  }
}

void Metering::look_at_services(std::int64_t now_ms) {
  const Instant fresh = loop_.now() - kLook;
  for (const auto& [host, live] : sessions_.hosts()) {
    if (live.last_report_at < fresh) continue;
    for (const ServiceBalancer& balancer : live.report.balancers) {
      const Service* service = mirror_.view().services.find(balancer.service);
      if (service == nullptr || balancer.seen.revision == 0) continue;
      metering::Meter::ServiceSample sample{balancer.service.value, service->meta.tenant,
                                            host.value, service->meta.created_at.unix_ms};
      sample.counters = std::strtoull(balancer.seen.counters.c_str(), nullptr, 10);
      for (const ObservedBalancerFrontend& frontend : balancer.seen.frontends) {
        sample.requests += frontend.total;
        sample.errors += frontend.errors_5xx;
        sample.connections += frontend.sessions;
      }
      meter_->add_service(sample, now_ms);
    }
  }
}

/// Before a sample is added, at the same time: windows that are over hold what `taken_` names and
/// nothing else. False while there is no meter.
bool Metering::pass(std::int64_t now_ms) {
  if (!meter_) return false;
  const std::size_t before = meter_->waiting();
  meter_->pass(now_ms);
  if (meter_->waiting() > before) over_.push_back(taken_);
  if (meter_->waiting() > kWaitingMax) begin_again("the disk does not keep up");
  keep_next();
  return meter_.has_value();
}

void Metering::keep_next() {
  if (keeping_ || over_.empty()) return;
  keeping_ = true;
  Sequences told = std::move(over_.front());
  over_.pop_front();
  store_->keep(*meter_->take(), [this, told = std::move(told),
                                 alive = std::weak_ptr(alive_)](const Result<void>& outcome) {
    if (!alive.expired()) kept(outcome, told);
  });
}

void Metering::kept(const Result<void>& outcome, const Sequences& told) {
  if (!meter_) return;  // begun again meanwhile
  if (!outcome) return begin_again(outcome.error().text());
  keeping_ = false;
  for (const auto& [host, kept] : told) sessions_.tell_usage_kept(host, kept);
  keep_next();
}

}  // namespace virga
