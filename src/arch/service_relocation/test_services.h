#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "arch/service_relocation/planner.h"

namespace virga {

/// For tests: a cluster c1 of hosts h1 ... h3 and a service acme/web of two copies. What a plan says is done at once:
/// steps are stored, VMs begin to run where they are pinned, agents do what they are told.
class TestServices {
 public:
  TestServices() {
    view.revision = 40;
    view.incarnation = 1;
    Cluster cluster;
    cluster.meta.name = "c1";
    view.clusters.put(std::make_shared<const Cluster>(cluster));
    for (const char* name : {"h1", "h2", "h3"}) add_host(name);
    Network network;
    network.meta.tenant = "acme";
    network.meta.name = "front";
    network.spec = {ClusterId("c1"), 7, "10.50.0.0/24", 1450};
    view.networks.put(std::make_shared<const Network>(network));
    Service service;
    service.meta.tenant = "acme";
    service.meta.name = "web";
    service.spec.cluster = ClusterId("c1");
    service.spec.vm.image = ImageId("tiny");
    service.spec.vm.network = "front";
    service.spec.frontend.address = "10.50.0.10";
    put(service);
  }

  void add_host(const std::string& name) {
    Host host;
    host.meta.name = name;
    host.spec.cluster = ClusterId("c1");
    host.status.health = HostHealth::alive;
    host.status.capacity = {{8000}, {8192}};
    view.hosts.put(std::make_shared<const Host>(host));
    evidence.hosts[host.id()].reports = true;
  }

  template <typename T>
  void put(T resource) {
    resource.meta.revision = ++view.revision;
    table(resource).put(std::make_shared<const T>(resource));
  }
  const Service& web() const { return *view.services.find(ServiceId("acme/web")); }
  template <typename Change>
  void edit_web(const Change& change) {
    Service changed = web();
    change(changed);
    put(changed);
  }
  template <typename Change>
  void edit_host(const std::string& name, const Change& change) {
    Host changed = *view.hosts.find(HostId(name));
    change(changed);
    put(changed);
  }
  template <typename Change>
  void edit_vm(const std::string& name, const Change& change) {
    Vm changed = *view.vms.find(VmId("acme/" + name));
    change(changed);
    put(changed);
  }
  const Vm& vm(const std::string& name) const { return *view.vms.find(VmId("acme/" + name)); }
  const ServiceCopy& copy(const std::string& name) const {
    static const ServiceCopy kNone;
    const ServiceCopy* found = web().find_copy(VmId("acme/" + name));
    return found == nullptr ? kNone : *found;
  }
  bool has(const std::string& name) const { return view.vms.find(VmId("acme/" + name)) != nullptr; }

  ServicePlan plan() const { return plan_services(view, ClusterId("c1"), evidence, options); }

  /// One round, done. Events are kept.
  ServicePlan round() {
    look();
    ServicePlan made = plan();
    for (const ServiceStep& step : made.steps) take(step);
    for (const BalancerWork& work : made.work) {
      if (work.spec) balancers[{work.service, work.host}] = *work.spec;
      if (!work.spec) balancers.erase({work.service, work.host});
    }
    return made;
  }
  /// Rounds until nothing is left to do; at most 40.
  int settle() {
    for (int rounds = 0; rounds < 40; ++rounds) {
      if (round().empty()) return rounds;
    }
    return -1;
  }

  /// What agents report now.
  void look() {
    for (auto& [id, host] : evidence.hosts) host.balancers.clear();
    evidence.in_state.clear();
    evidence.up_for.clear();
    for (const auto& [place, spec] : balancers) {
      ServiceBalancer& seen = evidence.hosts[place.second].balancers[place.first];
      seen.service = place.first;
      seen.running = true;
      seen.seen.revision = spec.revision;
      for (const BalancerServer& server : spec.pools.front().servers) see(server, seen);
    }
    for (const ServiceCopy& one : web().status.copies) evidence.in_state[one.vm] = in_state;
    evidence.relocating.clear();
    if (web().status.relocation) evidence.relocating[web().id()] = in_state;
  }

