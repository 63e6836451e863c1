#include "agent/agent_core.h"

#include <gtest/gtest.h>

#include "agent/agent_fixture.h"
#include "base/reflect.h"
#include "sim/sim_loop.h"

namespace virga {
namespace {

using test::digest;
using test::FakeGuard;
using test::FakeHypervisor;
using test::FakeLink;

struct Agent {
  explicit Agent(Loop& world, const std::string& name = "a") : Agent(world, options(name)) {}

  Agent(Loop& world, AgentOptions with)
      : loop(world),
        core({world, hypervisor, fabric, guard, link, link, [] { return Capacity(); },
              [this] { return failing; }},
             std::move(with)) {
    core.start([](Result<void>) {});
    core.link_opened();
  }

  static AgentOptions options(const std::string& name) {
    AgentOptions made;
    made.hello.host = HostId(name);
    made.hello.boot_id = "boot-" + name;
    made.probed_peers = 2;
    return made;
  }

  void welcome(std::uint64_t incarnation = 1) {
    ServerMessage message;
    message.welcome = Welcome();
    message.welcome->incarnation = incarnation;
    core.link_received(message);
  }

  void grant(std::int64_t sent_at_ms, Duration lease = seconds(10)) {
    ServerMessage message;
    message.grant = LeaseGrant{sent_at_ms, lease};
    core.link_received(message);
  }

  void start_vm(const std::string& name) {
    ServerMessage message;
    message.command = Command();
    message.command->id = 7;
    message.command->vm = VmId(name);
    message.command->launch = VmLaunch();
    message.command->launch->vm = VmId(name);
    core.link_received(message);
  }

  void join(const std::vector<std::string>& names) {
    ServerMessage message;
    message.cluster = ClusterState();
    message.cluster->probe_key = "key";
    for (const std::string& one : names) {
      message.cluster->members.push_back({HostId(one), "address-" + one, 1});
    }
    core.link_received(message);
  }

  /// A datagram arrives.
  void receive(const std::string& data) {
    if (const auto probe = decode_probe(data, core.probe_key(), digest)) core.peer_received(*probe);
  }

  std::int64_t now_ms() const { return to_ms(loop.now().time_since_epoch()); }

