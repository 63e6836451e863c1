#include <set>

#include "server/api/api_fixture.h"

namespace virga::test {
namespace {

class Vms : public ApiTest {
 protected:
  /// As the controllers would have it: the VM runs on host-1 of two.
  void make_running_vm() {
    make_house();
    for (const char* name : {"host-1", "host-2"}) {
      Host host;
      host.meta.name = name;
      host.spec.cluster = ClusterId("lab");
      host.status.health = HostHealth::alive;
      host.status.boot_id = "boot-of-" + std::string(name);
      put(host, keys::of(host.id()));
    }
    ASSERT_EQ(call("POST", "/v1/vms", vm_body("web")).status, 202);
    Vm vm = *view.vms.find(VmId("acme/web"));
    vm.status.power = VmPower::running;
    vm.status.host = HostId("host-1");
    put(vm, keys::of(vm.id()));
  }

  const Vm& web() { return *view.vms.find(VmId("acme/web")); }
};

TEST_F(Vms, F_B11_a_vm_is_accepted_with_its_ports_and_addresses_in_one_commit) {
  make_house();
  const Revision before = view.revision;
  const auto made =
      call("POST", "/v1/vms", R"({"meta":{"tenant":"acme","name":"web"},"spec":{"image":"tiny",
      "cpus":2,"memory_mib":256,"nics":[{"network":"front"},{"network":"front"}]}})");
  ASSERT_EQ(made.status, 202) << made.body;
  EXPECT_EQ(made.headers.at("location"), "/v1/vms/acme/web");
  EXPECT_EQ(view.revision, before + 1);
  const Port* first = view.ports.find(PortId("acme/web-0"));
  const Port* second = view.ports.find(PortId("acme/web-1"));
  ASSERT_TRUE(first != nullptr && second != nullptr);
  EXPECT_EQ(first->spec.address, "10.50.0.10/16");
  EXPECT_EQ(second->spec.address, "10.50.0.11/16");
  EXPECT_TRUE(first->spec.mac.starts_with("52:54:00:"));
  EXPECT_NE(first->spec.mac, second->spec.mac);
  EXPECT_EQ(view.ports_of(VmId("acme/web")).size(), 2U);
  EXPECT_EQ(view.keys_of(VmId("acme/web")).size(), 5U);
  EXPECT_EQ(count_keys("address/acme/front/"), 2U);
}

TEST_F(Vms, A3_23_a_vm_with_direct_io_is_locked_to_its_host) {
  make_running_vm();
  const auto loose = call("POST", "/v1/vms", vm_body("nic", R"(,"direct_io":true)"));
  EXPECT_EQ(loose.status, 400);
  EXPECT_NE(loose.body.find("spec.pinned_host: is empty"), std::string::npos) << loose.body;
  const std::string locked = R"(,"direct_io":true,"pinned_host":"host-1")";
  ASSERT_EQ(call("POST", "/v1/vms", vm_body("nic", locked)).status, 202);
  const auto move = call("POST", "/v1/vms/acme/nic/migrate", R"({"host":"host-2"})");
  EXPECT_EQ(move.status, 501);
  EXPECT_NE(move.body.find("cannot move alive"), std::string::npos) << move.body;
}

TEST_F(Vms, A3_23_R_B5_a_device_of_a_host_is_held_by_one_vm_that_is_pinned_there) {
  make_house();
  Host host;
  host.meta.name = "host-1";
  host.spec.cluster = ClusterId("lab");
  host.status.host_devices = {{"scratch", HostDeviceKind::block, Bytes{1 << 20}}};
  put(host, keys::of(host.id()));
  const auto make = [this](const char* name, const std::string& more) {
    return call("POST", "/v1/vms", vm_body(name, more));
  };
  const std::string pinned = R"(,"pinned_host":"host-1","host_devices":)";
  const auto loose = make("one", R"(,"host_devices":["scratch"])");
  EXPECT_EQ(loose.status, 400);
  EXPECT_NE(loose.body.find("spec.pinned_host: is empty"), std::string::npos) << loose.body;
  const auto unknown = make("one", pinned + R"(["modem"])");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_NE(unknown.body.find("--host-device modem="), std::string::npos) << unknown.body;
  EXPECT_NE(unknown.body.find("device scratch"), std::string::npos) << "what there is";
  EXPECT_EQ(make("one", pinned + R"(["scratch","scratch"])").status, 400);
  EXPECT_EQ(make("one", pinned + R"(["../sda"])").status, 400);
  EXPECT_EQ(make("one", pinned + R"(["a","b","c","d","e"])").status, 400);
  ASSERT_EQ(make("one", pinned + R"(["scratch"])").status, 202);
  const auto second = make("two", pinned + R"(["scratch"])");
  EXPECT_EQ(second.status, 409);
  EXPECT_NE(second.body.find("held by vm acme/one"), std::string::npos) << second.body;
  const auto move = call("POST", "/v1/vms/acme/one/migrate", R"({"host":"host-2"})");
  EXPECT_EQ(move.status, 501);
  EXPECT_NE(move.body.find("cannot move alive"), std::string::npos) << move.body;
}

