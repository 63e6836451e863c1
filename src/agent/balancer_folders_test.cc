#include "agent/balancer_folders.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "edge/file.h"

namespace virga {
namespace {

namespace fs = std::filesystem;

class BalancerFoldersTest : public ::testing::Test {
 protected:
  BalancerFoldersTest() {
    char pattern[] = "/tmp/virga-balancers-XXXXXX";
    if (::mkdtemp(pattern) != nullptr) top_ = pattern;
  }
  ~BalancerFoldersTest() override { fs::remove_all(top_); }

  BalancerFolders folders() const { return {top_ + "/balancers", {}}; }

  std::string top_;
  const BalancerLeg leg_{1001, "52:54:00:00:00:0a", "10.50.0.10/24", 1400};
};

TEST_F(BalancerFoldersTest, R_B6_the_next_agent_knows_the_legs_of_this_one) {
  EXPECT_TRUE(folders().remembered().empty()) << "nothing is there yet";
  ASSERT_TRUE(folders().remember(ServiceId("acme/web"), leg_).ok());
  ASSERT_TRUE(folders().remember(ServiceId("bolt/web"), leg_).ok());
  BalancerLeg moved = leg_;
  moved.address = "10.50.0.11/24";
  ASSERT_TRUE(folders().remember(ServiceId("acme/web"), moved).ok());
  EXPECT_EQ(folders().remembered(),
            (std::map<ServiceId, BalancerLeg>{{ServiceId("acme/web"), moved},
                                              {ServiceId("bolt/web"), leg_}}));
  ASSERT_TRUE(folders().forget(ServiceId("acme/web")).ok());
  ASSERT_TRUE(folders().forget(ServiceId("acme/web")).ok()) << "asked again";
  EXPECT_EQ(folders().remembered().size(), 1U);
  EXPECT_FALSE(fs::exists(top_ + "/balancers/acme.web"));
}

TEST_F(BalancerFoldersTest, R_B6_others_cannot_look_into_the_folder_of_a_certificate) {
  ASSERT_TRUE(folders().remember(ServiceId("acme/web"), leg_).ok());
  struct stat seen {};
  ASSERT_EQ(::stat((top_ + "/balancers/acme.web").c_str(), &seen), 0);
  EXPECT_EQ(seen.st_mode & 0777U, 0700U);
}

TEST_F(BalancerFoldersTest, R_B6_a_record_that_was_damaged_goes_with_what_is_beside_it) {
  ASSERT_TRUE(folders().remember(ServiceId("acme/web"), leg_).ok());
  const std::string folder = top_ + "/balancers/acme.web";
  ASSERT_TRUE(make_folders(folder + "/driver/certificates").ok());
  ASSERT_TRUE(replace_file(folder + "/leg.json", "{").ok());
  ASSERT_TRUE(make_folders(top_ + "/balancers/acme.db/driver").ok());
  EXPECT_TRUE(folders().remembered().empty());
  EXPECT_TRUE(fs::is_empty(top_ + "/balancers"));
}

TEST_F(BalancerFoldersTest, R_B6_a_name_that_leads_elsewhere_is_refused) {
  for (const char* name : {"", "web", "../web", "acme/../..", "acme/web/x", "/etc"}) {
    const auto refused = folders().remember(ServiceId(name), leg_);
    ASSERT_FALSE(refused.ok()) << name;
    EXPECT_EQ(refused.error().code, Errc::invalid) << name;
    EXPECT_FALSE(folders().forget(ServiceId(name)).ok()) << name;
  }
}

}  // namespace
}  // namespace virga
