// The server under load: `virgad server` as it is shipped, with simulated agents that hold one
// mutual TLS link each and report once a second, and with many creations of VMs. kUsage has the
// options, bench_agents.h says what is simulated.

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <thread>

#include "base/log.h"
#include "bench/bench_agents.h"
#include "tools/temp_folder.h"

namespace virga::bench {
namespace {

constexpr const char* kUsage =
    "virga_server_bench [NAME=VALUE...]   figures of `virgad server` under load, a line each\n"
    "\n"
    "  server=PATH      virgad; default: beside this program\n"
    "  clusters=100     of the cloud whose agents report\n"
    "  hosts=100        in each of these clusters, one running VM and one agent each\n"
    "  seconds=60       measured, after all is calm\n"
    "  lease=120        seconds of a host's lease, and ...\n"
    "  suspect=100      ... of silence before it is suspected: so long that all can connect\n"
    "                   first; the product's defaults are 10 and 2; what is measured later is\n"
    "                   the same with them\n"
    "  shuffled=0       1: agents connect in random order, not cluster by cluster\n"
    "  pool=100         hosts of the cluster in which VMs are created\n"
    "  creates=2000     creations one after the other, on each of `clients` connections\n"
    "  clients=8\n"
    "  parallel=1000    creations at once\n"
    "  restart=1000     agents (in clusters of 100) that are connected when the server is killed\n"
    "                   and started again, with the product's lease of 10 s\n"
    "  load=40000       VMs, one on each of as many hosts, of a server that is started\n"
    "  parts=1234       1: only the agents, 2: only the creations, 3: only the restart,\n"
    "                   4: only the start\n";

struct Options {
  std::string server;
  std::map<std::string, int> numbers{{"clusters", 100}, {"hosts", 100},   {"seconds", 60},
                                     {"lease", 120},    {"suspect", 100}, {"shuffled", 0},
                                     {"pool", 100},     {"creates", 2000}, {"clients", 8},
                                     {"parallel", 1000}, {"restart", 1000}, {"load", 40'000},
                                     {"parts", 1234}};
  int at(const std::string& name) const { return numbers.at(name); }
};

double share(std::vector<double>& values, double part) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1) + 0.5)];
}

std::size_t count_of(const std::string& text, const std::string& word) {
  std::size_t count = 0;
  for (auto at = text.find(word); at != std::string::npos; at = text.find(word, at + word.size())) {
    ++count;
  }
  return count;
}

/// A cloud in a folder of its own, its server and its agents; all end with it.
struct Stage {
  test::TempFolder folder;
  CloudSize size;
  std::unique_ptr<ServerProcess> server;
  std::unique_ptr<Agents> agents;
  std::unique_ptr<ApiClient> client;
};

Result<void> set_up(Stage& stage, const Options& options) {
  if (auto filled = fill_store(stage.folder.path(), stage.size); !filled) return filled;
  auto server = ServerProcess::start(options.server, stage.folder.path());
  if (!server) return server.error();
  stage.server = std::move(*server);
  stage.client = std::make_unique<ApiClient>(stage.server->api());
  Agents::Options wanted;
  wanted.size = stage.size;
  wanted.server = stage.server->agents();
  wanted.authority = stage.folder.path() + "/authority";
  wanted.shuffled = options.at("shuffled") != 0;
  auto agents = Agents::start(wanted);
  if (!agents) return agents.error();
  stage.agents = std::move(*agents);
  const Instant begin = now();
  const bool connected = wait_until([&] { return stage.agents->leases() == stage.size.hosts(); },
                                    seconds(150), milliseconds(50));
  if (!connected) {
    return make_error(Errc::timeout, fmt::format("only {} of {} agents have a lease after {:.0f} s",
                                                 stage.agents->leases(), stage.size.hosts(),
                                                 seconds_since(begin)));
  }
  print("server_agents_connect_time", seconds_since(begin), "s");
  return {};
}

/// Until every host counts as alive and nothing has been written for 3 s.
Result<void> calm_down(Stage& stage) {
  double commits = -1;
  double alive = 0;
  int calm = 0;
  const auto ask = [&] {
    const double before = commits;
    commits = stage.client->metric("virga_store_commits");
    alive = stage.client->metric("virga_hosts{health=\"alive\"}");
    calm = commits == before && alive == stage.size.hosts() ? calm + 1 : 0;
    return calm >= 3;
  };
  if (wait_until(ask, seconds(90), seconds(1))) return {};
  return make_error(Errc::timeout,
                    fmt::format("the server does not calm down: {} commits, {} of {} hosts alive",
                                commits, alive, stage.size.hosts()));
}