TEST_F(Vms, F_B11_the_lowest_free_address_is_taken_also_after_a_removal) {
  make_house();
  for (int i = 0; i < 4; ++i)
    ASSERT_EQ(call("POST", "/v1/vms", vm_body("vm-" + std::to_string(i))).status, 202);
  std::vector<Write> removal;
  for (const std::string& key : view.keys_of(VmId("acme/vm-1")))
    removal.push_back({key, std::nullopt});
  bool done = false;
  store.commit({}, removal, [&](Result<CommitOutcome>) { done = true; });
  ASSERT_TRUE(loop.run_until_true([&] { return done; }, seconds(5)));
  ASSERT_EQ(call("POST", "/v1/vms", vm_body("again")).status, 202);
  EXPECT_EQ(view.ports.find(PortId("acme/again-0"))->spec.address, "10.50.0.11/16");
}

TEST_F(Vms, F_B11_an_address_whose_key_was_left_behind_does_not_stop_creations) {
  make_house();
  bool done = false;
  store.commit({}, {{"address/acme/front/10.50.0.10", "acme/ghost-0"}},
               [&](Result<CommitOutcome>) { done = true; });
  ASSERT_TRUE(loop.run_until_true([&] { return done; }, seconds(5)));
  const auto made = call("POST", "/v1/vms", vm_body("web"));
  ASSERT_EQ(made.status, 202) << made.body;
  EXPECT_EQ(view.ports.find(PortId("acme/web-0"))->spec.address, "10.50.0.11/16");
}

TEST_F(Vms, R_B3_R_F8_a_machine_outside_and_a_vm_never_share_an_address) {
  make_house();
  const std::string outside =
      R"([{"mac":"02:00:00:00:00:fe","address":"10.50.0.10","tunnel_address":"192.0.2.7"}])";
  const std::string body = R"({"spec":{"outside":)" + outside + "}}";
  ASSERT_EQ(call("PATCH", "/v1/networks/acme/front", body).status, 200);
  EXPECT_EQ(count_keys("address/acme/front/"), 1U);
  ASSERT_EQ(call("POST", "/v1/vms", vm_body("web")).status, 202);
  EXPECT_EQ(view.ports.find(PortId("acme/web-0"))->spec.address, "10.50.0.11/16");
  ASSERT_EQ(call("PATCH", "/v1/networks/acme/front", R"({"spec":{"outside":[]}})").status, 200);
  EXPECT_EQ(count_keys("address/acme/front/"), 1U) << "that of web";
  ASSERT_EQ(call("POST", "/v1/vms", vm_body("db")).status, 202);
  EXPECT_EQ(view.ports.find(PortId("acme/db-0"))->spec.address, "10.50.0.10/16");
  const auto refused = call("PATCH", "/v1/networks/acme/front", body);
  EXPECT_EQ(refused.status, 409);
  EXPECT_NE(refused.body.find("10.50.0.10 is a VM's"), std::string::npos) << refused.body;
  ASSERT_EQ(call("POST", "/v1/networks",
                 R"({"meta":{"tenant":"acme","name":"side"},"spec":{"subnet":"10.50.0.0/24",)"
                 R"("outside":)" +
                     outside + "}}")
                .status,
            201);
  EXPECT_EQ(count_keys("address/acme/side/"), 1U);
  ASSERT_EQ(call("DELETE", "/v1/networks/acme/side").status, 200);
  EXPECT_EQ(count_keys("address/acme/side/"), 0U);
}

