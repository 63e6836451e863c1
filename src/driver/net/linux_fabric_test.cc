#include "driver/net/linux_fabric.h"

#include <fmt/format.h>
#include <net/if.h>
#include <poll.h>
#include <sys/mount.h>

#include "driver/net/fabric_fixture.h"
#include "edge/network_namespace.h"

namespace virga::test {
namespace {

constexpr int kResendMs = 100;
const std::string kBroadcast(6, '\xff');

const std::string kWeb = "\x52\x54\x01\x01\x01\x01";
const std::string kDb = "\x52\x54\x02\x02\x02\x02";

LaunchNic nic(const std::string& port, std::uint32_t vni, const std::string& mac = kWeb) {
  LaunchNic made;
  made.port = port;
  made.network = "net";
  made.vni = vni;
  made.mac =
      fmt::format("{:02x}", fmt::join(std::vector<unsigned char>(mac.begin(), mac.end()), ":"));
  made.address = mac == kDb ? "10.50.0.11/24" : "10.50.0.10/24";
  return made;
}

const std::string kRarp = "\x80\x35";  // every guest may send it, with any text

std::string frame(const std::string& to, const std::string& from, const std::string& text,
                  const std::string& kind = kRarp) {
  std::string made = to + from + kind + text;
  made.resize(60, '\0');
  return made;
}

const std::string kArp = "\x08\x06";

/// Payload of ARP, Ethernet and IPv4, between hosts of 10.50.0.0/24.
std::string arp_payload(char operation, const std::string& mac, char from, const std::string& other,
                        char to) {
  const std::string net("\x0a\x32\0", 3);
  return std::string("\0\x01\x08\0\x06\x04\0", 7) + operation + mac + net + from + other + net + to;
}
std::string arp_request(const std::string& mac, char from, char to) {
  return arp_payload(1, mac, from, std::string(6, '\0'), to);
}
std::string arp_answer(const std::string& mac, char from, const std::string& asker, char to) {
  return arp_payload(2, mac, from, asker, to);
}

/// The texts that came out of a tap up to the one that is waited for, or to a silence of
/// `silence_ms`.
std::vector<std::string> texts_until(int tap, const std::string& wanted, int silence_ms) {
  std::vector<std::string> texts;
  while (texts.empty() || texts.back() != wanted) {
    pollfd question{tap, POLLIN, 0};
    if (::poll(&question, 1, silence_ms) <= 0) return texts;
    char block[2048];
    const ssize_t count = ::read(tap, block, sizeof block - 1);
    if (count <= 14) continue;
    block[count] = '\0';
    texts.emplace_back(block + 14);
    // A text ends at its first zero; what is waited for may have some.
    if (texts.back().size() < wanted.size() && count >= static_cast<ssize_t>(14 + wanted.size()))
      texts.back().assign(block + 14, wanted.size());
  }
  return texts;
}

/// Sends until it arrives (a new port of a bridge drops frames until the kernel has seen its
/// carrier); all that came.
std::vector<std::string> pass(int from, int to, const std::string& sent, const std::string& text) {
  std::vector<std::string> all;
  for (int waited = 0; waited < kDeadlineMs; waited += kResendMs) {
    EXPECT_EQ(::write(from, sent.data(), sent.size()), static_cast<ssize_t>(sent.size()));
    for (std::string& came : texts_until(to, text, kResendMs)) all.push_back(std::move(came));
    if (!all.empty() && all.back() == text) return all;
  }
  ADD_FAILURE() << "\"" << text << "\" did not arrive";
  return all;
}

class LinuxFabricTest : public testing::Test {
 protected:
  LinuxFabricTest() {
    join(one_, "10.77.0.1", two_, "10.77.0.2");
    first_ = open(one_, "10.77.0.1");
    second_ = open(two_, "10.77.0.2");
  }

  static std::unique_ptr<WaitingFabric> open(const Namespace& where, const std::string& address) {
    auto made = WaitingFabric::open({"uplink", address, "vgt", where.get()});
    EXPECT_TRUE(made.ok()) << made.error().text();
    return std::move(*made);
  }

  static FabricState state(std::uint64_t version, std::vector<Network> networks) {
    return {version, std::move(networks), {"10.77.0.1", "10.77.0.2"}};
  }

  void apply_both(const FabricState& wanted) {
    for (auto* fabric : {first_.get(), second_.get()}) {
      const auto done = fabric->apply(wanted);
      ASSERT_TRUE(done.ok()) << done.error().text();
    }
  }

  static PortPlace place_of(const LaunchNic& nic, const std::string& host) {
    return {nic.vni, nic.mac, nic.address.substr(0, nic.address.find('/')), host};
  }

  /// Both hosts hear that a port is there.
  void place(const LaunchNic& nic, const std::string& host) {
    for (auto* fabric : {first_.get(), second_.get()}) {
      const auto done = fabric->place({{}, {place_of(nic, host)}, false});
      EXPECT_TRUE(done.ok()) << done.error().text();
    }
  }

