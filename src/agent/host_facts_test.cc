#include "agent/host_facts.h"

#include <gtest/gtest.h>

namespace virga {
namespace {

using Texts = std::vector<std::string>;

TEST(HostFactsTest, R_B3_networks_of_addresses_are_those_of_the_devices_that_have_them) {
  EXPECT_EQ(networks_of({"127.0.0.1", "203.0.113.7", "203.0.113.7", ""}),
            (Texts{"127.0.0.0/8", "203.0.113.7/32"}));
  EXPECT_EQ(networks_of({}), Texts{});
}

TEST(HostFactsTest, R_B3_name_servers_that_a_gateway_can_ask) {
  EXPECT_EQ(resolvers_in("# nameserver 192.0.2.1\nnameserver 127.0.0.53\nsearch a.example\n"
                         "nameserver 192.0.2.2\nnameserver ::1\nnameserver\t192.0.2.3 \n"),
            (Texts{"192.0.2.2", "192.0.2.3"}));
  EXPECT_EQ(resolvers_in("nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n"
                         "nameserver 192.0.2.4\n")
                .size(),
            3U);
  EXPECT_EQ(resolvers_in(""), Texts{});
}

}  // namespace
}  // namespace virga
