#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "arch/hypervisor_clustering/test_cluster.h"

/// The planner at the size it promises: 1,000 hosts and 4,000 VMs. Prints `name value unit`.
namespace virga {
namespace {

constexpr int kHosts = 1000;
constexpr int kVms = 4000;
constexpr int kRuns = 9;

std::string host_name(int number) { return "h" + std::to_string(number); }

test::TestCluster full_cluster(int vms = kVms, std::int64_t memory_mib = 4096) {
  test::TestCluster cluster;
  for (int host = 0; host < kHosts; ++host) cluster.add_host(host_name(host), memory_mib);
  for (int vm = 0; vm < vms; ++vm) {
    cluster.add_vm("v" + std::to_string(vm), host_name(vm % kHosts));
  }
  return cluster;
}

/// Median time of one plan; the planned actions are printed so that the work cannot be left out.
void measure(const std::string& name, const test::TestCluster& cluster) {
  std::vector<double> spans;
  std::size_t actions = 0;
  for (int run = 0; run < kRuns; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    const ClusterPlan plan = cluster.plan();
    const std::chrono::duration<double, std::milli> span = std::chrono::steady_clock::now() - begin;
    spans.push_back(span.count());
    actions = plan.starts.size() + plan.moves.size() + plan.unplaced.size();
  }
  std::sort(spans.begin(), spans.end());
  std::printf("%s %.2f ms\n%s_actions %zu actions\n", name.c_str(), spans[kRuns / 2], name.c_str(),
              actions);
}

void run() {
  measure("clustering_plan_quiet", full_cluster());
  test::TestCluster lost = full_cluster();
  for (int host = 0; host < 10; ++host) lost.fence(host_name(host), FenceProof::bmc_power_off);
  measure("clustering_plan_10_hosts_lost", lost);
  test::TestCluster growing = full_cluster();
  growing.policy([](ClusterPolicy& policy) { policy.failures_tolerated = 1; });
  for (int vm = 0; vm < 100; ++vm) growing.add_vm("new" + std::to_string(vm));
  measure("clustering_plan_100_new_with_reserve", growing);
  // Most hosts too full for one to take all of another: every loss is rehearsed VM by VM.
  test::TestCluster dense = full_cluster(kVms * 5, 6144);
  dense.policy([](ClusterPolicy& policy) {
    policy.failures_tolerated = 1;
    policy.cpu_overcommit_percent = 1000;
  });
  for (int vm = 0; vm < 100; ++vm) dense.add_vm("new" + std::to_string(vm));
  measure("clustering_plan_100_new_with_reserve_dense", dense);
  test::TestCluster leaving = full_cluster();
  for (int host = 0; host < 10; ++host) {
    leaving.edit_host(host_name(host), [](Host& changed) { changed.spec.maintenance = true; });
  }
  measure("clustering_plan_10_hosts_in_maintenance", leaving);
}

}  // namespace
}  // namespace virga

int main() {
  virga::run();
  return 0;
}
