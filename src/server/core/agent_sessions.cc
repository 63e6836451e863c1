#include "server/core/agent_sessions.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/log.h"
#include "base/reflect.h"

namespace virga {
namespace {

/// Joins what comes in a burst (a whole cluster reconnecting) into one message per host.
constexpr Duration kSpreadDelay = milliseconds(100);
/// What the next spread waits for each state that the last one sent: 1,000 states a second at most.
/// A state names all members, so that thousands of hosts that come back at once would otherwise be
/// told of each other without end.
constexpr Duration kSpreadPause = milliseconds(1);
constexpr std::size_t kGroupsBytes = 400'000;    ///< of a message, as estimated
constexpr std::size_t kPlacesPerMessage = 4000;  ///< about 0.4 MiB
constexpr std::size_t kMembersPerMessage = 2000;

bool has(const std::vector<std::string>& features, std::string_view name) {
  return std::find(features.begin(), features.end(), name) != features.end();
}

}  // namespace

AgentSessions::AgentSessions(Loop& loop, Store& store, StoreMirror& mirror, HostLinks& links)
    : loop_(loop), store_(store), mirror_(mirror), links_(links) {}

void AgentSessions::start(Listener changed, Listener greeted, EventSink events, bool restored) {
  changed_ = std::move(changed);
  greeted_ = std::move(greeted);
  events_ = std::move(events);
  leads_since_ = loop_.now();
  // Above those of the server before: an upload that is late is not taken for another command's.
  commands_ = static_cast<std::uint64_t>(loop_.wall_now().unix_ms) << 10U;
  // A new leader honours every lease that its predecessor may have granted; of a life that a
  // restored state knows nothing of, the longest that there is.
  for (const auto& [id, host] : mirror_.view().hosts.all()) {
    const Cluster* cluster = mirror_.view().clusters.find(host->spec.cluster);
    LiveHost& live = hosts_[id];
    live.last_report_at = leads_since_;
    const Duration longest =
        cluster == nullptr ? ClusterPolicy().lease_ms
                           : std::max(cluster->spec.policy.lease_ms, cluster->status.lease_ms);
    live.lease_end = live.earlier_end = leads_since_ + (restored ? kLeaseMax : longest);
  }
}

LiveHost* AgentSessions::find(const HostId& host) {
  const auto found = hosts_.find(host);
  return found == hosts_.end() ? nullptr : &found->second;
}

void AgentSessions::opened(SessionId session, std::string peer_name) {
  sessions_[session].peer_name = std::move(peer_name);
}

void AgentSessions::received(SessionId session, AgentMessage message) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return;
  if (message.hello) return hello(session, *message.hello);
  const HostId host = found->second.host;
  if (host.empty()) {
    return refuse(session, Errc::invalid, "the first message of a session must be `hello`");
  }
  if (message.report) return report(host, *found->second.live, std::move(*message.report));
  if (message.progress) {
    const auto pending = pending_.find({session, message.progress->id});
    if (pending == pending_.end() || !pending->second.progressed) return;
    const Progress progressed = pending->second.progressed;
    return progressed(message.progress->percent);
  }
  if (message.result) return result(session, std::move(*message.result));
  if (message.usage && usage_) return usage_(host, *message.usage);
  if (message.event && events_) {
    Event event;
    event.kind = message.event->kind;
    event.severity = message.event->severity;
    event.text = message.event->text;
    event.subject = message.event->vm.empty() ? keys::of(host) : keys::of(message.event->vm);
    event.facts["host"] = host.value;
    events_(std::move(event));
  }
}

void AgentSessions::refuse(SessionId session, Errc code, const std::string& text) {
  log_line(LogLevel::warning, "session", text);
  ServerMessage message;
  message.refusal = SessionRefusal{std::string(to_string(code)), text};
  links_.send(session, message);
  links_.close(session);
}

