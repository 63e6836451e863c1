#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "agent/host_facts.h"
#include "edge/asio_loop.h"
#include "edge/file.h"

namespace virga {
namespace {

/// On the kernel that this runs on; `tests/integration` runs it in a guest too, whose kernel has
/// the unified hierarchy.
TEST(HostFactsOfThisKernel, F_B10_a_whole_machine_says_what_it_uses) {
  AsioLoop loop;
  HostFacts facts(loop, "");
  const auto before = facts.used();
  EXPECT_GT(before.memory_mib, Mib{8});
  EXPECT_LT(before.memory_mib, facts.capacity().memory_mib);
  const Instant end = loop.now() + milliseconds(500);
  while (loop.now() < end) continue;
  EXPECT_GT(facts.used().cpu_millicores, Millicores{50});
}

TEST(HostFactsOfThisKernel, F_B10_a_host_that_is_a_group_has_what_its_limits_leave) {
  namespace fs = std::filesystem;
  const std::string name = "virga-facts-test-" + std::to_string(::getpid());
  const fs::path top = "/sys/fs/cgroup";
  const bool unified = fs::exists(top / "cgroup.controllers");
  std::vector<fs::path> made;
  const auto write = [&](const char* controller, const std::string& file, const std::string& text) {
    const fs::path group = top / (unified ? "" : controller) / name;
    if (fs::create_directory(group)) made.push_back(group);
    const auto written = write_kernel_file(group / file, text);
    EXPECT_TRUE(written.ok()) << written.error().text();
  };
  if (unified) {
    ASSERT_TRUE(write_kernel_file(top / "cgroup.subtree_control", "+cpu +memory +pids").ok());
    write("cpu", "cpu.max", "50000 100000");
  } else {
    write("cpu", "cpu.cfs_period_us", "100000");
    write("cpu", "cpu.cfs_quota_us", "50000");
  }
  write("memory", unified ? "memory.max" : "memory.limit_in_bytes", std::to_string(64 << 20));
  AsioLoop loop;
  HostFacts facts(loop, name);
  EXPECT_EQ(facts.capacity().cpu_millicores, Millicores{500});
  EXPECT_EQ(facts.capacity().memory_mib, Mib{64});
  EXPECT_EQ(facts.used().memory_mib, Mib{0}) << "nothing runs in it";
  for (const fs::path& group : made) EXPECT_EQ(::rmdir(group.c_str()), 0) << group;
}

}  // namespace
}  // namespace virga