TEST_F(Vms, F_B11_a_full_network_is_said_to_be_full) {
  make_house();
  ASSERT_EQ(call("POST", "/v1/networks",
                 R"({"meta":{"tenant":"acme","name":"small"},"spec":{"subnet":"10.9.0.0/29"}})")
                .status,
            201);
  const std::string nics =
      R"({"network":"small"},{"network":"small"},{"network":"small"},{"network":"small"})";
  const auto body = [&](const std::string& name, const std::string& more) {
    return R"({"meta":{"tenant":"acme","name":")" + name + R"("},"spec":{"image":"tiny","nics":[)" +
           nics + more + "]}}";
  };
  EXPECT_EQ(call("POST", "/v1/vms", body("a", R"(,{"network":"small"})")).status, 202);
  const auto full = call("POST", "/v1/vms", body("b", ""));
  EXPECT_EQ(full.status, 507) << full.body;
  EXPECT_EQ(text_at(parsed(full), "code"), "exhausted");
  EXPECT_EQ(count_keys("address/acme/small/"), 5U) << "nothing of the refused VM is left";
}

TEST_F(Vms, F_B11_a_thousand_parallel_creations_do_not_yield_one_error) {
  make_house();
  MemoryStoreOptions slow;
  slow.commit_delay_min = milliseconds(1);
  slow.commit_delay_max = milliseconds(20);
  store.set_options(slow);
  std::vector<std::shared_ptr<RecordedReply>> replies;
  for (int i = 0; i < 1000; ++i)
    replies.push_back(start("POST", "/v1/vms", vm_body("vm-" + std::to_string(i))));
  const Instant began = loop.now();
  ASSERT_TRUE(loop.run_until_true(
      [&] {
        return std::all_of(replies.begin(), replies.end(),
                           [](const auto& reply) { return reply->answers == 1; });
      },
      seconds(60)));
  EXPECT_LT(loop.now() - began, seconds(5)) << "200/s in virtual time";
  std::map<int, int> by_status;
  for (const auto& reply : replies) ++by_status[reply->response.status];
  EXPECT_EQ(by_status, (std::map<int, int>{{202, 1000}})) << replies.front()->response.body;
  loop.run_for(seconds(1));
  std::set<std::string> addresses;
  std::set<std::string> macs;
  for (const auto& [id, port] : view.ports.all()) {
    addresses.insert(port->spec.address);
    macs.insert(port->spec.mac);
  }
  EXPECT_EQ(addresses.size(), 1000U);
  EXPECT_EQ(macs.size(), 1000U);
  EXPECT_TRUE(addresses.contains("10.50.0.10/16"));
  EXPECT_TRUE(addresses.contains("10.50.3.241/16")) << "no address was skipped";
}

TEST_F(Vms, F_B11_unknown_outcomes_of_the_store_are_resolved_by_reading_again) {
  make_house();
  MemoryStoreOptions faults;
  faults.unknown_done_per_million = 250'000;
  faults.unknown_lost_per_million = 250'000;
  store.set_options(faults);
  for (int i = 0; i < 100; ++i) {
    const std::string name = "vm-" + std::to_string(i);
    const auto made = call("POST", "/v1/vms", vm_body(name));
    ASSERT_EQ(made.status, 202) << made.body;
    ASSERT_NE(view.vms.find(VmId("acme/" + name)), nullptr);
    ASSERT_EQ(call("POST", "/v1/vms/acme/" + name + "/stop").status, 202);
    ASSERT_EQ(view.vms.find(VmId("acme/" + name))->spec.power, DesiredPower::stopped);
    ASSERT_EQ(view.vms.find(VmId("acme/" + name))->meta.generation, 2U) << "done once";
  }
  EXPECT_EQ(view.ports.size(), 100U);
  EXPECT_EQ(outbox().size(), 203U) << "each change is told once";
}

TEST_F(Vms, F_B11_changes_that_meet_are_planned_again_and_none_is_lost) {
  make_running_vm();
  std::vector<std::shared_ptr<RecordedReply>> replies;
  for (int i = 0; i < 10; ++i) {
    replies.push_back(start("PATCH", "/v1/vms/acme/web",
                            R"({"meta":{"labels":{"l)" + std::to_string(i) + R"(":"x"}}})"));
  }
  loop.run_for(seconds(5));
  for (const auto& reply : replies) EXPECT_EQ(reply->response.status, 202) << reply->response.body;
  EXPECT_EQ(web().meta.labels.size(), 10U);
  EXPECT_EQ(web().status.host, HostId("host-1")) << "the controllers' part is kept";
}

