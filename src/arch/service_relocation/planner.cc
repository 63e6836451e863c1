#include "arch/service_relocation/planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <utility>

#include "arch/service_relocation/step.h"
#include "mechanism/placement/placement.h"
#include "model/keys.h"

namespace virga {
namespace {

class Planner {
 public:
  Planner(const ClusterView& view, const ClusterId& cluster, const ServiceEvidence& evidence,
          const ServiceOptions& options)
      : view_(view),
        cluster_(cluster),
        evidence_(evidence),
        options_(options),
        places_(view, cluster, evidence) {}

  ServicePlan plan() {
    if (evidence_.held) return {};
    for (const Service* service : view_.services_of(cluster_)) decide(*service);
    remove_strangers();
    return std::move(plan_);
  }

 private:
  template <typename Actions>
  bool room_in(const Actions& actions) const {
    return actions.size() < static_cast<std::size_t>(options_.actions_max);
  }

  void decide(const Service& service);
  void tend_balancer(const Service& service);
  void remove_strangers();

  const ClusterView& view_;
  const ClusterId& cluster_;
  const ServiceEvidence& evidence_;
  const ServiceOptions& options_;
  ServicePlaces places_;
  ServicePlan plan_;
};

void Planner::decide(const Service& service) {
  if (!room_in(plan_.steps)) return;
  if (auto step = next_step(view_, service, evidence_, options_, places_)) {
    plan_.steps.push_back(std::move(*step));
    return;
  }
  // Agents are told what is stored: nothing takes effect before.
  tend_balancer(service);
}

void Planner::tend_balancer(const Service& service) {
  const BalancerSpec wanted = balancer_of(view_, service);
  for (const HostId& id : {service.status.balancer, service.status.balancer_next}) {
    const auto host = evidence_.hosts.find(id);
    if (id.empty() || host == evidence_.hosts.end() || !room_in(plan_.work)) continue;
    if (!host->second.reports || !host->second.can_balance) continue;
    if (evidence_.resting.contains({service.id(), id})) continue;
    const auto found = host->second.balancers.find(service.id());
    const bool there = found != host->second.balancers.end();
    if (there && found->second.running && found->second.seen.revision == wanted.revision) continue;
    plan_.work.push_back({service.id(), id, wanted});
  }
}

void Planner::remove_strangers() {
  for (const auto& [id, host] : evidence_.hosts) {
    if (!host.reports) continue;
    for (const auto& [service, balancer] : host.balancers) {
      const Service* stored = view_.services.find(service);
      const bool here = stored != nullptr &&
                        (stored->status.balancer == id || stored->status.balancer_next == id);
      if (here || evidence_.resting.contains({service, id}) || !room_in(plan_.work)) continue;
      plan_.work.push_back({service, id, std::nullopt});
    }
  }
}

}  // namespace

ServicePlan plan_services(const ClusterView& view, const ClusterId& cluster,
                          const ServiceEvidence& evidence, const ServiceOptions& options) {
  if (view.clusters.find(cluster) == nullptr) return {};
  return Planner(view, cluster, evidence, options).plan();
}

BalancerSpec balancer_of(const ClusterView& view, const Service& service) {
  constexpr int kRevisionBits = 44;  // a restored store counts on from an older revision
  const ServiceSpec& spec = service.spec;
  BalancerSpec made;
  const Network* network = view.networks.find(
      NetworkId(qualified(service.meta.tenant, service.spec.vm.network)));
  const std::uint64_t changed =
      std::max(service.meta.revision, network == nullptr ? 0 : network->meta.revision);
  made.revision = view.incarnation << kRevisionBits | changed;
  BalancerFrontend frontend;
  frontend.name = kServiceFrontend;
  frontend.address = spec.frontend.address;
  frontend.port = spec.frontend.port;
  frontend.protocol = spec.frontend.protocol;
  frontend.pool = kServicePool;
  if (spec.frontend.tls) frontend.certificate = spec.frontend.certificate;
  made.frontends.push_back(std::move(frontend));
  BalancerPool pool;
  pool.name = kServicePool;
  pool.check = spec.check;
  for (const ServiceCopy& copy : service.status.copies) {
    const std::vector<const Port*> ports = view.ports_of(copy.vm);
    if (copy.state == ServiceCopyState::retired || ports.empty()) continue;
    const std::string& address = ports.front()->spec.address;
    BalancerServer server;
    server.name = server_name(copy.vm);
    server.address = address.substr(0, address.find('/'));
    server.port = spec.vm.port;
    server.weight = copy.weight;
    server.connections_max = spec.frontend.copy_connections_max;
    server.state = copy.state == ServiceCopyState::serving ? BalancerServerState::ready
                                                           : BalancerServerState::drain;
    pool.servers.push_back(std::move(server));
  }
  made.pools.push_back(std::move(pool));
  return made;
}

Vm vm_of(const Service& service, const NewCopy& copy) {
  const ServiceTemplate& from = service.spec.vm;
  Vm made;
  made.meta.tenant = service.meta.tenant;
  made.meta.name = server_name(copy.vm);
  made.meta.labels = service.meta.labels;
  made.meta.generation = 1;
  made.meta.correlation = service.meta.correlation;
  made.spec.cluster = service.spec.cluster;
  made.spec.image = from.image;
  made.spec.cpus = from.cpus;
  made.spec.cpu_millicores = from.cpu_millicores;
  made.spec.memory_mib = from.memory_mib;
  made.spec.nics = {{from.network, from.security_groups}};
  made.spec.pinned_host = copy.host;
  made.spec.direct_io = from.direct_io;
  made.spec.parameters = from.parameters;
  made.spec.user_data = from.user_data;
  made.spec.service = service.id();
  return made;
}

std::string server_name(const VmId& vm) { return vm.value.substr(vm.value.find('/') + 1); }

Duration settling_time(const BalancerCheck& check) {
  return (check.interval_ms + check.timeout_ms) * check.fall + check.interval_ms;
}

}  // namespace virga
