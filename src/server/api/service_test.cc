#include <cstdlib>
#include <filesystem>

#include "edge/tls.h"
#include "server/api/api_fixture.h"

namespace virga::test {
namespace {

class Services : public ApiTest {
 protected:
  static std::string body(const std::string& name, const std::string& more = "",
                          const std::string& vm = "") {
    return R"({"meta":{"tenant":"acme","name":")" + name +
           R"("},"spec":{"vm":{"image":"tiny","network":"front")" + vm + "}" + more + "}}";
  }
  void refused(const HttpResponse& answer, int status, const std::string& words) {
    EXPECT_EQ(answer.status, status) << answer.body;
    EXPECT_NE(answer.body.find(words), std::string::npos) << answer.body;
  }
  /// acme/web with a copy that serves on host-1, as its controller would make it.
  void make_serving(bool direct_io = false) {
    make_house();
    ASSERT_EQ(call("POST", "/v1/services", body("web")).status, 202);
    Host host;
    host.meta.name = "host-1";
    host.spec.cluster = ClusterId("lab");
    put(host, keys::of(host.id()));
    Vm vm;
    vm.meta.tenant = "acme";
    vm.meta.name = "web-c1";
    vm.spec.cluster = ClusterId("lab");
    vm.spec.image = ImageId("tiny");
    vm.spec.service = ServiceId("acme/web");
    vm.spec.direct_io = direct_io;
    vm.status.host = host.id();
    put(vm, keys::of(vm.id()));
    Service service = *view.services.find(ServiceId("acme/web"));
    ServiceCopy& copy = service.status.copies.emplace_back();
    copy.vm = vm.id();
    copy.state = ServiceCopyState::serving;
    put(service, keys::of(service.id()));
  }
};

TEST_F(Services, R_B6_the_share_of_a_copy_is_ordered_within_its_bounds) {
  make_serving();
  const auto weigh = [this](const std::string& order) {
    return call("POST", "/v1/services/acme/web/weigh", order);
  };
  refused(weigh(R"({"copy":"web-c9","weight":5})"), 404, "copy web-c1");
  refused(weigh(R"({"copy":"web-c1","weight":0})"), 400, "1 to 256");
  refused(weigh(R"({"copy":"web-c1","weight":"much"})"), 400, "weight");
  EXPECT_EQ(weigh(R"({"copy":"web-c1","weight":5})").status, 202);
  const auto& ordered = view.services.find(ServiceId("acme/web"))->spec.weigh;
  ASSERT_TRUE(ordered.has_value());
  EXPECT_EQ(ordered->weight, 5);
  refused(call("POST", "/v1/services", body("other", R"(,"weigh":{"copy":"x","weight":5})")), 400,
          "are set by POST");
}

TEST_F(Services, R_B6_a_certificate_goes_in_and_never_out) {
  make_house();
  char folder[] = "/tmp/virga-service-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const auto authority = CertificateAuthority::open(folder);
  std::filesystem::remove_all(folder);
  ASSERT_TRUE(authority.ok());
  const auto pem_for = [&](const char* name, Duration valid) {
    const auto issued = authority->issue({"shop", {name}, {}, valid});
    return issued->certificate + issued->private_key;
  };
  const auto frontend = [](bool tls, const std::string& certificate) {
    json::object inner{{"tls", tls}, {"certificate", certificate}};
    return R"(,"frontend":)" + json::serialize(inner);
  };
  const std::string good = pem_for("shop.example", std::chrono::hours(24));
  refused(call("POST", "/v1/services", body("web", frontend(true, ""))), 400, "is missing");
  refused(call("POST", "/v1/services", body("web", frontend(false, good))), 400,
          "set spec.frontend.tls");
  refused(call("POST", "/v1/services", body("web", frontend(true, "no PEM"))), 400,
          "spec.frontend.certificate");
  const std::string other = pem_for("other.example", std::chrono::hours(24));
  const std::string mixed =
      good.substr(0, good.find("-----BEGIN PRIVATE")) + other.substr(other.find("-----BEGIN PRIV"));
  refused(call("POST", "/v1/services", body("web", frontend(true, mixed))), 400, "private key");
  const auto made = call("POST", "/v1/services", body("web", frontend(true, good)));
  ASSERT_EQ(made.status, 202) << made.body;
  const auto stored = [this] {
    return view.services.find(ServiceId("acme/web"))->spec.frontend.certificate;
  };
  EXPECT_EQ(stored(), good);
  for (const char* path : {"/v1/services/acme/web", "/v1/services"}) {
    const auto shown = call("GET", path);
    EXPECT_EQ(shown.body.find("BEGIN"), std::string::npos) << path;
    EXPECT_NE(shown.body.find(R"("tls":true)"), std::string::npos) << shown.body;
  }
  EXPECT_EQ(made.body.find("BEGIN"), std::string::npos);
  EXPECT_EQ(call("PUT", "/v1/services/acme/web", body("web", frontend(true, ""))).status, 200);
  EXPECT_EQ(stored(), good) << "what was read is written back";
  EXPECT_EQ(call("PATCH", "/v1/services/acme/web", R"({"spec":{"frontend":{"tls":false}}})").status,
            202);
  EXPECT_EQ(stored(), "");
}

