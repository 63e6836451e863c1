#include "driver/haproxy/haproxy_balancer.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <set>
#include <sstream>

#include "driver/haproxy/control.h"
#include "driver/haproxy/keep_alive_client.h"
#include "driver/load_balancer_contract_tests.h"
#include "edge/file.h"
#include "edge/http.h"
#include "edge/listen_tcp.h"

namespace virga {
namespace {

namespace fs = std::filesystem;

constexpr const char* kKeyBegins = "-----BEGIN PRIVATE KEY";

/// A balancer in a folder of its own, real servers, clients that keep their connection and others.
class HaproxyLab : public LoadBalancerLab {
 public:
  HaproxyLab() {
    char pattern[] = "/tmp/virga-haproxy-XXXXXX";
    if (::mkdtemp(pattern) != nullptr) folder_ = pattern;
    options.directory = folder_ + "/balancer";
    if (::geteuid() != 0) options.user.clear();
    restart_agent();
  }

  ~HaproxyLab() override {
    end_load();
    balancer_.reset();
    for (const fs::path& process : processes()) {
      ::kill(static_cast<pid_t>(std::stol(process.filename().string())), SIGKILL);
    }
    EXPECT_TRUE(run_until([&] { return processes().empty(); }, seconds(5)));
    fs::remove_all(folder_);
  }

  LoadBalancer& balancer() override { return *balancer_; }

  void restart_agent() override {
    balancer_.reset();
    balancer_ = std::make_unique<HaproxyBalancer>(loop_, options);
    bool open = false;
    balancer_->open([&](Result<void> opened) {
      EXPECT_TRUE(opened.ok()) << opened.error().text();
      open = true;
    });
    EXPECT_TRUE(run_until([&] { return open; }, seconds(30)));
  }

  int master() const {
    const auto text = read_file(options.directory + "/master.json");
    EXPECT_TRUE(text.ok());
    return static_cast<int>(parse_json(*text)->at("pid").as_int64());
  }
  void kill_balancer() override { ::kill(master(), SIGKILL); }

  BalancerServer start_server(const std::string& name) override {
    auto server = HttpServer::listen(
        loop_, {}, [this, name](HttpRequest request, std::shared_ptr<HttpReply> reply) {
          if (!request.query.contains("hold")) return reply->send({200, {}, name});
          held_.push_back([reply, name] { reply->send({200, {}, name}); });
        });
    EXPECT_TRUE(server.ok());
    BalancerServer made;
    made.name = name;
    made.address = "127.0.0.1";
    made.port = (*server)->port();
    servers_[name] = std::move(*server);
    return made;
  }
  void end_server(const std::string& name) override { servers_.erase(name); }

