#include "mechanism/placement/placement.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <memory>

namespace virga {
namespace {

class Placement : public ::testing::Test {
 protected:
  Placement() {
    Cluster cluster;
    cluster.meta.name = "c1";
    cluster.spec.policy.cpu_overcommit_percent = 200;
    view_.clusters.put(std::make_shared<const Cluster>(cluster));
  }

  HostId add_host(const std::string& name, std::int64_t memory_mib = 1024,
                  std::int64_t millicores = 4000) {
    Host host;
    host.meta.name = name;
    host.spec.cluster = ClusterId("c1");
    host.status.health = HostHealth::alive;
    host.status.capacity = {Millicores{millicores}, Mib{memory_mib}};
    host.status.hypervisor.machine_types = {"pc-q35-7.2"};
    host.status.hypervisor.cpu_model = "qemu64";
    view_.hosts.put(std::make_shared<const Host>(host));
    return host.id();
  }

  VmId add_vm(const std::string& name, const std::string& host, std::int64_t memory_mib = 100) {
    Vm vm;
    vm.meta.name = name;
    vm.meta.tenant = "acme";
    vm.spec.cluster = ClusterId("c1");
    vm.spec.memory_mib = Mib{memory_mib};
    if (!host.empty()) {
      vm.status.power = VmPower::running;
      vm.status.host = HostId(host);
    }
    view_.vms.put(std::make_shared<const Vm>(vm));
    return vm.id();
  }

  void edit_vm(const VmId& id, const std::function<void(Vm&)>& change) {
    Vm vm = *view_.vms.find(id);
    change(vm);
    view_.vms.put(std::make_shared<const Vm>(vm));
  }

  void edit_host(const HostId& id, const std::function<void(Host&)>& change) {
    Host host = *view_.hosts.find(id);
    change(host);
    view_.hosts.put(std::make_shared<const Host>(host));
  }

  PlacementState state() const { return PlacementState(view_, ClusterId("c1")); }
  const Vm* vm(const VmId& id) const { return view_.vms.find(id); }
  std::int64_t free_mib(const std::string& host) const {
    return state().free_on(HostId(host)).memory_mib.value;
  }
  PlacementQuery query(const VmId& id, bool live = false) const {
    return {.vm = vm(id), .live = live, .avoid = {}};
  }
  std::string why_not(const VmId& id, const std::string& host, bool live = false) const {
    for (const Refusal& refusal : state().explain(query(id, live))) {
      if (refusal.host == HostId(host)) return refusal.reason;
    }
    return "";
  }

