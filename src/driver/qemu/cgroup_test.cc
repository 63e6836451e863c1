#include "driver/qemu/cgroup.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "edge/file.h"

namespace virga {
namespace {

/// A folder with the files of a unified hierarchy, as the kernel would make them.
class FakeV2 : public testing::Test {
 protected:
  FakeV2() {
    char name[] = "/tmp/virga-cgroup-XXXXXX";
    root = ::mkdtemp(name);
    const std::string group = root + "/host/virga/acme/web";
    EXPECT_TRUE(make_folders(group).ok());
    write("/cgroup.controllers", "cpuset cpu io memory pids\n");
    for (const char* folder : {"", "/host", "/host/virga", "/host/virga/acme"}) {
      write(std::string(folder) + "/cgroup.subtree_control", "");
    }
    empty();
    auto found = find_cgroups(fmt::format("cgroup2 {} cgroup2 rw 0 0\n", root), "host");
    EXPECT_TRUE(found.ok());
    cgroups = std::move(*found);
  }
  ~FakeV2() override { std::filesystem::remove_all(root); }

  /// A kernel takes each write as a whole; a file keeps what stands behind it.
  void empty() {
    for (const char* file : {"cpu.weight", "cpu.max", "memory.max", "pids.max"}) {
      write(std::string("/host/virga/acme/web/") + file, "");
    }
  }
  void write(const std::string& path, const std::string& text) {
    EXPECT_TRUE(write_file_atomically(root + path, text).ok());
  }
  std::string read(const std::string& file) {
    return *read_file(root + "/host/virga/acme/web/" + file);
  }

