#include "driver/qemu/vm_files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "base/reflect.h"
#include "driver/qemu/kvm_probe.h"
#include "driver/qemu/vm_guest.h"
#include "edge/file.h"
#include "image/digest.h"

namespace virga {
namespace {

class VmFilesTest : public testing::Test {
 protected:
  VmFilesTest() {
    char name[] = "/tmp/virga-files-XXXXXX";
    folder = ::mkdtemp(name);
    EXPECT_TRUE(make_folders(folder + "/shared/images").ok());
    launch.vm = VmId("acme/web");
    launch.epoch = {1, 4};
    launch.directory = "vms/acme/web";
  }
  ~VmFilesTest() override { std::filesystem::remove_all(folder); }

  Result<OpenFiles> open(bool create = true) {
    return open_files({launch, folder + "/shared", "/usr/bin/qemu-img", create, {}, &checks});
  }
  std::string image_info(const std::string& path) {
    ProcessOptions options;
    options.arguments = {"/usr/bin/qemu-img", "info", folder + "/shared/" + path};
    return run_process(options, seconds(20))->out;
  }

  /// What the driver does with what open_files gives back unchecked.
  Result<void> check(const OpenFiles& files) {
    std::vector<int> numbers;
    for (const Descriptor& file : files.unchecked) numbers.push_back(file.get());
    return checks.check(numbers, *launch.image);
  }
  void write(const std::string& path, const std::string& text) {
    ASSERT_TRUE(write_file_atomically(folder + "/shared/" + path, text).ok());
  }
  static LaunchImage image_of(const std::string& text) {
    Digest digest;
    digest.add(text);
    return {Bytes{static_cast<std::int64_t>(text.size())}, digest.hex()};
  }

