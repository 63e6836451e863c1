#include "driver/qemu/qemu_hypervisor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/reflect.h"
#include "driver/qemu/boot_sectors.h"
#include "driver/qemu/kvm_probe.h"
#include "driver/qemu/test_lab.h"
#include "driver/qemu/vm_files.h"
#include "edge/file.h"

namespace virga {
namespace {

/// What only QEMU can show; the promises of Hypervisor are in the contract's suite.
class QemuHypervisorTest : public testing::Test {
 protected:
  Result<void> start(const VmLaunch& launch) {
    return lab.wait<void>([&](Callback<void> done) { lab.host(0).start(launch, std::move(done)); });
  }
  VmLaunch boot(const std::string& sector) {
    VmLaunch launch = lab.launch("web", 1);
    lab.write_root(launch, sector);
    const auto started = start(launch);
    EXPECT_TRUE(started.ok()) << (started.ok() ? "" : started.error().text());
    return launch;
  }
  bool told(const std::function<bool(const ObservedVm&)>& right) {
    return lab.run_until(
        [&] {
          const auto seen = lab.told(0, VmId("acme/web"));
          return seen && right(*seen);
        },
        seconds(40));
  }
  std::string process_file(const char* name, const VmId& vm = VmId("acme/web"), int host = 0) {
    return *read_file("/proc/" + std::to_string(lab.pid(host, vm)) + "/" + name);
  }
  /// By the kernel; 0 where the real, the effective, the saved and that of files are not one.
  std::uint32_t user_of(const VmId& vm, int host = 0) {
    const std::string status = process_file("status", vm, host);
    unsigned ids[4] = {};
    const std::string line = status.substr(std::min(status.find("Uid:\t"), status.size()));
    std::sscanf(line.c_str(), "Uid:\t%u\t%u\t%u\t%u", &ids[0], &ids[1], &ids[2], &ids[3]);
    return std::set<unsigned>(ids, ids + 4).size() == 1 ? ids[0] : 0;
  }

