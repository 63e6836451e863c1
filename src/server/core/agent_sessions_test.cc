#include "server/core/agent_sessions.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <set>

#include "server/core/lease_bounds.h"
#include "sim/sim_loop.h"
#include "store/memory_store.h"

namespace virga {
namespace {

constexpr int kHosts = 400;

/// Sessions over a store with one large cluster; counts what is sent.
class Sessions : public ::testing::Test, public HostLinks {
 protected:
  Sessions()
      : store_(loop_, Rng(1), {}),
        mirror_(loop_, store_),
        sessions_(loop_, store_, mirror_, *this) {
    Cluster cluster;
    cluster.meta.name = "c1";
    put(cluster);
    for (int number = 0; number < kHosts; ++number) {
      Host host;
      host.meta.name = name(number);
      host.spec.cluster = cluster.id();
      host.status.health = HostHealth::alive;
      put(host);
    }
    mirror_.open([](const Result<void>& opened) { EXPECT_TRUE(opened.ok()); });
    loop_.run_for(milliseconds(100));
    sessions_.set_probe_keys([](const ClusterId& id) { return "00ff" + id.value; });
    sessions_.start([](const HostId&) {}, [](const HostId&) {}, [](const Event&) {});
  }

  template <typename T>
  void put(const T& resource) {
    Transaction transaction;
    transaction.put(resource);
    store_.commit(transaction.guards(), transaction.writes(), [](Result<CommitOutcome>) {});
  }

  static std::string name(int number) { return fmt::format("host-{}", number); }

  void send(SessionId session, const ServerMessage& message) override {
    if (message.command) last_command_ = message.command->id;
    if (message.refusal) refusals_.push_back(message.refusal->text);
    if (message.groups) groups_.push_back(*message.groups);
    if (message.grant) grants_.push_back(message.grant->report_sent_at_ms);
    if (message.gateways) gateways_.push_back(*message.gateways);
    if (!message.cluster) return;
    ++states_;
    members_[session] = message.cluster->members.size();
  }
  void close(SessionId session) override { closed_.insert(session); }

  void hello(int number, const std::function<void(Hello&)>& edit = nullptr) {
    const auto session = static_cast<SessionId>(number) + 1;
    sessions_.opened(session, "agent:" + name(number));
    AgentMessage message;
    message.hello = Hello();
    message.hello->host = HostId(name(number));
    message.hello->address = fmt::format("10.0.{}.{}", number / 250, number % 250 + 1);
    if (edit) edit(*message.hello);
    sessions_.received(session, std::move(message));
  }

  /// The error of a command to host 0 that is refused at once; `internal` when none came.
  Error refused(CommandKind kind, const std::optional<VmLaunch>& launch = std::nullopt) {
    Command command;
    command.kind = kind;
    command.launch = launch;
    return refused(command);
  }
  Error refused(const Command& command) {
    Error seen = make_error(Errc::internal, "no answer");
    sessions_.call(HostId(name(0)), command, seconds(5), [&](const Result<CommandResult>& answer) {
      if (!answer.ok()) seen = answer.error();
    });
    loop_.run_for(milliseconds(1));
    return seen;
  }