Result<const Host*> AgentSessions::admit(const Session& session, const Hello& message) const {
  if (message.protocol < kProtocolVersionMin || message.protocol > kProtocolVersion + 1) {
    return make_error(
        Errc::unsupported,
        fmt::format("host {} speaks protocol {}; this server speaks {} to {}, and with agents of "
                    "protocol {} theirs of before",
                    message.host.value, message.protocol, kProtocolVersionMin, kProtocolVersion,
                    kProtocolVersion + 1));
  }
  if (!session.peer_name.empty() &&
      session.peer_name != std::string(kAgentName) + message.host.value) {
    return make_error(Errc::denied,
                      fmt::format("the certificate names \"{}\" but the agent says it is host {}",
                                  session.peer_name, message.host.value));
  }
  const Host* host = mirror_.view().hosts.find(message.host);
  if (host == nullptr) {
    return make_error(Errc::not_found,
                      fmt::format("host {} is not registered: join it with a token of its cluster",
                                  message.host.value));
  }
  if (mirror_.view().clusters.find(host->spec.cluster) == nullptr) {
    return make_error(Errc::not_found,
                      fmt::format("host {} belongs to cluster {}, which does not exist",
                                  message.host.value, host->spec.cluster.value));
  }
  return host;
}

void AgentSessions::hello(SessionId session, const Hello& message) {
  Session& entry = sessions_[session];
  const auto host = admit(entry, message);
  if (!host) return refuse(session, host.error().code, host.error().what);
  const auto already = hosts_.find(message.host);
  if (already != hosts_.end() && already->second.session != 0 &&
      already->second.session != session) {
    const SessionId older = already->second.session;
    closed(older);
    links_.close(older);
  }
  const bool known = already != hosts_.end();
  LiveHost& live = hosts_[message.host];
  if (!known) live.lease_end = loop_.now();
  live.lease_refused = false;  // a report of before may be of another boot's clock
  live.session = session;
  live.hello = message;
  live.reported = false;
  if (!known) live.last_report_at = loop_.now();
  entry.host = message.host;
  entry.live = &live;
  const Cluster* cluster = mirror_.view().clusters.find((*host)->spec.cluster);
  ServerMessage reply;
  reply.welcome = Welcome{std::min(kProtocolVersion, message.protocol), mirror_.view().incarnation,
                          cluster->id(), cluster->spec.policy, cluster->spec.shared_directory};
  links_.send(session, reply);
  record_hello(message.host);
  // This host at once, so that its networks are there before its first VM; the others soon.
  send_state(live, state_of(cluster->id()), 0);
  live.state_sent = 0;
  if (greeted_) greeted_(message.host);
  spread_soon(cluster->id());
}

void AgentSessions::record_hello(const HostId& id) {
  const Host* stored = mirror_.view().hosts.find(id);
  const LiveHost& live = hosts_[id];
  if (stored == nullptr || live.session == 0 || recording_.contains(id)) return;
  Host changed = *stored;
  changed.status.boot_id = live.hello.boot_id;
  changed.status.address = live.hello.address;
  changed.status.tenant_address = live.hello.tenant_address;
  changed.status.agent_version = live.hello.agent_version;
  changed.status.capacity = live.hello.capacity;
  changed.status.hypervisor = live.hello.hypervisor;
  changed.status.host_devices = live.hello.host_devices;
  changed.status.leads_outside = has(live.hello.features, "floating_addresses");
  changed.status.leash_armed = live.reported ? live.report.leash_armed : stored->status.leash_armed;
  if (to_json(changed.status) == to_json(stored->status)) return;
  Transaction transaction;
  transaction.put(changed);
  recording_.insert(id);
  store_.commit(transaction.guards(), transaction.writes(),
                [this, id, alive = std::weak_ptr(alive_)](Result<CommitOutcome> done) {
                  if (alive.expired()) return;
                  const bool committed = done.ok() && done->verdict == CommitVerdict::committed;
                  const auto again = [this, id, alive] {
                    if (alive.expired()) return;
                    recording_.erase(id);
                    record_hello(id);
                  };
                  if (committed) return mirror_.when_reached(done->revision, again);
                  loop_.after(milliseconds(100), again);
                });
}

/// One that is back keeps its lease, and so its guests, while a controller is still asked to switch
/// it off: that may never answer, and what it says is believed only of a host that nobody hears.
bool AgentSessions::lease_allowed(const Host& stored) const {
  return stored.status.health != HostHealth::dead && stored.status.health != HostHealth::fenced;
}

/// Looking a host up costs more than taking its report: done once for each state of the store.
void AgentSessions::read_stored(const HostId& host, LiveHost& live) const {
  const ClusterView& view = mirror_.view();
  if (live.read_at == view.revision && live.read_at != 0) return;
  live.read_at = view.revision;
  live.stored = view.hosts.share(host);
  live.cluster = live.stored == nullptr ? nullptr : view.clusters.share(live.stored->spec.cluster);
}

