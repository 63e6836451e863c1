#include <set>

#include "server/api/api_fixture.h"
#include "server/api/validate.h"

namespace virga::test {
namespace {

class Resources : public ApiTest {};

TEST_F(Resources, F_B11_a_resource_is_made_read_listed_changed_and_deleted) {
  const auto made = call("POST", "/v1/clusters",
                         R"({"meta":{"name":"lab","labels":{"use":"test"}},"spec":{"shared_directory":"/srv/v"}})");
  ASSERT_EQ(made.status, 201) << made.body;
  EXPECT_EQ(made.headers.at("location"), "/v1/clusters/lab");
  const std::string etag = made.headers.at("etag");
  EXPECT_NE(etag, "\"0\"");
  const auto read = call("GET", "/v1/clusters/lab");
  EXPECT_EQ(read.headers.at("etag"), etag);
  EXPECT_EQ(parsed(read), parsed(made));
  EXPECT_EQ(call("GET", "/v1/clusters/lab", "", {{"if-none-match", etag}}).status, 304);

  const auto patched = call("PATCH", "/v1/clusters/lab", R"({"spec":{"policy":{"moves_per_host":3}}})",
                            {{"if-match", etag}});
  ASSERT_EQ(patched.status, 200) << patched.body;
  EXPECT_EQ(view.clusters.find(ClusterId("lab"))->spec.policy.moves_per_host, 3);
  EXPECT_EQ(view.clusters.find(ClusterId("lab"))->meta.generation, 2U);
  EXPECT_EQ(view.clusters.find(ClusterId("lab"))->meta.labels.at("use"), "test");

  EXPECT_EQ(call("DELETE", "/v1/clusters/lab").status, 200);
  EXPECT_EQ(call("GET", "/v1/clusters/lab").status, 404);
  EXPECT_EQ(count_keys("cluster/"), 0U);
}

TEST_F(Resources, F_B11_if_match_of_an_older_revision_is_refused_with_412) {
  make_house();
  const std::string old = call("GET", "/v1/clusters/lab").headers.at("etag");
  EXPECT_EQ(call("POST", "/v1/clusters/lab/disarm").status, 200);
  const auto late = call("PATCH", "/v1/clusters/lab", R"({"spec":{"policy":{"moves_per_host":9}}})",
                         {{"if-match", old}});
  EXPECT_EQ(late.status, 412);
  EXPECT_EQ(text_at(parsed(late), "code"), "conflict");
  EXPECT_EQ(text_at(parsed(late), "field"), "if-match");
  EXPECT_EQ(view.clusters.find(ClusterId("lab"))->spec.policy.moves_per_host, 2);
  EXPECT_FALSE(view.clusters.find(ClusterId("lab"))->spec.policy.ha_armed);
}

TEST_F(Resources, F_F1_a_server_that_still_loads_its_state_says_so_and_shows_no_empty_lists) {
  bool loaded = false;
  ApiContext starting = context();
  starting.ready = [&loaded]() -> Result<void> {
    if (loaded) return {};
    return make_error(Errc::unavailable, "the state is still being loaded");
  };
  api = std::make_unique<Api>(std::move(starting));
  EXPECT_EQ(call("GET", "/v1/clusters").status, 503);
  EXPECT_EQ(call("POST", "/v1/clusters", R"({"meta":{"name":"lab"}})").status, 503);
  EXPECT_EQ(call("GET", "/readyz").status, 503);
  EXPECT_EQ(call("GET", "/healthz").status, 200);
  loaded = true;
  EXPECT_EQ(call("GET", "/v1/clusters").status, 200);
}

TEST_F(Resources, F_F11_arming_confirms_a_restored_state_also_where_the_policy_says_armed) {
  int confirmed = 0;
  ApiContext with_core = context();
  with_core.confirm_recovery = [&confirmed] { ++confirmed; };
  api = std::make_unique<Api>(std::move(with_core));
  make_house();
  EXPECT_EQ(call("POST", "/v1/clusters/lab/arm?dry_run=true").status, 200);
  EXPECT_EQ(call("POST", "/v1/clusters/other/arm").status, 404);
  EXPECT_EQ(call("POST", "/v1/clusters/lab/disarm").status, 200);
  EXPECT_EQ(confirmed, 0);
  EXPECT_EQ(call("POST", "/v1/clusters/lab/arm").status, 200);
  EXPECT_EQ(call("POST", "/v1/clusters/lab/arm").status, 200);
  EXPECT_EQ(confirmed, 2);
}

TEST_F(Resources, F_B11_the_second_put_of_the_same_text_commits_nothing) {
  make_house();
  const std::string body = R"({"meta":{"tenant":"acme","name":"front"},"spec":{"subnet":"10.50.0.0/16"}})";
  const Revision before = view.revision;
  const auto again = call("PUT", "/v1/networks/acme/front", body);
  EXPECT_EQ(again.status, 200) << again.body;
  EXPECT_EQ(again.headers.at("x-virga-unchanged"), "true");
  EXPECT_EQ(view.revision, before);
}

TEST_F(Resources, F_B11_a_dry_run_says_what_would_be_and_changes_nothing) {
  make_house();
  const Revision before = view.revision;
  const auto dry = call("POST", "/v1/vms?dry_run=true", vm_body("web"));
  EXPECT_EQ(dry.status, 200) << dry.body;
  EXPECT_EQ(dry.headers.at("x-virga-dry-run"), "true");
  EXPECT_EQ(text_at(parsed(dry).at("spec").as_object(), "cluster"), "lab");
  EXPECT_EQ(call("POST", "/v1/vms?dry_run=true", vm_body("web", R"(,"cpus":0)")).status, 400);
  EXPECT_EQ(call("DELETE", "/v1/networks/acme/front?dry_run=true").status, 200);
  EXPECT_EQ(view.revision, before);
}

TEST_F(Resources, F_B11_a_dry_run_of_a_vm_says_where_it_would_start_or_why_nowhere) {
  ApiContext with_core = context();
  Result<HostId> foretold = HostId("host-2");
  with_core.foretell_start = [&foretold](const Vm&) { return foretold; };
  api = std::make_unique<Api>(std::move(with_core));
  make_house();
  const auto fits = call("POST", "/v1/vms?dry_run=true", vm_body("web"));
  EXPECT_EQ(text_at(parsed(fits).at("status").as_object(), "host"), "host-2");
  foretold = make_error(Errc::exhausted, "host-1 has 12 MiB free");
  const auto does_not = call("POST", "/v1/vms?dry_run=true", vm_body("web"));
  EXPECT_EQ(does_not.status, 200) << "it would be accepted and wait for room";
  EXPECT_EQ(text_at(parsed(does_not).at("status").as_object(), "unplaced_reason"),
            "host-1 has 12 MiB free");
  const auto stored = call("POST", "/v1/vms", vm_body("web"));
  EXPECT_EQ(text_at(parsed(stored).at("status").as_object(), "unplaced_reason"), "");
}

TEST_F(Resources, F_B11_an_idempotency_key_gets_its_first_answer_again_for_a_day) {
  make_house();
  const Headers key{{"idempotency-key", "order-77"}};
  const auto first = call("POST", "/v1/vms", vm_body("web"), key);
  ASSERT_EQ(first.status, 202) << first.body;
  const Revision after = view.revision;
  const auto again = call("POST", "/v1/vms", vm_body("web"), key);
  EXPECT_EQ(again.status, 202);
  EXPECT_EQ(again.body, first.body);
  EXPECT_EQ(again.headers.at("idempotency-replayed"), "true");
  EXPECT_EQ(again.headers.at("location"), first.headers.at("location"));
  EXPECT_EQ(view.revision, after);
  const auto other = call("POST", "/v1/vms", vm_body("web2"), key);
  EXPECT_EQ(other.status, 409) << "another body under the same key";
  EXPECT_EQ(call("POST", "/v1/vms", vm_body("web")).status, 409)
      << "without the key it is a second creation";
  loop.run_for(std::chrono::hours(24));
  EXPECT_EQ(call("POST", "/v1/vms", vm_body("web"), key).status, 202);
  loop.run_for(std::chrono::hours(2));
  EXPECT_EQ(count_keys(std::string(keys::kIdempotency)), 0U);
}

TEST_F(Resources, F_B11_two_requests_with_one_idempotency_key_at_once_make_one_resource) {
  make_house();
  // Both look for the key before either has stored it.
  const auto both = [this](const std::string& key, const std::string& one, const std::string& two) {
    const Headers headers{{"idempotency-key", key}};
    const auto first = start("POST", "/v1/vms", one, headers);
    const auto second = start("POST", "/v1/vms", two, headers);
    EXPECT_TRUE(
        loop.run_until_true([&] { return first->answers + second->answers == 2; }, seconds(10)));
    loop.run_for(milliseconds(5));
    return std::pair(first->response, second->response);
  };
  const auto [first, second] = both("order-78", vm_body("web"), vm_body("web"));
  EXPECT_EQ(first.status, 202) << first.body;
  EXPECT_EQ(second.status, 202) << second.body;
  EXPECT_EQ(first.body, second.body);
  EXPECT_EQ(
      first.headers.count("idempotency-replayed") + second.headers.count("idempotency-replayed"),
      1U);
  EXPECT_EQ(count_keys(std::string(keys::kVm)), 1U);

  // Of two with different names it is the key alone that admits one.
  const auto [left, right] = both("order-79", vm_body("left"), vm_body("right"));
  EXPECT_EQ((std::set{left.status, right.status}), (std::set{202, 409})) << left.body << right.body;
  EXPECT_EQ(count_keys(std::string(keys::kVm)), 2U);
  EXPECT_EQ(count_keys(std::string(keys::kIdempotency)), 2U);
}

TEST_F(Resources, F_B11_pages_of_one_list_are_of_one_revision) {
  make_house();
  for (int i = 0; i < 7; ++i) {
    ASSERT_EQ(call("POST", "/v1/vms", vm_body("vm-" + std::to_string(i))).status, 202);
  }
  auto page = parsed(call("GET", "/v1/vms?limit=3"));
  const std::string revision = json::serialize(page.at("revision"));
  std::set<std::string> names;
  std::size_t pages = 0;
  while (true) {
    ++pages;
    for (const auto& item : page.at("items").as_array()) {
      names.insert(text_at(item.as_object().at("meta").as_object(), "name"));
    }
    if (!page.contains("next")) break;
    const std::string after = text_at(page, "next");
    ASSERT_EQ(call("POST", "/v1/vms", vm_body("vm-later-" + std::to_string(pages))).status, 202);
    page = parsed(call("GET", "/v1/vms?limit=3&after=" + after + "&revision=" + revision));
    EXPECT_EQ(json::serialize(page.at("revision")), revision);
  }
  EXPECT_EQ(pages, 3U);
  EXPECT_EQ(names.size(), 7U) << "what was made later is not in it";
  EXPECT_EQ(call("GET", "/v1/vms?limit=3&revision=1").status, 410);
}

TEST_F(Resources, F_B11_a_long_list_is_written_beside_the_loop_and_follows_changes) {
  make_house();
  for (int i = 0; i < 300; ++i) start("POST", "/v1/vms", vm_body("vm-" + std::to_string(i)));
  loop.run_for(seconds(5));
  const auto listed = [&] {
    auto reply = start("GET", "/v1/vms");
    while (reply->answers == 0) loop.run_for(milliseconds(1));  // the thread runs in real time
    return parsed(reply->response);
  };
  EXPECT_EQ(listed().at("items").as_array().size(), 300U);
  EXPECT_EQ(call("POST", "/v1/vms/acme/vm-7/stop").status, 202);
  EXPECT_NE(json::serialize(listed()).find("\"power\":\"stopped\",\"restart_priority\""),
            std::string::npos);
  start("GET", "/v1/vms");
  api.reset();
  loop.run_for(milliseconds(1));
}

TEST_F(Resources, F_B11_lists_are_narrowed_by_tenant_label_and_field) {
  make_house();
  ASSERT_EQ(call("POST", "/v1/networks",
                 R"({"meta":{"tenant":"zeta","name":"front","labels":{"tier":"edge"}},"spec":{"subnet":"10.50.0.0/16"}})")
                .status, 201);
  EXPECT_EQ(parsed(call("GET", "/v1/networks")).at("items").as_array().size(), 2U);
  EXPECT_EQ(parsed(call("GET", "/v1/networks/zeta")).at("items").as_array().size(), 1U);
  EXPECT_EQ(parsed(call("GET", "/v1/networks?tenant=acme")).at("items").as_array().size(), 1U);
  EXPECT_EQ(parsed(call("GET", "/v1/networks?labels=tier=edge")).at("items").as_array().size(), 1U);
  EXPECT_EQ(call("GET", "/v1/networks?labels=tier").status, 400);
  EXPECT_EQ(json::serialize(
                parsed(call("GET", "/v1/networks/zeta?fields=meta.name,spec.mtu")).at("items")),
            R"([{"meta":{"name":"front"},"spec":{"mtu":1450}}])");
}

TEST_F(Resources, F_B11_what_is_in_use_is_not_deleted_and_says_by_whom) {
  make_house();
  ASSERT_EQ(call("POST", "/v1/vms", vm_body("web")).status, 202);
  for (const char* path : {"/v1/clusters/lab", "/v1/images/tiny", "/v1/networks/acme/front"}) {
    const auto refused = call("DELETE", path);
    EXPECT_EQ(refused.status, 409) << path;
    const json::object body = parsed(refused);
    const json::array& reasons = body.at("reasons").as_array();
    ASSERT_FALSE(reasons.empty()) << path;
    EXPECT_NE(json::serialize(reasons).find("web"), std::string::npos) << path;
  }
  EXPECT_FALSE(view.clusters.find(ClusterId("lab"))->meta.deleting_at.has_value());
}

TEST_F(Resources, F_B11_a_removal_that_a_user_overtakes_is_taken_back) {
  make_house();
  auto removal = start("DELETE", "/v1/networks/acme/front");
  auto creation = start("POST", "/v1/vms", vm_body("web"));
  ASSERT_TRUE(
      loop.run_until_true([&] { return removal->answers + creation->answers == 2; }, seconds(10)));
  loop.run_for(seconds(1));
  const bool network = view.networks.find(NetworkId("acme/front")) != nullptr;
  const bool vm = view.vms.find(VmId("acme/web")) != nullptr;
  EXPECT_EQ(network, vm) << removal->response.body << creation->response.body;
  EXPECT_EQ(removal->response.status, network ? 409 : 200);
  if (network) {
    EXPECT_FALSE(view.networks.find(NetworkId("acme/front"))->meta.deleting_at.has_value());
  } else {
    EXPECT_EQ(count_keys("vni/"), 0U);
  }
}

TEST_F(Resources, F_B11_every_change_tells_an_event_with_the_requests_correlation) {
  const auto made = call("POST", "/v1/clusters", R"({"meta":{"name":"lab"},"spec":{"shared_directory":"/s"}})",
                         {{"x-request-id", "ticket-4711"}});
  EXPECT_EQ(made.headers.at("x-request-id"), "ticket-4711");
  EXPECT_EQ(view.clusters.find(ClusterId("lab"))->meta.correlation, "ticket-4711");
  EXPECT_EQ(call("POST", "/v1/clusters/lab/disarm", "", {{"x-request-id", "bad id\n"}}).status,
            200);
  const auto events = outbox();
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0].kind, "cluster.created");
  EXPECT_EQ(events[0].subject, "cluster/lab");
  EXPECT_EQ(events[0].correlation, "ticket-4711");
  EXPECT_EQ(events[1].kind, "cluster.disarmed");
  EXPECT_EQ(events[1].correlation, "req-test-1") << "an odd id is replaced";
}

