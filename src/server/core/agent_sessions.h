#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>

#include "agent/protocol.h"
#include "base/loop.h"
#include "runtime/host_commands.h"
#include "runtime/store_mirror.h"
#include "runtime/transaction.h"

namespace virga {

using SessionId = std::uint64_t;  ///< one connection of one agent

/// The server's end of the agents' connections. Implementations: AgentListener (WebSockets), SimNetwork.
class HostLinks {
 public:
  virtual ~HostLinks() = default;
  virtual void send(SessionId session, const ServerMessage& message) = 0;
  virtual void close(SessionId session) = 0;
};

/// What the leader knows of a host beside what is stored. Lost with the leader, by design.
struct LiveHost {
  // What is looked at four times a second for every host stands together.
  SessionId session = 0;  ///< 0 = not connected
  bool reported = false;  ///< since this server leads
  Instant last_report_at;
  // What is stored of it, as of `read_at`; empty = not registered, or without a cluster.
  Revision read_at = 0;
  std::shared_ptr<const Host> stored;
  std::shared_ptr<const Cluster> cluster;

  Instant lease_end;           ///< never before the host's own: the later of the next two
  Instant granted_end;         ///< of all that this leader has granted
  Instant earlier_end;         ///< of what others may have granted: the longest, or what the host says of itself
  bool lease_refused = false;  ///< to its last report of this session
  std::size_t state_sent = 0;  ///< fingerprint of the cluster state that it was told last
  Hello hello;                 ///< of the last session
  HostReport report;
};

/// Agents' sessions, their leases and their commands: admits hosts, takes reports, grants leases, carries commands.
/// Loop thread only. Writes of the store it does: status of a host as it introduces itself.
class AgentSessions final : public HostCommands {
 public:
  struct Options {
    int pending_per_host_max = 1024;  ///< commands without an answer; more are refused as exhausted
    int consoles_per_host_max = 4;    ///< of them; each is up to 64 KiB in memory here
  };
  /// Told when something arrived that decisions depend on.
  using Listener = std::function<void(const HostId& host)>;
  using EventSink = std::function<void(Event event)>;
  using UsageSink = std::function<void(const HostId& host, const UsageReport& usage)>;

  AgentSessions(Loop& loop, Store& store, StoreMirror& mirror, HostLinks& links);

  /// `greeted`: a host has (re)connected and was told of its cluster. `restored`: the state is an old one, leases may
  /// have been granted that it knows nothing of.
  void start(Listener changed, Listener greeted, EventSink events, bool restored = false);

  /// A connection whose certificate names `peer_name` ("agent:host-1"); empty in the simulator = not checked.
  void opened(SessionId session, std::string peer_name);
  void received(SessionId session, AgentMessage message);
  void closed(SessionId session);

  /// The answer to the command with this id came beside the session (kUploads), from who holds the certificate of
  /// `peer_name`. Errors: not_found (no such command of that host waits for one).
  Result<void> uploaded(const std::string& peer_name, std::uint64_t command, std::string text);

  /// `exhausted` for more than `pending_per_host_max` commands, of which `consoles_per_host_max` may read consoles.
  void call(const HostId& host, Command command, Duration deadline, Callback<CommandResult> done,
            Progress progressed = nullptr) override;

  const std::map<HostId, LiveHost>& hosts() const { return hosts_; }
  LiveHost* find(const HostId& host);

  /// A host that may have a lease again gets it for its last report: what is placed there next must find one.
  void changed(const std::vector<Change>& changes);

  /// Calls `look` for each host that is stored with its cluster, in order of id.
  void each_stored(const std::function<void(const LiveHost&)>& look);

  /// Sends members, keys and networks of all clusters to every connected host that has an older state, at once: a VM's
  /// start that follows must find its network on the host.
  void spread_now();

  /// Does nothing when the host is not connected: it is told all when it comes.
  void tell_places(const HostId& host, const FabricPlaces& places);
  void tell_groups(const HostId& host, const FabricGroups& groups);
  void tell_gateways(const HostId& host, const FabricGateways& gateways);
  void tell_probes(const HostId& host, const ServiceProbeList& probes);

  /// Told of what guests have used; without it nobody is.
  void set_usage_sink(UsageSink sink) { usage_ = std::move(sink); }
  void tell_usage_kept(const HostId& host, const UsageKept& kept);

  /// The key that authenticates the probes of a cluster's hosts; each has its own.
  void set_probe_keys(std::function<std::string(const ClusterId&)> key_of) {
    probe_key_of_ = std::move(key_of);
  }

 private:
  struct Session {
    std::string peer_name;
    HostId host;
    LiveHost* live = nullptr;  ///< of `host`
  };
  struct Pending {
    SessionId session = 0;
    CommandKind kind = CommandKind::start;
    TimerId timer = 0;
    Callback<CommandResult> done;
    Progress progressed;
  };

  void refuse(SessionId session, Errc code, const std::string& text);
  void hello(SessionId session, const Hello& message);
  Result<const Host*> admit(const Session& session, const Hello& message) const;
  void record_hello(const HostId& host);
  void record_leash(const HostId& host, bool armed);
  void read_stored(const HostId& host, LiveHost& live) const;
  void report(const HostId& host, LiveHost& live, HostReport report);
  bool lease_allowed(const Host& stored) const;
  void grant(LiveHost& live);
  void result(SessionId session, CommandResult result);
  void drop_pending(SessionId session);
  void spread_soon(const ClusterId& cluster);
  int spread(const ClusterId& cluster);
  ClusterState state_of(const ClusterId& cluster);
  bool send_state(LiveHost& live, const ClusterState& state, std::size_t fingerprint);

  Loop& loop_;
  Store& store_;
  StoreMirror& mirror_;
  HostLinks& links_;
  Listener changed_;
  Listener greeted_;
  EventSink events_;
  UsageSink usage_;
  Options options_;
  Instant leads_since_;
  std::function<std::string(const ClusterId&)> probe_key_of_;
  std::unordered_map<SessionId, Session> sessions_;
  std::map<HostId, LiveHost> hosts_;
  std::map<std::pair<SessionId, std::uint64_t>, Pending> pending_;
  std::set<HostId> recording_;
  std::set<ClusterId> spreading_;
  Instant spread_not_before_;
  std::uint64_t commands_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

/// True when two reports differ in what decisions depend on (figures of load do not count).
bool differs(const HostReport& before, const HostReport& after);

}  // namespace virga
