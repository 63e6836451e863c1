#include "edge/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "edge/file.h"

namespace virga {
namespace {

ProcessOptions shell(const std::string& script) {
  ProcessOptions options;
  options.arguments = {"/bin/sh", "-c", script};
  options.environment = {{"PATH", "/usr/bin:/bin"}};
  return options;
}

std::string run(const ProcessOptions& options) {
  const auto output = run_process(options, seconds(20));
  EXPECT_TRUE(output.ok()) << (output.ok() ? "" : output.error().text());
  return output.ok() ? output->out : "";
}

TEST(ProcessTest, HelperOutputAndExitCodeAreReported) {
  const auto output = run_process(shell("echo out; echo err >&2; exit 7"), seconds(20));
  ASSERT_TRUE(output.ok());
  EXPECT_EQ(output->out, "out\n");
  EXPECT_EQ(output->err, "err\n");
  EXPECT_EQ(output->exit.code, 7);
}

TEST(ProcessTest, HelperThatDoesNotEndIsKilledAtItsDeadline) {
  char folder[] = "/tmp/virga-helper-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::string note = std::string(folder) + "/pid";
  const auto output =
      run_process(shell("sleep 60 & echo $! > " + note + "; wait"), milliseconds(300));
  ASSERT_FALSE(output.ok());
  EXPECT_EQ(output.error().code, Errc::timeout);
  const auto pid = read_file(note);
  ASSERT_TRUE(pid.ok()) << pid.error().text();
  const Descriptor child(
      static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(std::stol(*pid)), 0U)));
  pollfd ended{child.get(), POLLIN, 0};
  const bool gone = !child.valid() || ::poll(&ended, 1, 5'000) == 1;
  EXPECT_TRUE(gone) << "what it had started goes with it";
  std::filesystem::remove_all(folder);
}

TEST(ProcessTest, HelperOutputIsBounded) {
  const auto output = run_process(shell("head -c 3000000 /dev/zero"), seconds(20));
  ASSERT_TRUE(output.ok());
  EXPECT_EQ(output->out.size(), 1U << 20);
}

TEST(ProcessTest, FailedExecNamesTheStepAndTheProgram) {
  ProcessOptions options;
  options.arguments = {"/no/such/program"};
  const auto output = run_process(options, seconds(20));
  ASSERT_FALSE(output.ok());
  EXPECT_EQ(output.error().code, Errc::not_found);
  EXPECT_NE(output.error().text().find("start /no/such/program: execute the program"),
            std::string::npos);
}

TEST(ProcessTest, NothingIsInheritedButWhatIsHandedOver) {
  const Descriptor secret(::open("/etc/hostname", O_RDONLY));  // without CLOEXEC, on purpose
  const Descriptor wanted(::open("/etc/hostname", O_RDONLY | O_CLOEXEC));
  ProcessOptions options = shell("ls /proc/self/fd; echo $SECRET");
  options.descriptors = {{9, wanted.get()}};
  ::setenv("SECRET", "leaked", 1);
  // ls itself opens one more, which takes the lowest free number: 3.
  EXPECT_EQ(run(options), "0\n1\n2\n3\n9\n\n");
}

TEST(ProcessTest, DescriptorsMayBeSwapped) {
  Descriptor first(::open("/etc/hostname", O_RDONLY | O_CLOEXEC));
  Descriptor second(::open("/etc/passwd", O_RDONLY | O_CLOEXEC));
  ProcessOptions options;
  options.arguments = {"/bin/readlink", "/proc/self/fd/" + std::to_string(first.get()),
                       "/proc/self/fd/" + std::to_string(second.get())};
  options.descriptors = {{first.get(), second.get()}, {second.get(), first.get()}};
  EXPECT_EQ(run(options), "/etc/passwd\n/etc/hostname\n");
}

TEST(ProcessTest, F_B4_PrivilegesAreDroppedBeforeExec) {
  ProcessOptions options =
      shell("id -u; id -G; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status");
  options.as = {65534, 65534, {4242}};
  EXPECT_EQ(
      run(options),
      "65534\n65534 4242\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\n");
}

/// In a child: the test itself stays where it was. Containers may refuse a lower OOM score; the
/// answer names what is missing then.
TEST(ProcessTest, F_B4_WhatRisesAboveGuestsStartsThemBelow) {
  const pid_t child = ::fork();
  if (child == 0) {
    ProcessOptions options = shell("nice; cat /proc/self/oom_score_adj");
    const std::string before = run(options);
    const auto risen = rise_above_guests();
    const std::string score = risen.ok() ? "-900\n" : before.substr(before.find('\n') + 1);
    const bool told =
        risen.ok() || risen.error().text().find("CAP_SYS_RESOURCE") != std::string::npos;
    const bool above = run(options) == "-10\n" + score;
    options.lowered = true;
    const bool below = run(options) == "0\n0\n";
    ::_exit((told ? 0 : 1) + (above ? 0 : 2) + (below ? 0 : 4));
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_TRUE(WIFEXITED(status));
}

TEST(ProcessTest, ChildIsFollowedToItsEnd) {
  AsioLoop loop;
  auto process = Process::spawn(loop, shell("exit 3"));
  ASSERT_TRUE(process.ok()) << process.error().text();
  ProcessExit seen;
  (*process)->on_exit([&](ProcessExit exit) {
    seen = exit;
    loop.stop();
  });
  loop.after(seconds(20), [&] { loop.stop(); });
  loop.run();
  EXPECT_EQ(seen.code, 3);
  EXPECT_FALSE((*process)->running());
}

TEST(ProcessTest, SignalEndsAChildThroughItsPidfd) {
  AsioLoop loop;
  auto process = Process::spawn(loop, shell("exec sleep 60"));
  ASSERT_TRUE(process.ok()) << process.error().text();
  EXPECT_TRUE((*process)->running());
  ProcessExit seen;
  (*process)->on_exit([&](ProcessExit exit) {
    seen = exit;
    loop.stop();
  });
  (*process)->signal(SIGKILL);
  loop.after(seconds(20), [&] { loop.stop(); });
  loop.run();
  EXPECT_EQ(seen.signal, SIGKILL);
}

TEST(ProcessTest, F_B5_ASandboxedChildHasNamespacesOfItsOwnAndEndsAtItsDeadline) {
  AsioLoop loop;
  ProcessOptions options;
  options.arguments = {"/usr/bin/sleep", "60"};
  options.sandbox = {{"usr", "/usr"}, {"lib", "/lib"}, {"lib64", "/lib64"}};
  if (::geteuid() == 0) {
    EXPECT_EQ(run_process(options, seconds(20)).error().code, Errc::invalid) << "root can leave";
    options.as = {65534, 65534, {}};
  }
  options.die_with_parent = true;
  auto process = Process::spawn(loop, options);
  ASSERT_TRUE(process.ok()) << process.error().text();
  for (const char* kind : {"net", "mnt", "pid", "ipc", "uts", "cgroup"}) {
    const auto of = [&](const std::string& who) {
      return std::filesystem::read_symlink("/proc/" + who + "/ns/" + kind).string();
    };
    EXPECT_NE(of(std::to_string((*process)->pid())), of("self")) << kind;
  }
  (*process)->on_exit([&](ProcessExit) { loop.stop(); });
  (*process)->signal(SIGKILL);
  loop.run();
  EXPECT_EQ(run_process(options, milliseconds(200)).error().code, Errc::timeout);
  options.sandbox.emplace("none", "/no/such/file");
  const auto without = run_process(options, seconds(20));
  ASSERT_FALSE(without.ok());
  EXPECT_NE(without.error().text().find("make its sandbox"), std::string::npos)
      << without.error().text();
}

TEST(ProcessTest, AdoptionRefusesAReusedPid) {
  AsioLoop loop;
  auto process = Process::spawn(loop, shell("exec sleep 60"));
  ASSERT_TRUE(process.ok());
  const pid_t pid = (*process)->pid();
  const std::uint64_t ticks = (*process)->start_ticks();
  EXPECT_TRUE(Process::adopt(loop, pid, ticks).ok());
  const auto wrong = Process::adopt(loop, pid, ticks + 1);
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ(wrong.error().code, Errc::not_found);
  (*process)->signal(SIGKILL);
  (*process)->on_exit([&](ProcessExit) { loop.stop(); });
  loop.run();
  EXPECT_EQ(Process::adopt(loop, pid, ticks).ok(), false);
}

TEST(FileTest, ReplacedFileIsWholeAndHasItsMode) {
  char folder[] = "/tmp/virga-file-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::string deep = std::string(folder) + "/a/b";
  ASSERT_TRUE(make_folders(deep).ok());
  ASSERT_TRUE(make_folders(deep).ok());
  ASSERT_TRUE(write_file_atomically(deep + "/x", "one").ok());
  ASSERT_TRUE(write_file_atomically(deep + "/x", "two", 0600).ok());
  EXPECT_EQ(*read_file(deep + "/x"), "two");
  ASSERT_TRUE(replace_file(deep + "/x", "three").ok());
  EXPECT_EQ(*read_file(deep + "/x"), "three");
  EXPECT_EQ(replace_file(deep + "/no/x", "z").error().code, Errc::not_found);
  EXPECT_EQ(read_file(deep + "/x", 2).error().code, Errc::invalid);
  EXPECT_EQ(read_file(deep + "/y").error().code, Errc::not_found);
  EXPECT_EQ(write_file_atomically(deep + "/no/x", "z").error().code, Errc::not_found);
  EXPECT_EQ(make_folders(deep + "/x/y").ok(), false);
  EXPECT_EQ(::unlink((deep + "/x").c_str()), 0);
  EXPECT_EQ(::rmdir(deep.c_str()), 0) << "a temporary file was left";
  ::rmdir((std::string(folder) + "/a").c_str());
  ::rmdir(folder);
}

TEST(FileTest, R_F5_ARewrittenFileKeepsTheRoomOfItsNextText) {
  char folder[] = "/tmp/virga-file-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/x";
  const auto holds = [&](const std::string& text) {
    return *read_file(path) == text && read_file(path + ".spare")->size() >= text.size();
  };
  for (const std::string text : {"", "one", "three", "two", "seventeen"}) {
    ASSERT_TRUE(rewrite_file(path, text, 0600, text.size() > 3).ok());
    EXPECT_TRUE(holds(text)) << text;
  }
  struct stat seen {};
  EXPECT_EQ(::stat(path.c_str(), &seen), 0);
  EXPECT_EQ(seen.st_mode & 0777, 0600U);
  EXPECT_EQ(rewrite_file(std::string(folder) + "/no/x", "z", 0600, true).error().code,
            Errc::not_found);
  ::unlink(path.c_str());
  ::unlink((path + ".spare").c_str());
  EXPECT_EQ(::rmdir(folder), 0) << "something else was left";
}

}  // namespace
}  // namespace virga