TEST_F(Resources, F_B11_a_machines_password_goes_in_and_never_out) {
  const auto made = call("POST", "/v1/machines", R"({"meta":{"name":"m1"},"spec":{"bmc":{"protocol":"redfish",
      "url":"http://10.77.0.11:8000/redfish/v1/Systems/m1","user":"virga","password":"s3cret"}}})");
  ASSERT_EQ(made.status, 201) << made.body;
  EXPECT_EQ(made.body.find("s3cret"), std::string::npos);
  const auto read = call("GET", "/v1/machines/m1");
  EXPECT_EQ(read.body.find("s3cret"), std::string::npos);
  EXPECT_EQ(call("GET", "/v1/machines").body.find("s3cret"), std::string::npos);
  const auto written_back = call("PUT", "/v1/machines/m1", read.body);
  EXPECT_EQ(written_back.status, 200) << written_back.body;
  EXPECT_EQ(view.machines.find(MachineId("m1"))->spec.bmc.password, "s3cret");
}

TEST_F(Resources, F_B11_networks_get_their_own_vxlan_id_also_in_parallel) {
  make_house();
  std::vector<std::shared_ptr<RecordedReply>> replies;
  for (int i = 0; i < 50; ++i) {
    replies.push_back(start("POST", "/v1/networks", R"({"meta":{"tenant":"acme","name":"n)" + std::to_string(i) +
                                                        R"("},"spec":{"subnet":"10.60.0.0/24"}})"));
  }
  loop.run_for(seconds(5));
  std::set<std::uint32_t> ids;
  for (const auto& reply : replies) EXPECT_EQ(reply->response.status, 201) << reply->response.body;
  for (const auto& [id, network] : view.networks.all()) ids.insert(network->spec.vni);
  EXPECT_EQ(ids.size(), 51U);
  const auto taken = call("POST", "/v1/networks",
                          R"({"meta":{"tenant":"zeta","name":"x"},"spec":{"subnet":"10.1.0.0/24","vni":1000}})");
  EXPECT_EQ(taken.status, 409);
}

