#include <fcntl.h>

#include "agent/gateway_hosts_fixture.h"

/// How the outside reaches a guest by its floating address, wherever it runs, and nobody else.
namespace virga::test {
namespace {

constexpr const char* kFloating = "203.0.113.100";
constexpr const char* kSegment = "203.0.113.9";  // who is outside, beside the hosts

class FloatingRealTest : public GatewayHosts {
 protected:
  /// Both hosts lead out; `web` is on the first.
  void both_lead_out() {
    for (AgentRun* agent : agents()) {
      tell(*agent, {gateway(true), gateway(true, kOtherVni)},
           {member(10, "web"), member(11, "db"), member(10, "spy", kOtherVni)});
    }
  }

  /// A guest with a floating address that has asked for its own.
  std::unique_ptr<DhcpGuest> led_guest() {
    auto made = guest(*near_, 10, kVni, false, kFloating);
    EXPECT_EQ(made->lease()["ip"], "10.50.0.10");
    return made;
  }

  std::string reached_from(int from, const DhcpGuest& by, int patience_ms = kDeadlineMs) const {
    return comes_from(from, kFloating, 80, by.space(), patience_ms);
  }

  static std::string mac_of_outside_device(const Namespace& host) {
    const auto said = run_in(host.get(), {"/usr/sbin/ip", "link", "show", "out0"}).out;
    const std::size_t at = said.find("link/ether ");
    return at == std::string::npos ? said : said.substr(at + 11, 17);
  }
  /// Whom the outside believes to have the address.
  std::string believed() const {
    const auto said = run_in(outside_.get(), {"/usr/sbin/ip", "neigh", "show", kFloating}).out;
    const std::size_t at = said.find("lladdr ");
    return at == std::string::npos ? said : said.substr(at + 7, 17);
  }
  static std::string traces(const Namespace& host) {
    return run_in(host.get(), {"/usr/sbin/ip", "neigh", "show", "proxy"}).out +
           run_in(host.get(), {"/usr/sbin/ip", "route", "show", kFloating}).out;
  }

  /// The guest's end of a live move to the other host, where its port is open already.
  void arrives(const DhcpGuest& mover) {
    mover.ip("link add moved address " + mac_of(kVni, 10) + " mtu 1450 type veth peer name away");
    mover.ip(fmt::format("link set away netns /proc/{}/fd/{} name {}", ::getpid(), two_.get(),
                         away_->fabric->tap_name(nic_of(10).port)));
    std::optional<Result<OpenPort>> port;
    away_->fabric->open_port(nic_of(10), [&](Result<OpenPort> opened) { port = opened; });
    ASSERT_TRUE(run_until([&] { return port.has_value(); }));
    ASSERT_TRUE(port->ok()) << port->error().text();
    mover.ip("addr flush dev far");
    mover.ip("link set moved up");
    mover.ip("addr add 10.50.0.10/24 dev moved");
    mover.ip("route add default via 10.50.0.1");
  }

  struct Connection {
    Descriptor opener;
    Descriptor other;