TEST_F(Vms, A3_14_R_B4_one_with_a_local_volume_moves_only_where_there_is_room_for_that) {
  make_running_vm();
  const auto put_device = [this](const std::string& name, const std::string& host) {
    Device device;
    device.meta.name = name;
    device.spec = {HostId(host), "/srv/" + name, Mib{100}, "standard"};
    device.status.available = true;
    put(device, keys::of(device.id()));
  };
  put_device("ssd-1", "host-1");
  Volume data;
  data.meta.tenant = "acme";
  data.meta.name = "data";
  data.spec.cluster = web().spec.cluster;
  data.spec.size_mib = data.status.size_mib = Mib{64};
  data.spec.local = true;
  data.status.legs = {{DeviceId("ssd-1"), LegState::in_sync}};
  put(data, keys::of(data.id()));
  Vm with = web();
  with.spec.disks.push_back({"data", Mib(), "data"});
  put(with, keys::of(with.id()));
  const auto refused = call("POST", "/v1/vms/acme/web/migrate", R"({"host":"host-2"})");
  EXPECT_EQ(refused.status, 507);
  EXPECT_NE(refused.body.find("no storage devices with room for the local volumes"),
            std::string::npos)
      << refused.body;
  put_device("ssd-2", "host-2");
  EXPECT_EQ(call("POST", "/v1/vms/acme/web/migrate", R"({"host":"host-2"})").status, 202);
}

TEST_F(Vms, F_B11_power_restart_and_delete_write_desired_state_and_answer_202) {
  make_running_vm();
  const auto stopped = call("POST", "/v1/vms/acme/web/stop");
  EXPECT_EQ(stopped.status, 202);
  EXPECT_EQ(stopped.headers.at("location"), "/v1/vms/acme/web");
  EXPECT_EQ(web().spec.power, DesiredPower::stopped);
  EXPECT_EQ(call("POST", "/v1/vms/acme/web/stop").headers.count("x-virga-unchanged"), 1U);
  EXPECT_EQ(call("POST", "/v1/vms/acme/web/start").status, 202);
  EXPECT_EQ(web().spec.power, DesiredPower::running);
  EXPECT_EQ(call("POST", "/v1/vms/acme/web/restart").status, 202);
  EXPECT_TRUE(web().spec.restart);
  EXPECT_EQ(call("DELETE", "/v1/vms/acme/web").status, 202);
  EXPECT_TRUE(web().meta.deleting_at.has_value()) << "controllers clean up";
  EXPECT_EQ(call("DELETE", "/v1/vms/acme/web").status, 202) << "again is no error";
  EXPECT_EQ(call("POST", "/v1/vms/acme/web/start").status, 409);
  EXPECT_EQ(call("POST", "/v1/vms/acme/nobody/start").status, 404);
}

TEST_F(Vms, A1_11_F_B9_a_move_is_asked_for_by_naming_the_host_and_refused_with_reasons) {
  make_running_vm();
  EXPECT_EQ(call("POST", "/v1/vms/acme/web/migrate", R"({"host":"host-2"})").status, 202);
  EXPECT_EQ(web().spec.move_to, HostId("host-2"));
  const auto there = call("POST", "/v1/vms/acme/web/migrate", R"({"host":"host-1"})");
  EXPECT_EQ(there.status, 409);
  EXPECT_EQ(text_at(parsed(there), "field"), "host");
  const auto emptied = call("POST", "/v1/hosts/host-2/maintenance");
  EXPECT_EQ(emptied.status, 202);
  EXPECT_NE(emptied.headers.at("link").find("/v1/operations?correlation="), std::string::npos)
      << "where the moves are to be followed";
  const auto maintenance = call("POST", "/v1/vms/acme/web/migrate", R"({"host":"host-2"})");
  EXPECT_EQ(maintenance.status, 409);
  const json::object refused = parsed(maintenance);
  ASSERT_EQ(refused.at("reasons").as_array().size(), 2U);
  EXPECT_EQ(json::serialize(refused.at("reasons")),
            R"([{"candidate":"host host-1","reason":"the VM is there"},)"
            R"({"candidate":"host host-2","reason":"is in maintenance"}])");
  EXPECT_EQ(call("POST", "/v1/vms/acme/web/migrate", R"({"host":"host-9"})").status, 404);
  EXPECT_EQ(call("POST", "/v1/vms/acme/web/migrate", R"({"host":7})").status, 400);
  EXPECT_EQ(call("POST", "/v1/vms/acme/web/migrate", R"({"hst":"host-2"})").status, 400);
  EXPECT_EQ(call("POST", "/v1/hosts/host-2/activate").status, 200);
  EXPECT_FALSE(view.hosts.find(HostId("host-2"))->spec.maintenance);
}

