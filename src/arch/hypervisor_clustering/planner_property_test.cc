#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>

#include "arch/hypervisor_clustering/planner.h"
#include "arch/hypervisor_clustering/test_cluster.h"
#include "base/rng.h"

namespace virga {
namespace {

using test::TestCluster;

void shape_host(TestCluster& cluster, const std::string& name, Rng& rng) {
  cluster.add_host(name, rng.between(300, 2000));
  if (rng.chance(500'000)) cluster.add_bmc(name);
  const bool maintenance = rng.chance(100'000);
  const bool armed = rng.chance(700'000);
  const std::int64_t cpu = rng.chance(500'000) ? 2000 : 8000;
  cluster.edit_host(name, [&](Host& host) {
    host.spec.maintenance = maintenance;
    host.status.leash_armed = armed;
    host.status.capacity.cpu_millicores = Millicores{cpu};
  });
}

/// What befalls the host after its VMs were placed.
void strike_host(TestCluster& cluster, const std::string& name, Rng& rng) {
  const std::uint64_t fate = rng.below(10);
  if (fate == 0) cluster.seen(name).degraded = "disk";
  if (fate == 1) cluster.fence(name, FenceProof::bmc_power_off);
  if (fate == 2 || fate == 3) {
    cluster.silence(name, milliseconds(rng.between(1900, 20'000)), 2,
                    static_cast<int>(rng.below(3)));
    cluster.seen(name).lease_over = cluster.seen(name).silence > seconds(13);
  }
  if (fate == 4 && !cluster.seen(name).vms.empty()) cluster.seen(name).vms.pop_back();
}

void shape_vm(TestCluster& cluster, int number, const std::vector<std::string>& hosts, Rng& rng) {
  const std::int64_t memory = rng.between(32, 300);
  std::string host;
  if (!hosts.empty() && rng.chance(700'000)) host = hosts[rng.below(hosts.size())];
  const Mib needed{memory + 64};
  const PlacementState state(cluster.view, cluster.id);
  if (!host.empty() && state.free_on(HostId(host)).memory_mib < needed) host.clear();
  const VmId vm = cluster.add_vm("v" + std::to_string(number), host, memory);
  const auto priority = static_cast<RestartPriority>(rng.below(4));
  const bool stopped = rng.chance(100'000);
  const bool deleting = rng.chance(50'000);
  const bool direct = rng.chance(100'000);
  const bool restart = rng.chance(50'000);
  const Millicores quota{rng.between(0, 4) * 1000};
  cluster.edit_vm(vm, [&](Vm& changed) {
    changed.spec.restart_priority = priority;
    changed.spec.direct_io = direct;
    changed.spec.restart = restart;
    changed.spec.cpus = 4;
    changed.spec.cpu_millicores = quota;
    if (stopped) changed.spec.power = DesiredPower::stopped;
    if (deleting) changed.meta.deleting_at = WallTime{1};
  });
  if (!host.empty() && rng.chance(700'000)) {  // of an agent that tells what is in force
    ObservedVm& copy = cluster.seen(host).vms.back();
    copy.cpu_millicores_max = Millicores{rng.between(1, 4) * 1000};
    copy.cpu_weight = rng.chance(800'000) ? 100 : 50;
    copy.processes_max = rng.chance(500'000) ? 0 : 256;
  }
  if (!hosts.empty() && rng.chance(50'000)) {
    const HostId wanted(hosts[rng.below(hosts.size())]);
    cluster.edit_vm(vm, [&](Vm& changed) { changed.spec.move_to = wanted; });
  }
  if (!hosts.empty() && rng.chance(50'000)) {
    cluster.report(hosts[rng.below(hosts.size())], vm, {1, 3});
  }
}

/// Any cluster that can come about by placements and then by faults; one seed, one cluster.
TestCluster any_cluster(std::uint64_t seed) {
  Rng rng(seed);
  TestCluster cluster;
  std::vector<std::string> hosts;
  const std::uint64_t host_count = rng.below(7);
  for (std::uint64_t index = 0; index < host_count; ++index) {
    hosts.push_back("h" + std::to_string(index));
    shape_host(cluster, hosts.back(), rng);
  }
  const std::uint64_t vm_count = rng.below(20);
  for (std::uint64_t index = 0; index < vm_count; ++index) {
    shape_vm(cluster, static_cast<int>(index), hosts, rng);
  }
  for (const std::string& host : hosts) strike_host(cluster, host, rng);
  const bool armed = !rng.chance(100'000);
  const int tolerated = static_cast<int>(rng.below(3));
  cluster.policy([&](ClusterPolicy& policy) {
    policy.ha_armed = armed;
    policy.failures_tolerated = tolerated;
  });
  cluster.evidence.recovery_held = rng.chance(50'000);
  if (rng.chance(50'000)) cluster.evidence.observer_lag = seconds(1);
  return cluster;
}

/// A plan as text, for comparison.
std::string text_of(const ClusterPlan& plan) {
  std::string text;
  const auto add = [&](const std::string& what, const std::string& subject,
                       const std::string& place, const std::string& reason) {
    text += what + " " + subject + " " + place + " " + reason + "\n";
  };
  for (const auto& one : plan.host_changes) add("host", one.host.value, "", one.reason);
  for (const auto& one : plan.fences) add("fence", one.host.value, "", one.reason);
  for (const auto& one : plan.revokes) add("revoke", one.vm.value, one.host.value, one.reason);
  for (const auto& one : plan.observations)
    add("see", one.vm.value, one.host.value, one.health_reason);
  for (const auto& one : plan.starts) add("start", one.vm.value, one.host.value, one.reason);
  for (const auto& one : plan.moves) add("move", one.vm.value, one.destination.value, one.reason);
  for (const auto& one : plan.stops) add("stop", one.vm.value, one.host.value, one.reason);
  for (const auto& one : plan.limits) add("limit", one.vm.value, one.host.value, one.reason);
  for (const auto& one : plan.unplaced) add("unplaced", one.vm.value, "", one.reason);
  return text;
}

/// The world after the plan was carried out without a failure.
class Execution {
 public:
  explicit Execution(TestCluster& cluster) : cluster_(cluster) {}

  /// What is believed of hosts is stored first, alone; the rest is planned again on it, as the
  /// controller does.
  void run(const ClusterPlan& plan) {
    for (const HostChange& change : plan.host_changes) {
      cluster_.edit_host(change.host.value, [&](Host& host) {
        host.status.health = change.health;
        host.status.fence_proof = change.proof;
        host.status.health_reason = change.reason;
      });
    }
    if (!plan.host_changes.empty()) return;
    for (const FenceHost& fence : plan.fences) run(fence);
    for (const ObserveVm& seen : plan.observations) run(seen);
    for (const StartVm& start : plan.starts) run(start);
    for (const MoveVm& move : plan.moves) run(move);
    for (const StopVm& stop : plan.stops) run(stop);
    for (const Unplaced& left : plan.unplaced) run(left);
    for (const RevokeCopy& copy : plan.revokes) forget(copy.host, copy.vm);
    for (const LimitVm& change : plan.limits) run(change);
  }

 private:
  void forget(const HostId& host, const VmId& vm) {
    auto& copies = cluster_.evidence.hosts[host].vms;
    std::erase_if(copies, [&](const ObservedVm& copy) { return copy.vm == vm; });
  }

  void run(const FenceHost& fence) {
    cluster_.evidence.hosts[fence.host].fence_may_begin = false;
    if (!fence.ask_only) cluster_.fence(fence.host.value, FenceProof::bmc_power_off);
  }

  void run(const ObserveVm& seen) {
    cluster_.edit_vm(seen.vm, [&](Vm& vm) {
      vm.status.power = seen.power;
      vm.status.health = seen.health;
      vm.status.health_reason = seen.health_reason;
      vm.status.host = seen.host;
      vm.status.epoch = seen.epoch;
    });
  }

  void runs_at(Vm& vm, const HostId& host, const Epoch& epoch) {
    vm.status.power = VmPower::running;
    vm.status.health = VmHealth::healthy;
    vm.status.health_reason.clear();
    vm.status.host = host;
    vm.status.epoch = epoch;
    vm.status.identity.machine_type = "pc-q35-7.2";
    vm.status.identity.cpu_model = "qemu64";
    vm.status.unplaced_reason.clear();
    vm.status.recovering = false;
    vm.status.lost.clear();
  }

  void run(const StartVm& start) {
    for (const LostCopy& copy : start.lost) forget(copy.host, start.vm);
    cluster_.edit_vm(start.vm, [&](Vm& vm) { runs_at(vm, start.host, start.epoch); });
    cluster_.report(start.host.value, start.vm, start.epoch);
  }

  void run(const MoveVm& move) {
    forget(move.source, move.vm);
    cluster_.edit_vm(move.vm, [&](Vm& vm) {
      runs_at(vm, move.destination, move.next_epoch);
      if (vm.spec.move_to == move.destination) vm.spec.move_to = HostId();
    });
    cluster_.report(move.destination.value, move.vm, move.next_epoch);
  }

  void run(const StopVm& stop) {
    if (!stop.host.empty()) forget(stop.host, stop.vm);
    if (stop.then_delete) {
      for (auto& [host, seen] : cluster_.evidence.hosts) forget(host, stop.vm);
      return cluster_.view.vms.erase(stop.vm);
    }
    cluster_.edit_vm(stop.vm, [&](Vm& vm) {
      vm.spec.restart = false;
      vm.status.power = VmPower::stopped;
      vm.status.host = HostId();
      if (!stop.host.empty()) {
        remember(vm.status.lost, {stop.host, FenceProof::agent_confirmed_stop});
      }
      vm.status.recovering = vm.spec.power == DesiredPower::running;
    });
  }

  void run(const LimitVm& change) {
    const Vm& vm = cluster_.vm(change.vm);
    for (ObservedVm& copy : cluster_.evidence.hosts[change.host].vms) {
      if (copy.vm != change.vm || copy.epoch != vm.status.epoch) continue;
      copy.cpu_millicores_max = demand_of(vm).cpu_millicores;
      copy.cpu_weight = vm.spec.cpu_weight;
      copy.processes_max = vm.spec.processes_max;
    }
  }

  void run(const Unplaced& left) {
    cluster_.edit_vm(left.vm, [&](Vm& vm) {
      vm.status.unplaced_reason = left.reason;
      if (left.lost.empty()) return;
      vm.status.power = VmPower::stopped;
      vm.status.host = HostId();
      vm.status.recovering = true;
      vm.status.lost = left.lost;
    });
  }

  TestCluster& cluster_;
};

/// Rule 2: a VM is the subject of at most one action.
void check_one_action_each(const ClusterPlan& plan) {
  std::map<VmId, int> actions;
  for (const StartVm& one : plan.starts) ++actions[one.vm];
  for (const MoveVm& one : plan.moves) ++actions[one.vm];
  for (const StopVm& one : plan.stops) ++actions[one.vm];
  for (const Unplaced& one : plan.unplaced) ++actions[one.vm];
  for (const auto& [vm, count] : actions) RC_ASSERT(count == 1);
  for (const LimitVm& one : plan.limits) {
    const auto same = [&](const auto& other) { return other.vm == one.vm; };
    RC_ASSERT(std::none_of(plan.starts.begin(), plan.starts.end(), same));
    RC_ASSERT(std::none_of(plan.moves.begin(), plan.moves.end(), same));
    RC_ASSERT(std::none_of(plan.stops.begin(), plan.stops.end(), same));
    RC_ASSERT(std::count_if(plan.limits.begin(), plan.limits.end(), same) == 1);
  }
  for (const ObserveVm& seen : plan.observations) {
    for (const StartVm& start : plan.starts) RC_ASSERT(start.vm != seen.vm);
  }
}

/// The safety rule: what ran somewhere starts only when it is proven not to run there.
void check_proofs(const TestCluster& cluster, const ClusterPlan& plan) {
  std::map<HostId, FenceProof> fenced;
  for (const HostChange& change : plan.host_changes) fenced[change.host] = change.proof;
  for (const StartVm& start : plan.starts) {
    const VmStatus& before = cluster.vm(start.vm).status;
    RC_ASSERT(start.epoch > before.epoch);
    if (before.power == VmPower::stopped) continue;
    RC_ASSERT(!start.lost.empty());
    const Host& old_host = *cluster.view.hosts.find(before.host);
    const auto now = fenced.find(before.host);
    const FenceProof proof = now == fenced.end() ? old_host.status.fence_proof : now->second;
    RC_ASSERT(proof != FenceProof::none);
    RC_ASSERT(start.lost.back() == (LostCopy{before.host, proof}));
    for (const LostCopy& older : before.lost) {
      const auto kept = [&](const LostCopy& copy) { return copy.host == older.host; };
      RC_ASSERT(std::any_of(start.lost.begin(), start.lost.end(), kept));
    }
  }
}

/// Rule 8: with everything in the plan counted at both ends, no host is given more than it has.
/// Copies that are found
/// running may overfill a host; then nothing is added to it.
void check_capacity(const TestCluster& cluster, const ClusterPlan& plan) {
  PlacementState state(cluster.view, cluster.id);
  std::set<HostId> filled;
  for (const ObserveVm& seen : plan.observations) state.add(cluster.vm(seen.vm), seen.host);
  for (const StartVm& start : plan.starts) {
    state.add(cluster.vm(start.vm), start.host);
    if (start.lost.empty() || start.host != start.lost.back().host) filled.insert(start.host);
  }
  for (const MoveVm& move : plan.moves) {
    state.add(cluster.vm(move.vm), move.destination);
    filled.insert(move.destination);
  }
  for (const HostId& host : filled) {
    RC_ASSERT(state.free_on(host).memory_mib.value >= 0);
    RC_ASSERT(state.free_on(host).cpu_millicores.value >= 0);
  }
}

/// Rule 8 for quotas: what is in force on a host grows only within what it has.
void check_quotas(const TestCluster& cluster, const ClusterPlan& plan) {
  const std::int64_t percent =
      cluster.view.clusters.find(cluster.id)->spec.policy.cpu_overcommit_percent;
  for (const auto& [host, seen] : cluster.evidence.hosts) {
    std::int64_t in_force = 0;
    std::int64_t more = 0;
    for (const ObservedVm& copy : seen.vms) {
      in_force += copy.cpu_millicores_max.value;
      for (const LimitVm& change : plan.limits) {
        if (change.vm != copy.vm || change.host != host) continue;
        if (copy.epoch != cluster.vm(copy.vm).status.epoch) continue;
        more += std::max<std::int64_t>(
            0, demand_of(cluster.vm(copy.vm)).cpu_millicores.value - copy.cpu_millicores_max.value);
      }
    }
    const std::int64_t all = cluster.host(host.value).status.capacity.cpu_millicores.value;
    RC_ASSERT(more == 0 || in_force + more <= all * percent / 100);
  }
}

void check_explained(const ClusterPlan& plan) {
  for (const StartVm& one : plan.starts) RC_ASSERT(!one.reason.empty());
  for (const MoveVm& one : plan.moves) RC_ASSERT(!one.reason.empty());
  for (const StopVm& one : plan.stops) RC_ASSERT(!one.reason.empty());
  for (const FenceHost& one : plan.fences) RC_ASSERT(!one.reason.empty());
  for (const LimitVm& one : plan.limits) RC_ASSERT(!one.reason.empty());
  for (const Unplaced& one : plan.unplaced) {
    const bool cleared = one.reason.empty() && one.lost.empty();
    RC_ASSERT(cleared == one.reason.empty());
  }
  for (const HostChange& one : plan.host_changes) RC_ASSERT(!one.reason.empty());
}

TEST(PlanningProperties, F_B8_the_same_input_gives_the_same_plan) {
  EXPECT_TRUE(rc::check([](std::uint64_t seed) {
    RC_ASSERT(text_of(any_cluster(seed).plan()) == text_of(any_cluster(seed).plan()));
  }));
}

TEST(PlanningProperties, A1_06_F_B8_every_round_is_safe_until_nothing_is_left_to_do) {
  EXPECT_TRUE(rc::check([](std::uint64_t seed) {
    TestCluster cluster = any_cluster(seed);
    constexpr int kRoundsMax = 60;
    for (int round = 0; round < kRoundsMax; ++round) {
      const ClusterPlan plan = cluster.plan();
      if (plan.empty()) return;
      check_one_action_each(plan);
      check_proofs(cluster, plan);
      check_capacity(cluster, plan);
      check_quotas(cluster, plan);
      check_explained(plan);
      Execution(cluster).run(plan);
      ++cluster.view.revision;
    }
    RC_FAIL("not at rest; the next plan:\n" + text_of(cluster.plan()));
  }));
}

TEST(PlanningProperties, A1_06_at_rest_every_vm_that_could_run_runs_or_says_why_not) {
  EXPECT_TRUE(rc::check([](std::uint64_t seed) {
    TestCluster cluster = any_cluster(seed);
    cluster.policy([](ClusterPolicy& policy) { policy.ha_armed = true; });
    cluster.evidence.recovery_held = false;
    cluster.evidence.observer_lag = Duration{0};  // a slow observer waits; it would not be at rest
    constexpr int kRoundsMax = 60;
    for (int round = 0; round < kRoundsMax; ++round) {
      Execution(cluster).run(cluster.plan());
      ++cluster.view.revision;
    }
    for (const auto& [id, vm] : cluster.view.vms.all()) {
      const bool wanted = vm->spec.power == DesiredPower::running && !vm->meta.deleting_at &&
                          vm->spec.restart_priority != RestartPriority::none;
      if (!wanted || vm->status.power != VmPower::stopped) continue;
      RC_ASSERT(!vm->status.unplaced_reason.empty());
    }
  }));
}

}  // namespace
}  // namespace virga