  /// Opened, and known to both.
  Descriptor port(WaitingFabric& fabric, const LaunchNic& wanted) {
    place(wanted, &fabric == first_.get() ? "10.77.0.1" : "10.77.0.2");
    const auto made = fabric.open_port(wanted);
    EXPECT_TRUE(made.ok()) << made.error().text();
    return Descriptor(made.ok() ? made->tap_descriptor : -1);
  }

  Namespace one_;
  Namespace two_;
  std::unique_ptr<WaitingFabric> first_;
  std::unique_ptr<WaitingFabric> second_;
};

TEST_F(LinuxFabricTest, F_B10_R_B3_FramesCrossTheTunnelBothWays) {
  apply_both(state(1, {network("acme", 1001)}));
  const Descriptor left = port(*first_, nic("acme/web.0", 1001));
  const Descriptor right = port(*second_, nic("acme/db.0", 1001, kDb));
  pass(left.get(), right.get(), frame(kDb, kWeb, "who is there"), "who is there");
  pass(right.get(), left.get(), frame(kWeb, kDb, "it is db"), "it is db");
  EXPECT_EQ(one_.tunnel_entries("vgtvx1001"),
            (std::set<std::string>{"52:54:02:02:02:02 to 10.77.0.2"}));
}

TEST_F(LinuxFabricTest, R_F11_AFrameThatIsTooLongGoesNowhereAndTheNextPasses) {
  apply_both(state(1, {network("acme", 1001)}));
  const Descriptor sender = port(*first_, nic("acme/web.0", 1001));
  const std::string kNear("\x52\x54\x03\x03\x03\x03", 6);
  const Descriptor near = port(*first_, nic("acme/near.0", 1001, kNear));
  const Descriptor far = port(*second_, nic("acme/db.0", 1001, kDb));
  const auto long_frame = [](const std::string& to, std::size_t bytes, char letter) {
    return frame(to, kWeb, "").substr(0, 14) + std::string(bytes, letter);
  };
  pass(sender.get(), near.get(), frame(kNear, kWeb, "begin"), "begin");
  pass(sender.get(), far.get(), frame(kDb, kWeb, "begin"), "begin");
  for (const std::size_t bytes : {1500U, 1900U, 9000U, 60000U}) {
    for (const std::string& to : {kNear, kDb}) {
      const std::string sent = long_frame(to, bytes, 'x');
      static_cast<void>(::write(sender.get(), sent.data(), sent.size()));
    }
  }
  const std::vector<std::string> fits{std::string(1400, 'y')};
  EXPECT_EQ(pass(sender.get(), near.get(), long_frame(kNear, 1400, 'y'), fits[0]), fits);
  EXPECT_EQ(pass(sender.get(), far.get(), long_frame(kDb, 1400, 'y'), fits[0]), fits);
}

TEST_F(LinuxFabricTest, A1_15_OverlappingSubnetsOfTwoTenantsDoNotMix) {
  apply_both(state(1, {network("acme", 1001), network("bolt", 1002)}));
  const Descriptor acme_left = port(*first_, nic("acme/web.0", 1001));
  const Descriptor bolt_left = port(*first_, nic("bolt/web.0", 1002));
  const Descriptor acme_right = port(*second_, nic("acme/db.0", 1001, kDb));
  const Descriptor bolt_right = port(*second_, nic("bolt/db.0", 1002, kDb));
  pass(acme_left.get(), acme_right.get(), frame(kDb, kWeb, "for acme"), "for acme");
  const auto bolt =
      pass(bolt_left.get(), bolt_right.get(), frame(kDb, kWeb, "for bolt"), "for bolt");
  EXPECT_EQ(bolt, std::vector<std::string>{"for bolt"});
  pass(acme_left.get(), acme_right.get(), frame(kDb, kWeb, "again"), "again");
  const auto back = pass(bolt_right.get(), bolt_left.get(), frame(kWeb, kDb, "back"), "back");
  EXPECT_EQ(back, std::vector<std::string>{"back"});
}

TEST_F(LinuxFabricTest, F_B10_ApplyingTwiceChangesNothing) {
  const auto wanted = state(3, {network("acme", 1001), network("bolt", 16777215)});
  apply_both(wanted);
  place(nic("acme/db.0", 1001, kDb), "10.77.0.2");
  const auto before = one_.devices();
  const auto entries = one_.tunnel_entries("vgtvx1001");
  EXPECT_EQ(entries, (std::set<std::string>{"52:54:02:02:02:02 to 10.77.0.2"}));
  EXPECT_TRUE(before.contains("vgtbr16777215"));
  apply_both(wanted);
  const auto after = one_.devices();
  ASSERT_EQ(after.size(), before.size());
  for (const auto& [name, device] : before)
    EXPECT_EQ(after.at(name).at("ifindex"), device.at("ifindex")) << name;
  EXPECT_EQ(one_.tunnel_entries("vgtvx1001"), entries);
  EXPECT_EQ(after.at("vgtvx1001").at("master"), "vgtbr1001");
  EXPECT_EQ(after.at("vgtvx1001").at("mtu"), 1450);
  EXPECT_EQ(first_->version(), 3U);
}

TEST_F(LinuxFabricTest, F_B10_WhatACrashLeftOverIsPutRight) {
  apply_both(state(5, {network("acme", 1001), network("bolt", 1002)}));
  const int kept = static_cast<int>(one_.devices().at("vgtbr1001").at("ifindex").as_int64());
  first_ = open(one_, "10.77.0.1");
  EXPECT_EQ(first_->version(), 0U);
  ASSERT_TRUE(first_->apply(state(6, {network("acme", 1001), network("coda", 1003)})).ok());
  const auto devices = one_.devices();
  EXPECT_EQ(devices.at("vgtbr1001").at("ifindex"), kept);
  EXPECT_TRUE(devices.contains("vgtbr1003") && devices.contains("vgtvx1003"));
  EXPECT_FALSE(devices.contains("vgtbr1002") || devices.contains("vgtvx1002"));
  EXPECT_TRUE(devices.contains("uplink"));
  ASSERT_TRUE(first_->remove_all().ok());
  for (const auto& [name, ignored] : one_.devices()) EXPECT_NE(name.rfind("vgt", 0), 0U) << name;
}

TEST_F(LinuxFabricTest, F_B10_AnOlderVersionIsIgnored) {
  apply_both(state(7, {network("acme", 1001)}));
  ASSERT_TRUE(first_->apply(state(6, {network("bolt", 1002)})).ok());
  EXPECT_EQ(first_->version(), 7U);
  const auto devices = one_.devices();
  EXPECT_TRUE(devices.contains("vgtbr1001"));
  EXPECT_FALSE(devices.contains("vgtbr1002"));
}

TEST_F(LinuxFabricTest, R_B3_TheBridgeAnswersForGuestsElsewhereAndNothingIsFlooded) {
  apply_both(state(1, {network("acme", 1001)}));
  const Descriptor left = port(*first_, nic("acme/web.0", 1001));
  const Descriptor right = port(*second_, nic("acme/db.0", 1001, kDb));
  pass(left.get(), right.get(), frame(kDb, kWeb, "begin"), "begin");
  const auto ask = [&](char address) {
    const std::string sent = frame(kBroadcast, kWeb, arp_request(kWeb, 10, address), kArp);
    EXPECT_EQ(::write(left.get(), sent.data(), sent.size()), static_cast<ssize_t>(sent.size()));
    const std::string answer = arp_answer(kDb, address, kWeb, 10);
    const auto came = texts_until(left.get(), answer, address == 11 ? kDeadlineMs : kResendMs);
    return !came.empty() && came.back() == answer;
  };
  EXPECT_TRUE(ask(11));
  EXPECT_FALSE(ask(12)) << "nobody has it";
  const auto third = nic("acme/third.0", 1001, "\x52\x54\x03\x03\x03\x03");
  Descriptor joins = port(*first_, third);
  EXPECT_TRUE(ask(11)) << "also when a port has joined the bridge";
  joins.reset();
  EXPECT_TRUE(first_->close_port(third).ok());
  EXPECT_TRUE(ask(11)) << "and when one has left it";
  const std::string loud = frame(kBroadcast, kWeb, "to all");
  EXPECT_EQ(::write(left.get(), loud.data(), loud.size()), static_cast<ssize_t>(loud.size()));
  const auto came = pass(left.get(), right.get(), frame(kDb, kWeb, "end"), "end");
  EXPECT_EQ(came, std::vector<std::string>{"end"}) << "neither the questions nor what is for all";
}

TEST_F(LinuxFabricTest, R_B3_APortThatMovesIsReachedWhereItIsAndBackAgain) {
  apply_both(state(1, {network("acme", 1001)}));
  const auto web = nic("acme/web.0", 1001);
  const Descriptor asker = port(*first_, nic("acme/db.0", 1001, kDb));
  const Descriptor there = port(*second_, web);
  const Descriptor here(first_->open_port(web)->tap_descriptor);
  const auto hello = frame(kWeb, kDb, "hello");
  pass(asker.get(), there.get(), hello, "hello");
  place(web, "10.77.0.1");
  pass(asker.get(), here.get(), hello, "hello");
  EXPECT_EQ(one_.tunnel_entries("vgtvx1001"), std::set<std::string>());
  place(web, "10.77.0.2");
  EXPECT_EQ(pass(asker.get(), there.get(), frame(kWeb, kDb, "again"), "again").back(), "again");
  EXPECT_TRUE(texts_until(here.get(), "again", kResendMs).empty());
  place(web, "");
  EXPECT_EQ(one_.tunnel_entries("vgtvx1001"), std::set<std::string>());
  const auto neighbours = one_.ask({"/usr/sbin/ip", "-j", "neigh", "show", "dev", "vgtbr1001"});
  EXPECT_TRUE(neighbours.empty()) << json::serialize(neighbours);
}

TEST_F(LinuxFabricTest, R_B3_APlaceThatTheKernelDidNotTakeIsAskedForAgain) {
  apply_both(state(1, {network("acme", 1001)}));
  ProcessOptions remove;
  remove.arguments = {"/usr/sbin/ip", "link", "del", "vgtvx1001"};
  remove.network_namespace = one_.get();
  ASSERT_EQ(run_process(remove, seconds(30))->exit.code, 0);
  const auto db = nic("acme/db.0", 1001, kDb);
  const auto failed = first_->place({{}, {place_of(db, "10.77.0.2")}, false});
  EXPECT_FALSE(failed.ok());
  ASSERT_TRUE(first_->apply(state(2, {network("acme", 1001)})).ok());
  EXPECT_EQ(one_.tunnel_entries("vgtvx1001"),
            (std::set<std::string>{"52:54:02:02:02:02 to 10.77.0.2"}));
}

TEST_F(LinuxFabricTest, R_B3_WhatIsToldWholeReplacesWhatWasThere) {
  apply_both(state(1, {network("acme", 1001), network("bolt", 1002)}));
  const auto web = nic("acme/web.0", 1001), db = nic("acme/db.0", 1001, kDb);
  place(web, "10.77.0.2");
  place(nic("bolt/web.0", 1002), "10.77.0.2");
  const auto restarted = open(one_, "10.77.0.1");
  ASSERT_TRUE(restarted->apply(state(1, {network("acme", 1001), network("bolt", 1002)})).ok());
  EXPECT_EQ(one_.tunnel_entries("vgtvx1001"),
            (std::set<std::string>{"52:54:01:01:01:01 to 10.77.0.2"}))
      << "guests reach one another while the agent is told";
  ASSERT_TRUE(restarted->place({{1001, 1002}, {place_of(db, "10.77.0.2")}, false}).ok());
  EXPECT_EQ(one_.tunnel_entries("vgtvx1001"),
            (std::set<std::string>{"52:54:02:02:02:02 to 10.77.0.2"}));
  EXPECT_EQ(one_.tunnel_entries("vgtvx1002"), std::set<std::string>());
  const auto bad = restarted->place({{}, {{1001, "52:54", "10.50.0.12", "10.77.0.2"}}, false});
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().code, Errc::invalid);
}

TEST_F(LinuxFabricTest, F_B10_APortIsFoundAgainAndClosedOnce) {
  apply_both(state(1, {network("acme", 1001)}));
  const auto wanted = nic("acme/a-virtual-machine-with-a-long-name.0", 1001);
  const auto made = first_->open_port(wanted);
  ASSERT_TRUE(made.ok()) << made.error().text();
  EXPECT_LE(made->tap_name.size(), 15U);
  const Descriptor held(made->tap_descriptor);
  ASSERT_TRUE(held.valid());
  const auto device = one_.devices().at(made->tap_name);
  EXPECT_EQ(device.at("master"), "vgtbr1001");
  EXPECT_EQ(device.at("mtu"), 1450);

  const auto restarted = open(one_, "10.77.0.1");
  const auto again = restarted->open_port(wanted);
  ASSERT_TRUE(again.ok()) << again.error().text();
  EXPECT_EQ(again->tap_name, made->tap_name);
  EXPECT_EQ(again->tap_descriptor, -1);
  EXPECT_EQ(one_.devices().at(made->tap_name).at("ifindex"), device.at("ifindex"));

  EXPECT_TRUE(restarted->close_port(wanted).ok());
  EXPECT_FALSE(one_.devices().contains(made->tap_name));
  EXPECT_TRUE(restarted->close_port(wanted).ok());
}

/// Ports of one host are packet sockets, of the other taps.
TEST_F(LinuxFabricTest, F_B10_APortWithoutATapCarriesFramesBothWaysAndEndsWithItsHolder) {
  auto made = WaitingFabric::open({"uplink", "10.77.0.1", "vgt", one_.get(), true});
  ASSERT_TRUE(made.ok()) << made.error().text();
  first_ = std::move(*made);
  apply_both(state(1, {network("acme", 1001)}));
  const auto wanted = nic("acme/web.0", 1001);
  Descriptor packets = port(*first_, wanted);
  const Descriptor tap = port(*second_, nic("acme/db.0", 1001, kDb));
  const std::string hello = frame(kDb, kWeb, "who is there");
  pass(packets.get(), tap.get(), hello, "who is there");
  const std::string answer = frame(kWeb, kDb, "it is db");
  ASSERT_EQ(::write(tap.get(), answer.data(), answer.size()), static_cast<ssize_t>(answer.size()));
  pollfd question{packets.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&question, 1, kDeadlineMs), 1);
  char block[2048];
  const ssize_t count = ::read(packets.get(), block, sizeof block);
  EXPECT_EQ(std::string(block, static_cast<std::size_t>(std::max<ssize_t>(count, 0))), answer);

