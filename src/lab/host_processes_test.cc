#include "lab/host_processes.h"

#include <gtest/gtest.h>

namespace virga {
namespace {

TEST(HostProcessesTest, F_B10_an_id_names_the_way_of_following_and_what_is_followed) {
  LabOptions options;
  options.instance = "dev";
  EXPECT_EQ(host_processes_id(options, "host-1", "vg-dev-h1"), "cgroup:virga-lab/dev/host-1");
  options.rights = LabRights::user_namespace;
  EXPECT_EQ(host_processes_id(options, "host-1", "vg-dev-h1"), "namespace:vg-dev-h1");
  for (const char* good : {"cgroup:virga-lab/dev/host-1", "namespace:vg-dev-h1"}) {
    EXPECT_TRUE(open_host_processes(good).ok()) << good;
  }
  for (const char* bad : {"", "cgroup:", "namespace:", "namespace:../../proc/1/ns/net", "pid:1",
                          "virga-lab/dev/host-1", "namespace:a/b", "cgroup:../.."}) {
    const auto opened = open_host_processes(bad);
    ASSERT_FALSE(opened.ok()) << bad;
    EXPECT_EQ(opened.error().code, Errc::invalid);
    EXPECT_NE(opened.error().text().find("namespace:NAME"), std::string::npos);
  }
}

TEST(HostProcessesTest, F_B10_a_host_without_a_namespace_has_no_processes_and_can_be_stopped) {
  const auto none = open_host_processes("namespace:vg-virga-test-of-no-lab");
  ASSERT_TRUE(none.ok());
  EXPECT_EQ((*none)->list(), std::vector<pid_t>());
  EXPECT_EQ((*none)->birth_files(), std::vector<std::string>());
  EXPECT_TRUE((*none)->prepare({{1000}, {1024}}).ok());
  EXPECT_TRUE((*none)->freeze().ok());
  EXPECT_TRUE((*none)->thaw().ok());
  (*none)->kill_all();
}

}  // namespace
}  // namespace virga