TEST_F(Resources, F_B11_health_metrics_and_the_openapi_document) {
  EXPECT_EQ(call("GET", "/healthz").status, 200);
  EXPECT_EQ(call("GET", "/readyz").status, 200);
  EXPECT_NE(call("GET", "/metrics").body.find("virga_api_requests_total{"), std::string::npos);
  const json::object document = parsed(call("GET", "/openapi.json"));
  EXPECT_EQ(text_at(document, "openapi"), "3.1.0");
  const json::object& paths = document.at("paths").as_object();
  for (const char* path :
       {"/v1/vms/{tenant}/{name}/migrate", "/v1/clusters", "/v1/hosts/{name}/live", "/v1/watch"}) {
    EXPECT_TRUE(paths.contains(path)) << path;
  }
  const json::value& vm = document.at("components").at("schemas").at("Vm");
  EXPECT_EQ(vm.at("properties").at("spec").at("properties").at("memory_mib").at("type").as_string(),
            "integer");
}

TEST_F(Resources, F_B11_a_foreign_web_page_cannot_drive_the_api) {
  EXPECT_EQ(call("GET", "/v1/vms", "", {{"host", "evil.example:7480"}}).status, 403);
  EXPECT_EQ(call("GET", "/v1/vms", "", {{"host", "127.0.0.1:7480"}, {"origin", "https://evil.example"}}).status, 403);
  EXPECT_EQ(call("GET", "/v1/vms", "", {{"host", "localhost:7480"}, {"origin", "http://localhost:7480"}}).status, 200);
  const auto form = call("POST", "/v1/clusters", R"({"meta":{"name":"x"}})", {{"content-type", "text/plain"}});
  EXPECT_EQ(form.status, 400);
  EXPECT_EQ(text_at(parsed(form), "field"), "content-type");
}

