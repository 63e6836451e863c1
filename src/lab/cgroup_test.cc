#include "lab/cgroup.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace virga {
namespace {

namespace fs = std::filesystem;

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A folder that looks like a mount of cgroups.
class FakeMount : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/virga-cgroup-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    mount_ = pattern;
  }
  void TearDown() override { fs::remove_all(mount_); }

  void touch(const std::string& file) {
    fs::create_directories((mount_ / file).parent_path());
    std::ofstream made(mount_ / file);
  }

  fs::path mount_;
};

TEST_F(FakeMount, F_B10_version_2_hands_controllers_down_and_sets_what_the_host_declares) {
  for (const auto* file :
       {"cgroup.controllers", "cgroup.subtree_control", "virga-lab/cgroup.subtree_control",
        "virga-lab/dev/cgroup.subtree_control", "virga-lab/dev/host-1/cpu.max",
        "virga-lab/dev/host-1/memory.max", "virga-lab/dev/host-1/pids.max",
        "virga-lab/dev/host-1/cpu.weight",
        "virga-lab/dev/host-1/cgroup.procs", "virga-lab/dev/host-1/virga/acme/web/cgroup.procs"}) {
    touch(file);
  }
  const LabCgroup group("virga-lab/dev/host-1", mount_.string());
  ASSERT_TRUE(group.create().ok());
  const auto limited = group.limit({{1500}, {2048}});
  ASSERT_TRUE(limited.ok()) << limited.error().text();
  ASSERT_TRUE(group.weigh(1000).ok());
  EXPECT_EQ(text_of(mount_ / "virga-lab/dev/host-1/cpu.weight"), "1000");
  EXPECT_EQ(text_of(mount_ / "virga-lab/dev/cgroup.subtree_control"), "+cpu +memory +pids");
  EXPECT_EQ(text_of(mount_ / "virga-lab/dev/host-1/cpu.max"), "30000 20000");
  EXPECT_EQ(text_of(mount_ / "virga-lab/dev/host-1/memory.max"), "2147483648");
  std::ofstream(mount_ / "virga-lab/dev/host-1/virga/acme/web/cgroup.procs") << "17\n4\n";
  std::ofstream(mount_ / "virga-lab/dev/host-1/cgroup.procs") << "9\n";
  EXPECT_EQ(group.processes(), (std::vector<pid_t>{4, 9, 17}));
  EXPECT_EQ(group.procs_files(),
            std::vector<std::string>{(mount_ / "virga-lab/dev/host-1/cgroup.procs").string()});
}

TEST_F(FakeMount, F_B10_says_which_controller_is_missing) {
  touch("cpu/x");
  const auto made = LabCgroup("virga-lab/dev", mount_.string()).create();
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, Errc::unsupported);
  EXPECT_NE(made.error().text().find("cpuacct"), std::string::npos) << made.error().text();
}

}  // namespace
}  // namespace virga