  Loop& loop;
  FakeHypervisor hypervisor;
  NullFabric fabric{loop};
  FakeGuard guard;
  FakeLink link;
  std::string failing;  ///< on this host
  AgentCore core;
};

TEST(AgentCore, F_B6_F_F9_guests_are_killed_when_the_lease_ends) {
  SimLoop loop;
  Agent agent(loop);
  agent.welcome();
  agent.grant(agent.now_ms());
  agent.start_vm("acme/web");
  agent.start_vm("acme/db");
  loop.run_for(milliseconds(9999));
  EXPECT_EQ(agent.hypervisor.copies.size(), 2U);
  loop.run_for(milliseconds(2));
  EXPECT_TRUE(agent.hypervisor.copies.empty());
  EXPECT_FALSE(agent.core.lease_valid());
}

TEST(AgentCore, F_B6_a_grant_counts_from_when_its_report_was_sent) {
  SimLoop loop;
  Agent agent(loop);
  agent.welcome();
  const std::int64_t sent_at = agent.now_ms();
  const Instant end = loop.now() + seconds(20);
  loop.run_for(seconds(4));
  agent.grant(sent_at, seconds(20));
  EXPECT_EQ(agent.guard.deadline, end);
  agent.grant(sent_at, seconds(5));
  EXPECT_EQ(agent.guard.deadline, end) << "a lease is never made shorter";
  agent.grant(agent.now_ms() + 60'000);
  EXPECT_EQ(agent.guard.deadline, end) << "a report of the future was never sent";
}

TEST(AgentCore, F_B6_F_F18_a_wall_clock_that_jumps_makes_no_lease_longer_or_shorter) {
  for (const Duration jump : {std::chrono::hours(24 * 365), -std::chrono::hours(24 * 365)}) {
    SimLoop loop;
    Agent agent(loop);
    agent.welcome();
    agent.grant(agent.now_ms());
    agent.start_vm("acme/web");
    const Instant end = agent.guard.deadline;
    loop.run_for(seconds(4));
    loop.jump_wall(jump);
    EXPECT_TRUE(agent.core.lease_valid());
    agent.grant(agent.now_ms());
    EXPECT_EQ(agent.guard.deadline, end + seconds(4)) << "counted on the clock of the boot";
    loop.run_for(milliseconds(9999));
    EXPECT_EQ(agent.hypervisor.copies.size(), 1U);
    loop.run_for(milliseconds(2));
    EXPECT_TRUE(agent.hypervisor.copies.empty()) << "it ended when it was due";
  }
}

TEST(AgentCore, F_B6_nothing_starts_without_a_lease) {
  SimLoop loop;
  Agent agent(loop);
  agent.welcome();
  loop.run_for(seconds(11));
  agent.start_vm("acme/web");
  EXPECT_TRUE(agent.hypervisor.copies.empty());
  ASSERT_TRUE(agent.link.sent.back().result.has_value());
  EXPECT_FALSE(agent.link.sent.back().result->ok);
  EXPECT_EQ(agent.link.sent.back().result->error_code, "unavailable");
  ServerMessage message;
  message.command = Command();
  message.command->kind = CommandKind::stop;
  message.command->vm = VmId("acme/web");
  message.command->stop = StopOptions{true, seconds(30)};
  const auto in_order = [&](const Epoch& epoch) {
    message.command->epoch = epoch;
    agent.core.link_received(message);
    return agent.link.sent.back().result.value_or(CommandResult()).in_order;
  };
  EXPECT_FALSE(in_order(Epoch())) << "an agent before this one may have begun it";
  agent.grant(agent.now_ms());
  loop.run_for(seconds(11));
  agent.start_vm("acme/web");
  EXPECT_TRUE(in_order(Epoch())) << "it never began";
  EXPECT_TRUE(in_order(Epoch())) << "and says so again";
  EXPECT_FALSE(in_order({1, 2})) << "nobody knows of that one";
  agent.grant(agent.now_ms());
  agent.start_vm("acme/web");
  EXPECT_FALSE(in_order(Epoch())) << "it was begun after all";
  loop.run_for(seconds(11));
  agent.start_vm("acme/web");
  EXPECT_FALSE(in_order(Epoch())) << "it had run before it was refused";
}

TEST(AgentCore, F_B4_F_B6_limits_of_a_running_vm_are_changed_and_the_answer_says_so) {
  SimLoop loop;
  Agent agent(loop);
  agent.welcome();
  agent.grant(agent.now_ms());
  ServerMessage message;
  message.command = Command();
  message.command->kind = CommandKind::change_limits;
  message.command->id = 8;
  message.command->vm = VmId("acme/web");
  const auto answer = [&] {
    agent.core.link_received(message);
    return agent.link.sent.back().result.value_or(CommandResult());
  };
  EXPECT_EQ(answer().error_code, "invalid") << "it says not which limits";
  message.command->launch = VmLaunch();
  message.command->launch->vm = VmId("acme/web");
  message.command->launch->cpu_millicores = Millicores{250};
  EXPECT_EQ(answer().error_code, "not_found");
  agent.start_vm("acme/web");
  EXPECT_TRUE(answer().ok);
  ASSERT_EQ(agent.hypervisor.limited.size(), 1U);
  EXPECT_EQ(agent.hypervisor.limited.front().cpu_millicores, Millicores{250});
}

TEST(AgentCore, R_B1_a_guest_that_was_asked_and_not_killed_has_ended_in_order) {
  SimLoop loop;
  Agent agent(loop);
  agent.welcome();
  agent.grant(agent.now_ms(), seconds(100));
  ServerMessage message;
  message.command = Command();
  message.command->kind = CommandKind::stop;
  message.command->vm = VmId("acme/web");
  message.command->stop = StopOptions{false, seconds(30)};
  const auto in_order = [&] {
    ++message.command->id;
    agent.core.link_received(message);
    const bool waits = agent.hypervisor.stops_take_long;
    if (waits) loop.run_for(seconds(30));
    if (waits) agent.hypervisor.stopping({});
    EXPECT_TRUE(agent.link.sent.back().result && agent.link.sent.back().result->ok);
    return agent.link.sent.back().result->in_order;
  };
  EXPECT_FALSE(in_order()) << "it was not there: nobody knows how it ended";
  agent.start_vm("acme/web");
  EXPECT_TRUE(in_order());
  agent.start_vm("acme/web");
  message.command->stop->force = true;
  EXPECT_FALSE(in_order());
  agent.start_vm("acme/web");
  message.command->stop->force = false;
  agent.hypervisor.copies[VmId("acme/web")].power = VmPower::paused;
  EXPECT_FALSE(in_order()) << "it could not hear";
  agent.start_vm("acme/web");
  agent.hypervisor.stops_take_long = true;
  EXPECT_FALSE(in_order()) << "it was killed";
}

TEST(AgentCore, R_B1_a_disk_is_put_on_the_place_that_is_named) {
  SimLoop loop;
  Agent agent(loop);
  agent.welcome();
  agent.grant(agent.now_ms());
  ServerMessage message;
  message.command = Command();
  message.command->kind = CommandKind::keep_leg;
  message.command->id = 8;
  message.command->vm = VmId("acme/web");
  agent.core.link_received(message);
  EXPECT_EQ(agent.link.sent.back().result->error_code, "invalid") << "it says not which disk";
  DiskMirror& mirror = message.command->mirror.emplace();
  mirror.volume = "acme/data";
  mirror.to.device = DeviceId("disk-d");
  message.command->id = 9;
  agent.core.link_received(message);
  EXPECT_TRUE(agent.link.sent.back().result->ok);
  EXPECT_EQ(agent.hypervisor.mirrors, std::vector<std::string>{"keep acme/data on disk-d"});
}

TEST(AgentCore, F_B9_a_send_tells_with_heartbeats_how_far_it_is_until_it_ends) {
  SimLoop loop;
  Agent agent(loop);
  agent.welcome();
  agent.hypervisor.sends_take_long = true;
  ServerMessage message;
  message.command = Command();
  message.command->id = 9;
  message.command->kind = CommandKind::send;
  message.command->endpoint = MigrationEndpoint();
  message.command->limits = MigrationLimits();
  agent.core.link_received(message);
  std::vector<int> told;
  const auto beat = [&](std::int64_t sent) {
    agent.hypervisor.sent.transferred_bytes = Bytes{sent};
    agent.hypervisor.sent.remaining_bytes = Bytes{1000 - sent};
    agent.link.sent.clear();
    loop.run_for(seconds(1));
    for (const AgentMessage& each : agent.link.sent) {
      if (!each.progress) continue;
      EXPECT_EQ(each.progress->id, 9U);
      told.push_back(each.progress->percent);
    }
  };
  beat(300);
  beat(300);
  beat(999);
  agent.hypervisor.sending(agent.hypervisor.sent);
  beat(1000);
  EXPECT_EQ(told, (std::vector<int>{30, 99}));
}

TEST(AgentCore, F_B6_F_F11_a_server_with_an_older_incarnation_is_not_followed) {
  SimLoop loop;
  Agent agent(loop);
  agent.welcome(3);
  agent.core.link_opened();
  agent.welcome(2);
  EXPECT_EQ(agent.link.reconnects, 1);
  agent.start_vm("acme/web");
  EXPECT_TRUE(agent.hypervisor.copies.empty());
  agent.welcome(3);
  agent.grant(agent.now_ms());
  agent.start_vm("acme/web");
  EXPECT_EQ(agent.hypervisor.copies.size(), 1U);
}

TEST(AgentCore, F_B6_F_F11_nor_by_the_next_run_of_the_agent) {
  SimLoop loop;
  std::uint64_t kept = 0;
  const auto options = [&] {
    AgentOptions made = Agent::options("a");
    made.incarnation = kept;
    made.keep_incarnation = [&](std::uint64_t incarnation) { kept = incarnation; };
    return made;
  };
  Agent(loop, options()).welcome(3);
  EXPECT_EQ(kept, 3U);
  Agent next(loop, options());
  next.welcome(2);
  EXPECT_EQ(next.link.reconnects, 1) << "a server restored from an old backup, by mistake";
  EXPECT_EQ(kept, 3U);
}

TEST(AgentCore, F_B6_F_F2_a_restarted_agent_starts_nothing_and_moves_no_guard_unasked) {
  SimLoop loop;
  loop.run_for(seconds(100));
  Agent agent(loop);
  agent.welcome();
  agent.start_vm("acme/web");
  EXPECT_TRUE(agent.hypervisor.copies.empty());
  EXPECT_EQ(agent.guard.deadline, Instant());
  agent.grant(agent.now_ms());
  EXPECT_EQ(agent.guard.deadline, loop.now() + seconds(10));
  agent.start_vm("acme/web");
  EXPECT_EQ(agent.hypervisor.copies.size(), 1U);
}

TEST(AgentCore, F_B6_F_F2_a_restarted_agent_keeps_guests_until_the_end_that_their_guard_knows) {
  SimLoop loop;
  loop.run_for(seconds(100));
  Agent agent(loop);
  agent.hypervisor.copies[VmId("acme/web")].vm = VmId("acme/web");
  agent.guard.deadline = loop.now() + seconds(60);
  loop.run_for(seconds(59));
  EXPECT_EQ(agent.hypervisor.copies.size(), 1U) << "the server is away, as it was when it was told";
  agent.start_vm("acme/db");
  EXPECT_EQ(agent.hypervisor.copies.size(), 1U) << "what it keeps alive admits nothing";
  loop.run_for(seconds(2));
  EXPECT_TRUE(agent.hypervisor.copies.empty());
}

TEST(AgentCore, F_B6_a_report_with_what_runs_goes_out_before_each_answer) {
  SimLoop loop;
  Agent agent(loop);
  agent.welcome();
  agent.grant(agent.now_ms());
  agent.start_vm("acme/web");
  ASSERT_GE(agent.link.sent.size(), 2U);
  ASSERT_TRUE(agent.link.sent.back().result.has_value());
  EXPECT_TRUE(agent.link.sent.back().result->ok);
  EXPECT_EQ(agent.link.sent.back().result->id, 7U);
  const AgentMessage& before = agent.link.sent[agent.link.sent.size() - 2];
  ASSERT_TRUE(before.report.has_value());
  ASSERT_EQ(before.report->vms.size(), 1U);
  EXPECT_EQ(before.report->vms[0].vm, VmId("acme/web"));
}

TEST(AgentCore, A1_02_each_host_probes_the_next_ones_in_the_ring) {
  SimLoop loop;
  Agent agent(loop, "c");
  agent.welcome();
  agent.join({"a", "b", "c", "d"});
  loop.run_for(milliseconds(1000));
  ASSERT_EQ(agent.link.datagrams.size(), 2U);
  EXPECT_EQ(agent.link.datagrams[0].first, "address-d");
  EXPECT_EQ(agent.link.datagrams[1].first, "address-a");
}

TEST(AgentCore, A1_02_A1_14_peers_answer_one_another_and_silence_is_reported) {
  SimLoop loop;
  Agent a(loop, "a");
  Agent b(loop, "b");
  for (Agent* agent : {&a, &b}) {
    agent->welcome();
    agent->join({"a", "b"});
    agent->grant(agent->now_ms());
  }
  b.failing = "its disk";
  loop.run_for(milliseconds(1000));
  ASSERT_FALSE(a.link.datagrams.empty());
  b.link.datagrams.clear();
  b.receive(a.link.datagrams.back().second);
  ASSERT_EQ(b.link.datagrams.size(), 1U);
  a.receive(b.link.datagrams.back().second);
  loop.run_for(milliseconds(1000));
  const auto last_view = [&] {
    for (auto message = a.link.sent.rbegin(); message != a.link.sent.rend(); ++message) {
      if (message->report && !message->report->peers.empty()) return message->report->peers[0];
    }
    return PeerView();
  };
  EXPECT_EQ(last_view().health, PeerHealth::alive);
  EXPECT_EQ(last_view().boot_id, "boot-b");
  EXPECT_EQ(last_view().degraded, "its disk");
  EXPECT_EQ(last_view().lease_ms_left, seconds(9));
  loop.run_for(milliseconds(3000));
  EXPECT_EQ(last_view().health, PeerHealth::silent);
  a.receive(b.link.datagrams.back().second);
  loop.run_for(milliseconds(1000));
  EXPECT_EQ(last_view().health, PeerHealth::silent) << "an old answer, sent again, proves nothing";
}

TEST(AgentCore, A1_02_F_B7_an_answer_counts_once_and_not_long_after_its_question) {
  SimLoop loop;
  Agent a(loop, "a");
  a.welcome();
  ServerMessage policy;
  policy.cluster = ClusterState();
  policy.cluster->probe_key = "key";
  policy.cluster->policy = ClusterPolicy();
  policy.cluster->policy->heartbeat_ms = milliseconds(100);
  policy.cluster->policy->suspect_after_ms = milliseconds(1000);
  policy.cluster->members = {{HostId("a"), "address-a", 1}, {HostId("b"), "address-b", 1}};
  a.core.link_received(policy);
  loop.run_for(milliseconds(5000));
  const auto answer = [&](std::uint64_t sequence) {
    PeerProbe probe{HostId("b"), HostId("a"), true, sequence, "boot-b", Capacity()};
    a.receive(encode_probe(probe, "key", digest));
  };
  const auto silent_ms = [&] {
    return a.core.local_status().at("peers").as_array().at(0).at("silent_ms").to_number<int>();
  };
  const auto last = decode_probe(a.link.datagrams.back().second, "key", digest);
  const std::uint64_t asked = last.value_or(PeerProbe()).sequence;
  ASSERT_GT(asked, 10U);
  answer(asked - 10);
  EXPECT_GT(silent_ms(), 1000) << "ten rounds are all the patience there is";
  answer(asked - 9);
  EXPECT_EQ(silent_ms(), 0) << "late, but within the patience";
  loop.run_for(milliseconds(300));
  answer(asked - 9);
  EXPECT_EQ(silent_ms(), 300) << "the same again";
  answer(asked);
  EXPECT_EQ(silent_ms(), 0);
}

TEST(AgentCore, F_B7_a_shorter_patience_counts_from_when_it_is_known) {
  SimLoop loop;
  Agent a(loop, "a");
  const auto patience = [](Duration heartbeat, Duration suspect) {
    ServerMessage message;
    message.cluster = ClusterState();
    message.cluster->probe_key = "key";
    message.cluster->members = {{HostId("a"), "address-a", 1}, {HostId("b"), "address-b", 1}};
    message.cluster->policy = ClusterPolicy();
    message.cluster->policy->heartbeat_ms = heartbeat;
    message.cluster->policy->suspect_after_ms = suspect;
    return message;
  };
  const auto silent = [&] {
    return std::any_of(a.link.sent.begin(), a.link.sent.end(), [](const AgentMessage& message) {
      return message.report && !message.report->peers.empty() &&
             message.report->peers[0].health == PeerHealth::silent;
    });
  };
  a.welcome();
  a.core.link_received(patience(seconds(10), seconds(25)));
  loop.run_for(seconds(15));
  ASSERT_FALSE(silent());
  a.core.link_received(patience(seconds(1), seconds(2)));
  loop.run_for(milliseconds(1200));
  EXPECT_FALSE(silent()) << "nobody could have answered yet within the new patience";
  loop.run_for(seconds(2));
  EXPECT_TRUE(silent()) << "the next beat comes after the new heartbeat";
}

TEST(AgentCore, F_B7_an_agent_that_was_held_up_does_not_call_its_peers_silent) {
  // One is frozen for 3 s, the other runs on: neither hears its peer in that time.
  for (const bool held_up : {true, false}) {
    SimLoop loop;
    SimProcess process(loop);
    Agent a(process, "a");
    a.welcome();
    a.join({"a", "b"});
    loop.run_for(milliseconds(1000));
    const auto asked = decode_probe(a.link.datagrams.back().second, "key", digest);
    const std::uint64_t sequence = asked.value_or(PeerProbe()).sequence;
    const PeerProbe answer{HostId("b"), HostId("a"), true, sequence, "boot-b", Capacity()};
    a.receive(encode_probe(answer, "key", digest));
    a.link.sent.clear();
    const auto reports = [&] {
      std::vector<HostReport> sent;
      for (const AgentMessage& message : std::exchange(a.link.sent, {})) {
        if (message.report) sent.push_back(*message.report);
      }
      return sent;
    };
    if (held_up) process.freeze();
    loop.run_for(milliseconds(3000));
    if (held_up) {
      EXPECT_TRUE(reports().empty());
      process.thaw();
      loop.run_for(milliseconds(1));
    }
    const std::vector<HostReport> told = reports();
    ASSERT_FALSE(told.empty());
    const HostReport& one = held_up ? told.front() : told.back();
    ASSERT_EQ(one.peers.size(), 1U);
    EXPECT_EQ(one.peers[0].health, held_up ? PeerHealth::alive : PeerHealth::silent);
    EXPECT_EQ(one.loop_lag_ms, held_up ? milliseconds(2000) : milliseconds(0));
    loop.run_for(milliseconds(2000));
    EXPECT_EQ(reports().back().peers.at(0).health, PeerHealth::silent)
        << "it still does not answer";
  }
}

TEST(AgentCore, R_B3_security_groups_in_parts_are_kept_together_and_not_over_a_lost_link) {
  SimLoop loop;
  Agent a(loop, "a");
  a.welcome();
  const auto part = [&](bool whole, const std::string& port, bool more) {
    ServerMessage message;
    message.groups = FabricGroups{whole, {{port, 1001, "10.50.0.10", {"acme/web"}}}, {}, {}, more};
    a.core.link_received(message);
  };
  part(true, "acme/one-0", true);
  EXPECT_TRUE(a.fabric.guarded.empty());
  part(false, "acme/two-0", false);
  ASSERT_EQ(a.fabric.guarded.size(), 1U);
  EXPECT_TRUE(a.fabric.guarded[0].whole);
  EXPECT_EQ(a.fabric.guarded[0].ports.size(), 2U);
  part(true, "acme/lost-0", true);
  a.core.link_closed("cut");
  a.core.link_opened();
  a.welcome();
  part(false, "acme/three-0", false);
  ASSERT_EQ(a.fabric.guarded.size(), 2U);
  EXPECT_FALSE(a.fabric.guarded[1].whole);
  EXPECT_EQ(a.fabric.guarded[1].ports.size(), 1U);
}

TEST(AgentCore, A1_14_F_B7_datagrams_that_are_not_authentic_are_dropped) {
  SimLoop loop;
  Agent a(loop, "a");
  Agent b(loop, "b");
  for (Agent* agent : {&a, &b}) {
    agent->welcome();
    agent->join({"a", "b"});
  }
  loop.run_for(milliseconds(1000));
  ASSERT_FALSE(a.link.datagrams.empty());
  std::string forged = a.link.datagrams.back().second;
  const std::size_t place = forged.find("key:");
  ASSERT_NE(place, std::string::npos);
  forged.replace(place, 4, "kez:");
  b.link.datagrams.clear();
  b.receive(forged);
  b.receive("nonsense");
  b.receive("");
  EXPECT_TRUE(b.link.datagrams.empty());
}

/// A balancer that does at once what it is asked; it outlives agents.
class PromptBalancer : public LoadBalancer {
 public:
  PromptBalancer(Loop& loop, std::uint64_t& in_force) : loop_(loop), in_force_(in_force) {}
  void open(Callback<void> done) override { answer<void>(loop_, std::move(done), {}); }
  void apply(const BalancerSpec& wanted, Callback<void> done) override {
    in_force_ = wanted.revision;
    answer<void>(loop_, std::move(done), {});
  }
  std::uint64_t revision() const override { return in_force_; }
  void observe(Callback<ObservedBalancer> done) override {
    ObservedBalancer seen;
    seen.revision = in_force_;
    answer<ObservedBalancer>(loop_, std::move(done), seen);
  }
  void remove(Callback<void> done) override {
    in_force_ = 0;
    answer<void>(loop_, std::move(done), {});
  }

 private:
  Loop& loop_;
  std::uint64_t& in_force_;
};

class PromptBalancers : public BalancerHome {
 public:
  explicit PromptBalancers(Loop& loop) : loop_(loop) {}
  std::unique_ptr<LoadBalancer> make(const ServiceId& service, const std::string&) override {
    return std::make_unique<PromptBalancer>(loop_, in_force[service]);
  }
  std::map<ServiceId, BalancerLeg> remembered() override { return legs; }
  Result<void> remember(const ServiceId& service, const BalancerLeg& leg) override {
    legs[service] = leg;
    return {};
  }
  Result<void> forget(const ServiceId& service) override {
    legs.erase(service);
    return {};
  }
  std::map<ServiceId, std::uint64_t> in_force;
  std::map<ServiceId, BalancerLeg> legs;

 private:
  Loop& loop_;
};

TEST(AgentCore, R_B6_a_balancer_is_reported_before_its_answer_and_goes_on_without_a_lease) {
  SimLoop loop;
  FakeHypervisor hypervisor;
  NullFabric fabric(loop);
  FakeGuard guard;
  FakeLink link;
  PromptBalancers balancers(loop);
  const AgentDependencies on{loop,
                             hypervisor,
                             fabric,
                             guard,
                             link,
                             link,
                             [] { return Capacity(); },
                             [] { return std::string(); },
                             {},
                             &balancers};
  const auto begin = [&on] {
    auto core = std::make_unique<AgentCore>(on, Agent::options("a"));
    core->start([](Result<void>) {});
    core->link_opened();
    ServerMessage message;
    message.welcome = Welcome();
    core->link_received(message);
    return core;
  };
  auto core = begin();
  const auto tell = [&](CommandKind kind) {
    ServerMessage message;
    Command& command = message.command.emplace();
    command.id = 9;
    command.kind = kind;
    command.balancer.emplace().service = ServiceId("acme/web");
    command.balancer->spec.revision = 3;
    core->link_received(message);
    loop.run_for(milliseconds(10));
  };
  tell(CommandKind::apply_balancer);
  ASSERT_TRUE(link.sent.back().result);
  EXPECT_TRUE(link.sent.back().result->ok) << link.sent.back().result->error;
  const auto& report = link.sent.at(link.sent.size() - 2).report;
  ASSERT_TRUE(report && report->balancers.size() == 1);
  EXPECT_EQ(report->balancers[0].seen.revision, 3U);
  loop.run_for(seconds(60));
  EXPECT_FALSE(core->lease_valid());
  EXPECT_EQ(balancers.in_force.at(ServiceId("acme/web")), 3U);
  core.reset();
  core = begin();
  loop.run_for(seconds(3));
  ASSERT_TRUE(link.sent.back().report && link.sent.back().report->balancers.size() == 1);
  EXPECT_TRUE(link.sent.back().report->balancers[0].running) << "with the next agent too";
  tell(CommandKind::remove_balancer);
  EXPECT_EQ(balancers.in_force.at(ServiceId("acme/web")), 0U);
  ASSERT_TRUE(link.sent.at(link.sent.size() - 2).report);
  EXPECT_TRUE(link.sent.at(link.sent.size() - 2).report->balancers.empty());
}

}  // namespace
}  // namespace virga