  ClusterView view_;
};

TEST_F(Placement, F_B8_a_vm_takes_its_memory_with_the_hypervisors_part_and_its_quota) {
  const VmId web = add_vm("web", "", 256);
  EXPECT_EQ(demand_of(*vm(web)).memory_mib, Mib{320});
  EXPECT_EQ(demand_of(*vm(web)).cpu_millicores, Millicores{1000});
  edit_vm(web, [](Vm& changed) { changed.spec.cpu_millicores = Millicores{250}; });
  EXPECT_EQ(demand_of(*vm(web)).cpu_millicores, Millicores{250});
}

TEST_F(Placement, F_B8_processor_time_is_promised_up_to_the_overcommit) {
  add_host("a", 1024, 4000);
  EXPECT_EQ(state().free_on(HostId("a")).cpu_millicores, Millicores{8000});
  EXPECT_EQ(state().free_on(HostId("a")).memory_mib, Mib{1024});
  EXPECT_EQ(state().free_on(HostId("nobody")).memory_mib, Mib{0});
}

TEST_F(Placement, A3_14_R_B4_a_host_that_is_preferred_is_taken_as_long_as_it_has_room) {
  for (const char* name : {"a", "b", "c"}) add_host(name);
  add_vm("first", "b", 400);
  add_vm("second", "c", 200);
  const VmId db = add_vm("db", "");
  PlacementQuery wanted = query(db);
  EXPECT_EQ(state().choose(wanted), HostId("a"));
  wanted.prefer = {HostId("b"), HostId("c"), HostId("nobody")};
  EXPECT_EQ(state().choose(wanted), HostId("c"));
  wanted.avoid = {HostId("c")};
  EXPECT_EQ(state().choose(wanted), HostId("b"));
  edit_host(HostId("b"), [](Host& host) { host.spec.maintenance = true; });
  EXPECT_EQ(state().choose(wanted), HostId("a"));
}

TEST_F(Placement, F_B8_a_move_in_flight_counts_at_both_ends) {
  add_host("a");
  add_host("b");
  const VmId web = add_vm("web", "a");
  edit_vm(web, [](Vm& changed) {
    changed.status.operation = OperationId("op-1");
    changed.status.migration = {MigrationPhase::prepared, HostId("b"), {1, 2}};
  });
  EXPECT_EQ(free_mib("a"), 1024 - 164);
  EXPECT_EQ(free_mib("b"), 1024 - 164);
}

TEST_F(Placement, F_B8_a_stopped_vm_takes_nothing_but_one_in_work_does) {
  add_host("a");
  const VmId web = add_vm("web", "a");
  edit_vm(web, [](Vm& changed) { changed.status.power = VmPower::stopped; });
  EXPECT_EQ(free_mib("a"), 1024);
  edit_vm(web, [](Vm& changed) { changed.status.operation = OperationId("op-1"); });
  EXPECT_EQ(free_mib("a"), 1024 - 164);
}

TEST_F(Placement, A1_F5_the_host_with_the_most_room_in_proportion_is_chosen) {
  add_host("a", 1000);
  add_host("b", 4000);
  add_vm("x", "b", 2936);
  const VmId web = add_vm("web", "");
  EXPECT_EQ(state().choose(query(web)), HostId("a")) << "b has only a quarter left";
  edit_host(HostId("a"), [](Host& host) { host.spec.maintenance = true; });
  EXPECT_EQ(state().choose(query(web)), HostId("b"));
}

TEST_F(Placement, F_B8_equal_hosts_are_taken_in_order_of_names) {
  for (const char* name : {"c", "b", "a"}) add_host(name);
  EXPECT_EQ(state().choose(query(add_vm("web", ""))), HostId("a"));
}

TEST_F(Placement, F_B8_a_host_to_be_avoided_is_used_only_when_nothing_else_is_left) {
  add_host("a", 4096);
  add_host("b", 300);
  const VmId web = add_vm("web", "");
  PlacementQuery asked = query(web);
  asked.avoid = {HostId("a")};
  EXPECT_EQ(state().choose(asked), HostId("b"));
  PlacementState without = state();
  without.exclude(HostId("b"));
  EXPECT_EQ(without.choose(asked), HostId("a"));
}

TEST_F(Placement, R_B10_a_vm_goes_only_where_its_tenant_allows) {
  const HostId eu = add_host("eu", 1024);
  const HostId us = add_host("us", 8192);
  edit_host(eu, [](Host& host) { host.spec.region = "eu"; });
  edit_host(us, [](Host& host) { host.spec.region = "us"; });
  const VmId web = add_vm("web", "");
  EXPECT_EQ(why_not(web, us.value), "");
  Tenant tenant;
  tenant.meta.name = "acme";
  tenant.spec.regions = {"eu"};
  view_.tenants.put(std::make_shared<const Tenant>(tenant));
  EXPECT_EQ(state().choose(query(web)), eu);
  EXPECT_EQ(why_not(web, "us"), "is in region us, tenant acme may be in eu only");
}

TEST_F(Placement, F_B8_F_B11_each_refusal_names_its_constraint) {
  for (const char* name : {"a", "b", "c", "d", "e", "f"}) add_host(name);
  edit_host(HostId("a"), [](Host& host) { host.spec.maintenance = true; });
  edit_host(HostId("b"), [](Host& host) { host.status.health = HostHealth::degraded; });
  edit_host(HostId("c"), [](Host& host) { host.status.capacity.memory_mib = Mib{10}; });
  edit_host(HostId("d"), [](Host& host) { host.status.capacity.cpu_millicores = Millicores{1}; });
  const VmId other = add_vm("other", "e");
  const VmId web = add_vm("web", "");
  for (const VmId& id : {other, web}) {
    edit_vm(id, [](Vm& changed) { changed.spec.anti_affinity_group = "db"; });
  }
  EXPECT_EQ(why_not(web, "a"), "is in maintenance");
  EXPECT_EQ(why_not(web, "b"), "is degraded");
  EXPECT_EQ(why_not(web, "c"), "has 10 MiB of memory free, 164 are needed");
  EXPECT_EQ(why_not(web, "d"), "has 2 millicores to promise, 1000 are needed");
  EXPECT_EQ(why_not(web, "e"), "carries another VM of group db");
  EXPECT_EQ(why_not(web, "f"), "");
  edit_host(HostId("f"), [](Host& host) { host.status.operation = OperationId("fence"); });
  EXPECT_EQ(why_not(web, "f"), "");
  EXPECT_EQ(why_not(web, "f", true), "may still be switched off");
}

TEST_F(Placement, A3_23_R_B5_a_vm_goes_where_the_device_is_that_it_holds) {
  add_host("a");
  add_host("b");
  const VmId web = add_vm("web", "");
  edit_vm(web, [](Vm& changed) { changed.spec.host_devices = {"scratch"}; });
  EXPECT_EQ(why_not(web, "a"), "offers no host device scratch");
  edit_host(HostId("b"), [](Host& host) { host.status.host_devices = {{"scratch"}}; });
  EXPECT_EQ(why_not(web, "b"), "");
}

TEST_F(Placement, F_B8_groups_of_two_tenants_with_the_same_word_do_not_meet) {
  add_host("a");
  const VmId other = add_vm("other", "a");
  edit_vm(other, [](Vm& changed) { changed.spec.anti_affinity_group = "db"; });
  Vm stranger = *vm(other);
  stranger.meta.tenant = "umbrella";
  stranger.status = VmStatus();
  EXPECT_TRUE(state().choose({.vm = &stranger, .live = false, .avoid = {}}).has_value());
}

TEST_F(Placement, F_B4_a_guest_moves_only_to_what_offers_the_same_machine) {
  for (const char* name : {"a", "b", "c", "d"}) add_host(name);
  const VmId web = add_vm("web", "a");
  edit_vm(web, [](Vm& changed) {
    changed.status.identity = {"uuid", "pc-q35-7.2", "qemu64", Accelerator::tcg};
  });
  edit_host(HostId("b"), [](Host& host) { host.status.hypervisor.cpu_model = "Skylake"; });
  edit_host(HostId("c"), [](Host& host) { host.status.hypervisor.accelerator = Accelerator::kvm; });
  edit_host(HostId("d"), [](Host& host) { host.status.hypervisor.machine_types = {"pc-q35-6.0"}; });
  EXPECT_EQ(why_not(web, "a", true), "runs there now");
  EXPECT_EQ(why_not(web, "b", true), "processor model Skylake differs from qemu64");
  EXPECT_EQ(why_not(web, "b", false), "") << "a restart may change the processor";
  EXPECT_NE(why_not(web, "c", true), "");
  EXPECT_EQ(why_not(web, "d", true), "does not offer machine type pc-q35-7.2");
}

TEST_F(Placement, F_B4_a_guest_moves_to_no_older_qemu) {
  for (const char* name : {"a", "b", "c", "d"}) add_host(name);
  const VmId web = add_vm("web", "a");
  edit_vm(web, [](Vm& changed) {
    changed.status.identity = {"uuid", "pc-q35-7.2", "qemu64", Accelerator::tcg};
  });
  const auto version = [&](const char* host, const char* qemu) {
    edit_host(HostId(host), [&](Host& changed) { changed.status.hypervisor.qemu_version = qemu; });
  };
  version("a", "7.2.22");
  version("b", "7.2.9");
  version("c", "7.2.22");
  version("d", "10.0.2");
  EXPECT_EQ(why_not(web, "b", true), "its QEMU 7.2.9 is older than 7.2.22 on a");
  EXPECT_EQ(why_not(web, "b", false), "") << "a restart brings no state along";
  EXPECT_EQ(why_not(web, "c", true), "");
  EXPECT_EQ(why_not(web, "d", true), "");
}

TEST_F(Placement, A1_13_hosts_of_another_cluster_are_no_members) {
  add_host("a");
  add_host("z");
  edit_host(HostId("z"), [](Host& host) { host.spec.cluster = ClusterId("other"); });
  EXPECT_EQ(state().members(), std::vector<HostId>{HostId("a")});
}

TEST_F(Placement, A1_F5_the_plan_for_a_loss_says_where_each_vm_would_restart) {
  for (const char* name : {"a", "b", "c"}) add_host(name);
  const VmId low = add_vm("low", "a", 100);
  const VmId high = add_vm("high", "a", 100);
  const VmId never = add_vm("never", "a", 100);
  const VmId huge = add_vm("huge", "a", 700);
  add_vm("x", "b", 500);
  add_vm("y", "c", 600);
  edit_vm(low, [](Vm& changed) { changed.spec.restart_priority = RestartPriority::low; });
  edit_vm(high, [](Vm& changed) { changed.spec.restart_priority = RestartPriority::high; });
  edit_vm(never, [](Vm& changed) { changed.spec.restart_priority = RestartPriority::none; });
  PlacementState before = state();
  const LossPlan plan = plan_loss(before, {HostId("a")});
  ASSERT_EQ(plan.restarts.size(), 2U);
  EXPECT_EQ(plan.restarts[0], (std::pair{high, HostId("b")}));
  EXPECT_EQ(plan.restarts[1].first, low);
  ASSERT_EQ(plan.stranded.size(), 1U);
  EXPECT_EQ(plan.stranded[0].first, huge);
  EXPECT_EQ(plan.stranded[0].second.size(), 3U) << "one reason per host, the lost one included";
}

TEST_F(Placement, A1_F5_F_B8_a_reserve_that_a_change_breaks_is_found) {
  for (const char* name : {"a", "b", "c"}) add_host(name, 600);
  const PlacementState empty = state();
  for (const char* name : {"a", "b", "c"}) add_vm(std::string("on-") + name, name, 200);
  EXPECT_FALSE(broken_reserve(empty, state(), 0));
  EXPECT_FALSE(broken_reserve(empty, state(), 1));
  EXPECT_TRUE(broken_reserve(empty, state(), 2)) << "264 of 600 MiB: three do not fit on one host";
  const PlacementState three = state();
  EXPECT_FALSE(broken_reserve(three, three, 2)) << "it was broken before";
  const VmId more = add_vm("more", "a", 450);
  const auto broken = broken_reserve(three, state(), 1);
  ASSERT_TRUE(broken);
  EXPECT_EQ(broken->lost, std::vector<HostId>{HostId("a")});
  ASSERT_EQ(broken->stranded.size(), 1U);
  EXPECT_EQ(broken->stranded.front().first, more);
  EXPECT_EQ(broken->stranded.front().second.size(), 3U) << "why not, of each host";
}

TEST_F(Placement, A1_F5_F_B8_a_vm_that_may_run_nowhere_else_breaks_no_reserve) {
  for (const char* name : {"a", "b"}) add_host(name);
  const PlacementState empty = state();
  const VmId web = add_vm("web", "a");
  edit_vm(web, [](Vm& changed) { changed.spec.pinned_host = HostId("a"); });
  EXPECT_FALSE(broken_reserve(empty, state(), 1));
  PlacementState now = state();
  EXPECT_EQ(plan_loss(now, {HostId("a")}).pinned, std::vector<VmId>{web});
  EXPECT_EQ(now.free_on(HostId("a")).memory_mib, state().free_on(HostId("a")).memory_mib)
      << "all is as before";
}

TEST_F(Placement, F_B4_F_B8_a_quota_grows_where_there_is_room_and_the_reserve_stays_whole) {
  add_host("a", 4096, 1000);  // 2,000 to promise
  add_host("b", 4096, 500);
  view_.clusters.put([&] {
    Cluster changed = *view_.clusters.find(ClusterId("c1"));
    changed.spec.policy.failures_tolerated = 1;
    return std::make_shared<const Cluster>(changed);
  }());
  const VmId web = add_vm("web", "a");
  edit_vm(web, [](Vm& changed) { changed.spec.cpu_millicores = Millicores{500}; });
  const auto ask = [&](std::int64_t quota) {
    Vm after = *vm(web);
    after.spec.cpu_millicores = Millicores{quota};
    std::string text;
    for (const Refusal& one : refuse_quota(view_, *vm(web), after)) {
      text += one.host.value + " " + one.reason + "\n";
    }
    return text;
  };
  EXPECT_EQ(ask(1000), "");
  EXPECT_EQ(ask(1001), "a with its loss acme/web would find no room\n");
  EXPECT_EQ(ask(2001), "a has 2000 millicores to promise, 2001 are needed\n");
  edit_host(HostId("a"), [](Host& host) { host.status.capacity = {Millicores{100}, Mib{10}}; });
  EXPECT_EQ(ask(400), "") << "less is never refused";
  EXPECT_EQ(ask(501), "a has 200 millicores to promise, 501 are needed\n") << "of memory no word";
  edit_vm(web, [](Vm& changed) { changed.status.power = VmPower::stopped; });
  EXPECT_EQ(ask(5000), "") << "is judged when it starts";
}

TEST_F(Placement, F_B8_what_one_host_could_take_alone_strands_nobody_in_any_order) {
  for (const char* name : {"a", "b", "c", "d"}) add_host(name);
  const auto host = [](unsigned number) { return std::string(1, "abcd"[number % 4]); };
  int answered = 0;
  EXPECT_TRUE(rc::check([&](const std::vector<std::pair<std::uint8_t, std::uint8_t>>& vms) {
    view_.vms = {};
    for (std::size_t index = 0; index < vms.size() && index < 14; ++index) {
      const VmId id =
          add_vm("v" + std::to_string(index), host(vms[index].first), 32 + vms[index].second);
      edit_vm(id, [&](Vm& vm) {
        if (vms[index].second % 7 == 0) vm.spec.anti_affinity_group = "db";
        if (vms[index].second % 5 == 0) vm.spec.pinned_host = HostId(host(vms[index].second));
      });
    }
    PlacementState now = state();
    for (const HostId& lost : now.members()) {
      if (!now.one_takes_all_of({lost})) continue;
      ++answered;
      RC_ASSERT(plan_loss(now, {lost}).stranded.empty());
    }
  }));
  EXPECT_GT(answered, 0);
}

TEST_F(Placement, F_B8_adding_and_removing_leaves_what_was) {
  add_host("a");
  add_host("b");
  std::vector<VmId> ids;
  for (int index = 0; index < 6; ++index) ids.push_back(add_vm("v" + std::to_string(index), ""));
  EXPECT_TRUE(rc::check([&](const std::vector<bool>& steps) {
    PlacementState changed = state();
    std::set<VmId> there;
    for (std::size_t index = 0; index < steps.size(); ++index) {
      const VmId& id = ids[index % ids.size()];
      if (steps[index]) {
        changed.add(*vm(id), HostId("a"));
        there.insert(id);
      } else {
        changed.remove(*vm(id), HostId("a"));
        there.erase(id);
      }
      const auto taken = static_cast<std::int64_t>(there.size()) * 164;
      RC_ASSERT(changed.free_on(HostId("a")).memory_mib.value == 1024 - taken);
      RC_ASSERT(changed.carried_by(HostId("a")).size() == there.size());
    }
  }));
}

TEST_F(Placement, R_B3_a_vm_with_a_floating_address_goes_where_there_is_a_way_out) {
  add_host("big", 4096);
  const HostId small = add_host("small");
  const VmId web = add_vm("web", "");
  const PlacementQuery query{vm(web), false, {}};
  EXPECT_EQ(state().choose(query), HostId("big"));
  FloatingAddress address;
  address.meta.tenant = "acme";
  address.meta.name = "ip";
  address.spec.vm = "web";
  view_.floating_addresses.put(std::make_shared<const FloatingAddress>(address));
  EXPECT_FALSE(state().choose(query).has_value());
  EXPECT_NE(state().explain(query)[0].reason.find("--outside-device"), std::string::npos);
  edit_host(small, [](Host& host) { host.status.leads_outside = true; });
  EXPECT_EQ(state().choose(query), small);
}

}  // namespace
}  // namespace virga
