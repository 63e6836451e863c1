#pragma once

#include "arch/service_relocation/types.h"
#include "runtime/cluster_view.h"

namespace virga {

/// Decides for the services of one cluster: which copies they get and lose, where their balancers are, what a
/// relocation does next. The contract of every planner (ARCHITECTURE.md) holds.
///
/// Safety: a copy that is healthy drains and goes only while as many others as the service is to have are healthy, and
/// in a relocation only after its replacement has answered requests through the frontend. What is asked of a balancer
/// rests on what is stored. Cost: O(services * copies + hosts * log), O(hosts) more for a new copy.
ServicePlan plan_services(const ClusterView& view, const ClusterId& cluster,
                          const ServiceEvidence& evidence, const ServiceOptions& options);

/// What the service's balancer has to be now. Its revision grows with every change of the service's record.
BalancerSpec balancer_of(const ClusterView& view, const Service& service);

/// The VM that a new copy of the service is, without its ports.
Vm vm_of(const Service& service, const NewCopy& copy);

/// How long a new server of a balancer must be seen healthy until a check has really said so: one that was never
/// looked at is shown as healthy.
Duration settling_time(const BalancerCheck& check);

}  // namespace virga