TEST_F(Services, R_B5_a_service_gets_an_address_of_its_network_and_keeps_it) {
  make_house();
  const auto made = call("POST", "/v1/services", body("web"));
  ASSERT_EQ(made.status, 202) << made.body;
  const Service* service = view.services.find(ServiceId("acme/web"));
  ASSERT_NE(service, nullptr);
  EXPECT_EQ(service->spec.frontend.address, "10.50.0.10");
  EXPECT_EQ(service->spec.cluster, ClusterId("lab"));
  const Port* port = view.ports.find(PortId("acme/web-frontend"));
  ASSERT_NE(port, nullptr);
  EXPECT_EQ(port->spec.service, ServiceId("acme/web"));
  EXPECT_EQ(call("POST", "/v1/vms", vm_body("vm")).status, 202);
  EXPECT_EQ(view.ports.find(PortId("acme/vm-0"))->spec.address, "10.50.0.11/16");
  refused(call("POST", "/v1/services", body("other", R"(,"frontend":{"address":"10.50.0.11"})")),
          409, "is in use");
  refused(call("POST", "/v1/services", body("other", R"(,"frontend":{"address":"10.9.0.1"})")), 400,
          "is no address of 10.50.0.0/16");
  EXPECT_EQ(
      call("POST", "/v1/services", body("other", R"(,"frontend":{"address":"10.50.7.7"})")).status,
      202);
  refused(call("DELETE", "/v1/networks/acme/front"), 409, "of service acme/web");
  refused(call("DELETE", "/v1/images/tiny"), 409, "service acme/web");
}

TEST_F(Services, R_B3_a_gateways_address_is_no_services_and_the_other_way_round) {
  make_house();
  const std::string first = body("web", R"(,"frontend":{"address":"10.50.0.1"})");
  const auto gateway = [this](const std::string& kind) {
    return call("PATCH", "/v1/networks/acme/front", R"({"spec":{"gateway":")" + kind + R"("}})");
  };
  EXPECT_EQ(gateway("local").status, 200);
  refused(call("POST", "/v1/services", first), 409, "spec.frontend.address");
  EXPECT_EQ(gateway("none").status, 200);
  EXPECT_EQ(call("POST", "/v1/services", first).status, 202) << "its address is free again";
  refused(gateway("nat"), 409, "spec.gateway: its address 10.50.0.1");
}

TEST_F(Services, R_B5_what_is_wrong_is_named_with_its_field) {
  make_house();
  refused(call("POST", "/v1/services", body("web", R"(,"replicas":17)")), 400, "spec.replicas: 17");
  refused(call("POST", "/v1/services", body(std::string(49, 'w'))), 400, "at most 48");
  refused(call("POST", "/v1/services", body("web", "", R"(,"cpus":0)")), 400, "spec.vm.cpus: 0");
  refused(call("POST", "/v1/services", body("web", "", R"(,"port":0)")), 400, "spec.vm.port: 0");
  refused(call("POST", "/v1/services", body("web", R"(,"check":{"path":"x y"})")), 400,
          "spec.check.path");
  refused(call("POST", "/v1/services", body("web", R"(,"relocate":{"copy":"x"})")), 400,
          "POST .../relocate");
  refused(
      call(
          "POST", "/v1/services",
          R"({"meta":{"tenant":"acme","name":"web"},"spec":{"vm":{"image":"none","network":"front"}}})"),
      404, "spec.vm.image");
  refused(
      call(
          "POST", "/v1/services",
          R"({"meta":{"tenant":"acme","name":"web"},"spec":{"vm":{"image":"tiny","network":"none"}}})"),
      404, "spec.vm.network");
}

TEST_F(Services, R_B5_what_copies_rest_on_never_changes_and_how_many_does) {
  make_house();
  ASSERT_EQ(call("POST", "/v1/services", body("web")).status, 202);
  EXPECT_EQ(call("PATCH", "/v1/services/acme/web", R"({"spec":{"replicas":3}})").status, 202);
  EXPECT_EQ(view.services.find(ServiceId("acme/web"))->spec.replicas, 3);
  refused(call("PATCH", "/v1/services/acme/web", R"({"spec":{"vm":{"port":81}}})"), 400,
          "spec.vm.port: never changes");
  refused(call("PATCH", "/v1/services/acme/web", R"({"spec":{"frontend":{"port":81}}})"), 400,
          "spec.frontend.port: never changes");
  EXPECT_EQ(call("DELETE", "/v1/services/acme/web").status, 202);
  EXPECT_TRUE(view.services.find(ServiceId("acme/web"))->meta.deleting_at.has_value());
}