/// A request that must be refused, and the field that the refusal names.
struct Bad {
  const char* method;
  const char* target;
  std::string body;
  int status;
  const char* field;
};

TEST_F(Resources, R_B3_a_machine_outside_a_network_is_named_in_full) {
  const std::pair<const char*, const char*> cases[] = {
      {R"([{"mac":"52:54:00:00:00:01","address":"10.0.0.9","tunnel_address":"192.0.2.1"}])",
       "spec.outside[0].mac"},
      {R"([{"mac":"52:54:00","address":"10.0.0.9","tunnel_address":"192.0.2.1"}])",
       "spec.outside[0].mac"},
      {R"([{"mac":"53:54:00:00:00:01","address":"10.0.0.9","tunnel_address":"192.0.2.1"}])",
       "spec.outside[0].mac"},
      {R"([{"mac":"02:00:00:00:00:01","address":"10.0.1.9","tunnel_address":"192.0.2.1"}])",
       "spec.outside[0].address"},
      {R"([{"mac":"02:00:00:00:00:01","address":"10.0.0.255","tunnel_address":"192.0.2.1"}])",
       "spec.outside[0].address"},
      {R"([{"mac":"02:00:00:00:00:01","address":"10.0.0.9","tunnel_address":"router"}])",
       "spec.outside[0].tunnel_address"},
  };
  for (const auto& [outside, field] : cases) {
    const auto refused = call("POST", "/v1/networks",
                              std::string(R"({"meta":{"tenant":"acme","name":"n"},"spec":{)") +
                                  R"("subnet":"10.0.0.0/24","outside":)" + outside + "}}");
    EXPECT_EQ(refused.status, 400) << refused.body;
    EXPECT_NE(refused.body.find(field), std::string::npos) << refused.body;
  }
}