  SimLoop loop_;
  MemoryStore store_;
  StoreMirror mirror_;
  AgentSessions sessions_;
  int states_ = 0;
  std::vector<FabricGroups> groups_;
  std::vector<std::int64_t> grants_;  ///< for reports of these moments
  std::vector<FabricGateways> gateways_;
  std::uint64_t last_command_ = 0;
  std::vector<std::string> refusals_;
  std::set<SessionId> closed_;
  std::map<SessionId, std::size_t> members_;
};

TEST_F(Sessions, F_B6_F_F1_a_new_leader_honours_the_longest_lease_that_a_host_may_hold) {
  const auto honoured = [this](bool restored) {
    AgentSessions next(loop_, store_, mirror_, *this);
    next.start([](const HostId&) {}, [](const HostId&) {}, [](const Event&) {}, restored);
    return next.hosts().at(HostId(name(0))).lease_end - loop_.now();
  };
  EXPECT_EQ(honoured(false), seconds(10));
  Cluster cluster = *mirror_.view().clusters.find(ClusterId("c1"));
  cluster.status.lease_ms = seconds(60);  // granted before the policy became shorter
  put(cluster);
  loop_.run_for(milliseconds(100));
  EXPECT_EQ(honoured(false), seconds(60));
  EXPECT_EQ(honoured(true), kLeaseMax) << "of the time after a backup nothing is known";
}

TEST_F(Sessions, F_B6_F_F1_what_a_host_says_of_its_lease_counts_and_what_is_granted_besides) {
  AgentSessions next(loop_, store_, mirror_, *this);
  next.set_probe_keys([](const ClusterId& id) { return id.value; });
  next.start([](const HostId&) {}, [](const HostId&) {}, [](const Event&) {}, true);
  const HostId host(name(0));
  const auto left = [&] { return next.find(host)->lease_end - loop_.now(); };
  next.opened(1, "agent:" + host.value);
  const auto say = [&](std::optional<Duration> lease) {
    AgentMessage message;
    message.report = HostReport();
    message.report->lease_ms_left = lease;
    next.received(1, std::move(message));
  };
  AgentMessage hello;
  hello.hello = Hello();
  hello.hello->host = host;
  next.received(1, std::move(hello));
  say(std::nullopt);
  EXPECT_EQ(left(), kLeaseMax) << "an agent of before";
  say(seconds(40));
  EXPECT_EQ(left(), seconds(40));
  loop_.run_for(seconds(35));
  say(seconds(5));
  EXPECT_EQ(left(), seconds(10)) << "it has just been granted";
  loop_.run_for(seconds(4));
  say(seconds(1));
  EXPECT_EQ(left(), seconds(10));
}

TEST_F(Sessions, F_B6_F_F1_a_longer_lease_is_forgotten_when_it_has_ended_under_one_leader) {
  LeaseBounds bounds(loop_, store_, mirror_);
  const auto stored = [this] { return *mirror_.view().clusters.find(ClusterId("c1")); };
  const auto pass = [&](Duration span) {
    for (Duration passed{0}; passed < span; passed += seconds(1)) {
      bounds.tick();
      loop_.run_for(seconds(1));
    }
  };
  const auto shorten = [&](Duration longest, Duration policy) {
    Cluster cluster = stored();
    cluster.status.lease_ms = longest;
    cluster.spec.policy.lease_ms = policy;
    put(cluster);
    loop_.run_for(milliseconds(100));
  };
  shorten(seconds(60), seconds(10));
  pass(seconds(58));
  EXPECT_EQ(stored().status.lease_ms, seconds(60));
  shorten(seconds(60), seconds(50));  // and grants of that may still be on their way
  pass(seconds(2));
  shorten(seconds(60), seconds(10));
  pass(seconds(58));
  EXPECT_EQ(stored().status.lease_ms, seconds(60));
  pass(seconds(5));
  EXPECT_EQ(stored().status.lease_ms, seconds(10));
}

TEST_F(Sessions, F_B6_F_F1_hosts_that_come_back_together_are_told_of_each_other_at_a_bounded_rate) {
  const Instant begin = loop_.now();
  for (int number = 0; number < kHosts; ++number) {
    hello(number);
    loop_.run_for(milliseconds(10));
  }
  loop_.run_for(seconds(1));
  const auto in_all = static_cast<double>(to_ms(loop_.now() - begin)) / 1000;
  // One to each at once, 1,000 a second to the others, and the last spread.
  EXPECT_LE(states_, kHosts + static_cast<int>(in_all * 1000) + kHosts);
  ASSERT_EQ(members_.size(), static_cast<std::size_t>(kHosts));
  for (const auto& [session, members] : members_) {
    EXPECT_EQ(members, static_cast<std::size_t>(kHosts)) << session;
  }
}

TEST_F(Sessions, F_B6_a_host_that_is_let_in_again_has_its_lease_before_anything_is_placed_on_it) {
  mirror_.listen([this](const std::vector<Change>& changes) { sessions_.changed(changes); });
  const auto judge = [this](HostHealth health) {
    Host host = *mirror_.view().hosts.find(HostId(name(0)));
    host.status.health = health;
    put(host);
    loop_.run_for(milliseconds(10));
  };
  const auto report = [this](std::int64_t sent_at_ms) {
    AgentMessage message;
    message.report = HostReport();
    message.report->sent_at_ms = sent_at_ms;
    sessions_.received(1, std::move(message));
  };
  hello(0);
  loop_.run_for(milliseconds(10));
  judge(HostHealth::fenced);
  report(7000);
  EXPECT_TRUE(grants_.empty());
  judge(HostHealth::alive);
  EXPECT_EQ(grants_, std::vector<std::int64_t>{7000}) << "at once, not with its next report";
  judge(HostHealth::degraded);
  EXPECT_EQ(grants_.size(), 1U) << "once";
  report(8000);
  EXPECT_EQ(grants_.size(), 2U);
  judge(HostHealth::fenced);
  report(9000);
  hello(0);
  judge(HostHealth::alive);
  EXPECT_EQ(grants_.size(), 2U) << "what an earlier session said is no ground for a lease";
  Host fenced = *mirror_.view().hosts.find(HostId(name(0)));
  fenced.status.operation = OperationId("fence");
  put(fenced);
  loop_.run_for(milliseconds(10));
  report(10000);
  EXPECT_EQ(grants_.size(), 3U) << "it is back, and a controller that is still asked may be silent";
}

TEST_F(Sessions, F_B9_the_caller_of_a_long_command_is_told_how_far_it_is_until_it_ends) {
  hello(0);
  std::vector<int> told;
  int ended = 0;
  Command command;
  command.kind = CommandKind::send;
  sessions_.call(
      HostId(name(0)), command, seconds(5),
      [&](const Result<CommandResult>& answer) { ended += answer.ok() ? 1 : 0; },
      [&](int percent) { told.push_back(percent); });
  const auto progress = [&](std::uint64_t id, int percent) {
    AgentMessage message;
    message.progress = CommandProgress{id, percent};
    sessions_.received(1, std::move(message));
  };
  progress(last_command_, 40);
  progress(last_command_ + 1, 50);  // of nobody
  AgentMessage message;
  message.result = CommandResult();
  message.result->id = last_command_;
  message.result->ok = true;
  sessions_.received(1, std::move(message));
  progress(last_command_, 60);
  EXPECT_EQ(told, std::vector<int>{40});
  EXPECT_EQ(ended, 1);
}

TEST_F(Sessions, F_B6_F_F21_a_peer_of_a_protocol_that_nobody_speaks_is_refused_with_words) {
  for (const int protocol : {kProtocolVersionMin - 1, kProtocolVersion + 2}) {
    refusals_.clear();
    closed_.clear();
    hello(0, [&](Hello& said) { said.protocol = protocol; });
    ASSERT_EQ(refusals_.size(), 1U);
    EXPECT_NE(refusals_[0].find(fmt::format("speaks protocol {}", protocol)), std::string::npos);
    EXPECT_EQ(closed_.count(1), 1U);
    EXPECT_EQ(sessions_.find(HostId(name(0)))->session, 0U);
  }
  hello(0, [](Hello& said) { said.protocol = kProtocolVersion + 1; });
  EXPECT_EQ(sessions_.find(HostId(name(0)))->session, 1U) << "a newer agent speaks ours too";
}

TEST_F(Sessions, F_B6_F_F21_an_agent_is_asked_for_nothing_that_its_version_does_not_know) {
  hello(0);
  EXPECT_EQ(refused(CommandKind::change_limits).code, Errc::unsupported);
  EXPECT_EQ(refused(CommandKind::stop).code, Errc::internal) << "is sent and waits for its answer";
  VmLaunch launch;
  launch.seed = LaunchSeed{"vms/acme/web/seed.iso", ""};
  EXPECT_EQ(refused(CommandKind::start, launch).code, Errc::internal) << "nothing would be lost";
  launch.seed->user_data = "#cloud-config";
  EXPECT_EQ(refused(CommandKind::start, launch).code, Errc::unsupported) << "it would be lost";
  EXPECT_EQ(refused(CommandKind::erase, launch).code, Errc::internal) << "needs none of it";
  hello(0, [](Hello& said) { said.features = agent_features(); });
  EXPECT_EQ(refused(CommandKind::change_limits).code, Errc::internal);
  EXPECT_EQ(refused(CommandKind::start, launch).code, Errc::internal);
}

TEST_F(Sessions, R_B4_an_agent_that_would_send_a_guest_unencrypted_is_not_asked_to) {
  hello(0);
  Command send;
  send.kind = CommandKind::send;
  send.endpoint = MigrationEndpoint{"192.0.2.2", 4444, "secret"};
  EXPECT_EQ(refused(send).code, Errc::internal) << "its destination wants it so";
  send.endpoint->key = "key";
  const Error why = refused(send);
  EXPECT_EQ(why.code, Errc::unsupported);
  EXPECT_NE(why.text().find("migration_relay"), std::string::npos) << why.text();
  hello(0, [](Hello& said) { said.features = agent_features(); });
  EXPECT_EQ(refused(send).code, Errc::internal);
}

TEST_F(Sessions, R_B3_A1_13_a_vm_with_security_groups_starts_only_where_they_are_kept) {
  hello(0);
  VmLaunch launch;
  launch.nics.resize(1);
  EXPECT_EQ(refused(CommandKind::start, launch).code, Errc::internal) << "it has none";
  launch.nics[0].guarded = true;
  EXPECT_EQ(refused(CommandKind::start, launch).code, Errc::unsupported);
  EXPECT_EQ(refused(CommandKind::prepare_incoming, launch).code, Errc::unsupported);
  EXPECT_EQ(refused(CommandKind::erase, launch).code, Errc::internal) << "opens nothing";
  sessions_.tell_groups(HostId(name(0)), {});
  EXPECT_TRUE(groups_.empty());
  hello(0, [](Hello& said) { said.features = agent_features(); });
  EXPECT_EQ(refused(CommandKind::start, launch).code, Errc::internal);
}

TEST_F(Sessions, R_B3_large_groups_are_told_in_several_messages_and_the_last_says_so) {
  hello(0, [](Hello& said) { said.features = agent_features(); });
  FabricGroups told;
  told.whole = true;
  for (int number = 0; number < 2000; ++number)
    told.ports.push_back({fmt::format("acme/vm-{}-0", number), 1001, "10.50.0.10", {"acme/web"}});
  const std::vector<SecurityRule> rules(64, SecurityRule());
  for (int number = 0; number < 100; ++number)
    told.rules.push_back({1001, fmt::format("acme/{}", number), rules});
  const std::vector<std::string> addresses(50'000, "10.150.200.250");
  told.members.push_back({1001, "acme/web", addresses});
  told.members.push_back({1001, "acme/none", {}});
  sessions_.tell_groups(HostId(name(0)), told);
  std::size_t ports = 0, rule_lists = 0, members = 0;
  ASSERT_GT(groups_.size(), 1U);
  for (std::size_t at = 0; at < groups_.size(); ++at) {
    const FabricGroups& part = groups_[at];
    ServerMessage message;
    message.groups = part;
    EXPECT_LT(to_json_text(message).size(), std::size_t{1} << 20);
    EXPECT_EQ(part.whole, at == 0);
    EXPECT_EQ(part.more, at + 1 < groups_.size());
    ports += part.ports.size();
    rule_lists += part.rules.size();
    for (const GroupMembers& one : part.members) members += one.addresses.size();
  }
  EXPECT_EQ(ports, told.ports.size());
  EXPECT_EQ(rule_lists, told.rules.size());
  EXPECT_EQ(members, addresses.size());
  EXPECT_EQ(groups_.back().members.back().group, "acme/none");
}

TEST_F(Sessions, R_B3_gateways_are_told_in_several_messages_and_only_to_who_can_have_them) {
  FabricGateways told;
  told.whole = true;
  told.networks = {{1001, "10.50.0.1/16", "front.acme.virga", 1450, true}};
  told.gone = {1002};
  for (int number = 0; number < 5000; ++number)
    told.members.push_back({1001, fmt::format("acme/vm-{}-0", number), "52:54:00:00:00:0a",
                            "10.150.200.250", fmt::format("vm-{}", number)});
  hello(0);
  sessions_.tell_gateways(HostId(name(0)), told);
  EXPECT_TRUE(gateways_.empty());
  hello(0, [](Hello& said) { said.features = agent_features(); });
  sessions_.tell_gateways(HostId(name(0)), told);
  std::size_t members = 0;
  ASSERT_GT(gateways_.size(), 1U);
  for (std::size_t at = 0; at < gateways_.size(); ++at) {
    const FabricGateways& part = gateways_[at];
    ServerMessage message;
    message.gateways = part;
    EXPECT_LT(to_json_text(message).size(), std::size_t{1} << 20);
    EXPECT_EQ(part.whole, at == 0);
    EXPECT_EQ(part.networks.size(), at == 0 ? 1U : 0U);
    EXPECT_EQ(part.gone.size(), at == 0 ? 1U : 0U);
    EXPECT_EQ(part.more, at + 1 < gateways_.size());
    members += part.members.size();
  }
  EXPECT_EQ(members, told.members.size());
}

TEST_F(Sessions, F_B6_few_consoles_of_a_host_are_read_at_a_time) {
  hello(0);
  EXPECT_EQ(refused(CommandKind::console).code, Errc::unsupported) << "it cannot upload";
  hello(0, [](Hello& said) { said.features = agent_features(); });
  for (int count = 0; count < 4; ++count) {
    EXPECT_EQ(refused(CommandKind::console).code, Errc::internal);
  }
  const std::uint64_t command = last_command_;
  const Error fifth = refused(CommandKind::console);
  EXPECT_EQ(fifth.code, Errc::exhausted);
  EXPECT_NE(fifth.text().find("ask again"), std::string::npos);
  EXPECT_EQ(refused(CommandKind::stop).code, Errc::internal) << "others are not held up";
  EXPECT_TRUE(sessions_.uploaded("agent:host-0", command, "login:").ok());
  EXPECT_EQ(refused(CommandKind::console).code, Errc::internal) << "one is over";
}

TEST_F(Sessions, F_B6_an_upload_is_taken_once_and_from_its_own_host_only) {
  const auto all = [](Hello& said) { said.features = agent_features(); };
  hello(0, all);
  hello(1, all);
  Command console;
  console.kind = CommandKind::console;
  std::string seen;
  sessions_.call(HostId(name(0)), console, seconds(5), [&](const Result<CommandResult>& answer) {
    ASSERT_TRUE(answer.ok()) << answer.error().text();
    seen += answer->text;
  });
  const std::uint64_t command = last_command_;
  for (const char* stranger :
       {"agent:host-1", "host-0", "server", "agent:", "agent:host-999", ""}) {
    EXPECT_EQ(sessions_.uploaded(stranger, command, "forged").error().code, Errc::not_found)
        << stranger;
  }
  EXPECT_EQ(sessions_.uploaded("agent:host-0", command + 1, "late").error().code, Errc::not_found);
  EXPECT_TRUE(sessions_.uploaded("agent:host-0", command, "login:").ok());
  EXPECT_EQ(sessions_.uploaded("agent:host-0", command, "twice").error().code, Errc::not_found);
  EXPECT_EQ(seen, "login:");
  refused(CommandKind::stop);
  EXPECT_EQ(sessions_.uploaded("agent:host-0", last_command_, "done").error().code, Errc::not_found)
      << "not what a stop is answered with";
}

}  // namespace
}  // namespace virga