  int count(const std::string& kind) const {
    int found = 0;
    for (const Event& event : events) found += event.kind == "service." + kind ? 1 : 0;
    return found;
  }
  const Event& last(const std::string& kind) const {
    static const Event kNone;
    for (auto event = events.rbegin(); event != events.rend(); ++event) {
      if (event->kind == "service." + kind) return *event;
    }
    return kNone;
  }

  /// A fact of the last event of that kind.
  std::string fact(const std::string& kind, const std::string& name) const {
    const auto* found = last(kind).facts.if_contains(name);
    if (found == nullptr) return "";
    return found->is_string() ? std::string(found->get_string()) : boost::json::serialize(*found);
  }

  ClusterView view;
  ServiceEvidence evidence;
  ServiceOptions options;
  std::map<std::pair<ServiceId, HostId>, BalancerSpec> balancers;
  std::set<std::string> broken;                  ///< copies that their checks find dead
  std::map<std::string, std::int64_t> sessions;  ///< of copies, now
  std::map<std::string, std::int64_t> totals;    ///< of copies; 1 where nothing is said
  Duration in_state = seconds(10);
  bool boots = true;  ///< new VMs begin to run
  std::vector<Event> events;

 private:
  auto& table(const Service&) { return view.services; }
  auto& table(const Host&) { return view.hosts; }
  auto& table(const Vm&) { return view.vms; }
  auto& table(const Port&) { return view.ports; }

  void see(const BalancerServer& server, ServiceBalancer& seen) {
    ObservedBalancerServer& one = seen.seen.servers.emplace_back();
    one.pool = "copies";
    one.name = server.name;
    one.state = server.state;
    const Vm* found = view.vms.find(VmId("acme/" + server.name));
    const Host* host = found == nullptr ? nullptr : view.hosts.find(found->status.host);
    const bool runs = host != nullptr && host->status.health == HostHealth::alive &&
                      found->status.power == VmPower::running && !broken.contains(server.name);
    one.health = runs ? BalancerHealth::up : BalancerHealth::down;
    one.sessions = sessions.contains(server.name) ? sessions[server.name] : 0;
    one.total = totals.contains(server.name) ? totals[server.name] : 1;
    one.total += one.sessions;
    if (runs) evidence.up_for[found->id()] = in_state;
  }

  void take(const ServiceStep& step) {
    events.insert(events.end(), step.events.begin(), step.events.end());
    const Service stored = *view.services.find(step.service);
    if (step.remove) return view.services.erase(step.service);
    for (const VmId& id : step.deletes) {
      if (!keeps_deleted) view.vms.erase(id);
    }
    for (const VmId& id : step.unpins) {
      if (view.vms.find(id) == nullptr) continue;
      edit_vm(id.value.substr(5),
              [&](Vm& vm) { vm.spec.pinned_host = stored.spec.vm.pinned_host; });
    }
    for (const auto& [id, host] : step.moves) {
      edit_vm(id.value.substr(5), [to = host](Vm& vm) { vm.spec.move_to = to; });
    }
    if (step.create) create(stored, *step.create);
    Service changed = stored;
    changed.status = step.status;
    if (step.order_decided) changed.spec.relocate.reset();
    if (step.weight_decided) changed.spec.weigh.reset();
    put(changed);
  }

  void create(const Service& service, const NewCopy& made) {
    Vm vm = vm_of(service, made);
    if (boots) {
      vm.status.power = VmPower::running;
      vm.status.health = VmHealth::healthy;
      vm.status.host = made.host;
    }
    put(vm);
    Port port;
    port.meta.tenant = "acme";
    port.meta.name = vm.meta.name + "-0";
    port.spec.vm = vm.id();
    port.spec.network = NetworkId("acme/front");
    port.spec.address = "10.50.0." + std::to_string(20 + ports_made_++) + "/24";
    view.ports.put(std::make_shared<const Port>(port));
  }

  int ports_made_ = 0;

 public:
  bool keeps_deleted = false;  ///< VMs stay while they are being deleted
};

}  // namespace virga
