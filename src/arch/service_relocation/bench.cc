#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "arch/service_relocation/planner.h"

/// The planner with 100 hosts and 1,000 services of 4 copies. Prints `name value unit`.
namespace virga {
namespace {

constexpr int kHosts = 100;
constexpr int kServices = 1'000;
constexpr int kCopies = 4;
constexpr int kRuns = 9;

struct Services {
  ClusterView view;
  ServiceEvidence evidence;
};

void add_hosts(Services& made) {
  for (int number = 0; number < kHosts; ++number) {
    Host host;
    host.meta.name = "h" + std::to_string(number);
    host.spec.cluster = ClusterId("c1");
    host.status.health = HostHealth::alive;
    host.status.capacity = {{64'000}, {1 << 20}};
    made.view.hosts.put(std::make_shared<const Host>(host));
    made.evidence.hosts[host.id()].reports = true;
  }
}

void add_copies(Services& made, Service& service, int number) {
  for (int index = 1; index <= kCopies; ++index) {
    const VmId id(service.id().value + "-c" + std::to_string(index));
    Vm vm = vm_of(service, {id, HostId()});
    vm.status.power = VmPower::running;
    vm.status.host = HostId("h" + std::to_string((number + index) % kHosts));
    made.view.vms.put(std::make_shared<const Vm>(vm));
    ServiceCopy& copy = service.status.copies.emplace_back();
    copy.vm = id;
    copy.state = ServiceCopyState::serving;
    made.evidence.in_state[id] = seconds(60);
    made.evidence.up_for[id] = seconds(60);
  }
}

Services all_serving(bool maintenance) {
  Services made;
  made.view.revision = 1;
  Cluster cluster;
  cluster.meta.name = "c1";
  made.view.clusters.put(std::make_shared<const Cluster>(cluster));
  Network network;
  network.meta.tenant = "t";
  network.meta.name = "net";
  network.spec = {ClusterId("c1"), 7, "10.0.0.0/16", 1450};
  made.view.networks.put(std::make_shared<const Network>(network));
  add_hosts(made);
  for (int number = 0; number < kServices; ++number) {
    Service service;
    service.meta.tenant = "t";
    service.meta.name = "s" + std::to_string(number);
    service.spec.cluster = ClusterId("c1");
    service.spec.vm.network = "net";
    service.spec.replicas = kCopies;
    service.status.available = true;
    add_copies(made, service, number);
    service.status.balancer = HostId("h" + std::to_string(number % kHosts));
    ServiceBalancer& balancer =
        made.evidence.hosts[service.status.balancer].balancers[service.id()];
    balancer.running = true;
    balancer.seen.revision = balancer_of(made.view, service).revision;
    for (const ServiceCopy& copy : service.status.copies) {
      ObservedBalancerServer& server = balancer.seen.servers.emplace_back();
      server.pool = "copies";
      server.name = copy.vm.value.substr(2);
      server.health = BalancerHealth::up;
    }
    made.view.services.put(std::make_shared<const Service>(service));
  }
  if (!maintenance) return made;
  Host host = *made.view.hosts.find(HostId("h7"));
  host.spec.maintenance = true;
  made.view.hosts.put(std::make_shared<const Host>(host));
  return made;
}

void measure(const std::string& name, const Services& services) {
  std::vector<double> spans;
  std::size_t actions = 0;
  for (int run = 0; run < kRuns; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    const ServicePlan plan = plan_services(services.view, ClusterId("c1"), services.evidence, {});
    const std::chrono::duration<double, std::milli> span = std::chrono::steady_clock::now() - begin;
    spans.push_back(span.count());
    actions = plan.steps.size() + plan.work.size();
  }
  std::sort(spans.begin(), spans.end());
  std::printf("%s %.2f ms\n%s_actions %zu actions\n", name.c_str(), spans[kRuns / 2], name.c_str(),
              actions);
}

}  // namespace
}  // namespace virga

int main() {
  virga::measure("service_plan_quiet", virga::all_serving(false));
  virga::measure("service_plan_maintenance", virga::all_serving(true));
  return 0;
}
