#include "server/core/server_core.h"

#include <fmt/format.h>

#include <charconv>

#include "arch/hypervisor_clustering/fault_table.h"
#include "arch/hypervisor_clustering/operations.h"
#include "base/log.h"
#include "base/reflect.h"

namespace virga {
namespace {

constexpr std::string_view kIncarnationKey = "meta/incarnation";
constexpr std::string_view kServedKey = "meta/served_incarnation";
constexpr std::string_view kProbeKey = "meta/probe_key";
constexpr Duration kTogether = milliseconds(20);

std::uint64_t number_of(const std::optional<KeyValue>& entry, std::uint64_t otherwise) {
  if (!entry) return otherwise;
  std::uint64_t number = otherwise;
  std::from_chars(entry->value.data(), entry->value.data() + entry->value.size(), number);
  return number;
}

json::array refusals_json(const std::vector<Refusal>& refusals) {
  json::array list;
  for (const Refusal& refusal : refusals) {
    list.push_back({{"candidate", refusal.host.value}, {"reason", refusal.reason}});
  }
  return list;
}

}  // namespace

ServerCore::ServerCore(ServerDependencies dependencies, ServerOptions options)
    : on_(std::move(dependencies)),
      options_(options),
      mirror_(on_.loop, on_.store),
      sessions_(on_.loop, on_.store, mirror_, on_.links),
      overlay_(mirror_.view(),
               [this](const HostId& host, const FabricPlaces& places) {
                 sessions_.tell_places(host, places);
               }),
      perimeter_(mirror_.view(),
                 [this](const HostId& host, const FabricGroups& groups) {
                   sessions_.tell_groups(host, groups);
                 }),
      gateways_(mirror_.view(),
                [this](const HostId& host, const FabricGateways& gateways) {
                  sessions_.tell_gateways(host, gateways);
                }),
      tell_timer_(on_.loop),
      regions_(mirror_.view(), [this](Event event) { journal_event(std::move(event)); }),
      metering_(on_.loop, on_.usage, mirror_, sessions_),
      runner_(on_.loop, on_.store, mirror_, names_),
      controller_(on_.loop, on_.store, mirror_, sessions_, names_),
      storage_(on_.loop, on_.store, mirror_, sessions_, names_),
      services_(on_.loop, on_.store, mirror_, sessions_, names_),
      calendar_(on_.loop, on_.store, mirror_, names_),
      lease_bounds_(on_.loop, on_.store, mirror_),
      monitoring_(on_.loop, on_.store, mirror_, sessions_, names_),
      pump_(on_.loop, on_.store, mirror_, on_.journal),
      tick_timer_(on_.loop) {}

void ServerCore::start(Callback<void> ready) {
  pump_.start();
  mirror_.open([this, ready](Result<void> opened) {
    if (!opened) return ready(opened.error());
    load_meta(ready);
  });
}

void ServerCore::load_meta(Callback<void> ready) {
  ListRequest request;
  request.prefix = std::string(keys::kMeta);
  on_.store.list(request, [this, ready, alive = std::weak_ptr(alive_)](Result<Page> page) {
    if (alive.expired()) return;
    if (!page) return ready(wrap_error("read the store's incarnation", page.error()));
    std::map<std::string, KeyValue> found;
    for (KeyValue& entry : page->entries) found[entry.key] = entry;
    const auto entry = [&](std::string_view key) {
      const auto at = found.find(std::string(key));
      return at == found.end() ? std::nullopt : std::optional(at->second);
    };
    found_meta(entry(kIncarnationKey), entry(kServedKey), entry(kProbeKey), ready);
  });
}

void ServerCore::found_meta(std::optional<KeyValue> incarnation, std::optional<KeyValue> served,
                            std::optional<KeyValue> probe_key, const Callback<void>& ready) {
  const std::uint64_t current = number_of(incarnation, 1);
  recovery_held_ = served && number_of(served, 1) < current;
  Transaction transaction;
  const std::string key = probe_key ? probe_key->value : on_.make_secret();
  if (!incarnation) transaction.write(std::string(kIncarnationKey), 0, std::to_string(current));
  if (!served) transaction.write(std::string(kServedKey), 0, std::to_string(current));
  if (!probe_key) transaction.write(std::string(kProbeKey), 0, key);
  mirror_.set_incarnation(current);
  sessions_.set_probe_keys(
      [key, derive = on_.derive_key](const ClusterId& id) { return derive(key, id.value); });
  if (transaction.empty()) return lead(ready);
  on_.store.commit(transaction.guards(), transaction.writes(),
                   [this, ready, alive = std::weak_ptr(alive_)](Result<CommitOutcome> done) {
                     if (alive.expired()) return;
                     if (!done)
                       return ready(wrap_error("write the store's incarnation", done.error()));
                     if (done->verdict != CommitVerdict::committed) return load_meta(ready);
                     lead(ready);
                   });
}

void ServerCore::lead(const Callback<void>& ready) {
  leads_since_ = on_.loop.now();
  register_cluster_operations(runner_, {on_.loop, sessions_, on_.bmc,
                                        [this](const HostId& host) { return seen_alive(host); }});
  sessions_.start(
      [this](const HostId& host) {
        const Host* stored = view().hosts.find(host);
        if (stored != nullptr) mark(stored->spec.cluster);
      },
      [this](const HostId& host) {
        overlay_.connected(host);
        perimeter_.connected(host);
        gateways_.connected(host);
        monitoring_.connected(host);
      },
      [this](Event event) { journal_event(std::move(event)); }, recovery_held_);
  // Before the controller's listener, so that networks travel ahead of the VMs that need them.
  mirror_.listen([this](const std::vector<Change>& changes) {
    const bool known_to_hosts = std::any_of(changes.begin(), changes.end(), [](const Change& one) {
      const std::string_view key = one.entry.key;
      return key.starts_with(keys::kNetwork) || key.starts_with(keys::kCluster) ||
             (key.starts_with(keys::kHost) && one.removed);
    });
    sessions_.changed(changes);
    if (known_to_hosts) sessions_.spread_now();
    tell_networks(changes);
    perimeter_.changed(changes);
    monitoring_.changed(changes);
    regions_.changed(changes);
  });
  overlay_.load();
  perimeter_.load();
  gateways_.load();
  metering_.start();
  runner_.start();
  controller_.start([this](const ClusterId& cluster) { return observe(cluster); },
                    options_.controller);
  storage_.start([this](const ClusterId& cluster) { return observe_storage(cluster); },
                 options_.storage);
  services_.start([this](const ClusterId& cluster) { return observe_services(cluster); },
                  options_.services);
  calendar_.start();
  monitoring_.start();
  if (recovery_held_) {
    log_line(LogLevel::warning, "server",
             "the state was restored from a backup: nothing is fenced or restarted until every "
             "host has reported or an operator arms recovery");
  }
  tick_due_ = on_.loop.now();
  tick();
  ready({});
}

/// All hosts that carry a network hear of each VM that joins it: of many VMs at once they hear
/// together, as late as a guest that only begins to boot does not notice.
void ServerCore::tell_networks(const std::vector<Change>& changes) {
  if (untold_.empty()) tell_timer_.set_after(kTogether, [this] { tell_untold(); });
  for (const Change& one : changes) {
    Change& noted = untold_.emplace_back();  // who reads it looks at the view
    noted.entry.key = one.entry.key;
    noted.removed = one.removed;
  }
  if (overlay_.leads_elsewhere(changes)) tell_untold();
}

void ServerCore::tell_untold() {
  tell_timer_.cancel();
  const std::vector<Change> changes = std::exchange(untold_, {});
  overlay_.changed(changes);
  gateways_.changed(changes);
}

void ServerCore::tick() {
  tick_began_ = on_.loop.now();
  lag_ = tick_began_ - tick_due_;
  tick_due_ = tick_began_ + options_.tick;
  tick_timer_.set_at(tick_due_, [this] { tick(); });
  if (recovery_held_) check_hold();
  if (tick_began_ >= resync_due_) {
    resync_due_ = tick_began_ + options_.resync;
    for (const auto& [id, cluster] : view().clusters.all()) mark(id);
  }
  monitoring_.tick();
  regions_.tick(tick_began_);
  services_.tick();
  lease_bounds_.tick();
  if (!recovery_held_) calendar_.tick();
  sessions_.each_stored([this](const LiveHost& live) {
    if (needs_attention(live)) mark(live.cluster->id());
  });
}

bool ServerCore::needs_attention(const LiveHost& live) const {
  const Host& host = *live.stored;
  const Duration patience = live.cluster->spec.policy.suspect_after_ms;
  // Counts from when this server began to lead for who has not reported yet.
  const bool silent = tick_began_ - live.last_report_at >= patience;
  const bool believed_well =
      host.status.health == HostHealth::alive || host.status.health == HostHealth::degraded;
  if (host.status.health == HostHealth::fenced && silent) return false;
  return silent || !believed_well;
}

void ServerCore::check_hold() {
  for (const auto& [id, host] : view().hosts.all()) {
    const auto live = sessions_.hosts().find(id);
    if (live == sessions_.hosts().end() || !live->second.reported) return;
  }
  release_recovery_hold();
}

void ServerCore::release_recovery_hold() {
  if (!recovery_held_) return;
  recovery_held_ = false;
  on_.store.get(std::string(kServedKey), [this, alive = std::weak_ptr(alive_)](
                                             Result<std::optional<KeyValue>> served) {
    if (alive.expired() || !served || !*served) return;
    Transaction transaction;
    transaction.write(std::string(kServedKey), (*served)->modified,
                      std::to_string(view().incarnation));
    on_.store.commit(transaction.guards(), transaction.writes(), [](Result<CommitOutcome>) {});
  });
  for (const auto& [id, cluster] : view().clusters.all()) mark(id);
}

ClusterEvidence ServerCore::observe(const ClusterId& cluster) const {
  ClusterEvidence evidence;
  evidence.recovery_held = recovery_held_;
  evidence.observer_lag = lag_;
  const Cluster* stored = view().clusters.find(cluster);
  if (stored == nullptr) return evidence;
  const ClusterPolicy& policy = stored->spec.policy;
  const Instant now = on_.loop.now();
  evidence.cut_off = cut_off_vms(cluster);
  for (const Host* host : view().hosts_of(cluster)) {
    HostEvidence& seen = evidence.hosts[host->id()];
    const auto found = sessions_.hosts().find(host->id());
    if (found == sessions_.hosts().end()) {
      seen.silence = now - leads_since_;
      continue;
    }
    const LiveHost& live = found->second;
    seen.reported = live.reported;
    seen.silence = now - live.last_report_at;
    seen.lease_over = now > live.lease_end + policy.grace_ms;
    seen.boot_id = live.hello.boot_id;
    seen.degraded = live.report.degraded;
    seen.cut_off = live.session == 0;
    seen.vms = live.report.vms;
  }
  for (const Host* host : view().hosts_of(cluster)) {
    const auto found = sessions_.hosts().find(host->id());
    if (found == sessions_.hosts().end() || !found->second.reported) continue;
    if (now - found->second.last_report_at >= policy.suspect_after_ms) continue;
    // A slow observer suspects itself, not those whose answers it was too late to hear.
    if (found->second.report.loop_lag_ms > options_.controller.planner.observer_lag_max) continue;
    for (const PeerView& peer : found->second.report.peers) {
      const auto watched = evidence.hosts.find(peer.host);
      if (watched == evidence.hosts.end() || peer.health == PeerHealth::unknown) continue;
      ++watched->second.observers;
      if (peer.health == PeerHealth::silent) ++watched->second.observers_silent;
    }
  }
  return evidence;
}

void ServerCore::mark(const ClusterId& cluster) {
  controller_.mark(cluster);
  if (view().devices.size() > 0 || view().volumes.size() > 0) storage_.mark(cluster);
  if (view().services.size() > 0) services_.mark(cluster);
}

ServiceEvidence ServerCore::observe_services(const ClusterId& cluster) const {
  ServiceEvidence evidence;
  evidence.held = recovery_held_;
  const Cluster* stored = view().clusters.find(cluster);
  if (stored == nullptr) return evidence;
  const Duration patience = stored->spec.policy.suspect_after_ms;
  const Instant now = on_.loop.now();
  for (const Host* host : view().hosts_of(cluster)) {
    BalancerHostEvidence& seen = evidence.hosts[host->id()];
    const auto found = sessions_.hosts().find(host->id());
    const bool heard = found != sessions_.hosts().end() && found->second.reported;
    seen.awaited = !heard && now - leads_since_ < stored->spec.policy.lease_ms / 2;
    if (!heard) continue;
    const LiveHost& live = found->second;
    seen.reports = live.session != 0 && now - live.last_report_at < patience;
    const auto& features = live.hello.features;
    seen.can_balance = std::find(features.begin(), features.end(), "balancers") != features.end();
    seen.can_probe = std::find(features.begin(), features.end(), "probes") != features.end();
    seen.can_probe_tls =
        std::find(features.begin(), features.end(), "tls_probes") != features.end();
    for (const ServiceBalancer& one : live.report.balancers) seen.balancers[one.service] = one;
  }
  for (const Service* service : view().services_of(cluster)) {
    if (service->spec.scaling.cpu_percent_max > 0) observe_cpu(*service, evidence);
    if (const auto since = monitoring_.failing_for(service->id()))
      evidence.failing[service->id()] = *since;
    if (monitoring_.spent(service->id())) evidence.spent.insert(service->id());
    if (monitoring_.mute(service->id())) evidence.mute.insert(service->id());
  }
  return evidence;
}

void ServerCore::observe_cpu(const Service& service, ServiceEvidence& evidence) const {
  for (const ServiceCopy& copy : service.status.copies) {
    const Vm* vm = view().vms.find(copy.vm);
    const auto live =
        vm == nullptr ? sessions_.hosts().end() : sessions_.hosts().find(vm->status.host);
    if (live == sessions_.hosts().end()) continue;
    for (const ObservedVm& seen : live->second.report.vms) {
      if (seen.vm != copy.vm || seen.cpu_millicores_max.value <= 0) continue;
      evidence.cpu_percent[copy.vm] =
          static_cast<int>(seen.cpu_millicores_used.value * 100 / seen.cpu_millicores_max.value);
    }
  }
}

DeviceEvidence ServerCore::evidence_of(const Device& device, const ClusterPolicy& policy) const {
  DeviceEvidence seen;
  const Instant now = on_.loop.now();
  const auto found = sessions_.hosts().find(device.spec.host);
  const bool heard = found != sessions_.hosts().end() && found->second.reported;
  seen.awaited = !heard && now - leads_since_ < policy.lease_ms / 2;
  seen.silence = now - leads_since_;
  if (found == sessions_.hosts().end()) return seen;
  const LiveHost& live = found->second;
  const Instant fresh = now - policy.suspect_after_ms;
  seen.host_reports = live.session != 0 && live.reported && live.last_report_at > fresh;
  seen.silence = now - live.last_report_at;
  const auto& features = live.hello.features;
  seen.can_serve = std::find(features.begin(), features.end(), "devices") != features.end();
  for (const ObservedDevice& one : live.report.devices) {
    if (one.device != device.id()) continue;
    seen.listed = true;
    seen.seen = one;
  }
  return seen;
}

namespace {

/// Which places a copy writes to, by the word of its host. `vm`: as it is stored, if it is.
void note_written(const Vm* vm, const ObservedVm& copy, StorageEvidence& evidence) {
  const bool in_force = vm != nullptr && vm->status.epoch == copy.epoch;
  const bool ahead = !copy.incoming && (vm == nullptr || vm->status.epoch < copy.epoch);
  for (const ObservedDisk& disk : copy.disks) {
    for (const DeviceId& leg : disk.legs) {
      if (ahead) evidence.written_ahead.emplace(disk.volume, leg);
    }
    if (!in_force || disk.legs.empty()) continue;
    evidence.written_legs.emplace(disk.volume, disk.legs);
    for (const DeviceId& leg : disk.failing) evidence.failing_legs.emplace(disk.volume, leg);
  }
}

}  // namespace

StorageEvidence ServerCore::observe_storage(const ClusterId& cluster) const {
  StorageEvidence evidence;
  evidence.held = recovery_held_;
  const Cluster* stored = view().clusters.find(cluster);
  if (stored == nullptr) return evidence;
  const Instant fresh = on_.loop.now() - stored->spec.policy.suspect_after_ms;
  for (const Device* device : view().devices_of(cluster)) {
    evidence.devices[device->id()] = evidence_of(*device, stored->spec.policy);
  }
  for (const Volume* volume : view().volumes_of(cluster)) {
    for (const VolumeLeg& leg : volume->status.legs) {  // also where no host is any more
      const Device* device = view().devices.find(leg.device);
      if (device == nullptr || evidence.devices.contains(leg.device)) continue;
      evidence.devices[leg.device] = evidence_of(*device, stored->spec.policy);
    }
  }
  for (const Host* host : view().hosts_of(cluster)) {
    const auto found = sessions_.hosts().find(host->id());
    if (found == sessions_.hosts().end() || found->second.last_report_at <= fresh) continue;
    for (const ObservedDevice& one : found->second.report.devices) {
      const Device* device = view().devices.find(one.device);
      const bool registered =
          device != nullptr && device->spec.host == host->id() && !device->spec.lost;
      if (!registered) evidence.strangers.emplace_back(one.device, host->id());
    }
    for (const ObservedVm& copy : found->second.report.vms) {
      const Vm* vm = view().vms.find(copy.vm);
      if (vm == nullptr) evidence.strays.insert(copy.epoch);
      note_written(vm, copy, evidence);
      if (vm != nullptr && !vm->spec.disks.empty()) evidence.copies.insert({copy.vm, copy.epoch});
    }
  }
  return evidence;
}

/// VMs whose epoch in force a volume refuses for ever, in all places that it uses: while one of
/// them takes what it writes it goes on there.
std::set<VmId> ServerCore::cut_off_vms(const ClusterId& cluster) const {
  std::map<VolumeId, std::size_t> refusing;
  for (const Host* host : view().hosts_of(cluster)) {
    const auto live = sessions_.hosts().find(host->id());
    if (live == sessions_.hosts().end()) continue;
    for (const ObservedDevice& one : live->second.report.devices) {
      const Device* device = view().devices.find(one.device);
      if (device != nullptr && device->spec.host == host->id()) count_refusals(one, refusing);
    }
  }
  std::set<VmId> found;
  for (const auto& [id, places] : refusing) {
    if (places == view().volumes.find(id)->in_use().size()) found.insert(view().user_of(id)->id());
  }
  return found;
}

void ServerCore::count_refusals(const ObservedDevice& device,
                                std::map<VolumeId, std::size_t>& refusing) const {
  for (const ObservedVolume& seen : device.volumes) {
    const Vm* user = view().user_of(seen.volume);
    const Volume* stored = view().volumes.find(seen.volume);
    if (user == nullptr || user->status.host.empty() || stored == nullptr) continue;
    const std::vector<DeviceId> used = stored->in_use();
    const bool uses = std::find(used.begin(), used.end(), device.device) != used.end();
    if (uses && seen.revoked >= user->status.epoch) ++refusing[seen.volume];
  }
}

std::optional<std::string> ServerCore::seen_alive(const HostId& host) const {
  const Host* stored = view().hosts.find(host);
  if (stored == nullptr) return std::nullopt;
  const ClusterEvidence evidence = observe(stored->spec.cluster);
  const auto found = evidence.hosts.find(host);
  const Cluster* cluster = view().clusters.find(stored->spec.cluster);
  if (found == evidence.hosts.end() || cluster == nullptr) return std::nullopt;
  const HostEvidence& seen = found->second;
  if (seen.reported && seen.silence < cluster->spec.policy.suspect_after_ms) {
    return "its agent reports";
  }
  const int hearing = seen.observers - seen.observers_silent;
  if (hearing > 0) return fmt::format("{} of {} peers hear it", hearing, seen.observers);
  return std::nullopt;
}

void ServerCore::journal_event(Event event) {
  event.at = on_.loop.wall_now();
  Transaction transaction;
  transaction.event(names_.outbox_key(view().revision), event);
  on_.store.commit(transaction.guards(), transaction.writes(), [](Result<CommitOutcome> done) {
    if (!done) log_line(LogLevel::warning, "server", "an event was lost: " + done.error().text());
  });
}

boost::json::object ServerCore::live_host(const HostId& host) const {
  json::object shown;
  const auto found = sessions_.hosts().find(host);
  if (found == sessions_.hosts().end()) {
    shown["connected"] = false;
    return shown;
  }
  const LiveHost& live = found->second;
  const Instant now = on_.loop.now();
  shown["connected"] = live.session != 0;
  shown["reported"] = live.reported;
  shown["report_age_ms"] = to_ms(now - live.last_report_at);
  shown["lease_ms_left"] = std::max<std::int64_t>(0, to_ms(live.lease_end - now));
  shown["leash_armed"] = live.report.leash_armed;
  shown["used"] = to_json(live.report.used);
  shown["peers"] = to_json(live.report.peers);
  shown["vms"] = to_json(live.report.vms);
  if (const Host* stored = view().hosts.find(host)) {
    shown["free"] = to_json(PlacementState(view(), stored->spec.cluster).free_on(host));
  }
  return shown;
}

Result<HostId> ServerCore::foretell_start(const Vm& vm) const {
  ClusterView with = view();
  with.vms.put(std::make_shared<const Vm>(vm));
  const ClusterPlan plan = plan_cluster(with, vm.spec.cluster, observe(vm.spec.cluster), {});
  for (const StartVm& start : plan.starts) {
    if (start.vm == vm.id()) return start.host;
  }
  for (const Unplaced& unplaced : plan.unplaced) {
    if (unplaced.vm == vm.id()) return make_error(Errc::exhausted, unplaced.reason);
  }
  return make_error(Errc::unavailable, "nothing is started at present; see `virga cluster get`");
}

/// Several losses at once that strand a VM, as many as the policy tolerates; empty = none do.
json::object ServerCore::stranding_losses(const PlacementState& state,
                                          const Cluster& cluster) const {
  ClusterView without_vms = view();
  without_vms.vms = {};
  const PlacementState nobody(without_vms, cluster.id());
  const auto broken = broken_reserve(nobody, state, cluster.spec.policy.failures_tolerated);
  if (!broken) return {};
  json::array lost;
  for (const HostId& host : broken->lost) lost.emplace_back(host.value);
  json::array stranded;
  for (const auto& [vm, refusals] : broken->stranded) stranded.emplace_back(vm.value);
  return {{"lost", std::move(lost)}, {"stranded", std::move(stranded)}};
}

boost::json::object ServerCore::whatif(const ClusterId& cluster) const {
  const Cluster* stored = view().clusters.find(cluster);
  if (stored == nullptr) return {};
  PlacementState state(view(), cluster);
  json::array losses;
  bool all_absorbed = true;
  for (const HostId& host : state.members()) {
    const LossPlan plan = plan_loss(state, {host});
    const Host& lost = *view().hosts.find(host);
    const Machine* machine = view().machines.find(lost.spec.machine);
    json::array restarts;
    for (const auto& [vm, target] : plan.restarts) {
      const StorageConduct storage = storage_without(host, view(), *view().vms.find(vm));
      const FenceProof proof = row_of_loss(lost, machine, storage).proof;
      restarts.push_back({{"vm", vm.value}, {"host", target.value}, {"proof", enum_name(proof)}});
    }
    json::array stranded;
    for (const auto& [vm, refusals] : plan.stranded) {
      stranded.push_back({{"vm", vm.value}, {"reasons", refusals_json(refusals)}});
    }
    json::array pinned;
    for (const VmId& vm : plan.pinned) pinned.emplace_back(vm.value);
    all_absorbed = all_absorbed && plan.stranded.empty();
    const FaultRow& row = row_of_loss(lost, machine);
    losses.push_back({{"lost", host.value},
                      {"proof", enum_name(row.proof)},
                      {"restart", enum_name(row.restart)},
                      {"restarts", std::move(restarts)},
                      {"stranded", std::move(stranded)},
                      {"pinned", std::move(pinned)}});
  }
  const ClusterPolicy& policy = stored->spec.policy;
  json::object several =
      policy.failures_tolerated > 1 ? stranding_losses(state, *stored) : json::object();
  json::object answer{{"cluster", cluster.value},
                      {"failures_tolerated", policy.failures_tolerated},
                      {"absorbed", all_absorbed && several.empty()},
                      {"ha_armed", policy.ha_armed && !recovery_held_},
                      {"losses", std::move(losses)}};
  if (!several.empty()) answer["stranding"] = std::move(several);
  return answer;
}

}  // namespace virga