  /// Bound and not listening as long as this lives: nobody is given it who asks for any.
  int free_port() override {
    Descriptor bound(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int yes = 1;
    ::setsockopt(bound.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::bind(bound.get(), reinterpret_cast<const sockaddr*>(&where), sizeof where), 0);
    kept_.push_back(std::move(bound));
    return port_of(kept_.back());
  }
  int taken_port() override {
    kept_.push_back(std::move(*listen_tcp("127.0.0.1", 0, 1)));
    return port_of(kept_.back());
  }

  std::string certificate() override { return certificate_for("127.0.0.1"); }
  std::string certificate_for(const std::string& address) {
    const auto authority = CertificateAuthority::open(folder_ + "/authority");
    EXPECT_TRUE(authority.ok());
    const auto made = authority->issue({"balancer", {}, {address}});
    EXPECT_TRUE(made.ok());
    trusted_ = made->trusted;
    return made->certificate + made->private_key;
  }

  void ask_slowly(const BalancerFrontend& at) override {
    slow_.clear();
    http_call(loop_, call_to(at, "/?hold=1"), [this](Result<HttpResponse> answer) {
      slow_ = answer.ok() && answer->status == 200 ? answer->body : "failed";
    });
  }
  void release_answers() override {
    for (const Task& send : std::exchange(held_, {})) send();
  }
  std::string slow_answer() override { return slow_; }

  HttpCall call_to(const BalancerFrontend& at, const std::string& path) const {
    HttpCall call;
    const char* scheme = at.certificate.empty() ? "http" : "https";
    call.url = fmt::format("{}://{}:{}{}", scheme, at.address, at.port, path);
    call.tls.trusted = trusted_;
    call.deadline = seconds(30);
    return call;
  }

  void begin_load(const BalancerFrontend& at, int clients) override {
    report_ = {};
    loading_ = true;
    for (int index = 0; index < clients; ++index) {
      if (index % 2 == 0 && at.certificate.empty()) {
        keeping_.push_back(std::make_unique<KeepAliveClient>(at.address, at.port));
      } else {
        ask(at);
      }
    }
  }
  LoadReport load() const override {
    LoadReport all = report_;
    for (const auto& client : keeping_) {
      const auto count = client->count();
      all.answered += count.answered;
      all.failed += count.failed;
      all.reconnected += count.reconnected;
      for (const auto& [body, times] : count.by_body) all.by_server[body] += times;
    }
    return all;
  }
  LoadReport end_load() override {
    loading_ = false;
    // The loop goes on meanwhile: the servers live on it, and a client's thread waits for them.
    EXPECT_TRUE(run_until([&] { return under_way_ == 0; }, seconds(20)));
    std::atomic<bool> ended{false};
    std::thread ending([&] {
      for (const auto& client : keeping_) client->end();
      ended = true;
    });
    EXPECT_TRUE(run_until([&] { return ended.load(); }, seconds(20)));
    ending.join();
    report_ = load();
    keeping_.clear();
    return report_;
  }

  std::vector<std::string> leftovers() override {
    std::vector<std::string> left;
    if (fs::exists(options.directory)) left.push_back(options.directory);
    for (const fs::path& process : processes()) left.push_back(process);
    return left;
  }

  bool run_until(const std::function<bool()>& condition, Duration deadline) override {
    const Instant end = loop_.now() + deadline;
    while (!condition() && loop_.now() < end) {
      loop_.after(milliseconds(2), [this] { loop_.stop(); });
      loop_.run();
    }
    return condition();
  }

  /// "VERSION STATUS" that a client which is not ours is answered with.
  std::string curl(const std::string& scheme, int port, const std::string& version) {
    ProcessOptions made;
    made.arguments = {"/usr/bin/curl",
                      "-sk",
                      version,
                      "-o",
                      "/dev/null",
                      "-w",
                      "%{http_version} %{http_code}",
                      fmt::format("{}://127.0.0.1:{}/", scheme, port)};
    std::string said;
    std::atomic<bool> ended{false};
    std::thread asking([&] {
      const auto output = run_process(made, seconds(10));
      said = output.ok() ? output->out : output.error().text();
      ended = true;
    });
    EXPECT_TRUE(run_until([&] { return ended.load(); }, seconds(20)));
    asking.join();
    return said;
  }

  /// To the running HAProxy, past the driver.
  std::string tell(const std::string& command) {
    const auto answer = HaproxyControl(loop_, options.directory, -1, seconds(5)).ask(command);
    EXPECT_TRUE(answer.ok());
    return answer.ok() ? *answer : std::string();
  }

  AsioLoop& loop() { return loop_; }
  HaproxyOptions options;

 private:
  void ask(const BalancerFrontend& at) {
    ++under_way_;
    http_call(loop_, call_to(at, "/"), [this, at](Result<HttpResponse> answer) {
      --under_way_;
      const bool well = answer.ok() && answer->status == 200;
      ++(well ? report_.answered : report_.failed);
      if (well) ++report_.by_server[answer->body];
      if (loading_) ask(at);
    });
  }

  /// Of this balancer, as /proc/PID.
  std::vector<fs::path> processes() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      std::error_code gone;
      const fs::path place = fs::read_symlink(entry.path() / "cwd", gone);
      if (!gone && place.string().rfind(options.directory, 0) == 0) found.push_back(entry.path());
    }
    return found;
  }

