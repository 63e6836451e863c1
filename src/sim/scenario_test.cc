#include "sim/scenario.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/log.h"
#include "sim/swarm.h"

namespace virga::sim {
namespace {

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

void drop_line(LogLevel, std::string_view, std::string_view) {}

class Scenarios : public testing::Test {
 protected:
  void SetUp() override { set_log_sink(drop_line); }
  void TearDown() override { set_log_sink(nullptr); }

  /// Plays all scenarios whose file name begins with `prefix`; each as written, none with a broken
  /// rule.
  static int play_all(const std::string& prefix) {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(VIRGA_SCENARIOS)) {
      const std::string name = entry.path().filename().string();
      if (name.ends_with(".scn") && name.starts_with(prefix)) files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    for (const auto& file : files) {
      const auto scenario = parse_scenario(read_text(file));
      EXPECT_TRUE(scenario.ok()) << file;
      if (!scenario.ok()) continue;
      const Rehearsal rehearsal = play(*scenario);
      EXPECT_EQ(rehearsal.journal, scenario->expected) << file;
      for (const Violation& broken : rehearsal.violations) {
        ADD_FAILURE() << file << ": " << broken.rule << ": " << broken.text;
      }
    }
    return static_cast<int>(files.size());
  }
};

TEST_F(Scenarios, F_B12_a_broken_rule_is_reported_unless_announced_and_an_announced_one_breaks) {
  const std::string lie =
      "hosts 3\nvms 3 tenant acme\noption image-locks off\nat 20s fail host-2 link bmc lies\n";
  const auto rules = [](const std::string& text) {
    std::set<std::string> found;
    const Rehearsal rehearsal = play(*parse_scenario(text));
    for (const Violation& broken : rehearsal.violations) found.insert(broken.rule);
    return found;
  };
  EXPECT_EQ(rules(lie + "run 40s\n"), std::set<std::string>{"two_places"});
  EXPECT_EQ(rules(lie + "breaks two_places\nrun 40s\n"), std::set<std::string>{});
  EXPECT_EQ(rules("hosts 3\nbreaks two_places\nrun 10s\n"), std::set<std::string>{"two_places"});
}

TEST_F(Scenarios, F_B12_the_other_scenarios_play_as_written) {
  int played = 0;
  for (const char first : std::string("789")) played += play_all(std::string(1, first));
  EXPECT_GE(played, 26);
}

TEST_F(Scenarios, A3_05_A3_10_R_B5_R_B6_services_play_as_written) { EXPECT_EQ(play_all("sr-"), 8); }

TEST_F(Scenarios, R_B2_storage_plays_as_written) { EXPECT_EQ(play_all("st-"), 14); }

TEST_F(Scenarios, A1_F1_A1_F2_A1_F3_A1_F4_A1_F5_walk_throughs_play_as_written) {
  EXPECT_EQ(play_all("A1-F"), 5);
}

TEST_F(Scenarios, F_B12_the_same_seed_gives_the_same_hash_and_another_seed_another) {
  SwarmOptions options;
  options.hosts = 4;
  options.vms = 6;
  options.length = seconds(120);
  const SwarmOutcome first = run_swarm(options);
  EXPECT_EQ(first.hash, run_swarm(options).hash);
  ++options.seed;
  EXPECT_NE(first.hash, run_swarm(options).hash);
}

TEST_F(Scenarios, F_B12_messages_as_text_and_as_structs_give_the_same_hash) {
  for (const bool faults : {false, true}) {
    SwarmOptions options;
    options.hosts = 6;
    options.vms = 12;
    options.length = seconds(120);
    options.faults = faults;
    options.codec = true;
    const std::uint64_t text = run_swarm(options).hash;
    options.codec = false;
    EXPECT_EQ(text, run_swarm(options).hash) << "faults " << faults;
  }
}

TEST_F(Scenarios, F_B12_wrong_scenarios_are_refused_with_line_and_remedy) {
  const auto refused = [](const std::string& text, const std::string& part) {
    const auto parsed = parse_scenario(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_NE(parsed.error().text().find(part), std::string::npos) << parsed.error().text();
  };
  refused("", "hosts N");
  refused("hosts 0\nrun 1s\n", "hosts N");
  refused("hosts 3\nat 1s fail host-4 power\n", "line 2");
  refused("hosts 3\nat 1s fail host-1 fire\n", "one of power");
  refused("hosts 3\nat 1s fail host-1 power bmc polite\n", "answers, silent");
  refused("hosts 3\nvm ../etc\n", "name");
  refused("hosts 3\nrun 99999h\n", "24h");
  refused("hosts 3\npolicy lease_ms many\n", "number");
  refused("hosts 3\nregion eu\n", "region NAME HOST");
  refused("hosts 3\nregion eu host-4\n", "host-4");
  refused("hosts 3\ntenant acme\n", "tenant NAME REGION");
  refused("hosts 3\ntenant acme e/u\n", "e/u");
  refused("hosts 3\npolicy no_such_knob 3\n", "no_such_knob");
  refused(std::string(300 << 10, ' '), "at most");
}

/// The checker must see what it promises to see: each rule is broken on purpose in a bare world.
class BareWorld : public testing::Test {
 protected:
  BareWorld() {
    world.add_host(HostId("host-1"), {{1000}, {1000}});
    world.add_host(HostId("host-2"), {{1000}, {1000}});
  }

  HostTruth& host(int number) { return world.hosts()[static_cast<std::size_t>(number - 1)]; }

  void run(int number, std::uint64_t counter, std::int64_t memory = 100) {
    VmLaunch launch;
    launch.vm = VmId("acme/web");
    launch.epoch = {1, counter};
    launch.memory_mib = {memory};
    run(number, launch);
  }

  void run(int number, const VmLaunch& launch) {
    Copy& copy = world.spawn(host(number), launch, CopyState::starting);
    if (shares) world.stored()[launch.vm].epoch = launch.epoch;
    ASSERT_TRUE(world.set_state(host(number), copy, CopyState::running).ok());
  }

  /// A VM whose disk is volume acme/data of host-1, which lets it in.
  VmLaunch on_volume(const std::string& vm, std::uint64_t counter) {
    VmLaunch launch;
    launch.vm = VmId(vm);
    launch.epoch = {1, counter};
    LaunchDisk disk;
    disk.volume = "acme/data";
    disk.endpoint = VolumeEndpoint();
    disk.endpoint->device = DeviceId("host-1");
    disk.endpoint->export_name = vm;
    auto& attachments = host(1).devices["/device"].volumes[VolumeId("acme/data")].attachments;
    attachments[launch.epoch] = *disk.endpoint;
    launch.disks = {disk};
    return launch;
  }

  bool broken(const std::string& rule) const {
    for (const Violation& violation : checker.violations()) {
      if (violation.rule == rule) return true;
    }
    return false;
  }

  SimLoop loop;
  World world{loop, WorldOptions{.image_locks = false}};
  std::optional<std::vector<VmId>> beside;  ///< as if a service had ordered the end of a VM
  bool shares = true;  ///< copies write their configuration beside the disk
  bool known = true;
  std::optional<std::set<std::string>> regions;
  Epoch stored{1, 100};
  LostCopies lost = {{HostId("host-1"), FenceProof::agent_confirmed_stop},
                     {HostId("host-2"), FenceProof::agent_confirmed_stop}};
  Checker checker{
      world, Records{[this](const VmId&) { return stored; }, [](const VmId&) { return Epoch(); },
                     [this](const VmId&, const Epoch&) { return lost; }, 100,
                     [this](const VmId&) { return beside; }, [this](const VmId&) { return known; },
                     [this](const VmId&) { return regions; }}};
};

TEST_F(BareWorld, A3_10_checker_sees_a_copy_that_is_removed_before_another_serves) {
  run(1, 1);
  loop.run_for(seconds(20));
  beside = {{VmId("acme/other")}};
  world.end_copy(host(1), VmId("acme/web"), "stopped");
  EXPECT_TRUE(broken("removed_early"));
}

TEST_F(BareWorld, F_B12_checker_sees_a_vm_in_two_places) {
  run(1, 1);
  EXPECT_TRUE(checker.violations().empty());
  run(2, 2);
  EXPECT_TRUE(broken("two_places"));
}

TEST_F(BareWorld, F_B12_checker_sees_the_second_place_when_a_frozen_host_thaws) {
  run(1, 1);
  world.set_frozen(host(1), true);
  run(2, 2);
  EXPECT_FALSE(broken("two_places"));
  world.set_frozen(host(1), false);
  EXPECT_TRUE(broken("two_places"));
  EXPECT_TRUE(broken("old_epoch"));
}

TEST_F(BareWorld, F_B12_checker_sees_an_epoch_that_was_not_stored) {
  stored = {1, 4};
  run(1, 5);
  EXPECT_TRUE(broken("unrecorded_epoch"));
}

TEST_F(BareWorld, F_B12_checker_sees_a_start_without_proof_and_with_a_false_one) {
  run(1, 1);
  world.end_copy(host(1), VmId("acme/web"), "process killed");
  lost.clear();
  run(2, 2);
  EXPECT_TRUE(broken("unproven_start"));
  world.end_copy(host(2), VmId("acme/web"), "process killed");
  const std::size_t before = checker.violations().size();
  lost = {{HostId("host-2"), FenceProof::bmc_power_off}};
  run(1, 3);
  EXPECT_GT(checker.violations().size(), before);
}

TEST_F(BareWorld, F_B12_checker_wants_a_proof_of_the_host_where_the_vm_ran_last) {
  run(1, 1);
  world.end_copy(host(1), VmId("acme/web"), "process killed");
  lost = {{HostId("host-2"), FenceProof::agent_confirmed_stop}};
  run(2, 2);
  EXPECT_TRUE(broken("unproven_start"));
}

TEST_F(BareWorld, F_B12_checker_sees_a_full_host_and_a_guest_without_a_lease) {
  run(1, 1, 2000);
  EXPECT_TRUE(broken("capacity"));
  checker.lease_granted(host(1), loop.now() + seconds(10));
  loop.run_for(seconds(11));
  EXPECT_FALSE(broken("lease"));
  loop.run_for(seconds(2));
  EXPECT_TRUE(broken("lease"));
}

TEST_F(BareWorld, A1_F2_F_B12_checker_sees_a_copy_whose_configuration_no_host_can_read) {
  run(1, 1);
  EXPECT_FALSE(broken("unshared"));
  world.end_copy(host(1), VmId("acme/web"), "stopped");
  shares = false;
  run(2, 2);
  EXPECT_TRUE(broken("unshared")) << "what stands there is of an older epoch";
}

TEST_F(BareWorld, R_B1_F_B12_checker_sees_a_volume_with_two_writers) {
  run(1, on_volume("acme/web", 1));
  EXPECT_FALSE(broken("two_writers"));
  world.set_frozen(host(1), true);
  run(2, on_volume("acme/other", 2));
  EXPECT_FALSE(broken("two_writers")) << "a machine that stands still writes nothing";
  EXPECT_FALSE(broken("two_places"));
  world.set_frozen(host(1), false);
  EXPECT_TRUE(broken("two_writers"));
}

TEST_F(BareWorld, R_B10_F_B12_checker_sees_a_copy_outside_its_regions) {
  host(1).region = "eu";
  regions = {{"eu", "kr"}};
  run(1, 1);
  EXPECT_FALSE(broken("region"));
  world.end_copy(host(1), VmId("acme/web"), "stopped");
  run(2, 2);
  EXPECT_TRUE(broken("region")) << "a host without a region is in none of them";
}

TEST_F(BareWorld, F_B12_checker_sees_a_stray_that_is_ended_by_an_order) {
  run(1, 1);
  known = false;
  world.end_copy(host(1), VmId("acme/web"), "stopped");
  EXPECT_FALSE(broken("stray_ended")) << "its host has no lease";
  run(1, 2);
  checker.lease_granted(host(1), loop.now() + seconds(10));
  world.end_copy(host(1), VmId("acme/web"), "process killed");
  EXPECT_FALSE(broken("stray_ended"));
  run(1, 3);
  world.end_copy(host(1), VmId("acme/web"), "stopped");
  EXPECT_TRUE(broken("stray_ended"));
}

TEST_F(BareWorld, F_B12_image_locks_refuse_the_second_writer) {
  World locked(loop, WorldOptions{});
  locked.add_host(HostId("host-1"), {{1000}, {1000}});
  locked.add_host(HostId("host-2"), {{1000}, {1000}});
  VmLaunch launch;
  launch.vm = VmId("acme/web");
  launch.epoch = {1, 1};
  Copy& first = locked.spawn(locked.hosts()[0], launch, CopyState::starting);
  ASSERT_TRUE(locked.set_state(locked.hosts()[0], first, CopyState::running).ok());
  Copy& second = locked.spawn(locked.hosts()[1], launch, CopyState::incoming);
  EXPECT_EQ(locked.set_state(locked.hosts()[1], second, CopyState::running).error().code,
            Errc::conflict);
  locked.power_off(locked.hosts()[0]);
  EXPECT_TRUE(locked.set_state(locked.hosts()[1], second, CopyState::running).ok());
}

}  // namespace
}  // namespace virga::sim
