#include "server/core/perimeter.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "model/keys.h"

namespace virga {
namespace {

/// A view that is changed by hand, and what the hosts were told of it.
class PerimeterTest : public testing::Test {
 protected:
  PerimeterTest() {
    for (const char* name : {"a", "b", "c"}) {
      Host host;
      host.meta.name = name;
      host.spec.cluster = ClusterId("main");
      put(host);
    }
    Network network;
    network.meta.tenant = "acme";
    network.meta.name = "front";
    network.spec.cluster = ClusterId("main");
    network.spec.vni = 1001;
    put(network);
    network.meta.name = "back";
    network.spec.vni = 1002;
    put(network);
    group("web", {"clients"});
    group("clients", {});
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
  /// Port 80 for members of others.
  void group(const std::string& name, const std::vector<std::string>& others) {
    SecurityGroup made;
    made.meta.tenant = "acme";
    made.meta.name = name;
    for (const std::string& other : others)
      made.spec.rules.push_back({RuleDirection::ingress, RuleProtocol::tcp, 80, 0, "", other});
    put(made);
  }
  void port(const std::string& vm, int number, const std::vector<std::string>& groups,
            const std::string& network = "front") {
    Port made;
    made.meta.tenant = "acme";
    made.meta.name = vm + "-0";
    made.spec.vm = VmId("acme/" + vm);
    made.spec.network = NetworkId("acme/" + network);
    made.spec.address = fmt::format("10.50.0.{}/24", number);
    for (const std::string& group : groups) made.spec.security_groups.emplace_back("acme/" + group);
    put(made);
  }
  void vm(const std::string& name, const std::string& host, VmMigration migration = {}) {
    Vm made;
    made.meta.tenant = "acme";
    made.meta.name = name;
    made.status.host = HostId(host);
    made.status.migration = std::move(migration);
    put(made);
  }
  /// web on a, db on b.
  void two_vms() {
    port("web", 10, {"web"});
    port("db", 11, {"clients"});
    vm("web", "a");
    vm("db", "b");
    news();
  }

  using Told = std::map<std::string, std::string>;

  /// What the perimeter told of what was put and removed, by host.
  Told news() {
    told_.clear();
    perimeter_.changed(std::exchange(changes_, {}));
    return told_;
  }
  Told connect(const std::string& host) {
    told_.clear();
    perimeter_.connected(HostId(host));
    return told_;
  }

  static std::string text_of(const FabricGroups& groups) {
    std::string text = groups.whole ? "whole " : "";
    for (const PortGroups& port : groups.ports)
      text += fmt::format("{} {} has [{}] ", port.port, port.address, fmt::join(port.groups, " "));
    for (const GroupRules& rules : groups.rules) {
      text += fmt::format("{} {} allows", rules.vni, rules.group);
      for (const SecurityRule& rule : rules.rules) text += " " + rule.remote_group;
      text += " ";
    }
    for (const GroupMembers& members : groups.members) {
      text += fmt::format("{} {} is [{}] ", members.vni, members.group,
                          fmt::join(members.addresses, " "));
    }
    return text.empty() ? text : text.substr(0, text.size() - 1);
  }

  ClusterView view_;
  std::vector<Change> changes_;
  Told told_;
  Perimeter perimeter_{view_, [this](const HostId& host, const FabricGroups& groups) {
                         told_[host.value] += text_of(groups);
                       }};
};

const std::string kWebHas = "acme/web-0 10.50.0.10 has [acme/web] ";
const std::string kWebAllows = "1001 acme/web allows acme/clients ";

TEST_F(PerimeterTest, R_B3_AHostIsToldOfAPortWithItsRulesAndWhoTheyNameWhenItsVmIsPlacedThere) {
  port("web", 10, {"web"});
  vm("web", "");
  EXPECT_EQ(news(), Told()) << "it is nowhere";
  vm("web", "a");
  EXPECT_EQ(news(), (Told{{"a", kWebHas + kWebAllows + "1001 acme/clients is []"}}));
  vm("web", "a");
  EXPECT_EQ(news(), Told());
  vm("plain", "a");
  port("plain", 12, {});
  EXPECT_EQ(news(), Told()) << "ports without groups are nobody's concern";
}

TEST_F(PerimeterTest, R_B3_AMemberThatJoinsOrLeavesIsToldWhereItsGroupIsNamed) {
  two_vms();
  vm("third", "c");
  port("third", 12, {"clients"});
  const std::string third = "acme/third-0 10.50.0.12 has [acme/clients] 1001 acme/clients allows";
  EXPECT_EQ(news(), (Told{{"a", "1001 acme/clients is [10.50.0.11 10.50.0.12]"}, {"c", third}}));
  port("third", 12, {});
  EXPECT_EQ(news(), (Told{{"a", "1001 acme/clients is [10.50.0.11]"},
                          {"c", "acme/third-0 10.50.0.12 has []"}}));
  vm("fourth", "c");
  port("fourth", 12, {"clients"}, "back");
  EXPECT_EQ(news().count("a"), 0U) << "a member on another network";
  remove("port/acme/db-0");
  remove("vm/acme/db");
  EXPECT_EQ(news(), (Told{{"a", "1001 acme/clients is []"}}));
}

TEST_F(PerimeterTest, R_B3_ARuleThatChangesIsToldWhereTheGroupsPortsAre) {
  two_vms();
  group("web", {"clients", "web"});
  const std::string allows = "1001 acme/web allows acme/clients acme/web ";
  const std::string members = "1001 acme/clients is [10.50.0.11] 1001 acme/web is [10.50.0.10]";
  EXPECT_EQ(news(), (Told{{"a", allows + members}}));
  group("unused", {"web"});
  EXPECT_EQ(news(), Told());
}

TEST_F(PerimeterTest, R_B3_TheDestinationOfAMoveIsToldAheadOfIt) {
  two_vms();
  const std::string all = kWebHas + kWebAllows + "1001 acme/clients is [10.50.0.11]";
  vm("web", "a", {MigrationPhase::none, HostId("c"), {}});
  EXPECT_EQ(news(), (Told{{"c", all}}));
  vm("web", "c");
  EXPECT_EQ(news(), Told()) << "it knows already";
  vm("web", "b");
  EXPECT_EQ(news(), (Told{{"b", all}})) << "a restart after a failure";
}

TEST_F(PerimeterTest, R_B3_AHostThatConnectsIsToldOfAllPortsThatMayBeThere) {
  two_vms();
  vm("plain", "a");
  port("plain", 12, {});
  news();
  const std::string plain = "acme/plain-0 10.50.0.12 has [] ";
  const std::string all = plain + kWebHas + kWebAllows + "1001 acme/clients is [10.50.0.11]";
  EXPECT_EQ(connect("a"), (Told{{"a", "whole " + all}}));
  EXPECT_EQ(connect("c"), (Told{{"c", "whole"}}));
  EXPECT_EQ(connect("stranger"), Told());
  Perimeter later(view_, [this](const HostId& host, const FabricGroups& groups) {
    told_[host.value] = text_of(groups);
  });
  later.load();
  told_.clear();
  later.connected(HostId("a"));
  EXPECT_EQ(told_, (Told{{"a", "whole " + all}})) << "what was stored before it began is known";
}

}  // namespace
}  // namespace virga
