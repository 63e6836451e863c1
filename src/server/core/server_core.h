#pragma once

#include <memory>
#include <string>

#include "arch/hypervisor_clustering/controller.h"
#include "arch/service_relocation/controller.h"
#include "arch/storage_workload/controller.h"
#include "driver/bmc.h"
#include "runtime/journal.h"
#include "runtime/journal_pump.h"
#include "runtime/operation_runner.h"
#include "server/core/agent_sessions.h"
#include "server/core/gateways.h"
#include "server/core/host_calendar.h"
#include "server/core/lease_bounds.h"
#include "server/core/metering.h"
#include "server/core/monitoring.h"
#include "server/core/overlay.h"
#include "server/core/perimeter.h"
#include "server/core/region_watch.h"

namespace virga {

struct ServerDependencies {
  Loop& loop;
  Store& store;
  Journal& journal;
  Bmc& bmc;
  HostLinks& links;
  std::function<std::string()> make_secret;  ///< 256 random bits, hex
  /// A key for one purpose, made of a secret and a name; nobody finds the secret by it.
  std::function<std::string(const std::string& secret, const std::string& name)> derive_key;
  metering::UsageStore* usage = nullptr;  ///< nullptr = nothing is metered
};

struct ServerOptions {
  Duration tick = milliseconds(250);  ///< how often silence is looked at
  Duration resync = seconds(30);      ///< every cluster is looked at so often, whatever was told
  ClusterController::Options controller;
  StorageController::Options storage;
  ServiceController::Options services;
};

/// The server without its sockets: the mirror of the store, the agents' sessions, the rooms' controllers, the runner of
/// operations and the journal's pump, wired. It runs the same in `virgad server` and in the simulator.
/// Loop thread only. Destroying it ends all that it does; what was in flight is taken up by the next one.
class ServerCore {
 public:
  ServerCore(ServerDependencies dependencies, ServerOptions options);

  /// Loads the state and begins to lead; `ready` runs when agents may connect.
  void start(Callback<void> ready);

  AgentSessions& sessions() { return sessions_; }
  StoreMirror& mirror() { return mirror_; }
  NameSource& names() { return names_; }
  const ClusterView& view() const { return mirror_.view(); }
  const Monitoring& monitoring() const { return monitoring_; }

  /// What is known of a host beside what is stored: silence, lease, load, its view of its peers.
  boost::json::object live_host(const HostId& host) const;

  /// Where the planner would start a VM that is not stored. Errors: exhausted, with one reason a host.
  Result<HostId> foretell_start(const Vm& vm) const;

  /// The exact plan for the loss of each single host of a cluster, or who would be stranded and why; whether the loss
  /// of any one, and of as many as the policy tolerates, strands nobody (`absorbed`; else, of several, `stranding`).
  boost::json::object whatif(const ClusterId& cluster) const;

  /// A restored state neither fences nor restarts until every host has reported or an operator calls this.
  bool recovery_held() const { return recovery_held_; }
  void release_recovery_hold();

  /// Looks at a cluster again (after a change that no key shows).
  void mark(const ClusterId& cluster);

  ClusterEvidence observe(const ClusterId& cluster) const;
  DeviceEvidence evidence_of(const Device& device, const ClusterPolicy& policy) const;
  StorageEvidence observe_storage(const ClusterId& cluster) const;
  ServiceEvidence observe_services(const ClusterId& cluster) const;
  void count_refusals(const ObservedDevice& device,
                      std::map<VolumeId, std::size_t>& refusing) const;
  std::set<VmId> cut_off_vms(const ClusterId& cluster) const;

 private:
  boost::json::object stranding_losses(const PlacementState& state, const Cluster& cluster) const;
  void observe_cpu(const Service& service, ServiceEvidence& evidence) const;
  void load_meta(Callback<void> ready);
  void found_meta(std::optional<KeyValue> incarnation, std::optional<KeyValue> served,
                  std::optional<KeyValue> probe_key, const Callback<void>& ready);
  void lead(const Callback<void>& ready);
  void tell_networks(const std::vector<Change>& changes);
  void tell_untold();
  void tick();
  void check_hold();
  bool needs_attention(const LiveHost& live) const;
  std::optional<std::string> seen_alive(const HostId& host) const;
  void journal_event(Event event);

  ServerDependencies on_;
  ServerOptions options_;
  StoreMirror mirror_;
  NameSource names_;
  AgentSessions sessions_;
  Overlay overlay_;
  Perimeter perimeter_;
  NetworkGateways gateways_;
  std::vector<Change> untold_;  ///< to hosts, of their networks
  Timer tell_timer_;
  RegionWatch regions_;
  Metering metering_;
  OperationRunner runner_;
  ClusterController controller_;
  StorageController storage_;
  ServiceController services_;
  HostCalendar calendar_;
  LeaseBounds lease_bounds_;
  Monitoring monitoring_;
  JournalPump pump_;
  Timer tick_timer_;
  Instant tick_due_;
  Instant tick_began_;
  Instant resync_due_;
  Duration lag_{0};
  Instant leads_since_;
  bool recovery_held_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
