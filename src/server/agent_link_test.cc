#include <poll.h>

#include <algorithm>
#include <list>
#include <mutex>
#include <set>

#include "agent/agent_connection.h"
#include "agent/agent_fixture.h"
#include "base/log.h"
#include "edge/http_test_support.h"
#include "server/agent_listener.h"
#include "store/memory_store.h"

/// Both ends of the agents' link as they are shipped, over TLS on loopback.
namespace virga {
namespace {

/// Passes connections on to a server. When `narrow`, all but the first get kBytes through to it and
/// then stand still, open, until `narrow` ends.
class Narrows {
 public:
  explicit Narrows(std::uint16_t target) : target_(target), port_(listener_.listen(8)) {
    thread_ = std::thread([this] { pass(); });
  }
  ~Narrows() {
    stop_ = true;
    thread_.join();
  }
  std::uint16_t port() const { return port_; }
  std::atomic<bool> narrow = true;
  std::atomic<int> stalled = 0;  ///< connections that have reached the narrow place

 private:
  static constexpr std::size_t kBytes = 16'000;  // the handshake and a part of the body

  struct Pair {
    RawSocket client;
    RawSocket server;
    std::size_t carried = 0;
    bool told = false;
  };

  bool holds(const Pair& pair) const {
    return narrow && &pair != &pairs_.front() && pair.carried >= kBytes;
  }

  static bool carry(const RawSocket& from, const RawSocket& to, std::size_t& carried) {
    char block[4096];
    const auto size = ::recv(from.number(), block, sizeof block, MSG_DONTWAIT);
    if (size < 0) return true;
    carried += static_cast<std::size_t>(size);
    return size > 0 && ::send(to.number(), block, static_cast<std::size_t>(size), MSG_NOSIGNAL) > 0;
  }

  void serve(Pair& pair) {
    std::size_t back = 0;
    if (holds(pair)) {
      if (!std::exchange(pair.told, true)) ++stalled;
      return;
    }
    carry(pair.client, pair.server, pair.carried);
    carry(pair.server, pair.client, back);
  }

  void pass() {
    while (!stop_) {
      std::vector<pollfd> ends{{listener_.number(), POLLIN, 0}};
      for (const Pair& pair : pairs_) {
        if (holds(pair)) continue;
        ends.push_back({pair.client.number(), POLLIN, 0});
        ends.push_back({pair.server.number(), POLLIN, 0});
      }
      ::poll(ends.data(), ends.size(), 5);
      if ((ends[0].revents & POLLIN) != 0) {
        const int client = ::accept4(listener_.number(), nullptr, nullptr, SOCK_CLOEXEC);
        pairs_.push_back({RawSocket::adopt(client), RawSocket(target_)});
      }
      for (Pair& pair : pairs_) serve(pair);
    }
  }

  RawSocket listener_;
  std::uint16_t target_;
  std::uint16_t port_ = 0;
  std::list<Pair> pairs_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

class LongConsole : public test::FakeHypervisor {
 public:
  Result<std::string> console_tail(const VmId& vm, std::size_t bytes_max) const override {
    if (vm != VmId("acme/web")) return make_error(Errc::not_found, "no such VM here");
    return std::string(bytes_max, 'x');
  }
};

class AgentLinkTest : public HttpTest {
 protected:
  AgentLinkTest()
      : store_(loop_, Rng(1), {}),
        mirror_(loop_, store_),
        sessions_(loop_, store_, mirror_, port_) {
    Cluster cluster;
    cluster.meta.name = "lab";
    cluster.spec.policy.heartbeat_ms = milliseconds(50);
    Host host;
    host.meta.name = "host-1";
    host.spec.cluster = cluster.id();
    Transaction transaction;
    transaction.put(cluster);
    transaction.put(host);
    store_.commit(transaction.guards(), transaction.writes(), [](Result<CommitOutcome>) {});
    sessions_.set_probe_keys([](const ClusterId&) { return "00ff"; });
    mirror_.open([this](const Result<void>& opened) {
      EXPECT_TRUE(opened.ok());
      sessions_.start([](const HostId&) {}, [](const HostId&) {}, [](const Event&) {});
      port_.serve(sessions_);
    });
    HttpServerOptions options;
    options.tls = identity("server");
    const auto listening = port_.listen(
        loop_, options, [](const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
          reply->send({.status = 404});
        });
    EXPECT_TRUE(listening.ok());
  }

