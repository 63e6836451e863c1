#include "lab/lab_rights.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace virga {
namespace {

LabFacts all_rights() { return {true, true, "", "", {}}; }

bool holds(const std::string& text, const std::string& words) {
  return text.find(words) != std::string::npos;
}

TEST(LabRightsTest, F_B10_who_has_all_rights_uses_the_whole_machine) {
  LabFacts facts = all_rights();
  facts.user_namespace = "make a user namespace: No space left on device";
  const auto chosen = choose_lab_rights(facts);
  ASSERT_TRUE(chosen.ok()) << chosen.error().text();
  EXPECT_EQ(*chosen, LabRights::whole_machine);
}

TEST(LabRightsTest, F_B10_one_right_that_is_missing_leads_into_a_user_namespace) {
  LabFacts without_mounts = all_rights();
  without_mounts.sys_admin = false;
  LabFacts without_links = all_rights();
  without_links.net_admin = false;
  LabFacts without_groups = all_rights();
  without_groups.cgroups = "make the cgroup virga-lab: Read-only file system";
  for (const LabFacts& facts : {without_mounts, without_links, without_groups}) {
    const auto chosen = choose_lab_rights(facts);
    ASSERT_TRUE(chosen.ok()) << chosen.error().text();
    EXPECT_EQ(*chosen, LabRights::user_namespace);
  }
}

TEST(LabRightsTest, F_B10_without_a_user_namespace_it_says_all_that_is_missing_and_how_to_get_it) {
  LabFacts facts;
  facts.user_namespace = user_namespace_obstacle({"make a user namespace", ENOSPC, 0, -1, -1});
  facts.missing_programs = {"the program nft: apt-get install nftables"};
  const auto chosen = choose_lab_rights(facts);
  ASSERT_FALSE(chosen.ok());
  EXPECT_EQ(chosen.error().code, Errc::denied);
  for (const char* words :
       {"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "sudo", "instead of these, a user namespace",
        "sysctl user.max_user_namespaces=1000", "apt-get install nftables"}) {
    EXPECT_TRUE(holds(chosen.error().text(), words)) << words << ": " << chosen.error().text();
  }
}

TEST(LabRightsTest, F_B10_missing_programs_alone_are_no_question_of_rights) {
  LabFacts facts = all_rights();
  facts.missing_programs = {"the program ip: apt-get install iproute2"};
  const auto chosen = choose_lab_rights(facts);
  ASSERT_FALSE(chosen.ok());
  EXPECT_EQ(chosen.error().code, Errc::unsupported);
  EXPECT_FALSE(holds(chosen.error().text(), "sudo")) << chosen.error().text();
}

TEST(LabRightsTest, F_B10_root_without_cgroups_learns_what_it_lacks) {
  LabFacts facts = all_rights();
  facts.cgroups = "make the cgroup virga-lab: Read-only file system";
  facts.user_namespace = "mount an own /proc: Operation not permitted";
  const auto chosen = choose_lab_rights(facts);
  ASSERT_FALSE(chosen.ok());
  EXPECT_TRUE(holds(chosen.error().text(), "Read-only file system")) << chosen.error().text();
  EXPECT_TRUE(holds(chosen.error().text(), "mount an own /proc")) << chosen.error().text();
}

TEST(LabRightsTest, F_B10_an_obstacle_names_the_kernels_switch_that_is_in_the_way) {
  EXPECT_EQ(user_namespace_obstacle({}), "");
  const std::string step = "make a user namespace";
  EXPECT_TRUE(
      holds(user_namespace_obstacle({step, ENOSPC, 0, -1, -1}), "max_user_namespaces=1000"));
  EXPECT_TRUE(
      holds(user_namespace_obstacle({step, EPERM, 9000, 0, -1}), "unprivileged_userns_clone=1"));
  EXPECT_TRUE(holds(user_namespace_obstacle({"map the user to root", EPERM, 9000, 1, 1}),
                    "apparmor_restrict_unprivileged_userns=0"));
  EXPECT_TRUE(holds(user_namespace_obstacle({"mount an own /proc", EPERM, 9000, -1, -1}),
                    "a container or a security module"));
  const std::string other = user_namespace_obstacle({"make a pipe", EMFILE, 9000, -1, -1});
  EXPECT_EQ(other, "make a pipe: Too many open files");
}

}  // namespace
}  // namespace virga
