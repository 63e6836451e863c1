#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/command.h"
#include "agent/service_probes.h"
#include "model/cluster.h"
#include "model/event.h"
#include "model/host.h"
#include "model/usage.h"

/// The link between `virgad server` and `virgad agent`: JSON objects, one a WebSocket text message, at most 1 MiB.
/// Exactly one member is set. Unknown members and enum names of a newer peer are ignored on this link (only here).
/// The agent opens the connection; a message that cannot be read ends it.
namespace virga {

constexpr int kProtocolVersion =
    1;  ///< grows with incompatible changes; the server speaks N and N-1
constexpr int kProtocolVersionMin = 1;

/// What an agent of this version can do beyond its protocol's first: kinds of commands and fields of launches that came
/// later.
inline std::vector<std::string> agent_features() {
  return {"change_limits",   "user_data",          "upload",    "places",       "security_groups",
          "devices",         "mirror_disk",        "balancers", "probes",       "gateways",
          "migration_relay", "floating_addresses", "keep_leg",  "host_devices", "tls_probes"};
}

/// An agent's certificate is made out to this and its host: "agent:host-1".
constexpr std::string_view kAgentName = "agent:";

/// TCP_USER_TIMEOUT of the link on both sides: one whose packets are not acknowledged ends sooner than any lease
/// (`policy.lease_ms` begins at a second more), so that an agent looks for another way while its guests still may run.
constexpr Duration kLinkUserTimeout = seconds(5);

/// Where an agent POSTs what a command of its session asked for and is too long for the link: kUploads + the command's
/// id. It is the command's answer. On a connection of its own, same port, same certificate.
constexpr std::string_view kUploads = "/v1/agent/uploads/";

/// First message of an agent.
struct Hello {
  int protocol = kProtocolVersion;
  std::vector<std::string>
      features;  ///< agent_features() of its version; the server asks for nothing else
  HostId host;
  std::string boot_id;     ///< changes when the machine boots
  std::string session_id;  ///< random, one a run of the agent
  std::string agent_version;
  std::string address;           ///< where peers and migrations reach this host
  std::string tenant_address;    ///< its VXLAN end point
  std::uint16_t probe_port = 0;  ///< UDP port of peer probes
  Capacity capacity;
  HypervisorInfo hypervisor;
  std::vector<HostDevice> host_devices{};
};
BOOST_DESCRIBE_STRUCT(Hello, (),
                      (protocol, features, host, boot_id, session_id, agent_version, address,
                       tenant_address, probe_port, capacity, hypervisor, host_devices))

enum class PeerHealth { unknown, alive, silent };
BOOST_DESCRIBE_ENUM(PeerHealth, unknown, alive, silent)

/// What one host sees of another by its own probes.
struct PeerView {
  HostId host;
  PeerHealth health = PeerHealth::unknown;
  Duration silent_ms{0};      ///< since its last answer
  std::string boot_id;        ///< in that answer
  Capacity free;              ///< what it said of itself
  std::string degraded{};     ///< the same: what is failing there; empty = nothing
  Duration lease_ms_left{0};  ///< the same: for how long it may run guests without the server
};
BOOST_DESCRIBE_STRUCT(PeerView, (),
                      (host, health, silent_ms, boot_id, free, degraded, lease_ms_left))

/// What really runs, once a heartbeat and at once when something changed.
struct HostReport {
  std::uint64_t sequence = 0;
  std::int64_t sent_at_ms = 0;  ///< the agent's monotonic clock; comes back in the grant
  std::vector<ObservedVm> vms;
  std::vector<PeerView> peers;
  Capacity used;  ///< measured on the host
  bool leash_armed = false;
  Duration loop_lag_ms{
      0};                ///< how late the agent's own timers ran: a slow observer suspects itself
  std::string degraded;  ///< what is failing on this host; empty = nothing
  std::optional<Duration> lease_ms_left{};  ///< its guests may run for so long; none = its agent does not say
  std::uint64_t fabric_version = 0;
  std::vector<ObservedDevice> devices;     ///< that it was told to serve, in order of id
  std::vector<ServiceBalancer> balancers;  ///< in order of service
  std::vector<ObservedProbe> probes;       ///< the same
};
BOOST_DESCRIBE_STRUCT(HostReport, (),
                      (sequence, sent_at_ms, vms, peers, used, leash_armed, loop_lag_ms, degraded,
                       lease_ms_left, fabric_version, devices, balancers, probes))

/// Something happened to a VM or host that the journal should keep.
struct AgentEvent {
  std::string kind;
  VmId vm;
  std::string text;
  Severity severity = Severity::info;
};
BOOST_DESCRIBE_STRUCT(AgentEvent, (), (kind, vm, text, severity))

struct AgentMessage {
  std::optional<Hello> hello;
  std::optional<HostReport> report;
  std::optional<CommandProgress> progress;
  std::optional<CommandResult> result;
  std::optional<AgentEvent> event;
  std::optional<UsageReport> usage;
};
BOOST_DESCRIBE_STRUCT(AgentMessage, (), (hello, report, progress, result, event, usage))

/// The server's answer to Hello.
struct Welcome {
  int protocol = kProtocolVersion;
  std::uint64_t incarnation = 0;  ///< of the store; an agent refuses one lower than it has seen
  ClusterId cluster;
  ClusterPolicy policy;
  std::string shared_directory;
};
BOOST_DESCRIBE_STRUCT(Welcome, (), (protocol, incarnation, cluster, policy, shared_directory))

/// The host may run guests until `report_sent_at_ms` + `lease_ms` on its own clock.
struct LeaseGrant {
  std::int64_t report_sent_at_ms = 0;
  Duration lease_ms{0};
};
BOOST_DESCRIBE_STRUCT(LeaseGrant, (), (report_sent_at_ms, lease_ms))

struct ClusterMember {
  HostId host;
  std::string address;
  std::uint16_t probe_port = 0;
};
BOOST_DESCRIBE_STRUCT(ClusterMember, (), (host, address, probe_port))

/// The cluster as every hypervisor must know it; sent whole whenever it changed.
struct ClusterState {
  std::vector<ClusterMember> members;
  std::string probe_key;  ///< hex; authenticates peer probes of this cluster
  FabricState fabric;
  std::optional<ClusterPolicy>
      policy;  ///< in force; absent from servers of before: that of the welcome stays
};
BOOST_DESCRIBE_STRUCT(ClusterState, (), (members, probe_key, fabric, policy))

struct SessionRefusal {
  std::string code;  ///< to_string(Errc)
  std::string text;
};
BOOST_DESCRIBE_STRUCT(SessionRefusal, (), (code, text))

struct ServerMessage {
  std::optional<Welcome> welcome;
  std::optional<LeaseGrant> grant;
  std::optional<Command> command;
  std::optional<ClusterState> cluster;
  std::optional<FabricPlaces> places;
  std::optional<FabricGroups> groups;
  std::optional<FabricGateways> gateways;
  std::optional<ServiceProbeList> probes;
  std::optional<UsageKept> usage_kept;
  std::optional<SessionRefusal> refusal;  ///< last message before the server closes the connection
};
BOOST_DESCRIBE_STRUCT(ServerMessage, (),
                      (welcome, grant, command, cluster, places, groups, gateways, probes,
                       usage_kept, refusal))

}  // namespace virga