  AsioLoop loop_;
  std::string folder_;
  std::string trusted_;
  std::map<std::string, std::unique_ptr<HttpServer>> servers_;
  std::vector<Descriptor> kept_;
  std::vector<Task> held_;
  std::unique_ptr<HaproxyBalancer> balancer_;
  std::string slow_;
  LoadReport report_;
  bool loading_ = false;
  int under_way_ = 0;
  std::vector<std::unique_ptr<KeepAliveClient>> keeping_;
};

std::unique_ptr<LoadBalancerLab> make_lab() { return std::make_unique<HaproxyLab>(); }

class HaproxyBalancerTest : public LoadBalancerContract {
 protected:
  HaproxyLab& haproxy() { return static_cast<HaproxyLab&>(*lab); }

  Result<HttpResponse> call(const BalancerFrontend& at) {
    return wait<HttpResponse>([&](Callback<HttpResponse> done) {
      http_call(haproxy().loop(), haproxy().call_to(at, "/"), std::move(done));
    });
  }
};

TEST_P(HaproxyBalancerTest, R_B6_AKeyOfAnotherCertificateLeavesNothingTheFirstTime) {
  want_servers(1);
  const std::string one = lab->certificate();
  const std::string other = lab->certificate();
  spec.frontends[0].certificate =
      one.substr(0, one.find(kKeyBegins)) + other.substr(other.find(kKeyBegins));
  VIRGA_FAILS(apply(), Errc::invalid);
  EXPECT_TRUE(lab->leftovers().empty());
  spec.frontends[0].certificate = one;
  VIRGA_OK(apply());
  EXPECT_EQ(haproxy().curl("https", web().port, "--http2"), "2 200");
  EXPECT_EQ(haproxy().curl("https", web().port, "--http1.1"), "1.1 200");
}

TEST_P(HaproxyBalancerTest, R_B6_ARecordThatACrashDamagedDoesNotStopABalancer) {
  want_servers(1);
  VIRGA_OK(apply());
  const int master = haproxy().master();
  ::kill(master, SIGKILL);
  ASSERT_TRUE(replace_file(haproxy().options.directory + "/master.json", "", 0600).ok());
  lab->restart_agent();
  EXPECT_NE(haproxy().master(), master);
  EXPECT_EQ(haproxy().curl("http", web().port, "--http1.1"), "1.1 200");
}

TEST_P(HaproxyBalancerTest, R_B6_TlsEndsAtTheBalancerAndItsCertificateIsReplacedUnderLoad) {
  want_servers(2);
  spec.frontends[0].certificate = lab->certificate();
  VIRGA_OK(apply());
  BalancerFrontend plain = web();
  plain.certificate.clear();
  const auto without = call(plain);
  EXPECT_TRUE(!without.ok() || without->status != 200);
  lab->begin_load(web(), 4);
  serve(50);
  const BalancerSpec good = spec;
  const std::string other = lab->certificate();
  spec.frontends[0].certificate = web().certificate.substr(0, web().certificate.find(kKeyBegins)) +
                                  other.substr(other.find(kKeyBegins));
  const auto refused = apply();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Errc::invalid) << refused.error().text();
  EXPECT_NE(refused.error().text().find("private key"), std::string::npos);
  serve(20);
  spec = good;
  spec.revision += 1;
  spec.frontends[0].certificate = other;
  VIRGA_OK(apply());
  serve(50);
  EXPECT_EQ(lab->end_load().failed, 0);
  const std::string folder = haproxy().options.directory + "/certificates";
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1) << "old keys do not stay";
}

