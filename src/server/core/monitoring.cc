#include "server/core/monitoring.h"

#include <algorithm>

#include "model/keys.h"

namespace virga {
namespace {

bool promises(const Service& service) {
  return service.spec.objective.availability_ppm > 0 && !service.meta.deleting_at;
}

/// What is shown of a service that ends TLS: neither its key nor the long rest of its chain.
std::string first_certificate(const std::string& pem) {
  constexpr std::string_view kBegin = "-----BEGIN CERTIFICATE-----";
  constexpr std::string_view kEnd = "-----END CERTIFICATE-----";
  const std::size_t begin = pem.find(kBegin);
  const std::size_t end = begin == std::string::npos ? begin : pem.find(kEnd, begin);
  if (end == std::string::npos) return {};
  return pem.substr(begin, end + kEnd.size() - begin) + "\n";
}

/// As its checks ask its copies, but at its own address. A balancer of HTTP says itself when it has
/// nobody to ask; where checks know no path, all that is no failure of the service is an answer.
std::optional<ServiceProbe> probe_of(const ClusterView& view, const Service& service) {
  const Port* port = view.ports.find(service.monitor_port_id());
  const Network* network = port == nullptr ? nullptr : view.networks.find(port->spec.network);
  if (network == nullptr) return std::nullopt;
  const ServiceSpec& spec = service.spec;
  ServiceProbe probe;
  probe.service = service.id();
  probe.leg = {network->spec.vni, port->spec.mac, port->spec.address, network->spec.mtu};
  probe.address = spec.frontend.address;
  probe.port = spec.frontend.port;
  const bool http = spec.check.protocol == BalancerProtocol::http;
  if (http || spec.frontend.protocol == BalancerProtocol::http) {
    probe.protocol = BalancerProtocol::http;
    probe.path = http ? spec.check.path : "/";
    probe.status_max = http ? 399 : 499;
    if (spec.frontend.tls) probe.trusted = first_certificate(spec.frontend.certificate);
  }
  probe.every_ms = service.status.relocation ? std::min(kRelocationProbes, spec.objective.every_ms)
                                             : spec.objective.every_ms;
  probe.timeout_ms = spec.objective.response_ms;
  return probe;
}

}  // namespace

Monitoring::Monitoring(Loop& loop, Store& store, StoreMirror& mirror, AgentSessions& sessions,
                       NameSource& names)
    : loop_(loop),
      mirror_(mirror),
      sessions_(sessions),
      names_(names),
      queue_(loop, store, mirror, "levels") {}

void Monitoring::start() {
  queue_.start([this](const std::string& key) { run(key); });
  tell();
}

/// What was told is known once it is stored: the keeper takes that over.
void Monitoring::changed(const std::vector<Change>& changes) {
  bool services = false;
  for (const Change& change : changes) {
    const std::string& key = change.entry.key;
    services = services || key.starts_with(keys::kService);
    if (!key.starts_with(keys::kLevel)) continue;
    const std::string name = key.substr(keys::kLevel.size());
    const ServiceLevel* stored = mirror_.view().levels.find(LevelId(name));
    const auto watched = watched_.find(ServiceId(name));
    if (stored != nullptr && watched != watched_.end()) watched->second.keeper.adopt(*stored);
  }
  if (services) tell();
}

/// Who is to ask nobody is told nothing: an agent forgets what is not confirmed.
void Monitoring::connected(const HostId& host) {
  told_.erase(host);
  tell();
}

void Monitoring::tell() {
  std::map<HostId, ServiceProbeList> wanted;
  for (const auto& [id, service] : mirror_.view().services.all()) {
    if (!promises(*service) || service->status.monitor.empty()) continue;
    if (auto probe = probe_of(mirror_.view(), *service))
      wanted[service->status.monitor].probes.push_back(std::move(*probe));
  }
  for (auto& [host, list] : told_) wanted.try_emplace(host);
  for (auto& [host, list] : wanted) {
    const auto before = told_.find(host);
    if (before != told_.end() && before->second.probes == list.probes) continue;
    sessions_.tell_probes(host, list);
    told_[host] = std::move(list);
  }
}

void Monitoring::tick() {
  const ClusterView& view = mirror_.view();
  for (const auto& [id, service] : view.services.all()) {
    if (promises(*service)) look_at(*service);
  }
  for (const auto& [id, level] : view.levels.all()) {
    const Service* service = view.services.find(ServiceId(id.value));
    if (service == nullptr || !promises(*service)) queue_.mark(id.value);
  }
  std::erase_if(watched_, [&](const auto& entry) {
    const Service* service = view.services.find(entry.first);
    return service == nullptr || !promises(*service);
  });
}

void Monitoring::look_at(const Service& service) {
  const Instant now = loop_.now();
  const WallTime wall = loop_.wall_now();
  auto found = watched_.find(service.id());
  if (found == watched_.end())
    found = watched_.emplace(service.id(), Watched{keeper_of(service), {}, now}).first;
  Watched& watched = found->second;
  watched.keeper.follow(service.status.relocation, wall);
  const LiveHost* live = sessions_.find(service.status.monitor);
  bool fresh = false;
  if (live != nullptr && live->reported) {
    const std::pair taken{live->session, live->report.sequence};
    const auto seen = std::ranges::find(live->report.probes, service.id(), &ObservedProbe::service);
    const bool named = seen != live->report.probes.end();
    if (watched.taken != taken) listen(watched, service, named ? &*seen : nullptr);
    if (named && watched.taken != taken) {
      fresh = true;
      watched.keeper.take(service.status.monitor, *seen, now, wall);
    }
    watched.taken = taken;
  }
  if (now >= watched.due || (fresh && watched.keeper.has_news(service.spec.objective, wall)))
    queue_.mark(service.id().value);
}

/// Time counts only between two of its reports: of a silent host nobody knows what it asks.
void Monitoring::listen(Watched& watched, const Service& service, const ObservedProbe* seen) const {
  const Instant now = loop_.now();
  const HostId& monitor = service.status.monitor;
  const std::int64_t asked = seen == nullptr ? 0 : seen->asked;
  if (watched.monitor != monitor) {
    watched.mute_before = watched.asked == 0 && !watched.monitor.empty()
                              ? std::min(watched.mute_before + 1, kDoublingsMax)
                              : 0;
    watched.monitor = monitor;
    watched.asked = 0;
    watched.asked_at = watched.heard_at = now;
  }
  if (now - watched.heard_at > LevelKeeper::kSilenceMax) {
    watched.asked_at += now - watched.heard_at;
  }
  watched.heard_at = now;
  if (asked == watched.asked) return;
  watched.asked = asked;
  watched.asked_at = now;
  if (asked > 0) watched.mute_before = 0;
}

/// It goes on from what is stored.
LevelKeeper Monitoring::keeper_of(const Service& service) const {
  const ServiceLevel* stored = mirror_.view().levels.find(LevelId(service.id().value));
  ServiceLevel level = stored == nullptr ? ServiceLevel() : *stored;
  level.meta.name = service.meta.name;
  level.meta.tenant = service.meta.tenant;
  return LevelKeeper(std::move(level));
}

void Monitoring::run(const std::string& key) {
  const Service* service = mirror_.view().services.find(ServiceId(key));
  const ServiceLevel* stored = mirror_.view().levels.find(LevelId(key));
  if (service == nullptr || !promises(*service)) {
    if (stored == nullptr) return;
    return queue_.commit(key, [&](Transaction& into) {
      into.erase(*stored);
      return true;
    });
  }
  const auto watched = watched_.find(service->id());
  if (watched == watched_.end()) return;
  watched->second.due = loop_.now() + kKeepEvery;
  queue_.commit(key, [&](Transaction& into) { return keep(into, *service, watched->second); });
}

bool Monitoring::keep(Transaction& transaction, const Service& service, const Watched& watched) {
  ServiceLevel next = watched.keeper.level();
  const ServiceLevel* stored = mirror_.view().levels.find(next.id());
  next.meta.revision = stored == nullptr ? 0 : stored->meta.revision;
  const auto findings = watched.keeper.judge(service.spec.objective, loop_.wall_now(), next);
  transaction.put(next);
  for (const LevelFinding& finding : findings) {
    Event told;
    told.at = loop_.wall_now();
    told.kind = "service." + finding.kind;
    told.severity = finding.severity;
    told.text = finding.text;
    told.facts = finding.facts;
    told.subject = keys::of(service.id());
    told.tenant = service.meta.tenant;
    transaction.event(names_.outbox_key(mirror_.view().revision), told);
  }
  return true;
}

std::optional<Duration> Monitoring::failing_for(const ServiceId& service) const {
  const auto found = watched_.find(service);
  return found == watched_.end() ? std::nullopt : found->second.keeper.failing_for(loop_.now());
}

bool Monitoring::spent(const ServiceId& service) const {
  const auto found = watched_.find(service);
  return found != watched_.end() && found->second.keeper.spent();
}

bool Monitoring::mute(const ServiceId& id) const {
  const auto found = watched_.find(id);
  const Service* service = mirror_.view().services.find(id);
  if (found == watched_.end() || service == nullptr || found->second.monitor.empty()) return false;
  const Watched& watched = found->second;
  const Duration patience =
      (kPatience + service->spec.objective.every_ms * 3) * (1 << watched.mute_before);
  return watched.monitor == service->status.monitor &&
         watched.heard_at - watched.asked_at > patience;
}

std::optional<LevelReport> Monitoring::report(const ServiceId& id) const {
  const Service* service = mirror_.view().services.find(id);
  if (service == nullptr || !promises(*service)) return std::nullopt;
  const auto found = watched_.find(id);
  const LevelKeeper& keeper = found == watched_.end() ? keeper_of(*service) : found->second.keeper;
  return keeper.report(service->spec.objective, loop_.wall_now());
}

}  // namespace virga
