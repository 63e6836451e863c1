#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/reflect.h"
#include "base/units.h"
#include "model/balancer.h"
#include "model/meta.h"
#include "model/service_level.h"

namespace virga {

/// What each copy of a service is made from. A change of it holds for copies that are made later.
struct ServiceTemplate {
  ImageId image;
  int cpus = 1;
  Millicores cpu_millicores{0};  ///< quota in sum; 0 = cpus * 1000
  Mib memory_mib{128};
  std::string network;                         ///< of the same tenant; never changes
  std::vector<std::string> security_groups{};  ///< of the same tenant, at most 5
  int port = 80;                               ///< that its guests listen on; never changes
  HostId pinned_host{};    ///< copies may run nowhere else; empty = anywhere in the cluster
  bool direct_io = false;  ///< copies hold a device of their host: locked to it, never relocated
  std::map<std::string, std::string> parameters{};  ///< handed to the guests (name=value)
  std::string user_data{};                          ///< see VmSpec
};
BOOST_DESCRIBE_STRUCT(ServiceTemplate, (),
                      (image, cpus, cpu_millicores, memory_mib, network, security_groups, port,
                       pinned_host, direct_io, parameters, user_data))

/// Where consumers come to.
struct ServiceFrontend {
  std::string address;  ///< IPv4 of its network; empty = the server picks; never changes
  int port = 80;        ///< never changes
  BalancerProtocol protocol = BalancerProtocol::tcp;
  int copy_connections_max = 0;  ///< of one copy: more wait at the balancer; 0 = no limit
  bool tls = false;              ///< ends at the balancer, which shows `certificate`
  std::string certificate{};  ///< PEM: certificate, chain, private key. Secret: read, it is empty
};
BOOST_DESCRIBE_STRUCT(ServiceFrontend, (),
                      (address, port, protocol, copy_connections_max, tls, certificate))

enum class RelocationMode {
  duplicate,       ///< a new copy answers first, then the original drains and goes
  live_migration,  ///< the copy's VM moves alive
};
BOOST_DESCRIBE_ENUM(RelocationMode, duplicate, live_migration)

struct ServicePolicy {
  RelocationMode relocation = RelocationMode::duplicate;  ///< when nobody says otherwise
  bool return_home = false;           ///< what a maintenance moved comes back when it is over
  Duration drain_ms = seconds(30);    ///< how long connections in flight get before a copy goes
  Duration answer_ms = seconds(120);  ///< within which a new copy must answer requests
};
BOOST_DESCRIBE_STRUCT(ServicePolicy, (), (relocation, return_home, drain_ms, answer_ms))

/// What is done when demand is more than its copies are to carry.
enum class ScalingAction {
  none,            ///< nothing is watched
  scale,           ///< copies are added, and withdrawn when demand is low again
  duplicate,       ///< the busiest copy is replaced on another host
  live_migration,  ///< the busiest copy's VM moves alive to another host
};
BOOST_DESCRIBE_ENUM(ScalingAction, none, scale, duplicate, live_migration)

/// Limits are means over `sustained_ms`; 0 = not watched. A copy that fails is replaced, whatever the action.
struct ServiceScaling {
  ScalingAction action = ScalingAction::none;
  int replicas_max = 0;         ///< scale: with the copies that demand adds
  int requests_max = 0;         ///< a second and copy; tcp: new connections
  int cpu_percent_max = 0;      ///< of its copies' quotas together
  Duration response_ms_max{0};  ///< mean of what copies need; tcp: to connect
  int queue_max = 0;            ///< requests that wait at the balancer
  int errors_percent_max = 0;   ///< of one copy's requests; one that fails its checks has 100
  Duration sustained_ms = seconds(10);
  Duration calm_ms = seconds(300);     ///< so long demand must be low before a copy is withdrawn
  Duration cooldown_ms = seconds(60);  ///< nothing is decided so long after its copies changed
};
BOOST_DESCRIBE_STRUCT(ServiceScaling, (),
                      (action, replicas_max, requests_max, cpu_percent_max, response_ms_max,
                       queue_max, errors_percent_max, sustained_ms, calm_ms, cooldown_ms))

/// Operator's command to relocate one copy.
struct RelocationOrder {
  std::string copy;  ///< name of its VM
  HostId host;       ///< where to; empty = the server picks
  RelocationMode mode = RelocationMode::duplicate;
  Duration for_ms{0};  ///< it comes back then; 0 = it stays
};
BOOST_DESCRIBE_STRUCT(RelocationOrder, (), (copy, host, mode, for_ms))

/// Operator's command: what share of new requests a copy gets.
struct WeightOrder {
  std::string copy;  ///< name of its VM
  int weight = 100;  ///< see ServiceCopy
};
BOOST_DESCRIBE_STRUCT(WeightOrder, (), (copy, weight))

struct ServiceSpec {
  ClusterId cluster;
  ServiceTemplate vm;
  int replicas = 2;  ///< copies, 1..16
  ServiceFrontend frontend;
  BalancerCheck check;
  ServicePolicy policy;
  ServiceScaling scaling;
  ServiceObjective objective;
  std::optional<RelocationOrder> relocate;  ///< cleared when decided
  std::optional<WeightOrder> weigh{};       ///< the same
};
BOOST_DESCRIBE_STRUCT(ServiceSpec, (),
                      (cluster, vm, replicas, frontend, check, policy, scaling, objective, relocate,
                       weigh))

enum class ServiceCopyState {
  starting,  ///< has not been seen healthy by the balancer yet; gets no requests
  serving,   ///< gets requests while it is healthy
  draining,  ///< gets no new requests; those in flight finish
  retired,   ///< its VM is being deleted
};
BOOST_DESCRIBE_ENUM(ServiceCopyState, starting, serving, draining, retired)

struct ServiceCopy {
  VmId vm;
  ServiceCopyState state = ServiceCopyState::starting;
  WallTime since;  ///< in this state
  HostId home{};   ///< it is away from there for a time, and goes back when that host takes VMs
  Duration away_ms{0};  ///< not before it has served so long
  std::optional<RelocationMode> home_by;  ///< as it went; empty: as its policy says
  bool released = false;  ///< no duplicate answered in time: it may be moved alive
  int weight = 100;       ///< 1..256: its share of new requests, compared with the other copies