/// The inodes of the sockets that listen at a port of this host, in text.
std::set<std::string> listening_sockets(int port) {
  std::set<std::string> found;
  std::istringstream lines(*read_file("/proc/net/tcp"));
  std::string line;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    const std::vector<std::string> fields{std::istream_iterator<std::string>(words), {}};
    const bool here = fields.size() > 9 && fields[1].ends_with(fmt::format(":{:04X}", port));
    if (here && fields[3] == "0A") found.insert(fields[9]);
  }
  return found;
}

TEST_P(HaproxyBalancerTest, R_B6_AReloadHandsTheListeningSocketOver) {
  want_servers(1);
  VIRGA_OK(apply());
  const auto before = listening_sockets(web().port);
  ASSERT_EQ(before.size(), 1U);
  const std::string counters = observe()->counters;
  spec.pools[0].check.fall = 5;
  VIRGA_OK(apply());
  EXPECT_NE(observe()->counters, counters);
  EXPECT_EQ(listening_sockets(web().port), before) << "clients that wait in it are not lost";
}

TEST_P(HaproxyBalancerTest, R_B6_AWorkerThatEndsIsReplaced) {
  want_servers(2);
  VIRGA_OK(apply());
  const std::string counters = observe()->counters;  // its pid
  ASSERT_EQ(::kill(static_cast<pid_t>(std::stol(counters)), SIGKILL), 0);
  EXPECT_TRUE(lab->run_until(
      [&] {
        const auto all = observe();
        return all.ok() && all->counters != counters;
      },
      seconds(10)));
  lab->begin_load(web(), 4);
  serve(50);
  EXPECT_EQ(lab->end_load().failed, 0);
}

TEST_P(HaproxyBalancerTest, R_B6_WhatSomebodyChangedInTheRunningOneIsPutRight) {
  want_servers(2);
  VIRGA_OK(apply());
  const std::string counters = observe()->counters;
  haproxy().tell("set server servers/s1 weight 1");
  haproxy().tell("set server servers/s2 state maint");
  ASSERT_EQ(seen("s2").state, BalancerServerState::maintenance);
  VIRGA_OK(apply());
  EXPECT_EQ(seen("s2").state, BalancerServerState::ready);
  lab->begin_load(web(), 4);
  serve(100);
  EXPECT_NEAR(static_cast<double>(answered_by("s1")), static_cast<double>(answered_by("s2")), 10);
  EXPECT_EQ(lab->end_load().failed, 0);
  EXPECT_EQ(observe()->counters, counters);
}

TEST_P(HaproxyBalancerTest, R_B6_AFileThatNobodyHasReadYetIsTakenOver) {
  want_servers(1);
  VIRGA_OK(apply());
  // An agent that died between its file and the reload.
  BalancerSpec newer = spec;
  newer.pools[0].check.fall = 7;
  const auto configuration = render(newer, haproxy().options);
  const std::string path = haproxy().options.directory + "/haproxy.cfg";
  ASSERT_TRUE(replace_file(path, configuration.text, 0600).ok());
  lab->restart_agent();
  EXPECT_EQ(*read_file(path), render(spec, haproxy().options).text) << "what was promised counts";
  EXPECT_EQ(lab->balancer().revision(), 1U);
  spec = newer;
  VIRGA_OK(apply());
  EXPECT_NE(haproxy().tell("show info").find(configuration.shape), std::string::npos);
}

TEST_P(HaproxyBalancerTest, R_B6_AServerThatHangsIsOutWithinTheBoundOfItsCheck) {
  want_servers(1);
  const auto silent = listen_tcp("127.0.0.1", 0, 128);  // takes connections and says nothing
  ASSERT_TRUE(silent.ok());
  BalancerServer hanging = servers()[0];
  hanging.name = "s2";
  hanging.port = port_of(*silent);
  servers().push_back(hanging);
  VIRGA_OK(apply());
  EXPECT_TRUE(comes_to("s2", BalancerHealth::down, milliseconds(800) + seconds(2)));
}

