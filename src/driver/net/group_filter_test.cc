#include "driver/net/group_filter.h"

#include <fmt/format.h>
#include <poll.h>

#include "driver/net/guest_fixture.h"

namespace virga::test {
namespace {

constexpr int kSilenceMs = 400;

SecurityRule rule(RuleDirection direction, RuleProtocol protocol, int port,
                  const std::string& remote = "") {
  const bool range = remote.find('.') != std::string::npos;
  return {direction, protocol, port, 0, range ? remote : "", range ? "" : remote};
}
constexpr auto kIn = RuleDirection::ingress;
constexpr auto kOut = RuleDirection::egress;

class GroupFilterTest : public testing::Test {
 protected:
  GroupFilterTest() {
    join(one_, "10.77.0.1", two_, "10.77.0.2");
    first_ = open(one_, "10.77.0.1");
    second_ = open(two_, "10.77.0.2");
    for (auto* fabric : {first_.get(), second_.get()})
      EXPECT_TRUE(fabric->apply({1, {network("acme", 1001), network("bolt", 1002)}, {}}).ok());
  }

  static std::unique_ptr<WaitingFabric> open(const Namespace& where, const std::string& address) {
    auto made = WaitingFabric::open({"uplink", address, "vgt", where.get(), true});
    EXPECT_TRUE(made.ok()) << made.error().text();
    return std::move(*made);
  }

  static LaunchNic nic(const std::string& port, int number, std::uint32_t vni = 1001) {
    LaunchNic made;
    made.port = port;
    made.network = "net";
    made.vni = vni;
    made.mac = fmt::format("52:54:00:00:00:{:02x}", number);
    made.address = fmt::format("10.50.0.{}/24", number);
    return made;
  }

  static std::string plain(const LaunchNic& nic) {
    return nic.address.substr(0, nic.address.find('/'));
  }

  void lead(const LaunchNic& nic, const std::string& host) {
    for (auto* fabric : {first_.get(), second_.get()})
      EXPECT_TRUE(fabric->place({{}, {{nic.vni, nic.mac, plain(nic), host}}, false}).ok());
  }

  Guest guest(WaitingFabric& fabric, const LaunchNic& wanted) {
    lead(wanted, &fabric == first_.get() ? "10.77.0.1" : "10.77.0.2");
    auto made = fabric.open_port(wanted);
    EXPECT_TRUE(made.ok()) << made.error().text();
    return {Descriptor(made.ok() ? made->tap_descriptor : -1), wanted.mac, plain(wanted)};
  }

  static void guard(WaitingFabric& fabric, const FabricGroups& groups) {
    const auto done = fabric.guard(groups);
    EXPECT_TRUE(done.ok()) << done.error().text();
  }
  static PortGroups has(const LaunchNic& nic, std::vector<std::string> groups) {
    return {nic.port, nic.vni, plain(nic), std::move(groups)};
  }

  static std::string rules_of(const Namespace& host) {
    ProcessOptions list;
    list.arguments = {"/usr/sbin/nft", "list", "ruleset"};
    list.network_namespace = host.get();
    const auto ended = run_process(list, seconds(30));
    return ended.ok() ? ended->out : "";
  }

