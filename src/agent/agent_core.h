#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/balancers.h"
#include "agent/devices.h"
#include "agent/gateways.h"
#include "agent/peer_probe.h"
#include "agent/protocol.h"
#include "agent/service_probes.h"
#include "agent/usage_reporter.h"
#include "base/loop.h"
#include "driver/process_guard.h"

namespace virga {

/// The agent's connection to the server. Implementations: AgentConnection (WebSocket), SimNetwork.
class AgentLink {
 public:
  virtual ~AgentLink() = default;
  virtual void send(AgentMessage message) = 0;  ///< dropped when not connected
  /// Sends what `command` asked for on a connection of its own, so that it holds up no report and no grant; when it is
  /// `done` the server has its answer.
  virtual void upload(std::uint64_t command, std::string text, Callback<void> done) = 0;
  virtual void
  reconnect() = 0;  ///< ends the session; the link opens a new one by itself, with jitter
};

/// Datagrams between agents, authenticated by `key`. Lost, late and doubled ones are expected.
class PeerLink {
 public:
  virtual ~PeerLink() = default;
  virtual void send(const ClusterMember& to, const PeerProbe& probe, const std::string& key) = 0;
};

struct AgentDependencies {
  Loop& loop;
  Hypervisor& hypervisor;
  Fabric& fabric;
  ProcessGuard& guard;
  AgentLink& link;
  PeerLink& peers;
  /// What the host uses now and what is failing on it ("" = nothing); cheap, asked once a heartbeat.
  std::function<Capacity()> used;
  std::function<std::string()> degraded;
  Devices::Make make_device{};        ///< empty: this host serves no storage device
  BalancerHome* balancers = nullptr;  ///< nullptr: this host carries no load balancer
  ServiceAsker* asker = nullptr;      ///< nullptr: this host is no monitor
  GatewayHome* gateways = nullptr;    ///< nullptr: networks have no gateway on this host
};

struct AgentOptions {
  Hello hello;                 ///< all but `hypervisor`, which the driver answers
  bool reports_usage = false;  ///< of its guests, for metering
  std::string shared_directory{};  ///< of the cluster, on this host: where images are
  bool leads_outside = false;  ///< has a way out, for gateways and floating addresses
  int probed_peers = 3;        ///< each heartbeat asks the next ones in the ring of names
  std::uint64_t incarnation =
      0;  ///< of the newest server's state that this host has followed in earlier runs
  std::function<void(std::uint64_t)> keep_incarnation;  ///< for the next run; may be empty
};

/// The agent without its sockets and processes: leases, epochs, adoption, reports, peer probes, commands. It runs the
/// same in `virgad agent` and in the simulator. Loop thread only.
///
/// Safety: guests run only under a lease that the server granted (counted from the moment the report was sent) and
/// under a guard that holds the same deadline; when the lease ends they are killed here, and by the guard if this
/// process cannot. Load balancers go on without it, see Balancers.
class AgentCore final : public HypervisorSink {
 public:
  AgentCore(AgentDependencies dependencies, AgentOptions options);
  ~AgentCore() override;

  /// Adopts what runs and begins; `ready` runs when the link may be opened.
  void start(Callback<void> ready);

  // The link calls these.
  void link_opened();
  void link_received(const ServerMessage& message);
  void link_closed(const std::string& reason);

  /// A probe from a peer, authenticated with probe_key().
  void peer_received(const PeerProbe& probe);

  /// Authenticates probes in this cluster; empty = not known yet, nothing is authentic.
  const std::string& probe_key() const { return probe_key_; }

  void vm_changed(const ObservedVm& now, const std::string& why) override;

  /// What this agent knows, for `virga host peers` when the server is away: peers, lease, VMs.
  boost::json::object local_status() const;

  bool lease_valid() const;

 private:
  struct Peer {
    ClusterMember member;
    Instant heard_at;
    std::uint64_t answered = 0;  ///< the newest round of probes that it has answered
    bool asked = false;
    bool silent = false;
    std::string boot_id;
    Capacity free;
    std::string degraded;
    Duration lease_left{0};
  };
  PeerView view_of(const Peer& peer) const;

  void heartbeat();
  void send_usage(UsageReport usage);
  void report_now();
  void report_now(std::vector<ObservedVm> vms);
  HostReport make_report(std::vector<ObservedVm> vms);
  void granted(const LeaseGrant& grant);
  void lease_ended();
  void watch_lease();
  void take_policy(const ClusterPolicy& policy);
  void take_cluster(const ClusterState& state);
  void take_places(FabricPlaces places);
  void take_groups(FabricGroups groups);
  void network_failed(const Error& why);
  void execute(const Command& command);
  void begins(const Command& command);
  void note_refused(const Command& command);
  /// Answers the command when not.
  bool may_launch(const Command& command);
  void start_vm(const Command& command);
  bool execute_migration(const Command& command);
  void stop_vm(const Command& command);
  bool execute_mirror(const Command& command);
  void send_vm(const Command& command);
  void tell_progress();
  Callback<void> reply_to(std::uint64_t id);
  Callback<MigrationProgress> reply_with_progress(std::uint64_t id);
  Callback<CommandResult> reply_with(std::uint64_t id);
  void reply(std::uint64_t id, const Result<CommandResult>& result);
  void probe_peers();
  void choose_watched();
  void send_probe(const ClusterMember& to, bool answer, std::uint64_t sequence);
  void judge_peers();
  Peer* find_peer(const HostId& host);
  Capacity free_beside(const std::vector<ObservedVm>& vms) const;
  std::int64_t now_ms() const;

  AgentDependencies on_;
  AgentOptions options_;
  Devices devices_;
  Balancers balancers_;
  Gateways gateways_;
  ServiceProbes probes_;
  ClusterPolicy policy_;
  UsageReporter usage_;
  Timer heartbeat_timer_;
  Timer lease_timer_;
  Instant heartbeat_due_;
  Duration loop_lag_{0};
  Instant lease_end_;
  bool lease_known_ = false;  ///< granted to this run of the agent
  bool lease_over_told_ = false;
  bool welcomed_ = false;
  std::uint64_t incarnation_ = 0;
  std::uint64_t sequence_ = 0;
  std::uint64_t probe_sequence_ = 0;
  std::string probe_key_;
  PeerProbe probe_;                   ///< of this host; the rest is filled in for each
  std::vector<Peer> peers_;           ///< in order of host
  std::vector<std::uint32_t> marks_;  ///< hashes of their names: a look-up reads these and one peer
  std::vector<std::size_t> ring_;     ///< of peers_: those that are asked, in the order of the ring
  std::vector<std::size_t> watched_;  ///< the same in order of host
  bool ring_chosen_ = false;          ///< since the peers changed
  FabricPlaces places_;               ///< of a message whose rest is on its way
  FabricGroups groups_;               ///< the same
  std::optional<Capacity> free_;      ///< as of the last heartbeat or change
  struct Send {
    VmId vm;
    int percent_told = 0;
  };
  std::map<std::uint64_t, Send> sends_;        ///< under way, by their commands
  std::set<std::pair<VmId, Epoch>> stopping_;  ///< their end is no news
  std::set<std::pair<VmId, Epoch>> refused_;   ///< that never began; the newest of them are known
  std::optional<Epoch> begun_;                 ///< the highest of those that did, in this run
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