  const auto again = first_->open_port(wanted);
  ASSERT_TRUE(again.ok()) << again.error().text();
  EXPECT_TRUE(again->packets);
  EXPECT_EQ(again->tap_descriptor, -1);
  const std::string device = first_->tap_name(wanted.port);
  EXPECT_EQ(one_.devices().at(device).at("master"), "vgtbr1001");
  packets.reset();
  for (int waited = 0; waited < kDeadlineMs && one_.devices().contains(device); ++waited) {
    ::poll(nullptr, 0, 1);
  }
  EXPECT_FALSE(one_.devices().contains(device));
}

std::string arp(const std::string& mac, const std::string& address) {
  return std::string("\0\x01\x08\0\x06\x04\0\x01", 8) + mac + address + std::string(6, '\0') +
         "\x0a\x32\0\x01";
}

/// UDP from one port to another.
std::string ipv4(const std::string& source, std::uint8_t from, std::uint8_t to) {
  std::string made("\x45\0\0\x1c\0\0\0\0\x40\x11\0\0", 12);
  made += source + "\xff\xff\xff\xff";
  made += {'\0', static_cast<char>(from), '\0', static_cast<char>(to), '\0', '\x08', '\0', '\0'};
  unsigned sum = 0;
  for (std::size_t at = 0; at < 20; at += 2) {
    sum += static_cast<unsigned char>(made[at]) * 256U + static_cast<unsigned char>(made[at + 1]);
  }
  sum = ~((sum & 0xffffU) + (sum >> 16U));
  made[10] = static_cast<char>(sum >> 8U);
  made[11] = static_cast<char>(sum);
  return made;
}

