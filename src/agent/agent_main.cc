#include "agent/agent_main.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "agent/agent_connection.h"
#include "agent/agent_core.h"
#include "agent/agent_list_main.h"
#include "agent/balancer_folders.h"
#include "agent/directory_look.h"
#include "agent/gateway_folders.h"
#include "agent/host_devices.h"
#include "agent/host_facts.h"
#include "agent/leash_client.h"
#include "agent/membership.h"
#include "agent/service_asker.h"
#include "agent/storage_watch.h"
#include "base/log.h"
#include "driver/dnsmasq/dnsmasq_server.h"
#include "driver/haproxy/haproxy_balancer.h"
#include "driver/nbd/nbd_store.h"
#include "driver/net/linux_fabric.h"
#include "driver/qemu/qemu_hypervisor.h"
#include "edge/datagram.h"
#include "edge/file.h"
#include "edge/process.h"
#include "edge/socket_options.h"
#include "edge/worker.h"

namespace virga {
namespace {

constexpr Duration kStatusEvery = seconds(2);
constexpr std::size_t kGatewayFilesMax = 4096;

struct AgentArguments {
  std::string server;
  std::string token_file;
  std::string authority_file;
  std::string data = "/var/lib/virga/agent";
  std::string name;
  std::string address;
  std::string tenant_address;
  std::string storage_address;
  std::string leash = "/run/virga/leash.sock";
  std::string shared;
  bool plain_migrations = false;
  std::string cgroup_base;
  std::string namespaces = "vg-";
  std::string outside_device;
  std::vector<std::string> resolvers;
  std::vector<std::string> host_devices;
  std::vector<OfferedDevice> offered;  ///< found by them
  bool unlimited = false;
  std::string guest_users;
  GuestUsers users;  ///< chosen by it
  DeclaredCapacity declared;
  std::string run_directory;
  std::string health_file;
  std::string log_level = "info";
};

std::string sign_probe(const std::string& key, const std::string& data) {
  return sha256_hex(hmac_sha256(key, data));
}

class PeerSocket final : public PeerLink {
 public:
  void open(std::unique_ptr<DatagramSocket> socket) { socket_ = std::move(socket); }
  void send(const ClusterMember& to, const PeerProbe& probe, const std::string& key) override {
    if (socket_ == nullptr) return;
    socket_->send(to.address, to.probe_port, encode_probe(probe, key, sign_probe));
  }
  std::uint16_t port() const { return socket_->port(); }

 private:
  std::unique_ptr<DatagramSocket> socket_;
};

class Agent {
 public:
  explicit Agent(AgentArguments arguments)
      : arguments_(std::move(arguments)),
        facts_(loop_, arguments_.cgroup_base, arguments_.declared),
        guard_(loop_, arguments_.leash),
        storage_(loop_, "shared directory " + arguments_.shared,
                 [this](Callback<void> done) { look_at_storage(std::move(done)); }),
        looks_(loop_, 1, 1),
        balancers_(arguments_.data + "/balancers",
                   [this](const std::string& directory, const std::string& network_namespace) {
                     return make_balancer(directory, network_namespace);
                   }),
        gateway_files_(loop_, 1, kGatewayFilesMax),
        gateways_(std::string(kGatewayFolder) + arguments_.namespaces,
                  [this](const std::string& directory, const std::string& network_namespace) {
                    return make_gateway(directory, network_namespace);
                  }),
        asker_(loop_),
        membership_(loop_, membership()),
        status_timer_(loop_) {}

  Result<void> run();

 private:
  std::string incarnation_path() const { return arguments_.data + "/incarnation"; }
  MembershipOptions membership() const;
  void begin(const TlsIdentity& identity);
  Result<void> open_drivers();
  Result<void> open_peers();
  void open_core(const TlsIdentity& identity);
  Hello hello() const;
  Result<std::unique_ptr<BlockStore>> make_device(const std::string& directory);
  std::unique_ptr<LoadBalancer> make_balancer(const std::string& directory,
                                              const std::string& network_namespace);
  std::unique_ptr<GatewayServer> make_gateway(const std::string& directory,
                                              const std::string& network_namespace);
  WayOutOptions way_out() const;
  std::string degraded() const;
  void look_at_storage(Callback<void> done);
  void write_status();
  void fail(const Error& error);

