#include "bench/bench_cloud.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <cstdio>
#include <fstream>

#include "model/ipv4.h"
#include "model/keys.h"
#include "runtime/transaction.h"
#include "store/sqlite_store.h"

namespace virga::bench {
namespace {

constexpr Duration kReadyMax = seconds(60);
constexpr Duration kStopMax = seconds(15);
constexpr std::uint32_t kFirstAddress = (10U << 24) + 10;  // 10.0.0.10

std::atomic<bool> signalled{false};

NetworkId network_of(int cluster) { return NetworkId(qualified(kTenant, cluster_name(cluster))); }

HypervisorInfo simulated_hypervisor() {
  HypervisorInfo info;
  info.accelerator_reason = "simulated";
  info.qemu_version = "7.2.22";
  info.cpu_model = "qemu64";
  info.machine_types = {"pc-q35-7.2"};
  return info;
}

template <typename T>
void add(std::vector<Write>& writes, T resource) {
  resource.meta.generation = 1;
  resource.meta.created_at = {1'767'225'600'000};  // 2026-01-01
  writes.push_back({keys::of(resource.id()), to_json_text(resource), 0});
}

void add_cluster(std::vector<Write>& writes, const CloudSize& size, int number) {
  Cluster cluster;
  cluster.meta.name = cluster_name(number);
  cluster.spec.policy.lease_ms = size.lease;
  cluster.spec.policy.suspect_after_ms = size.suspect_after;
  cluster.spec.shared_directory = "/srv/virga";
  add(writes, cluster);
  Network network;
  network.meta.name = cluster_name(number);
  network.meta.tenant = kTenant;
  network.spec = {cluster.id(), static_cast<std::uint32_t>(100 + number), "10.0.0.0/16", 1450};
  add(writes, network);
  writes.push_back({keys::vni(network.spec.vni), network.id().value, 0});
}

void add_vm(std::vector<Write>& writes, const CloudSize& size, int number) {
  const Vm vm = make_vm(size, number);
  const int within = number % size.hosts_per_cluster;
  const std::string address =
      ipv4_text(kFirstAddress + static_cast<std::uint32_t>(within)) + "/16";
  Port port;
  port.meta.name = vm.meta.name + "-0";
  port.meta.tenant = kTenant;
  port.spec = {vm.id(), network_of(number / size.hosts_per_cluster),
               fmt::format("52:54:00:{:02x}:{:02x}:{:02x}", number >> 16, number >> 8 & 255,
                           number & 255),
               address};
  add(writes, vm);
  add(writes, port);
  writes.push_back({keys::address(port.spec.network, address), port.id().value, 0});
}

std::vector<Write> contents(const CloudSize& size) {
  std::vector<Write> writes;
  Image image;
  image.meta.name = kImage;
  image.spec.path = "images/tiny";
  image.spec.file_bytes = Bytes{1};
  image.spec.sha256 = std::string(64, '0');
  add(writes, image);
  for (int number = 0; number < size.clusters; ++number) add_cluster(writes, size, number);
  for (int number = 0; number < size.hosts(); ++number) {
    add(writes, make_host(size, number));
    if (size.populated) add_vm(writes, size, number);
  }
  return writes;
}

/// A port that nobody listens on now.
Result<std::uint16_t> free_port() {
  const Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (!socket.valid() || ::bind(socket.get(), generic, length) != 0 ||
      ::getsockname(socket.get(), generic, &length) != 0) {
    return make_error(Errc::unavailable, "find a free port of 127.0.0.1");
  }
  return ntohs(address.sin_port);
}

/// A line of /proc/PID/status, in kB.
double status_kilobytes(pid_t pid, const std::string& field) {
  std::ifstream file(fmt::format("/proc/{}/status", pid));
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(field + ":")) return std::stod(line.substr(field.size() + 1));
  }
  return 0;
}

}  // namespace

std::string cluster_name(int cluster) { return fmt::format("cluster-{:03}", cluster); }

