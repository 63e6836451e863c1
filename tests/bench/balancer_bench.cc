// The load balancer with servers that are processes: what share of the requests that wrk gets
// answered by nginx, on 32 connections, passes through it, and whether one fails while its servers
// are exchanged and its shape changes. Connections are kept. Lines of `name value unit`.
//
//   virga_balancer_bench [rounds=6] [seconds a measurement=2]
//
// VIRGA_NGINX names nginx's program, which `scripts/bench` unpacks: installed it would serve.

#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "driver/haproxy/haproxy_balancer.h"
#include "driver/haproxy/keep_alive_client.h"
#include "edge/file.h"
#include "edge/listen_tcp.h"
#include "edge/process.h"
#include "tools/temp_folder.h"

namespace virga::test {
namespace {

constexpr int kListener = 3;
constexpr int kClients = 4;
constexpr const char* kWrk = "/usr/bin/wrk";

/// Answers what ends with an empty line. False: the client has gone.
bool answer(int client) {
  constexpr std::string_view kAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
  char piece[4096];
  const ssize_t count = ::recv(client, piece, sizeof piece, 0);
  if (count <= 0) return false;
  // Requests of this bench fit into one piece.
  if (!std::string_view(piece, static_cast<std::size_t>(count)).ends_with("\r\n\r\n")) return true;
  return ::send(client, kAnswer.data(), kAnswer.size(), MSG_NOSIGNAL) > 0;
}

/// What a server's process does, until it is killed.
int serve() {
  std::vector<pollfd> all{{kListener, POLLIN, 0}};
  while (::poll(all.data(), all.size(), -1) >= 0) {
    for (std::size_t at = 1; at < all.size(); ++at) {
      if (all[at].revents == 0 || answer(all[at].fd)) continue;
      ::close(all[at].fd);
      all[at].fd = -1;
    }
    if (all[0].revents != 0)
      all.push_back({::accept4(kListener, nullptr, nullptr, SOCK_CLOEXEC), POLLIN, 0});
    std::erase_if(all, [](const pollfd& one) { return one.fd < 0; });
  }
  return 1;
}

struct Server {
  BalancerServer place;
  std::unique_ptr<Process> process;
};

class Bench {
 public:
  explicit Bench(int seconds_each) : seconds_(seconds_each) {
    HaproxyOptions options;
    options.directory = folder_.file("balancer");
    if (::geteuid() != 0) options.user.clear();
    balancer_ = std::make_unique<HaproxyBalancer>(loop_, options);
    call([&](Callback<void> done) { balancer_->open(std::move(done)); });
  }
  ~Bench() {
    call([&](Callback<void> done) { balancer_->remove(std::move(done)); });
    while (!servers_.empty()) end_server();
  }