TEST_F(Resources, R_B3_a_networks_gateway_is_one_of_three_and_has_its_address_for_itself) {
  make_house();
  const auto network = [](const std::string& more) {
    return R"({"meta":{"tenant":"acme","name":"n"},"spec":{"subnet":"10.0.0.0/24",)" + more + "}}";
  };
  const auto odd = call("POST", "/v1/networks", network(R"("gateway":"both")"));
  EXPECT_EQ(odd.status, 400) << odd.body;
  EXPECT_NE(odd.body.find("spec.gateway"), std::string::npos) << odd.body;
  const std::string router =
      R"("outside":[{"mac":"02:00:00:00:00:01","address":"10.0.0.1","tunnel_address":"192.0.2.1"}])";
  const auto taken = call("POST", "/v1/networks", network(R"("gateway":"local",)" + router));
  EXPECT_EQ(taken.status, 400) << taken.body;
  EXPECT_NE(taken.body.find("spec.outside[0].address"), std::string::npos) << taken.body;
  EXPECT_EQ(call("POST", "/v1/networks", network(router)).status, 201) << "without a gateway";
  const auto later = call("PATCH", "/v1/networks/acme/n", R"({"spec":{"gateway":"nat"}})");
  EXPECT_EQ(later.status, 400) << later.body;
  const auto both = call("PATCH", "/v1/networks/acme/n", R"({"spec":{"gateway":"nat","outside":[]}})");
  EXPECT_EQ(both.status, 200) << both.body;
  EXPECT_NE(both.body.find(R"("gateway":"nat")"), std::string::npos) << both.body;
}

