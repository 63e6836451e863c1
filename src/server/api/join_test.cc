#include "server/api/api_fixture.h"

namespace virga::test {
namespace {

class Joining : public ApiTest {
 protected:
  std::string token_for(const std::string& cluster) {
    return text_at(parsed(call("POST", "/v1/clusters/" + cluster + "/join-token")), "token");
  }
  HttpResponse join(const std::string& token, const std::string& host,
                    const std::string& more = "") {
    return call("POST", "/v1/join", R"({"token":")" + token + R"(","host":")" + host +
                                        R"(","addresses":["10.77.0.1"])" + more + "}");
  }
  void make_two_tenants() {
    for (const char* tenant : {"acme", "zeta"}) {
      const std::string name = std::string(tenant) + "-own";
      ASSERT_EQ(call("POST", "/v1/clusters", R"({"meta":{"name":")" + name + R"(","tenant":")" + tenant +
                                                 R"("},"spec":{"shared_directory":"/s"}})").status, 201);
    }
  }
};

TEST_F(Joining, F_B6_a_token_admits_one_host_once_and_gives_it_a_certificate) {
  make_house();
  const std::string token = token_for("lab");
  EXPECT_EQ(token.size(), 64U);
  const auto joined = join(token, "host-1");
  ASSERT_EQ(joined.status, 201) << joined.body;
  EXPECT_EQ(text_at(parsed(joined), "certificate"), "certificate of agent:host-1");
  EXPECT_EQ(text_at(parsed(joined), "cluster"), "lab");
  const Host* host = view.hosts.find(HostId("host-1"));
  ASSERT_NE(host, nullptr);
  EXPECT_EQ(host->spec.cluster, ClusterId("lab"));
  EXPECT_EQ(join(token, "host-2").status, 401) << "used";
  EXPECT_EQ(count_keys("token/"), 0U);
  const auto events = outbox();
  EXPECT_EQ(events.back().kind, "host.joined");
}

TEST_F(Joining, F_F26_a_wrong_or_old_token_is_refused_and_no_token_is_stored_readably) {
  make_house();
  EXPECT_EQ(join(std::string(64, '0'), "host-1").status, 401);
  EXPECT_EQ(join("", "host-1").status, 401);
  const std::string token = token_for("lab");
  bool seen = false;
  bool read = false;
  ListRequest all;
  store.list(all, [&](Result<Page> page) {
    for (const KeyValue& entry : page.value().entries) {
      seen = seen || (entry.key + entry.value).find(token) != std::string::npos;
    }
    read = true;
  });
  ASSERT_TRUE(loop.run_until_true([&] { return read; }, seconds(5)));
  EXPECT_FALSE(seen);
  loop.run_for(std::chrono::minutes(61));
  EXPECT_EQ(join(token, "host-1").status, 401) << "older than an hour";
  EXPECT_EQ(view.hosts.size(), 0U);
}

TEST_F(Joining, A1_13_a_host_with_a_token_of_one_tenants_cluster_cannot_get_into_anothers) {
  make_two_tenants();
  const auto named = join(token_for("acme-own"), "host-1", R"(,"cluster":"zeta-own")");
  EXPECT_EQ(named.status, 403) << named.body;
  EXPECT_EQ(view.hosts.size(), 0U);

  ASSERT_EQ(join(token_for("acme-own"), "host-1").status, 201);
  EXPECT_EQ(view.hosts.find(HostId("host-1"))->meta.tenant, "acme");
  const auto taken = join(token_for("zeta-own"), "host-1");
  EXPECT_EQ(taken.status, 403) << taken.body;
  EXPECT_EQ(view.hosts.find(HostId("host-1"))->spec.cluster, ClusterId("acme-own"));

  const auto moved = call("PATCH", "/v1/hosts/host-1", R"({"spec":{"cluster":"zeta-own"}})");
  EXPECT_EQ(moved.status, 400) << moved.body;
  EXPECT_EQ(text_at(parsed(moved), "field"), "spec.cluster");
  EXPECT_EQ(view.hosts_of(ClusterId("zeta-own")).size(), 0U);
  const auto asked = call("POST", "/v1/clusters/zeta-own/join-token", R"({"tenant":"acme"})");
  EXPECT_EQ(asked.status, 403) << asked.body;
}

TEST_F(Joining, F_B6_a_host_that_lost_its_certificate_joins_again_but_never_beside_a_living_one) {
  make_house();
  ASSERT_EQ(join(token_for("lab"), "host-1").status, 201);
  Host host = *view.hosts.find(HostId("host-1"));
  host.status.health = HostHealth::alive;
  put(host, keys::of(host.id()));
  const std::string token = token_for("lab");
  EXPECT_EQ(join(token, "host-1").status, 409);
  host = *view.hosts.find(HostId("host-1"));
  host.status.health = HostHealth::fenced;
  put(host, keys::of(host.id()));
  EXPECT_EQ(join(token, "host-1").status, 201) << "the refusal did not use the token up";
  EXPECT_EQ(view.hosts.find(HostId("host-1"))->status.health, HostHealth::fenced)
      << "its status stays";
}

