#include "server/server_main.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <csignal>
#include <cstdio>

#include "base/log.h"
#include "driver/redfish/redfish_bmc.h"
#include "edge/certificate_renewal.h"
#include "edge/file.h"
#include "edge/process.h"
#include "edge/tls.h"
#include "mechanism/metering/sqlite_usage_store.h"
#include "mechanism/storage/vm_volumes.h"
#include "model/join.h"
#include "runtime/sqlite_journal.h"
#include "server/agent_listener.h"
#include "server/api/api.h"
#include "server/core/server_core.h"
#include "store/sqlite_store.h"

namespace virga {
namespace {

constexpr std::int64_t kOpenFiles = 65'536;  // 20,000 clients, as many agents, and room

struct ServerArguments {
  std::string data = "/var/lib/virga/server";
  std::string listen = "127.0.0.1:7480";
  std::string agents = "127.0.0.1:7443";
  std::string log_level = "info";
  std::string prices;
  int listen_descriptor = -1;
  std::int64_t certificates_valid_s = 365L * 24 * 3600;
};

struct Address {
  std::string host;
  std::uint16_t port = 0;
};

Result<Address> parse_address(const std::string& option, const std::string& text) {
  const auto colon = text.rfind(':');
  Address address;
  if (colon != std::string::npos) {
    const char* begin = text.data() + colon + 1;
    const auto [end, failure] = std::from_chars(begin, text.data() + text.size(), address.port);
    if (failure == std::errc() && end == text.data() + text.size() && colon > 0) {
      address.host = text.substr(0, colon);
      return address;
    }
  }
  return make_error(
      Errc::invalid,
      fmt::format("{}: \"{}\" is not ADDRESS:PORT, such as 127.0.0.1:7480", option, text));
}

bool listens_on_loopback(int descriptor) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  int listens = 0;
  socklen_t listens_size = sizeof listens;
  return getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size) == 0 &&
         address.sin_family == AF_INET && ntohl(address.sin_addr.s_addr) >> 24 == 127 &&
         getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &listens, &listens_size) == 0 &&
         listens != 0;
}

/// Everything that one server holds, in the order in which it must be taken down.
class Server {
 public:
  explicit Server(ServerArguments arguments) : arguments_(std::move(arguments)), bmc_(loop_) {}

  Result<void> run();

 private:
  Result<void> open_files();
  Result<void> open_usage();
  Result<void> open_ports();
  Result<void> open_agent_port();
  Result<TlsIdentity> issue(CertificateRequest request) const;
  Result<IssuedCertificate> issue_to(const HostId& host,
                                     const std::vector<std::string>& addresses) const;
  Result<void> keep_certificate(const CertificateRequest& request, const TlsIdentity& identity);
  Result<std::unique_ptr<HttpServer>> serve_operators(HttpServerOptions options);
  void make_core();
  ApiContext make_context();
  void console(const VmId& vm, Callback<std::string> done);
  void backup(const std::string& name, Callback<json::object> done);
  Result<HostId> choose_host(const VmId& id) const;
  void collect(Metrics& metrics) const;

  ServerArguments arguments_;
  AsioLoop loop_;
  RedfishBmc bmc_;
  Metrics metrics_;
  std::unique_ptr<SqliteStore> store_;
  std::unique_ptr<SqliteJournal> journal_;
  std::unique_ptr<metering::SqliteUsageStore> usage_;
  metering::PriceList prices_;
  std::optional<CertificateAuthority> authority_;
  AgentListener agents_;
  std::optional<CertificateRenewal> renewal_;
  std::unique_ptr<ServerCore> core_;
  std::unique_ptr<Api> api_;
  std::unique_ptr<HttpServer> operators_;
  std::unique_ptr<HttpServer> operators_outside_;  ///< nullptr = no socket was handed over
  bool ready_ = false;
  std::optional<Error> failure_;
};

