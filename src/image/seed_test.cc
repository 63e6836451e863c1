#include "image/seed.h"

#include <gtest/gtest.h>

#include <cctype>

namespace virga {
namespace {

VmLaunch a_launch() {
  VmLaunch launch;
  launch.vm = VmId("acme/web");
  launch.identity.uuid = "6a7bf3c0-0000-4000-8000-000000000001";
  launch.nics = {{"acme/web-0", "acme/front", 1, "52:54:00:00:00:01", "10.50.0.10/24", 1450},
                 {"acme/web-1", "acme/back", 2, "52:54:00:00:00:02", "10.60.0.10/24", 9000}};
  launch.seed = LaunchSeed{"vms/acme/web/seed.iso", "#cloud-config\npassword: x\n"};
  return launch;
}

TEST(Seed, F_B5_is_labelled_and_holds_its_files) {
  const auto iso = make_seed_iso(a_launch());
  ASSERT_TRUE(iso.ok()) << iso.error().text();
  constexpr std::size_t kVolumeDescriptor = 16 * 2048;
  ASSERT_GT(iso->size(), kVolumeDescriptor + 2048);
  EXPECT_EQ(iso->substr(kVolumeDescriptor + 1, 5), "CD001");
  std::string label = iso->substr(kVolumeDescriptor + 40, 6);
  for (char& letter : label) letter = static_cast<char>(std::tolower(letter));
  EXPECT_EQ(label, "cidata");
  for (const char* text :
       {"instance-id: \"6a7bf3c0-0000-4000-8000-000000000001\"", "local-hostname: \"web\"",
        "password: x", "match: {macaddress: \"52:54:00:00:00:02\"}",
        "addresses: [\"10.50.0.10/24\"]", "mtu: 9000", "meta-data", "user-data",
        "network-config"}) {
    EXPECT_NE(iso->find(text), std::string::npos) << text;
  }
}

TEST(Seed, R_B3_names_the_router_and_the_resolver_of_networks_that_have_them) {
  VmLaunch launch = a_launch();
  EXPECT_EQ(make_seed_iso(launch)->find("nameservers"), std::string::npos);
  for (LaunchNic& nic : launch.nics) {
    nic.router = nic.resolver = nic.address.substr(0, 6) + "0.1";
    nic.domain = nic.network == "acme/front" ? "front.acme.virga" : "back.acme.virga";
  }
  const auto iso = make_seed_iso(launch);
  ASSERT_TRUE(iso.ok()) << iso.error().text();
  const std::string front = "routes: [{to: \"0.0.0.0/0\", via: \"10.50.0.1\"}]";
  for (const std::string& text :
       {front, std::string("{addresses: [\"10.50.0.1\"], search: [\"front.acme.virga\"]}"),
        std::string("{addresses: [\"10.60.0.1\"], search: [\"back.acme.virga\"]}")}) {
    EXPECT_NE(iso->find(text), std::string::npos) << text;
  }
  EXPECT_EQ(iso->find("via: \"10.60.0.1\""), std::string::npos) << "one default route is enough";
}

TEST(Seed, F_B5_without_user_data_and_cards_it_is_still_one) {
  VmLaunch launch = a_launch();
  launch.seed->user_data.clear();
  launch.nics.clear();
  const auto iso = make_seed_iso(launch);
  ASSERT_TRUE(iso.ok()) << iso.error().text();
  EXPECT_NE(iso->find("#cloud-config\n{}"), std::string::npos);
  EXPECT_EQ(iso->find("ethernets"), std::string::npos);
}

TEST(Seed, F_B5_a_vm_without_seed_or_identity_is_refused) {
  VmLaunch launch = a_launch();
  launch.identity.uuid.clear();
  EXPECT_EQ(make_seed_iso(launch).error().code, Errc::invalid);
  launch = a_launch();
  launch.seed.reset();
  EXPECT_EQ(make_seed_iso(launch).error().code, Errc::invalid);
}

}  // namespace
}  // namespace virga