  std::string folder;
  VmLaunch launch;
  ImageChecks checks;
};

TEST_F(VmFilesTest, F_B5_AKernelIsBootedOnceItIsKnownToBeTheOneThatWasRegistered) {
  launch.kernel = "images/kernel";
  launch.initrd = "images/initrd";
  write("images/kernel", "the kernel, ");
  write("images/initrd", "its disk");
  launch.image = image_of("the kernel, its disk");
  auto files = open();
  ASSERT_TRUE(files.ok()) << files.error().text();
  ASSERT_EQ(files->unchecked.size(), 2U);
  EXPECT_FALSE(files->kernel.valid());
  EXPECT_FALSE(std::filesystem::exists(folder + "/shared/vms")) << "nothing was made";
  ASSERT_TRUE(check(*files).ok());
  files = open();
  EXPECT_TRUE(files->unchecked.empty());
  EXPECT_TRUE(files->kernel.valid());
  write("images/kernel", "another one,");
  files = open();
  ASSERT_EQ(files->unchecked.size(), 2U) << "it is another file";
  EXPECT_EQ(check(*files).error().code, Errc::invalid);
  EXPECT_NE(check(*files).error().text().find(launch.image->sha256), std::string::npos);
  EXPECT_TRUE(open(false)->unchecked.empty()) << "what comes by a move has booted long ago";
  write("images/kernel", "longer than the other");
  files = open();
  const auto longer = check(*files);
  EXPECT_EQ(longer.error().text(),
            "the image's files have 29 bytes; 20 were registered");
  checks.cancel();
  write("images/kernel", "the kernel, ");
  EXPECT_EQ(check(*open()).error().code, Errc::cancelled);
  launch.image.reset();
  EXPECT_TRUE(open()->kernel.valid()) << "registered before checks were asked for";
}

TEST_F(VmFilesTest, F_B5_AnImageIsCheckedWhenADiskIsMadeFromItAndNotAtARecovery) {
  const std::string disk(1 << 20, 'd');
  write("images/base.raw", disk);
  launch.disks = {{"root", "vms/acme/web/root.qcow2", "images/base.raw", Mib{0}},
                  {"data", "vms/acme/web/data.raw", "", Mib{3}}};
  launch.image = image_of(disk);
  auto files = open();
  ASSERT_TRUE(files.ok()) << files.error().text();
  ASSERT_EQ(files->unchecked.size(), 1U);
  EXPECT_TRUE(files->disks.empty());
  ASSERT_TRUE(check(*files).ok());
  ASSERT_EQ(open()->disks.size(), 2U);
  launch.image->sha256 = std::string(64, '0');
  EXPECT_TRUE(open()->unchecked.empty()) << "its disk stands on what was checked";
  std::filesystem::remove(folder + "/shared/images/base.raw");
  EXPECT_EQ(open().error().code, Errc::not_found);
}

TEST_F(VmFilesTest, F_B5_TheSeedIsMadeAtEachStartAndGoesWithTheVm) {
  launch.identity.uuid = "6a7b";
  launch.seed = LaunchSeed{"vms/acme/web/seed.iso", "#cloud-config\nfirst: 1\n"};
  const auto moved = open(false);
  ASSERT_TRUE(moved.ok()) << moved.error().text();
  EXPECT_FALSE(moved->seed.valid()) << "a copy that comes by a move makes none";
  const std::string path = folder + "/shared/" + launch.seed->path;
  for (const char* text : {"first: 1", "second: 2"}) {
    launch.seed->user_data = text;
    const auto files = open();
    ASSERT_TRUE(files.ok()) << files.error().text();
    EXPECT_TRUE(files->seed.valid());
    EXPECT_NE(read_file(path)->find(text), std::string::npos);
  }
  struct stat seen {};
  ASSERT_EQ(::stat(path.c_str(), &seen), 0);
  EXPECT_EQ(seen.st_mode & 0777U, 0600U);
  EXPECT_TRUE(open(false).ok());
  EXPECT_TRUE(erase_files(folder + "/shared", launch).ok());
  EXPECT_FALSE(std::filesystem::exists(folder + "/shared/vms/acme/web"));
  launch.seed->path = "../seed.iso";
  EXPECT_EQ(open().error().code, Errc::invalid);
}

TEST_F(VmFilesTest, F_B4_MissingDisksAreMadeAndTheConfigurationIsWrittenBesideThem) {
  launch.disks = {{"root", "vms/acme/web/root.qcow2", "images/base.qcow2", Mib{0}},
                  {"data", "vms/acme/web/data.raw", "", Mib{3}}};
  ProcessOptions make;
  make.arguments = {"/usr/bin/qemu-img",
                    "create",
                    "-q",
                    "-f",
                    "qcow2",
                    folder + "/shared/images/base.qcow2",
                    "5M"};
  ASSERT_EQ(run_process(make, seconds(20))->exit.code, 0);
  const auto files = open();
  ASSERT_TRUE(files.ok()) << files.error().text();
  ASSERT_EQ(files->disks.size(), 2U);
  ASSERT_EQ(files->disks[0].size(), 2U);
  EXPECT_EQ(files->disks[0][0].format, "qcow2");
  EXPECT_EQ(files->disks[1][0].format, "raw");
  EXPECT_NE(image_info("vms/acme/web/root.qcow2").find("backing file: ../../../images/base.qcow2"),
            std::string::npos);
  EXPECT_NE(image_info("vms/acme/web/root.qcow2").find("virtual size: 5 MiB"), std::string::npos);
  EXPECT_EQ(std::filesystem::file_size(folder + "/shared/vms/acme/web/data.raw"), 3U << 20);
  const auto written =
      from_json_text<VmLaunch>(*read_file(folder + "/shared/vms/acme/web/vm.json"));
  ASSERT_TRUE(written.ok());
  EXPECT_EQ(written->epoch, launch.epoch);
}

TEST_F(VmFilesTest, F_B4_DisksThatAreThereAreNotTouched) {
  launch.disks = {{"root", "vms/acme/web/root.raw", "", Mib{1}}};
  ASSERT_TRUE(open().ok());
  const std::string path = folder + "/shared/vms/acme/web/root.raw";
  ASSERT_TRUE(write_file_atomically(path, "precious").ok());
  ASSERT_TRUE(open().ok());
  EXPECT_EQ(*read_file(path), "precious");
}

TEST_F(VmFilesTest, F_B4_StorageThatKnowsANewerEpochFences) {
  ASSERT_TRUE(open().ok());
  launch.epoch = {1, 3};
  EXPECT_EQ(open().error().code, Errc::fenced);
  launch.epoch = {2, 1};
  EXPECT_TRUE(open().ok());
}

TEST_F(VmFilesTest, F_F25_PathsThatClimbAreRefused) {
  ASSERT_TRUE(write_file_atomically(folder + "/secret", "x").ok());
  ASSERT_EQ(::symlink("../secret", (folder + "/shared/link.raw").c_str()), 0);
  for (const std::string path :
       {"../secret", "vms/../../secret", "/etc/passwd", "link.raw", "a//b", "./a"}) {
    launch.disks = {{"root", path, "", Mib{1}}};
    const auto opened = open();
    ASSERT_FALSE(opened.ok()) << path;
    EXPECT_EQ(opened.error().code, Errc::invalid) << opened.error().text();
    launch.disks.clear();
    launch.kernel = path;
    EXPECT_FALSE(open().ok()) << path;
    launch.kernel.clear();
  }
  EXPECT_EQ(*read_file(folder + "/secret"), "x");
}

TEST_F(VmFilesTest, F_F24_NamesWithOddCharactersAreRefused) {
  for (const std::string id :
       {"web", "acme/../x", "acme/we b", "/web", "acme/", "acme/a/b", "ACME/web"}) {
    EXPECT_EQ(vm_folder("/run/x", VmId(id)).ok(), false) << id;
  }
  EXPECT_EQ(vm_folder("/run/x", VmId("acme/web"))->path, "/run/x/acme/web");
}

TEST_F(VmFilesTest, F_F13_FullDiskIsExhausted) {
  ProcessOptions mount;
  mount.arguments = {"/bin/mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder + "/shared"};
  ASSERT_EQ(run_process(mount, seconds(20))->exit.code, 0);
  ASSERT_TRUE(make_folders(folder + "/shared/vms/acme/web").ok());
  ASSERT_EQ(write_file_atomically(folder + "/shared/fill", std::string(80'000, 'x')).error().code,
            Errc::exhausted);
  launch.disks = {{"root", "vms/acme/web/root.qcow2", "", Mib{64}}};
  const auto opened = open();
  EXPECT_FALSE(opened.ok());
  EXPECT_EQ(opened.ok() ? Errc::internal : opened.error().code, Errc::exhausted);
  EXPECT_FALSE(std::filesystem::exists(folder + "/shared/vms/acme/web/root.qcow2"));
  ProcessOptions umount;
  umount.arguments = {"/bin/umount", folder + "/shared"};
  EXPECT_EQ(run_process(umount, seconds(20))->exit.code, 0);
}

TEST_F(VmFilesTest, IncomingNeedsWhatIsThere) {
  launch.disks = {{"root", "vms/acme/web/root.raw", "", Mib{1}}};
  EXPECT_EQ(open(false).error().code, Errc::not_found);
}

TEST_F(VmFilesTest, F_B4_RecordsAreReadBackAndDamageIsReported) {
  const VmFolder vm = *vm_folder(folder, launch.vm);
  EXPECT_EQ(read_epoch_record(vm)->epoch, Epoch{});
  ASSERT_TRUE(write_epoch_record(vm, {{2, 9}, true}).ok());
  EXPECT_EQ(read_epoch_record(vm)->epoch, (Epoch{2, 9}));
  EXPECT_TRUE(read_epoch_record(vm)->used);
  ASSERT_TRUE(write_file_atomically(vm.epoch(), "{\"epoch\":").ok());
  EXPECT_FALSE(read_epoch_record(vm).ok());
  ASSERT_TRUE(write_file_atomically(vm.epoch(), "").ok());
  EXPECT_EQ(read_epoch_record(vm)->epoch, Epoch{}) << "what a crash of the machine leaves";
}

TEST_F(VmFilesTest, F_B4_ConsoleIsKeptAndBounded) {
  const std::string path = folder + "/console.log";
  std::string text(1 << 20, 'a');
  text += "the end";
  ASSERT_TRUE(write_file_atomically(path, text).ok());
  trim_console(path);
  struct stat seen {};
  ASSERT_EQ(::stat(path.c_str(), &seen), 0);
  EXPECT_LE(seen.st_blocks * 512, 300 << 10);
  EXPECT_EQ(*console_tail(path, 7), "the end");
  EXPECT_EQ(console_tail(path, 10 << 20)->size(), 256U << 10);
  EXPECT_EQ(console_tail(folder + "/no", 7).error().code, Errc::not_found);
}

TEST_F(VmFilesTest, F_B4_KvmThatCannotRunALoopIsNotUsable) {
  KvmProbeOptions options;
  options.device = folder + "/no-kvm";
  const KvmVerdict verdict = probe_kvm(options);
  EXPECT_FALSE(verdict.usable);
  EXPECT_NE(verdict.reason.find("could not open the device: No such file"), std::string::npos)
      << verdict.reason;
}

TEST_F(VmFilesTest, F_B4_TheLoopsSpeedDecidesWhetherKvmIsUsable) {
  KvmProbeOptions options;
  options.deadline = seconds(20);
  options.nanoseconds_per_instruction_max = 1e9;
  const KvmVerdict any = probe_kvm(options);
  options.nanoseconds_per_instruction_max = 0;
  const KvmVerdict none = probe_kvm(options);
  EXPECT_FALSE(none.usable);
  if (::access("/dev/kvm", R_OK | W_OK) != 0) {
    EXPECT_FALSE(any.usable);
    return;
  }
  EXPECT_TRUE(any.usable) << any.reason;
  EXPECT_NE(none.reason.find("ns an instruction, 0 ns are allowed"), std::string::npos);
  options.deadline = Duration{0};
  EXPECT_NE(probe_kvm(options).reason.find("did not end within 0 ms"), std::string::npos);
}

TEST_F(VmFilesTest, F_B4_AGuestWithoutPrivilegesGetsTheGroupThatMayOpenKvm) {
  const std::string device = folder + "/kvm";
  ASSERT_TRUE(write_file_atomically(device, "", 0660).ok());
  ASSERT_EQ(::chown(device.c_str(), 0, 107), 0);
  EXPECT_EQ(kvm_groups(device), std::vector<gid_t>{107});
  ASSERT_EQ(::chmod(device.c_str(), 0600), 0);
  EXPECT_TRUE(kvm_groups(device).empty());
  EXPECT_TRUE(kvm_groups(folder + "/no-kvm").empty());
}

TEST_F(VmFilesTest, F_B4_FiftyNanosecondsAnInstructionAreTooMany) {
  const KvmProbeOptions usual;
  const double allowed = usual.nanoseconds_per_instruction_max;
  EXPECT_EQ(to_ms(usual.deadline), 50);
  EXPECT_TRUE(judge_kvm_loop(0.3, allowed).usable);
  EXPECT_TRUE(judge_kvm_loop(49.9, allowed).usable);
  EXPECT_FALSE(judge_kvm_loop(50, allowed).usable);
  const KvmVerdict slow = judge_kvm_loop(51, allowed);
  EXPECT_FALSE(slow.usable);
  EXPECT_EQ(slow.reason,
            "KVM is not usable: a loop took 51.0 ns an instruction, 50 ns are allowed");
}

/// Programs in the place of QEMU: what the canary says and how it ends is what counts.
TEST_F(VmFilesTest, F_B4_AFastLoopIsNotEnoughWhereTheCanaryDoesNotComeUp) {
  const auto verdict_with = [this](const std::string& script, Duration deadline) {
    CanaryGuest canary;
    canary.qemu = folder + "/qemu";
    canary.deadline = deadline;
    EXPECT_TRUE(write_file_atomically(canary.qemu, "#!/bin/sh\n" + script, 0755).ok());
    ::unlink((folder + "/kvm.json").c_str());
    return kvm_verdict(folder + "/kvm.json", canary, [] { return judge_kvm_loop(1, 50); });
  };
  const auto refused = [&](const std::string& script, Duration deadline, const std::string& why) {
    const KvmVerdict verdict = verdict_with(script, deadline);
    EXPECT_FALSE(verdict.usable) << script;
    EXPECT_NE(verdict.reason.find(why), std::string::npos) << verdict.reason;
    EXPECT_EQ(from_json_text<KvmVerdict>(*read_file(folder + "/kvm.json"))->reason, verdict.reason);
  };
  refused("printf K; exit 0", seconds(20), "exit code 0");
  refused("exit 33", seconds(20), "0 bytes said");
  refused("echo no such accelerator >&2; exit 1", seconds(20), "no such accelerator");
  refused("exec sleep 60", milliseconds(300), "canary guest");
  const KvmVerdict up = verdict_with("case \"$*\" in *\"-accel kvm\"*) printf K; exit 33;; esac",
                                     seconds(20));
  EXPECT_TRUE(up.usable) << up.reason;
  EXPECT_NE(up.reason.find("a canary guest came up"), std::string::npos);
}

TEST_F(VmFilesTest, F_B4_VerdictIsKeptForOneBoot) {
  const std::string path = folder + "/kvm.json";
  CanaryGuest no_guest;
  no_guest.qemu = "/no/qemu";
  ASSERT_TRUE(
      write_file_atomically(path, to_json_text(KvmVerdict{read_boot_id(), true, "cached"})).ok());
  EXPECT_EQ(kvm_verdict(path, no_guest).reason, "cached");
  ASSERT_TRUE(
      write_file_atomically(path, to_json_text(KvmVerdict{"another boot", true, "cached"})).ok());
  EXPECT_NE(kvm_verdict(path, no_guest).reason, "cached");
  EXPECT_EQ(from_json_text<KvmVerdict>(*read_file(path))->boot_id, read_boot_id());
}

}  // namespace
}  // namespace virga