Host make_host(const CloudSize& size, int number) {
  const int cluster = number / size.hosts_per_cluster;
  const int within = number % size.hosts_per_cluster;
  Host host;
  host.meta.name = fmt::format("host-{:03}-{:04}", cluster, within);
  host.spec.cluster = ClusterId(cluster_name(cluster));
  HostStatus& status = host.status;
  status.health = HostHealth::alive;
  status.health_reason = "reports arrive";
  status.boot_id = host.meta.name + "-boot-1";
  status.address = fmt::format("10.64.{}.{}", number / 250, number % 250 + 1);
  status.agent_version = VIRGA_VERSION;
  status.capacity = {Millicores{32'000}, Mib{128 << 10}};
  status.hypervisor = simulated_hypervisor();
  status.leash_armed = true;
  return host;
}

Vm make_vm(const CloudSize& size, int number) {
  const Host host = make_host(size, number);
  Vm vm;
  vm.meta.name = "vm" + host.meta.name.substr(host.meta.name.find('-'));
  vm.meta.tenant = kTenant;
  vm.spec.cluster = host.spec.cluster;
  vm.spec.image = ImageId(kImage);
  vm.spec.nics = {{host.spec.cluster.value}};
  vm.status.power = VmPower::running;
  vm.status.health = VmHealth::healthy;
  vm.status.host = host.id();
  vm.status.epoch = {1, static_cast<std::uint64_t>(number) + 1};
  vm.status.identity = {fmt::format("00000000-0000-4000-8000-{:012x}", number), "pc-q35-7.2",
                        "qemu64", Accelerator::tcg};
  return vm;
}

bool interrupted() { return signalled; }

void catch_signals() {
  for (const int number : {SIGINT, SIGTERM}) {
    std::signal(number, [](int) { signalled = true; });
  }
}

Result<void> fill_store(const std::string& folder, const CloudSize& size) {
  AsioLoop loop;
  auto store = SqliteStore::open(loop, {.path = folder + "/state.db", .history = {}});
  if (!store) return store.error();
  std::vector<Write> writes = contents(size);
  std::size_t outstanding = 0;
  Result<void> outcome;
  for (std::size_t begin = 0; begin < writes.size(); begin += StoreLimits::kItemsMax) {
    const std::size_t end = std::min(writes.size(), begin + StoreLimits::kItemsMax);
    ++outstanding;
    (*store)->commit({}, {writes.begin() + static_cast<std::ptrdiff_t>(begin),
                          writes.begin() + static_cast<std::ptrdiff_t>(end)},
                     [&](Result<CommitOutcome> done) {
                       if (!done) outcome = done.error();
                       if (--outstanding == 0) loop.stop();
                     });
  }
  loop.after(seconds(60), [&] {
    outcome = make_error(Errc::timeout, "fill the store");
    loop.stop();
  });
  loop.run();
  return outcome;
}

Result<std::unique_ptr<ServerProcess>> ServerProcess::start(const std::string& program,
                                                            const std::string& folder) {
  const auto api_port = free_port();
  const auto agent_port = free_port();
  if (!api_port || !agent_port) return make_error(Errc::unavailable, "find two free ports");
  std::unique_ptr<ServerProcess> server(new ServerProcess());
  server->api_ = fmt::format("http://127.0.0.1:{}", *api_port);
  server->agents_ = fmt::format("wss://127.0.0.1:{}", *agent_port);
  ProcessOptions& options = server->options_;
  options.arguments = {program, "server", "--data", folder,
                       "--listen", fmt::format("127.0.0.1:{}", *api_port),
                       "--agents", fmt::format("127.0.0.1:{}", *agent_port),
                       "--log-level", "warning"};
  options.output_path = folder + "/server.log";
  options.die_with_parent = true;
  if (auto spawned = server->spawn(); !spawned) return spawned.error();
  return server;
}

Result<void> ServerProcess::spawn() {
  auto process = Process::spawn(loop_, options_);
  if (!process) return process.error();
  process_ = std::move(*process);
  ApiClient client(api_);
  const auto ready = [&] {
    const auto answer = client.call("GET", "/readyz");
    return answer && answer->status == 200;
  };
  if (wait_until(ready, kReadyMax, milliseconds(20))) return {};
  std::ifstream log(options_.output_path);
  const std::string text{std::istreambuf_iterator<char>(log), {}};
  return make_error(Errc::timeout, "start " + options_.arguments.front() +
                                       " server: not ready; it said:\n" + text);
}

Result<void> ServerProcess::restart(const std::function<void()>& killed) {
  process_->on_exit([this](ProcessExit) { loop_.stop(); });
  process_->signal(SIGKILL);
  loop_.run();
  killed();
  return spawn();
}

ServerProcess::~ServerProcess() {
  if (!process_) return;
  process_->on_exit([this](ProcessExit) { loop_.stop(); });
  process_->signal(SIGTERM);
  loop_.after(kStopMax, [this] { process_->signal(SIGKILL); });
  loop_.after(kStopMax + seconds(5), [this] { loop_.stop(); });
  loop_.run();
}

double ServerProcess::cpu_seconds() const {
  std::ifstream file(fmt::format("/proc/{}/stat", process_->pid()));
  std::string line;
  std::getline(file, line);
  std::istringstream fields(line.substr(std::min(line.rfind(')') + 1, line.size())));
  std::string skipped;
  for (int field = 3; field < 14; ++field) fields >> skipped;
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

double ServerProcess::resident_mb() const {
  return status_kilobytes(process_->pid(), "VmRSS") * 1024 / 1e6;
}

double ServerProcess::peak_mb() const {
  return status_kilobytes(process_->pid(), "VmHWM") * 1024 / 1e6;
}

Result<HttpResponse> ApiClient::call(const std::string& method, const std::string& path,
                                     const std::string& body) {
  HttpCall call;
  call.method = method;
  call.url = url_ + path;
  call.body = body;
  if (!body.empty()) call.headers["content-type"] = "application/json";
  Result<HttpResponse> answer = make_error(Errc::internal, "no answer");
  http_call(loop_, std::move(call), [&](Result<HttpResponse> response) {
    answer = std::move(response);
    loop_.stop();
  });
  loop_.run();
  return answer;
}

double ApiClient::metric(const std::string& name) {
  const auto response = call("GET", "/metrics");
  if (!response) return -1;
  std::istringstream lines(response->body);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(name + " ")) return std::stod(line.substr(name.size() + 1));
  }
  return 0;
}

double ApiClient::events() {
  const auto response = call("GET", "/v1/events?newest=true&limit=1");
  if (!response) return -1;
  const std::string word = "\"sequence\":";
  const auto at = response->body.find(word);
  return at == std::string::npos ? 0 : std::stod(response->body.substr(at + word.size(), 20));
}

void print(const std::string& name, double value, const char* unit) {
  fmt::print("{} {:.3f} {}\n", name, value, unit);
  std::fflush(stdout);
}

Instant now() {
  timespec time{};
  ::clock_gettime(CLOCK_BOOTTIME, &time);
  return Instant(seconds(time.tv_sec) + Duration(time.tv_nsec));
}

double seconds_since(Instant begin) {
  return std::chrono::duration<double>(now() - begin).count();
}

bool wait_until(const std::function<bool()>& done, Duration limit, Duration pause) {
  const Instant until = now() + limit;
  while (!done()) {
    if (now() >= until || interrupted()) return false;
    rest(pause);
  }
  return true;
}

void rest(Duration span) {
  AsioLoop loop;
  loop.after(span, [&] { loop.stop(); });
  loop.run();
}

double own_cpu_seconds() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  const auto of = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return of(used.ru_utime) + of(used.ru_stime);
}

}  // namespace virga::bench