  void be(BalancerProtocol protocol) {
    const Descriptor free = std::move(*listen_tcp("127.0.0.1", 0, 1));
    spec_.frontends = {{"web", "127.0.0.1", port_of(free), protocol, "servers", "", 1'000}};
    spec_.pools = {{"servers",
                    BalanceAlgorithm::round_robin,
                    {protocol, "/", milliseconds(200), milliseconds(200), 2, 1},
                    {}}};
  }

  /// Requests a second that wrk gets answered.
  double rate(int port) {
    ProcessOptions options;
    options.arguments = {kWrk, "-t1", "-c32", fmt::format("-d{}s", seconds_),
                         fmt::format("http://127.0.0.1:{}/", port)};
    const auto ended = run_process(options, seconds(60));
    VIRGA_CHECK(ended.ok() && ended->exit.code == 0);
    for (const char* failure : {"Socket errors", "Non-2xx"})
      VIRGA_CHECK(ended->out.find(failure) == std::string::npos);
    constexpr std::string_view kRate = "Requests/sec:";
    const auto at = ended->out.find(kRate);
    VIRGA_CHECK(at != std::string::npos);
    return std::atof(ended->out.c_str() + at + kRate.size());
  }
  double direct() { return rate(servers_[0].place.port); }
  double balanced() {
    apply();
    return rate(spec_.frontends[0].port);
  }

  /// The servers are nginx; or those of the exchange, which end at once when they are killed.
  void serve_with(const std::string& nginx) {
    nginx_ = nginx;
    while (!servers_.empty()) end_server();
    for (int index = 0; index < 2; ++index) servers_.push_back(start_server());
  }

  /// Each server is replaced by another process: that is let in, the old one drained, taken out
  /// and ended. Then the balancer gets another shape, which makes it reload.
  void exchange(std::int64_t& answered, std::int64_t& failed, double& seconds_taken) {
    apply();
    Clients clients({spec_.frontends[0].port});
    const auto began = loop_.now();
    for (int turn = 0; turn < 2; ++turn) {
      wait(milliseconds(300));
      servers_.push_back(start_server());
      apply();
      wait(milliseconds(300));
      states_[servers_.front().place.name] = BalancerServerState::drain;
      apply();
      wait_for([&] { return !has_sessions(servers_.front().place.name); });
      const std::string gone = servers_.front().place.name;
      leaving_ = gone;
      apply();
      end_server();
      leaving_.clear();
    }
    spec_.pools[0].algorithm = spec_.pools[0].algorithm == BalanceAlgorithm::round_robin
                                   ? BalanceAlgorithm::least_connections
                                   : BalanceAlgorithm::round_robin;
    apply();
    wait(milliseconds(300));
    const auto [all, lost] = clients.count();
    answered += all;
    failed += lost;
    seconds_taken += std::chrono::duration<double>(loop_.now() - began).count();
  }

 private:
  /// kClients that ask as long as this lives.
  class Clients {
   public:
    explicit Clients(const std::vector<int>& ports) {
      for (int index = 0; index < kClients; ++index)
        all_.push_back(std::make_unique<KeepAliveClient>(
            "127.0.0.1", ports[static_cast<std::size_t>(index) % ports.size()]));
    }
    /// Answers, and requests that had none.
    std::pair<std::int64_t, std::int64_t> count() const {
      std::pair<std::int64_t, std::int64_t> sum{0, 0};
      for (const auto& client : all_) {
        const auto one = client->count();
        sum.first += one.answered;
        sum.second += one.failed + one.reconnected;
      }
      return sum;
    }

   private:
    std::vector<std::unique_ptr<KeepAliveClient>> all_;
  };

  void call(const std::function<void(Callback<void>)>& made) {
    std::optional<Result<void>> outcome;
    made([&](Result<void> ended) { outcome.emplace(std::move(ended)); });
    wait_for([&] { return outcome.has_value(); });
    if (!outcome->ok()) fmt::print(stderr, "{}\n", outcome->error().text());
    VIRGA_CHECK(outcome->ok());
  }
  void wait_for(const std::function<bool()>& condition) {
    const Instant end = loop_.now() + seconds(30);
    while (!condition()) {
      VIRGA_CHECK(loop_.now() < end);
      loop_.after(milliseconds(2), [this] { loop_.stop(); });
      loop_.run();
    }
  }
  void wait(Duration span) {
    loop_.after(span, [this] { loop_.stop(); });
    loop_.run();
  }

  Server start_server() {
    Descriptor listener = std::move(*listen_tcp("127.0.0.1", 0, 64));
    Server made;
    made.place.name = fmt::format("s{}", ++made_);
    made.place.address = "127.0.0.1";
    made.place.port = port_of(listener);
    ProcessOptions options;
    options.arguments = {"/proc/self/exe", "serve"};
    options.descriptors = {{kListener, listener.get()}};
    options.die_with_parent = true;
    if (!nginx_.empty()) {
      options.arguments = nginx_on(made.place);
      options.descriptors.clear();
      listener.reset();
    }
    auto process = Process::spawn(loop_, options);
    VIRGA_CHECK(process.ok());
    made.process = std::move(*process);
    wait_for([&] { return listens(made.place.port); });
    return made;
  }
  static bool listens(int port) {
    const Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<std::uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0;
  }
  std::vector<std::string> nginx_on(const BalancerServer& place) const {
    const std::string folder = folder_.file(place.name);
    std::string paths;
    for (const char* kind : {"client_body", "proxy", "fastcgi", "uwsgi", "scgi"})
      paths += fmt::format("{}_temp_path {}/{};", kind, folder, kind);
    const std::string configuration = fmt::format(
        "daemon off; master_process off; pid {0}/pid; events {{ worker_connections 1024; }} http "
        "{{ access_log off; keepalive_requests 1000000000; {1} server {{ listen {2}:{3}; location "
        "/ {{ return 200 \"ok\"; }} }} }}",
        folder, paths, place.address, place.port);
    VIRGA_CHECK(make_folders(folder, 0700).ok());
    VIRGA_CHECK(replace_file(folder + "/nginx.conf", configuration).ok());
    return {nginx_, "-e", folder + "/errors", "-c", folder + "/nginx.conf"};
  }
  void end_server() {
    servers_.front().process->signal(SIGKILL);
    wait_for([&] { return !servers_.front().process->running(); });
    states_.erase(servers_.front().place.name);
    servers_.erase(servers_.begin());
  }

  void apply() {
    ++spec_.revision;
    spec_.pools[0].servers.clear();
    for (const Server& server : servers_) {
      if (server.place.name == leaving_) continue;
      spec_.pools[0].servers.push_back(server.place);
      spec_.pools[0].servers.back().state = states_[server.place.name];
    }
    call([&](Callback<void> done) { balancer_->apply(spec_, std::move(done)); });
  }
  bool has_sessions(const std::string& name) {
    std::optional<Result<ObservedBalancer>> outcome;
    balancer_->observe([&](Result<ObservedBalancer> seen) { outcome.emplace(std::move(seen)); });
    wait_for([&] { return outcome.has_value(); });
    VIRGA_CHECK(outcome->ok());
    for (const ObservedBalancerServer& server : (*outcome)->servers)
      if (server.name == name) return server.sessions > 0;
    return false;
  }

  TempFolder folder_;
  AsioLoop loop_;
  const int seconds_;
  std::string nginx_;
  std::unique_ptr<HaproxyBalancer> balancer_;
  BalancerSpec spec_;
  std::vector<Server> servers_;
  std::map<std::string, BalancerServerState> states_;
  std::string leaving_;
  int made_ = 0;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void measure_shares(Bench& bench, int rounds) {
  const char* nginx = std::getenv("VIRGA_NGINX");
  if (nginx == nullptr || ::access(nginx, X_OK) != 0 || ::access(kWrk, X_OK) != 0) {
    fmt::print("balancer_tcp_share not measured: VIRGA_NGINX, wrk\n");
    return;
  }
  bench.serve_with(nginx);
  for (const BalancerProtocol protocol : {BalancerProtocol::tcp, BalancerProtocol::http}) {
    bench.be(protocol);
    std::vector<double> direct, balanced, share;
    for (int round = 0; round < rounds; ++round) {
      for (const bool through : {round % 2 == 0, round % 2 != 0})
        (through ? balanced : direct).push_back(through ? bench.balanced() : bench.direct());
      share.push_back(balanced.back() / direct.back());
    }
    const char* name = protocol == BalancerProtocol::tcp ? "tcp" : "http";
    fmt::print("balancer_{0}_direct {1:.0f} per_s\nbalancer_{0}_balanced {2:.0f} per_s\n", name,
               median(direct), median(balanced));
    fmt::print("balancer_{}_share {:.2f} of_direct\n", name, median(share));
  }
}

int run(int rounds, int seconds_each) {
  Bench bench(seconds_each);
  measure_shares(bench, rounds);
  bench.serve_with("");
  bench.be(BalancerProtocol::http);
  std::int64_t answered = 0, failed = 0;
  double took = 0;
  for (int turn = 0; turn < 5; ++turn) bench.exchange(answered, failed, took);
  fmt::print("balancer_exchange_rate {:.0f} per_s\nbalancer_exchange_answered {} requests\n",
             static_cast<double>(answered) / took, answered);
  fmt::print("balancer_exchange_failed {} requests\n", failed);
  return 0;
}

}  // namespace
}  // namespace virga::test

int main(int count, char** arguments) {
  if (count > 1 && std::strcmp(arguments[1], "serve") == 0) return virga::test::serve();
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 6;
  const int seconds = count > 2 ? std::atoi(arguments[2]) : 2;
  return virga::test::run(std::max(rounds, 1), std::max(seconds, 1));
}
