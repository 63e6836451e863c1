#include "server/api/api_fixture.h"

namespace virga::test {
namespace {

class Groups : public ApiTest {
 protected:
  static std::string group_body(const std::string& name, const std::string& rules) {
    return R"({"meta":{"tenant":"acme","name":")" + name + R"("},"spec":{"rules":[)" + rules +
           "]}}";
  }
  void make_group(const std::string& name, const std::string& rules = "") {
    const auto made = call("POST", "/v1/security_groups", group_body(name, rules));
    EXPECT_EQ(made.status, 201) << made.body;
  }
  HttpResponse make_vm(const std::string& name, const std::string& groups) {
    return call("POST", "/v1/vms",
                R"({"meta":{"tenant":"acme","name":")" + name +
                    R"("},"spec":{"image":"tiny","nics":[{"network":"front","security_groups":)" +
                    groups + "}]}}");
  }
  HttpResponse change_groups(const std::string& vm, const std::string& groups) {
    return call("PATCH", "/v1/vms/acme/" + vm,
                R"({"spec":{"nics":[{"network":"front","security_groups":)" + groups + "}]}}");
  }
  std::vector<std::string> groups_of_port(const std::string& port) {
    std::vector<std::string> names;
    const auto shown = parsed(call("GET", "/v1/ports/acme/" + port));
    for (const auto& one : shown.at("spec").at("security_groups").as_array())
      names.emplace_back(one.as_string());
    return names;
  }
  using Names = std::vector<std::string>;
};

TEST_F(Groups, R_B3_a_rule_that_cannot_be_is_refused_by_field_with_what_would_be_right) {
  struct Case {
    const char *rule, *field, *right;
  };
  const Case cases[] = {
      {R"({"direction":"inward"})", "spec.rules[0].direction", "ingress"},
      {R"({"protocol":"sctp"})", "spec.rules[0].protocol", "udp"},
      {R"({"protocol":"icmp","port_min":8})", "spec.rules[0].port_min", "leave it out"},
      {R"({"port_max":8})", "spec.rules[0].port_max", "leave it out"},
      {R"({"protocol":"tcp","port_min":-1})", "spec.rules[0].port_min", "1 to 65535"},
      {R"({"protocol":"tcp","port_min":65536})", "spec.rules[0].port_min", "1 to 65535"},
      {R"({"protocol":"tcp","port_min":80,"port_max":79})", "spec.rules[0].port_max",
       "80 to 65535"},
      {R"({"protocol":"udp","port_max":79})", "spec.rules[0].port_max", "left out"},
      {R"({"remote":"10.0.0.0/33"})", "spec.rules[0].remote", "10.50.0.0/24"},
      {R"({"remote":"10.0.0.1/24"})", "spec.rules[0].remote", "10.50.0.0/24"},
      {R"({"remote":"::/0"})", "spec.rules[0].remote", "10.50.0.0/24"},
      {R"({"remote":"10.0.0.0/8 ; drop"})", "spec.rules[0].remote", "10.50.0.0/24"},
      {R"({"remote":"10.0.0.0/8","remote_group":"web"})", "spec.rules[0].remote_group",
       "leave one"},
      {R"({"remote_group":"Web"})", "spec.rules[0].remote_group", "a-z"},
      {R"({"colour":"red"})", "spec.rules[0].colour", "known"},
  };
  for (const auto& [rule, field, right] : cases) {
    const auto refused = call("POST", "/v1/security_groups", group_body("web", rule));
    EXPECT_EQ(refused.status, 400) << rule << refused.body;
    EXPECT_NE(refused.body.find(field), std::string::npos) << rule << refused.body;
    EXPECT_NE(refused.body.find(right), std::string::npos) << rule << refused.body;
  }
  std::string many = "{}";
  for (int i = 0; i < 64; ++i) many += ",{}";
  EXPECT_NE(
      call("POST", "/v1/security_groups", group_body("web", many)).body.find("spec.rules: 65"),
      std::string::npos);
  const auto missing =
      call("POST", "/v1/security_groups", group_body("web", R"({"remote_group":"db"})"));
  EXPECT_EQ(missing.status, 404) << missing.body;
  make_group("web",
             R"({"protocol":"tcp","port_min":80,"remote":"0.0.0.0/0"},{"remote":"10.50.0.10"},
                       {"direction":"egress"},{"protocol":"icmp","remote_group":"web"})");
}

TEST_F(Groups, R_B3_A1_13_a_ports_groups_follow_its_vms_and_those_of_other_tenants_are_unknown) {
  make_house();
  make_group("web");
  make_group("ops");
  ASSERT_EQ(make_vm("one", R"(["web"])").status, 202);
  EXPECT_EQ(groups_of_port("one-0"), (Names{"acme/web"}));
  const auto before = parsed(call("GET", "/v1/ports/acme/one-0"));
  ASSERT_EQ(change_groups("one", R"(["web","ops"])").status, 202);
  EXPECT_EQ(groups_of_port("one-0"), (Names{"acme/web", "acme/ops"}));
  const auto after = parsed(call("GET", "/v1/ports/acme/one-0"));
  EXPECT_EQ(after.at("spec").at("address"), before.at("spec").at("address"));
  EXPECT_EQ(after.at("spec").at("mac"), before.at("spec").at("mac"));
  ASSERT_EQ(change_groups("one", "[]").status, 202);
  EXPECT_EQ(groups_of_port("one-0"), Names());
  EXPECT_EQ(call("PATCH", "/v1/vms/acme/one", R"({"spec":{"nics":[]}})").status, 400)
      << "the NIC itself stays";
  const auto foreign = R"({"meta":{"tenant":"zeta","name":"own"},"spec":{}})";
  ASSERT_EQ(call("POST", "/v1/security_groups", foreign).status, 201);
  for (const auto& refused : {make_vm("two", R"(["own"])"), change_groups("one", R"(["own"])")}) {
    EXPECT_EQ(refused.status, 404) << refused.body;
    EXPECT_NE(refused.body.find("spec.nics[0].security_groups[0]"), std::string::npos)
        << refused.body;
    EXPECT_NE(refused.body.find("security_group acme/web"), std::string::npos)
        << "those that there are" << refused.body;
  }
  EXPECT_EQ(make_vm("two", R"(["web","web"])").status, 400);
  EXPECT_EQ(make_vm("two", R"(["a","b","c","d","e","f"])").status, 400);
  EXPECT_EQ(make_vm("two", R"(["zeta/own"])").status, 400);
}

TEST_F(Groups, R_B3_a_group_in_use_is_not_deleted_and_says_by_whom) {
  make_house();
  make_group("web");
  make_group("db", R"({"remote_group":"web"},{"remote_group":"db"})");
  ASSERT_EQ(make_vm("one", R"(["web"])").status, 202);
  const auto used = call("DELETE", "/v1/security_groups/acme/web");
  EXPECT_EQ(used.status, 409);
  EXPECT_NE(used.body.find("port acme/one-0"), std::string::npos) << used.body;
  EXPECT_NE(used.body.find("security_group acme/db"), std::string::npos) << used.body;
  EXPECT_EQ(call("DELETE", "/v1/security_groups/acme/db").status, 200)
      << "its own rules do not hold it";
  EXPECT_EQ(call("DELETE", "/v1/security_groups/acme/web").status, 409);
  ASSERT_EQ(change_groups("one", "[]").status, 202);
  EXPECT_EQ(call("DELETE", "/v1/security_groups/acme/web").status, 200);
  EXPECT_EQ(call("GET", "/v1/security_groups/acme/web").status, 404);
}

TEST_F(Groups, R_B3_a_port_that_gets_a_group_while_that_is_deleted_wins_or_is_refused) {
  make_house();
  make_group("web");
  ASSERT_EQ(make_vm("one", "[]").status, 202);
  auto removal = start("DELETE", "/v1/security_groups/acme/web");
  auto change = start("PATCH", "/v1/vms/acme/one",
                      R"({"spec":{"nics":[{"network":"front","security_groups":["web"]}]}})");
  ASSERT_TRUE(loop.run_until_true([&] { return removal->answers > 0 && change->answers > 0; },
                                  seconds(60)));
  const bool removed = removal->response.status == 200;
  EXPECT_EQ(change->response.status == 202, !removed)
      << removal->response.body << change->response.body;
  EXPECT_EQ(groups_of_port("one-0"), removed ? Names() : Names{"acme/web"});
}

}  // namespace
}  // namespace virga::test