Result<void> Server::open_files() {
  if (auto made = make_folders(arguments_.data, 0700); !made) return made;
  if (auto made = make_folders(arguments_.data + "/backups", 0700); !made) return made;
  auto store = SqliteStore::open(loop_, {.path = arguments_.data + "/state.db", .history = {}});
  if (!store) return wrap_error("open the state", store.error());
  store_ = std::move(*store);
  auto journal = SqliteJournal::open(loop_, {.path = arguments_.data + "/journal.db"});
  if (!journal) return wrap_error("open the journal", journal.error());
  journal_ = std::move(*journal);
  auto authority = CertificateAuthority::open(arguments_.data + "/authority");
  if (!authority) return authority.error();
  authority_ = std::move(*authority);
  return {};
}

Result<void> Server::open_usage() {
  constexpr std::size_t kPricesMax = 1 << 20;
  if (!arguments_.prices.empty()) {
    const auto text = read_file(arguments_.prices, kPricesMax);
    if (!text) return wrap_error("--prices", text.error());
    auto prices = metering::read_prices(*text);
    if (!prices) return wrap_error("--prices " + arguments_.prices, prices.error());
    prices_ = *std::move(prices);
  }
  auto usage = metering::SqliteUsageStore::open(loop_, arguments_.data + "/usage.db");
  if (!usage) return wrap_error("open the file of metering", usage.error());
  usage_ = *std::move(usage);
  return {};
}

void Server::console(const VmId& vm, Callback<std::string> done) {
  const Vm* stored = core_->view().vms.find(vm);
  if (stored == nullptr || stored->status.host.empty()) {
    return loop_.post([done, vm] {
      done(make_error(Errc::not_found, "vm " + vm.value + " runs nowhere: it has no console"));
    });
  }
  Command command;
  command.kind = CommandKind::console;
  command.vm = vm;
  core_->sessions().call(stored->status.host, std::move(command), seconds(10),
                         [done](Result<CommandResult> result) {
                           if (!result) return done(result.error());
                           done(std::move(result->text));
                         });
}

void Server::backup(const std::string& name, Callback<json::object> done) {
  const std::string path = arguments_.data + "/backups/" + name + ".db";
  store_->backup(path, [done, path](Result<BackupInfo> info) {
    if (!info) return done(info.error());
    done(json::object{{"path", path},
                      {"revision", info->revision},
                      {"incarnation", info->incarnation},
                      {"keys", info->keys},
                      {"bytes", info->bytes.value}});
  });
}

Result<HostId> Server::choose_host(const VmId& id) const {
  const Vm* vm = core_->view().vms.find(id);
  if (vm == nullptr) return make_error(Errc::not_found, "vm " + id.value + " does not exist");
  const PlacementState state(core_->view(), vm->spec.cluster);
  const PlacementQuery query{.vm = vm,
                             .live = true,
                             .avoid = {},
                             .prefer = hosts_beside_volumes(core_->view(), *vm, true)};
  if (const auto chosen = state.choose(query)) return *chosen;
  return make_error(Errc::exhausted, "no host can take vm " + id.value + " alive: " +
                                         text_of(state.explain(query)));
}

void Server::collect(Metrics& metrics) const {
  const StoreStats stats = store_->stats();
  metrics.set("virga_store_commits", "commits since the start", {},
              static_cast<double>(stats.commits));
  metrics.set("virga_store_queued", "commits waiting for the disk", {},
              static_cast<double>(stats.queued));
  metrics.set("virga_loop_stalls", "tasks of the control thread above 50 ms", {},
              static_cast<double>(loop_.stalls()));
  metrics.set("virga_agents_connected", "sessions of agents", {},
              static_cast<double>(agents_.connections()));
  std::map<std::string, int> healths;
  for (const auto& [id, host] : core_->view().hosts.all()) {
    ++healths[std::string(enum_name(host->status.health))];
  }
  for (const auto& [health, count] : healths) {
    metrics.set("virga_hosts", "hosts by health", {{"health", health}}, count);
  }
}