TEST_F(LinuxFabricTest, R_B3_R_F8_R_F9_R_F10_AGuestSendsOnlyAsItself) {
  apply_both(state(1, {network("acme", 1001)}));
  const Descriptor left = port(*first_, nic("acme/web.0", 1001));
  const Descriptor right = port(*first_, nic("acme/db.0", 1001, kDb));
  pass(left.get(), right.get(), frame(kBroadcast, kWeb, "begin"), "begin");
  const std::string kIpv4("\x08\0", 2), kIpv6 = "\x86\xdd", kVlan("\x81\0", 2);
  const std::string own("\x0a\x32\0\x0a", 4), other("\x0a\x32\0\x0b", 4), none(4, '\0');
  struct Case {
    const char* what;
    std::string mac, kind, payload;
    bool passes;
  };
  const Case cases[] = {
      {"a foreign MAC", kDb, kRarp, "x", false},
      {"its own ARP", kWeb, kArp, arp(kWeb, own), true},
      {"ARP that asks whether its address is free", kWeb, kArp, arp(kWeb, none), true},
      {"ARP for another's address", kWeb, kArp, arp(kWeb, other), false},
      {"ARP that names another's MAC", kWeb, kArp, arp(kDb, own), false},
      {"its own IPv4", kWeb, kIpv4, ipv4(own, 7, 7), true},
      {"IPv4 from another's address", kWeb, kIpv4, ipv4(other, 7, 7), false},
      {"IPv4 from nowhere", kWeb, kIpv4, ipv4(none, 7, 7), false},
      {"a question of DHCP", kWeb, kIpv4, ipv4(none, 68, 67), true},
      {"an answer of DHCP", kWeb, kIpv4, ipv4(other, 67, 68), false},
      {"IPv6", kWeb, kIpv6, "x", false},
      {"a VLAN", kWeb, kVlan, "x", false},
  };
  for (const Case& one : cases) {
    const std::string sent = frame(kBroadcast, one.mac, one.payload, one.kind);
    ASSERT_EQ(::write(left.get(), sent.data(), sent.size()), static_cast<ssize_t>(sent.size()));
    const auto came = pass(left.get(), right.get(), frame(kBroadcast, kWeb, "end"), "end");
    EXPECT_EQ(came.size(), one.passes ? 2U : 1U) << one.what;
  }
}