TEST_F(Joining, R_F13_a_member_gets_another_certificate_with_the_one_it_has) {
  make_house();
  ASSERT_EQ(join(token_for("lab"), "host-1").status, 201);
  const Host joined = *view.hosts.find(HostId("host-1"));
  peer_name = "agent:host-1";
  const std::string path(kRenewal);
  const auto renewed = call("POST", path, R"({"addresses":["10.77.0.1"]})");
  ASSERT_EQ(renewed.status, 201) << renewed.body;
  EXPECT_EQ(text_at(parsed(renewed), "certificate"), "certificate of agent:host-1");
  EXPECT_EQ(text_at(parsed(renewed), "cluster"), "lab");
  const Host* host = view.hosts.find(HostId("host-1"));
  EXPECT_EQ(host->meta.generation, joined.meta.generation) << "nothing else was asked of it";
  EXPECT_EQ(outbox().back().kind, "host.certificate_renewed");
  EXPECT_EQ(outbox().back().subject, keys::of(host->id()));
  EXPECT_NE(outbox().back().text.find("2026-01-01T00:00:"), std::string::npos) << "until then";
}

TEST_F(Joining, R_F13_nobody_but_a_member_has_a_certificate_renewed) {
  make_house();
  ASSERT_EQ(join(token_for("lab"), "host-1").status, 201);
  const std::string path(kRenewal);
  EXPECT_EQ(call("POST", path, "{}").status, 401) << "without a certificate";
  peer_name = "server";
  EXPECT_EQ(call("POST", path, "{}").status, 401);
  peer_name = "agent:host-2";
  EXPECT_EQ(call("POST", path, "{}").status, 403) << "never joined, or is a member no more";
  peer_name = "agent:host-1";
  EXPECT_EQ(call("POST", path, R"({"addresses":["a; rm -rf"]})").status, 400);
  EXPECT_EQ(call("POST", path, R"({"host":"host-2"})").status, 400) << "the name is the peer's own";
  EXPECT_EQ(outbox().back().kind, "host.joined");
}

TEST_F(Joining, R_F13_a_certificate_of_before_its_host_joined_anew_is_renewed_no_more) {
  make_house();
  ASSERT_EQ(join(token_for("lab"), "host-1").status, 201);
  const WallTime first = loop.wall_now();
  loop.run_for(std::chrono::minutes(30));
  Host host = *view.hosts.find(HostId("host-1"));
  host.status.health = HostHealth::fenced;
  put(host, keys::of(host.id()));
  ASSERT_EQ(join(token_for("lab"), "host-1").status, 201);
  peer_name = "agent:host-1";
  const std::string path(kRenewal);
  EXPECT_EQ(call("POST", path, "{}").status, 201);
  peer_since = first;
  const auto stolen = call("POST", path, "{}");
  EXPECT_EQ(stolen.status, 403) << stolen.body;
  EXPECT_NE(stolen.body.find("before host"), std::string::npos) << stolen.body;
}

TEST_F(Joining, F_B6_no_certificate_is_to_be_had_without_being_recorded) {
  make_house();
  const std::string token = token_for("lab");
  const auto tried = call("POST", "/v1/join?dry_run=true", R"({"token":")" + token + R"(","host":"host-1"})");
  EXPECT_EQ(tried.status, 201) << "it is as if it was not asked for";
  EXPECT_NE(view.hosts.find(HostId("host-1")), nullptr);
  EXPECT_EQ(count_keys("token/"), 0U);
}

TEST_F(Joining, F_B6_two_hosts_with_one_token_at_once_one_gets_in) {
  make_house();
  const std::string token = token_for("lab");
  const auto body = [&](const char* host) { return R"({"token":")" + token + R"(","host":")" + host + "\"}"; };
  auto first = start("POST", "/v1/join", body("host-1"));
  auto second = start("POST", "/v1/join", body("host-2"));
  loop.run_for(seconds(5));
  EXPECT_EQ(first->response.status, 201) << first->response.body;
  EXPECT_EQ(second->response.status, 401) << second->response.body;
  EXPECT_EQ(view.hosts.size(), 1U);
}

TEST_F(Joining, F_F24_odd_host_names_and_addresses_cannot_join) {
  make_house();
  const std::string token = token_for("lab");
  EXPECT_EQ(join(token, "../host").status, 400);
  EXPECT_EQ(join(token, "").status, 400);
  EXPECT_EQ(join(token, "host-1", R"(,"extra":1)").status, 400);
  EXPECT_EQ(call("POST", "/v1/join", R"({"token":")" + token + R"(","host":"h","addresses":["a; rm -rf"]})").status,
            400);
  EXPECT_EQ(count_keys("token/"), 1U);
  EXPECT_EQ(join(token, "host-1").status, 201);
}

}  // namespace
}  // namespace virga::test
