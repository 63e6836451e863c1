#include "server/core/agent_sessions.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

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
    sessions_.set_probe_key("00ff");
    sessions_.start([](const HostId&) {}, [](const Event&) {});
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
    if (!message.cluster) return;
    ++states_;
    members_[session] = message.cluster->members.size();
  }
  void close(SessionId) override {}

  void hello(int number) {
    const auto session = static_cast<SessionId>(number) + 1;
    sessions_.opened(session, "agent:" + name(number));
    AgentMessage message;
    message.hello = Hello();
    message.hello->host = HostId(name(number));
    message.hello->address = fmt::format("10.0.{}.{}", number / 250, number % 250 + 1);
    sessions_.received(session, std::move(message));
  }

  SimLoop loop_;
  MemoryStore store_;
  StoreMirror mirror_;
  AgentSessions sessions_;
  int states_ = 0;
  std::uint64_t last_command_ = 0;
  std::map<SessionId, std::size_t> members_;
};

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

}  // namespace
}  // namespace virga