void AgentSessions::each_stored(const std::function<void(const LiveHost&)>& look) {
  for (auto& [host, live] : hosts_) {
    read_stored(host, live);
    if (live.cluster != nullptr) look(live);
  }
}

void AgentSessions::report(const HostId& host, LiveHost& live, HostReport report) {
  read_stored(host, live);
  if (live.cluster == nullptr) return;
  // Held: an answer below may make the view, and so this, newer.
  const std::shared_ptr<const Host> stored = live.stored;
  const bool changed = !live.reported || differs(live.report, report);
  live.reported = true;
  live.last_report_at = loop_.now();
  live.report = std::move(report);
  // Whoever led before says nothing in this session: what the host has of it, it has already.
  if (live.report.lease_ms_left) live.earlier_end = loop_.now() + *live.report.lease_ms_left;
  live.lease_end = std::max(live.granted_end, live.earlier_end);
  grant(live);
  if (live.report.leash_armed != stored->status.leash_armed) record_hello(host);
  if (changed && changed_) changed_(host);
}

void AgentSessions::grant(LiveHost& live) {
  live.lease_refused = !lease_allowed(*live.stored);
  if (live.lease_refused) return;
  const Duration lease = live.cluster->spec.policy.lease_ms;
  live.granted_end = std::max(live.granted_end, loop_.now() + lease);
  live.lease_end = std::max(live.granted_end, live.earlier_end);
  ServerMessage message;
  message.grant = LeaseGrant{live.report.sent_at_ms, lease};
  links_.send(live.session, message);
}

void AgentSessions::changed(const std::vector<Change>& changes) {
  for (const Change& one : changes) {
    if (!one.entry.key.starts_with(keys::kHost)) continue;
    const HostId host(one.entry.key.substr(keys::kHost.size()));
    LiveHost* live = find(host);
    if (live == nullptr || live->session == 0 || !live->lease_refused) continue;
    read_stored(host, *live);
    if (live->cluster != nullptr) grant(*live);
  }
}

void AgentSessions::result(SessionId session, CommandResult result) {
  const auto found = pending_.find({session, result.id});
  if (found == pending_.end()) return;
  const Pending pending = std::move(found->second);
  pending_.erase(found);
  loop_.cancel(pending.timer);
  if (!result.ok) {
    return pending.done(make_error(errc_from_string(result.error_code), result.error));
  }
  pending.done(std::move(result));
}

Result<void> AgentSessions::uploaded(const std::string& peer_name, std::uint64_t command,
                                     std::string text) {
  const bool agent = peer_name.starts_with(kAgentName);
  const LiveHost* live = agent ? find(HostId(peer_name.substr(kAgentName.size()))) : nullptr;
  const auto found = live == nullptr ? pending_.end() : pending_.find({live->session, command});
  if (found == pending_.end() || found->second.kind != CommandKind::console) {
    return make_error(
        Errc::not_found,
        fmt::format("\"{}\": no command {} of it waits for an upload", peer_name, command));
  }
  CommandResult answer;
  answer.id = command;
  answer.ok = true;
  answer.text = std::move(text);
  result(live->session, std::move(answer));
  return {};
}

void AgentSessions::closed(SessionId session) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return;
  const HostId host = found->second.host;
  sessions_.erase(found);
  drop_pending(session);
  LiveHost* live = find(host);
  if (live == nullptr || live->session != session) return;
  live->session = 0;
  if (changed_) changed_(host);
}

void AgentSessions::drop_pending(SessionId session) {
  std::vector<Pending> dropped;
  auto next = pending_.lower_bound({session, 0});
  while (next != pending_.end() && next->first.first == session) {
    dropped.push_back(std::move(next->second));
    next = pending_.erase(next);
  }
  for (const Pending& pending : dropped) {
    loop_.cancel(pending.timer);
    loop_.post([done = pending.done] {
      done(make_error(Errc::unavailable, "the agent's connection was lost before its answer"));
    });
  }
}

