// What one server pays for the links of its agents: N WebSockets over mutual TLS, each sends a
// report of about 500 bytes a second and gets 60 bytes back. The clients are a process of their
// own, so that the server's CPU time and memory are measured alone.
//
//   virga_link_bench [connections=2000] [measured seconds=20]

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "edge/http.h"

namespace virga {
namespace {

constexpr std::size_t kOpeningMax = 32;  // handshakes under way at once
constexpr int kReportBytes = 500;
constexpr int kAnswerBytes = 60;

double cpu_seconds() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  const auto of = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return of(used.ru_utime) + of(used.ru_stime);
}

double resident_kilobytes() {
  std::ifstream file("/proc/self/statm");
  double total = 0, resident = 0;
  file >> total >> resident;
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1024;
}

/// The clients' process.
class Clients {
 public:
  Clients(AsioLoop& loop, std::string url, TlsIdentity tls, std::size_t count)
      : loop_(loop), url_(std::move(url)), tls_(std::move(tls)), count_(count) {}

  void start() {
    for (std::size_t number = 0; number < std::min(kOpeningMax, count_); ++number) open_next();
  }

  void report() {
    std::sort(delays_.begin(), delays_.end());
    if (delays_.empty()) return;
    const auto at = [&](double share) {
      return delays_[static_cast<std::size_t>(share * static_cast<double>(delays_.size() - 1))];
    };
    fmt::print("link_answers {} messages\nlink_refused {} links\n", delays_.size(), failures_);
    fmt::print("link_delay_p50 {:.2f} ms\nlink_delay_p99 {:.2f} ms\nlink_delay_max {:.2f} ms\n",
               at(0.5), at(0.99), at(1));
  }

 private:
  struct Link {
    std::shared_ptr<MessageSocket> socket;
    Instant sent;
  };

  void open_next() {
    if (opened_ < count_) open(opened_++);
  }

  void open(std::size_t number) {
    HttpCall call;
    call.url = url_;
    call.tls = tls_;
    call.idle_deadline = seconds(60);
    open_message_socket(loop_, call, [this, number](Result<std::shared_ptr<MessageSocket>> result) {
      if (!result) {
        if (++failures_ < 5) fmt::print("client {}: {}\n", number, result.error().text());
        loop_.after(seconds(1), [this, number] { open(number); });
        return;
      }
      open_next();
      begin(*std::move(result), number);
    });
  }

  void begin(std::shared_ptr<MessageSocket> socket, std::size_t number) {
    auto link = std::make_shared<Link>();
    link->socket = std::move(socket);
    link->socket->on_closed(
        [this](const std::string&) { loop_.stop(); });  // the server counts losses
    link->socket->on_message([this, link](const std::string&) {
      delays_.push_back(
          std::chrono::duration<double, std::milli>(loop_.now() - link->sent).count());
    });
    const auto offset = milliseconds(static_cast<std::int64_t>(number * 1000 / count_));
    loop_.after(offset, [this, link] { beat(link); });
  }

  void beat(const std::shared_ptr<Link>& link) {
    link->sent = loop_.now();
    if (!link->socket->send("{\"report\":\"" + std::string(kReportBytes - 13, 'x') + "\"}")) return;
    loop_.at(link->sent + seconds(1), [this, link] { beat(link); });
  }

  AsioLoop& loop_;
  std::string url_;
  TlsIdentity tls_;
  std::size_t count_;
  std::size_t opened_ = 0;
  std::size_t failures_ = 0;
  std::vector<double> delays_;
};

int run_clients(int port_pipe, const TlsIdentity& tls, std::size_t count, int length) {
  std::uint16_t port = 0;
  if (::read(port_pipe, &port, sizeof port) != sizeof port) return 1;
  AsioLoop loop;
  Clients clients(loop, fmt::format("wss://127.0.0.1:{}/agent", port), tls, count);
  clients.start();
  loop.after(seconds(length), [&] { loop.stop(); });
  loop.run();
  clients.report();
  return 0;
}

/// The measured process.
class Measured {
 public:
  Measured(AsioLoop& loop, std::size_t count, int window)
      : loop_(loop), count_(count), window_(window) {}