TEST_F(Resources,
       F_F21_unknown_fields_F_F22_wrong_types_F_F23_huge_and_nested_json_are_refused_by_name) {
  make_house();
  std::string nested = R"({"meta":{"name":"x"},"spec":)";
  for (int i = 0; i < 50; ++i) nested += R"({"a":)";
  nested += "1" + std::string(51, '}');
  const std::vector<Bad> table = {
      {"POST", "/v1/vms", vm_body("web", R"(,"colour":"red")"), 400, "spec.colour"},
      {"POST", "/v1/vms", R"({"metta":{}})", 400, "metta"},
      {"POST", "/v1/vms", vm_body("web", R"(,"cpus":"two")"), 400, "spec.cpus"},
      {"POST", "/v1/vms", vm_body("web", R"(,"cpus":0)"), 400, "spec.cpus"},
      {"POST", "/v1/vms", vm_body("web", R"(,"cpus":1e300)"), 400, "spec.cpus"},
      {"POST", "/v1/vms", vm_body("web", R"(,"memory_mib":-1)"), 400, "spec.memory_mib"},
      {"POST", "/v1/vms", vm_body("web", R"(,"memory_mib":99999999999)"), 400, "spec.memory_mib"},
      {"POST", "/v1/vms", vm_body("web", R"(,"power":"on")"), 400, "spec.power"},
      {"POST", "/v1/vms", vm_body("web", R"(,"cpu_millicores":1001)"), 400, "spec.cpu_millicores"},
      {"POST", "/v1/vms", vm_body("web", R"(,"move_to":"host-1")"), 400, "spec.move_to"},
      {"POST", "/v1/vms", vm_body("web", R"(,"disks":[{"name":"a","size_mib":0}])"), 400, "spec.disks[0].size_mib"},
      {"POST", "/v1/vms", vm_body("web", R"(,"parameters":{"a b":"1"})"), 400, "spec.parameters"},
      {"POST", "/v1/vms", vm_body("web", R"(,"cluster":"moon")"), 404, "spec.cluster"},
      {"POST", "/v1/vms", vm_body("web", R"(,"pinned_host":"host-9")"), 404, "spec.pinned_host"},
      {"POST", "/v1/vms", vm_body("Web"), 400, "meta.name"},
      {"POST", "/v1/vms", vm_body("../../etc/passwd"), 400, "meta.name"},
      {"POST", "/v1/vms", vm_body(std::string(64, 'a')), 400, "meta.name"},
      {"POST", "/v1/vms", vm_body("we\\u0000b"), 400, "meta.name"},
      {"POST", "/v1/vms", vm_body("\\u00fc\\ud83d\\ude00"), 400, "meta.name"},
      {"POST", "/v1/vms/zeta", vm_body("web"), 400, "meta.tenant"},
      {"PUT", "/v1/vms/acme/other", vm_body("web"), 400, "meta.name"},
      {"POST", "/v1/vms", nested, 400, ""},
      {"POST", "/v1/vms", "{\"a\":\"" + std::string(2 << 20, 'x') + "\"}", 400, ""},
      {"POST", "/v1/vms", "[1,2,3]", 400, ""},
      {"POST", "/v1/vms", "{\"meta\":", 400, ""},
      {"POST", "/v1/images", R"({"meta":{"name":"i"},"spec":{"path":"../../etc/shadow"}})", 400, "spec.path"},
      {"POST", "/v1/images", R"({"meta":{"name":"i"},"spec":{"path":"/etc/shadow"}})", 400, "spec.path"},
      {"POST", "/v1/images", R"({"meta":{"name":"i"},"spec":{"path":"a//b"}})", 400, "spec.path"},
      {"POST", "/v1/images", R"({"meta":{"name":"i"},"spec":{"path":"a","sha256":"xyz"}})", 400, "spec.sha256"},
      {"POST", "/v1/images", R"({"meta":{"name":"i"},"spec":{"path":"a","file_bytes":1}})", 400, "spec.sha256"},
      {"POST", "/v1/images", image_body(R"("name":"i")", R"("path":"a","file_bytes":0)"), 400, "spec.file_bytes"},
      {"POST", "/v1/clusters", R"({"meta":{"name":"c"},"spec":{"shared_directory":"srv"}})", 400,
       "spec.shared_directory"},
      {"POST", "/v1/clusters",
       R"({"meta":{"name":"c"},"spec":{"shared_directory":"/s","policy":{"lease_ms":5000}}})", 400,
       "spec.policy.lease_ms"},
      {"POST", "/v1/networks", R"({"meta":{"tenant":"acme","name":"n"},"spec":{"subnet":"10.0.0.1/24"}})", 400,
       "spec.subnet"},
      {"POST", "/v1/networks", R"({"meta":{"tenant":"acme","name":"n"},"spec":{"subnet":"10.0.0.0/8"}})", 400,
       "spec.subnet"},
      {"POST", "/v1/networks", R"({"meta":{"name":"n"},"spec":{"subnet":"10.0.0.0/24"}})", 400, "meta.tenant"},
      {"POST", "/v1/hosts", R"({"meta":{"name":"h"},"spec":{"cluster":"lab"}})", 501, ""},
      {"PATCH", "/v1/vms/acme/nobody", R"({"spec":{"cpus":2}})", 404, ""},
      {"PATCH", "/v1/clusters/lab", R"({"spek":{}})", 400, "spek"},
      {"GET", "/v1/vms?limit=many", "", 400, "limit"},
      {"GET", "/v1/unicorns", "", 404, ""},
      {"DELETE", "/v1/ports/acme/web-0", "", 405, ""},
      {"BREW", "/v1/vms", "", 405, ""},
  };
  const Revision before = view.revision;
  for (const Bad& bad : table) {
    const auto refused = call(bad.method, bad.target, bad.body);
    const std::string what =
        std::string(bad.method) + " " + bad.target + " " + bad.body.substr(0, 200);
    EXPECT_EQ(refused.status, bad.status) << what << "\n" << refused.body;
    const json::object body = parsed(refused);
    EXPECT_EQ(text_at(body, "field"), bad.field) << what << "\n" << refused.body;
    EXPECT_FALSE(text_at(body, "text").empty()) << what;
    EXPECT_FALSE(text_at(body, "code").empty()) << what;
    EXPECT_LT(refused.body.size(), 2000U) << what;
  }
  EXPECT_EQ(view.revision, before) << "a refused request changes nothing";
}

TEST(Paths, F_F24_odd_names_F_F25_paths_that_climb_are_refused) {
  for (const char* path :
       {"", "..", "a/..", "../a", "a/../b", "./a", "a/", "/a", "a b", "a\nb", "a;b", "a\\b", "~"}) {
    EXPECT_FALSE(api::check_path("path", path, false).ok()) << path;
  }
  EXPECT_TRUE(api::check_path("path", "images/tiny-1.0_x", false).ok());
  EXPECT_TRUE(api::check_path("path", "/srv/virga", true).ok());
  EXPECT_FALSE(api::check_path("path", "/srv/../etc", true).ok());
}

}  // namespace
}  // namespace virga::test
