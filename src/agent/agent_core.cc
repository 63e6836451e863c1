#include "agent/agent_core.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "base/reflect.h"

namespace virga {
namespace {

constexpr Duration kLagTolerated = milliseconds(500);
constexpr std::size_t kRefusedMax = 1000;
constexpr std::int64_t kAnswersAwaited = 3;  // at least, to the last so many rounds of probes

std::uint32_t mark_of(const HostId& host) {
  return static_cast<std::uint32_t>(std::hash<std::string>()(host.value));
}

}  // namespace

AgentCore::AgentCore(AgentDependencies dependencies, AgentOptions options)
    : on_(std::move(dependencies)),
      options_(std::move(options)),
      devices_(on_.make_device, options_.shared_directory),
      balancers_(on_.fabric, on_.balancers),
      gateways_(on_.loop, on_.fabric, on_.gateways,
                [this](const Error& why) { network_failed(why); }),
      probes_(on_.loop, on_.fabric, on_.asker, options_.hello.session_id),
      usage_(on_.loop, on_.hypervisor, [this](UsageReport usage) { send_usage(std::move(usage)); }),
      heartbeat_timer_(on_.loop),
      lease_timer_(on_.loop) {
  incarnation_ = options_.incarnation;
  probe_.from = options_.hello.host;
  probe_.boot_id = options_.hello.boot_id;
  // Another beginning in each run; 48 bits pass through JSON numbers of all kinds.
  probe_sequence_ = std::hash<std::string>()(options_.hello.session_id) & 0xffff'ffff'ffffU;
}

AgentCore::~AgentCore() = default;

void AgentCore::start(Callback<void> ready) {
  on_.hypervisor.open(*this, [this, ready,
                              alive = std::weak_ptr(alive_)](Result<HypervisorInfo> info) {
    if (alive.expired()) return;
    if (!info) return ready(wrap_error("open the hypervisor", info.error()));
    options_.hello.hypervisor = *info;
    // Guests adopted from before this process began run on a lease that it has not seen: the guard
    // above them knows its end, or else it comes after the usual time. That keeps them alive here;
    // it admits no start and moves no guard.
    lease_end_ = on_.loop.now() + policy_.lease_ms;
    watch_lease();
    heartbeat_due_ = on_.loop.now();
    balancers_.start();
    gateways_.start();
    heartbeat();
    if (options_.reports_usage) usage_.start();
    ready({});
  });
}

std::int64_t AgentCore::now_ms() const { return to_ms(on_.loop.now().time_since_epoch()); }

bool AgentCore::lease_valid() const { return lease_known_ && on_.loop.now() < lease_end_; }

void AgentCore::link_opened() {
  welcomed_ = false;
  places_ = FabricPlaces();
  groups_ = FabricGroups();
  gateways_.session_begins();
  AgentMessage message;
  message.hello = options_.hello;
  message.hello->features = agent_features();
  if (on_.asker == nullptr) std::erase(message.hello->features, "probes");
  if (on_.gateways == nullptr) std::erase(message.hello->features, "gateways");
  if (!options_.leads_outside) std::erase(message.hello->features, "floating_addresses");
  on_.link.send(std::move(message));
}

void AgentCore::link_closed(const std::string& reason) {
  welcomed_ = false;
  log_line(LogLevel::info, "agent", "session ended: " + reason);
}

void AgentCore::link_received(const ServerMessage& message) {
  if (message.refusal) {
    log_line(LogLevel::error, "agent", "the server refuses this host: " + message.refusal->text);
    return;
  }
  if (message.welcome) {
    if (message.welcome->incarnation < incarnation_) {
      log_line(
          LogLevel::error, "agent",
          fmt::format("the server's state is of incarnation {}, older than {} that this host has "
                      "served: not followed",
                      message.welcome->incarnation, incarnation_));
      return on_.link.reconnect();
    }
    const bool newer = message.welcome->incarnation > incarnation_;
    incarnation_ = message.welcome->incarnation;
    if (newer && options_.keep_incarnation) options_.keep_incarnation(incarnation_);
    take_policy(message.welcome->policy);
    welcomed_ = true;
    probes_.welcomed();
    usage_.session_begins();
    report_now();
    return;
  }
  if (!welcomed_) return;
  if (message.grant) granted(*message.grant);
  if (message.cluster) take_cluster(*message.cluster);
  if (message.places) take_places(*message.places);
  if (message.groups) take_groups(*message.groups);
  if (message.gateways) gateways_.take(*message.gateways);
  if (message.probes) probes_.take(*message.probes);
  if (message.usage_kept) usage_.kept(*message.usage_kept);
  if (message.command) execute(*message.command);
}

void AgentCore::granted(const LeaseGrant& grant) {
  const Instant sent_at{std::chrono::milliseconds(grant.report_sent_at_ms)};
  const Instant end = sent_at + grant.lease_ms;
  if (sent_at > on_.loop.now() || (lease_known_ && end <= lease_end_)) return;
  lease_end_ = end;
  lease_known_ = true;
  lease_over_told_ = false;
  on_.guard.extend(lease_end_, grant.lease_ms);
  watch_lease();
}

void AgentCore::watch_lease() {
  lease_timer_.set_at(lease_end_, [this] { lease_ended(); });
}

void AgentCore::lease_ended() {
  if (!lease_known_) lease_end_ = std::max(lease_end_, on_.guard.held_until());
  if (on_.loop.now() < lease_end_) return watch_lease();
  for (const ObservedVm& vm : on_.hypervisor.observe()) {
    log_line(
        LogLevel::error, "agent",
        fmt::format("no valid lease: kill {} with epoch {}", vm.vm.value, to_string(vm.epoch)));
    on_.hypervisor.stop(vm.vm, vm.epoch, StopOptions{true, seconds(1)}, [](Result<void>) {});
  }
  if (lease_over_told_) return;
  lease_over_told_ = true;
  AgentMessage message;
  message.event = AgentEvent{"host.lease_ended", VmId(),
                             "its lease ended: it has stopped its guests", Severity::alarm};
  on_.link.send(std::move(message));
}

void AgentCore::heartbeat() {
  loop_lag_ = on_.loop.now() - heartbeat_due_;
  if (loop_lag_ > kLagTolerated) {
    // This process was held up: what it has not heard in that time says nothing about its peers.
    for (Peer& peer : peers_) peer.heard_at += loop_lag_;
  }
  heartbeat_due_ = on_.loop.now() + policy_.heartbeat_ms;
  heartbeat_timer_.set_at(heartbeat_due_, [this] { heartbeat(); });
  if (on_.loop.now() >= lease_end_) lease_ended();
  std::vector<ObservedVm> vms = on_.hypervisor.observe();
  free_ = free_beside(vms);
  probe_peers();
  judge_peers();
  report_now(std::move(vms));
  balancers_.look();
  probes_.look();
  tell_progress();
}

void AgentCore::tell_progress() {
  for (auto& [command, send] : sends_) {
    const int percent = percent_of(on_.hypervisor.progress(send.vm));
    if (!welcomed_ || std::exchange(send.percent_told, percent) == percent) continue;
    AgentMessage message;
    message.progress = CommandProgress{command, percent};
    on_.link.send(std::move(message));
  }
}

void AgentCore::send_usage(UsageReport usage) {
  if (!welcomed_) return;
  AgentMessage message;
  message.usage = std::move(usage);
  on_.link.send(std::move(message));
}

void AgentCore::report_now() {
  if (welcomed_) report_now(on_.hypervisor.observe());
}

void AgentCore::report_now(std::vector<ObservedVm> vms) {
  if (!welcomed_) return;
  AgentMessage message;
  message.report = make_report(std::move(vms));
  on_.link.send(std::move(message));
}

HostReport AgentCore::make_report(std::vector<ObservedVm> vms) {
  HostReport report;
  report.sequence = ++sequence_;
  report.sent_at_ms = now_ms();
  report.vms = std::move(vms);
  report.used = on_.used();
  report.degraded = on_.degraded();
  probe_.degraded = report.degraded;  // for peers, from now on
  // Of an agent that has just begun: what the one before it may have had.
  const Instant until = std::max(lease_end_, on_.guard.held_until());
  report.lease_ms_left = std::max(until - on_.loop.now(), Duration(0));
  report.leash_armed = on_.guard.watchdog_armed();
  report.loop_lag_ms = loop_lag_;
  report.fabric_version = on_.fabric.version();
  report.devices = devices_.observe();
  report.balancers = balancers_.observe();
  report.probes = probes_.observe();
  report.peers.reserve(watched_.size());
  for (const std::size_t index : watched_) {
    report.peers.push_back(view_of(peers_[index]));
  }
  return report;
}

PeerView AgentCore::view_of(const Peer& peer) const {
  const PeerHealth health = !peer.asked   ? PeerHealth::unknown
                            : peer.silent ? PeerHealth::silent
                                          : PeerHealth::alive;
  return {peer.member.host, health,         on_.loop.now() - peer.heard_at, peer.boot_id, peer.free,
          peer.degraded,    peer.lease_left};
}

void AgentCore::vm_changed(const ObservedVm& now, const std::string& why) {
  free_.reset();
  report_now();
  // How a copy of a move ends is told by the move.
  if (now.incoming || now.postmigrate) return;
  const bool ended = now.power == VmPower::stopped;
  const bool on_request = ended && stopping_.erase({now.vm, now.epoch}) > 0;
  // What fails while it runs is seen in the report; only the end leaves no trace there.
  if (!ended || on_request) return;
  AgentMessage message;
  message.event = AgentEvent{"vm.process_ended", now.vm, why, Severity::warning};
  on_.link.send(std::move(message));
}

/// Peers are judged by a shorter patience only after they could have answered within it.
void AgentCore::take_policy(const ClusterPolicy& policy) {
  const bool hastier = policy.heartbeat_ms < policy_.heartbeat_ms ||
                       policy.suspect_after_ms < policy_.suspect_after_ms;
  policy_ = policy;
  if (!hastier) return;
  for (Peer& peer : peers_) peer.heard_at = on_.loop.now();
  const Instant due = on_.loop.now() + policy_.heartbeat_ms;
  if (due >= heartbeat_due_) return;
  heartbeat_due_ = due;
  heartbeat_timer_.set_at(heartbeat_due_, [this] { heartbeat(); });
}

void AgentCore::take_cluster(const ClusterState& state) {
  probe_key_ = state.probe_key;
  if (state.policy) take_policy(*state.policy);
  std::vector<Peer> next;
  next.reserve(state.members.size());
  for (const ClusterMember& member : state.members) {
    if (member.host == options_.hello.host) continue;
    const Peer* known = find_peer(member.host);
    Peer& peer = next.emplace_back(known == nullptr ? Peer() : *known);
    if (known == nullptr) peer.heard_at = on_.loop.now();
    peer.member = member;
  }
  std::sort(next.begin(), next.end(), [](const Peer& left, const Peer& right) {
    return left.member.host < right.member.host;
  });
  peers_ = std::move(next);
  marks_.clear();
  for (const Peer& peer : peers_) marks_.push_back(mark_of(peer.member.host));
  ring_chosen_ = false;
  watched_.clear();
  for (std::size_t index = 0; index < peers_.size(); ++index) {
    if (peers_[index].asked) watched_.push_back(index);
  }
  on_.fabric.apply(state.fabric,
                   [this, alive = std::weak_ptr(alive_)](const Result<void>& applied) {
                     if (alive.expired()) return;
                     if (!applied) network_failed(applied.error());
                     report_now();  // it names the version in force
                   });
}

void AgentCore::take_places(FabricPlaces places) {
  places_.whole.insert(places_.whole.end(), places.whole.begin(), places.whole.end());
  std::move(places.at.begin(), places.at.end(), std::back_inserter(places_.at));
  if (places.more) return;
  on_.fabric.place(std::exchange(places_, {}),
                   [this, alive = std::weak_ptr(alive_)](const Result<void>& placed) {
                     if (!alive.expired() && !placed) network_failed(placed.error());
                   });
}

void AgentCore::take_groups(FabricGroups groups) {
  const auto append = [](auto& to, auto& from) {
    std::move(from.begin(), from.end(), std::back_inserter(to));
  };
  groups_.whole = groups_.whole || groups.whole;
  append(groups_.ports, groups.ports);
  append(groups_.rules, groups.rules);
  append(groups_.members, groups.members);
  if (groups.more) return;
  on_.fabric.guard(std::exchange(groups_, {}),
                   [this, alive = std::weak_ptr(alive_)](const Result<void>& guarded) {
                     if (!alive.expired() && !guarded) network_failed(guarded.error());
                   });
}

void AgentCore::network_failed(const Error& why) {
  AgentMessage message;
  message.event = AgentEvent{"host.network_failed", VmId(), why.text(), Severity::alarm};
  on_.link.send(std::move(message));
}

Callback<void> AgentCore::reply_to(std::uint64_t id) {
  return [this, id, alive = std::weak_ptr(alive_)](Result<void> done) {
    if (alive.expired()) return;
    if (done.ok()) return reply(id, CommandResult{});
    reply(id, done.error());
  };
}

Callback<CommandResult> AgentCore::reply_with(std::uint64_t id) {
  return [this, id, alive = std::weak_ptr(alive_)](Result<CommandResult> result) {
    if (!alive.expired()) reply(id, result);
  };
}

/// A report goes out before every answer, so that the server never holds an answer that its
/// picture contradicts.
void AgentCore::reply(std::uint64_t id, const Result<CommandResult>& result) {
  report_now();
  AgentMessage message;
  CommandResult answer = result.ok() ? *result : CommandResult{};
  answer.id = id;
  answer.ok = result.ok();
  if (!result.ok()) {
    answer.error_code = std::string(to_string(result.error().code));
    answer.error = result.error().text();
  }
  message.result = std::move(answer);
  on_.link.send(std::move(message));
}

void AgentCore::begins(const Command& command) {
  refused_.erase({command.vm, command.epoch});
  if (!begun_ || *begun_ < command.epoch) begun_ = command.epoch;
}

/// What an agent before this one may have begun is not taken for one that never began: it is there,
/// or this one has had no lease yet.
void AgentCore::note_refused(const Command& command) {
  const std::vector<ObservedVm> seen = on_.hypervisor.observe();
  const bool is_there = std::ranges::find(seen, command.vm, &ObservedVm::vm) != seen.end();
  if (!lease_known_ || is_there || (begun_ && *begun_ >= command.epoch)) return;
  if (refused_.size() >= kRefusedMax) refused_.clear();
  refused_.insert({command.vm, command.epoch});
}

bool AgentCore::may_launch(const Command& command) {
  if (!command.launch) {
    reply(command.id, make_error(Errc::invalid, "launch: is missing"));
    return false;
  }
  if (lease_valid()) return true;
  reply(command.id, make_error(Errc::unavailable, "this host holds no valid lease"));
  return false;
}

void AgentCore::start_vm(const Command& command) {
  if (!may_launch(command)) return note_refused(command);
  begins(command);
  on_.guard.extend(lease_end_, policy_.lease_ms);
  on_.hypervisor.start(*command.launch, reply_to(command.id));
}

/// One that was asked while it ran, and was gone before it would be killed, has ended in order; so
/// has one that never began.
void AgentCore::stop_vm(const Command& command) {
  stopping_.insert({command.vm, command.epoch});
  const StopOptions options = command.stop.value_or(StopOptions());
  const std::vector<ObservedVm> seen = on_.hypervisor.observe();
  const bool asked = !options.force && std::ranges::any_of(seen, [&](const ObservedVm& copy) {
    return copy.vm == command.vm && copy.epoch == command.epoch && copy.power == VmPower::running;
  });
  const bool never_began = refused_.contains({command.vm, command.epoch});
  const Instant killed_at = on_.loop.now() + options.deadline_ms;
  on_.hypervisor.stop(command.vm, command.epoch, options,
                      [this, id = command.id, asked, never_began, killed_at,
                       alive = std::weak_ptr(alive_)](Result<void> done) {
                        if (alive.expired()) return;
                        if (!done) return reply(id, done.error());
                        CommandResult answer;
                        answer.in_order = never_began || (asked && on_.loop.now() < killed_at);
                        reply(id, std::move(answer));
                      });
}

void AgentCore::execute(const Command& command) {
  if (!command.correlation.empty()) {
    on_.hypervisor.attribute(command.vm, command.correlation);
  }
  switch (command.kind) {
    case CommandKind::start:
      return start_vm(command);
    case CommandKind::stop:
      return stop_vm(command);
    case CommandKind::erase:
      if (!command.launch) {
        return reply(command.id, make_error(Errc::invalid, "launch: is missing"));
      }
      return on_.hypervisor.erase(*command.launch, reply_to(command.id));
    case CommandKind::change_limits:
      if (!command.launch) {
        return reply(command.id, make_error(Errc::invalid, "launch: is missing"));
      }
      return reply_to(command.id)(on_.hypervisor.change_limits(*command.launch));
    case CommandKind::console: {
      constexpr std::size_t kTailBytes = 64 << 10;
      const auto on_failure = reply_to(command.id);
      auto tail = on_.hypervisor.console_tail(command.vm, kTailBytes);
      if (!tail) return reply(command.id, tail.error());
      return on_.link.upload(command.id, std::move(*tail), [on_failure](Result<void> done) {
        if (!done) on_failure(done);
      });
    }
    default:
      if (!execute_migration(command) && !execute_mirror(command) &&
          !devices_.execute(command, reply_with(command.id)) &&
          !balancers_.execute(command, reply_with(command.id))) {
        reply(command.id, make_error(Errc::unsupported, "this agent does not know the command"));
      }
  }
}

Callback<MigrationProgress> AgentCore::reply_with_progress(std::uint64_t id) {
  return [this, id, alive = std::weak_ptr(alive_)](Result<MigrationProgress> progress) {
    if (alive.expired()) return;
    sends_.erase(id);
    if (!progress) return reply(id, progress.error());
    CommandResult answer;
    answer.progress = *progress;
    reply(id, answer);
  };
}

void AgentCore::send_vm(const Command& command) {
  if (!command.endpoint || !command.limits) {
    return reply(command.id, make_error(Errc::invalid, "endpoint, limits: are missing"));
  }
  sends_[command.id].vm = command.vm;
  on_.hypervisor.send(command.vm, command.epoch, *command.endpoint, *command.limits,
                      reply_with_progress(command.id));
}

bool AgentCore::execute_migration(const Command& command) {
  switch (command.kind) {
    case CommandKind::prepare_incoming:
      if (!may_launch(command)) return true;
      begins(command);
      on_.hypervisor.prepare_incoming(
          *command.launch, [this, id = command.id,
                            alive = std::weak_ptr(alive_)](Result<MigrationEndpoint> endpoint) {
            if (alive.expired()) return;
            if (!endpoint) return reply(id, endpoint.error());
            CommandResult answer;
            answer.endpoint = *endpoint;
            reply(id, answer);
          });
      return true;
    case CommandKind::send:
      send_vm(command);
      return true;
    case CommandKind::switch_over:
      on_.hypervisor.switch_over(command.vm, command.epoch, reply_with_progress(command.id));
      return true;
    case CommandKind::resume:
      on_.hypervisor.resume(command.vm, command.epoch, reply_to(command.id));
      return true;
    case CommandKind::cancel_send:
      on_.hypervisor.cancel_send(command.vm, command.epoch, reply_to(command.id));
      return true;
    default:
      return false;
  }
}

bool AgentCore::execute_mirror(const Command& command) {
  const CommandKind kind = command.kind;
  const bool mirror = kind == CommandKind::mirror_disk;
  if (!mirror && kind != CommandKind::switch_disk && kind != CommandKind::cancel_mirror &&
      kind != CommandKind::grow_disk && kind != CommandKind::keep_leg) {
    return false;
  }
  if (!command.mirror) {
    reply(command.id, make_error(Errc::invalid, "mirror: is missing"));
  } else if (mirror) {
    sends_[command.id].vm = command.vm;
    on_.hypervisor.mirror_disk(command.vm, command.epoch, *command.mirror,
                               reply_with_progress(command.id));
  } else if (kind == CommandKind::grow_disk) {
    on_.hypervisor.grow_disk(command.vm, command.epoch, command.mirror->volume,
                             reply_to(command.id));
  } else if (kind == CommandKind::keep_leg) {
    on_.hypervisor.keep_leg(command.vm, command.epoch, command.mirror->volume,
                            command.mirror->to.device, reply_to(command.id));
  } else if (kind == CommandKind::switch_disk) {
    on_.hypervisor.switch_disk(command.vm, command.epoch, command.mirror->volume,
                               reply_to(command.id));
  } else {
    on_.hypervisor.cancel_mirror(command.vm, command.epoch, command.mirror->volume,
                                 reply_to(command.id));
  }
  return true;
}

Capacity AgentCore::free_beside(const std::vector<ObservedVm>& vms) const {
  Capacity free = options_.hello.capacity;
  for (const ObservedVm& vm : vms) {
    free.cpu_millicores -= vm.cpu_millicores_used;
    free.memory_mib -= vm.memory_mib_used;
  }
  return free;
}

AgentCore::Peer* AgentCore::find_peer(const HostId& host) {
  const std::uint32_t mark = mark_of(host);
  for (std::size_t index = 0; index < marks_.size(); ++index) {
    if (marks_[index] == mark && peers_[index].member.host == host) return &peers_[index];
  }
  return nullptr;
}

/// Each host asks the next ones in the ring of names: everybody is watched by as many as it
/// watches.
void AgentCore::choose_watched() {
  ring_chosen_ = true;
  ring_.clear();
  const auto first = std::find_if(peers_.begin(), peers_.end(), [this](const Peer& peer) {
    return options_.hello.host < peer.member.host;
  });
  const auto begin = static_cast<std::size_t>(first - peers_.begin());
  const std::size_t count =
      std::min(peers_.size(), static_cast<std::size_t>(options_.probed_peers));
  for (std::size_t step = 0; step < count; ++step) {
    ring_.push_back((begin + step) % peers_.size());
  }
  watched_ = ring_;
  std::sort(watched_.begin(), watched_.end());
  for (Peer& peer : peers_) peer.asked = false;
  for (const std::size_t index : watched_) peers_[index].asked = true;
  for (Peer& peer : peers_) peer.silent = peer.silent && peer.asked;
}

void AgentCore::probe_peers() {
  if (peers_.empty() || probe_key_.empty()) return;
  if (!ring_chosen_) choose_watched();
  ++probe_sequence_;
  for (const std::size_t index : ring_) send_probe(peers_[index].member, false, probe_sequence_);
}

void AgentCore::send_probe(const ClusterMember& to, bool answer, std::uint64_t sequence) {
  if (!free_) free_ = free_beside(on_.hypervisor.observe());
  probe_.to = to.host;
  probe_.answer = answer;
  probe_.sequence = sequence;
  probe_.free = *free_;
  probe_.lease_ms_left = lease_valid() ? lease_end_ - on_.loop.now() : Duration(0);
  on_.peers.send(to, probe_, probe_key_);
}

void AgentCore::peer_received(const PeerProbe& probe) {
  if (probe_key_.empty() || probe.to != options_.hello.host) return;
  Peer* peer = find_peer(probe.from);
  if (peer == nullptr) return;
  if (!probe.answer) return send_probe(peer->member, true, probe.sequence);
  // One that was recorded and is sent again proves nothing: neither a second time nor much later.
  const auto rounds =
      std::max<std::int64_t>(kAnswersAwaited, policy_.suspect_after_ms / policy_.heartbeat_ms);
  const bool late = probe_sequence_ - probe.sequence >= static_cast<std::uint64_t>(rounds);
  if (late || probe.sequence <= peer->answered) return;
  peer->answered = probe.sequence;
  const bool was_silent = peer->silent;
  peer->heard_at = on_.loop.now();
  peer->silent = false;
  peer->boot_id = probe.boot_id;
  peer->free = probe.free;
  peer->degraded = probe.degraded;
  peer->lease_left = probe.lease_ms_left;
  if (was_silent) report_now();
}

/// Half a heartbeat below the server's own patience, so that the peers' word is there when it is
/// asked for.
void AgentCore::judge_peers() {
  const Duration patience = policy_.suspect_after_ms - policy_.heartbeat_ms / 2;
  for (const std::size_t index : watched_) {
    Peer& peer = peers_[index];
    peer.silent = on_.loop.now() - peer.heard_at >= patience;
  }
}

boost::json::object AgentCore::local_status() const {
  boost::json::object status;
  status["host"] = options_.hello.host.value;
  status["boot_id"] = options_.hello.boot_id;
  status["connected"] = welcomed_;
  status["lease_ms_left"] = lease_valid() ? to_ms(lease_end_ - on_.loop.now()) : 0;
  boost::json::array peers;
  for (const Peer& peer : peers_) peers.push_back(to_json(view_of(peer)));
  status["peers"] = std::move(peers);
  boost::json::array vms;
  for (const ObservedVm& vm : on_.hypervisor.observe()) vms.push_back(to_json(vm));
  status["vms"] = std::move(vms);
  return status;
}

}  // namespace virga
