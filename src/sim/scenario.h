#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "sim/cloud.h"

namespace virga::sim {

struct ScenarioVm {
  VmId id;
  ClusterId cluster{"c1"};
  Millicores cpu{500};
  Mib memory{512};
  RestartPriority priority = RestartPriority::normal;
  HostId pinned;
  std::string group;
  std::string volume;  ///< of the same tenant, made with it; empty = none
  bool mirrored = false;  ///< that volume
  bool local = false;     ///< it is
};

struct ScenarioService {
  ServiceId id;
  int replicas = 2;
  RelocationMode relocation = RelocationMode::duplicate;
  ServiceScaling scaling{};
  ServiceObjective objective{};
};

struct ScenarioEvent {
  Duration at{};
  std::function<void(Cloud&)> act;
};

/// A rehearsal: a cloud, what happens to it, and what its journal is to say. The text form:
///
///   # any comment
///   hosts 3 cpu 8000 memory 8192        names: host-1 host-2 host-3; option cluster 2: two in c1, one in c2
///   vms 6 tenant acme memory 512        names: acme/vm-1 ...; options: cpu memory priority host group
///   vm acme/db priority high            option volume NAME: with this volume as its disk;
///                                     mirrored NAME, local NAME: with such a one
///   service acme/web replicas 2         copies behind an address; options relocation duplicate|live_migration,
///                                       action scale|duplicate|live_migration, any field of ServiceScaling,
///                                       availability_ppm, blackout_ms, response_ms: it is asked by a monitor
///   device host-1                       a storage device there
///   region eu host-1 host-2             where hosts stand
///   tenant acme eu us                   the only regions where its guests and data may be
///   policy lease_ms 10000               any knob of ClusterPolicy
///   network loss_per_million 10000      any fault of the simulated network
///   option image-locks off              also: watchdogs, bmc, codec (on|off), supervisor (a time), seed (a number),
///                                       shared (on: the end says whose configurations which hosts can read)
///   at 10s fail host-2 power            see FaultKind; then a network or a VM; then: bmc answers|silent|lies|slow
///   at 40s heal host-2                  or: heal all
///   breaks two_places                   a rule of the checker that nothing can hold here: it must be broken
///   run 60s
///   ----
///   the expected journal
///
/// Other events: bmc HOST MODE; server kill|start|freeze|thaw|cut|join; vm ...; start|stop|delete VM; move VM HOST;
/// quota VM MILLICORES; volume NAME DEVICE; snapshot NAME VOLUME; relocate SERVICE COPY; demand SERVICE REQUESTS;
/// maintenance HOST on|off; ha on|off; network TENANT/NAME; partition HOST...; backup; restore;
/// cut PARTY PARTY [one-way]: hosts, or the word server, whose packets to each other vanish until either is healed.
struct Scenario {
  CloudOptions cloud;
  int hosts = 0;
  int cluster_hosts = 0;  ///< in each cluster; 0 = all are in one. VMs belong to the first
  Capacity capacity{{8000}, {8192}};
  bool watchdogs = true;
  bool bmcs = true;
  std::vector<ScenarioVm> vms;
  std::vector<HostId> devices;  ///< hosts that have one
  std::vector<ScenarioService> services;
  std::map<HostId, std::string> regions;                    ///< of hosts that are in one
  std::map<std::string, std::vector<std::string>> tenants;  ///< with the regions that each allows
  bool shows_shared = false;
  std::vector<ScenarioEvent> events;
  std::set<std::string> breaks;  ///< rules that are broken, or play() reports that they are not
  Duration length{};
  std::string head;      ///< the text up to the line ----, that included
  std::string expected;  ///< the text after it
};

/// Errors: invalid, naming the line, the word and what would be right. At most 256 KiB, 1,000 hosts, 10,000 VMs, 24 h.
Result<Scenario> parse_scenario(std::string_view text);

/// A process of a VM that ended, in truth.
struct EndedCopy {
  VmId vm;
  HostId host;
  std::string why;  ///< see World::end_copy()
};

struct Rehearsal {
  std::string journal;                ///< what the scenario's expected text is compared with
  std::vector<Violation> violations;  ///< but those that the scenario announces
  std::vector<EndedCopy> ended;       ///< in order
  std::uint64_t hash = 0;
};

/// Plays it on a new cloud. Deterministic.
Rehearsal play(const Scenario& scenario);

/// Writes the resources of a new cloud: image "tiny", hosts "host-1" ... with machines of the same names, clusters "c1"
/// ... of `cluster_hosts` hosts each.
void found_cloud(Cloud& cloud, int hosts, Capacity capacity, bool bmcs, int cluster_hosts);
void put_vm(Cloud& cloud, const ScenarioVm& vm);

/// On a network "front" of its tenant, with an address of its own.
void put_service(Cloud& cloud, const ScenarioService& service);

/// A storage device on the host, named after it.
void put_device(Cloud& cloud, const HostId& host);

/// Where the host stands, in truth and on record.
void put_region(Cloud& cloud, const HostId& host, const std::string& region);
void put_tenant(Cloud& cloud, const std::string& tenant, const std::vector<std::string>& regions);

/// One network a cluster, with the number of the cluster's name as VNI.
void put_network(Cloud& cloud, const ClusterId& cluster);

/// On its cluster's network; `number` is different for each VM.
void put_port(Cloud& cloud, const ScenarioVm& vm, int number);

/// A floating address for every third VM of tenant t0, whose network that is.
void put_floating(Cloud& cloud, const ScenarioVm& vm, int number);

/// One line for each event: time, kind, subject and facts; without what was measured or numbered.
std::string normalised(const Event& event, WallTime start);

}  // namespace virga::sim