TEST_P(HaproxyBalancerTest, R_B6_WhatWaitsForAServerIsSeen) {
  want_servers(1);
  servers()[0].connections_max = 1;
  VIRGA_OK(apply());
  lab->ask_slowly(web());
  ASSERT_TRUE(lab->run_until([&] { return seen("s1").sessions == 1; }, seconds(5)));
  lab->ask_slowly(web());
  EXPECT_TRUE(lab->run_until([&] { return observe()->pools[0].queue == 1; }, seconds(5)));
  lab->release_answers();
  EXPECT_TRUE(lab->run_until([&] { return seen("s1").total == 2; }, seconds(5)));
}

TEST_P(HaproxyBalancerTest, R_B6_WhoJoinsTakesWhatWaits) {
  want_servers(2);
  for (BalancerServer& server : servers()) server.connections_max = 1;
  servers()[1].state = BalancerServerState::drain;
  VIRGA_OK(apply());
  ASSERT_TRUE(comes_to("s2", BalancerHealth::up, seconds(5)));
  const auto waiting = [&](std::int64_t count) {
    return lab->run_until([&] { return observe()->pools[0].queue == count; }, seconds(5));
  };
  for (int request = 0; request < 4; ++request) lab->ask_slowly(web());
  ASSERT_TRUE(waiting(3));
  servers()[1].state = BalancerServerState::ready;
  VIRGA_OK(apply());
  EXPECT_TRUE(waiting(2)) << "one that was drained";
  servers().push_back(lab->start_server("s3"));
  servers().back().connections_max = 1;
  VIRGA_OK(apply());
  EXPECT_TRUE(waiting(1)) << "one that is new";
  EXPECT_EQ(seen("s3").sessions, 1);
  servers().back().connections_max = 0;
  VIRGA_OK(apply());
  EXPECT_TRUE(waiting(0)) << "one that has no bound any more";
  lab->release_answers();
  EXPECT_TRUE(waiting(0));
}

/// A network namespace without a name: it ends with the last descriptor.
Descriptor new_namespace() {
  const Descriptor home(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(::unshare(CLONE_NEWNET), 0) << "making network namespaces needs CAP_SYS_ADMIN";
  Descriptor made(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(::setns(home.get(), CLONE_NEWNET), 0);
  return made;
}

TEST_P(HaproxyBalancerTest, R_B6_AFrontendIsInTheNamespaceThatItBelongsTo) {
  const Descriptor space = new_namespace();
  const auto inside = [&](std::vector<std::string> arguments) {
    ProcessOptions made;
    made.arguments = std::move(arguments);
    made.network_namespace = space.get();
    const auto ended = run_process(made, seconds(10));
    return ended.ok() ? ended->out : ended.error().text();
  };
  inside({"/usr/sbin/ip", "link", "set", "lo", "up"});
  haproxy().options.network_namespace = fmt::format("/proc/{}/fd/{}", ::getpid(), space.get());
  lab->restart_agent();
  want_servers(1);
  VIRGA_OK(apply());
  const auto ask = [&] {
    return inside({"/usr/bin/curl", "-s", "-o", "/dev/null", "-w", "%{http_code}",
                   fmt::format("http://127.0.0.1:{}/", web().port)});
  };
  EXPECT_EQ(ask(), "503") << "its server is not in there";
  EXPECT_FALSE(call(web()).ok()) << "out here nobody listens";
  spec.pools[0].check.fall = 5;
  VIRGA_OK(apply());
  EXPECT_EQ(ask(), "503");
}

INSTANTIATE_TEST_SUITE_P(Haproxy, HaproxyBalancerTest, testing::Values(&make_lab));
INSTANTIATE_TEST_SUITE_P(Haproxy, LoadBalancerContract, testing::Values(&make_lab));

}  // namespace
}  // namespace virga
