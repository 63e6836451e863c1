#include "server/api/api_fixture.h"

namespace virga::test {
namespace {

class FloatingAddresses : public ApiTest {
 protected:
  FloatingAddresses() {
    make_house();
    EXPECT_EQ(change("clusters/lab", R"({"floating_ranges":["203.0.113.16/30"]})").status, 200);
    EXPECT_EQ(change("networks/acme/front", R"({"gateway":"nat"})").status, 200);
  }

  HttpResponse change(const std::string& what, const std::string& spec) {
    return call("PATCH", "/v1/" + what, R"({"spec":)" + spec + "}");
  }
  HttpResponse lead(const std::string& name, const std::string& spec) {
    return change("floating_addresses/" + name, spec);
  }
  HttpResponse have(const std::string& name, const std::string& spec = "{}",
                    const std::string& tenant = "acme") {
    return call(
        "POST", "/v1/floating_addresses",
        R"({"meta":{"tenant":")" + tenant + R"(","name":")" + name + R"("},"spec":)" + spec + "}");
  }
  std::string field_of(const HttpResponse& answer, const char* field) {
    const auto whole = parsed(answer);
    const auto* spec = whole.if_contains("spec");
    return spec == nullptr ? answer.body : std::string(spec->at(field).as_string());
  }
  void make_vm(const std::string& name, const std::string& nics = R"([{"network":"front"}])") {
    const auto made = call("POST", "/v1/vms",
                           R"({"meta":{"tenant":"acme","name":")" + name +
                               R"("},"spec":{"image":"tiny","nics":)" + nics + "}}");
    EXPECT_EQ(made.status, 202) << made.body;
  }
  void make_network(const std::string& name, const std::string& gateway) {
    const auto made =
        call("POST", "/v1/networks",
             R"({"meta":{"tenant":"acme","name":")" + name +
                 R"("},"spec":{"subnet":"10.60.0.0/24","gateway":")" + gateway + R"("}})");
    EXPECT_EQ(made.status, 201) << made.body;
  }
};

/// The answer has this status and says this.
#define EXPECT_SAYS(answer, wanted, text)                            \
  do {                                                               \
    const HttpResponse said = answer;                                \
    EXPECT_EQ(said.status, wanted) << said.body;                     \
    EXPECT_NE(said.body.find(text), std::string::npos) << said.body; \
  } while (false)

TEST_F(FloatingAddresses, R_B3_are_given_out_of_the_clusters_ranges_each_once) {
  EXPECT_EQ(field_of(have("a"), "address"), "203.0.113.16");
  EXPECT_EQ(field_of(have("b", R"({"address":"203.0.113.18"})"), "address"), "203.0.113.18");
  EXPECT_EQ(field_of(have("c", "{}", "zeta"), "address"), "203.0.113.17");
  EXPECT_SAYS(have("d", R"({"address":"203.0.113.18"})"), 409, "in use");
  EXPECT_SAYS(have("d", R"({"address":"203.0.113.20"})"), 400, "203.0.113.16/30");
  EXPECT_SAYS(have("d", R"({"address":"203.0.113"})"), 400, "spec.address");
  EXPECT_SAYS(have("d", R"({"address":"203.0.113.19/32"})"), 400, "spec.address");
  EXPECT_EQ(field_of(have("d"), "address"), "203.0.113.19");
  EXPECT_SAYS(have("e"), 507, "floating_ranges are in use");
  EXPECT_EQ(call("DELETE", "/v1/floating_addresses/acme/b").status, 200);
  EXPECT_EQ(field_of(have("e"), "address"), "203.0.113.18");
  EXPECT_SAYS(lead("acme/e", R"({"address":"203.0.113.17"})"), 400, "never changes");
}

TEST_F(FloatingAddresses, R_B3_a_cluster_without_ranges_says_who_gives_it_some) {
  EXPECT_EQ(change("clusters/lab", R"({"floating_ranges":[]})").status, 200);
  EXPECT_SAYS(have("a"), 409, "virga cluster floating-ranges lab");
}