  friend bool operator==(const ServiceCopy&, const ServiceCopy&) = default;
};
BOOST_DESCRIBE_STRUCT(ServiceCopy, (), (vm, state, since, home, away_ms, home_by, released, weight))

/// What is under way: at most one a service.
struct ServiceRelocation {
  RelocationMode mode = RelocationMode::duplicate;
  VmId original;
  VmId replacement{};  ///< duplicate
  HostId source;
  HostId host;          ///< where it goes
  HostId home{};        ///< it is temporary, and goes back there
  Duration away_ms{0};  ///< but not before
  std::string cause;    ///< "an operator asked for it", "host-1 goes into maintenance"
  WallTime started_at;

  friend bool operator==(const ServiceRelocation&, const ServiceRelocation&) = default;
};
BOOST_DESCRIBE_STRUCT(ServiceRelocation, (),
                      (mode, original, replacement, source, host, home, away_ms, cause, started_at))

struct ServiceStatus {
  HostId balancer;       ///< whose agent carries the balancer; the frontend's address leads there
  HostId balancer_next;  ///< where it will be: begins to run there before the address follows
  HostId monitor;        ///< whose agent asks it as consumers do; empty = nobody
  std::vector<ServiceCopy> copies;  ///< in order of creation
  std::uint64_t copies_made = 0;
  int extra = 0;  ///< copies beside spec.replicas that demand has added
  std::optional<ServiceRelocation> relocation;
  bool available = false;  ///< the balancer runs and a copy behind it is healthy
  std::string reason;      ///< why not, or why it is not as it is asked for

  friend bool operator==(const ServiceStatus&, const ServiceStatus&) = default;
};
BOOST_DESCRIBE_STRUCT(ServiceStatus, (),
                      (balancer, balancer_next, monitor, copies, copies_made, extra, relocation,
                       available, reason))

/// Copies of one VM template behind one address. Its copies are VMs of the tenant that belong to it.
struct Service {
  Meta meta;
  ServiceSpec spec;
  ServiceStatus status;

  ServiceId id() const { return ServiceId(qualified(meta.tenant, meta.name)); }

  /// Of its address.
  PortId port_id() const { return PortId(qualified(meta.tenant, meta.name + "-frontend")); }

  /// Of who asks it; made with the first objective.
  PortId monitor_port_id() const { return PortId(qualified(meta.tenant, meta.name + "-monitor")); }

  int copies_wanted() const { return spec.replicas + status.extra; }

  const ServiceCopy* find_copy(const VmId& vm) const {
    const auto found = std::find_if(status.copies.begin(), status.copies.end(),
                                    [&](const ServiceCopy& copy) { return copy.vm == vm; });
    return found == status.copies.end() ? nullptr : &*found;
  }

  /// When the copy's host is to be emptied, the service replaces it by a duplicate: nobody else moves it meanwhile.
  /// Bounded by the policy's times: a copy that could not be replaced is released.
  bool replaces(const VmId& vm) const {
    const ServiceCopy* copy = find_copy(vm);
    if (copy == nullptr || meta.deleting_at || spec.policy.relocation != RelocationMode::duplicate)
      return false;
    return !copy->released && copy->state != ServiceCopyState::starting;
  }
};
BOOST_DESCRIBE_STRUCT(Service, (), (meta, spec, status))

// Read and written in one translation unit (model/json.cc): reflection is dear to compile.
extern template json::value to_json<Service>(const Service&);
extern template Result<Service> from_json<Service>(const json::value&, UnknownFields);

}  // namespace virga