TEST_F(Vms, F_B11_a_put_keeps_the_operators_commands_and_what_never_changes) {
  make_running_vm();
  ASSERT_EQ(call("POST", "/v1/vms/acme/web/migrate", R"({"host":"host-2"})").status, 202);
  EXPECT_EQ(call("PUT", "/v1/vms/acme/web", vm_body("web", R"(,"cpu_weight":300)")).status, 202);
  EXPECT_EQ(web().spec.move_to, HostId("host-2"));
  EXPECT_EQ(web().spec.cpu_weight, 300);
  EXPECT_EQ(web().status.host, HostId("host-1"));
  const auto moved = call("PATCH", "/v1/vms/acme/web", R"({"spec":{"nics":[]}})");
  EXPECT_EQ(moved.status, 400);
  EXPECT_EQ(text_at(parsed(moved), "field"), "spec.nics");
}

TEST_F(Vms, F_B4_F_B11_the_machine_of_a_running_vm_stays_its_limits_change) {
  make_running_vm();
  for (const auto& [field, value] : {std::pair("memory_mib", "300"), std::pair("cpus", "3")}) {
    const auto refused =
        call("PATCH", "/v1/vms/acme/web", fmt::format(R"({{"spec":{{"{}":{}}}}})", field, value));
    EXPECT_EQ(refused.status, 409) << refused.body;
    EXPECT_EQ(text_at(parsed(refused), "field"), fmt::format("spec.{}", field));
    EXPECT_NE(refused.body.find("virga --wait vm stop acme/web"), std::string::npos);
  }
  EXPECT_EQ(call("PATCH", "/v1/vms/acme/web", R"({"spec":{"cpu_millicores":250}})").status, 202);
  EXPECT_EQ(web().spec.processes_max, 256);
  EXPECT_EQ(call("PATCH", "/v1/vms/acme/web", R"({"spec":{"processes_max":512}})").status, 202);
  EXPECT_EQ(web().spec.processes_max, 512);
  const auto few = call("PATCH", "/v1/vms/acme/web", R"({"spec":{"processes_max":159}})");
  EXPECT_EQ(few.status, 400);
  EXPECT_NE(few.body.find("spec.processes_max: 159 is out of range: 160 to 32768"),
            std::string::npos)
      << few.body;
  EXPECT_EQ(call("PATCH", "/v1/vms/acme/web", R"({"spec":{"throttle_percent_max":0}})").status,
            202);
  EXPECT_EQ(web().spec.throttle_percent_max, 0);
  const auto all = call("PATCH", "/v1/vms/acme/web", R"({"spec":{"throttle_percent_max":100}})");
  EXPECT_EQ(all.status, 400);
  EXPECT_NE(all.body.find("spec.throttle_percent_max: 100 is out of range: 0 to 99"),
            std::string::npos)
      << all.body;
  Vm stopped = web();
  stopped.status.power = VmPower::stopped;
  put(stopped, keys::of(stopped.id()));
  EXPECT_EQ(call("PATCH", "/v1/vms/acme/web", R"({"spec":{"memory_mib":300}})").status, 202);
  EXPECT_EQ(web().spec.memory_mib.value, 300);
}

