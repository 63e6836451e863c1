#include "agent/gateway_hosts_fixture.h"

/// What the agent does for a network's gateway: guests ask for addresses and names and go out.
namespace virga::test {
namespace {

using GatewaysRealTest = GatewayHosts;

TEST_F(GatewaysRealTest, R_B3_guests_of_two_hosts_get_addresses_and_find_each_other_by_name) {
  const std::vector<GatewayMember> members{member(10, "web"), member(11, "db")};
  for (AgentRun* agent : agents()) tell(*agent, {gateway(true)}, members);
  const auto web = guest(*near_, 10);
  const auto db = guest(*away_, 11);
  ASSERT_TRUE(run_until([&] { return processes().size() == 2; }));
  const std::map<std::string, std::string> rest{
      {"mask", "24"},  {"router", "10.50.0.1"},      {"dns", "10.50.0.1"},
      {"mtu", "1450"}, {"domain", "net.acme.virga"}, {"search", "net.acme.virga"}};
  auto right = rest;
  right["ip"] = "10.50.0.10";
  EXPECT_EQ(web->lease(), right);
  right["ip"] = "10.50.0.11";
  EXPECT_EQ(db->lease(), right);
  for (const DhcpGuest* asker : {web.get(), db.get()}) {
    EXPECT_EQ(asker->ask("web.net.acme.virga"), "10.50.0.10");
    EXPECT_EQ(asker->ask("db.net.acme.virga"), "10.50.0.11");
    EXPECT_EQ(asker->ask("pretender.net.acme.virga"), "NXDOMAIN") << "what they call themselves";
    EXPECT_EQ(asker->ask("web.net.rival.virga"), "NXDOMAIN");
  }
  EXPECT_EQ(comes_from(db->space(), "10.50.0.10", 80, web->space()), "10.50.0.11");
  for (const DhcpGuest* asker : {web.get(), db.get()}) {
    const auto neighbour = run_in(asker->space(), {"/usr/sbin/ip", "neigh", "show", "10.50.0.1"});
    EXPECT_NE(neighbour.out.find("02:67:77:00:03:e9"), std::string::npos) << neighbour.out;
  }
  tell(*away_, {}, {});
  EXPECT_TRUE(run_until([&] { return processes().size() == 1; }));
  EXPECT_EQ(db->ask("db.net.acme.virga"), "no answer") << "the gateway of another host is not its";
  EXPECT_EQ(web->ask("db.net.acme.virga"), "10.50.0.11");
  for (AgentRun* agent : agents()) EXPECT_TRUE(agent->failures.empty()) << agent->failures[0];
}

TEST_F(GatewaysRealTest, R_B3_members_come_and_go_without_a_restart_and_others_get_nothing) {
  tell(*near_, {gateway(true)}, {member(10, "web")});
  const auto web = guest(*near_, 10);
  const auto later = guest(*near_, 12);
  EXPECT_EQ(web->lease()["ip"], "10.50.0.10");
  const auto before = processes();
  EXPECT_TRUE(later->lease(3).empty()) << "it is no member";
  tell(*near_, {}, {member(12, "later")}, false);
  EXPECT_TRUE(answers(*web, "later.net.acme.virga", "10.50.0.12"));
  EXPECT_EQ(later->lease()["ip"], "10.50.0.12");
  GatewayMember gone = member(10, "web");
  gone.address.clear();
  tell(*near_, {}, {gone}, false);
  EXPECT_TRUE(answers(*later, "web.net.acme.virga", "NXDOMAIN")) << "though it has a lease";
  web->ip("addr flush dev far");
  EXPECT_TRUE(web->lease(3).empty());
  EXPECT_EQ(processes(), before);
}

TEST_F(GatewaysRealTest, R_B3_a_guest_that_answers_dhcp_is_not_heard) {
  const auto liar = guest(*near_, 10);
  const auto other = guest(*near_, 11);
  liar->ip("addr add 10.50.0.10/24 dev far");
  other->ip("addr add 10.50.0.11/24 dev far");
  const auto hears = [&](std::uint16_t from, std::uint16_t to, int patience_ms) {
    const Descriptor sender = socket_in(liar->space(), SOCK_DGRAM, from);
    const Descriptor receiver = socket_in(other->space(), SOCK_DGRAM, to);
    for (const char* address : {"10.50.0.255", "10.50.0.11"}) {
      const sockaddr_in end = Guest::end(address, to);
      ::sendto(sender.get(), "x", 1, 0, reinterpret_cast<const sockaddr*>(&end), sizeof end);
    }
    return !Guest::received(receiver, patience_ms).empty();
  };
  EXPECT_TRUE(run_until([&] { return hears(1067, 68, 200); })) << "other packets pass";
  EXPECT_FALSE(hears(67, 68, kSilenceMs));
  EXPECT_TRUE(hears(1067, 68, kDeadlineMs));
}

TEST_F(GatewaysRealTest, R_B3_A1_13_A1_15_equal_networks_of_two_tenants_go_out_and_stay_apart) {
  tell(*near_, {gateway(true), gateway(true, kOtherVni)},
       {member(10, "web"), member(10, "spy", kOtherVni), member(11, "dry", kOtherVni)});
  const auto web = guest(*near_, 10);
  const auto spy = guest(*near_, 10, kOtherVni);
  EXPECT_EQ(web->lease()["ip"], "10.50.0.10");
  EXPECT_EQ(spy->lease()["ip"], "10.50.0.10");
  for (const DhcpGuest* each : {web.get(), spy.get()})
    EXPECT_EQ(comes_from(each->space(), kFar, 80, outside_.get()), "203.0.113.1");
  // The other tenant's guest, which has an address that is free in this network.
  const auto dry = guest(*near_, 11, kOtherVni);
  EXPECT_EQ(dry->lease()["ip"], "10.50.0.11");
  EXPECT_EQ(comes_from(spy->space(), "10.50.0.11", 80, dry->space()), "10.50.0.10");
  EXPECT_EQ(comes_from(web->space(), "10.50.0.11", 80, dry->space(), kSilenceMs), "");
  EXPECT_EQ(web->ask("spy.net.rival.virga"), "NXDOMAIN");
}

TEST_F(GatewaysRealTest, R_B3_A1_13_neither_the_host_nor_its_networks_nor_gateways_are_reached) {
  tell(*near_, {gateway(true), gateway(true, kOtherVni)}, {member(10, "web")});
  tell(*away_, {gateway(true)}, {member(10, "web")});
  const auto web = guest(*near_, 10);
  EXPECT_EQ(web->lease()["ip"], "10.50.0.10");
  EXPECT_EQ(comes_from(web->space(), kFar, 7443, outside_.get()), "203.0.113.1");
  ASSERT_TRUE(run_until([&] { return processes().size() == 3; }));
  const auto reached = [&](const std::string& address, const Namespace& where) {
    return comes_from(web->space(), address, 7443, where.get(), kSilenceMs);
  };
  for (const char* own : {"203.0.113.1", "10.77.0.1", "169.254.64.0", "169.254.64.2"})
    EXPECT_EQ(reached(own, one_), "") << own;
  EXPECT_EQ(reached("10.77.0.2", two_), "") << "another host on the tenant network";
  EXPECT_EQ(reached(kNear, outside_), "") << "a closed network that the outside device leads to";
  EXPECT_EQ(comes_from(web->space(), kNear, 53, outside_.get()), "203.0.113.1") << "a resolver";
  for (const char* gateway : {"169.254.64.1", "169.254.64.3"})
    EXPECT_EQ(web->ask("web.net.acme.virga", gateway), "no answer") << gateway;
  // Nobody comes in: not by the address on the network, not by the gateway's end of its cable.
  ip_in(outside_.get(), "route add 10.50.0.0/24 via 203.0.113.1");
  ip_in(outside_.get(), "route add 169.254.64.0/20 via 203.0.113.1");
  for (const char* guest : {"10.50.0.10", "169.254.64.1"})
    EXPECT_EQ(comes_from(outside_.get(), guest, 80, web->space(), kSilenceMs), "") << guest;
  // The host is no router for anybody else.
  ip_in(outside_.get(), "route add 10.77.0.0/24 via 203.0.113.1");
  ip_in(two_.get(), "route add 203.0.113.9/32 via 10.77.0.1");
  EXPECT_EQ(comes_from(outside_.get(), "10.77.0.2", 7443, two_.get(), kSilenceMs), "");
}

TEST_F(GatewaysRealTest, R_B3_names_outside_are_asked_for_where_there_is_a_way_out) {
  ProcessOptions resolver;
  resolver.arguments = {"/usr/sbin/dnsmasq",
                        "--keep-in-foreground",
                        "--conf-file=/dev/null",
                        "--no-resolv",
                        "--no-hosts",
                        "--pid-file=",
                        "--listen-address=" + kFar,
                        "--bind-interfaces",
                        "--user=nobody",
                        "--address=/example.org/192.0.2.80"};
  resolver.network_namespace = outside_.get();
  resolver.die_with_parent = true;
  auto outside = Process::spawn(loop_, resolver);
  ASSERT_TRUE(outside.ok()) << outside.error().text();
  tell(*near_, {gateway(true), gateway(false, kOtherVni)},
       {member(10, "web"), member(10, "dry", kOtherVni)});
  const auto web = guest(*near_, 10);
  const auto dry = guest(*near_, 10, kOtherVni);
  EXPECT_EQ(web->lease()["ip"], "10.50.0.10");
  auto given = dry->lease();
  EXPECT_EQ(given["ip"], "10.50.0.10");
  EXPECT_EQ(given.count("router"), 0U);
  EXPECT_TRUE(answers(*web, "www.example.org", "192.0.2.80"));
  EXPECT_EQ(dry->ask("www.example.org"), "REFUSED");
  EXPECT_EQ(dry->ask("dry.net.rival.virga"), "10.50.0.10");
  dry->ip("route add default via 10.50.0.1");
  EXPECT_EQ(comes_from(dry->space(), kFar, 80, outside_.get(), kSilenceMs), "");
  EXPECT_EQ(comes_from(web->space(), kFar, 80, outside_.get()), "203.0.113.1");
  (*outside)->signal(SIGKILL);
  EXPECT_TRUE(run_until([&] { return !(*outside)->running(); }));
}

TEST_F(GatewaysRealTest, R_B3_it_is_there_again_when_it_was_killed_and_outlives_its_agent) {
  tell(*near_, {gateway(true)}, {member(10, "web")});
  const auto web = guest(*near_, 10);
  EXPECT_EQ(web->lease()["ip"], "10.50.0.10");
  const auto first = processes();
  ASSERT_EQ(first.size(), 1U);
  ::kill(first[0], SIGKILL);
  EXPECT_TRUE(answers(*web, "web.net.acme.virga", "10.50.0.10"));
  const auto second = processes();
  ASSERT_EQ(second.size(), 1U);
  EXPECT_NE(second, first);
  near_.reset();
  EXPECT_EQ(web->ask("web.net.acme.virga"), "10.50.0.10") << "without an agent";
  EXPECT_EQ(comes_from(web->space(), kFar, 80, outside_.get()), "203.0.113.1");
  near_ = run_agent(one_, "10.77.0.1");
  const FabricState state{2, {network("acme", kVni), network("rival", kOtherVni)}, {}};
  check([&](auto done) { near_->fabric->apply(state, done); });
  tell(*near_, {gateway(true)}, {member(10, "web"), member(12, "later")});
  EXPECT_TRUE(answers(*web, "later.net.acme.virga", "10.50.0.12"));
  EXPECT_EQ(processes(), second) << "it was taken over";
  ::kill(second[0], SIGKILL);
  EXPECT_TRUE(answers(*web, "later.net.acme.virga", "10.50.0.12"))
      << "the next agent looks after it";
  EXPECT_EQ(web->lease()["ip"], "10.50.0.10");
}

TEST_F(GatewaysRealTest, R_B3_a_gateway_that_goes_leaves_nothing) {
  tell(*near_, {}, {});
  const auto devices = one_.devices();
  const std::string rules = ruleset(one_);
  const std::string space = near_->fabric->gateway_namespace(kVni);
  tell(*near_, {gateway(true), gateway(true, kOtherVni)}, {});
  ASSERT_TRUE(run_until([&] { return processes().size() == 2 && fs::exists(space); }));
  EXPECT_NE(ruleset(one_).find("masquerade"), std::string::npos);
  EXPECT_EQ(one_.devices().size(), devices.size() + 4);
  restart_agent();
  const FabricState state{2, {network("acme", kVni), network("rival", kOtherVni)}, {}};
  check([&](auto done) { near_->fabric->apply(state, done); });
  tell(*near_, {gateway(false)}, {});
  EXPECT_TRUE(run_until([&] { return one_.devices().size() == devices.size() + 1; }))
      << "a local one has one cable";
  EXPECT_EQ(ruleset(one_).find("masquerade"), std::string::npos);
  tell(*near_, {}, {});
  EXPECT_TRUE(
      run_until([&] { return processes().empty() && one_.devices().size() == devices.size(); }));
  EXPECT_TRUE(run_until([&] { return !fs::exists(folder_.file("10.77.0.1")); }));
  EXPECT_FALSE(fs::exists(space));
  EXPECT_EQ(ruleset(one_), rules);
  const auto forwards =
      run_in(one_.get(), {"/bin/cat", "/proc/sys/net/ipv4/conf/out0/forwarding"}).out;
  EXPECT_EQ(forwards, "0\n");
}

TEST_F(GatewaysRealTest, R_B3_a_host_without_a_way_out_has_addresses_and_names) {
  const auto forwards = [this] {
    return run_in(one_.get(), {"/bin/cat", "/proc/sys/net/ipv4/conf/out0/forwarding"}).out;
  };
  tell(*near_, {gateway(true)}, {});
  EXPECT_EQ(forwards(), "1\n") << "it had one";
  near_.reset();
  way_out_ = false;
  near_ = run_agent(one_, "10.77.0.1");
  const FabricState state{2, {network("acme", kVni)}, {}};
  check([&](auto done) { near_->fabric->apply(state, done); });
  tell(*near_, {gateway(true)}, {member(10, "web")});
  const auto web = guest(*near_, 10);
  EXPECT_EQ(web->lease()["ip"], "10.50.0.10");
  EXPECT_EQ(web->ask("web.net.acme.virga"), "10.50.0.10");
  EXPECT_EQ(comes_from(web->space(), kFar, 80, outside_.get(), kSilenceMs), "");
  EXPECT_TRUE(run_until([&] { return ruleset(one_).find("masquerade") == std::string::npos; }));
  EXPECT_EQ(forwards(), "0\n");
}

TEST_F(GatewaysRealTest, R_B3_A1_13_security_groups_let_dhcp_through_and_hold_for_all_else) {
  tell(*near_, {gateway(true)}, {member(10, "web"), member(11, "db")});
  const auto web = guest(*near_, 10, kVni, true);
  const auto db = guest(*near_, 11);
  EXPECT_EQ(db->lease()["ip"], "10.50.0.11");
  EXPECT_EQ(web->lease()["ip"], "10.50.0.10") << "before its groups are known";
  FabricGroups groups;
  groups.whole = true;
  groups.ports = {{"1001-10", kVni, "10.50.0.10", {"acme/closed"}}};
  groups.rules = {{kVni, "acme/closed", {}}};
  check([&](auto done) { near_->fabric->guard(groups, done); });
  EXPECT_EQ(web->lease()["ip"], "10.50.0.10");
  ::unlink(web->given().c_str());
  auto client = Process::spawn(loop_, web->client());
  ASSERT_TRUE(client.ok()) << client.error().text();
  EXPECT_TRUE(run_until([&] { return fs::exists(web->given()); }));
  ::unlink(web->given().c_str());
  (*client)->signal(SIGUSR1);
  EXPECT_TRUE(run_until([&] { return fs::exists(web->given()); })) << "it does not renew";
  (*client)->signal(SIGKILL);
  EXPECT_TRUE(run_until([&] { return !(*client)->running(); }));
  EXPECT_EQ(web->ask("db.net.acme.virga"), "no answer");
  EXPECT_EQ(comes_from(web->space(), kFar, 80, outside_.get(), kSilenceMs), "");
  // What asks for an address reaches the gateway alone, and no other answers.
  const auto hears = [&](const DhcpGuest& from, std::uint16_t own, const DhcpGuest& to,
                         const char* address, std::uint16_t port) {
    const Descriptor sender = socket_in(from.space(), SOCK_DGRAM, own);
    const Descriptor receiver = socket_in(to.space(), SOCK_DGRAM, port);
    const sockaddr_in end = Guest::end(address, port);
    ::sendto(sender.get(), "x", 1, 0, reinterpret_cast<const sockaddr*>(&end), sizeof end);
    return !Guest::received(receiver, kSilenceMs).empty();
  };
  EXPECT_FALSE(hears(*web, 68, *db, "10.50.0.11", 67));
  EXPECT_FALSE(hears(*db, 67, *web, "10.50.0.10", 68));
  SecurityRule out;
  out.direction = RuleDirection::egress;
  groups.rules = {{kVni, "acme/closed", {out}}};
  check([&](auto done) { near_->fabric->guard(groups, done); });
  EXPECT_TRUE(answers(*web, "db.net.acme.virga", "10.50.0.11"));
  EXPECT_EQ(comes_from(web->space(), kFar, 80, outside_.get()), "203.0.113.1");
  EXPECT_EQ(comes_from(db->space(), "10.50.0.10", 80, web->space(), kSilenceMs), "");
}

}  // namespace
}  // namespace virga::test