TEST_F(Services, R_B7_limits_of_demand_are_checked) {
  make_house();
  ASSERT_EQ(call("POST", "/v1/services", body("web")).status, 202);
  const auto scaling = [&](const std::string& fields) {
    return call("PATCH", "/v1/services/acme/web", R"({"spec":{"scaling":{)" + fields + "}}}");
  };
  refused(scaling(R"("action":"scale","replicas_max":4)"), 400, "nothing is watched");
  refused(scaling(R"("action":"scale","requests_max":5)"), 400, "spec.scaling.replicas_max");
  refused(scaling(R"("action":"scale","replicas_max":2,"requests_max":5)"), 400,
          "more than spec.replicas, 2");
  refused(scaling(R"("action":"duplicate","queue_max":5)"), 400, "copy_connections_max");
  refused(scaling(R"("cpu_percent_max":101)"), 400, "spec.scaling.cpu_percent_max");
  refused(scaling(R"("sustained_ms":1)"), 400, "spec.scaling.sustained_ms");
  refused(scaling(R"("action":"more")"), 400, "scaling.action");
  EXPECT_EQ(scaling(R"("action":"scale","replicas_max":4,"requests_max":5)").status, 202);
  EXPECT_EQ(view.services.find(ServiceId("acme/web"))->spec.scaling.replicas_max, 4);
}

TEST_F(Services, R_B9_a_promise_is_checked_and_gives_its_monitor_an_address) {
  make_house();
  ASSERT_EQ(call("POST", "/v1/services", body("web")).status, 202);
  EXPECT_EQ(view.ports.find(PortId("acme/web-monitor")), nullptr) << "nobody asks it";
  const auto patch = [&](const std::string& objective) {
    return call("PATCH", "/v1/services/acme/web", R"({"spec":{"objective":{)" + objective + "}}}");
  };
  refused(patch(R"("availability_ppm":1000001)"), 400, "spec.objective.availability_ppm: 1000001");
  refused(patch(R"("window_days":91)"), 400, "spec.objective.window_days: 91");
  refused(patch(R"("response_ms":5)"), 400, "spec.objective.response_ms: 5");
  refused(patch(R"("every_ms":1)"), 400, "spec.objective.every_ms: 1");
  refused(call("GET", "/v1/services/acme/web/level"), 501, "levels of services");
  ASSERT_EQ(patch(R"("availability_ppm":999000)").status, 202);
  const Port* port = view.ports.find(PortId("acme/web-monitor"));
  ASSERT_NE(port, nullptr);
  EXPECT_EQ(port->spec.service, ServiceId("acme/web"));
  const std::string address = port->spec.address;
  ASSERT_EQ(patch(R"("availability_ppm":0)").status, 202);
  ASSERT_EQ(patch(R"("availability_ppm":999900)").status, 202);
  EXPECT_EQ(view.ports.find(PortId("acme/web-monitor"))->spec.address, address);
  ASSERT_EQ(
      call("POST", "/v1/services", body("shop", R"(,"objective":{"availability_ppm":999000})"))
          .status,
      202);
  EXPECT_NE(view.ports.find(PortId("acme/shop-monitor")), nullptr);
  EXPECT_NE(view.ports.find(PortId("acme/shop-monitor"))->spec.address,
            view.ports.find(PortId("acme/shop-frontend"))->spec.address);
}

TEST_F(Services, R_B5_copies_belong_to_their_service) {
  make_serving();
  const std::string words = "is a copy of service acme/web";
  refused(call("DELETE", "/v1/vms/acme/web-c1"), 409, words);
  refused(call("PATCH", "/v1/vms/acme/web-c1", R"({"spec":{"cpu_weight":7}})"), 409, words);
  refused(call("POST", "/v1/vms/acme/web-c1/stop"), 409, words);
  refused(call("POST", "/v1/vms/acme/web-c1/migrate", "{}"), 409, words);
  refused(call("POST", "/v1/vms", vm_body("mine", R"(,"service":"acme/web")")), 400,
          "spec.service");
}

TEST_F(Services, A3_03_A3_09_an_operator_relocates_one_copy_at_a_time) {
  make_serving();
  const std::string target = "/v1/services/acme/web/relocate";
  refused(call("POST", target, R"({"copy":"db"})"), 404, "is no copy of service acme/web");
  refused(call("POST", target, R"({"host":"none"})"), 404, "is no host of cluster");
  refused(call("POST", target, R"({"host":"host-1"})"), 409, "is on \\\"host-1\\\" already");
  refused(call("POST", target, R"({"for_ms":-1})"), 400, "for_ms");
  const auto accepted = call("POST", target, R"({"for_ms":60000})");
  EXPECT_EQ(accepted.status, 202) << accepted.body;
  const Service* service = view.services.find(ServiceId("acme/web"));
  ASSERT_TRUE(service->spec.relocate.has_value());
  EXPECT_EQ(service->spec.relocate->copy, "web-c1");
  EXPECT_EQ(service->spec.relocate->mode, RelocationMode::duplicate);
  refused(call("POST", target, "{}"), 409, "one copy at a time");
}

TEST_F(Services, A3_23_direct_io_is_refused_with_the_reason) {
  make_serving(true);
  refused(call("POST", "/v1/services/acme/web/relocate", "{}"), 501, "is locked to that host");
  refused(call("POST", "/v1/services", body("raw", "", R"(,"direct_io":true)")), 400,
          "spec.vm.pinned_host");
}

}  // namespace
}  // namespace virga::test
