#include "arch/hypervisor_clustering/fault_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "arch/hypervisor_clustering/planner.h"
#include "arch/hypervisor_clustering/test_cluster.h"
#include "arch/hypervisor_clustering/test_volumes.h"
#include "base/reflect.h"

namespace virga {
namespace {

using test::VolumePlanning;

constexpr Duration kLookEvery = milliseconds(100);
constexpr Duration kLookFor = seconds(60);

/// What the planner makes of a row, when all that it is told follows from the row: reports cease,
/// or say that the VM has ended; no peer hears the host; the BMC does as the row says.
class FaultRows : public ::testing::TestWithParam<FaultRow>, protected test::TestCluster {
 protected:
  void set_up() {
    for (const char* name : {"a", "b", "c", "d"}) add_host(name);
    web_ = add_vm("web", "a");
    if (row_.storage == StorageConduct::volumes) put_on_volume();
    add_bmc("a");
    edit_host("a", [&](Host& host) { host.status.leash_armed = row_.fault != HostFault::leash; });
    seen_ = {row_.fault, row_.bmc, row_.storage, false};
    seen_.lab = row_.lab;
    seen_.ended_by = row_.ended_by;
    seen_.meets = row_.meets;
  }

  void put_on_volume() {
    view.images.put(std::make_shared<const Image>(test::direct_image()));
    view.devices.put(std::make_shared<const Device>(test::device_on("d")));
    view.volumes.put(std::make_shared<const Volume>(test::ready_volume("data", "d")));
    edit_vm(web_, [](Vm& vm) {
      vm.spec.image = ImageId("tiny");
      vm.spec.disks = {{"data", Mib(), "data"}};
    });
  }

  /// The host is silent until its VM is placed elsewhere, or for long.
  void be_silent() {
    const ClusterPolicy policy = view.clusters.find(id)->spec.policy;
    const std::vector<ObservedVm> last_report = seen("a").vms;
    for (silence_ = Duration::zero(); silence_ <= kLookFor && !placed_; silence_ += kLookEvery) {
      silence("a", silence_, 3, 3);
      seen("a").vms = last_report;
      seen("a").lease_over = silence_ >= policy.lease_ms + policy.grace_ms;
      if (bmc_due_ && silence_ >= *bmc_due_) bmc_said();
      look();
    }
  }

  /// It reports and has no copy; as another boot or as the same.
  void report_without_copy(const std::string& boot_id) {
    silence("a", Duration::zero(), 3, 0);
    seen("a").boot_id = boot_id;
    look();
    look();
  }

  /// One round of the controller.
  void look() {
    const ClusterPlan made = plan();
    for (const HostChange& change : made.host_changes) {
      seen_.dead = seen_.dead || change.health == HostHealth::dead;
      believe(change.health, change.proof);
    }
    for (const ObserveVm& observed : made.observations) {
      edit_vm(observed.vm, [&](Vm& vm) { vm.status.power = observed.power; });
    }
    if (!made.fences.empty() && !made.fences[0].ask_only) begin_fence();
    for (const FenceVm& fenced : made.vm_fences) {
      edit_vm(fenced.vm, [&](Vm& vm) {
        vm.status.power = VmPower::stopped;
        vm.status.host = HostId();
        vm.status.recovering = true;
        vm.status.lost = {{fenced.host, FenceProof::storage_revoked}};
      });
    }
    for (const StartVm& start : made.starts) place(start);
  }

  void believe(HostHealth health, FenceProof proof) {
    edit_host("a", [&](Host& host) {
      host.status.health = health;
      host.status.fence_proof = proof;
    });
  }

  void begin_fence() {
    static const std::map<BmcConduct, Duration> kTakes = {
        {BmcConduct::answers, milliseconds(500)},
        {BmcConduct::silent, seconds(15)},  // the deadline of the try
        {BmcConduct::lies, milliseconds(500)},
        {BmcConduct::slow, seconds(6)}};
    bmc_due_ = silence_ + kTakes.at(row_.bmc);
    edit_host("a", [](Host& host) { host.status.operation = OperationId("op-1"); });
  }