  QemuLab lab;
};

TEST_F(QemuHypervisorTest, F_B4_PanicPausesTheGuestAndIsReported) {
  boot(boot_sectors::panic());
  EXPECT_TRUE(told([](const ObservedVm& seen) {
    return seen.health == VmHealth::failing && seen.health_reason == kGuestPanicked &&
           seen.power == VmPower::paused;
  }));
  lab.restart_agent(0);
  EXPECT_EQ(lab.host(0).observe().at(0).health_reason, kGuestPanicked);
}

TEST_F(QemuHypervisorTest, F_B4_TheLimitsOfTheKernelAreThoseOfTheLaunchAndChangeWithIt) {
  VmLaunch web = boot(boot_sectors::idle());
  const auto limit = [&](const char* file) { return lab.group_file(0, web.vm, file); };
  const bool old = limit("pids.max") == "256" && !limit("memory.limit_in_bytes").empty();
  const char* memory = old ? "memory.limit_in_bytes" : "memory.max";
  EXPECT_EQ(limit("pids.max"), "256");
  EXPECT_EQ(limit(memory), std::to_string((web.memory_mib.value + 256) << 20));
  web.processes_max = 512;
  web.cpu_weight = 200;
  ASSERT_TRUE(lab.host(0).change_limits(web).ok());
  EXPECT_EQ(limit("pids.max"), "512");
  EXPECT_EQ(limit(old ? "cpu.shares" : "cpu.weight"), old ? "2048" : "200");
  EXPECT_EQ(limit(memory), std::to_string((web.memory_mib.value + 256) << 20));
}

TEST_F(QemuHypervisorTest, F_B4_WatchdogPausesTheGuestAndIsReported) {
  boot(boot_sectors::watchdog());
  EXPECT_TRUE(told([](const ObservedVm& seen) {
    return seen.health_reason == kWatchdogExpired && seen.power == VmPower::paused;
  }));
}

TEST_F(QemuHypervisorTest, F_B4_PowerOffFromInsideIsReported) {
  const VmLaunch web = boot(boot_sectors::power_off());
  EXPECT_TRUE(told([](const ObservedVm& seen) { return seen.power == VmPower::stopped; }));
  EXPECT_EQ(lab.why(0), "guest powered off");
  EXPECT_TRUE(lab.run_until([&] { return lab.leftovers(0, web.vm).empty(); }, seconds(5)));
}

TEST_F(QemuHypervisorTest, F_B4_ResetFromInsideIsReported) {
  boot(boot_sectors::reset());
  EXPECT_TRUE(lab.run_until([&] { return lab.why(0) == "guest reset: guest-reset"; }, seconds(40)));
  EXPECT_EQ(lab.host(0).observe().at(0).power, VmPower::running);
}

TEST_F(QemuHypervisorTest, F_B4_ConsoleIsKeptOverARestartOfTheAgent) {
  const VmLaunch web = boot(boot_sectors::console());
  const auto said = [&] {
    const auto text = lab.host(0).console_tail(web.vm, 1000);
    return text.ok() && text->find("up\n") != std::string::npos;  // firmware may write after it
  };
  EXPECT_TRUE(lab.run_until(said, seconds(40)));
  lab.restart_agent(0);
  EXPECT_TRUE(said());
}

TEST_F(QemuHypervisorTest, F_B5_TheGuestOfADiskImageReadsItsSeed) {
  VmLaunch launch = lab.launch("web", 1);
  lab.write_root(launch, boot_sectors::second_disk());
  launch.seed = LaunchSeed{launch.directory + "/seed.iso", "#cloud-config\npassword: p4\n"};
  ASSERT_TRUE(start(launch).ok());
  const auto reads = [&](const std::string& text) {
    const auto said = lab.host(0).console_tail(launch.vm, 64 << 10);
    return said.ok() && said->find(text) != std::string::npos;
  };
  EXPECT_TRUE(lab.run_until([&] { return reads("password: p4\n"); }, seconds(40)));
  EXPECT_TRUE(reads("instance-id: \"" + launch.identity.uuid + "\"\nlocal-hostname: \"web\"\n"));
}

TEST_F(QemuHypervisorTest, F_F13_FullDiskUnderAVmPausesItUntilThereIsRoom) {
  ASSERT_TRUE(make_folders(lab.shared()).ok());
  ProcessOptions mount;
  mount.arguments = {"/bin/mount", "-t", "tmpfs", "-o", "size=2m,mode=755", "tmpfs", lab.shared()};
  ASSERT_EQ(run_process(mount, seconds(20))->exit.code, 0);
  VmLaunch launch = lab.launch("web", 1);
  lab.write_root(launch, boot_sectors::fill_disk());
  std::filesystem::resize_file(lab.shared() + "/" + launch.disks[0].path, 16 << 20);
  EXPECT_TRUE(start(launch).ok());
  EXPECT_TRUE(told([](const ObservedVm& seen) {
    return seen.health_reason == "disk root: no space left" && seen.power == VmPower::paused;
  }));
  lab.restart_agent(0);
  EXPECT_TRUE(told([](const ObservedVm& seen) {
    return seen.health_reason == "disk: no space left" && seen.power == VmPower::paused;
  })) << "the agent that adopts it asks for the reason";
  mount.arguments = {"/bin/mount", "-o", "remount,size=32m", lab.shared()};
  ASSERT_EQ(run_process(mount, seconds(20))->exit.code, 0);
  EXPECT_TRUE(told([](const ObservedVm& seen) {
    return seen.health_reason.empty() && seen.power == VmPower::running;
  })) << "with room again it goes on by itself";
  lab.kill_vm(0, launch.vm);
  EXPECT_TRUE(lab.run_until([&] { return lab.host(0).observe().empty(); }, seconds(20)));
  ProcessOptions umount;
  umount.arguments = {"/bin/umount", lab.shared()};
  EXPECT_EQ(run_process(umount, seconds(20))->exit.code, 0);
}

TEST_F(QemuHypervisorTest, F_B4_ProcessHasNoPrivilegesAndIsInItsGroup) {
  const VmLaunch web = boot(boot_sectors::idle());
  const std::string status = process_file("status");
  EXPECT_EQ(user_of(web.vm), GuestUsers().first) << status;
  EXPECT_NE(status.find("CapEff:\t0000000000000000"), std::string::npos);
  EXPECT_NE(status.find("NoNewPrivs:\t1"), std::string::npos);
  EXPECT_NE(status.find("Seccomp:\t2"), std::string::npos);
  EXPECT_NE(process_file("cgroup").find("/virga/acme/web\n"), std::string::npos);
  EXPECT_EQ(lab.guard(0).guarded.count(web.vm.value), 1U);
}

TEST_F(QemuHypervisorTest, F_B4_EachVmIsAUserOfItsOwnAlsoForTheNextAgent) {
  std::vector<VmLaunch> launches = {lab.launch("web", 1), lab.launch("db", 1)};
  int left = 2;  // at once: the second gets its user before the first has a process
  for (const VmLaunch& launch : launches) {
    lab.host(0).start(launch, [&left](Result<void> started) {
      EXPECT_TRUE(started.ok()) << started.error().text();
      --left;
    });
  }
  ASSERT_TRUE(lab.run_until([&] { return left == 0; }, seconds(40)));
  const std::uint32_t before = user_of(launches[0].vm);
  lab.restart_agent(0);
  launches.push_back(lab.launch("mail", 1));
  ASSERT_TRUE(start(launches.back()).ok());
  std::set<std::uint32_t> users;
  for (const VmLaunch& launch : launches) users.insert(user_of(launch.vm));
  EXPECT_EQ(user_of(launches[0].vm), before);
  EXPECT_EQ(users.size(), 3U);
  EXPECT_GE(*users.begin(), GuestUsers().first);
  EXPECT_LT(*users.rbegin(), GuestUsers().first + GuestUsers().count);
}

TEST_F(QemuHypervisorTest, F_B4_F_F2_ADamagedRecordIsNotTakenForAGuestThatNeverRan) {
  const VmLaunch web = lab.launch("web", 1);
  ASSERT_TRUE(start(web).ok());
  const std::string record = vm_folder(lab.run(0), web.vm)->record();
  const std::string whole = *read_file(record);
  ASSERT_TRUE(replace_file(record, whole.substr(0, whole.size() / 2), 0600).ok());
  QemuOptions options;
  options.shared_directory = lab.shared();
  options.run_directory = lab.run(0);
  options.cgroups = false;
  RememberingGuard guard;
  NullFabric fabric(lab.loop());
  struct : HypervisorSink {
    void vm_changed(const ObservedVm&, const std::string&) override {}
  } sink;
  QemuHypervisor next(lab.loop(), options, guard, fabric);
  const auto opened =
      lab.wait<HypervisorInfo>([&](Callback<HypervisorInfo> done) { next.open(sink, done); });
  ASSERT_FALSE(opened.ok()) << "it would be reported as not there, and started elsewhere";
  EXPECT_NE(opened.error().text().find("acme/web"), std::string::npos) << opened.error().text();
  ASSERT_TRUE(replace_file(record, whole, 0600).ok());
  EXPECT_NE(lab.pid(0, web.vm), 0) << "it goes on";
  lab.restart_agent(0);
  EXPECT_TRUE(lab.guard(0).guarded.contains("acme/web"));
}

TEST_F(QemuHypervisorTest, F_B4_AHostWithoutAFreeUserSaysSoUntilOneIsFree) {
  QemuOptions options;
  options.shared_directory = lab.shared();
  options.run_directory = lab.shared() + "-run";
  options.users = {70'000, 2};
  options.cgroups = false;
  RememberingGuard guard;
  NullFabric fabric(lab.loop());
  QemuHypervisor host(lab.loop(), options, guard, fabric);
  std::map<std::string, Error> refused;
  std::vector<VmLaunch> launches;
  for (const char* name : {"one", "two", "three"}) {
    launches.push_back(lab.launch(name, 1));
    launches.back().disks = {{"root", launches.back().directory + "/none.raw", "", Mib{0}}};
  }
  for (const VmLaunch& launch : launches) {
    host.start(launch, [&refused, launch](Result<void> started) {
      ASSERT_FALSE(started.ok());
      refused[launch.vm.value] = started.error();
    });
  }
  ASSERT_TRUE(lab.run_until([&] { return refused.size() == 3; }, seconds(20)));
  EXPECT_EQ(refused["acme/one"].code, Errc::not_found) << refused["acme/one"].text();
  EXPECT_EQ(refused["acme/two"].code, Errc::not_found) << refused["acme/two"].text();
  const Error& third = refused["acme/three"];
  EXPECT_EQ(third.code, Errc::exhausted) << third.text();
  EXPECT_NE(third.text().find("2 users of guests, 70000 to 70001,"), std::string::npos)
      << third.text();
  const auto again =
      lab.wait<void>([&](Callback<void> done) { host.start(launches[2], std::move(done)); });
  EXPECT_EQ(again.error().code, Errc::not_found) << "the others gave theirs back";
}

TEST(GuestUsersTest, F_B4_ARangeIsTakenAsItIsOrRefusedWithWhatIsRight) {
  const std::string whole = "         0          0 4294967295\n";
  const std::string container = "0 100000 65536\n";
  const auto range_of = [](const std::string& text, const std::string& uid_map) {
    const auto users = choose_guest_users(text, uid_map);
    if (!users) return users.error().text();
    return std::to_string(users->first) + "+" + std::to_string(users->count);
  };
  EXPECT_EQ(range_of("", whole), "70000+4096");
  EXPECT_EQ(range_of("", ""), "70000+4096") << "a kernel without user namespaces";
  EXPECT_EQ(range_of("", container), "65534+1") << "all that is there";
  EXPECT_EQ(range_of("", "0 1000 1\n1 100000 99999\n"), "70000+4096");
  EXPECT_EQ(range_of("20000-20001", container), "20000+2");
  EXPECT_EQ(range_of("4294967000-4294967294", whole), "4294967000+295");
  EXPECT_NE(range_of("70000-70009", container).find("\"70000-70009\": the user namespace"),
            std::string::npos);
  for (const char* wrong :
       {"70000", "70000-", "-70000", "70000-70000", "70001-70000", "999-2000", "0-9", "60000-65000",
        "65535-70000", "65100-65200", "70000-4294967295", "70000-99999999999", "70000-70009x",
        " 70000-70009", "70000 - 70009", "x"}) {
    const auto users = choose_guest_users(wrong, whole);
    ASSERT_FALSE(users.ok()) << wrong;
    EXPECT_EQ(users.error().code, Errc::invalid);
    EXPECT_NE(users.error().text().find("\"" + std::string(wrong) + "\": right is FIRST-LAST"),
              std::string::npos)
        << users.error().text();
  }
}

TEST_F(QemuHypervisorTest, F_B4_FiguresOfARunningGuestAreReported) {
  const VmLaunch web = boot(boot_sectors::reset());
  EXPECT_TRUE(lab.run_until(
      [&] {
        const auto seen = lab.host(0).observe();
        return seen.size() == 1 && seen[0].cpu_millicores_used.value > 10 &&
               seen[0].memory_mib_used.value > 1;
      },
      seconds(40)));
  EXPECT_EQ(lab.host(0).observe().at(0).health, VmHealth::no_heartbeat);
  EXPECT_LT(lab.host(0).observe().at(0).heartbeat_age_ms, Duration::zero());
}

TEST_F(QemuHypervisorTest, F_F3_GuestNeverRunsWithoutALeash) {
  lab.guard(0).refuse = true;
  const VmLaunch web = lab.launch("web", 1);
  const auto started = start(web);
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.error().code, Errc::unavailable);
  EXPECT_TRUE(lab.host(0).observe().empty());
  lab.guard(0).refuse = false;
  EXPECT_TRUE(start(web).ok());
}

TEST_F(QemuHypervisorTest, F_F5_StartThatDiedWithItsAgentCanBeRepeated) {
  const VmLaunch web = lab.launch("web", 1);
  lab.host(0).start(web, [](Result<void>) {});
  EXPECT_TRUE(lab.run_until([&] { return lab.pid(0, web.vm) > 0; }, seconds(20)));
  lab.restart_agent(0);
  EXPECT_TRUE(lab.host(0).observe().empty());
  const auto again = start(web);
  EXPECT_TRUE(again.ok()) << (again.ok() ? "" : again.error().text());
  EXPECT_EQ(lab.host(0).observe().at(0).power, VmPower::running);
}

TEST_F(QemuHypervisorTest, F_F19_QemuThatIgnoresQmpIsReportedAndCanBeStopped) {
  const VmLaunch web = boot(boot_sectors::idle());
  lab.hang_vm(0, web.vm);
  EXPECT_TRUE(told([](const ObservedVm& seen) {
    return seen.health == VmHealth::failing &&
           seen.health_reason.find("does not answer") != std::string::npos;
  }));
  std::optional<Result<void>> stopped;
  lab.host(0).stop(web.vm, web.epoch, {false, seconds(3)},
                   [&](Result<void> result) { stopped = result; });
  EXPECT_TRUE(lab.run_until([&] { return stopped.has_value(); }, seconds(20)));
  EXPECT_TRUE(lab.host(0).observe().empty());
}

TEST_F(QemuHypervisorTest, F_B4_LateStartDoesNotBringAStoppedVmBack) {
  const VmLaunch web = boot(boot_sectors::idle());
  std::optional<Result<void>> stopped;
  lab.host(0).stop(web.vm, web.epoch, {true, seconds(3)},
                   [&](Result<void> result) { stopped = result; });
  EXPECT_TRUE(lab.run_until([&] { return stopped.has_value(); }, seconds(20)));
  EXPECT_EQ(start(web).error().code, Errc::conflict);
  lab.restart_agent(0);
  EXPECT_EQ(start(web).error().code, Errc::conflict);
}

TEST_F(QemuHypervisorTest, F_B9_WhatTheGuestWritesWhileItIsSentArrives) {
  const VmLaunch web = boot(boot_sectors::memory());
  const VmLaunch moved = lab.launch("web", 2);
  const auto says = [&](int host, char letter) {
    const auto said = lab.host(host).console_tail(web.vm, 4096);
    return said.ok() && ("\n" + *said).find({'\n', letter, '\n'}) != std::string::npos;
  };
  ASSERT_TRUE(lab.run_until([&] { return says(0, 'w'); }, seconds(40)));
  const VmLaunch other = lab.launch("other", 1);  // has there the user that it has here
  ASSERT_TRUE(lab.wait<void>([&](Callback<void> done) { lab.host(1).start(other, done); }).ok());
  const auto to = lab.wait<MigrationEndpoint>(
      [&](Callback<MigrationEndpoint> done) { lab.host(1).prepare_incoming(moved, done); });
  ASSERT_TRUE(to.ok()) << to.error().text();
  EXPECT_NE(user_of(web.vm, 0), user_of(web.vm, 1));
  MigrationLimits
      slow;  // the guest writes more than this link carries: several passes until it only reads
  slow.bytes_per_second_max = 2 << 20;
  const auto sent = lab.wait<MigrationProgress>([&](Callback<MigrationProgress> done) {
    lab.host(0).send(web.vm, web.epoch, *to, slow, done);
  });
  ASSERT_TRUE(sent.ok()) << sent.error().text();
  EXPECT_GT(sent->passes, 2);
  ASSERT_TRUE(lab.wait<MigrationProgress>([&](Callback<MigrationProgress> done) {
                   lab.host(0).switch_over(web.vm, web.epoch, done);
                 })
                  .ok());
  ASSERT_TRUE(
      lab.wait<void>([&](Callback<void> done) { lab.host(1).resume(moved.vm, moved.epoch, done); })
          .ok());
  EXPECT_TRUE(lab.run_until([&] { return says(1, 'c') || says(1, 'l'); }, seconds(40)));
  EXPECT_FALSE(says(1, 'l')) << "a page holds what it held before it was written last";
}

TEST_F(QemuHypervisorTest, R_F12_AGuestThatNeverConvergesStaysWhereItIsAndGoesOn) {
  const VmLaunch web = boot(boot_sectors::memory());
  const VmLaunch moved = lab.launch("web", 2);
  const auto says = [&](char letter) {
    const auto said = lab.host(0).console_tail(web.vm, 4096);
    return said.ok() && ("\n" + *said).find({'\n', letter, '\n'}) != std::string::npos;
  };
  ASSERT_TRUE(lab.run_until([&] { return says('w'); }, seconds(40)));
  const auto to = lab.wait<MigrationEndpoint>(
      [&](Callback<MigrationEndpoint> done) { lab.host(1).prepare_incoming(moved, done); });
  ASSERT_TRUE(to.ok()) << to.error().text();
  MigrationLimits never;  // it writes far more than this link carries
  never.bytes_per_second_max = 256 << 10;
  never.total_ms_max = seconds(3);
  const auto sent = lab.wait<MigrationProgress>([&](Callback<MigrationProgress> done) {
    lab.host(0).send(web.vm, web.epoch, *to, never, done);
  });
  ASSERT_FALSE(sent.ok());
  EXPECT_EQ(sent.error().code, Errc::timeout) << sent.error().text();
  EXPECT_NE(sent.error().text().find("3000 ms"), std::string::npos) << sent.error().text();
  const auto runs = [&](int host) {
    const auto seen = lab.host(host).observe();
    return std::any_of(seen.begin(), seen.end(), [](const ObservedVm& vm) {
      return vm.power == VmPower::running && !vm.incoming;
    });
  };
  EXPECT_TRUE(lab.run_until([&] { return runs(0); }, seconds(10)));
  EXPECT_FALSE(runs(1));
  EXPECT_TRUE(lab.run_until([&] { return says('c') || says('l'); }, seconds(60)));
  EXPECT_FALSE(says('l')) << "a page holds what it held before it was written last";
}

TEST_F(QemuHypervisorTest, R_B4_R_F12_AGuestThatWritesFasterThanItIsSentIsSlowedUntilItIsOver) {
  const VmLaunch web = boot(boot_sectors::dirty());
  // It writes 512 KiB anew in each pass, two or three times what these links carry in that time,
  // and a tenth of a second's worth may be left: neither a slow machine nor one that is busy
  // elsewhere makes it converge.
  MigrationLimits limits;
  for (const bool slowed : {false, true}) {
    limits.bytes_per_second_max = slowed ? 1 << 20 : 512 << 10;
    limits.throttle_percent_max = slowed ? 95 : 0;
    limits.total_ms_max = slowed ? seconds(60) : seconds(4);
    const VmLaunch moved = lab.launch("web", slowed ? 3 : 2);
    const auto to = lab.wait<MigrationEndpoint>(
        [&](Callback<MigrationEndpoint> done) { lab.host(1).prepare_incoming(moved, done); });
    ASSERT_TRUE(to.ok()) << to.error().text();
    const auto sent = lab.wait<MigrationProgress>([&](Callback<MigrationProgress> done) {
      lab.host(0).send(web.vm, web.epoch, *to, limits, done);
    });
    EXPECT_EQ(sent.ok(), slowed);
    if (sent) {
      EXPECT_GE(sent->throttle_percent, 20);
      EXPECT_LE(sent->throttle_percent, 95);
    } else {
      EXPECT_EQ(sent.error().code, Errc::timeout) << sent.error().text();
    }
    ASSERT_TRUE(lab.wait<void>([&](Callback<void> done) {
                     lab.host(1).stop(moved.vm, moved.epoch, {true, seconds(5)}, done);
                   })
                    .ok());
    ASSERT_TRUE(lab.wait<void>([&](Callback<void> done) {
                     lab.host(0).cancel_send(web.vm, web.epoch, done);
                   })
                    .ok());
  }
}

TEST_F(QemuHypervisorTest, F_B4_HostSaysWhatItCanDo) {
  const HypervisorInfo& info = lab.info(0);
  EXPECT_TRUE(info.qemu_version.find('.') != std::string::npos) << info.qemu_version;
  EXPECT_NE(std::find(info.machine_types.begin(), info.machine_types.end(), "pc-q35-7.2"),
            info.machine_types.end());
  const KvmVerdict verdict = probe_kvm({});
  EXPECT_EQ(info.accelerator == Accelerator::kvm, verdict.usable)
      << info.accelerator_reason << "; now: " << verdict.reason;
  EXPECT_NE(info.accelerator_reason.find("KVM is"), std::string::npos) << info.accelerator_reason;
}

TEST_F(QemuHypervisorTest, F_B4_CanaryGuestComesUp) {
  CanaryGuest canary;
  canary.scratch = lab.run(0);
  canary.as = {GuestUsers().first, 65534, {}};  // as guests are started
  canary.deadline = seconds(40);
  const auto up = run_canary_guest(canary);
  EXPECT_TRUE(up.ok()) << (up.ok() ? "" : up.error().text());
  canary.qemu = "/bin/false";
  EXPECT_FALSE(run_canary_guest(canary).ok());
}

}  // namespace
}  // namespace virga
