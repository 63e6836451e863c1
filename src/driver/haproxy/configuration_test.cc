#include "driver/haproxy/configuration.h"

#include <gtest/gtest.h>

#include "driver/haproxy/control.h"
#include "driver/haproxy/servers.h"

namespace virga {
namespace {

BalancerSpec example() {
  BalancerSpec spec;
  spec.revision = 1;
  spec.frontends = {{"web", "10.50.0.10", 80, BalancerProtocol::http, "servers", "", 1'000}};
  spec.pools = {{"servers", BalanceAlgorithm::round_robin, {}, {}}};
  spec.pools[0].servers = {{"s1", "10.50.0.11", 8080}, {"s2", "10.50.0.12", 8080}};
  return spec;
}

HaproxyRow row(const std::string& name, const std::string& address, const std::string& status,
               int weight) {
  return {{"pxname", "servers"}, {"svname", name}, {"addr", address},
          {"status", status},    {"mode", "http"}, {"uweight", std::to_string(weight)}};
}

HaproxyRows equal_rows() {
  return {row("s1", "10.50.0.11:8080", "UP", 100), row("s2", "10.50.0.12:8080", "UP 1/2", 100)};
}

using Commands = std::vector<std::string>;

TEST(HaproxyConfiguration, R_B6_ServersDoNotChangeTheShape) {
  BalancerSpec spec = example();
  const auto before = render(spec, {});
  spec.revision = 2;
  spec.pools[0].servers[0].weight = 5;
  spec.pools[0].servers[1].state = BalancerServerState::maintenance;
  spec.pools[0].servers.push_back({"s3", "10.50.0.13", 8080});
  const auto after = render(spec, {});
  EXPECT_EQ(after.shape, before.shape);
  EXPECT_NE(after.text, before.text);
  EXPECT_EQ(shape_in(after.text), after.shape);
  EXPECT_EQ(shape_in("global\n"), "");
  EXPECT_NE(after.text.find("server s2 10.50.0.12:8080 check inter 1000 fall 2 rise 1 weight 100 "
                            "maxconn 0 disabled"),
            std::string::npos)
      << after.text;
}

TEST(HaproxyConfiguration, R_B6_AllElseChangesTheShape) {
  const auto changed = [](const std::function<void(BalancerSpec&)>& change) {
    BalancerSpec spec = example();
    change(spec);
    return render(spec, {}).shape != render(example(), {}).shape;
  };
  EXPECT_TRUE(changed([](BalancerSpec& spec) { spec.frontends[0].port = 81; }));
  EXPECT_TRUE(changed([](BalancerSpec& spec) { spec.frontends[0].connections_max = 7; }));
  EXPECT_TRUE(changed([](BalancerSpec& spec) { spec.frontends[0].certificate = "PEM"; }));
  EXPECT_TRUE(changed([](BalancerSpec& spec) { spec.pools[0].check.fall = 7; }));
  EXPECT_TRUE(changed([](BalancerSpec& spec) { spec.pools[0].check.timeout_ms = seconds(7); }));
  EXPECT_TRUE(changed([](BalancerSpec& spec) { spec.pools.push_back({"more", {}, {}, {}}); }));
  EXPECT_TRUE(changed(
      [](BalancerSpec& spec) { spec.pools[0].algorithm = BalanceAlgorithm::source_address; }));
}

TEST(HaproxyConfiguration, R_B6_ADrainedServerHasNoWeightInTheFileEither) {
  BalancerSpec spec = example();
  spec.pools[0].servers[0].state = BalancerServerState::drain;
  EXPECT_NE(render(spec, {}).text.find("rise 1 weight 0 maxconn"), std::string::npos);
}

TEST(HaproxyConfiguration, R_B6_CertificatesAreNamedByWhatTheyHold) {
  BalancerSpec spec = example();
  spec.frontends[0].certificate = "PEM";
  const auto made = render(spec, {});
  ASSERT_EQ(made.certificates.size(), 1U);
  EXPECT_EQ(made.certificates.begin()->second, "PEM");
  EXPECT_NE(made.text.find(" ssl crt " + made.certificates.begin()->first), std::string::npos);
  EXPECT_EQ(made.text.find("PEM"), std::string::npos);
}

TEST(HaproxyServers, R_B6_NothingIsDoneWhenAllIsAsWanted) {
  EXPECT_TRUE(commands_for(example(), equal_rows()).empty());
}

TEST(HaproxyServers, R_B6_WhatDiffersIsChangedAndNothingElse) {
  BalancerSpec spec = example();
  spec.pools[0].servers[0].state = BalancerServerState::drain;
  EXPECT_EQ(commands_for(spec, equal_rows()), Commands{"set server servers/s1 weight 0"});
  spec = example();
  spec.pools[0].servers[1].state = BalancerServerState::maintenance;
  spec.pools[0].servers[1].connections_max = 9;
  EXPECT_EQ(commands_for(spec, equal_rows()),
            (Commands{"set server servers/s2 state maint", "set maxconn server servers/s2 9"}));
  spec = example();
  spec.pools[0].servers[0].address = "10.50.0.99";
  EXPECT_EQ(commands_for(spec, equal_rows()),
            Commands{"set server servers/s1 addr 10.50.0.99 port 8080"});
}

TEST(HaproxyServers, R_B6_WhoJoinsTakesFromTheQueue) {
  BalancerSpec spec = example();
  spec.pools[0].servers[0].connections_max = 3;
  auto rows = equal_rows();
  rows[0]["slim"] = "3";
  rows[0]["uweight"] = "0";
  EXPECT_EQ(commands_for(spec, rows),
            (Commands{"set server servers/s1 weight 100", "set maxconn server servers/s1 3"}));
  spec.pools[0].servers[0].connections_max = 0;
  rows[0]["uweight"] = "100";
  EXPECT_EQ(commands_for(spec, rows), (Commands{"set maxconn server servers/s1 100000",
                                                "set maxconn server servers/s1 0"}));
}

TEST(HaproxyServers, R_B6_ANewServerIsThereBeforeAnotherGoes) {
  BalancerSpec spec = example();
  spec.pools[0].servers[0].name = "s3";
  EXPECT_EQ(commands_for(spec, equal_rows()),
            (Commands{"add server servers/s3 10.50.0.11:8080 check inter 1000 fall 2 rise 1 "
                      "weight 100 maxconn 0",
                      "enable health servers/s3", "set server servers/s3 state ready",
                      "set server servers/s1 state maint"}));
}

TEST(HaproxyServers, R_B6_AServerThatWentComesBackAtAnotherPlace) {
  HaproxyRows rows = equal_rows();
  rows[0] = row("s1", "10.50.0.77:80", "MAINT", 100);
  EXPECT_EQ(commands_for(example(), rows),
            (Commands{"set server servers/s1 addr 10.50.0.11 port 8080",
                      "set server servers/s1 state ready"}));
  rows.push_back(row("old", "10.50.0.9:80", "MAINT", 1));
  EXPECT_EQ(count_unwanted(example(), rows), 1U);
  EXPECT_EQ(commands_for(example(), rows).size(), 2U) << "it is in maintenance already";
}

TEST(HaproxyServers, R_B6_AServerComesBackBeforeAnotherGoes) {
  HaproxyRows rows = equal_rows();
  rows[1] = row("s2", "10.50.0.12:8080", "MAINT", 100);
  BalancerSpec spec = example();
  spec.pools[0].servers.erase(spec.pools[0].servers.begin());
  const Commands commands = commands_for(spec, rows);
  ASSERT_GE(commands.size(), 2U);
  EXPECT_EQ(commands.back(), "set server servers/s1 state maint");
  EXPECT_EQ(commands[commands.size() - 2], "set server servers/s2 state ready");
  rows[1]["status"] = "DRAIN";
  rows[1]["uweight"] = "0";
  spec = example();
  spec.pools[0].servers[0].state = BalancerServerState::drain;
  EXPECT_EQ(commands_for(spec, rows).back(), "set server servers/s1 weight 0");
}

TEST(HaproxyServers, R_B6_SessionsOfOldWorkersCount) {
  HaproxyRows rows = equal_rows();
  HaproxyRows old = {row("s1", "10.50.0.11:8080", "UP", 100), row("gone", "10.0.0.1:1", "UP", 1),
                     row("idle", "10.0.0.1:2", "UP", 1)};
  rows[0]["scur"] = "2";
  old[0]["scur"] = "3";
  old[1]["scur"] = "1";
  old[2]["scur"] = "0";
  const ObservedBalancer seen = to_observed(example(), rows, old);
  ASSERT_EQ(seen.servers.size(), 3U);
  EXPECT_EQ(seen.servers[0].name, "gone");
  EXPECT_EQ(seen.servers[0].sessions, 1);
  EXPECT_EQ(seen.servers[1].name, "s1");
  EXPECT_EQ(seen.servers[1].sessions, 5);
}

TEST(HaproxyServers, R_B6_OnlyWhoIsDownIsKeptForANewWorker) {
  const std::string head =
      "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight "
      "srv_iweight srv_time_since_last_change srv_check_status srv_check_result "
      "srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn "
      "srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr "
      "srv_agent_port\n";
  const std::string up =
      "3 servers 1 s1 10.50.0.11 2 0 50 100 7 15 3 2 6 0 0 0 - 8080 - 0 0 - - 0\n";
  const std::string down =
      "3 servers 2 s2 10.50.0.12 0 0 100 100 7 15 3 0 6 0 0 0 - 8080 - 0 0 - - 0\n";
  EXPECT_EQ(keep_down_servers(example(), head + up + down + "\n"), head + down);
  BalancerSpec moved = example();
  moved.pools[0].servers[1].port = 81;
  EXPECT_EQ(keep_down_servers(moved, head + down), head) << "nobody has looked at it there";
  EXPECT_EQ(keep_down_servers(example(), "nonsense"), "");
}

TEST(HaproxyControl, R_B6_AlertsAreTakenFromTheOutput) {
  EXPECT_EQ(alerts_in("[NOTICE]   (7) : version\n[ALERT]    (7) : config : wrong [a:1]\n"
                      "[ALERT]    (7) : fatal\n"),
            "config : wrong [a:1]; fatal");
  EXPECT_EQ(alerts_in("[ALERT]    (7) : old\n[ALERT]    (7) : new\n", 21), "new");
  EXPECT_EQ(alerts_in("", 9), "");
}

TEST(LoadBalancerSpec, R_B6_WhatIsWrongIsNamedWithItsFieldAndValue) {
  const auto refused = [](const std::function<void(BalancerSpec&)>& change) {
    BalancerSpec spec = example();
    change(spec);
    const auto outcome = validate(spec);
    return outcome.ok() ? std::string("fine") : outcome.error().text();
  };
  EXPECT_EQ(refused([](BalancerSpec&) {}), "fine");
  EXPECT_EQ(refused([](BalancerSpec& spec) { spec.revision = 0; }),
            "revision: 0 is none: 1 and up");
  EXPECT_EQ(refused([](BalancerSpec& spec) { spec.frontends[0].port = 70'000; }),
            "frontends[0].port: 70000 is out of range: 1 to 65535");
  EXPECT_EQ(refused([](BalancerSpec& spec) { spec.pools[0].servers[1].address = "web.local"; }),
            "pools[0].servers[1].address: \"web.local\" is no IPv4 address such as 10.50.0.10");
  EXPECT_EQ(
      refused([](BalancerSpec& spec) { spec.pools[0].servers[1].name = "s1"; }),
      "pools[0].servers[1].name: \"s1\" is there already: one name for each server of a pool");
  EXPECT_EQ(refused([](BalancerSpec& spec) {
              spec.frontends.push_back(spec.frontends[0]);
              spec.frontends[1].name = "second";
            }),
            "frontends[1].port: 10.50.0.10:80 has a frontend already: one for each address and "
            "port");
  EXPECT_EQ(refused([](BalancerSpec& spec) {
              spec.frontends.push_back(spec.frontends[0]);
              spec.frontends[1].name = "second";
              spec.frontends[1].port = 81;
              spec.frontends[1].protocol = BalancerProtocol::tcp;
            }),
            "frontends[1].protocol: tcp does not fit: another frontend uses pool \"servers\" with "
            "http");
}

}  // namespace
}  // namespace virga