TEST_F(Vms, F_B4_F_B11_a_raised_quota_that_does_not_fit_is_refused_with_reasons) {
  make_running_vm();
  const auto capacity = [&](const char* host, std::int64_t millicores) {
    Host changed = *view.hosts.find(HostId(host));
    changed.status.health = HostHealth::alive;
    changed.status.capacity = {Millicores{millicores}, Mib{4096}};
    put(changed, keys::of(changed.id()));
  };
  const auto ask = [&](int quota) {
    return call("PATCH", "/v1/vms/acme/web",
                fmt::format(R"({{"spec":{{"cpu_millicores":{}}}}})", quota));
  };
  Vm large = web();
  large.spec.cpus = 4;
  large.spec.cpu_millicores = Millicores{500};
  put(large, keys::of(large.id()));
  ASSERT_EQ(call("PATCH", "/v1/clusters/lab",
                 R"({"spec":{"policy":{"cpu_overcommit_percent":100,"failures_tolerated":1}}})")
                .status,
            200);
  capacity("host-1", 2000);
  capacity("host-2", 2000);
  const auto full = ask(2001);
  EXPECT_EQ(full.status, 409) << full.body;
  EXPECT_EQ(text_at(parsed(full), "field"), "spec.cpu_millicores");
  EXPECT_NE(full.body.find("has 2000 millicores to promise, 2001 are needed"), std::string::npos);
  EXPECT_EQ(ask(2000).status, 202);
  EXPECT_EQ(ask(500).status, 202);
  capacity("host-2", 1000);
  const auto alone = ask(1500);
  EXPECT_EQ(alone.status, 409) << alone.body;
  EXPECT_NE(alone.body.find("with its loss acme/web would find no room"), std::string::npos);
  EXPECT_EQ(web().spec.cpu_millicores.value, 500) << "nothing of the refused change is left";
  EXPECT_EQ(ask(1000).status, 202);
  capacity("host-1", 100);
  EXPECT_EQ(ask(900).status, 202) << "less is never refused";
}

TEST_F(Vms, F_B11_an_accepted_request_tells_where_its_operations_are_listed) {
  make_house();
  const auto made = call("POST", "/v1/vms", vm_body("web"), {{"x-request-id", "ticket-7"}});
  ASSERT_EQ(made.status, 202);
  EXPECT_EQ(made.headers.at("link"), "</v1/operations?correlation=ticket-7>; rel=\"monitor\"");
  for (const auto& [name, correlation] :
       {std::pair("op-1", "ticket-7"), std::pair("op-2", "other")}) {
    Operation operation;
    operation.meta.name = name;
    operation.correlation = correlation;
    put(operation, keys::of(operation.id()));
  }
  const auto listed = call("GET", "/v1/operations?correlation=ticket-7");
  EXPECT_NE(listed.body.find("op-1"), std::string::npos) << listed.body;
  EXPECT_EQ(listed.body.find("op-2"), std::string::npos) << listed.body;
  EXPECT_FALSE(call("GET", "/v1/vms").headers.contains("link"));
  const std::string link = made.headers.at("link");
  const auto repeated = call("POST", "/v1/vms/acme/web/start", "", {{"x-request-id", "again"}});
  EXPECT_EQ(repeated.headers.at("link"), link) << "nothing has changed since";
  for (const char* id : {"first", "second"}) {
    const auto kept = call("POST", "/v1/vms", vm_body("db"),
                           {{"x-request-id", id}, {"idempotency-key", "order-1"}});
    EXPECT_EQ(kept.headers.at("link"), "</v1/operations?correlation=first>; rel=\"monitor\"");
  }
  const auto cancelled = call("POST", "/v1/operations/op-1/cancel", "", {{"x-request-id", "stop"}});
  EXPECT_EQ(cancelled.status, 202);
  EXPECT_EQ(cancelled.headers.at("link"), link) << "its own request's";
}