TEST_F(FloatingAddresses, R_B3_ranges_are_refused_by_field_and_keep_what_is_given_out) {
  const auto ranges = [this](const std::string& list) {
    return change("clusters/lab", R"({"floating_ranges":)" + list + "}");
  };
  EXPECT_SAYS(ranges(R"(["203.0.113.17/30"])"), 400, "spec.floating_ranges[0]");
  EXPECT_SAYS(ranges(R"(["10.0.0.0/8"])"), 400, "spec.floating_ranges[0]");
  EXPECT_SAYS(ranges(R"(["203.0.113.0/24","203.0.113.9"])"), 400, "spec.floating_ranges[1]");
  ASSERT_EQ(have("a").status, 201);
  EXPECT_SAYS(ranges("[]"), 409, "floating_address acme/a");
  EXPECT_EQ(ranges(R"(["203.0.113.0/24"])").status, 200);
  EXPECT_SAYS(call("DELETE", "/v1/clusters/lab"), 409, "floating_address acme/a");
}

TEST_F(FloatingAddresses, R_B3_lead_to_a_vm_on_a_network_with_a_way_out_and_to_another) {
  make_network("back", "local");
  make_network("dmz", "nat");
  make_vm("web");
  make_vm("db", R"([{"network":"back"}])");
  make_vm("both", R"([{"network":"front"},{"network":"dmz"},{"network":"back"}])");
  EXPECT_EQ(field_of(have("a", R"({"vm":"web"})"), "network"), "front");
  EXPECT_SAYS(have("b", R"({"vm":"web"})"), 409, "floating_address acme/a");
  EXPECT_SAYS(have("b", R"({"vm":"none"})"), 404, "spec.vm");
  EXPECT_SAYS(have("b", R"({"vm":"web"})", "zeta"), 404, "spec.vm");
  EXPECT_SAYS(have("b", R"({"vm":"db"})"), 409, "gateway: nat");
  EXPECT_SAYS(have("b", R"({"vm":"both"})"), 400, "front, dmz");
  EXPECT_SAYS(have("b", R"({"vm":"both","network":"back"})"), 409, "front, dmz");
  EXPECT_SAYS(have("b", R"({"network":"front"})"), 400, "spec.network");
  EXPECT_EQ(field_of(have("b", R"({"vm":"both","network":"dmz"})"), "network"), "dmz");
  EXPECT_SAYS(lead("acme/b", R"({"vm":"db"})"), 409, "gateway: nat");
  EXPECT_SAYS(lead("acme/b", R"({"vm":"web"})"), 409, "floating_address acme/a");
  EXPECT_EQ(field_of(lead("acme/a", R"({"vm":"both"})"), "network"), "front");
  EXPECT_EQ(field_of(lead("acme/b", R"({"vm":"web"})"), "network"), "front")
      << "its network was chosen for the other VM";
  EXPECT_EQ(lead("acme/b", R"({"vm":"","network":""})").status, 200);
  EXPECT_EQ(field_of(have("c", R"({"vm":"web"})"), "network"), "front");
}

TEST_F(FloatingAddresses, R_B3_R_B6_lead_to_services_too) {
  make_vm("web");
  const auto made = call(
      "POST", "/v1/services",
      R"({"meta":{"tenant":"acme","name":"shop"},"spec":{"vm":{"image":"tiny","network":"front"}}})");
  ASSERT_EQ(made.status, 202) << made.body;
  EXPECT_EQ(field_of(have("a", R"({"service":"shop"})"), "network"), "front");
  EXPECT_SAYS(have("b", R"({"service":"shop"})"), 409, "floating_address acme/a");
  EXPECT_SAYS(have("b", R"({"service":"none"})"), 404, "spec.service");
  EXPECT_SAYS(have("b", R"({"service":"shop","vm":"web"})"), 400, "spec.service");
  EXPECT_EQ(field_of(lead("acme/a", R"({"service":"","vm":"web"})"), "vm"), "web");
  EXPECT_EQ(field_of(have("b", R"({"service":"shop"})"), "service"), "shop");
}

TEST_F(FloatingAddresses, R_B3_a_network_keeps_its_way_out_as_long_as_one_leads_there) {
  make_vm("web");
  ASSERT_EQ(have("a", R"({"vm":"web"})").status, 201);
  EXPECT_SAYS(change("networks/acme/front", R"({"gateway":"local"})"), 409,
              "floating_address acme/a");
  ASSERT_EQ(call("DELETE", "/v1/floating_addresses/acme/a").status, 200);
  EXPECT_EQ(change("networks/acme/front", R"({"gateway":"local"})").status, 200);
}

}  // namespace
}  // namespace virga::test
