#include "server/core/overlay.h"

#include <gtest/gtest.h>

#include "model/keys.h"

namespace virga {
namespace {

/// A view that is changed by hand, and what the hosts were told of it.
class OverlayTest : public testing::Test {
 protected:
  OverlayTest() {
    for (const char* name : {"a", "b", "c"}) {
      Host host;
      host.meta.name = name;
      host.spec.cluster = ClusterId("main");
      host.status.tenant_address = std::string("198.51.100.") + name;
      put(host);
    }
    network("acme/front", 1001);
  }

  template <typename T>
  void put(const T& resource) {
    KeyValue entry;
    entry.key = keys::of(resource.id());
    entry.value = to_json_text(resource);
    ASSERT_TRUE(view_.apply({entry, false}).ok());
    changes_.push_back({entry, false});
  }
  void remove(const std::string& key) {
    KeyValue entry;
    entry.key = key;
    ASSERT_TRUE(view_.apply({entry, true}).ok());
    changes_.push_back({entry, true});
  }
  void network(const std::string& id, std::uint32_t vni) {
    Network made;
    made.meta.tenant = id.substr(0, id.find('/'));
    made.meta.name = id.substr(id.find('/') + 1);
    made.spec.cluster = ClusterId("main");
    made.spec.vni = vni;
    put(made);
  }
  void port(const std::string& vm, const std::string& mac, const std::string& address) {
    Port made;
    made.meta.tenant = vm.substr(0, vm.find('/'));
    made.meta.name = vm.substr(vm.find('/') + 1) + "-0";
    made.spec = {VmId(vm), NetworkId("acme/front"), mac, address + "/24"};
    put(made);
  }
  void vm(const std::string& id, const std::string& host, VmMigration migration = {}) {
    Vm made;
    made.meta.tenant = id.substr(0, id.find('/'));
    made.meta.name = id.substr(id.find('/') + 1);
    made.spec.cluster = ClusterId("main");
    made.status.host = HostId(host);
    made.status.migration = std::move(migration);
    put(made);
  }
  /// web on a, db on b.
  void two_vms() {
    port("acme/web", "52:54:00:00:00:01", "10.50.0.10");
    port("acme/db", "52:54:00:00:00:02", "10.50.0.11");
    vm("acme/web", "a");
    vm("acme/db", "b");
    news();
  }

  /// Tells the overlay of what was put and removed. What it told by host: "10.50.0.10 at
  /// 198.51.100.a", "whole 1001, ...".
  std::map<std::string, std::string> news() {
    told_.clear();
    overlay_.changed(std::exchange(changes_, {}));
    return told_;
  }
  std::map<std::string, std::string> connect(const std::string& host) {
    told_.clear();
    overlay_.connected(HostId(host));
    return told_;
  }

  /// A port of the service acme/shop.
  void shop_port(const std::string& part, const std::string& mac, const std::string& address) {
    Port port;
    port.meta.tenant = "acme";
    port.meta.name = "shop-" + part;
    port.spec.network = NetworkId("acme/front");
    port.spec.mac = mac;
    port.spec.address = address + "/24";
    port.spec.service = ServiceId("acme/shop");
    put(port);
  }

  using Told = std::map<std::string, std::string>;

