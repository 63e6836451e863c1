#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <atomic>
#include <filesystem>
#include <mutex>
#include <thread>

#include "agent/balancer_folders.h"
#include "agent/balancers.h"
#include "driver/haproxy/haproxy_balancer.h"
#include "driver/net/guest_fixture.h"
#include "edge/file.h"

/// What the agent does for a service, on hosts as network namespaces: a leg, HAProxy in it, guests
/// as servers and client.
namespace virga::test {
namespace {

namespace fs = std::filesystem;

constexpr std::uint32_t kVni = 1001;
const ServiceId kService("acme/web");
const BalancerLeg kLeg{kVni, "52:54:00:00:00:0a", "10.50.0.10/24", 1450};

/// Runs in a thread of its own until it ends.
class Background {
 public:
  virtual ~Background() = default;
  void begin() {
    thread_ = std::thread([this] { run(); });
  }
  void end() {
    ending_ = true;
    const std::uint64_t one = 1;
    EXPECT_EQ(::write(wake_.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
    if (thread_.joinable()) thread_.join();
  }

 protected:
  virtual void run() = 0;
  std::atomic<bool> ending_ = false;
  Descriptor wake_{::eventfd(0, EFD_CLOEXEC)};

 private:
  std::thread thread_;
};

/// Answers each request on port 80 of a guest with a name.
class NamedServer final : public Background {
 public:
  NamedServer(const Guest& guest, std::string name)
      : name_(std::move(name)), listener_(guest.socket(SOCK_STREAM, 80)) {
    begin();
  }
  ~NamedServer() override { end(); }

 private:
  void run() override {
    pollfd questions[2] = {{listener_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    while (!ending_ && ::poll(questions, 2, kDeadlineMs) > 0) {
      if ((questions[0].revents & POLLIN) == 0) continue;
      const Descriptor client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (Guest::received(client, 1000).empty()) continue;  // a check
      const std::string text = "HTTP/1.0 200 OK\r\n\r\n" + name_;
      ::send(client.get(), text.data(), text.size(), MSG_NOSIGNAL);
    }
  }

  std::string name_;
  Descriptor listener_;
};

/// Asks without pause, each time on a new connection.
class Client final : public Background {
 public:
  explicit Client(const Guest& guest) : guest_(guest) { begin(); }
  ~Client() override { end(); }

  int answered_by(const std::string& name) {
    const std::lock_guard lock(mutex_);
    return answers_[name];
  }
  int answers() {
    const std::lock_guard lock(mutex_);
    int all = 0;
    for (const auto& [name, count] : answers_) all += count;
    return all;
  }
  std::string failed() {
    const std::lock_guard lock(mutex_);
    return failed_;
  }

 private:
  std::string ask() const {
    const Descriptor socket = guest_.socket(SOCK_STREAM, 0);
    const sockaddr_in where = Guest::end("10.50.0.10", 80);
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0) {
      return std::string("connect: ") + std::strerror(errno);
    }
    const std::string request = "GET / HTTP/1.0\r\n\r\n";
    ::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL);
    std::string answer;
    for (std::string part; !(part = Guest::received(socket, kDeadlineMs)).empty();) answer += part;
    return answer;
  }
  void run() override {
    while (!ending_) {
      const std::string answer = ask();
      const std::lock_guard lock(mutex_);
      const bool right = answer.find(" 200 ") != std::string::npos;
      if (right) ++answers_[answer.substr(answer.rfind('\n') + 1)];
      if (!right) failed_ += "[" + answer + "]";
    }
  }

  const Guest& guest_;
  std::mutex mutex_;
  std::map<std::string, int> answers_;
  std::string failed_;
};

/// What one run of an agent has of networks and balancers.
struct AgentRun {
  AgentRun(AsioLoop& loop, const LinuxFabricOptions& options, const std::string& directory)
      : fabric(std::move(*LinuxFabric::open(loop, options))),
        folders(directory,
                [&loop](const std::string& folder, const std::string& network_namespace) {
                  HaproxyOptions haproxy;
                  haproxy.directory = folder;
                  haproxy.network_namespace = network_namespace;
                  return std::make_unique<HaproxyBalancer>(loop, haproxy);
                }),
        balancers(std::make_unique<Balancers>(*fabric, &folders)) {
    balancers->start();
  }

  std::unique_ptr<LinuxFabric> fabric;
  BalancerFolders folders;
  std::unique_ptr<Balancers> balancers;
};

class BalancersRealTest : public ::testing::Test {
 protected:
  BalancersRealTest() {
    char pattern[] = "/tmp/virga-balancers-XXXXXX";
    if (::mkdtemp(pattern) != nullptr) top_ = pattern;
    join(one_, "10.77.0.1", two_, "10.77.0.2");
    restart_agent();
    far_ = std::make_unique<AgentRun>(loop_, options(two_, "10.77.0.2"), top_ + "/two");
    const FabricState state{1, {network("acme", kVni)}, {}};
    for (LinuxFabric* fabric : fabrics()) {
      check([&](auto done) { fabric->apply(state, done); });
      check([&](auto done) {
        const FabricPlaces at{{}, {{kVni, kLeg.mac, "10.50.0.10", "10.77.0.1"}}, false};
        fabric->place(at, done);
      });
    }
    near_server_ = guest(*agent_->fabric, 20, "10.77.0.1");
    far_server_ = guest(*far_->fabric, 21, "10.77.0.2");
    client_ = guest(*far_->fabric, 30, "10.77.0.2");
  }

  ~BalancersRealTest() override {
    agent_->balancers.reset();  // who would start again what is ended here
    for (const pid_t pid : processes()) ::kill(pid, SIGKILL);
    EXPECT_TRUE(run_until([&] { return processes().empty(); }));
    for (LinuxFabric* fabric : fabrics()) {
      check([&](auto done) { fabric->remove_all(done); });
    }
    fs::remove_all(top_);
  }

  LinuxFabricOptions options(const Namespace& host, const std::string& address) const {
    const std::string begin = "virga-" + std::to_string(::getpid()) + address.back() + "-";
    return {"uplink", address, "vgt", host.get(), true, begin};
  }
  std::vector<LinuxFabric*> fabrics() const { return {agent_->fabric.get(), far_->fabric.get()}; }

  /// As after kill -9: what it has started goes on.
  void restart_agent() {
    agent_.reset();
    agent_ = std::make_unique<AgentRun>(loop_, options(one_, "10.77.0.1"), top_ + "/one");
  }

  std::unique_ptr<Guest> guest(LinuxFabric& fabric, int last, const std::string& host) {
    LaunchNic nic;
    nic.port = "acme/vm-" + std::to_string(last);
    nic.vni = kVni;
    nic.mac = fmt::format("52:54:00:00:00:{:02x}", last);
    const std::string address = "10.50.0." + std::to_string(last);
    nic.address = address + "/24";
    for (LinuxFabric* each : fabrics()) {
      check([&](auto done) { each->place({{}, {{kVni, nic.mac, address, host}}, false}, done); });
    }
    Descriptor opened;
    bool ended = false;
    fabric.open_port(nic, [&](const Result<OpenPort>& port) {
      EXPECT_TRUE(port.ok()) << port.error().text();
      opened = Descriptor(port.ok() ? port->tap_descriptor : -1);
      ended = true;
    });
    EXPECT_TRUE(run_until([&] { return ended; }));
    return std::make_unique<Guest>(std::move(opened), nic.mac, address);
  }

  bool run_until(const std::function<bool()>& condition) {
    const Instant end = loop_.now() + milliseconds(kDeadlineMs);
    while (!condition() && loop_.now() < end) {
      loop_.after(milliseconds(2), [this] { loop_.stop(); });
      loop_.run();
    }
    return condition();
  }

  template <typename Call>
  void check(Call call) {
    std::optional<Result<void>> outcome;
    call([&](Result<void> result) { outcome = std::move(result); });
    ASSERT_TRUE(run_until([&] { return outcome.has_value(); }));
    EXPECT_TRUE(outcome->ok()) << outcome->error().text();
  }

  void carry_out(CommandKind kind, const BalancerSpec& spec = {}) {
    Command command;
    command.kind = kind;
    command.balancer = BalancerCommand{kService, kLeg, spec};
    std::optional<Result<CommandResult>> outcome;
    agent_->balancers->execute(command, [&](auto result) { outcome = std::move(result); });
    ASSERT_TRUE(run_until([&] { return outcome.has_value(); }));
    ASSERT_TRUE(outcome->ok()) << outcome->error().text();
  }

  BalancerSpec spec(const std::vector<std::string>& servers) {
    BalancerSpec made;
    made.revision = ++revision_;
    made.frontends.push_back({"web", "10.50.0.10", 80, BalancerProtocol::http, "web", {}, 1000});
    BalancerPool& pool = made.pools.emplace_back();
    pool.name = "web";
    pool.check.timeout_ms = seconds(20);  // a machine that is busy with others takes its time
    for (const std::string& name : servers) {
      BalancerServer& server = pool.servers.emplace_back();
      server.name = name;
      server.address = name == "near" ? "10.50.0.20" : "10.50.0.21";
      server.port = 80;
    }
    return made;
  }
  void serve_by(const std::vector<std::string>& servers) {
    carry_out(CommandKind::apply_balancer, spec(servers));
  }

  ServiceBalancer seen() const {
    const auto all = agent_->balancers->observe();
    return all.size() == 1 ? all[0] : ServiceBalancer{};
  }

  /// More answers come, also from that server.
  void expect_answers(Client& client, const std::string& name) {
    const int before = client.answers();
    const int named = client.answered_by(name);
    EXPECT_TRUE(run_until([&] {
      return client.answers() > before + 20 && client.answered_by(name) > named;
    })) << client.failed();
  }

  std::vector<pid_t> processes() const {
    std::vector<pid_t> found;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      std::error_code gone;
      const fs::path place = fs::read_symlink(entry.path() / "cwd", gone);
      if (!gone && place.string().rfind(top_, 0) == 0) {
        found.push_back(static_cast<pid_t>(std::stol(entry.path().filename().string())));
      }
    }
    return found;
  }

  AsioLoop loop_;
  std::string top_;
  Namespace one_;
  Namespace two_;
  std::unique_ptr<AgentRun> agent_;
  std::unique_ptr<AgentRun> far_;
  std::unique_ptr<Guest> near_server_;
  std::unique_ptr<Guest> far_server_;
  std::unique_ptr<Guest> client_;
  std::uint64_t revision_ = 0;
};

TEST_F(BalancersRealTest, R_B6_guests_are_served_while_servers_and_agents_come_and_go) {
  const NamedServer near(*near_server_, "near");
  const NamedServer far(*far_server_, "far");
  serve_by({"near", "far"});
  EXPECT_TRUE(seen().running);
  EXPECT_EQ(seen().seen.revision, 1U);
  Client client(*client_);
  expect_answers(client, "near");
  expect_answers(client, "far");
  for (int round = 0; round < 5; ++round) {
    serve_by({"far"});
    expect_answers(client, "far");
    serve_by({"near"});
    expect_answers(client, "near");
  }
  agent_.reset();
  const int before = client.answers();
  EXPECT_TRUE(run_until([&] { return client.answers() > before + 50; })) << "without an agent";
  restart_agent();
  EXPECT_TRUE(run_until([&] { return seen().running; })) << seen().failing;
  EXPECT_EQ(seen().seen.revision, revision_) << "nobody has told it";
  expect_answers(client, "near");
  serve_by({"near", "far"});
  expect_answers(client, "far");
  client.end();
  EXPECT_EQ(client.failed(), "") << "of " << client.answers();
  RecordProperty("requests", client.answers());
  ASSERT_EQ(seen().seen.servers.size(), 2U);
  EXPECT_EQ(seen().seen.servers[0].health, BalancerHealth::up);
}

TEST_F(BalancersRealTest, R_B6_a_balancer_that_is_removed_leaves_nothing) {
  const auto devices = one_.devices();
  serve_by({"near"});
  const std::string space = agent_->fabric->leg_namespace(kService);
  EXPECT_TRUE(fs::exists(space));
  EXPECT_TRUE(one_.devices().contains(agent_->fabric->leg_name(kService.value)));
  restart_agent();
  EXPECT_TRUE(run_until([&] { return seen().running; })) << seen().failing;
  carry_out(CommandKind::remove_balancer);
  EXPECT_TRUE(agent_->balancers->observe().empty());
  EXPECT_TRUE(run_until([&] { return processes().empty(); }));
  EXPECT_FALSE(fs::exists(space));
  EXPECT_EQ(one_.devices().size(), devices.size());
  EXPECT_TRUE(fs::is_empty(top_ + "/one"));
  const auto mounts = read_file("/proc/self/mountinfo");
  ASSERT_TRUE(mounts.ok());
  EXPECT_EQ(mounts->find(space), std::string::npos);
}

TEST_F(BalancersRealTest, R_B6_a_leg_that_somebody_took_away_comes_back_with_the_next_apply) {
  const NamedServer near(*near_server_, "near");
  serve_by({"near"});
  check([&](auto done) { agent_->fabric->close_leg(kService, done); });
  serve_by({"near"});
  // HAProxy is in the namespace of before, whose name is gone: only its end sets that right.
  for (const pid_t pid : processes()) ::kill(pid, SIGKILL);
  Client client(*client_);
  EXPECT_TRUE(run_until([&] { return client.answered_by("near") > 20; })) << client.failed();
}

}  // namespace
}  // namespace virga::test
