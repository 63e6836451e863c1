#pragma once

#include <string>

#include "arch/service_relocation/step.h"

namespace virga {

/// What one service does in one round: works on a copy of its status; what differs in the end is the step.
class ServiceRound {
 public:
  ServiceRound(const ClusterView& view, const Service& service, const ServiceEvidence& evidence,
               const ServiceOptions& options, ServicePlaces& places);

  std::optional<ServiceStep> run();

 private:
  // step.cc: the service as it stands
  void forget_gone();
  void end_service();
  void place_balancer();
  void place_monitor();
  void note_health();
  void finish_draining();
  void keep_count();
  void judge();
  bool drained(const ServiceCopy& copy) const;
  void retire(ServiceCopy& copy);
  Result<VmId> add_copy(const HostId& wanted, const HostId& other_than);

  // demand.cc: what the scaling listener has found
  void answer_demand();
  void scale(const Demand& demand);
  bool relieve(const Demand& demand);
  void tell_demand(const Demand& demand, const std::string& what);

  // relocating.cc: what replaces what
  void weigh();
  void relocate();
  void obey();
  void leave_maintenance();
  void go_home();
  void begin(ServiceCopy& copy, ServiceRelocation relocation);
  void begin_duplicate(ServiceRelocation relocation);
  void begin_move(ServiceRelocation relocation);
  void go_on_duplicate();
  void go_on_move();
  bool recall(ServiceCopy& original);
  bool answers(const VmId& vm, std::string& proof) const;
  void redirect(ServiceCopy& original, const ServiceCopy& replacement, const std::string& proof);
  void give_up(const std::string& why);
  void refuse(const std::string& copy, const std::string& why);

  ServiceStatus& status() { return step_.status; }
  void tell(std::string kind, std::string text, boost::json::object facts = {},
            Severity severity = Severity::info);
  ServiceCopy* find(const VmId& vm);
  void set(ServiceCopy& copy, ServiceCopyState state);
  Duration in_state(const VmId& vm) const;
  /// That consumers have had no answer.
  std::optional<Duration> failing() const;
  const Host* host_of(const VmId& vm) const;
  const ServiceBalancer* balancer() const;
  const ObservedBalancerServer* seen(const VmId& vm) const;
  /// Gets requests, and the balancer says that it is healthy.
  bool up(const ServiceCopy& copy) const;
  int up_beside(const VmId& vm) const;
  int active() const;
  int wanted() const { return service_.spec.replicas + step_.status.extra; }

  const ClusterView& view_;
  const Service& service_;
  const ServiceEvidence& evidence_;
  const ServiceOptions& options_;
  ServicePlaces& places_;
  ServiceStep step_;
  std::string note_;  ///< why it is not as it is asked for
};

}  // namespace virga
