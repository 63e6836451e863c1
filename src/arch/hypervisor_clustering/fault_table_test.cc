#include <gtest/gtest.h>

#include "arch/hypervisor_clustering/planner.h"
#include "arch/hypervisor_clustering/test_cluster.h"
#include "base/reflect.h"

/// The fault table: what befell host "a" x what its BMC does x what is known -> what the plan may
/// do.
namespace virga {
namespace {

enum class BmcState { none, answers, fails, busy };  ///< busy: a try runs, the controller is slow
enum class Fencing { nothing, asks, switches_off };

struct Row {
  const char* name;
  std::int64_t silence_ms;
  int observers;
  int observers_silent;
  bool lease_over;
  bool leash_armed;
  BmcState bmc;
  FenceProof stored_proof;  ///< not none: the host is stored as fenced by it
  bool vm_reported;
  HostHealth health;
  FenceProof proof;
  Fencing fencing;
  bool restarts;
};

using enum BmcState;
using enum Fencing;
using enum HostHealth;
constexpr FenceProof kNone = FenceProof::none;
constexpr FenceProof kLease = FenceProof::lease_and_leash;
constexpr FenceProof kOff = FenceProof::bmc_power_off;

constexpr Row kRows[] = {
    // name, silence, peers, silent, lease over, leash, bmc, stored, vm -> health, proof, fencing,
    // restarts
    {"power_first_second", 900, 2, 0, false, true, none, kNone, true, alive, kNone, nothing, false},
    {"power_suspected", 2100, 2, 2, false, true, none, kNone, false, suspect, kNone, nothing,
     false},
    {"power_confirmed", 2600, 2, 2, false, true, none, kNone, false, dead, kNone, nothing, false},
    {"power_lease_over", 13100, 2, 2, true, true, none, kNone, false, fenced, kLease, nothing,
     true},
    {"power_lease_over_no_leash", 13100, 2, 2, true, false, none, kNone, false, dead, kNone,
     nothing, false},
    {"power_bmc_suspected", 2100, 2, 2, false, true, answers, kNone, false, suspect, kNone, nothing,
     false},
    {"power_bmc_confirmed", 2600, 2, 2, false, true, answers, kNone, false, dead, kNone,
     switches_off, false},
    {"power_bmc_says_off", 3000, 2, 2, false, true, answers, kOff, false, fenced, kOff, nothing,
     true},
    {"hang_bmc_confirmed", 2600, 2, 2, false, true, answers, kNone, false, dead, kNone,
     switches_off, false},
    {"hang_bmc_silent", 8000, 2, 2, false, true, fails, kNone, false, dead, kNone, nothing, false},
    {"hang_bmc_silent_lease_over", 13100, 2, 2, true, true, fails, kNone, false, fenced, kLease,
     nothing, true},
    {"hang_bmc_silent_no_leash", 60000, 2, 2, true, false, fails, kNone, false, dead, kNone,
     nothing, false},
    {"hang_bmc_slow", 4000, 2, 2, false, true, busy, kNone, false, dead, kNone, nothing, false},
    {"hang_bmc_slow_lease_over", 13100, 2, 2, true, true, busy, kNone, false, fenced, kLease,
     nothing, true},
    {"lie_peers_hear_it", 8000, 2, 1, false, true, answers, kNone, false, suspect, kNone, nothing,
     false},
    {"lie_refused_lease_over", 13100, 2, 1, true, true, fails, kNone, false, fenced, kLease,
     nothing, true},
    {"link_to_server_only", 8000, 3, 0, false, true, answers, kNone, false, suspect, kNone, nothing,
     false},
    {"link_to_server_lease_over", 13100, 3, 0, true, true, answers, kNone, false, fenced, kLease,
     nothing, true},
    {"link_to_server_no_leash", 60000, 3, 0, true, false, none, kNone, false, suspect, kNone,
     nothing, false},
    {"link_to_all", 2600, 3, 3, false, true, answers, kNone, false, dead, kNone, switches_off,
     false},
    {"link_to_all_no_bmc", 2600, 3, 3, false, true, none, kNone, false, dead, kNone, nothing,
     false},
    {"one_way_reports_arrive", 500, 2, 0, true, true, answers, kNone, true, alive, kNone, nothing,
     false},
    {"one_way_no_peer_asks", 4000, 0, 0, false, true, answers, kNone, false, suspect, kNone, asks,
     false},
    {"agent_dead", 2600, 2, 2, false, true, answers, kNone, false, dead, kNone, switches_off,
     false},
    {"agent_dead_no_bmc", 13100, 2, 2, true, true, none, kNone, false, fenced, kLease, nothing,
     true},
    {"leash_dead_agent_lives", 500, 2, 0, false, false, answers, kNone, true, alive, kNone, nothing,
     false},
    {"leash_and_agent_dead_no_bmc", 60000, 2, 2, true, false, none, kNone, false, dead, kNone,
     nothing, false},
    {"leash_and_agent_dead_bmc", 60000, 2, 2, true, false, answers, kNone, false, dead, kNone,
     switches_off, false},
    {"qemu_dead", 500, 2, 0, false, true, answers, kNone, false, alive, kNone, nothing, false},
};

class FaultTable : public ::testing::TestWithParam<Row>, protected test::TestCluster {
 protected:
  void set_up(const Row& row) {
    for (const char* name : {"a", "b", "c", "d"}) add_host(name);
    add_vm("web", "a");
    const std::vector<ObservedVm> copies = seen("a").vms;
    edit_host("a", [&](Host& host) { host.status.leash_armed = row.leash_armed; });
    if (row.bmc != none) add_bmc("a");
    if (row.stored_proof != kNone) fence("a", row.stored_proof);
    silence("a", milliseconds(row.silence_ms), row.observers, row.observers_silent);
    if (row.vm_reported) seen("a").vms = copies;
    seen("a").lease_over = row.lease_over;
    seen("a").fence_may_begin = row.bmc != fails;
    if (row.bmc == busy) {
      edit_host("a", [](Host& host) { host.status.operation = OperationId("op-1"); });
    }
  }

  HostHealth believed(const ClusterPlan& made) const {
    return made.host_changes.empty() ? host("a").status.health : made.host_changes[0].health;
  }
  FenceProof proven(const ClusterPlan& made) const {
    return made.host_changes.empty() ? host("a").status.fence_proof : made.host_changes[0].proof;
  }
};

TEST_P(FaultTable, F_B7_each_row_ends_as_stated) {
  const Row& row = GetParam();
  set_up(row);
  const ClusterPlan made = plan();
  EXPECT_EQ(believed(made), row.health) << enum_name(believed(made));
  EXPECT_EQ(proven(made), row.proof) << enum_name(proven(made));
  const Fencing fencing = made.fences.empty()            ? nothing
                          : made.fences.front().ask_only ? asks
                                                         : switches_off;
  EXPECT_EQ(fencing, row.fencing);
  EXPECT_EQ(!made.starts.empty(), row.restarts);
  for (const StartVm& start : made.starts) {
    EXPECT_EQ(start.lost, (LostCopies{{HostId("a"), row.proof}}));
    EXPECT_NE(start.host, HostId("a"));
  }
  const bool seen_ended = row.silence_ms < 2000 && !row.vm_reported;
  EXPECT_EQ(seen_ended,
            !made.observations.empty() && made.observations[0].power == VmPower::stopped);
}

INSTANTIATE_TEST_SUITE_P(Rows, FaultTable, ::testing::ValuesIn(kRows),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace virga