  void connect(std::uint16_t port) { connect(port, identity("agent:host-1")); }

  void connect(std::uint16_t port, TlsIdentity tls) {
    AgentConnectionOptions options;
    options.server = "wss://127.0.0.1:" + std::to_string(port);
    options.tls = std::move(tls);
    core_.reset();
    connection_ = std::make_unique<AgentConnection>(loop_, options, 1);
    AgentOptions core;
    core.hello.host = HostId("host-1");
    core_ = std::make_unique<AgentCore>(
        AgentDependencies{loop_, hypervisor_, fabric_, guard_, *connection_, peers_,
                          [] { return Capacity(); }, [] { return std::string(); }},
        core);
    core_->start([this](const Result<void>&) { connection_->start(*core_); });
  }

  /// Runs the loop until `reached` holds, at most 60 s.
  void run_until(const std::function<bool()>& reached) {
    Timer look(loop_);
    const std::function<void()> again = [&] {
      if (reached()) return loop_.stop();
      look.set_after(milliseconds(5), again);
    };
    again();
    run();
  }

  /// Whether it holds before the deadline.
  bool run_for(Duration deadline, const std::function<bool()>& reached) {
    const Instant end = loop_.now() + deadline;
    run_until([&] { return reached() || loop_.now() >= end; });
    return reached();
  }

  void ask_for_console(const std::string& vm) {
    Command command;
    command.kind = CommandKind::console;
    command.vm = VmId(vm);
    sessions_.call(HostId("host-1"), command, seconds(40), [this](Result<CommandResult> answer) {
      answer_ = std::move(answer);
      answered_ = true;
    });
  }

  std::uint64_t reports() { return sessions_.find(HostId("host-1"))->report.sequence; }

