#include <gtest/gtest.h>

#include "arch/hypervisor_clustering/planner.h"
#include "arch/hypervisor_clustering/test_cluster.h"

/// Processor quotas and weights of VMs that run: what the planner makes of a change.
namespace virga {
namespace {

class Quotas : public ::testing::Test, protected test::TestCluster {};

TEST_F(Quotas, F_B4_a_running_copy_gets_the_limits_that_are_asked_for_now) {
  add_host("a");
  const VmId web = add_vm("web", "a");
  ObservedVm& copy = seen("a").vms.front();
  EXPECT_TRUE(plan().limits.empty()) << "an agent of before says nothing of limits";
  copy.cpu_millicores_max = Millicores{1000};
  copy.cpu_weight = 100;
  EXPECT_TRUE(plan().empty());
  edit_vm(web, [](Vm& changed) { changed.spec.cpu_millicores = Millicores{250}; });
  ASSERT_EQ(plan().limits.size(), 1U);
  EXPECT_EQ(plan().limits.front().host, HostId("a"));
  EXPECT_EQ(plan().limits.front().reason,
            "250 millicores, weight 100 and 256 processes are asked for, "
            "1000, 100 and 0 are in force");
  copy.cpu_millicores_max = Millicores{250};
  EXPECT_TRUE(plan().empty()) << "an agent of before says nothing of processes";
  copy.processes_max = 256;
  EXPECT_TRUE(plan().empty());
  edit_vm(web, [](Vm& changed) { changed.spec.processes_max = 300; });
  ASSERT_EQ(plan().limits.size(), 1U);
  copy.processes_max = 300;
  EXPECT_TRUE(plan().empty());
}

TEST_F(Quotas, F_B4_F_B8_a_raised_quota_waits_until_its_host_has_room) {
  policy([](ClusterPolicy& changed) { changed.cpu_overcommit_percent = 100; });
  add_host("a");
  const VmId web = add_vm("web", "a");
  const VmId db = add_vm("db", "a");
  const auto quota = [&](const VmId& vm, std::int64_t asked, std::int64_t in_force) {
    edit_vm(vm, [&](Vm& changed) {
      changed.spec.cpus = 8;
      changed.spec.cpu_millicores = Millicores{asked};
    });
    for (ObservedVm& copy : seen("a").vms) {
      if (copy.vm != vm) continue;
      copy.cpu_millicores_max = Millicores{in_force};
      copy.cpu_weight = 100;
    }
  };
  quota(web, 6000, 1000);
  quota(db, 6000, 6000);
  const ClusterPlan held = plan();
  EXPECT_TRUE(held.limits.empty());
  ASSERT_EQ(held.unplaced.size(), 1U);
  EXPECT_EQ(held.unplaced.front().vm, web);
  EXPECT_NE(held.unplaced.front().reason.find("a has no room for it yet"), std::string::npos);
  edit_vm(web, [&](Vm& changed) { changed.status.unplaced_reason = held.unplaced.front().reason; });
  EXPECT_TRUE(plan().empty()) << "it is told once";
  // What another is to give up is there once its copy has given it up, paused or not.
  quota(db, 2000, 6000);
  edit_vm(db, [](Vm& changed) { changed.status.power = VmPower::paused; });
  seen("a").vms.back().power = VmPower::paused;
  ASSERT_EQ(plan().limits.size(), 1U);
  EXPECT_EQ(plan().limits.front().vm, db);
  quota(db, 2000, 2000);
  ASSERT_EQ(plan().limits.size(), 1U);
  EXPECT_EQ(plan().limits.front().vm, web);
  quota(web, 6000, 6000);
  ASSERT_EQ(plan().unplaced.size(), 1U);
  EXPECT_TRUE(plan().unplaced.front().reason.empty()) << "nothing stands in its way any more";
}

TEST_F(Quotas, F_B4_F_B8_of_two_quotas_raised_at_once_the_first_that_fits_is_given) {
  policy([](ClusterPolicy& changed) { changed.cpu_overcommit_percent = 100; });
  add_host("a");
  for (const char* name : {"db", "web"}) {
    edit_vm(add_vm(name, "a"), [](Vm& changed) {
      changed.spec.cpus = 8;
      changed.spec.cpu_millicores = Millicores{6000};
    });
  }
  for (ObservedVm& copy : seen("a").vms) {
    copy.cpu_millicores_max = Millicores{1000};
    copy.cpu_weight = 100;
  }
  const ClusterPlan made = plan();
  ASSERT_EQ(made.limits.size(), 1U);
  EXPECT_EQ(made.limits.front().vm, VmId("acme/db"));
  ASSERT_EQ(made.unplaced.size(), 1U);
  EXPECT_EQ(made.unplaced.front().vm, VmId("acme/web"));
}

TEST_F(Quotas, F_B4_F_B8_room_that_a_lowered_quota_gives_up_is_placed_once_it_is_free) {
  policy([](ClusterPolicy& changed) { changed.cpu_overcommit_percent = 100; });
  add_host("a");
  const VmId web = add_vm("web", "a");
  edit_vm(web, [](Vm& changed) { changed.spec.cpu_millicores = Millicores{500}; });
  ObservedVm& copy = seen("a").vms.front();
  copy.cpu_millicores_max = Millicores{8000};
  copy.cpu_weight = 100;
  add_vm("db");
  const ClusterPlan early = plan();
  EXPECT_TRUE(early.starts.empty());
  EXPECT_EQ(early.limits.size(), 1U);
  copy.cpu_millicores_max = Millicores{500};
  EXPECT_EQ(plan().starts.size(), 1U);
}

TEST_F(Quotas, F_B4_A1_11_a_vm_that_cannot_leave_gets_its_limits_where_it_is) {
  add_host("a");
  const VmId web = add_vm("web", "a");
  edit_host("a", [](Host& host) { host.spec.maintenance = true; });
  edit_vm(web, [](Vm& changed) { changed.spec.cpu_millicores = Millicores{250}; });
  ObservedVm& copy = seen("a").vms.front();
  copy.cpu_millicores_max = Millicores{1000};
  copy.cpu_weight = 100;
  const ClusterPlan made = plan();
  EXPECT_EQ(made.limits.size(), 1U);
  EXPECT_EQ(made.unplaced.size(), 1U) << "why it does not leave";
}

}  // namespace
}  // namespace virga