  void bmc_said() {
    bmc_due_.reset();
    edit_host("a", [](Host& host) { host.status.operation = OperationId(); });
    if (row_.bmc == BmcConduct::silent) {
      seen("a").fence_may_begin = false;
    } else {
      believe(HostHealth::fenced, FenceProof::bmc_power_off);
    }
  }

  void place(const StartVm& start) {
    placed_ = true;
    ASSERT_EQ(start.lost.size(), 1U);
    EXPECT_EQ(start.lost[0].host, HostId("a"));
    seen_.proof = start.lost[0].proof;
    seen_.restart = start.host == HostId("a") ? RestartPlace::in_place : RestartPlace::elsewhere;
  }

  const FaultRow& row_ = GetParam();
  VmId web_;
  FaultRow seen_;  ///< as far as a planner can tell
  Duration silence_{};
  std::optional<Duration> bmc_due_;
  bool placed_ = false;
};

TEST_P(FaultRows, F_B7_the_planner_comes_to_what_the_row_says) {
  set_up();
  if (row_.fault == HostFault::qemu) {
    report_without_copy("boot-a");
  } else {
    be_silent();
  }
  if (!placed_) {
    report_without_copy("boot-a-2");
    seen_.restart = RestartPlace::after_boot;
  }
  EXPECT_TRUE(placed_);
  EXPECT_EQ(to_json_text(seen_), to_json_text(row_));
}

std::string test_name(const testing::TestParamInfo<FaultRow>& tested) {
  std::string name = name_of(tested.param);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Rows, FaultRows, ::testing::ValuesIn(fault_table()), test_name);

TEST(FaultTable, F_B7_has_every_fault_with_every_bmc_and_every_storage_once) {
  std::set<std::string> names;
  for (const FaultRow& row : fault_table()) names.insert(name_of(row));
  EXPECT_EQ(names.size(), fault_table().size());
  EXPECT_EQ(names.size(), 9U * 4U * 3U);
}

/// Its files have locks; of volumes it does the rows in which nothing but storage tells the truth.
bool in_lab(const FaultRow& row) {
  if (row.storage != StorageConduct::volumes) return row.storage == StorageConduct::locks;
  const bool untold = row.bmc == BmcConduct::silent || row.bmc == BmcConduct::lies;
  const auto faults = {HostFault::hang, HostFault::link, HostFault::agent_stop, HostFault::leash};
  return untold && std::ranges::count(faults, row.fault) > 0;
}

/// A lie is the only way to two copies.
TEST(FaultTable, F_B7_two_copies_come_of_nothing_but_a_lie_without_locks) {
  for (const FaultRow& row : fault_table()) {
    if (row.meets != NewCopyMeets::nothing) {
      EXPECT_EQ(row.bmc, BmcConduct::lies) << name_of(row);
      const bool locks = row.storage == StorageConduct::locks;
      EXPECT_EQ(row.meets, locks ? NewCopyMeets::lock : NewCopyMeets::old_copy) << name_of(row);
    }
    if (row.storage == StorageConduct::volumes) {
      EXPECT_EQ(row.meets, NewCopyMeets::nothing) << name_of(row);
      EXPECT_EQ(row.proof == FenceProof::storage_revoked, row.dead) << name_of(row);
    }
    EXPECT_NE(row.proof, FenceProof::none) << name_of(row);
    EXPECT_EQ(row.lab, in_lab(row)) << name_of(row);
  }
}

TEST(FaultTable, F_B7_the_loss_of_a_host_is_foretold_from_how_it_is_equipped) {
  Machine machine;
  Host host;
  host.status.leash_armed = true;
  EXPECT_EQ(row_of_loss(host, &machine).proof, FenceProof::lease_and_leash);
  EXPECT_EQ(row_of_loss(host, nullptr).restart, RestartPlace::elsewhere);
  host.status.leash_armed = false;
  EXPECT_EQ(row_of_loss(host, nullptr).restart, RestartPlace::after_boot);
  machine.spec.bmc.protocol = BmcProtocol::redfish;
  EXPECT_EQ(row_of_loss(host, &machine).proof, FenceProof::bmc_power_off);
  EXPECT_EQ(row_of_loss(host, &machine).restart, RestartPlace::elsewhere);
}

TEST_F(VolumePlanning, A1_F5_F_B7_volumes_prove_the_end_of_their_vm_if_they_outlive_its_host) {
  const VmId db = vm_with_volume("a");
  EXPECT_EQ(storage_without(HostId("a"), view, vm(db)), StorageConduct::volumes);
  EXPECT_EQ(row_of_loss(host("a"), nullptr, StorageConduct::volumes).proof,
            FenceProof::storage_revoked);
  EXPECT_EQ(storage_without(HostId("c"), view, vm(db)), StorageConduct::locks) << "lost with it";
  edit_vm(db, [](Vm& changed) { changed.spec.disks.push_back({"logs", Mib{64}, ""}); });
  EXPECT_EQ(storage_without(HostId("a"), view, vm(db)), StorageConduct::locks) << "a file beside";
}

TEST(FaultTable, F_B7_the_table_for_readers_is_what_the_program_holds) {
  const std::string path = VIRGA_SOURCE_DIR "/docs/reference/fault-table.md";
  const std::string made = fault_table_markdown();
  if (std::getenv("VIRGA_ACCEPT") != nullptr) std::ofstream(path) << made;
  std::stringstream kept;
  kept << std::ifstream(path).rdbuf();
  EXPECT_EQ(kept.str(), made) << "run with VIRGA_ACCEPT=1 and commit the file";
}

/// Single moments, of hosts without BMC or leash too: what befell host "a", what its BMC does, what
/// is known -> what one plan may do.
enum class BmcState { none, answers, fails, busy };  ///< busy: a try runs, the controller is slow
enum class Fencing { nothing, asks, switches_off };

struct Moment {
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

constexpr Moment kMoments[] = {
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

class FaultMoments : public ::testing::TestWithParam<Moment>, protected test::TestCluster {
 protected:
  void set_up(const Moment& moment) {
    for (const char* name : {"a", "b", "c", "d"}) add_host(name);
    add_vm("web", "a");
    const std::vector<ObservedVm> copies = seen("a").vms;
    edit_host("a", [&](Host& host) { host.status.leash_armed = moment.leash_armed; });
    if (moment.bmc != none) add_bmc("a");
    if (moment.stored_proof != kNone) fence("a", moment.stored_proof);
    silence("a", milliseconds(moment.silence_ms), moment.observers, moment.observers_silent);
    if (moment.vm_reported) seen("a").vms = copies;
    seen("a").lease_over = moment.lease_over;
    seen("a").fence_may_begin = moment.bmc != fails;
    if (moment.bmc == busy) {
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

TEST_P(FaultMoments, F_B7_each_moment_is_judged_as_stated) {
  const Moment& moment = GetParam();
  set_up(moment);
  const ClusterPlan made = plan();
  EXPECT_EQ(believed(made), moment.health) << enum_name(believed(made));
  EXPECT_EQ(proven(made), moment.proof) << enum_name(proven(made));
  const Fencing fencing = made.fences.empty()            ? nothing
                          : made.fences.front().ask_only ? asks
                                                         : switches_off;
  EXPECT_EQ(fencing, moment.fencing);
  EXPECT_EQ(!made.starts.empty(), moment.restarts);
  for (const StartVm& start : made.starts) {
    EXPECT_EQ(start.lost, (LostCopies{{HostId("a"), moment.proof}}));
    EXPECT_NE(start.host, HostId("a"));
  }
  const bool seen_ended = moment.silence_ms < 2000 && !moment.vm_reported;
  EXPECT_EQ(seen_ended,
            !made.observations.empty() && made.observations[0].power == VmPower::stopped);
}

INSTANTIATE_TEST_SUITE_P(Moments, FaultMoments, ::testing::ValuesIn(kMoments),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace virga