  Namespace one_;
  Namespace two_;
  std::unique_ptr<WaitingFabric> first_;
  std::unique_ptr<WaitingFabric> second_;
  const LaunchNic web_ = nic("acme/web-0", 10);
  const LaunchNic db_ = nic("acme/db-0", 11);
};

TEST_F(GroupFilterTest, R_B3_A3_16_GroupsThatAreNotAskedAnyMoreAreFound) {
  const Guest web = guest(*first_, web_);
  guard(*first_, {false, {has(web_, {"acme/web"})}, {{1001, "acme/web", {}}}, {}, false});
  const auto nft = [this](std::vector<std::string> words) {
    ProcessOptions command;
    command.arguments = {"/usr/sbin/nft"};
    command.arguments.insert(command.arguments.end(), words.begin(), words.end());
    command.network_namespace = one_.get();
    ASSERT_EQ(run_process(command, seconds(30))->exit.code, 0);
  };
  const auto broken = [this](const std::string& words) {
    const auto kept = first_->inspect_port(web_);
    return !kept.ok() && kept.error().what.find(words) != std::string::npos;
  };
  const auto again = [&] {
    guard(*first_, {true, {has(web_, {"acme/web"})}, {{1001, "acme/web", {}}}, {}, false});
    return first_->inspect_port(web_);
  };
  EXPECT_TRUE(first_->inspect_port(web_).ok());
  for (const char* chain : {"send", "receive", "decided"}) {
    nft({"flush", "chain", "ip", "vgtgroups", chain});
    EXPECT_TRUE(broken("its security groups are not asked")) << chain;
    EXPECT_TRUE(again().ok()) << "what is told anew mends it: " << again().error().text();
  }
  nft({"flush", "chain", "bridge", "vgtgroups", "leave"});
  EXPECT_TRUE(broken("its security groups are not asked"));
  EXPECT_TRUE(again().ok());
  nft({"delete", "table", "ip", "vgtgroups"});
  EXPECT_TRUE(broken("there is no table ip vgtgroups"));
}

TEST_F(GroupFilterTest, R_B3_A3_16_APortWhoseGroupsWereTakenAwayIsOpenAndKeptApart) {
  LaunchNic guarded = web_;
  guarded.guarded = true;
  const Guest web = guest(*first_, guarded);
  guard(*first_, {false, {has(web_, {"acme/web"})}, {{1001, "acme/web", {}}}, {}, false});
  EXPECT_TRUE(first_->inspect_port(guarded).ok());
  guard(*first_, {false, {has(web_, {})}, {}, {}, false});
  EXPECT_TRUE(first_->inspect_port(guarded).ok());
}

TEST_F(GroupFilterTest, R_B3_A1_13_WhatIsListedPassesWithItsAnswersAndNothingElse) {
  const Guest web = guest(*first_, web_), db = guest(*first_, db_);
  EXPECT_TRUE(db.pings(web, kDeadlineMs)) << "a port without groups is open";
  guard(*first_,
        {false,
         {has(web_, {"acme/web"})},
         {{1001,
           "acme/web",
           {rule(kIn, RuleProtocol::tcp, 80, "10.50.0.0/24"), rule(kIn, RuleProtocol::udp, 53),
            rule(kOut, RuleProtocol::tcp, 443), rule(kIn, RuleProtocol::tcp, 90, "10.50.0.12")}}},
         {},
         false});
  const Ends allowed = open_connection(db, web, 80);
  EXPECT_TRUE(allowed.passes(true) && allowed.passes(false));
  const Ends out = open_connection(web, db, 443);
  EXPECT_TRUE(out.passes(true) && out.passes(false));
  const Descriptor closed = web.socket(SOCK_STREAM, 81), another = web.socket(SOCK_STREAM, 90);
  EXPECT_FALSE(db.connect(web, 81, kSilenceMs).valid());
  EXPECT_FALSE(db.connect(web, 90, kSilenceMs).valid()) << "another address may";
  const Descriptor outside = db.socket(SOCK_STREAM, 80);
  EXPECT_FALSE(web.connect(db, 80, kSilenceMs).valid());
  EXPECT_FALSE(db.pings(web, kSilenceMs));
  EXPECT_FALSE(web.pings(db, kSilenceMs));

  const Descriptor server = web.socket(SOCK_DGRAM, 53), other = web.socket(SOCK_DGRAM, 54);
  const Descriptor client = db.socket(SOCK_DGRAM, 2000);
  const auto send = [](const Descriptor& from, const Guest& to, std::uint16_t port) {
    const sockaddr_in there = Guest::end(to.address(), port);
    ::sendto(from.get(), "u", 1, 0, reinterpret_cast<const sockaddr*>(&there), sizeof there);
  };
  send(client, web, 54);
  send(server, db, 2000);
  send(client, web, 53);
  EXPECT_EQ(Guest::received(server, kDeadlineMs), "u");
  send(server, db, 2000);
  EXPECT_EQ(Guest::received(client, kDeadlineMs), "u") << "the answer";
  EXPECT_EQ(Guest::received(client, kSilenceMs), "")
      << "what was sent before it was asked for did not pass";
  EXPECT_EQ(Guest::received(other, 0), "");
}

TEST_F(GroupFilterTest, R_B3_ARuleThatGoesEndsWhatItAllowedAndOneThatComesIsInForceAtOnce) {
  const Guest web = guest(*first_, web_), db = guest(*second_, db_);
  const auto allow = [&](std::vector<SecurityRule> rules) {
    guard(*first_, {false, {}, {{1001, "acme/web", std::move(rules)}}, {}, false});
  };
  guard(*first_, {true, {has(web_, {"acme/web"})}, {}, {}, false});
  const Descriptor listener = web.socket(SOCK_STREAM, 80);
  EXPECT_FALSE(db.connect(web, 80, kSilenceMs).valid()) << "a group without rules allows nothing";
  allow({rule(kIn, RuleProtocol::tcp, 81), rule(kIn, RuleProtocol::tcp, 82)});
  const Ends kept = open_connection(db, web, 81), ends = open_connection(db, web, 82);
  allow({rule(kIn, RuleProtocol::tcp, 81)});
  EXPECT_FALSE(ends.passes(true, kSilenceMs));
  EXPECT_TRUE(kept.passes(true) && kept.passes(false));
  guard(*first_, {false, {has(web_, {})}, {}, {}, false});
  EXPECT_TRUE(db.connect(web, 80).valid()) << "without groups it is open";
  EXPECT_EQ(rules_of(one_).find("vgtgroups"), std::string::npos) << "and costs nothing";
}

TEST_F(GroupFilterTest, R_B3_AGroupIsWhoItsMembersAre) {
  const Guest web = guest(*first_, web_), db = guest(*second_, db_);
  const auto members = [&](std::vector<std::string> addresses) {
    guard(*first_, {false, {}, {}, {{1001, "acme/clients", std::move(addresses)}}, false});
  };
  guard(*first_, {true,
                  {has(web_, {"acme/other", "acme/web"})},
                  {{1001, "acme/web", {rule(kIn, RuleProtocol::tcp, 80, "acme/clients")}}},
                  {{1001, "acme/clients", {"10.50.0.200"}}, {1002, "acme/clients", {"10.50.0.11"}}},
                  false});
  const Descriptor listener = web.socket(SOCK_STREAM, 80);
  EXPECT_FALSE(db.connect(web, 80, kSilenceMs).valid())
      << "its address is a member on another network";
  members({"10.50.0.200", "10.50.0.11"});
  EXPECT_TRUE(db.connect(web, 80).valid());
  members({});
  EXPECT_FALSE(db.connect(web, 80, kSilenceMs).valid());
}

TEST_F(GroupFilterTest, R_B3_A1_13_TheSameAddressesOfTwoTenantsAreTrackedApart) {
  const LaunchNic their_web = nic("bolt/web-0", 10, 1002), their_db = nic("bolt/db-0", 11, 1002);
  const Guest web = guest(*first_, web_), db = guest(*first_, db_);
  const Guest bolt_web = guest(*first_, their_web), bolt_db = guest(*first_, their_db);
  const std::vector<SecurityRule> http = {rule(kIn, RuleProtocol::tcp, 80)};
  guard(*first_, {true,
                  {has(web_, {"acme/web"}), has(their_web, {"bolt/web"})},
                  {{1001, "acme/web", http}, {1002, "bolt/web", {}}},
                  {},
                  false});
  const Ends ours = open_connection(db, web, 80, 3000);
  const Descriptor listener = bolt_web.socket(SOCK_STREAM, 80);
  EXPECT_FALSE(bolt_db.connect(bolt_web, 80, kSilenceMs, 3000).valid())
      << "the same numbers, allowed to others";
  guard(*first_, {false, {}, {{1001, "acme/web", {}}, {1002, "bolt/web", http}}, {}, false});
  EXPECT_TRUE(bolt_db.connect(bolt_web, 80, kDeadlineMs, 3001).valid());
  EXPECT_FALSE(ours.passes(true, kSilenceMs));
}

/// The VM moves to the second host. Its TCP state is its own; the hosts do not carry theirs along.
TEST_F(GroupFilterTest, R_B3_A1_11_ConnectionsGoOnAfterALiveMoveAndWhatWasNotAllowedStaysSo) {
  Guest web = guest(*first_, web_);
  const Guest db = guest(*first_, db_);
  const auto told = [&](std::vector<SecurityRule> rules) {
    return FabricGroups{
        true, {has(web_, {"acme/web"})}, {{1001, "acme/web", std::move(rules)}}, {}, false};
  };
  const FabricGroups both =
      told({rule(kIn, RuleProtocol::tcp, 80), rule(kOut, RuleProtocol::tcp, 443)});
  guard(*first_, both);
  const Ends served = open_connection(db, web, 80), used = open_connection(web, db, 443);
  const Ends idle = open_connection(db, web, 80);
  EXPECT_TRUE(served.passes(true) && used.passes(true));

  guard(*second_, both);
  web.cable_to(two_, second_->tap_name(web_.port));
  ASSERT_TRUE(second_->open_port(web_).ok());
  web.moves();
  lead(web_, "10.77.0.2");
  EXPECT_TRUE(served.passes(false)) << "who was called speaks first";
  EXPECT_TRUE(served.passes(true));
  EXPECT_TRUE(used.passes(false));
  EXPECT_TRUE(used.passes(true));
  const Descriptor closed = web.socket(SOCK_STREAM, 81), outside = db.socket(SOCK_STREAM, 80);
  EXPECT_FALSE(db.connect(web, 81, kSilenceMs).valid());
  EXPECT_FALSE(web.connect(db, 80, kSilenceMs).valid());
  EXPECT_TRUE(idle.passes(true));
  guard(*second_, told({rule(kOut, RuleProtocol::tcp, 443)}));
  EXPECT_FALSE(served.passes(true, kSilenceMs)) << "also one that was taken up ends with its rule";
  EXPECT_FALSE(idle.passes(true, kSilenceMs));
  EXPECT_TRUE(used.passes(true) && used.passes(false));
}

TEST_F(GroupFilterTest, R_B3_APortIsClosedUntilItsGroupsAreKnownAndARestartedAgentKeepsThem) {
  LaunchNic guarded = web_;
  guarded.guarded = true;
  const Guest web = guest(*first_, guarded), db = guest(*first_, db_);
  EXPECT_FALSE(db.pings(web, kSilenceMs));
  EXPECT_FALSE(web.pings(db, kSilenceMs));
  const FabricGroups told{true,
                          {has(web_, {"acme/web"}), has(db_, {})},
                          {{1001, "acme/web", {rule(kIn, RuleProtocol::tcp, 80, "acme/db")}}},
                          {{1001, "acme/db", {"10.50.0.11"}}},
                          false};
  guard(*first_, told);
  const Ends before = open_connection(db, web, 80);
  first_ = open(one_, "10.77.0.1");
  ASSERT_TRUE(first_->apply({1, {network("acme", 1001), network("bolt", 1002)}, {}}).ok());
  ASSERT_TRUE(first_->open_port(guarded).ok());
  EXPECT_TRUE(before.passes(true) && before.passes(false)) << "while the agent is not told";
  EXPECT_FALSE(db.pings(web, kSilenceMs));
  guard(*first_, told);
  EXPECT_TRUE(before.passes(true) && before.passes(false));
  guard(*first_, {true, {has(db_, {})}, {}, {}, false});
  EXPECT_FALSE(before.passes(true, kSilenceMs)) << "the server does not know of this port";
  EXPECT_TRUE(first_->close_port(web_).ok());
  EXPECT_EQ(rules_of(one_).find("vgtgroups"), std::string::npos);
}

/// UDP from `source` to 10.50.0.`to`, with a MAC of the port that sends.
std::string udp(int from_mac, int to_mac, int source, int to, const std::string& text) {
  const auto mac = [](int number) {
    return std::string("\x52\x54\0\0\0", 5) + static_cast<char>(number);
  };
  const std::string net("\x0a\x32\0", 3);
  const auto length = static_cast<char>(28 + text.size());
  std::string ip = std::string("\x45\0\0", 3) + length + std::string("\0\0\0\0\x40\x11\0\0", 8) +
                   net + static_cast<char>(source) + net + static_cast<char>(to);
  unsigned sum = 0;
  for (std::size_t at = 0; at < ip.size(); at += 2)
    sum += static_cast<unsigned char>(ip[at]) * 256U + static_cast<unsigned char>(ip[at + 1]);
  sum = ~((sum & 0xffffU) + (sum >> 16U));
  ip[10] = static_cast<char>(sum >> 8U);
  ip[11] = static_cast<char>(sum);
  const std::string head = std::string("\x07\xd0\0\x35\0", 5) + static_cast<char>(8 + text.size()) +
                           std::string(2, '\0');
  return mac(to_mac) + mac(from_mac) + std::string("\x08\0", 2) + ip + head + text;
}

TEST_F(GroupFilterTest, R_B3_A1_13_NobodyGetsAroundTheFilterByAForgedPacket) {
  const Guest web = guest(*first_, web_), db = guest(*first_, db_);
  guard(*first_, {true,
                  {has(web_, {"acme/web"})},
                  {{1001,
                    "acme/web",
                    {rule(kIn, RuleProtocol::udp, 53, "10.50.0.12"),
                     rule(kIn, RuleProtocol::udp, 53, "10.50.0.11")}}},
                  {},
                  false});
  const Descriptor server = web.socket(SOCK_DGRAM, 53);
  const auto sent = [&](const std::string& frame) {
    EXPECT_EQ(::write(db.packets(), frame.data(), frame.size()),
              static_cast<ssize_t>(frame.size()));
  };
  sent(udp(11, 10, 12, 10, "as another who may"));
  sent(udp(12, 10, 12, 10, "with its MAC too"));
  const auto seen = [&](const std::string& last) {
    std::string all;
    while (all.find(last) == std::string::npos) {
      pollfd question{web.packets(), POLLIN, 0};
      if (::poll(&question, 1, kDeadlineMs) <= 0) return all + " (never came)";
      char block[2048];
      const ssize_t count = ::read(web.packets(), block, sizeof block);
      if (count > 42) all += std::string(block + 42, static_cast<std::size_t>(count) - 42) + "|";
    }
    return all;
  };
  sent(udp(11, 10, 11, 255, "to all"));
  sent(udp(11, 10, 11, 99, "to its card, not to its address"));
  sent(udp(11, 10, 11, 10, "as itself"));
  const std::string came = seen("as itself");
  for (const char* forged : {"another", "MAC", "to all", "card"})
    EXPECT_EQ(came.find(forged), std::string::npos) << came;
  EXPECT_EQ(Guest::received(server, kDeadlineMs), "as itself");
}

TEST_F(GroupFilterTest, R_B3_WhatCannotBeReadIsRefusedAndChangesNothing) {
  const Guest web = guest(*first_, web_), db = guest(*first_, db_);
  const std::string evil = "10.50.0.11 } ; flush ruleset ; ";
  const FabricGroups bad[] = {
      {false, {{"acme/web-0", 1001, evil, {"acme/web"}}}, {}, {}, false},
      {false, {}, {{1001, "acme/web", {rule(kIn, RuleProtocol::tcp, 80, evil)}}}, {}, false},
      {false, {}, {}, {{1001, "acme/web", {evil}}}, false},
  };
  for (const FabricGroups& groups : bad) {
    const auto refused = first_->guard(groups);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, Errc::invalid) << refused.error().text();
  }
  EXPECT_TRUE(db.pings(web, kDeadlineMs));
}

}  // namespace
}  // namespace virga::test