TEST_F(Vms, F_B5_F_B11_user_data_and_a_root_disk_are_for_disk_images) {
  make_house();
  ASSERT_EQ(call("POST", "/v1/images",
                 image_body(R"("name":"debian")",
                            R"("path":"images/debian","format":"qcow2","size_mib":2048)"))
                .status,
            201);
  const auto body = [](const std::string& name, const std::string& more) {
    return R"({"meta":{"tenant":"acme","name":")" + name + R"("},"spec":{"image":"debian")" + more +
           "}}";
  };
  EXPECT_EQ(call("POST", "/v1/vms", body("web", R"(,"user_data":"#cloud-config\n")")).status, 202);
  const auto direct = call("POST", "/v1/vms", vm_body("db", R"(,"user_data":"x")"));
  EXPECT_EQ(direct.status, 400) << direct.body;
  EXPECT_EQ(text_at(parsed(direct), "field"), "spec.user_data");
  ASSERT_EQ(call("POST", "/v1/vms", vm_body("tiny")).status, 202);
  EXPECT_EQ(call("PATCH", "/v1/vms/acme/tiny", R"({"spec":{"user_data":"x"}})").status, 400);
  const auto large =
      call("POST", "/v1/vms", body("db", R"(,"user_data":")" + std::string(33'000, 'x') + "\""));
  EXPECT_EQ(large.status, 400);
  EXPECT_EQ(text_at(parsed(large), "field"), "spec.user_data");
  const auto small =
      call("POST", "/v1/vms", body("db", R"(,"disks":[{"name":"root","size_mib":1024}])"));
  EXPECT_EQ(small.status, 400);
  std::string eight;
  for (int i = 0; i < 8; ++i)
    eight += fmt::format(R"({}{{"name":"d{}","size_mib":1}})", i == 0 ? "" : ",", i);
  const auto many = call("POST", "/v1/vms", body("db", R"(,"disks":[)" + eight + "]"));
  EXPECT_EQ(many.status, 400) << "the root disk is the ninth";
  EXPECT_EQ(text_at(parsed(many), "field"), "spec.disks");
  EXPECT_EQ(call("POST", "/v1/vms", vm_body("db", R"(,"disks":[)" + eight + "]")).status, 202);
}

TEST_F(Vms, F_B5_F_B11_an_image_is_within_what_its_cluster_takes_and_has_what_hosts_check) {
  make_house();
  const auto add = [&](const std::string& name, const std::string& spec) {
    return call(
        "POST", "/v1/images",
        image_body("\"name\":\"" + name + "\"", R"("path":"images/x","format":"qcow2",)" + spec));
  };
  const auto refused = add("large", R"("size_mib":40961)");
  EXPECT_EQ(refused.status, 507);
  EXPECT_EQ(text_at(parsed(refused), "field"), "spec.size_mib");
  EXPECT_NE(refused.body.find("40961 MiB"), std::string::npos) << refused.body;
  EXPECT_NE(refused.body.find("takes 40960 MiB (policy.image_mib_max)"), std::string::npos);
  const auto limit = [&](int size_mib) {
    return call("PATCH", "/v1/clusters/lab",
                fmt::format(R"({{"spec":{{"policy":{{"image_mib_max":{}}}}}}})", size_mib))
        .status;
  };
  EXPECT_EQ(limit(0), 400);
  ASSERT_EQ(limit(100), 200);
  EXPECT_EQ(add("long", R"("size_mib":1,"file_bytes":104857601)").status, 507);
  ASSERT_EQ(add("fits", R"("size_mib":100,"file_bytes":104857600)").status, 201);
  const std::string vm = R"({"meta":{"tenant":"acme","name":"web"},"spec":{"image":"fits"}})";
  ASSERT_EQ(limit(99), 200);
  const auto later = call("POST", "/v1/vms", vm);
  EXPECT_EQ(later.status, 507) << later.body;
  EXPECT_EQ(text_at(parsed(later), "field"), "spec.image");
  ASSERT_EQ(limit(100), 200);
  Image old = *view.images.find(ImageId("fits"));
  old.spec.sha256.clear();
  put(old, keys::of(old.id()));
  EXPECT_EQ(call("POST", "/v1/vms", vm).status, 409) << "one that was registered before";
  EXPECT_EQ(call("PATCH", "/v1/images/fits", R"({"meta":{"labels":{"a":"b"}}})").status, 200);
  old.spec.sha256 = std::string(64, '0');
  put(old, keys::of(old.id()));
  EXPECT_EQ(call("POST", "/v1/vms", vm).status, 202);
}

TEST_F(Vms, A1_13_F_B11_another_tenants_cluster_image_and_network_are_refused) {
  make_house();
  ASSERT_EQ(call("POST", "/v1/clusters",
                 R"({"meta":{"name":"zeta-own","tenant":"zeta"},"spec":{"shared_directory":"/z"}})")
                .status,
            201);
  ASSERT_EQ(call("POST", "/v1/images",
                 image_body(R"("name":"zeta-os","tenant":"zeta")", R"("path":"images/z")"))
                .status,
            201);
  ASSERT_EQ(call("POST", "/v1/networks", R"({"meta":{"name":"back","tenant":"zeta"},
      "spec":{"cluster":"zeta-own","subnet":"10.5.0.0/24"}})")
                .status,
            201);
  const auto cluster = call("POST", "/v1/vms", vm_body("a", R"(,"cluster":"zeta-own")"));
  EXPECT_EQ(cluster.status, 403) << cluster.body;
  EXPECT_EQ(text_at(parsed(cluster), "field"), "spec.cluster");
  const auto image = call("POST", "/v1/vms",
                          R"({"meta":{"tenant":"acme","name":"b"},"spec":{"image":"zeta-os"}})");
  EXPECT_EQ(image.status, 403) << image.body;
  const auto network =
      call("POST", "/v1/vms", R"({"meta":{"tenant":"acme","name":"c"},"spec":{"image":"tiny",
      "nics":[{"network":"back"}]}})");
  EXPECT_EQ(network.status, 404) << network.body;
  const auto crossed =
      call("POST", "/v1/vms", R"({"meta":{"tenant":"zeta","name":"d"},"spec":{"image":"zeta-os",
      "cluster":"lab","nics":[{"network":"back"}]}})");
  EXPECT_EQ(crossed.status, 400) << crossed.body;
  EXPECT_EQ(view.vms.size(), 0U);
}

