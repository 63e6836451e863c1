#include "agent/agent_list.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/reflect.h"
#include "edge/file.h"

namespace virga {
namespace {

class AgentList : public testing::Test {
 protected:
  AgentList() {
    char name[] = "/tmp/virga-list-XXXXXX";
    shared = ::mkdtemp(name);
  }
  ~AgentList() override { std::filesystem::remove_all(shared); }

  void put(const std::string& vm, const std::string& text) {
    ASSERT_TRUE(make_folders(shared + "/vms/" + vm).ok());
    ASSERT_TRUE(write_file_atomically(shared + "/vms/" + vm + "/vm.json", text, 0600).ok());
  }
  static std::string text_of(const std::string& vm, std::uint64_t counter) {
    VmLaunch launch;
    launch.vm = VmId(vm);
    launch.epoch = {1, counter};
    return to_json_text(launch);
  }

  std::string shared;
};

TEST_F(AgentList, A1_F2_F_B8_configurations_are_listed_in_order_and_damaged_ones_named) {
  put("zeta/a", text_of("zeta/a", 9));
  put("acme/web", text_of("acme/web", 7));
  put("acme/bad", "{");
  ASSERT_TRUE(make_folders(shared + "/vms/acme/never-placed").ok());
  const auto found = list_configurations(shared);
  ASSERT_TRUE(found.ok()) << found.error().text();
  ASSERT_EQ(found->launches.size(), 2U);
  EXPECT_EQ(found->launches[0].vm, VmId("acme/web"));
  EXPECT_EQ(found->launches[0].epoch.counter, 7U);
  EXPECT_EQ(found->launches[1].vm, VmId("zeta/a"));
  ASSERT_EQ(found->problems.size(), 1U);
  EXPECT_NE(found->problems[0].find("acme/bad/vm.json"), std::string::npos);
}

TEST_F(AgentList, A1_F2_F_B8_an_empty_folder_has_none_and_one_that_is_not_there_is_an_error) {
  ASSERT_TRUE(make_folders(shared + "/vms").ok());
  EXPECT_TRUE(list_configurations(shared)->launches.empty());
  EXPECT_TRUE(list_configurations(shared)->problems.empty());
  std::filesystem::remove(shared + "/vms");
  EXPECT_EQ(list_configurations(shared)->problems.size(), 1U) << "a share that is not mounted";
  EXPECT_EQ(list_configurations(shared + "/missing").error().code, Errc::not_found);
}

}  // namespace
}  // namespace virga