  std::string root;
  std::unique_ptr<Cgroups> cgroups;
};

TEST_F(FakeV2, F_B4_LimitsAreWrittenInTheUnitsOfTheKernelAndChange) {
  EXPECT_EQ(cgroups->version(), "v2");
  ASSERT_TRUE(cgroups->set("acme/web", {Millicores{1500}, 200, Mib{384}, 64}).ok());
  EXPECT_EQ(read("cpu.max"), "150000 100000");
  EXPECT_EQ(read("cpu.weight"), "200");
  EXPECT_EQ(read("memory.max"), "402653184");
  EXPECT_EQ(read("pids.max"), "64");
  EXPECT_EQ(*read_file(root + "/host/virga/acme/cgroup.subtree_control"), "+cpu +memory +pids");
  EXPECT_EQ(*read_file(root + "/cgroup.subtree_control"), "+cpu +memory +pids");
  empty();
  ASSERT_TRUE(cgroups->set("acme/web", {Millicores{5}, 1, Mib{512}, 300}).ok());
  EXPECT_EQ(read("cpu.max"), "1000 100000") << "the least that the kernel takes";
  EXPECT_EQ(read("cpu.weight"), "1");
  EXPECT_EQ(read("memory.max"), "536870912");
  EXPECT_EQ(read("pids.max"), "300");
}

TEST_F(FakeV2, F_B4_UsageIsReadBack) {
  write("/host/virga/acme/web/cpu.stat", "usage_usec 2500000\nuser_usec 1\n");
  write("/host/virga/acme/web/memory.stat", "anon 1048576\nfile 99\n");
  const auto usage = cgroups->usage("acme/web");
  ASSERT_TRUE(usage.ok());
  EXPECT_EQ(usage->cpu_time, milliseconds(2500));
  EXPECT_EQ(usage->memory.value, 1048576);
}

TEST_F(FakeV2, LimitsThatMakeNoSenseAreRefused) {
  EXPECT_EQ(cgroups->set("acme/web", {Millicores{0}, 100, Mib{1}, 1}).error().code, Errc::invalid);
  EXPECT_EQ(cgroups->set("acme/web", {Millicores{1}, 0, Mib{1}, 1}).error().code, Errc::invalid);
  EXPECT_EQ(cgroups->set("acme/web", {Millicores{1}, 10'001, Mib{1}, 1}).error().code,
            Errc::invalid);
}

/// Folders with the files of the four older hierarchies; cpu and cpuacct are one, as on most hosts.
class FakeV1 : public testing::Test {
 protected:
  FakeV1() {
    char name[] = "/tmp/virga-cgroup-XXXXXX";
    root = ::mkdtemp(name);
    for (const char* controller : {"cpu", "memory", "pids"}) {
      EXPECT_TRUE(make_folders(root + "/" + controller + "/host/virga/acme/web").ok());
    }
    empty();
    auto found = find_cgroups(fmt::format("cgroup {0}/cpu cgroup rw,cpu,cpuacct 0 0\n"
                                          "cgroup {0}/memory cgroup rw,memory 0 0\n"
                                          "cgroup {0}/pids cgroup rw,pids 0 0\n",
                                          root),
                              "host");
    EXPECT_TRUE(found.ok());
    cgroups = std::move(*found);
  }
  ~FakeV1() override { std::filesystem::remove_all(root); }

  void empty() {
    for (const char* file : {"cpu/cpu.shares", "cpu/cpu.cfs_period_us", "cpu/cpu.cfs_quota_us",
                             "memory/memory.limit_in_bytes", "pids/pids.max"}) {
      write(file, "");
    }
  }

  /// "pids/pids.max" is that file of the group acme/web in the hierarchy "pids".
  std::string path_of(const std::string& file) const {
    const std::size_t slash = file.find('/');
    return root + "/" + file.substr(0, slash) + "/host/virga/acme/web" + file.substr(slash);
  }
  void write(const std::string& file, const std::string& text) {
    EXPECT_TRUE(write_file_atomically(path_of(file), text).ok());
  }
  std::string read(const std::string& file) { return *read_file(path_of(file)); }

  std::string root;
  std::unique_ptr<Cgroups> cgroups;
};

TEST_F(FakeV1, F_B4_LimitsAreWrittenInTheUnitsOfTheKernelAndChange) {
  EXPECT_EQ(cgroups->version(), "v1");
  ASSERT_TRUE(cgroups->set("acme/web", {Millicores{1500}, 200, Mib{384}, 200}).ok());
  EXPECT_EQ(read("cpu/cpu.cfs_period_us"), "100000");
  EXPECT_EQ(read("cpu/cpu.cfs_quota_us"), "150000");
  EXPECT_EQ(read("cpu/cpu.shares"), "2048");
  EXPECT_EQ(read("memory/memory.limit_in_bytes"), "402653184");
  EXPECT_EQ(read("pids/pids.max"), "200");
  empty();
  ASSERT_TRUE(cgroups->set("acme/web", {Millicores{5}, 1, Mib{512}, 300}).ok());
  EXPECT_EQ(read("cpu/cpu.cfs_quota_us"), "1000") << "the least that the kernel takes";
  EXPECT_EQ(read("cpu/cpu.shares"), "10");
  EXPECT_EQ(read("memory/memory.limit_in_bytes"), "536870912");
  EXPECT_EQ(read("pids/pids.max"), "300");
}

TEST_F(FakeV1, F_B4_UsageIsReadBackAndAProcessEntersEachHierarchyOnce) {
  write("cpu/cpuacct.usage", "2500000000\n");
  write("memory/memory.stat", "cache 99\nrss 1048576\nrss_huge 7\n");
  const auto usage = cgroups->usage("acme/web");
  ASSERT_TRUE(usage.ok()) << usage.error().text();
  EXPECT_EQ(usage->cpu_time, milliseconds(2500));
  EXPECT_EQ(usage->memory.value, 1048576);
  const std::vector<std::string> files = {path_of("cpu/cgroup.procs"),
                                          path_of("memory/cgroup.procs"),
                                          path_of("pids/cgroup.procs")};
  EXPECT_EQ(cgroups->procs_files("acme/web"), files);
}

TEST_F(FakeV1, LimitsThatMakeNoSenseAreRefused) {
  EXPECT_EQ(cgroups->set("acme/web", {Millicores{1}, 100, Mib{1}, 0}).error().code, Errc::invalid);
  EXPECT_EQ(cgroups->set("acme/web", {Millicores{1}, 100, Mib{0}, 1}).error().code, Errc::invalid);
  EXPECT_EQ(read("pids/pids.max"), "");
}

TEST(CgroupTest, HierarchyWithoutTheControllersIsNotUsed) {
  EXPECT_EQ(find_cgroups("tmpfs / tmpfs rw 0 0\n", "").error().code, Errc::unsupported);
  EXPECT_EQ(find_cgroups("cgroup /x cgroup rw,cpu 0 0\n", "").error().code, Errc::unsupported);
}

}  // namespace
}  // namespace virga