namespace {

/// Of agents that can carry the command out, and what its launch asks for.
std::vector<std::string_view> features_for(const Command& command) {
  std::vector<std::string_view> wanted;
  if (const auto kind = enum_name(command.kind); has(agent_features(), kind)) {
    wanted.push_back(kind);
  }
  if (command.kind == CommandKind::console) wanted.push_back("upload");
  if (command.balancer) wanted.push_back("balancers");
  if (command.mirror) wanted.push_back("mirror_disk");
  if (command.mirror && command.mirror->joins) wanted.push_back("keep_leg");
  if (command.endpoint && !command.endpoint->key.empty()) wanted.push_back("migration_relay");
  const bool starts = command.kind == CommandKind::start;
  if (!command.launch || (!starts && command.kind != CommandKind::prepare_incoming)) return wanted;
  const VmLaunch& launch = *command.launch;
  const auto on_volume = [](const LaunchDisk& disk) { return !disk.volume.empty(); };
  const auto guarded = [](const LaunchNic& nic) { return nic.guarded; };
  if (!launch.host_devices.empty()) wanted.push_back("host_devices");
  if (starts && launch.seed && !launch.seed->user_data.empty()) wanted.push_back("user_data");
  if (std::ranges::any_of(launch.disks, on_volume)) wanted.push_back("devices");
  if (std::ranges::any_of(launch.disks, &LaunchDisk::mirrored)) wanted.push_back("keep_leg");
  if (std::ranges::any_of(launch.nics, guarded)) wanted.push_back("security_groups");
  return wanted;
}

}  // namespace

void AgentSessions::call(const HostId& host, Command command, Duration deadline,
                         Callback<CommandResult> done, Progress progressed) {
  const LiveHost* live = find(host);
  const std::string what =
      fmt::format("{} {} on {}", enum_name(command.kind), command.vm.value, host.value);
  const auto refuse_call = [&](Errc code, const std::string& why) {
    loop_.post([done, error = make_error(code, what + ": " + why)] { done(error); });
  };
  if (live == nullptr || live->session == 0) {
    return refuse_call(Errc::unavailable, "its agent is not connected");
  }
  for (const std::string_view feature : features_for(command)) {
    if (has(live->hello.features, feature)) continue;
    return refuse_call(
        Errc::unsupported,
        fmt::format("its agent is of a version that does not know this ({})", feature));
  }
  const SessionId session = live->session;
  int waiting = 0;
  int consoles = 0;
  for (auto next = pending_.lower_bound({session, 0});
       next != pending_.end() && next->first.first == session; ++next) {
    ++waiting;
    consoles += next->second.kind == CommandKind::console ? 1 : 0;
  }
  if (command.kind == CommandKind::console && consoles >= options_.consoles_per_host_max) {
    return refuse_call(Errc::exhausted,
                       fmt::format("{} consoles of it are being read; ask again", consoles));
  }
  if (waiting >= options_.pending_per_host_max) {
    return refuse_call(Errc::exhausted, fmt::format("{} commands wait there already", waiting));
  }
  command.id = ++commands_;
  Pending pending;
  pending.session = session;
  pending.kind = command.kind;
  pending.progressed = std::move(progressed);
  pending.done = [what, done = std::move(done)](Result<CommandResult> answer) {
    if (answer.ok()) return done(std::move(answer));
    done(wrap_error(what, answer.error()));
  };
  const auto key = std::pair(session, command.id);
  pending.timer = loop_.after(deadline, [this, key, what] {
    const auto found = pending_.find(key);
    if (found == pending_.end()) return;
    const auto late = std::move(found->second.done);
    pending_.erase(found);
    late(make_error(Errc::timeout, "no answer in time"));
  });
  pending_.emplace(key, std::move(pending));
  ServerMessage message;
  message.command = std::move(command);
  links_.send(session, message);
}

void AgentSessions::spread_soon(const ClusterId& cluster) {
  if (!spreading_.insert(cluster).second || spreading_.size() > 1) return;
  const Instant soon = loop_.now() + kSpreadDelay;
  loop_.at(std::max(soon, spread_not_before_), [this, alive = std::weak_ptr(alive_)] {
    if (alive.expired()) return;
    const auto due = std::exchange(spreading_, {});
    int sent = 0;
    for (const ClusterId& each : due) sent += spread(each);
    spread_not_before_ = loop_.now() + sent * kSpreadPause;
  });
}

void AgentSessions::spread_now() {
  for (const auto& [cluster, stored] : mirror_.view().clusters.all()) spread(cluster);
}

/// How many hosts were told.
int AgentSessions::spread(const ClusterId& cluster) {
  const ClusterState state = state_of(cluster);
  const std::size_t fingerprint = std::hash<std::string>()(to_json_text(state)) | 1U;
  int sent = 0;
  for (const ClusterMember& member : state.members) {
    LiveHost* live = find(member.host);
    if (live != nullptr && send_state(*live, state, fingerprint)) ++sent;
  }
  return sent;
}

