#include "image/disk_probe.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>

#include "edge/file.h"

namespace virga {
namespace {

/// Programs that try what an attacker inside of qemu-img would try.
class DiskProbe : public testing::Test {
 protected:
  DiskProbe() {
    folder_ = std::filesystem::temp_directory_path().string() + "/virga-probe.XXXXXX";
    EXPECT_NE(::mkdtemp(folder_.data()), nullptr);
  }
  ~DiskProbe() override { std::filesystem::remove_all(folder_); }

  std::string disk() const { return folder_ + "/disk.raw"; }

  /// What the program prints, after it has ended well. It is the disk itself.
  std::string perl(const std::string& program) const {
    EXPECT_TRUE(write_file_atomically(disk(), program).ok());
    const auto ended = run_disk_probe(disk(), {"/usr/bin/perl", "/disk"}, seconds(30));
    EXPECT_TRUE(ended.ok()) << (ended.ok() ? "" : ended.error().text());
    if (!ended) return {};
    EXPECT_EQ(ended->exit.code, 0) << ended->err;
    return ended->out;
  }

  std::string folder_;
};

TEST_F(DiskProbe, F_B5_SeesItsDiskAndNoOtherFile) {
  EXPECT_EQ(perl("opendir(D, '/'); print join(' ', sort grep { !/^\\./ } readdir D);"),
            "disk lib lib64 usr");
  const std::string tries = fmt::format(
      "for my $path ('/etc/shadow', '/proc/1/environ', '/dev/kvm', '/sys/kernel', '{}') {{"
      "  print open(F, '<', $path) ? 'open ' : $!{{ENOENT}} ? 'none ' : \"$! \";"
      "}}",
      disk());
  EXPECT_EQ(perl(tries), "none none none none none ");
}

TEST_F(DiskProbe, F_B5_WritesNothing) {
  const std::string tries =
      "for my $path ('/disk', '/new', '/usr/new', '/tmp/new') {"
      "  print open(F, '>', $path) ? 'open ' : 'refused ';"
      "}";
  EXPECT_EQ(perl(tries), "refused refused refused refused ");
  EXPECT_EQ(*read_file(disk()), tries);
}

TEST_F(DiskProbe, F_B5_ReachesNoNetwork) {
  // Of this machine, of the network, of the kernel, its ciphers, and of a hypervisor below us.
  EXPECT_EQ(perl("for my $family (1, 2, 10, 16, 38, 40) {"
                 "  print socket(S, $family, $family == 38 ? 5 : 1, 0) ? 'open ' : \"$!; \";"
                 "}"),
            "Operation not permitted; Operation not permitted; Operation not permitted; "
            "Operation not permitted; Operation not permitted; Operation not permitted; ");
}

TEST_F(DiskProbe, F_B5_HasNoRightsAndGetsNone) {
  const uid_t user = ::geteuid() == 0 ? 65'000 + static_cast<uid_t>(::getpid()) % 512 : ::geteuid();
  EXPECT_EQ(perl("print \"$$ $> $<\""), fmt::format("1 {0} {0}", user));
  EXPECT_EQ(perl("print syscall(157, 39, 0, 0, 0, 0)"), "1") << "PR_GET_NO_NEW_PRIVS";
  // unshare, clone and clone3 for a user namespace, setns, mount, chroot, ptrace, bpf, io_uring.
  EXPECT_EQ(perl("my $path = '/usr';"
                 "for my $call ([272, 0x10000000], [56, 0x10000011, 0, 0, 0, 0], [435, 0, 0],"
                 "              [308, 0, 0], [165, $path, $path, $path, 4096, 0], [161, $path],"
                 "              [101, 0, 0, 0, 0], [321, 0, 0, 0], [425, 1, 0]) {"
                 "  $! = 0; my $answer = syscall($call->[0], @$call[1 .. $#$call]);"
                 "  print $answer >= 0 ? 'done '"
                 "      : $!{EPERM} ? 'refused ' : $!{ENOSYS} ? 'none ' : \"$! \";"
                 "}"),
            "refused refused none refused refused refused refused refused refused ");
}

TEST_F(DiskProbe, F_B5_StartsFewProcessesAndLeavesNone) {
  const std::string program =
      "my $many = 0; while ($many < 1000) {"
      "  my $child = fork; last unless defined $child;"
      "  if (!$child) { sleep 600; exit } $many++;"
      "} print $many;";
  const std::string many = perl(program);
  EXPECT_EQ(many, "63") << "with itself the 64 that are allowed";
  EXPECT_EQ(perl(program), many) << "those of before went with the first of them";
}

TEST_F(DiskProbe, F_B5_GetsNoMoreMemoryThanItIsAllowed) {
  // mmap of private memory: of half a gibibyte, and of two.
  EXPECT_EQ(perl("for my $bytes (1 << 29, 1 << 31) {"
                 "  print syscall(9, 0, $bytes, 3, 0x22, -1, 0) == -1 ? \"$! \" : 'got ';"
                 "}"),
            "got Cannot allocate memory ");
}

TEST_F(DiskProbe, F_B5_HasTheLimitsThatAreSaid) {
  // getrlimit: the soft and the hard ones.
  const auto limit = [this](int resource) {
    return perl(
        fmt::format("my $limit = \"\\0\" x 16; syscall(97, {}, $limit) == 0 or die;"
                    "print join(' ', unpack('QQ', $limit));",
                    resource));
  };
  EXPECT_EQ(limit(RLIMIT_CPU), "30 30") << "seconds of processor time";
  EXPECT_EQ(limit(RLIMIT_AS), "1073741824 1073741824");
  EXPECT_EQ(limit(RLIMIT_NPROC), "64 64");
}

TEST_F(DiskProbe, F_B5_AnImageThatNamesAnotherFileShowsNothingOfIt) {
  ASSERT_TRUE(write_file_atomically(folder_ + "/secret", std::string(1 << 20, 's')).ok());
  ProcessOptions options;
  options.arguments = {
      "/usr/bin/qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", folder_ + "/secret",
      folder_ + "/a.qcow2"};
  const auto made = run_process(options, seconds(30));
  ASSERT_TRUE(made.ok() && made->exit.code == 0);
  const auto ended = run_disk_probe(
      folder_ + "/a.qcow2",
      {"/usr/bin/qemu-io", "-r", "-f", "qcow2", "-c", "read -v 0 512", "/disk"}, seconds(30));
  ASSERT_TRUE(ended.ok()) << ended.error().text();
  EXPECT_NE(ended->exit.code, 0);
  EXPECT_NE(ended->err.find("Could not open backing file"), std::string::npos) << ended->err;
  EXPECT_EQ(ended->out.find("73 73"), std::string::npos) << ended->out;
}

}  // namespace
}  // namespace virga
