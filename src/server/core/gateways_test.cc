#include "server/core/gateways.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "model/keys.h"

namespace virga {
namespace {

/// A view that is changed by hand, and what the hosts were told of it.
class GatewaysTest : public testing::Test {
 protected:
  GatewaysTest() {
    for (const char* name : {"a", "b", "c"}) {
      Host host;
      host.meta.name = name;
      host.spec.cluster = ClusterId("main");
      put(host);
    }
    network("front", NetworkGateway::nat);
    network("back", NetworkGateway::none);
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
  void network(const std::string& name, NetworkGateway gateway, int mtu = 1450) {
    Network made;
    made.meta.tenant = "acme";
    made.meta.name = name;
    made.spec = {ClusterId("main"), name == "front" ? 1001U : 1002U, "10.50.0.0/24", mtu};
    made.spec.gateway = gateway;
    put(made);
  }
  void port(const std::string& vm, int number, const std::string& network = "front") {
    Port made;
    made.meta.tenant = "acme";
    made.meta.name = vm + "-0";
    made.spec.vm = VmId("acme/" + vm);
    made.spec.network = NetworkId("acme/" + network);
    made.spec.mac = fmt::format("52:54:00:00:00:{:02x}", number);
    made.spec.address = fmt::format("10.50.0.{}/24", number);
    put(made);
  }
  void vm(const std::string& name, const std::string& host, const std::string& next = "") {
    Vm made;
    made.meta.tenant = "acme";
    made.meta.name = name;
    made.status.host = HostId(host);
    made.status.migration.destination = HostId(next);
    put(made);
  }
  /// web on a, db on b.
  void two_vms() {
    port("web", 10);
    port("db", 11);
    vm("web", "a");
    vm("db", "b");
    news();
  }

  using Told = std::map<std::string, std::string>;

  /// What the hosts were told of what was put and removed.
  Told news() {
    told_.clear();
    gateways_.changed(std::exchange(changes_, {}));
    return told_;
  }
  Told connect(const std::string& host) {
    told_.clear();
    gateways_.connected(HostId(host));
    return told_;
  }

  static std::string text_of(const FabricGateways& told) {
    std::string text = told.whole ? "whole " : "";
    for (const GatewayNetwork& network : told.networks)
      text += fmt::format("{} {} {} {} {} ", network.vni, network.address, network.domain,
                          network.mtu, network.nat ? "nat" : "local");
    for (const std::uint32_t vni : told.gone) text += fmt::format("without {} ", vni);
    for (const GatewayMember& member : told.members) {
      text += member.address.empty()
                  ? fmt::format("no {} ", member.port)
                  : fmt::format("{}={}={} ", member.name, member.mac, member.address);
    }
    return text.empty() ? text : text.substr(0, text.size() - 1);
  }

  ClusterView view_;
  std::vector<Change> changes_;
  Told told_;
  NetworkGateways gateways_{view_, [this](const HostId& host, const FabricGateways& told) {
                       told_[host.value] += text_of(told);
                     }};
};

const std::string kFront = "1001 10.50.0.1/24 front.acme.virga 1450 nat";
const std::string kWeb = "web=52:54:00:00:00:0a=10.50.0.10";
const std::string kDb = "db=52:54:00:00:00:0b=10.50.0.11";

TEST_F(GatewaysTest, R_B3_a_host_gets_the_gateway_with_the_first_vm_and_all_members) {
  port("web", 10);
  vm("web", "a");
  EXPECT_EQ(news(), (Told{{"a", kFront + " " + kWeb}}));
  port("db", 11);
  vm("db", "b");
  EXPECT_EQ(news(), (Told{{"a", kDb}, {"b", kFront + " " + kDb + " " + kWeb}}));
  EXPECT_EQ(news(), Told{});
}

TEST_F(GatewaysTest, R_B3_a_vm_that_runs_nowhere_has_a_name_all_the_same) {
  two_vms();
  port("cold", 12);
  vm("cold", "");
  const std::string cold = "cold=52:54:00:00:00:0c=10.50.0.12";
  EXPECT_EQ(news(), (Told{{"a", cold}, {"b", cold}}));
}

TEST_F(GatewaysTest, R_B3_a_vm_that_moves_brings_the_gateway_and_takes_it_along) {
  two_vms();
  vm("web", "a", "c");
  EXPECT_EQ(news(), (Told{{"c", kFront + " " + kDb + " " + kWeb}}));
  vm("web", "c");
  EXPECT_EQ(news(), (Told{{"a", "without 1001"}}));
  vm("web", "b");
  EXPECT_EQ(news(), (Told{{"c", "without 1001"}}));
}

TEST_F(GatewaysTest, R_B3_a_vm_that_is_deleted_is_no_member_any_more) {
  two_vms();
  remove(keys::of(PortId("acme/web-0")));
  remove(keys::of(VmId("acme/web")));
  EXPECT_EQ(news(), (Told{{"a", "without 1001"}, {"b", "no acme/web-0"}}));
}

TEST_F(GatewaysTest, R_B3_networks_without_a_gateway_are_told_to_nobody) {
  port("web", 10, "back");
  vm("web", "a");
  EXPECT_EQ(news(), Told{});
  EXPECT_EQ(connect("a"), (Told{{"a", "whole"}}));
  network("back", NetworkGateway::local);
  EXPECT_EQ(news(), (Told{{"a", "1002 10.50.0.1/24 back.acme.virga 1450 local " + kWeb}}));
  network("back", NetworkGateway::none);
  EXPECT_EQ(news(), (Told{{"a", "without 1002"}}));
}

TEST_F(GatewaysTest, R_B3_a_gateway_that_changes_is_told_as_a_whole) {
  two_vms();
  network("front", NetworkGateway::nat, 1400);
  const std::string now = "1001 10.50.0.1/24 front.acme.virga 1400 nat " + kDb + " " + kWeb;
  EXPECT_EQ(news(), (Told{{"a", now}, {"b", now}}));
}

TEST_F(GatewaysTest, R_B3_who_connects_is_told_all_that_it_shall_have) {
  two_vms();
  EXPECT_EQ(connect("a"), (Told{{"a", "whole " + kFront + " " + kDb + " " + kWeb}}));
  EXPECT_EQ(connect("c"), (Told{{"c", "whole"}}));
  EXPECT_EQ(connect("nobody"), Told{});
}

TEST_F(GatewaysTest, R_B3_a_server_that_begins_knows_what_is_stored) {
  two_vms();
  NetworkGateways later(view_, [this](const HostId& host, const FabricGateways& told) {
    told_[host.value] += text_of(told);
  });
  later.load();
  told_.clear();
  later.connected(HostId("b"));
  EXPECT_EQ(told_, (Told{{"b", "whole " + kFront + " " + kDb + " " + kWeb}}));
  remove(keys::of(PortId("acme/web-0")));
  told_.clear();
  later.changed(std::exchange(changes_, {}));
  EXPECT_EQ(told_, (Told{{"a", "without 1001"}, {"b", "no acme/web-0"}}));
}

TEST_F(GatewaysTest, R_B3_a_services_balancer_has_the_gateway_beside_it) {
  two_vms();
  Port frontend;
  frontend.meta.tenant = "acme";
  frontend.meta.name = "shop-frontend";
  frontend.spec.network = NetworkId("acme/front");
  frontend.spec.mac = "52:54:00:00:00:20";
  frontend.spec.address = "10.50.0.32/24";
  frontend.spec.service = ServiceId("acme/shop");
  put(frontend);
  Service shop;
  shop.meta.tenant = "acme";
  shop.meta.name = "shop";
  put(shop);
  EXPECT_EQ(news(), Told{}) << "its balancer is nowhere";
  shop.status.balancer = HostId("c");
  put(shop);
  EXPECT_EQ(news(), (Told{{"c", kFront + " " + kDb + " " + kWeb}})) << "and is no member itself";
  shop.status.balancer_next = HostId("a");
  put(shop);
  EXPECT_EQ(news(), Told{}) << "it is there for a VM";
  shop.status.balancer = HostId("a");
  shop.status.balancer_next = HostId();
  put(shop);
  EXPECT_EQ(news(), (Told{{"c", "without 1001"}}));
}

}  // namespace
}  // namespace virga