  void serve(const std::shared_ptr<HttpReply>& reply) {
    auto socket = reply->upgrade();
    if (socket == nullptr) return;
    socket->on_message([this, raw = socket.get()](const std::string&) {
      ++messages_;
      [[maybe_unused]] const auto sent = raw->send(std::string(kAnswerBytes, 'y'));
    });
    socket->on_closed([this](const std::string& reason) {
      if (++lost_ < 5) fmt::print("a link was lost: {}\n", reason);
    });
    sockets_.push_back(std::move(socket));
    if (sockets_.size() == 1) first_kilobytes_ = resident_kilobytes();
    if (sockets_.size() == count_) all_connected();
  }

 private:
  void all_connected() {
    fmt::print("link_connections {} links\nlink_handshake {:.2f} ms\n", count_,
               1000 * cpu_seconds() / static_cast<double>(count_));
    loop_.after(seconds(3), [this] {
      const double cpu = cpu_seconds();
      const auto messages = messages_;
      const Instant begin = loop_.now();
      loop_.after(seconds(window_), [this, cpu, messages, begin] { print(cpu, messages, begin); });
    });
  }

  void print(double cpu, std::size_t messages, Instant begin) {
    const double spent = cpu_seconds() - cpu;
    const double wall = std::chrono::duration<double>(loop_.now() - begin).count();
    const auto count = static_cast<double>(messages_ - messages);
    const double kilobytes = resident_kilobytes();
    fmt::print("link_rate {:.0f} messages/s\nlink_server_cpu {:.1f} percent\n", count / wall,
               100 * spent / wall);
    fmt::print("link_message_cost {:.1f} us\nlink_lost {} links\n", 1e6 * spent / count, lost_);
    fmt::print("link_server_resident {:.1f} MB\nlink_connection_resident {:.1f} kB\n",
               kilobytes / 1024, (kilobytes - first_kilobytes_) / static_cast<double>(count_));
    std::fflush(stdout);
    loop_.stop();
  }

  AsioLoop& loop_;
  std::size_t count_;
  int window_;
  double first_kilobytes_ = 0;
  std::size_t messages_ = 0;
  std::size_t lost_ = 0;
  std::vector<std::shared_ptr<MessageSocket>> sockets_;
};

int run_server(int port_pipe, const TlsIdentity& tls, std::size_t count, int window) {
  AsioLoop loop;
  Measured measured(loop, count, window);
  HttpServerOptions options;
  options.tls = tls;
  options.client_certificate_required = true;
  auto server = HttpServer::listen(
      loop, options,
      [&](HttpRequest, const std::shared_ptr<HttpReply>& reply) { measured.serve(reply); });
  if (!server) {
    fmt::print("{}\n", server.error().text());
    return 1;
  }
  const std::uint16_t port = (*server)->port();
  if (::write(port_pipe, &port, sizeof port) != sizeof port) return 1;
  loop.after(seconds(600), [&] {
    fmt::print("not all {} clients connected within 600 s\n", count);
    loop.stop();
  });
  loop.run();
  return 0;
}

Result<TlsIdentity> make_identity() {
  std::string folder = (std::filesystem::temp_directory_path() / "virga-bench-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr)
    return make_error(Errc::internal, "make a folder " + folder);
  auto authority = CertificateAuthority::open(folder);
  std::filesystem::remove_all(folder);
  if (!authority) return authority.error();
  return authority->issue({"bench", {}, {"127.0.0.1"}});
}

int run(std::size_t count, int window) {
  const auto tls = make_identity();
  int ends[2];
  if (!tls || ::pipe(ends) != 0) return 1;
  std::fflush(stdout);
  const pid_t clients = ::fork();
  if (clients < 0) return 1;
  if (clients == 0) {
    const int length = window + 5 + static_cast<int>(count / 100);  // opening included
    const int code = run_clients(ends[0], *tls, count, length);
    std::fflush(stdout);
    ::_exit(code);
  }
  const int code = run_server(ends[1], *tls, count, window);
  int status = 0;
  ::waitpid(clients, &status, 0);
  return code != 0 ? code : WEXITSTATUS(status);
}

}  // namespace
}  // namespace virga

int main(int count, char** values) {
  const std::size_t connections = count > 1 ? std::stoul(values[1]) : 2000;
  const int window = count > 2 ? std::stoi(values[2]) : 20;
  return virga::run(connections, window);
}