  ClusterView view_;
  std::vector<Change> changes_;
  Told told_;
  Overlay overlay_{view_, [this](const HostId& host, const FabricPlaces& places) {
                     std::string text;
                     for (const std::uint32_t vni : places.whole)
                       text += "whole " + std::to_string(vni) + ", ";
                     for (const PortPlace& port : places.at)
                       text += port.address + " at " + port.host_address +
                               (port.floating.empty() ? "" : " by " + port.floating) + ", ";
                     told_[host.value] += text.substr(0, text.size() - 2);
                   }};
};

TEST_F(OverlayTest, R_B3_OnlyHostsThatCarryANetworkAreToldOfItsPorts) {
  port("acme/web", "52:54:00:00:00:01", "10.50.0.10");
  vm("acme/web", "a");
  EXPECT_EQ(news(), (Told{{"a", "whole 1001, 10.50.0.10 at 198.51.100.a"}}));
  port("acme/db", "52:54:00:00:00:02", "10.50.0.11");
  vm("acme/db", "b");
  EXPECT_EQ(news(),
            (Told{{"a", "10.50.0.11 at 198.51.100.b"},
                  {"b", "whole 1001, 10.50.0.10 at 198.51.100.a, 10.50.0.11 at 198.51.100.b"}}));
}

TEST_F(OverlayTest, F_B9_R_B3_OnlyAPortThatLeadsElsewhereCannotWait) {
  two_vms();
  port("acme/new", "52:54:00:00:00:03", "10.50.0.12");
  vm("acme/new", "a");
  EXPECT_FALSE(overlay_.leads_elsewhere(changes_)) << "nobody talks to it yet";
  news();
  vm("acme/web", "a", {MigrationPhase::prepared, HostId("c"), {}});
  EXPECT_FALSE(overlay_.leads_elsewhere(changes_));
  news();
  vm("acme/web", "a", {MigrationPhase::switching, HostId("c"), {}});
  EXPECT_TRUE(overlay_.leads_elsewhere(changes_));
  news();
  vm("acme/web", "c");
  EXPECT_FALSE(overlay_.leads_elsewhere(changes_)) << "the hosts know";
  news();
  vm("acme/web", "a");
  EXPECT_TRUE(overlay_.leads_elsewhere(changes_)) << "it was taken back";
  news();
  vm("acme/web", "");
  EXPECT_FALSE(overlay_.leads_elsewhere(changes_));
}

TEST_F(OverlayTest, R_B5_AServicesAddressLeadsToItsBalancersHost) {
  two_vms();
  shop_port("frontend", "52:54:00:00:00:09", "10.50.0.19");
  Service shop;
  shop.meta.tenant = "acme";
  shop.meta.name = "shop";
  shop.spec.cluster = ClusterId("main");
  shop.status.balancer = HostId("a");
  put(shop);
  const std::string at = "10.50.0.19 at 198.51.100.";
  EXPECT_EQ(news(), (Told{{"a", at + "a"}, {"b", at + "a"}}));
  shop.status.balancer_next = HostId("c");
  put(shop);
  const std::string vms = "whole 1001, 10.50.0.10 at 198.51.100.a, 10.50.0.11 at 198.51.100.b, ";
  EXPECT_EQ(news(), (Told{{"c", vms + at + "a"}})) << "it carries the network before the address";
  shop.status.balancer = std::exchange(shop.status.balancer_next, HostId());
  put(shop);
  EXPECT_EQ(news(), (Told{{"a", at + "c"}, {"b", at + "c"}, {"c", at + "c"}}));
}

TEST_F(OverlayTest, R_B9_WhoAsksAServiceIsFoundOnItsMonitorsHost) {
  two_vms();
  shop_port("monitor", "52:54:00:00:00:08", "10.50.0.18");
  shop_port("frontend", "52:54:00:00:00:09", "10.50.0.19");
  Service shop;
  shop.meta.tenant = "acme";
  shop.meta.name = "shop";
  shop.spec.cluster = ClusterId("main");
  shop.status.balancer = HostId("a");
  put(shop);
  news();
  shop.status.monitor = HostId("c");
  put(shop);
  const Told told = news();
  EXPECT_EQ(told.at("a"), "10.50.0.18 at 198.51.100.c");
  EXPECT_EQ(told.at("b"), "10.50.0.18 at 198.51.100.c");
  EXPECT_NE(told.at("c").find("10.50.0.19 at 198.51.100.a"), std::string::npos)
      << "it finds the service: " << told.at("c");
}

TEST_F(OverlayTest, R_B3_AMoveIsToldWhenBothCopiesArePausedAndTakenBackWithItsRecord) {
  two_vms();
  vm("acme/web", "a", {MigrationPhase::prepared, HostId("c"), {}});
  EXPECT_EQ(news(),
            (Told{{"c", "whole 1001, 10.50.0.10 at 198.51.100.a, 10.50.0.11 at 198.51.100.b"}}));
  vm("acme/web", "a", {MigrationPhase::switching, HostId("c"), {}});
  const std::string there = "10.50.0.10 at 198.51.100.c";
  EXPECT_EQ(news(), (Told{{"a", there}, {"b", there}, {"c", there}}));
  vm("acme/web", "a");
  const std::string back = "10.50.0.10 at 198.51.100.a";
  EXPECT_EQ(news(), (Told{{"a", back}, {"b", back}}));
}

TEST_F(OverlayTest, R_B3_ACommittedMoveAndARestartElsewhereAreOneChange) {
  two_vms();
  vm("acme/web", "a", {MigrationPhase::switching, HostId("c"), {}});
  news();
  vm("acme/web", "c");
  EXPECT_EQ(news(), Told()) << "they know already";
  vm("acme/web", "b");
  EXPECT_EQ(news(), (Told{{"b", "10.50.0.10 at 198.51.100.b"}}));
}

TEST_F(OverlayTest, R_B3_AVmThatJoinsANetworkWhereItRunsMakesItsHostACarrier) {
  vm("acme/web", "a");
  port("acme/db", "52:54:00:00:00:02", "10.50.0.11");
  vm("acme/db", "b");
  news();
  port("acme/web", "52:54:00:00:00:01", "10.50.0.10");
  EXPECT_EQ(news(),
            (Told{{"a", "whole 1001, 10.50.0.10 at 198.51.100.a, 10.50.0.11 at 198.51.100.b"},
                  {"b", "10.50.0.10 at 198.51.100.a"}}));
}

TEST_F(OverlayTest, R_B3_APortThatGoesIsNowhere) {
  two_vms();
  remove("port/acme/web-0");
  remove("vm/acme/web");
  EXPECT_EQ(news(), (Told{{"b", "10.50.0.10 at "}}));
}

TEST_F(OverlayTest, R_B3_AHostThatConnectsIsToldAllThatItCarriesAndNothingElse) {
  network("bolt/front", 1002);
  two_vms();
  const std::string all = "10.50.0.11 at 198.51.100.b";
  EXPECT_EQ(connect("a"),
            (Told{{"a", "whole 1001, whole 1002, 10.50.0.10 at 198.51.100.a, " + all}}));
  EXPECT_EQ(connect("c"), (Told{{"c", "whole 1001, whole 1002"}}));
  EXPECT_EQ(connect("stranger"), Told());
}

TEST_F(OverlayTest, R_B3_AHostsNewAddressLeadsToItsPorts) {
  two_vms();
  Host moved = *view_.hosts.find(HostId("a"));
  moved.status.tenant_address = "198.51.100.99";
  put(moved);
  const std::string there = "10.50.0.10 at 198.51.100.99";
  EXPECT_EQ(news(), (Told{{"a", there}, {"b", there}}));
  moved.status.health = HostHealth::dead;
  put(moved);
  EXPECT_EQ(news(), Told()) << "its health leads nowhere";
}

TEST_F(OverlayTest, R_B3_AMachineOutsideIsWhereItsNetworkSays) {
  two_vms();
  Network front = *view_.networks.find(NetworkId("acme/front"));
  front.spec.outside = {{"52:54:00:00:00:fe", "10.50.0.250", "198.51.100.7"}};
  put(front);
  const std::string there = "10.50.0.250 at 198.51.100.7";
  EXPECT_EQ(news(), (Told{{"a", there}, {"b", there}}));
  EXPECT_EQ(connect("b")["b"],
            "whole 1001, 10.50.0.10 at 198.51.100.a, 10.50.0.11 at 198.51.100.b, " + there);
  front.spec.outside.clear();
  put(front);
  EXPECT_EQ(news(), (Told{{"a", "10.50.0.250 at "}, {"b", "10.50.0.250 at "}}));
}

TEST_F(OverlayTest, R_B3_WhatWasStoredBeforeItBeganIsKnown) {
  two_vms();
  Overlay later(view_, [this](const HostId& host, const FabricPlaces& places) {
    told_[host.value] = std::to_string(places.at.size());
  });
  later.load();
  told_.clear();
  later.connected(HostId("a"));
  EXPECT_EQ(told_, (Told{{"a", "2"}}));
}

TEST_F(OverlayTest, R_B3_AFloatingAddressIsWhereItsPortIsAndChangesWithIt) {
  two_vms();
  const auto lead = [this](const std::string& vm) {
    FloatingAddress made;
    made.meta.tenant = "acme";
    made.meta.name = "ip";
    made.spec = {ClusterId("main"), "203.0.113.7", vm, "", vm.empty() ? "" : "front"};
    put(made);
  };
  lead("");
  EXPECT_TRUE(news().empty()) << "it leads to nobody";
  lead("web");
  const std::string on_a = "10.50.0.10 at 198.51.100.a by 203.0.113.7";
  EXPECT_EQ(news(), (Told{{"a", on_a}, {"b", on_a}}));
  vm("acme/web", "a", {MigrationPhase::prepared, HostId("c"), Epoch()});
  EXPECT_EQ(news().count("a"), 0U) << "it goes with the switch";
  vm("acme/web", "a", {MigrationPhase::switching, HostId("c"), Epoch()});
  const std::string on_c = "10.50.0.10 at 198.51.100.c by 203.0.113.7";
  EXPECT_EQ(news(), (Told{{"a", on_c}, {"b", on_c}, {"c", on_c}}));
  vm("acme/web", "c");
  news();
  lead("db");
  const std::string moved =
      "10.50.0.10 at 198.51.100.c, 10.50.0.11 at 198.51.100.b by 203.0.113.7";
  EXPECT_EQ(news(), (Told{{"b", moved}, {"c", moved}}));
  remove("floating_address/acme/ip");
  const std::string without = "10.50.0.11 at 198.51.100.b";
  EXPECT_EQ(news(), (Told{{"b", without}, {"c", without}}));
  lead("web");
  news();
  remove("vm/acme/web");
  remove("port/acme/web-0");
  news();
  port("acme/web", "52:54:00:00:00:09", "10.50.0.10");
  vm("acme/web", "a");
  EXPECT_NE(news()["a"].find(on_a), std::string::npos) << "who has the name has the address";
}

}  // namespace
}  // namespace virga