/// Fetches the whole list of VMs twice a second on a thread of its own.
class Lister {
 public:
  Lister(std::string url, int vms) : url_(std::move(url)), vms_(vms) {
    thread_ = std::thread([this] { run(); });
  }
  ~Lister() { stop(); }

  void stop() {
    ended_ = true;
    if (thread_.joinable()) thread_.join();
  }

  // After stop().
  std::vector<double> times_ms;
  double megabytes = 0;
  int wrong = 0;

 private:
  void run() {
    ApiClient client(url_);
    for (Instant due = now(); !ended_; due += milliseconds(500)) {
      while (now() < due && !ended_) rest(milliseconds(5));
      const Instant begin = now();
      const auto list = client.call("GET", "/v1/vms");
      times_ms.push_back(seconds_since(begin) * 1e3);
      const bool whole = list && list->status == 200 &&
                         count_of(list->body, "\"epoch\":{\"incarnation\":1") >=
                             static_cast<std::size_t>(vms_);
      if (!whole) ++wrong;
      if (list) megabytes = static_cast<double>(list->body.size()) / 1e6;
    }
  }

  std::string url_;
  int vms_;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

struct Sample {
  Instant at;
  double server_cpu = 0;
  double own_cpu = 0;
  double commits = 0;
  double events = 0;
};

Sample take_sample(Stage& stage) {
  Sample sample;
  sample.commits = stage.client->metric("virga_store_commits");
  sample.events = stage.client->events();
  sample.at = now();
  sample.server_cpu = stage.server->cpu_seconds();
  sample.own_cpu = own_cpu_seconds();
  return sample;
}

/// One stretch of steady state, alone or with the list being fetched.
Result<void> measure(Stage& stage, int length, bool listing) {
  const std::string suffix = listing ? "" : "_without_list";
  std::unique_ptr<Lister> lister;
  if (listing) lister = std::make_unique<Lister>(stage.server->api(), stage.size.hosts());
  rest(seconds(2));
  const Sample before = take_sample(stage);
  double resident = 0;
  const Instant end = now() + seconds(length);
  wait_until(
      [&] {
        resident = std::max(resident, stage.server->resident_mb());
        return now() >= end || !stage.server->running();
      },
      seconds(length + 5), seconds(1));
  const Sample after = take_sample(stage);
  if (interrupted() || !stage.server->running()) {
    return make_error(Errc::cancelled, "the measurement was cut short");
  }
  const double wall = std::chrono::duration<double>(after.at - before.at).count();
  const std::string name = fmt::format("server_agents_{}", stage.size.hosts());
  print(name + "_cpu" + suffix, (after.server_cpu - before.server_cpu) / wall, "cores");
  print(name + "_memory" + suffix, resident, "MB");
  print("server_generator_cpu" + suffix, (after.own_cpu - before.own_cpu) / wall, "cores");
  print("server_commits_while_measured" + suffix, after.commits - before.commits, "commits");
  print("server_events_while_measured" + suffix, after.events - before.events, "events");
  if (!listing) return {};
  lister->stop();
  const std::string list = fmt::format("server_list_{}_vms", stage.size.hosts());
  print(list + "_p50", share(lister->times_ms, 0.5), "ms");
  print(list + "_p95", share(lister->times_ms, 0.95), "ms");
  print(list + "_max", share(lister->times_ms, 1), "ms");
  print(list + "_size", lister->megabytes, "MB");
  print(list + "_count", static_cast<double>(lister->times_ms.size()), "lists");
  if (lister->wrong == 0) return {};
  return make_error(Errc::internal, fmt::format("{} lists were not whole", lister->wrong));
}

Result<void> bench_agents(const Options& options) {
  Stage stage;
  stage.size = {options.at("clusters"), options.at("hosts"), true, seconds(options.at("lease")),
                seconds(options.at("suspect"))};
  if (auto ready = set_up(stage, options); !ready) return ready;
  if (auto calm = calm_down(stage); !calm) return calm;
  print("server_agents_events_until_calm", stage.client->events(), "events");
  print("server_agents_memory_idle", stage.server->resident_mb(), "MB");
  if (auto done = measure(stage, std::min(10, options.at("seconds")), false); !done) return done;
  if (auto done = measure(stage, options.at("seconds"), true); !done) return done;
  print("server_memory_peak", stage.server->peak_mb(), "MB");
  print("server_loop_stalls", stage.client->metric("virga_loop_stalls"), "tasks");
  if (stage.agents->running() == stage.size.hosts()) return {};
  return make_error(Errc::internal, fmt::format("{} of {} VMs run at the end",
                                                stage.agents->running(), stage.size.hosts()));
}

/// Creates `count` VMs, `at_once` under way at any time.
class Creator {
 public:
  Creator(std::string url, std::string prefix, int count, int at_once)
      : url_(std::move(url)), prefix_(std::move(prefix)), count_(count), at_once_(at_once) {}