ClusterState AgentSessions::state_of(const ClusterId& cluster) {
  const ClusterView& view = mirror_.view();
  ClusterState state;
  state.probe_key = probe_key_of_(cluster);
  if (const Cluster* stored = view.clusters.find(cluster)) state.policy = stored->spec.policy;
  for (const Network* network : view.networks_of(cluster)) {
    state.fabric.networks.push_back(*network);
  }
  for (const Host* host : view.hosts_of(cluster)) {
    const LiveHost* live = find(host->id());
    if (live == nullptr || live->hello.host.empty()) continue;
    state.members.push_back({host->id(), live->hello.address, live->hello.probe_port});
    state.fabric.peer_addresses.push_back(live->hello.tenant_address);
  }
  return state;
}

/// False when the host has it or is not connected.
bool AgentSessions::send_state(LiveHost& live, const ClusterState& state, std::size_t fingerprint) {
  if (live.session == 0 || (fingerprint != 0 && live.state_sent == fingerprint)) return false;
  live.state_sent = fingerprint;
  ServerMessage message;
  message.cluster = state;
  message.cluster->fabric.version = mirror_.view().revision + 1;
  std::erase(message.cluster->fabric.peer_addresses, live.hello.tenant_address);
  links_.send(live.session, message);
  return true;
}

void AgentSessions::tell_places(const HostId& host, const FabricPlaces& places) {
  const LiveHost* live = find(host);
  if (live == nullptr || live->session == 0 || !has(live->hello.features, "places")) return;
  auto next = places.at.begin();
  ServerMessage message;
  message.places = FabricPlaces{places.whole, {}, true};
  do {
    const auto left = static_cast<std::size_t>(places.at.end() - next);
    const auto end = next + static_cast<std::ptrdiff_t>(std::min(left, kPlacesPerMessage));
    message.places->at.assign(next, end);
    message.places->more = end != places.at.end();
    links_.send(live->session, message);
    message.places->whole.clear();
    next = end;
  } while (next != places.at.end());
}

/// Networks first: there are far fewer of them than fit.
void AgentSessions::tell_gateways(const HostId& host, const FabricGateways& gateways) {
  const LiveHost* live = find(host);
  if (live == nullptr || live->session == 0 || !has(live->hello.features, "gateways")) return;
  ServerMessage message;
  message.gateways = FabricGateways{gateways.whole, gateways.networks, gateways.gone, {}, true};
  auto next = gateways.members.begin();
  do {
    const auto left = static_cast<std::size_t>(gateways.members.end() - next);
    const auto end = next + static_cast<std::ptrdiff_t>(std::min(left, kMembersPerMessage));
    message.gateways->members.assign(next, end);
    message.gateways->more = end != gateways.members.end();
    links_.send(live->session, message);
    message.gateways = FabricGateways();
    next = end;
  } while (next != gateways.members.end());
}

void AgentSessions::tell_usage_kept(const HostId& host, const UsageKept& kept) {
  const LiveHost* live = find(host);
  if (live == nullptr || live->session == 0) return;
  ServerMessage message;
  message.usage_kept = kept;
  links_.send(live->session, message);
}

void AgentSessions::tell_probes(const HostId& host, const ServiceProbeList& probes) {
  const LiveHost* live = find(host);
  if (live == nullptr || live->session == 0 || !has(live->hello.features, "probes")) return;
  ServerMessage message;
  message.probes = probes;
  links_.send(live->session, message);
}

