#include "driver/dnsmasq/configuration.h"

#include <gtest/gtest.h>

namespace virga {
namespace {

GatewaySpec spec() {
  GatewaySpec made;
  made.network = {1001, "10.50.0.1/20", "front.acme.virga", 1400, true};
  made.members = {{1001, "acme/web-0", "52:54:00:00:00:0a", "10.50.0.10", "web"},
                  {1001, "acme/db-0", "52:54:00:00:00:0b", "10.50.0.11", "db"}};
  return made;
}

DnsmasqOptions options() {
  DnsmasqOptions made;
  made.directory = "/run/virga/gateways/1001";
  made.resolvers = {"192.0.2.53"};
  return made;
}

bool has_line(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

TEST(DnsmasqConfiguration, R_B3_says_what_the_network_is) {
  const auto files = render(spec(), options());
  ASSERT_TRUE(files.ok()) << files.error().text();
  for (const char* line :
       {"dhcp-range=10.50.0.0,static,255.255.240.0,1h", "dhcp-option=option:mtu,1400",
        "dhcp-option=option:router,10.50.0.1", "server=192.0.2.53", "local=/virga/",
        "dhcp-ignore=tag:!known", "dhcp-ignore-names", "user=nobody"}) {
    EXPECT_TRUE(has_line(files->configuration, line)) << line;
  }
  EXPECT_EQ(files->members,
            "52:54:00:00:00:0b,10.50.0.11\n"
            "52:54:00:00:00:0a,10.50.0.10\n");
  EXPECT_EQ(files->names,
            "10.50.0.11 db.front.acme.virga\n"
            "10.50.0.10 web.front.acme.virga\n");
}

TEST(DnsmasqConfiguration, R_B3_without_a_way_out_it_names_no_router_and_asks_nobody) {
  GatewaySpec local = spec();
  local.network.nat = false;
  const auto files = render(local, options());
  ASSERT_TRUE(files.ok()) << files.error().text();
  EXPECT_TRUE(has_line(files->configuration, "dhcp-option=option:router"));
  EXPECT_EQ(files->configuration.find("server="), std::string::npos);
}

TEST(DnsmasqConfiguration, R_B3_nothing_of_it_can_be_more_than_itself) {
  const auto refused = [](const std::function<void(GatewaySpec&)>& edit) {
    GatewaySpec bad = spec();
    edit(bad);
    const auto files = render(bad, options());
    return files.ok() ? std::string() : files.error().text();
  };
  EXPECT_NE(refused([](auto& bad) { bad.network.address = "10.50.0.1"; }).find("network.address"),
            std::string::npos);
  EXPECT_NE(refused([](auto& bad) { bad.network.domain = "a\nserver=1.2.3.4"; }).find("domain"),
            std::string::npos);
  EXPECT_NE(refused([](auto& bad) { bad.members[0].mac = "52:54"; }).find("acme/web-0: mac"),
            std::string::npos);
  EXPECT_NE(refused([](auto& bad) { bad.members[0].address = "x"; }).find("acme/web-0: address"),
            std::string::npos);
  EXPECT_NE(refused([](auto& bad) { bad.members[1].name = "a b"; }).find("acme/db-0: name"),
            std::string::npos);
}

}  // namespace
}  // namespace virga