TEST_F(LinuxFabricTest, R_B3_A1_13_A3_16_WhatKeepsAPortApartIsReadBackFromTheKernel) {
  apply_both(state(1, {network("acme", 1001), network("umbra", 1002)}));
  const auto wanted = nic("acme/web.0", 1001);
  EXPECT_EQ(first_->inspect_port(wanted).error().code, Errc::conflict) << "it is not there";
  const Descriptor held = port(*first_, wanted);
  const auto says = [&](const LaunchNic& of) {
    const auto kept = first_->inspect_port(of);
    return kept.ok() ? std::string("kept apart") : kept.error().what;
  };
  EXPECT_EQ(says(wanted), "kept apart");
  const auto on_host = [this](std::vector<std::string> words) {
    ProcessOptions command;
    command.arguments = std::move(words);
    command.network_namespace = one_.get();
    const auto ended = run_process(command, seconds(30));
    ASSERT_TRUE(ended.ok());
    EXPECT_EQ(ended->exit.code, 0) << ended->err;
  };
  const std::string tap = first_->tap_name("acme/web.0");
  on_host({"/usr/sbin/ip", "link", "set", tap, "master", "vgtbr1002"});
  EXPECT_NE(says(wanted).find("is not on the bridge of VNI 1001"), std::string::npos);
  on_host({"/usr/sbin/ip", "link", "set", tap, "master", "vgtbr1001"});
  EXPECT_EQ(says(wanted), "kept apart");
  on_host({"/usr/sbin/ip", "link", "set", "vgtvx1002", "master", "vgtbr1001"});
  EXPECT_NE(says(wanted).find("has the tunnel vgtvx1002 of VNI 1002"), std::string::npos);
  on_host({"/usr/sbin/ip", "link", "set", "vgtvx1002", "master", "vgtbr1002"});
  LaunchNic other = wanted;
  other.address = "10.50.0.77/24";
  EXPECT_NE(says(other).find("does not hold it to"), std::string::npos);
  on_host({"/usr/sbin/nft", "flush", "chain", "bridge", "vgtports", tap});
  EXPECT_NE(says(wanted).find("does not hold it to"), std::string::npos);
  ASSERT_TRUE(first_->open_port(wanted).ok());
  EXPECT_EQ(says(wanted), "kept apart") << "an agent that opens it again mends it";
  on_host({"/usr/sbin/nft", "flush", "chain", "bridge", "vgtports", "entry"});
  EXPECT_NE(says(wanted).find("is not asked for its frames"), std::string::npos);
  on_host({"/usr/sbin/nft", "delete", "table", "bridge", "vgtports"});
  EXPECT_NE(says(wanted).find("there is no table bridge vgtports"), std::string::npos);
}