ApiContext Server::make_context() {
  ApiContext context{loop_, *store_, *journal_, metrics_, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  context.view = [this] { return core_->view(); };
  context.session = random_secret().substr(0, 8);
  context.live_host = [this](const HostId& host) -> Result<json::object> {
    return core_->live_host(host);
  };
  context.console = [this](const VmId& vm, Callback<std::string> done) {
    console(vm, std::move(done));
  };
  context.whatif = [this](const ClusterId& cluster) -> Result<json::object> {
    return core_->whatif(cluster);
  };
  context.choose_host = [this](const VmId& vm) { return choose_host(vm); };
  context.foretell_start = [this](const Vm& vm) { return core_->foretell_start(vm); };
  context.issue_certificate = [this](const HostId& host,
                                     const std::vector<std::string>& addresses) {
    return issue_to(host, addresses);
  };
  context.backup = [this](const std::string& name, Callback<json::object> done) {
    backup(name, std::move(done));
  };
  context.collect = [this](Metrics& metrics) { collect(metrics); };
  context.confirm_recovery = [this] { core_->release_recovery_hold(); };
  context.level = [this](const ServiceId& id) { return core_->monitoring().report(id); };
  context.usage = usage_.get();
  context.prices = prices_;
  context.ready = [this]() -> Result<void> {
    if (ready_) return {};
    return make_error(Errc::unavailable, "the state is still being loaded");
  };
  return context;
}

void Server::make_core() {
  core_ = std::make_unique<ServerCore>(
      ServerDependencies{loop_, *store_, *journal_, bmc_, agents_, [] { return random_secret(); },
                         [](const std::string& secret, const std::string& name) {
                           return sha256_hex(hmac_sha256(secret, name));
                         },
                         usage_.get()},
      ServerOptions{});
  api_ = std::make_unique<Api>(make_context());
}

Result<void> Server::open_agent_port() {
  const auto agents = parse_address("--agents", arguments_.agents);
  if (!agents) return agents.error();
  CertificateRequest request;
  request.common_name = "server";
  request.addresses = {agents->host};
  request.dns_names = {"virga-server"};
  const auto identity = issue(request);
  if (!identity) return identity.error();
  HttpServerOptions agent_port;
  agent_port.address = agents->host;
  agent_port.port = agents->port;
  agent_port.tls = *identity;
  agent_port.idle_deadline = seconds(8);
  agent_port.user_timeout = kLinkUserTimeout;
  auto listening = agents_.listen(loop_, std::move(agent_port),
                                  [this](HttpRequest join, std::shared_ptr<HttpReply> reply) {
                                    api_->handle_agents(std::move(join), std::move(reply));
                                  });
  return listening ? keep_certificate(request, *identity)
                   : wrap_error("listen for agents on " + arguments_.agents, listening.error());
}

Result<TlsIdentity> Server::issue(CertificateRequest request) const {
  request.valid = seconds(arguments_.certificates_valid_s);
  return authority_->issue(request);
}

Result<IssuedCertificate> Server::issue_to(const HostId& host,
                                           const std::vector<std::string>& addresses) const {
  CertificateRequest request;
  request.common_name = std::string(kAgentName) + host.value;
  request.addresses = addresses;
  const auto identity = issue(request);
  if (!identity) return identity.error();
  const auto life = life_of(identity->certificate);
  if (!life) return life.error();
  return IssuedCertificate{*identity, life->ends};
}

/// A server may run for longer than its certificate is good.
Result<void> Server::keep_certificate(const CertificateRequest& request,
                                      const TlsIdentity& identity) {
  renewal_.emplace(
      loop_, [this, request](Callback<TlsIdentity> done) { done(issue(request)); },
      [this](const TlsIdentity& renewed) { return agents_.use(renewed); });
  return renewal_->start(identity.certificate);
}

Result<std::unique_ptr<HttpServer>> Server::serve_operators(HttpServerOptions options) {
  return HttpServer::listen(loop_, std::move(options),
                            [this](HttpRequest call, std::shared_ptr<HttpReply> reply) {
                              api_->handle(std::move(call), std::move(reply));
                            });
}

Result<void> Server::open_ports() {
  const auto operators = parse_address("--listen", arguments_.listen);
  if (!operators) return operators.error();
  if (!operators->host.starts_with("127.") && operators->host != "::1") {
    return make_error(Errc::invalid,
                      fmt::format("--listen: {} is not a loopback address; until there is access "
                                  "control the API listens on loopback only",
                                  operators->host));
  }
  if (auto opened = open_agent_port(); !opened) return opened;
  HttpServerOptions operator_port;
  operator_port.address = operators->host;
  operator_port.port = operators->port;
  auto server = serve_operators(operator_port);
  if (!server) return wrap_error("listen on " + arguments_.listen, server.error());
  operators_ = std::move(*server);
  if (arguments_.listen_descriptor < 0) return {};
  if (!listens_on_loopback(arguments_.listen_descriptor)) {
    return make_error(Errc::invalid,
                      fmt::format("--listen-descriptor {}: a TCP socket that listens on "
                                  "127.0.0.0/8 is right",
                                  arguments_.listen_descriptor));
  }
  HttpServerOptions outside;
  outside.listening_descriptor = arguments_.listen_descriptor;
  server = serve_operators(outside);
  if (!server) {
    return wrap_error(fmt::format("listen on descriptor {}", arguments_.listen_descriptor),
                      server.error());
  }
  operators_outside_ = std::move(*server);
  return {};
}

Result<void> Server::run() {
  if (auto opened = open_files(); !opened) return opened;
  if (auto opened = open_usage(); !opened) return opened;
  make_core();
  if (auto opened = open_ports(); !opened) return opened;
  loop_.on_signal({SIGINT, SIGTERM}, [this](int) { loop_.stop(); });
  core_->start([this](Result<void> started) {
    if (!started) {
      failure_ = started.error();
      return loop_.stop();
    }
    ready_ = true;
    agents_.serve(core_->sessions());
    log_line(LogLevel::info, "server",
             fmt::format("ready: API on {}, agents on {}", arguments_.listen, arguments_.agents));
  });
  loop_.run();
  operators_.reset();
  operators_outside_.reset();
  if (failure_) return *failure_;
  return {};
}

}  // namespace

