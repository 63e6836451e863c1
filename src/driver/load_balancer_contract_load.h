#pragma once

#include "driver/load_balancer_contract.h"

/// What clients notice of changes while they ask without pause; a part of load_balancer_contract_tests.h.
namespace virga {

TEST_P(LoadBalancerContract, R_B6_NoRequestFailsWhileServersChange) {
  want_servers(2);
  VIRGA_OK(apply());
  lab->begin_load(web(), 8);
  serve(100);
  const std::string counters = observe()->counters;
  for (int round = 0; round < 3; ++round) {
    servers().push_back(lab->start_server("s3"));
    VIRGA_OK(apply());
    ASSERT_TRUE(lab->run_until([&] { return answered_by("s3") > 20 * round; }, seconds(10)));
    servers()[0].state = BalancerServerState::drain;
    VIRGA_OK(apply());
    serve(50);
    servers()[0].state = BalancerServerState::ready;
    servers()[1].state = BalancerServerState::maintenance;
    servers()[1].weight = 10;
    VIRGA_OK(apply());
    serve(50);
    servers()[1].state = BalancerServerState::ready;
    servers().pop_back();
    VIRGA_OK(apply());
    serve(20);
    ASSERT_TRUE(lab->run_until([&] { return seen("s3").name.empty(); }, seconds(10)));
    lab->end_server("s3");
    serve(50);
  }
  EXPECT_EQ(observe()->counters, counters) << "a change of servers needs no reload";
  const LoadReport sent = lab->end_load();
  EXPECT_EQ(sent.failed, 0);
  EXPECT_EQ(sent.reconnected, 0);
}

TEST_P(LoadBalancerContract, R_B6_NoRequestFailsWhileTheShapeChanges) {
  want_servers(2);
  VIRGA_OK(apply());
  lab->begin_load(web(), 8);
  serve(100);
  const std::string counters = observe()->counters;
  for (int round = 0; round < 3; ++round) {
    spec.frontends.push_back(
        {"more", "127.0.0.1", lab->free_port(), BalancerProtocol::http, "servers", "", 100});
    spec.pools[0].algorithm = BalanceAlgorithm::least_connections;
    VIRGA_OK(apply());
    serve(100);
    spec.frontends.pop_back();
    spec.pools[0].algorithm = BalanceAlgorithm::round_robin;
    VIRGA_OK(apply());
    serve(100);
  }
  EXPECT_NE(observe()->counters, counters) << "who reads counters must see that they began anew";
  const LoadReport sent = lab->end_load();
  EXPECT_EQ(sent.failed, 0);
  EXPECT_EQ(sent.reconnected, 0);
}

TEST_P(LoadBalancerContract, R_B6_NoConnectionFailsWhileATcpBalancerChanges) {
  want_servers(2, BalancerProtocol::tcp);
  VIRGA_OK(apply());
  lab->begin_load(web(), 8);
  serve(100);
  servers()[0].state = BalancerServerState::drain;
  VIRGA_OK(apply());
  serve(50);
  servers()[0].state = BalancerServerState::ready;
  servers().push_back(lab->start_server("s3"));
  spec.pools[0].check.fall = 3;
  VIRGA_OK(apply());
  serve(100);
  servers().pop_back();
  VIRGA_OK(apply());
  serve(50);
  EXPECT_EQ(lab->end_load().failed, 0);
}

TEST_P(LoadBalancerContract, R_B6_ClientsNoticeNothingWhileTheAgentIsReplaced) {
  want_servers(2);
  VIRGA_OK(apply());
  servers()[0].state = BalancerServerState::drain;
  spec.pools[0].check.rise = 2;
  VIRGA_OK(apply());
  lab->begin_load(web(), 4);
  serve(50);
  const std::string counters = observe()->counters;
  lab->restart_agent();
  EXPECT_EQ(lab->balancer().revision(), 2U);
  EXPECT_EQ(observe()->counters, counters) << "it is the same one";
  serve(50);
  EXPECT_EQ(seen("s1").state, BalancerServerState::drain);
  servers()[0].state = BalancerServerState::ready;
  VIRGA_OK(apply());
  serve(50);
  EXPECT_GT(answered_by("s1"), 0);
  const LoadReport sent = lab->end_load();
  EXPECT_EQ(sent.failed, 0);
  EXPECT_EQ(sent.reconnected, 0);
}

TEST_P(LoadBalancerContract, R_B6_AKilledBalancerIsThereAgainAsItWas) {
  want_servers(3);
  VIRGA_OK(apply());
  servers()[0].state = BalancerServerState::drain;
  servers()[1].weight = 1;
  servers().push_back(lab->start_server("s4"));
  VIRGA_OK(apply());
  lab->begin_load(web(), 4);
  serve(100);
  const std::string counters = observe()->counters;
  lab->kill_balancer();
  ASSERT_TRUE(lab->run_until(
      [&] {
        const auto all = observe();
        return all.ok() && all->counters != counters;
      },
      seconds(10)));
  serve(100);
  // Those that were under way were cut, those that came meanwhile refused; now all is as it was.
  const std::int64_t failed = lab->load().failed;
  serve(200);
  LoadReport sent = lab->end_load();
  EXPECT_EQ(sent.failed, failed);
  EXPECT_EQ(sent.by_server["s1"], 0) << "it drains still";
  EXPECT_GT(sent.by_server["s4"], sent.by_server["s2"]);
  EXPECT_EQ(observe()->revision, 2U);
}

}  // namespace virga