TEST_F(LinuxFabricTest, R_B3_WhatAPortMaySendIsChangedWithItAndForgottenWithIt) {
  apply_both(state(1, {network("acme", 1001)}));
  const auto rules = [this] {
    ProcessOptions list;
    list.arguments = {"/usr/sbin/nft", "list", "table", "bridge", "vgtports"};
    list.network_namespace = one_.get();
    const auto ended = run_process(list, seconds(30));
    EXPECT_TRUE(ended.ok());
    return ended.ok() ? ended->out : "";
  };
  const auto wanted = nic("acme/web.0", 1001);
  const Descriptor held = port(*first_, wanted);
  EXPECT_NE(rules().find("52:54:01:01:01:01"), std::string::npos) << rules();
  ASSERT_TRUE(first_->open_port(nic("acme/web.0", 1001, kDb)).ok());
  EXPECT_EQ(rules().find("52:54:01:01:01:01"), std::string::npos) << rules();
  EXPECT_NE(rules().find("52:54:02:02:02:02"), std::string::npos) << rules();
  const auto restarted = open(one_, "10.77.0.1");
  EXPECT_NE(rules().find("52:54:02:02:02:02"), std::string::npos) << "it outlives the agent";
  ASSERT_TRUE(restarted->close_port(wanted).ok());
  EXPECT_EQ(rules().find("52:54:02:02:02:02"), std::string::npos) << rules();
  const std::map<std::string, std::string> wrong = {
      {"52:54:01", "10.50.0.10/24"}, {"", "10.50.0.10/24"}, {"52:54:01:01:01:01", "10.50.0"}};
  for (const auto& [mac, address] : wrong) {
    auto bad = wanted;
    bad.mac = mac;
    bad.address = address;
    const auto refused = restarted->open_port(bad);
    ASSERT_FALSE(refused.ok()) << mac << " " << address;
    EXPECT_EQ(refused.error().code, Errc::invalid);
  }
}

TEST_F(LinuxFabricTest, F_B10_TheHostHasNoAddressInATenantsNetwork) {
  apply_both(state(1, {network("acme", 1001)}));
  const Descriptor tap = port(*first_, nic("acme/web.0", 1001));
  for (const auto& device : one_.ask({"/usr/sbin/ip", "-j", "addr", "show"})) {
    const std::string name = device.at("ifname").as_string().c_str();
    if (name.rfind("vgt", 0) != 0) continue;
    EXPECT_TRUE(device.at("addr_info").as_array().empty()) << name;
  }
}

/// A balancer's leg on the first host; names of this process alone, as they are the machine's.
class BalancerLegTest : public LinuxFabricTest {
 protected:
  BalancerLegTest() {
    restart_agent();
    const auto applied = first_->apply(state(1, {network("acme", 1001), network("acme", 1002)}));
    EXPECT_TRUE(applied.ok());
  }
  ~BalancerLegTest() override {
    EXPECT_TRUE(first_->remove_all().ok());
    EXPECT_FALSE(exists());
  }

  void restart_agent() {
    auto made = WaitingFabric::open({"uplink", "10.77.0.1", "vgt", one_.get(), false,
                                     fmt::format("virga-test-{}-", ::getpid())});
    EXPECT_TRUE(made.ok()) << made.error().text();
    first_ = std::move(*made);
  }

  std::string space() const { return first_->leg_namespace(service_); }
  std::string device() const { return first_->leg_name(service_.value); }
  bool exists() const { return ::access(space().c_str(), F_OK) == 0; }

