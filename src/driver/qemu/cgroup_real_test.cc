#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "driver/qemu/cgroup.h"
#include "edge/asio_loop.h"
#include "edge/file.h"
#include "edge/process.h"

namespace virga {
namespace {

/// The control groups of the kernel that this runs on. `tests/integration` runs it in a guest too,
/// whose kernel has the unified hierarchy; VIRGA_CGROUPS names the version that must be there.
TEST(CgroupsOfThisKernel, F_B4_A_process_is_born_in_its_group_and_held_to_limits_that_can_change) {
  const std::string base = fmt::format("virga-cgroup-test-{}", ::getpid());
  auto cgroups = find_cgroups(*read_file("/proc/mounts"), base);
  ASSERT_TRUE(cgroups.ok()) << cgroups.error().text();
  const auto made = (*cgroups)->set("acme/web", {Millicores{250}, 100, Mib{64}, 10});
  ASSERT_TRUE(made.ok()) << made.error().text();
  const char* version = std::getenv("VIRGA_CGROUPS");
  if (version != nullptr) {
    EXPECT_EQ((*cgroups)->version(), version);
  }
  const auto run = [&](const std::string& script) {
    ProcessOptions options;
    options.arguments = {"/bin/sh", "-c", script};
    options.environment = {{"PATH", "/usr/bin:/bin"}};
    options.cgroup_procs = (*cgroups)->procs_files("acme/web");
    return run_process(options, seconds(60));
  };
  const auto output =
      run("cat /proc/self/cgroup; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done");
  ASSERT_TRUE(output.ok()) << output.error().text();
  EXPECT_NE(output->out.find("/" + base + "/virga/acme/web\n"), std::string::npos) << output->out;
  const std::string crowd = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1 & done; wait";
  EXPECT_NE(run(crowd)->exit.code, 0) << "more processes than the group may have";
  const auto usage = (*cgroups)->usage("acme/web");
  ASSERT_TRUE(usage.ok()) << usage.error().text();
  EXPECT_GT(usage->cpu_time, milliseconds(1));
  EXPECT_TRUE((*cgroups)->set("acme/web", {Millicores{500}, 300, Mib{128}, 40}).ok());
  EXPECT_EQ(run(crowd)->exit.code, 0);
  AsioLoop loop;  // the last of the crowd ends
  for (int tries = 0; tries < 500 && !(*cgroups)->remove("acme/web").ok(); ++tries) {
    loop.after(milliseconds(10), [&loop] { loop.stop(); });
    loop.run();
  }
  EXPECT_TRUE((*cgroups)->remove("acme/web").ok());
  EXPECT_FALSE((*cgroups)->usage("acme/web").ok());
  for (const std::string& file : (*cgroups)->procs_files("acme/web")) {
    const auto folder = std::filesystem::path(file).parent_path().parent_path();
    EXPECT_FALSE(std::filesystem::exists(folder)) << folder << " was left";
    ::rmdir(folder.parent_path().c_str());
    ::rmdir(folder.parent_path().parent_path().c_str());
  }
}

}  // namespace
}  // namespace virga
