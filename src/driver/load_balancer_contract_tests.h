#pragma once

#include "driver/load_balancer_contract.h"
#include "driver/load_balancer_contract_load.h"

namespace virga {

TEST_P(LoadBalancerContract, R_B6_WhatIsWantedIsServedSeenAndRemoved) {
  want_servers(2);
  VIRGA_OK(apply());
  EXPECT_EQ(lab->balancer().revision(), 1U);
  lab->begin_load(web(), 4);
  serve(100);
  EXPECT_GT(answered_by("s1"), 10);
  EXPECT_GT(answered_by("s2"), 10);
  EXPECT_EQ(lab->end_load().failed, 0);
  const auto all = observe();
  VIRGA_OK(all);
  EXPECT_EQ(all->revision, 1U);
  ASSERT_EQ(all->servers.size(), 2U);
  EXPECT_EQ(all->servers[0].name, "s1");
  EXPECT_EQ(all->servers[0].health, BalancerHealth::up);
  VIRGA_OK(remove());
  EXPECT_EQ(lab->balancer().revision(), 0U);
  EXPECT_TRUE(lab->leftovers().empty());
  VIRGA_OK(remove());
  VIRGA_FAILS(observe(), Errc::unavailable);
}

TEST_P(LoadBalancerContract, R_B6_ASpecMayBeEmpty) {
  VIRGA_OK(apply());
  const auto all = observe();
  VIRGA_OK(all);
  EXPECT_TRUE(all->servers.empty() && all->frontends.empty());
  want_servers(1);
  VIRGA_OK(apply());
  EXPECT_EQ(observe()->servers.size(), 1U);
  servers().clear();
  VIRGA_OK(apply());
  EXPECT_TRUE(observe()->servers.empty());
}

TEST_P(LoadBalancerContract, R_B6_NumbersAgreeWithTheLoadThatWasSent) {
  want_servers(2);
  VIRGA_OK(apply());
  lab->begin_load(web(), 4);
  serve(300);
  const LoadReport sent = lab->end_load();
  EXPECT_EQ(sent.failed, 0);
  const auto all = observe();
  VIRGA_OK(all);
  ASSERT_EQ(all->frontends.size(), 1U);
  EXPECT_EQ(all->frontends[0].total, sent.answered);
  EXPECT_EQ(all->frontends[0].errors_5xx, 0);
  ASSERT_EQ(all->servers.size(), 2U);
  for (const ObservedBalancerServer& server : all->servers) {
    EXPECT_EQ(server.total, sent.by_server.at(server.name)) << server.name;
    EXPECT_EQ(server.errors, 0);
  }
  EXPECT_FALSE(all->counters.empty());
  EXPECT_EQ(observe()->counters, all->counters);
}

TEST_P(LoadBalancerContract, R_B6_WeightsShareTheLoad) {
  want_servers(2);
  servers()[0].weight = 30;
  servers()[1].weight = 90;
  VIRGA_OK(apply());
  lab->begin_load(web(), 4);
  serve(400);
  LoadReport sent = lab->end_load();
  EXPECT_NEAR(static_cast<double>(sent.by_server["s1"]) / static_cast<double>(sent.answered), 0.25,
              0.05);
}

TEST_P(LoadBalancerContract, R_B6_DrainFinishesWhatIsUnderWay) {
  want_servers(1);
  VIRGA_OK(apply());
  lab->ask_slowly(web());
  ASSERT_TRUE(lab->run_until([&] { return seen("s1").sessions == 1; }, seconds(5)));
  servers().push_back(lab->start_server("s2"));
  servers()[0].state = BalancerServerState::drain;
  VIRGA_OK(apply());
  EXPECT_EQ(seen("s1").state, BalancerServerState::drain);
  lab->begin_load(web(), 2);
  serve(50);
  EXPECT_EQ(lab->end_load().by_server["s1"], 0) << "it gets nothing new";
  EXPECT_EQ(seen("s1").sessions, 1);
  servers().erase(servers().begin());  // the impatient way
  VIRGA_OK(apply());
  EXPECT_EQ(seen("s1").sessions, 1) << "not wanted, and seen while it has work";
  spec.pools[0].check.rise = 2;  // a reload
  VIRGA_OK(apply());
  EXPECT_EQ(seen("s1").sessions, 1) << "also when who serves it is of before the reload";
  EXPECT_EQ(lab->slow_answer(), "");
  lab->release_answers();
  ASSERT_TRUE(lab->run_until([&] { return !lab->slow_answer().empty(); }, seconds(5)));
  EXPECT_EQ(lab->slow_answer(), "s1");
  ASSERT_TRUE(lab->run_until([&] { return seen("s1").name.empty(); }, seconds(5)));
}

TEST_P(LoadBalancerContract, R_B6_AFailingServerIsOutWithinTheBoundOfItsCheck) {
  want_servers(3);
  VIRGA_OK(apply());
  lab->begin_load(web(), 8);
  serve(100);
  lab->end_server("s2");
  const Duration bound = (milliseconds(200) + milliseconds(200)) * 2;
  EXPECT_TRUE(comes_to("s2", BalancerHealth::down, bound + seconds(2)));
  EXPECT_EQ(seen("s1").health, BalancerHealth::up);
  serve(100);
  spec.pools[0].check.fall = 3;  // a reload does not believe in it again
  VIRGA_OK(apply());
  EXPECT_EQ(seen("s2").health, BalancerHealth::down);
  const BalancerServer again = lab->start_server("s2");
  servers()[1].address = again.address;
  servers()[1].port = again.port;
  VIRGA_OK(apply());
  EXPECT_TRUE(comes_to("s2", BalancerHealth::up, seconds(5)));
  const std::int64_t before = answered_by("s2");
  EXPECT_TRUE(lab->run_until([&] { return answered_by("s2") > before; }, seconds(5)));
  EXPECT_EQ(lab->end_load().failed, 0) << "clients notice nothing";
}

TEST_P(LoadBalancerContract, R_B6_WhatIsWrongIsRefusedAndWhatRunsStays) {
  want_servers(1);
  VIRGA_OK(apply());
  lab->begin_load(web(), 4);
  serve(50);
  const BalancerSpec good = spec;
  const std::string counters = observe()->counters;
  const auto refused = [&](Errc code, const std::string& field) {
    const auto outcome = apply();
    ASSERT_FALSE(outcome.ok()) << field;
    EXPECT_EQ(outcome.error().code, code) << outcome.error().text();
    EXPECT_NE(outcome.error().text().find(field), std::string::npos) << outcome.error().text();
    EXPECT_EQ(lab->balancer().revision(), good.revision);
    spec = good;
    spec.revision += 1;
    serve(20);
  };
  servers()[0].weight = 0;
  refused(Errc::invalid, "pools[0].servers[0].weight: 0");
  spec.pools[0].check.path = "/\n  server evil 10.0.0.1:1";
  refused(Errc::invalid, "pools[0].check.path");
  spec.frontends[0].pool = "others";
  refused(Errc::invalid, "frontends[0].pool: \"others\"");
  spec.frontends[0].certificate = "no certificate";
  refused(Errc::invalid, "frontends[0].certificate");
  spec.frontends.push_back(spec.frontends[0]);
  refused(Errc::invalid, "frontends[1].name");
  spec.frontends.push_back(
      {"taken", "127.0.0.1", lab->taken_port(), BalancerProtocol::http, "servers", "", 100});
  refused(Errc::conflict, "");
  EXPECT_EQ(observe()->counters, counters);
  spec.frontends.push_back(
      {"free", "127.0.0.1", lab->free_port(), BalancerProtocol::http, "servers", "", 100});
  VIRGA_OK(apply());
  serve(20);
  const LoadReport sent = lab->end_load();
  EXPECT_EQ(sent.failed, 0);
  EXPECT_EQ(sent.reconnected, 0);
}

TEST_P(LoadBalancerContract, R_B6_WhatCannotBeServedTheFirstTimeLeavesNothing) {
  want_servers(1);
  spec.frontends[0].port = lab->taken_port();
  VIRGA_FAILS(apply(), Errc::conflict);
  EXPECT_EQ(lab->balancer().revision(), 0U);
  EXPECT_TRUE(lab->leftovers().empty());
  spec.frontends[0].port = lab->free_port();
  VIRGA_OK(apply());
}

TEST_P(LoadBalancerContract, R_B6_AnOlderRevisionIsIgnoredAndTheSameChangesNothing) {
  want_servers(1);
  spec.revision = 4;
  VIRGA_OK(apply());
  const std::string counters = observe()->counters;
  servers()[0].weight = 7;
  spec.frontends[0].connections_max = 5;
  spec.revision = 2;
  VIRGA_OK(apply());  // 3
  EXPECT_EQ(lab->balancer().revision(), 5U);
  servers()[0].weight = 100;
  spec.frontends[0].connections_max = 1'000;
  spec.revision = 4;
  VIRGA_OK(apply());  // 5, as it is
  EXPECT_EQ(observe()->counters, counters);
}

}  // namespace virga