  AgentListener port_;
  MemoryStore store_;
  StoreMirror mirror_;
  AgentSessions sessions_;
  LongConsole hypervisor_;
  NullFabric fabric_{loop_};
  test::FakeGuard guard_;
  test::FakeLink peers_;
  std::unique_ptr<AgentConnection> connection_;
  std::unique_ptr<AgentCore> core_;
  Result<CommandResult> answer_ = make_error(Errc::internal, "none");
  bool answered_ = false;
};

TEST_F(AgentLinkTest, F_B6_reports_and_grants_pass_a_console_that_stands_still) {
  Narrows narrows(port_.port());
  connect(narrows.port());
  run_until([this] { return core_->lease_valid() && guard_.deadline > Instant(); });
  ask_for_console("acme/web");
  run_until([&] { return narrows.stalled == 1; });
  const Instant granted = guard_.deadline;
  const std::uint64_t reported = reports();
  run_until([&] { return reports() >= reported + 20; });
  EXPECT_GE(guard_.deadline, granted + milliseconds(50 * 10)) << "grants came meanwhile";
  EXPECT_FALSE(answered_) << "the console was not held up, and so nothing was shown";
  narrows.narrow = false;
  run_until([this] { return answered_; });
  ASSERT_TRUE(answer_.ok()) << answer_.error().text();
  EXPECT_EQ(answer_->text, std::string(64 << 10, 'x'));
}

TEST_F(AgentLinkTest, F_B6_a_console_that_cannot_be_read_says_why) {
  connect(port_.port());
  run_until([this] { return core_->lease_valid(); });
  run_until([this] { return sessions_.find(HostId("host-1")) != nullptr; });
  ask_for_console("acme/nobody");
  run_until([this] { return answered_; });
  EXPECT_EQ(answer_.error().code, Errc::not_found);
  EXPECT_NE(answer_.error().text().find("no such VM here"), std::string::npos);
}

TEST_F(AgentLinkTest, F_B6_an_upload_without_a_session_or_a_number_is_refused) {
  const auto post = [this](const std::string& path, const TlsIdentity& tls) {
    HttpCall request;
    request.method = "POST";
    request.url = "https://127.0.0.1:" + std::to_string(port_.port()) + path;
    request.tls = tls;
    request.body = "console";
    const auto answer = call(request);
    return answer.ok() ? answer->status : 0;
  };
  const TlsIdentity agent = identity("agent:host-1");
  EXPECT_EQ(post("/v1/agent/uploads/1", agent), 404);
  EXPECT_EQ(post("/v1/agent/uploads/one", agent), 400);
  EXPECT_EQ(post("/v1/agent/uploads/", agent), 400);
  EXPECT_EQ(post("/v1/agent/uploads/99999999999999999999", agent), 400);
  TlsIdentity nobody = agent;
  nobody.certificate.clear();
  nobody.private_key.clear();
  EXPECT_EQ(post("/v1/agent/uploads/1", nobody), 401);
}

/// Lines of both ends' logs.
std::vector<std::string> told;
std::mutex told_lock;
void keep_line(LogLevel, std::string_view, std::string_view text) {
  const std::lock_guard guard(told_lock);
  told.emplace_back(text);
}
bool was_told(const std::vector<std::string>& words) {
  const std::lock_guard guard(told_lock);
  return std::ranges::any_of(told, [&](const std::string& line) {
    return std::ranges::all_of(
        words, [&](const std::string& word) { return line.find(word) != std::string::npos; });
  });
}

TEST_F(AgentLinkTest, R_F13_certificates_that_expire_under_a_link_do_not_end_it_and_open_no_other) {
  set_log_sink(keep_line);
  told.clear();
  const Instant ends = loop_.now() + seconds(7);
  connect(port_.port(), identity("agent:host-1", seconds(5)));
  run_until([this] { return core_->lease_valid() && guard_.deadline > Instant(); });
  run_until([&] { return loop_.now() > ends; });
  // What is under way goes on, and so does what begins on this link.
  const std::uint64_t reported = reports();
  const Instant granted = guard_.deadline;
  ask_for_console("acme/nobody");
  run_until([this] { return answered_; });
  EXPECT_EQ(answer_.error().code, Errc::not_found) << "the host has answered";
  run_until([&] { return reports() >= reported + 20; });
  EXPECT_GT(guard_.deadline, granted);
  // A new one is refused, and both ends say why.
  connection_->reconnect();
  run_until([] { return was_told({"no session with", "certificate"}); });
  run_until([] { return was_told({"refused 127.0.0.1", "certificate has expired"}); });
  const std::uint64_t last = reports();
  EXPECT_FALSE(run_for(seconds(3), [&] { return reports() != last; })) << "nothing gets through";
  // With a new certificate it goes on.
  connect(port_.port());
  run_until([&] { return core_->lease_valid() && sessions_.find(HostId("host-1"))->session != 0; });
  set_log_sink(nullptr);
}

TEST_F(AgentLinkTest, R_F13_an_agent_refuses_a_server_whose_certificate_has_expired_and_says_so) {
  set_log_sink(keep_line);
  told.clear();
  AgentListener expired;
  HttpServerOptions options;
  options.tls = identity("server", -seconds(60));
  ASSERT_TRUE(expired.listen(loop_, options, nullptr).ok());
  connect(expired.port());
  run_until([] { return was_told({"no session with", "certificate has expired"}); });
  EXPECT_FALSE(core_->lease_valid());
  connect(port_.port());
  run_until([this] { return core_->lease_valid(); });
  set_log_sink(nullptr);
}

TEST(AgentRetries, F_B6_agents_that_lost_their_server_together_come_back_spread_out) {
  const AgentConnectionOptions options;
  for (int failures = 0; failures < 40; ++failures) {
    std::set<std::int64_t> waits;
    const std::int64_t whole = std::min<std::int64_t>(250LL << std::min(failures, 6), 2000);
    for (std::uint64_t agent = 0; agent < 1000; ++agent) {
      Rng jitter(agent);
      const std::int64_t wait = to_ms(wait_before_retry(options, failures, jitter));
      EXPECT_GE(wait, whole / 2);
      EXPECT_LE(wait, whole);
      waits.insert(wait);
    }
    EXPECT_GT(waits.size(), static_cast<std::size_t>(whole / 4)) << "half of the instants at least";
  }
}

}  // namespace
}  // namespace virga