  AgentArguments arguments_;
  AsioLoop loop_;
  HostFacts facts_;
  LeashClient guard_;
  StorageWatch storage_;
  Worker looks_;
  std::uint64_t look_ = 0;
  std::unique_ptr<LinuxFabric> fabric_;
  std::unique_ptr<QemuHypervisor> hypervisor_;
  BalancerFolders balancers_;
  Worker gateway_files_;
  GatewayFolders gateways_;
  NetworkAsker asker_;
  PeerSocket peers_;
  Membership membership_;
  std::unique_ptr<AgentConnection> connection_;
  std::unique_ptr<AgentCore> core_;
  Timer status_timer_;
  std::optional<Error> failure_;
};

void Agent::fail(const Error& error) {
  failure_ = error;
  loop_.stop();
}

MembershipOptions Agent::membership() const {
  MembershipOptions options;
  options.server = arguments_.server;
  options.request.host = HostId(arguments_.name);
  options.request.addresses = {arguments_.address};
  options.token_file = arguments_.token_file;
  options.authority_file = arguments_.authority_file;
  options.identity_file = arguments_.data + "/identity.json";
  options.stale_file = incarnation_path();
  return options;
}

Hello Agent::hello() const {
  Hello hello;
  hello.host = HostId(arguments_.name);
  const char* boot_id =
      std::getenv("VIRGA_BOOT_ID");  // the lab gives each boot of its hosts its own
  hello.boot_id = boot_id != nullptr ? boot_id : read_boot_id();
  hello.session_id = random_secret().substr(0, 16);
  hello.agent_version = VIRGA_VERSION;
  hello.address = arguments_.address;
  hello.tenant_address = arguments_.tenant_address;
  hello.probe_port = peers_.port();
  hello.capacity = facts_.capacity();
  for (const OfferedDevice& one : arguments_.offered) hello.host_devices.push_back(one.device);
  return hello;
}

/// An operator's or a monitor's word that this host is failing (the first line of the health file),
/// or that it has lost the shared storage.
std::string Agent::degraded() const {
  const auto text = read_file(arguments_.health_file, 4096);
  if (!text || text->empty()) return storage_.failing();
  return text->substr(0, std::min<std::size_t>(text->find('\n'), 200));
}

void Agent::look_at_storage(Callback<void> done) {
  looks_.run<void>([directory = arguments_.shared, name = arguments_.name,
                    number = ++look_] { return look_at_directory(directory, name, number); },
                   std::move(done));
}

Result<std::unique_ptr<BlockStore>> Agent::make_device(const std::string& directory) {
  if (auto made = make_folders(directory, 0700); !made) return made.error();
  NbdOptions options;
  options.directory = directory;
  options.address =
      arguments_.storage_address.empty() ? arguments_.address : arguments_.storage_address;
  return std::unique_ptr<BlockStore>(std::make_unique<NbdStore>(loop_, options));
}

std::unique_ptr<LoadBalancer> Agent::make_balancer(const std::string& directory,
                                                   const std::string& network_namespace) {
  HaproxyOptions options;
  options.directory = directory;
  options.network_namespace = network_namespace;
  // Who may not make control groups may not become another user either.
  if (arguments_.unlimited) options.user.clear();
  return std::make_unique<HaproxyBalancer>(loop_, options);
}

std::unique_ptr<GatewayServer> Agent::make_gateway(const std::string& directory,
                                                   const std::string& network_namespace) {
  DnsmasqOptions options;
  options.directory = directory;
  options.network_namespace = network_namespace;
  if (!arguments_.outside_device.empty()) options.resolvers = way_out().resolvers;
  if (arguments_.unlimited) options.user.clear();  // as of load balancers
  return std::make_unique<DnsmasqServer>(loop_, gateway_files_, options);
}

WayOutOptions Agent::way_out() const {
  WayOutOptions options;
  options.device = arguments_.outside_device;
  options.closed =
      networks_of({arguments_.address, arguments_.tenant_address, arguments_.storage_address});
  options.resolvers = arguments_.resolvers;
  if (!options.resolvers.empty()) return options;
  const auto text = read_file("/etc/resolv.conf", 64 << 10);
  if (text) options.resolvers = resolvers_in(*text);
  return options;
}

void Agent::begin(const TlsIdentity& identity) {
  auto opened = open_drivers();
  if (opened) opened = open_peers();
  if (!opened) return fail(opened.error());
  open_core(identity);
  core_->start([this](Result<void> started) {
    if (!started) return fail(started.error());
    storage_.start();
    connection_->start(*core_);
    membership_.keep([this](const TlsIdentity& renewed) { connection_->use(renewed); });
    write_status();
  });
}

Result<void> Agent::open_drivers() {
  LinuxFabricOptions network;
  network.local_address = arguments_.tenant_address;
  network.space_prefix = arguments_.namespaces;
  network.outside = way_out();
  network.packet_ports = arguments_.unlimited && access("/dev/net/tun", R_OK | W_OK) != 0;
  if (network.packet_ports) {
    log_line(LogLevel::info, "agent",
             "/dev/net/tun is closed to this user: ports of guests are wires instead of taps");
  }
  auto fabric = LinuxFabric::open(loop_, network);
  if (!fabric) return fabric.error();
  fabric_ = std::move(*fabric);
  QemuOptions options;
  options.run_directory = arguments_.run_directory;
  options.shared_directory = arguments_.shared;
  options.migration_address = arguments_.address;
  options.encrypt_migrations = !arguments_.plain_migrations;
  options.cgroup_base = arguments_.cgroup_base;
  options.users = arguments_.users;
  for (const OfferedDevice& one : arguments_.offered)
    options.host_devices[one.device.name] = one.path;
  if (arguments_.unlimited) {
    options.cgroups = false;
    options.users = {0, 1};
  } else if (options.users.count == 1) {
    log_line(LogLevel::warning, "agent",
             fmt::format("all guests are user {}: the user namespace of this process has too few "
                         "others; name those that it has by --guest-users",
                         options.users.first));
  }
  hypervisor_ = std::make_unique<QemuHypervisor>(loop_, options, guard_, *fabric_);
  return {};
}

Result<void> Agent::open_peers() {
  auto socket = DatagramSocket::bind(
      loop_, arguments_.address, 0, [this](const std::string& data, const std::string&) {
        if (core_ == nullptr) return;
        const auto probe = decode_probe(data, core_->probe_key(), sign_probe);
        if (probe) core_->peer_received(*probe);
      });
  if (!socket) return wrap_error("open the socket of peer probes", socket.error());
  peers_.open(std::move(*socket));
  return {};
}

void Agent::open_core(const TlsIdentity& identity) {
  AgentConnectionOptions link;
  link.server = arguments_.server;
  link.tls = identity;
  const std::string jitter = random_secret().substr(0, 15);
  connection_ = std::make_unique<AgentConnection>(loop_, link, std::stoull(jitter, nullptr, 16));
  AgentOptions core_options;
  core_options.reports_usage = true;
  core_options.leads_outside = !arguments_.outside_device.empty();
  core_options.shared_directory = arguments_.shared;
  core_options.hello = hello();
  if (const auto kept = read_file(incarnation_path(), 64)) {
    std::from_chars(kept->data(), kept->data() + kept->size(), core_options.incarnation);
  }
  core_options.keep_incarnation = [path = incarnation_path()](std::uint64_t incarnation) {
    const auto written = write_file_atomically(path, std::to_string(incarnation), 0600);
    if (!written) log_line(LogLevel::warning, "agent", written.error().text());
  };
  core_ = std::make_unique<AgentCore>(
      AgentDependencies{loop_, *hypervisor_, *fabric_, guard_, *connection_, peers_,
                        [this] { return facts_.used(); }, [this] { return degraded(); },
                        [this](const std::string& directory) { return make_device(directory); },
                        &balancers_, &asker_, &gateways_},
      std::move(core_options));
}

/// What `virga host peers` shows when the server does not answer.
void Agent::write_status() {
  status_timer_.set_after(kStatusEvery, [this] { write_status(); });
  const auto written = replace_file(arguments_.run_directory + "/status.json",
                                    json::serialize(core_->local_status()));
  if (!written) log_line(LogLevel::warning, "agent", written.error().text());
}

Result<void> Agent::run() {
  if (auto made = make_folders(arguments_.data, 0700); !made) return made;
  if (auto made = make_folders(arguments_.run_directory, 0755); !made) return made;
  loop_.on_signal({SIGINT, SIGTERM}, [this](int) { loop_.stop(); });
  membership_.open([this](const Result<TlsIdentity>& identity) {
    identity ? begin(*identity) : fail(identity.error());
  });
  loop_.run();
  if (failure_) return *failure_;
  return {};
}

void add_options(CLI::App& app, AgentArguments& arguments) {
  app.add_option("--server", arguments.server, "wss://ADDRESS:PORT of the server's agent port")
      ->required();
  app.add_option("--name", arguments.name, "name of this host in the cloud")->required();
  app.add_flag("--plain-migrations", arguments.plain_migrations,
               "guests that move here alive are not encrypted on their way");
  app.add_option("--address", arguments.address, "management address: peers and migrations")
      ->required();
  app.add_option("--tenant-address", arguments.tenant_address, "end point of tenant networks")
      ->required();
  app.add_option("--storage-address", arguments.storage_address,
                 "where others reach the volumes of this host; default: the management address");
  app.add_option("--shared", arguments.shared, "the cluster's shared directory")->required();
  app.add_option("--token-file", arguments.token_file, "one-time token, for the first start");
  app.add_option("--authority", arguments.authority_file,
                 "the cloud's certificate, for the first start");
  app.add_option("--data", arguments.data, "folder of identity and records")->capture_default_str();
  app.add_option("--run", arguments.run_directory, "folder of running guests; default DATA/run");
  app.add_option("--leash", arguments.leash, "socket of virgad leash")->capture_default_str();
  app.add_option("--cgroup-base", arguments.cgroup_base, "control group of this host");
  app.add_option("--namespaces", arguments.namespaces,
                 "begins the names of network namespaces that this host makes for load balancers "
                 "and gateways")
      ->capture_default_str();
  app.add_option("--outside-device", arguments.outside_device,
                 "by which guests of networks with `gateway: nat` reach the outside; default: they "
                 "do not");
  app.add_option("--resolver", arguments.resolvers,
                 "name server that these guests ask, IPv4; default: those of /etc/resolv.conf");
  app.add_option("--host-device", arguments.host_devices,
                 "NAME=/dev/...: a block or character device of this host that a VM which is "
                 "pinned to it may hold; may be repeated");
  app.add_flag("--unlimited", arguments.unlimited,
               "guests run without control groups and as this user: for who may make neither");
  app.add_option("--guest-users", arguments.guest_users,
                 "FIRST-LAST, ids of this machine's users that guests alone are, each VM another; "
                 "default: 70000-74095, or 65534 for all where these are not mapped")
      ->excludes("--unlimited");
  app.add_option("--cpu-millicores", arguments.declared.cpu_millicores,
                 "what this host offers; default: as its control group or the machine");
  app.add_option("--memory-mib", arguments.declared.memory_mib, "likewise");
  app.add_option("--log-level", arguments.log_level,
                 "debug (each QMP command), info, warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  app.add_option("--health-file", arguments.health_file,
                 "while it holds a line, this host counts as failing; default DATA/degraded");
}

}  // namespace

int agent_main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "list") == 0) return agent_list_main(argc - 1, argv + 1);
  AgentArguments arguments;
  CLI::App app("Runs guests on one host for its server.", "virgad agent");
  add_options(app, arguments);
  app.footer("`virgad agent list --shared FOLDER` shows the VMs of the cluster without a server.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (!arguments.server.starts_with("wss://")) {
    std::fprintf(stderr, "virgad agent: --server: \"%s\" does not begin with wss://\n",
                 arguments.server.c_str());
    return 2;
  }
  const auto uid_map = read_file("/proc/self/uid_map", 64 << 10);
  const auto users = choose_guest_users(arguments.guest_users, uid_map ? *uid_map : "");
  if (!users) {
    std::fprintf(stderr, "virgad agent: --guest-users: %s\n", users.error().text().c_str());
    return 2;
  }
  arguments.users = *users;
  auto offered = offer_devices(arguments.host_devices);
  if (!offered) {
    std::fprintf(stderr, "virgad agent: %s\n", offered.error().text().c_str());
    return 2;
  }
  arguments.offered = std::move(*offered);
  if (arguments.run_directory.empty()) arguments.run_directory = arguments.data + "/run";
  if (arguments.health_file.empty()) arguments.health_file = arguments.data + "/degraded";
  set_log_level(log_level_of(arguments.log_level).value_or(LogLevel::info));
  if (const auto risen = rise_above_guests(); !risen) {
    log_line(LogLevel::warning, "agent", risen.error().text());
  }
  if (const auto hastened = hasten_keepalive(); !hastened) {
    log_line(LogLevel::warning, "agent",
             hastened.error().text() + "; guests may wait long for a storage host that was lost");
  }
  Agent agent(std::move(arguments));
  if (auto ran = agent.run(); !ran) {
    std::fprintf(stderr, "virgad agent: %s\n", ran.error().text().c_str());
    return 1;
  }
  return 0;
}

}  // namespace virga
