#pragma once

#include <functional>
#include <memory>
#include <string>

#include "arch/hypervisor_clustering/planner.h"

namespace virga::test {

/// A small cluster as the planner sees it, for tests: a view and the evidence that belongs to it. A host that is added
/// is alive and reports; a VM that is added with a host runs there and is reported.
class TestCluster {
 public:
  TestCluster() {
    Cluster cluster;
    cluster.meta.name = id.value;
    cluster.spec.policy.failures_tolerated = 0;
    view.clusters.put(std::make_shared<const Cluster>(cluster));
    view.revision = 100;
    view.incarnation = 1;
  }

  void policy(const std::function<void(ClusterPolicy&)>& change) {
    Cluster cluster = *view.clusters.find(id);
    change(cluster.spec.policy);
    view.clusters.put(std::make_shared<const Cluster>(cluster));
  }

  HostId add_host(const std::string& name, std::int64_t memory_mib = 1024) {
    Host host;
    host.meta.name = name;
    host.spec.cluster = id;
    host.status.health = HostHealth::alive;
    host.status.health_reason = "reports arrive";
    host.status.boot_id = "boot-" + name;
    host.status.leash_armed = true;
    host.status.capacity = {Millicores{8000}, Mib{memory_mib}};
    host.status.hypervisor.machine_types = {"pc-q35-7.2"};
    host.status.hypervisor.cpu_model = "qemu64";
    view.hosts.put(std::make_shared<const Host>(host));
    HostEvidence& seen = evidence.hosts[host.id()];
    seen.reported = true;
    seen.lease_over = false;
    seen.boot_id = host.status.boot_id;
    return host.id();
  }

  /// Gives the host a machine with a BMC.
  void add_bmc(const std::string& host) {
    Machine machine;
    machine.meta.name = "machine-" + host;
    machine.spec.bmc.protocol = BmcProtocol::redfish;
    view.machines.put(std::make_shared<const Machine>(machine));
    edit_host(host, [&](Host& changed) { changed.spec.machine = machine.id(); });
  }

  VmId add_vm(const std::string& name, const std::string& host = "",
              std::int64_t memory_mib = 128) {
    Vm vm;
    vm.meta.name = name;
    vm.meta.tenant = "acme";
    vm.spec.cluster = id;
    vm.spec.memory_mib = Mib{memory_mib};
    if (!host.empty()) {
      vm.status.power = VmPower::running;
      vm.status.health = VmHealth::healthy;
      vm.status.host = HostId(host);
      vm.status.epoch = {1, 7};
      vm.status.identity = {"uuid-" + name, "pc-q35-7.2", "qemu64", Accelerator::tcg};
      report(host, vm.id(), vm.status.epoch);
    }
    view.vms.put(std::make_shared<const Vm>(vm));
    return vm.id();
  }

  void report(const std::string& host, const VmId& vm, const Epoch& epoch) {
    ObservedVm copy;
    copy.vm = vm;
    copy.epoch = epoch;
    copy.power = VmPower::running;
    copy.health = VmHealth::healthy;
    evidence.hosts[HostId(host)].vms.push_back(copy);
  }

  void edit_host(const std::string& name, const std::function<void(Host&)>& change) {
    Host host = *view.hosts.find(HostId(name));
    change(host);
    view.hosts.put(std::make_shared<const Host>(host));
  }

  void edit_vm(const VmId& vm, const std::function<void(Vm&)>& change) {
    Vm changed = *view.vms.find(vm);
    change(changed);
    view.vms.put(std::make_shared<const Vm>(changed));
  }

  HostEvidence& seen(const std::string& host) { return evidence.hosts[HostId(host)]; }

  /// The host has been silent for so long; `silent` of `observers` peers get no answer either.
  void silence(const std::string& host, Duration span, int observers, int silent) {
    HostEvidence& lost = seen(host);
    lost.silence = span;
    lost.observers = observers;
    lost.observers_silent = silent;
    lost.vms.clear();
  }

  void fence(const std::string& host, FenceProof proof) {
    silence(host, seconds(20), 2, 2);
    seen(host).lease_over = true;
    edit_host(host, [&](Host& lost) {
      lost.status.health = HostHealth::fenced;
      lost.status.fence_proof = proof;
      lost.status.health_reason = "is off";
    });
  }

  /// A running operation on a VM, as the controller would have stored it.
  OperationId add_operation(OperationKind kind, const VmId& vm,
                            const OperationArguments& arguments) {
    Operation operation;
    operation.meta.name = "op-" + vm.value;
    operation.kind = kind;
    operation.subject = "vm/" + vm.value;
    operation.arguments = arguments;
    view.operations.put(std::make_shared<const Operation>(operation));
    edit_vm(vm, [&](Vm& changed) { changed.status.operation = operation.id(); });
    return operation.id();
  }

  ClusterPlan plan() const { return plan_cluster(view, id, evidence, options); }

  const Host& host(const std::string& name) const { return *view.hosts.find(HostId(name)); }
  const Vm& vm(const VmId& name) const { return *view.vms.find(name); }

  ClusterId id{"c1"};
  ClusterView view;
  ClusterEvidence evidence;
  ClusterOptions options;
};

}  // namespace virga::test