  /// What ip(8) says in there, as JSON, or prints.
  std::string inside(std::vector<std::string> arguments) const {
    const Descriptor there(::open(space().c_str(), O_RDONLY | O_CLOEXEC));
    ProcessOptions options;
    options.arguments = std::move(arguments);
    options.network_namespace = there.get();
    const auto ended = run_process(options, seconds(30));
    EXPECT_TRUE(ended.ok());
    return ended.ok() ? ended->out : "";
  }
  json::object leg() const {
    const auto said = parse_json(inside({"/usr/sbin/ip", "-j", "addr", "show", "dev", "leg"}));
    return said.ok() && said->is_array() && !said->as_array().empty()
               ? said->as_array()[0].as_object()
               : json::object();
  }
  std::vector<std::string> addresses() const {
    std::vector<std::string> found;
    const json::object device = leg();
    if (!device.contains("addr_info")) return found;
    for (const auto& one : device.at("addr_info").as_array()) {
      found.push_back(fmt::format("{}/{}", std::string(one.at("local").as_string()),
                                  one.at("prefixlen").as_int64()));
    }
    return found;
  }

  const ServiceId service_{"acme/a-service-with-a-long-name"};
  BalancerLeg wanted_{1001, "52:54:00:00:00:0a", "10.50.0.100/24", 1400};
};

TEST_F(BalancerLegTest, R_B6_ALegIsADeviceInANamespaceOfItsOwnAndIsFoundAgain) {
  ASSERT_TRUE(first_->open_leg(service_, wanted_).ok());
  EXPECT_LE(device().size(), 15U);
  const auto near = one_.devices().at(device());
  EXPECT_EQ(near.at("master"), "vgtbr1001");
  EXPECT_EQ(near.at("mtu"), 1400);
  const auto far = leg();
  EXPECT_EQ(far.at("address"), "52:54:00:00:00:0a");
  EXPECT_EQ(far.at("mtu"), 1400);
  EXPECT_NE(json::serialize(far.at("flags")).find("\"UP\""), std::string::npos);
  EXPECT_EQ(addresses(), std::vector<std::string>{"10.50.0.100/24"}) << "and none of IPv6";
  restart_agent();
  ASSERT_TRUE(first_->open_leg(service_, wanted_).ok());
  EXPECT_EQ(leg().at("ifindex"), far.at("ifindex"));
  EXPECT_EQ(one_.devices().at(device()).at("ifindex"), near.at("ifindex"));
}

TEST_F(BalancerLegTest, R_B6_ALegIsReachedLikeAGuestAndSendsOnlyAsItself) {
  const auto web = nic("acme/web.0", 1001);
  const Descriptor tap = port(*first_, web);
  ASSERT_TRUE(first_->open_leg(service_, wanted_).ok());
  const std::string mac("\x52\x54\0\0\0\x0a", 6);
  const std::string asks = frame(kBroadcast, kWeb, arp_request(kWeb, 10, 100), kArp);
  const std::string answer = arp_answer(mac, 100, kWeb, 10);
  EXPECT_EQ(pass(tap.get(), tap.get(), asks, answer).back(), answer);
  texts_until(tap.get(), "silence", kResendMs);
  inside({"/usr/sbin/ip", "addr", "add", "10.50.0.66/24", "dev", "leg"});
  const std::string forged = frame(kBroadcast, kWeb, arp_request(kWeb, 10, 66), kArp);
  ASSERT_EQ(::write(tap.get(), forged.data(), forged.size()), static_cast<ssize_t>(forged.size()));
  EXPECT_EQ(pass(tap.get(), tap.get(), asks, answer), std::vector<std::string>{answer})
      << "no word for an address that is not its own";
}

TEST_F(BalancerLegTest, R_B6_ALegThatChangesIsMadeWhatIsWanted) {
  ASSERT_TRUE(first_->open_leg(service_, wanted_).ok());
  const auto index = leg().at("ifindex");
  wanted_ = {1002, "52:54:00:00:00:0b", "10.50.0.101/24", 1450};
  ASSERT_TRUE(first_->open_leg(service_, wanted_).ok());
  EXPECT_EQ(leg().at("ifindex"), index);
  EXPECT_EQ(leg().at("address"), "52:54:00:00:00:0b");
  EXPECT_EQ(leg().at("mtu"), 1450);
  EXPECT_EQ(addresses(), std::vector<std::string>{"10.50.0.101/24"});
  EXPECT_EQ(one_.devices().at(device()).at("master"), "vgtbr1002");
  // What was half made or half taken away.
  inside({"/usr/sbin/ip", "link", "del", "leg"});
  ASSERT_TRUE(first_->open_leg(service_, wanted_).ok());
  EXPECT_EQ(addresses(), std::vector<std::string>{"10.50.0.101/24"});
  ASSERT_EQ(::umount2(space().c_str(), MNT_DETACH), 0);
  EXPECT_TRUE(exists()) << "the file";
  ASSERT_TRUE(first_->open_leg(service_, wanted_).ok());
  EXPECT_EQ(addresses(), std::vector<std::string>{"10.50.0.101/24"});
}