    bool passes() const {
      for (const auto& [from, to] : {std::pair(&opener, &other), std::pair(&other, &opener)}) {
        if (::send(from->get(), "x", 1, MSG_NOSIGNAL) != 1) return false;
        if (Guest::received(*to, kDeadlineMs) != "x") return false;
      }
      return true;
    }
  };
  static Connection connect(int from, const std::string& address, std::uint16_t port, int to) {
    const Descriptor listener = socket_in(to, SOCK_STREAM, port);
    EXPECT_EQ(::listen(listener.get(), 8), 0);
    Connection made{socket_in(from, SOCK_STREAM, 0), {}};
    const timeval patience{kDeadlineMs / 1000, 0};
    ::setsockopt(made.opener.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    const sockaddr_in end = Guest::end(address, port);
    EXPECT_EQ(::connect(made.opener.get(), reinterpret_cast<const sockaddr*>(&end), sizeof end), 0);
    made.other = Descriptor(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    return made;
  }
};

TEST_F(FloatingRealTest, R_B3_the_outside_reaches_a_guest_by_it_and_hears_it_from_it) {
  both_lead_out();
  const auto web = led_guest();
  const auto db = guest(*near_, 11);
  EXPECT_EQ(db->lease()["ip"], "10.50.0.11");
  EXPECT_EQ(reached_from(outside_.get(), *web), kSegment) << "the guest sees who comes";
  EXPECT_EQ(comes_from(web->space(), kFar, 80, outside_.get()), kFloating);
  EXPECT_EQ(comes_from(db->space(), kFar, 80, outside_.get()), "203.0.113.1") << "others do not";
  EXPECT_EQ(believed(), mac_of_outside_device(one_));
  const auto echo = run_in(outside_.get(), {"/bin/ping", "-c", "1", "-W", "5", kFloating});
  EXPECT_EQ(echo.exit.code, 0) << echo.out;
  for (AgentRun* agent : agents()) EXPECT_TRUE(agent->failures.empty()) << agent->failures[0];
}

TEST_F(FloatingRealTest, R_B3_guests_and_hosts_reach_it_wherever_they_are) {
  both_lead_out();
  const auto web = led_guest();
  const auto beside = guest(*near_, 11);
  EXPECT_EQ(beside->lease()["ip"], "10.50.0.11");
  EXPECT_NE(reached_from(beside->space(), *web), "") << "a neighbour on its network";
  EXPECT_NE(reached_from(web->space(), *web), "") << "itself";
  EXPECT_NE(reached_from(one_.get(), *web), "") << "its host";
  EXPECT_EQ(reached_from(two_.get(), *web), "203.0.113.2") << "another host";
  const auto spy = guest(*near_, 10, kOtherVni);
  EXPECT_EQ(spy->lease()["ip"], "10.50.0.10");
  EXPECT_NE(reached_from(spy->space(), *web), "") << "another tenant on its host";
}

TEST_F(FloatingRealTest, R_B3_A3_14_it_goes_with_a_live_move_and_connections_go_on) {
  both_lead_out();
  const auto web = led_guest();
  const Connection served = connect(outside_.get(), kFloating, 443, web->space());
  const Connection used = connect(web->space(), kFar, 444, outside_.get());
  EXPECT_TRUE(served.passes() && used.passes());
  EXPECT_EQ(believed(), mac_of_outside_device(one_));
  arrives(*web);
  EXPECT_EQ(traces(two_), "") << "it does not answer before the guest is its";
  place(*away_, 10, kFloating);
  EXPECT_EQ(traces(one_), "");
  EXPECT_EQ(believed(), mac_of_outside_device(two_)) << "nobody had to ask";
  EXPECT_TRUE(served.passes());
  EXPECT_TRUE(used.passes());
  EXPECT_EQ(reached_from(outside_.get(), *web), kSegment);
  EXPECT_EQ(comes_from(web->space(), kFar, 80, outside_.get()), kFloating);
}

TEST_F(FloatingRealTest, R_B3_it_outlives_the_agent_and_ends_when_the_next_one_is_told_so) {
  both_lead_out();
  const auto web = led_guest();
  EXPECT_EQ(reached_from(outside_.get(), *web), kSegment);
  restart_agent();
  const FabricState state{2, {network("acme", kVni), network("rival", kOtherVni)}, {}};
  check([&](auto done) { near_->fabric->apply(state, done); });
  EXPECT_EQ(reached_from(outside_.get(), *web), kSegment) << "nothing was told yet";
  tell(*near_, {gateway(true), gateway(true, kOtherVni)}, {member(10, "web")});
  EXPECT_EQ(reached_from(outside_.get(), *web), kSegment) << "its gateway was put right";
  std::optional<Result<OpenPort>> port;  // that of a guest that was adopted
  near_->fabric->open_port(nic_of(10), [&](Result<OpenPort> opened) { port = opened; });
  ASSERT_TRUE(run_until([&] { return port.has_value(); }));
  place(*near_, 10, kFloating);
  EXPECT_EQ(reached_from(outside_.get(), *web), kSegment);
  EXPECT_NE(traces(one_), "");
  place(*near_, 10);
  EXPECT_EQ(traces(one_), "");
  EXPECT_EQ(reached_from(outside_.get(), *web, kSilenceMs), "");
  EXPECT_EQ(comes_from(web->space(), kFar, 80, outside_.get()), "203.0.113.1");
}

TEST_F(FloatingRealTest, R_B3_it_is_there_as_long_as_its_port_and_its_gateway_are) {
  place(*near_, 10, kFloating);
  EXPECT_EQ(traces(one_), "") << "neither is here";
  both_lead_out();
  EXPECT_EQ(traces(one_), "") << "its port is not here";
  auto web = led_guest();
  EXPECT_NE(traces(one_), "");
  web.reset();
  check([&](auto done) { near_->fabric->close_port(nic_of(10), done); });
  EXPECT_EQ(traces(one_), "");
  web = led_guest();
  EXPECT_EQ(reached_from(outside_.get(), *web), kSegment);
  tell(*near_, {gateway(false)}, {member(10, "web")});
  EXPECT_TRUE(run_until([&] { return traces(one_).empty(); })) << "a gateway that leads nowhere";
  tell(*near_, {gateway(true)}, {member(10, "web")});
  EXPECT_TRUE(run_until([&] { return !traces(one_).empty(); }));
  tell(*near_, {}, {});
  EXPECT_TRUE(run_until([&] { return traces(one_).empty(); }));
}

TEST_F(FloatingRealTest, R_B3_R_B6_the_balancer_of_a_service_is_reached_by_it) {
  both_lead_out();
  const ServiceId shop("acme/shop");
  const BalancerLeg leg{kVni, mac_of(kVni, 20), "10.50.0.20/24", 1450, "10.50.0.1"};
  const auto opens = [&](AgentRun& agent) {
    check([&](auto done) { agent.fabric->open_leg(shop, leg, done); });
    return Descriptor(
        ::open(agent.fabric->leg_namespace(shop).c_str(), O_RDONLY | O_CLOEXEC));
  };
  const Descriptor first = opens(*near_);
  place(*near_, 20, kFloating);
  EXPECT_EQ(comes_from(outside_.get(), kFloating, 80, first.get()), kSegment);
  const Descriptor next = opens(*away_);
  EXPECT_EQ(traces(two_), "");
  place(*away_, 20, kFloating);
  EXPECT_EQ(traces(one_), "");
  EXPECT_EQ(comes_from(outside_.get(), kFloating, 80, next.get()), kSegment);
  check([&](auto done) { away_->fabric->close_leg(shop, done); });
  EXPECT_EQ(traces(two_), "");
  check([&](auto done) { near_->fabric->close_leg(shop, done); });
}

TEST_F(FloatingRealTest, R_B3_A1_13_security_groups_hold_for_what_comes_by_it) {
  both_lead_out();
  const auto web = guest(*near_, 10, kVni, true, kFloating);
  EXPECT_EQ(web->lease()["ip"], "10.50.0.10");
  FabricGroups groups;
  groups.whole = true;
  groups.ports = {{"1001-10", kVni, "10.50.0.10", {"acme/web"}}};
  SecurityRule allowed;
  allowed.protocol = RuleProtocol::tcp;
  allowed.port_min = 80;
  allowed.remote = "203.0.113.9";
  groups.rules = {{kVni, "acme/web", {allowed}}};
  check([&](auto done) { near_->fabric->guard(groups, done); });
  EXPECT_EQ(reached_from(outside_.get(), *web), kSegment);
  EXPECT_EQ(comes_from(outside_.get(), kFloating, 81, web->space(), kSilenceMs), "");
  EXPECT_EQ(reached_from(two_.get(), *web, kSilenceMs), "") << "somebody else outside";
  EXPECT_EQ(comes_from(web->space(), kFar, 80, outside_.get(), kSilenceMs), "");
}

TEST_F(FloatingRealTest, R_B3_A1_13_it_leads_to_its_guest_alone) {
  both_lead_out();
  const auto web = led_guest();
  const auto spy = guest(*near_, 10, kOtherVni);
  EXPECT_EQ(spy->lease()["ip"], "10.50.0.10");
  EXPECT_EQ(reached_from(outside_.get(), *web), kSegment);
  EXPECT_EQ(reached_from(outside_.get(), *spy, kSilenceMs), "")
      << "the same address of another tenant";
  spy->ip("addr add 203.0.113.100/32 dev lo");
  const Descriptor receiver = socket_in(outside_.get(), SOCK_DGRAM, 99);
  const auto hears = [&](const char* own) {
    Descriptor sender;
    EXPECT_TRUE(in_network_namespace(spy->space(), [&] {
                  sender = Descriptor(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
                }).ok());
    const sockaddr_in source = Guest::end(own, 0), to = Guest::end(kFar, 99);
    const auto* from = reinterpret_cast<const sockaddr*>(&source);
    EXPECT_EQ(::bind(sender.get(), from, sizeof source), 0);
    ::sendto(sender.get(), "x", 1, 0, reinterpret_cast<const sockaddr*>(&to), sizeof to);
    return !Guest::received(receiver, kSilenceMs).empty();
  };
  EXPECT_TRUE(hears("10.50.0.10"));
  EXPECT_FALSE(hears(kFloating)) << "nobody else sends as if from it";
}

}  // namespace
}  // namespace virga::test