int server_main(int argc, char** argv) {
  ServerArguments arguments;
  CLI::App app("The control plane of a Virga cloud.", "virgad server");
  app.add_option("--data", arguments.data, "folder of state, journal and authority")
      ->capture_default_str();
  app.add_option("--listen", arguments.listen, "ADDRESS:PORT of the API (loopback)")
      ->capture_default_str();
  app.add_option("--agents", arguments.agents, "ADDRESS:PORT for agents (mutual TLS)")
      ->capture_default_str();
  app.add_option("--prices", arguments.prices, "JSON file of what use costs; see metering.md");
  app.add_option("--certificates-valid-s", arguments.certificates_valid_s,
                 "for how many seconds certificates are good that it issues; they are renewed in "
                 "time")
      ->check(CLI::Range(std::int64_t{10}, std::int64_t{10L * 365 * 24 * 3600}))
      ->capture_default_str();
  app.add_option("--listen-descriptor", arguments.listen_descriptor,
                 "a listening loopback socket that the starter hands over, for the API too");
  app.add_option("--log-level", arguments.log_level, "debug, info, warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  set_log_level(log_level_of(arguments.log_level).value_or(LogLevel::info));
  if (const auto risen = rise_above_guests(); !risen) {
    log_line(LogLevel::warning, "server", risen.error().text());
  }
  if (const auto files = allow_open_files(kOpenFiles); files < kOpenFiles) {
    log_line(LogLevel::warning, "server",
             fmt::format("may have {} files open, {} are wanted for agents and clients: raise the "
                         "hard limit (ulimit -Hn)",
                         files, kOpenFiles));
  }
  Server server(std::move(arguments));
  if (auto ran = server.run(); !ran) {
    std::fprintf(stderr, "virgad server: %s\n", ran.error().text().c_str());
    return 1;
  }
  return 0;
}

}  // namespace virga