TEST_F(BalancerLegTest, R_B9_AVisitorIsOnTheNetworkAsLongAsItIsHeldAndNoLonger) {
  const std::string visitor = "monitor of acme/web";
  const std::string name = first_->leg_name(visitor);
  auto held = first_->visit(visitor, wanted_);
  ASSERT_TRUE(held.ok()) << held.error().text();
  EXPECT_EQ(one_.devices().at(name).at("master"), "vgtbr1001");
  EXPECT_TRUE(in_network_namespace(**held, [] { EXPECT_NE(if_nametoindex("leg"), 0U); }).ok());
  restart_agent();
  const auto again = first_->visit(visitor, wanted_);
  ASSERT_TRUE(again.ok()) << again.error().text();
  EXPECT_TRUE(in_network_namespace(**held, [] {
                EXPECT_EQ(if_nametoindex("leg"), 0U) << "the next one has its place";
              }).ok());
  held = make_error(Errc::not_found, "nobody holds it");
  EXPECT_TRUE(one_.devices().contains(name));
  EXPECT_TRUE(first_->leave(visitor).ok());
  EXPECT_FALSE(one_.devices().contains(name));
  EXPECT_TRUE(first_->leave(visitor).ok());
  {
    const auto killed = first_->visit(visitor, wanted_);
    ASSERT_TRUE(killed.ok());
    EXPECT_TRUE(one_.devices().contains(name));
  }
  for (int waited = 0; waited < kDeadlineMs && one_.devices().contains(name); ++waited)
    ::poll(nullptr, 0, 1);
  EXPECT_FALSE(one_.devices().contains(name)) << "it goes with who held it";
}

TEST_F(BalancerLegTest, R_B6_ALegIsClosedOnceAndLeavesNothing) {
  const auto before = one_.devices();
  ASSERT_TRUE(first_->open_leg(service_, wanted_).ok());
  ASSERT_TRUE(exists());
  const auto rules = [this] {
    ProcessOptions list;
    list.arguments = {"/usr/sbin/nft", "list", "table", "bridge", "vgtports"};
    list.network_namespace = one_.get();
    return run_process(list, seconds(30))->out;
  };
  EXPECT_NE(rules().find("52:54:00:00:00:0a"), std::string::npos);
  restart_agent();
  ASSERT_TRUE(first_->close_leg(service_).ok());
  EXPECT_FALSE(exists());
  EXPECT_EQ(one_.devices().size(), before.size());
  EXPECT_EQ(rules().find("52:54:00:00:00:0a"), std::string::npos);
  EXPECT_TRUE(first_->close_leg(service_).ok());
}

TEST_F(BalancerLegTest, R_B6_ALegThatCannotBeSaysWhyAndLeavesNothing) {
  const auto with = [this](std::uint32_t vni, const std::string& mac, const std::string& address) {
    const auto refused = first_->open_leg(service_, {vni, mac, address, 1450});
    return refused.ok() ? Errc::conflict : refused.error().code;
  };
  EXPECT_EQ(with(1003, "52:54:00:00:00:0a", "10.50.0.100/24"), Errc::not_found);
  EXPECT_EQ(with(1001, "52:54", "10.50.0.100/24"), Errc::invalid);
  for (const char* address : {"10.50.0.100", "10.50.0.100/", "10.50.0.100/33", "10.50/24", ""}) {
    EXPECT_EQ(with(1001, "52:54:00:00:00:0a", address), Errc::invalid) << address;
  }
  EXPECT_FALSE(one_.devices().contains(device()));
  EXPECT_FALSE(exists());
}

TEST_F(LinuxFabricTest, F_B10_OneBadNetworkDoesNotHoldUpTheOthers) {
  auto bad = network("acme", 1001);
  bad.spec.mtu = 10;
  const auto done = first_->apply(state(1, {bad, network("bolt", 1002)}));
  ASSERT_FALSE(done.ok());
  EXPECT_NE(done.error().text().find("acme/net"), std::string::npos) << done.error().text();
  EXPECT_EQ(first_->version(), 0U);
  EXPECT_TRUE(one_.devices().contains("vgtvx1002"));
}

TEST_F(LinuxFabricTest, F_B10_ErrorsNameWhatIsMissing) {
  const auto no_network = first_->open_port(nic("acme/web.0", 1001));
  ASSERT_FALSE(no_network.ok());
  EXPECT_EQ(no_network.error().code, Errc::not_found);
  EXPECT_NE(no_network.error().text().find("acme/web.0"), std::string::npos);
  EXPECT_EQ(WaitingFabric::open({"nowhere", "10.77.0.1", "vgt", one_.get()}).error().code,
            Errc::not_found);
  EXPECT_EQ(WaitingFabric::open({"uplink", "10.77.0", "vgt", one_.get()}).error().code,
            Errc::invalid);
  EXPECT_EQ(WaitingFabric::open({"uplink", "10.77.0.1", "toolong", one_.get()}).error().code,
            Errc::invalid);
}

}  // namespace
}  // namespace virga::test