void AgentSessions::tell_groups(const HostId& host, const FabricGroups& groups) {
  const LiveHost* live = find(host);
  if (live == nullptr || live->session == 0) return;
  if (!has(live->hello.features, "security_groups")) return;
  constexpr std::size_t kEntryBytes = 300, kRuleBytes = 200, kAddressBytes = 20;
  constexpr std::size_t kAddressesPerEntry = 4000;
  std::vector<FabricGroups> parts(1);
  std::size_t bytes = 0;
  const auto room_for = [&](std::size_t more) -> FabricGroups& {
    if (bytes + more > kGroupsBytes) {
      parts.emplace_back();
      bytes = 0;
    }
    bytes += kEntryBytes + more;
    return parts.back();
  };
  parts.front().whole = groups.whole;
  for (const PortGroups& port : groups.ports) room_for(kEntryBytes).ports.push_back(port);
  for (const GroupRules& rules : groups.rules)
    room_for(rules.rules.size() * kRuleBytes).rules.push_back(rules);
  for (const GroupMembers& members : groups.members) {
    std::size_t begin = 0;
    do {
      const std::size_t end = std::min(members.addresses.size(), begin + kAddressesPerEntry);
      const auto first = members.addresses.begin() + static_cast<std::ptrdiff_t>(begin);
      const auto last = members.addresses.begin() + static_cast<std::ptrdiff_t>(end);
      room_for((end - begin) * kAddressBytes)
          .members.push_back({members.vni, members.group, {first, last}});
      begin = end;
    } while (begin < members.addresses.size());
  }
  for (std::size_t at = 0; at < parts.size(); ++at) {
    ServerMessage message;
    message.groups = std::move(parts[at]);
    message.groups->more = at + 1 < parts.size();
    links_.send(live->session, message);
  }
}

namespace {

bool differs(const ObservedVolume& left, const ObservedVolume& right) {
  return left.volume != right.volume || left.size_mib != right.size_mib ||
         left.revoked != right.revoked || left.floor != right.floor ||
         left.epochs != right.epochs || left.served != right.served ||
         left.source != right.source || left.taken_at != right.taken_at ||
         left.failing != right.failing || left.image != right.image;
}

/// Its room counts when it is another by a thousandth.
bool differs(const RealSpace& left, const RealSpace& right) {
  constexpr std::int64_t kSteps = 1000;
  return left.size != right.size || left.free.value / (left.size.value / kSteps + 1) !=
                                        right.free.value / (right.size.value / kSteps + 1);
}

bool differs(const ObservedDevice& left, const ObservedDevice& right) {
  if (differs(left.space, right.space)) return true;
  if (left.device != right.device || left.directory != right.directory || left.open != right.open ||
      left.failing != right.failing || left.copies != right.copies || left.images != right.images ||
      left.volumes.size() != right.volumes.size()) {
    return true;
  }
  for (std::size_t index = 0; index < left.volumes.size(); ++index) {
    if (differs(left.volumes[index], right.volumes[index])) return true;
  }
  return false;
}

/// What is counted does not count here.
bool differs(const ServiceBalancer& left, const ServiceBalancer& right) {
  const auto& before = left.seen.servers;
  const auto& after = right.seen.servers;
  if (left.service != right.service || left.running != right.running ||
      left.failing != right.failing || left.seen.revision != right.seen.revision ||
      before.size() != after.size()) {
    return true;
  }
  for (std::size_t index = 0; index < before.size(); ++index) {
    if (before[index].name != after[index].name || before[index].state != after[index].state ||
        before[index].health != after[index].health) {
      return true;
    }
  }
  return false;
}

}  // namespace

bool differs(const HostReport& before, const HostReport& after) {
  if (before.devices.size() != after.devices.size()) return true;
  for (std::size_t index = 0; index < before.devices.size(); ++index) {
    if (differs(before.devices[index], after.devices[index])) return true;
  }
  if (before.balancers.size() != after.balancers.size()) return true;
  for (std::size_t index = 0; index < before.balancers.size(); ++index) {
    if (differs(before.balancers[index], after.balancers[index])) return true;
  }
  if (before.degraded != after.degraded || before.leash_armed != after.leash_armed ||
      before.vms.size() != after.vms.size() || before.peers.size() != after.peers.size()) {
    return true;
  }
  for (std::size_t index = 0; index < before.vms.size(); ++index) {
    const ObservedVm& left = before.vms[index];
    const ObservedVm& right = after.vms[index];
    if (left.vm != right.vm || left.epoch != right.epoch || left.power != right.power ||
        left.health != right.health || left.health_reason != right.health_reason ||
        left.incoming != right.incoming || left.postmigrate != right.postmigrate ||
        left.cpu_millicores_max != right.cpu_millicores_max ||
        left.cpu_weight != right.cpu_weight || left.processes_max != right.processes_max ||
        left.disks != right.disks) {
      return true;
    }
  }
  for (std::size_t index = 0; index < before.peers.size(); ++index) {
    if (before.peers[index].host != after.peers[index].host ||
        before.peers[index].health != after.peers[index].health) {
      return true;
    }
  }
  return false;
}

}  // namespace virga