  void run() {
    const Instant begin = now();
    for (int number = 0; number < std::min(count_, at_once_); ++number) create_next();
    loop_.after(seconds(90), [this] { loop_.stop(); });
    loop_.run();
    seconds_taken = seconds_since(begin);
    errors += count_ - answered_;
  }

  int errors = 0;
  double seconds_taken = 0;
  std::vector<double> times_ms;

 private:
  void create_next() {
    if (begun_ == count_) return;
    const int number = begun_++;
    HttpCall call;
    call.method = "POST";
    call.url = url_ + "/v1/vms";
    call.headers["content-type"] = "application/json";
    call.body = fmt::format(
        R"({{"meta":{{"tenant":"{}","name":"{}-{}"}},"spec":{{"cluster":"{}","image":"{}",)"
        R"("nics":[{{"network":"{}"}}]}}}})",
        kTenant, prefix_, number, cluster_name(0), kImage, cluster_name(0));
    http_call(loop_, std::move(call), [this, begin = now()](Result<HttpResponse> answer) {
      answered(answer, begin);
    });
  }

  void answered(const Result<HttpResponse>& answer, Instant begin) {
    times_ms.push_back(seconds_since(begin) * 1e3);
    if (!answer || answer->status >= 300) {
      if (++errors <= 3) {
        fmt::print("create: {}\n", answer ? answer->body : answer.error().text());
      }
    }
    if (++answered_ == count_) return loop_.stop();
    create_next();
  }

