#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "mechanism/scaling/listener.h"
#include "model/balancer.h"
#include "model/event.h"
#include "model/service.h"

namespace virga {

/// What is known of one host beside what is stored: volatile, held by the leader alone.
struct BalancerHostEvidence {
  bool reports = false;     ///< its agent is connected and reports
  bool awaited = false;     ///< not heard since this server leads, which is not long: nobody knows
  bool can_balance = true;  ///< that agent knows balancers
  bool can_probe = true;    ///< that agent asks services
  bool can_probe_tls = true;                       ///< also by TLS
  std::map<ServiceId, ServiceBalancer> balancers;  ///< of its last report
};

/// Evidence about the services of one cluster at one moment. Spans of time are what this server has measured.
struct ServiceEvidence {
  std::map<HostId, BalancerHostEvidence> hosts;
  std::map<VmId, Duration> in_state;  ///< since the copy has its stored state
  std::map<VmId, Duration>
      up_for;  ///< that the balancer in charge has seen it healthy without a break
  std::map<ServiceId, Duration> relocating;  ///< since the relocation began
  std::map<ServiceId, Duration> quiet;       ///< that no request came to the frontend
  std::map<ServiceId, Duration>
      failing;                ///< that consumers have had no answer, as far as their monitor knows
  std::set<ServiceId> spent;  ///< the promise to their consumers is broken
  std::set<ServiceId> mute;   ///< their monitor reports and has asked nobody for long
  std::map<VmId, int> cpu_percent;             ///< of its quota; copies of services that watch it
  std::map<ServiceId, DemandFindings> demand;  ///< what their scaling listeners have found
  std::set<std::pair<ServiceId, HostId>>
      resting;  ///< a command is under way or failed a moment ago
  std::map<std::pair<ServiceId, HostId>, std::string> failures;  ///< of the last command
  WallTime now;       ///< to be written down; nothing is decided by it
  bool held = false;  ///< restored from a backup and not yet confirmed: nothing is done
};

/// A VM made from the service's template.
struct NewCopy {
  VmId vm;
  HostId host;  ///< its place until it serves
};

/// One step of one service: all of it is one commit.
struct ServiceStep {
  ServiceId service;
  ServiceStatus status;                        ///< to be stored
  bool order_decided = false;                  ///< spec.relocate is cleared
  bool weight_decided = false;                 ///< spec.weigh is
  std::optional<NewCopy> create;               ///< of status.copies
  std::vector<VmId> deletes;                   ///< copies' VMs
  std::vector<VmId> unpins;                    ///< may run anywhere from now on
  std::vector<std::pair<VmId, HostId>> moves;  ///< alive; an empty host takes an order back
  bool remove = false;                         ///< nothing is left of it: its records go
  std::vector<Event> events;                   ///< kind, severity, text, facts
};

/// What a host's agent shall do; idempotent, so that it is simply asked for again.
struct BalancerWork {
  ServiceId service;
  HostId host;
  std::optional<BalancerSpec> spec;  ///< to be made so; nothing = the balancer goes
};

/// The room's decision: at most one step a service.
struct ServicePlan {
  std::vector<ServiceStep> steps;
  std::vector<BalancerWork> work;

  bool empty() const { return steps.empty() && work.empty(); }
};

struct ServiceOptions {
  int actions_max = 128;  ///< of each kind in one round; the rest waits for the next
  Duration quiet_min =
      seconds(5);  ///< without requests after which health checks alone prove a copy
  Duration failing_max =
      seconds(2);  ///< without answers after a redirection, which is taken back then
};

}  // namespace virga