TEST_F(Vms, F_B11_F_B9_the_secret_of_a_migration_is_not_shown) {
  Operation operation;
  operation.meta.name = "op-1";
  operation.subject = "vm/acme/web";
  operation.facts["endpoint"] = {
      {"address", "192.0.2.1"}, {"port", 4444}, {"secret", "s3cret"}, {"key", "unsaid"}};
  put(operation, keys::of(operation.id()));
  const auto shown = call("GET", "/v1/operations/op-1");
  EXPECT_EQ(shown.status, 200);
  EXPECT_NE(shown.body.find("192.0.2.1"), std::string::npos);
  for (const char* word : {"s3cret", "unsaid"}) {
    EXPECT_EQ(shown.body.find(word), std::string::npos);
    EXPECT_EQ(call("GET", "/v1/operations").body.find(word), std::string::npos);
  }
}

TEST_F(Vms, F_B11_an_operation_is_cancelled_once_and_not_after_its_end) {
  Operation operation;
  operation.meta.name = "op-1";
  operation.subject = "vm/acme/web";
  put(operation, keys::of(operation.id()));
  EXPECT_EQ(call("POST", "/v1/operations/op-1/cancel").status, 202);
  EXPECT_TRUE(view.operations.find(OperationId("op-1"))->cancel_requested);
  operation.state = OperationState::succeeded;
  put(operation, keys::of(operation.id()));
  EXPECT_EQ(call("POST", "/v1/operations/op-1/cancel").status, 409);
}

TEST_F(Vms, F_B7_a_person_can_vouch_for_a_silent_host_and_only_for_that_boot) {
  make_running_vm();
  EXPECT_EQ(call("POST", "/v1/hosts/host-1/confirm-off").status, 409) << "it is alive";
  Host host = *view.hosts.find(HostId("host-1"));
  host.status.health = HostHealth::dead;
  put(host, keys::of(host.id()));
  EXPECT_EQ(call("POST", "/v1/hosts/host-1/confirm-off").status, 200);
  EXPECT_EQ(view.hosts.find(HostId("host-1"))->spec.confirmed_off_boot_id, "boot-of-host-1");
}

TEST_F(Vms, F_F13_a_store_with_a_full_disk_refuses_and_says_so) {
  make_house();
  store.disk()->full = true;
  const auto refused = call("POST", "/v1/vms", vm_body("web"));
  EXPECT_EQ(refused.status, 507) << refused.body;
  EXPECT_EQ(call("GET", "/v1/networks/acme/front").status, 200) << "reading goes on";
  store.disk()->full = false;
  EXPECT_EQ(call("POST", "/v1/vms", vm_body("web")).status, 202);
  EXPECT_EQ(view.ports.find(PortId("acme/web-0"))->spec.address, "10.50.0.10/16")
      << "no claim is left";
}

}  // namespace
}  // namespace virga::test