  std::string url_;
  std::string prefix_;
  int count_;
  int at_once_;
  int begun_ = 0;
  int answered_ = 0;
  AsioLoop loop_;
};

/// True when the API says that exactly `count` VMs run.
bool all_run(Stage& stage, int count) {
  const auto list = stage.client->call("GET", "/v1/vms?fields=status.power");
  return list && count_of(list->body, "\"running\"") == static_cast<std::size_t>(count);
}

/// Creates and waits until the API shows all of them running. `before` VMs run already.
Result<int> create_and_wait(Stage& stage, const std::string& name, Creator& creator, int count,
                            int before) {
  const Instant begin = now();
  const double cpu = stage.server->cpu_seconds();
  creator.run();
  const int wanted = before + count - creator.errors;
  const bool started = wait_until([&] { return stage.agents->running() >= wanted; }, seconds(90),
                                  milliseconds(5));
  const bool shown = started && wait_until([&] { return all_run(stage, wanted); }, seconds(30),
                                           milliseconds(50));
  const double whole = seconds_since(begin);
  const double spent = stage.server->cpu_seconds() - cpu;
  print(name + "_accepted_rate", count / creator.seconds_taken, "per_s");
  print(name + "_running_rate", shown ? count / whole : 0, "per_s");
  print(name + "_answer_p50", share(creator.times_ms, 0.5), "ms");
  print(name + "_answer_p95", share(creator.times_ms, 0.95), "ms");
  print(name + "_server_cpu", 1e3 * spent / count, "ms");
  if (shown) return wanted;
  return make_error(Errc::timeout, fmt::format("{}: {} of {} VMs run", name,
                                               stage.agents->running(), wanted));
}

Result<void> bench_creates(const Options& options) {
  Stage stage;
  stage.size = {1, options.at("pool"), false};
  if (auto ready = set_up(stage, options); !ready) return ready;
  if (auto calm = calm_down(stage); !calm) return calm;
  const int count = options.at("creates");
  Creator steady(stage.server->api(), "steady", count, options.at("clients"));
  const Instant begin = now();
  const auto first = create_and_wait(stage, "api_vm_create", steady, count, 0);
  print("api_vm_create_rate", first ? count / seconds_since(begin) : 0, "per_s");
  Result<int> second = first;
  int errors = steady.errors;
  if (first) {
    Creator burst(stage.server->api(), "burst", options.at("parallel"), options.at("parallel"));
    second = create_and_wait(stage, "api_vm_create_parallel", burst, options.at("parallel"),
                             *first);
    errors += burst.errors;
  }
  print("api_vm_create_errors", errors, "errors");
  if (!second) return second.error();
  return {};
}

/// The server is killed while all its agents are connected, and is started again.
Result<void> bench_restart(const Options& options) {
  Stage stage;
  const int per_cluster = std::min(100, options.at("restart"));
  stage.size = {options.at("restart") / per_cluster, per_cluster, true};
  if (auto ready = set_up(stage, options); !ready) return ready;
  if (auto calm = calm_down(stage); !calm) return calm;
  const int all = stage.size.hosts();
  const double own = own_cpu_seconds();
  const Instant begin = now();
  const auto restarted = stage.server->restart([&] {
    rest(milliseconds(50));  // until the last that the old one wrote has been read
    stage.agents->watch_leases();
  });
  if (!restarted) return restarted;
  const std::string name = fmt::format("server_restart_{}_agents", all);
  print(name + "_ready", seconds_since(begin), "s");
  const bool renewed = wait_until([&] { return stage.agents->renewed() == all; }, seconds(120),
                                  milliseconds(10));
  print(name + "_all_leased", renewed ? seconds_since(begin) : -1, "s");
  print(name + "_leases_lost", stage.agents->lapsed(), "hosts");
  print(name + "_server_cpu", stage.server->cpu_seconds(), "s");
  print(name + "_generator_cpu", own_cpu_seconds() - own, "s");
  if (!renewed) {
    return make_error(Errc::timeout, fmt::format("{} of {} agents have a lease again",
                                                 stage.agents->renewed(), all));
  }
  if (auto calm = calm_down(stage); !calm) return calm;
  print(name + "_calm", seconds_since(begin), "s");
  print(name + "_commits", stage.client->metric("virga_store_commits"), "commits");
  return {};
}

/// What lies in the store becomes a server that answers.
Result<void> bench_load(const Options& options) {
  const CloudSize size{options.at("load") / 100, 100, true};
  const test::TempFolder folder;
  if (auto filled = fill_store(folder.path(), size); !filled) return filled;
  const Instant begin = now();
  const auto server = ServerProcess::start(options.server, folder.path());
  if (!server) return server.error();
  print(fmt::format("server_start_{}_vms", size.hosts()), seconds_since(begin), "s");
  return {};
}

/// 10,000 links need as many descriptors, here and in the server, which inherits the limit.
void raise_descriptor_limit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

/// False when an argument is wrong.
bool read_options(int count, char** values, Options& options) {
  for (int index = 1; index < count; ++index) {
    const std::string argument = values[index];
    const auto equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    if (equals == std::string::npos) return false;
    if (name == "server") {
      options.server = argument.substr(equals + 1);
    } else if (options.numbers.contains(name)) {
      options.numbers[name] = std::atoi(argument.c_str() + equals + 1);
    } else {
      return false;
    }
  }
  return true;
}

int run(int count, char** values) {
  Options options;
  const auto here = std::filesystem::canonical("/proc/self/exe").parent_path();
  options.server = (here / "virgad").string();
  const bool help = count == 2 && std::string(values[1]) == "--help";
  if (help || !read_options(count, values, options)) {
    fmt::print("{}", kUsage);
    return help ? 0 : 2;
  }
  raise_descriptor_limit();
  catch_signals();
  // What thousands of agents say when their links end is not what is wanted here.
  set_log_sink([](LogLevel, std::string_view, std::string_view) {});
  const std::string parts = std::to_string(options.at("parts"));
  int code = 0;
  const std::pair<char, Result<void> (*)(const Options&)> benches[] = {{'1', bench_agents},
                                                                       {'2', bench_creates},
                                                                       {'3', bench_restart},
                                                                       {'4', bench_load}};
  for (const auto& [part, bench] : benches) {
    if (parts.find(part) == std::string::npos || interrupted()) continue;
    if (auto done = bench(options); !done) {
      fmt::print("virga_server_bench: {}\n", done.error().text());
      code = 1;
    }
  }
  return interrupted() ? 1 : code;
}

}  // namespace
}  // namespace virga::bench

int main(int count, char** values) { return virga::bench::run(count, values); }
