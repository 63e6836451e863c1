#include "bench/bench_agents.h"

#include <atomic>
#include <deque>
#include <set>
#include <thread>

#include "agent/agent_connection.h"
#include "sim/drivers.h"
#include "sim/sim_hypervisor.h"

namespace virga::bench {
namespace {

constexpr Duration kPump = milliseconds(10);
constexpr int kPeers = 3;

/// What is counted from a moment on, by all agents.
struct LeaseWatch {
  std::atomic<std::int64_t> round{0};
  std::atomic<int> renewed{0};
  std::atomic<int> lapsed{0};
};

/// A leash that is always there. It hears of every lease.
class Guard final : public ProcessGuard {
 public:
  Guard(Loop& loop, LeaseWatch& watch) : loop_(loop), watch_(watch) {}

  Result<void> guard(const std::string&, int) override { return {}; }
  void release(const std::string&) override {}
  void extend(Instant deadline, Duration) override {
    if (counted_ != watch_.round) {
      look();
      counted_ = watch_.round;
      ++watch_.renewed;
    }
    deadline_ = std::max(deadline_, deadline);
  }
  bool armed() const override { return true; }

  /// Counts a lease that has ended and was not renewed, once a round.
  void look() {
    const std::int64_t round = watch_.round;
    if (counted_ == round || lapsed_ == round || loop_.now() < deadline_) return;
    lapsed_ = round;
    ++watch_.lapsed;
  }

 private:
  Loop& loop_;
  LeaseWatch& watch_;
  Instant deadline_{};
  std::int64_t counted_ = 0;
  std::int64_t lapsed_ = 0;
};

class Agent final : public AgentLink, public PeerLink {
 public:
  struct Parts {
    AsioLoop& loop;
    sim::World& world;
    sim::Migrations& migrations;
    sim::HostTruth& truth;
    LeaseWatch& watch;
  };

  Agent(const Parts& parts, const Host& host, AgentConnectionOptions link,
        std::vector<PeerView> peers, std::uint64_t seed)
      : guard_(parts.loop, parts.watch),
        fabric_(parts.loop, networks_),
        hypervisor_({parts.world, parts.migrations, parts.truth, parts.loop, guard_, fabric_}),
        peers_(std::move(peers)),
        connection_(parts.loop, std::move(link), seed),
        core_(dependencies(parts), options(host)) {
    parts.truth.listener = [this](sim::WorldChange change, const sim::Copy& copy) {
      hypervisor_.copy_changed(copy, change == sim::WorldChange::ended);
    };
  }

  void start() {
    core_.start([this](const Result<void>& ready) {
      if (ready.ok()) connection_.start(core_);
    });
  }

  bool has_lease() const { return core_.lease_valid(); }
  void look_at_lease() { guard_.look(); }

  void send(AgentMessage message) override {
    if (message.report) message.report->peers = peers_;
    connection_.send(std::move(message));
  }
  void upload(std::uint64_t command, std::string text, Callback<void> done) override {
    connection_.upload(command, std::move(text), std::move(done));
  }
  void reconnect() override { connection_.reconnect(); }
  void send(const ClusterMember&, const PeerProbe&, const std::string&) override {}

 private:
  AgentDependencies dependencies(const Parts& parts) {
    sim::HostTruth& truth = parts.truth;
    return {parts.loop,
            hypervisor_,
            fabric_,
            guard_,
            *this,
            *this,
            [&truth] { return truth.used(); },
            [] { return std::string(); }};
  }

  static AgentOptions options(const Host& host) {
    AgentOptions options;
    options.probed_peers = 0;
    options.reports_usage = true;
    Hello& hello = options.hello;
    hello.host = host.id();
    hello.boot_id = host.status.boot_id;
    hello.session_id = host.meta.name;
    hello.agent_version = host.status.agent_version;
    hello.address = host.status.address;
    hello.tenant_address = host.status.address;
    hello.probe_port = 7947;
    hello.capacity = host.status.capacity;
    return options;
  }

  Guard guard_;
  sim::HostNetworks networks_;
  sim::SimFabric fabric_;
  sim::SimHypervisor hypervisor_;
  std::vector<PeerView> peers_;
  AgentConnection connection_;
  AgentCore core_;
};

}  // namespace

class Agents::Impl {
 public:
  explicit Impl(Options options) : options_(std::move(options)) {}
  ~Impl() {
    if (!thread_.joinable()) return;
    loop_.stop();
    thread_.join();
  }

  Result<void> begin() {
    if (auto issued = issue_certificates(); !issued) return issued;
    thread_ = std::thread([this] { run(); });
    return {};
  }

  std::atomic<int> leases{0};
  std::atomic<int> running{0};
  LeaseWatch watch;

 private:
  /// What virtual time and the simulated hosts are; made and ended on the thread that uses them.
  struct Simulation {
    SimLoop time;
    sim::World world{time, {}};
    sim::Migrations migrations{world};
    std::deque<Agent> agents;
  };

  Result<void> issue_certificates() {
    auto authority = CertificateAuthority::open(options_.authority);
    if (!authority) return authority.error();
    for (int number = 0; number < options_.size.hosts(); ++number) {
      const Host host = make_host(options_.size, number);
      auto identity = authority->issue({"agent:" + host.meta.name, {}, {host.status.address}});
      if (!identity) return identity.error();
      identities_.push_back(std::move(*identity));
    }
    return {};
  }

  void run() {
    const auto simulation = std::make_unique<Simulation>();
    simulation->world.observe(
        [this](sim::WorldChange change, const sim::HostTruth&, const sim::Copy* copy) {
          if (change == sim::WorldChange::state && copy->state == sim::CopyState::running) {
            ++running;
          }
          if (change == sim::WorldChange::ended) --running;
        });
    for (int number = 0; number < options_.size.hosts(); ++number) add(*simulation, number);
    std::vector<Agent*> order;
    for (Agent& agent : simulation->agents) order.push_back(&agent);
    if (options_.shuffled) shuffle(order);
    waiting_.assign(order.begin(), order.end());
    pump(*simulation, loop_.now(), simulation->time.now());
    loop_.run();
  }

  static void shuffle(std::vector<Agent*>& order) {
    Rng rng(1);
    for (std::size_t left = order.size(); left > 1; --left) {
      std::swap(order[left - 1], order[rng.below(left)]);
    }
  }

  /// Virtual time follows the real one.
  void pump(Simulation& simulation, Instant real, Instant virtually) {
    simulation.time.run_until(virtually + (loop_.now() - real));
    open_links();
    for (Agent& agent : simulation.agents) agent.look_at_lease();
    loop_.after(kPump, [this, &simulation, real, virtually] { pump(simulation, real, virtually); });
  }

  void open_links() {
    for (auto next = opening_.begin(); next != opening_.end();) {
      if (!(*next)->has_lease()) {
        ++next;
        continue;
      }
      next = opening_.erase(next);
      ++leases;
    }
    while (!waiting_.empty() && opening_.size() < static_cast<std::size_t>(options_.opening_max)) {
      waiting_.front()->start();
      opening_.insert(waiting_.front());
      waiting_.pop_front();
    }
  }

  void add(Simulation& simulation, int number) {
    const Host host = make_host(options_.size, number);
    sim::HostTruth& truth = simulation.world.add_host(host.id(), host.status.capacity);
    truth.address = host.status.address;
    AgentConnectionOptions link;
    link.server = options_.server;
    link.tls = std::move(identities_[static_cast<std::size_t>(number)]);
    simulation.agents.emplace_back(
        Agent::Parts{loop_, simulation.world, simulation.migrations, truth, watch}, host,
        std::move(link), peers_of(number), static_cast<std::uint64_t>(number));
    if (options_.size.populated) run_vm(simulation.world, truth, make_vm(options_.size, number));
  }

  /// The next hosts of its cluster, as the ring of probes has them.
  std::vector<PeerView> peers_of(int number) const {
    std::vector<PeerView> peers;
    const int members = options_.size.hosts_per_cluster;
    const int first = number - number % members;
    for (int next = 1; next <= std::min(kPeers, members - 1); ++next) {
      const Host peer = make_host(options_.size, first + (number - first + next) % members);
      peers.push_back({peer.id(), PeerHealth::alive, milliseconds(400), peer.status.boot_id,
                       peer.status.capacity});
    }
    return peers;
  }

  /// A guest that has run for a while.
  static void run_vm(sim::World& world, sim::HostTruth& truth, const Vm& vm) {
    VmLaunch launch;
    launch.vm = vm.id();
    launch.epoch = vm.status.epoch;
    launch.cpu_millicores = Millicores{1000};
    launch.memory_mib = vm.spec.memory_mib;
    world.stored()[launch.vm].epoch = launch.epoch;
    sim::Copy& copy = world.spawn(truth, launch, sim::CopyState::starting);
    copy.answers_at = world.loop().now();
    VIRGA_CHECK(world.set_state(truth, copy, sim::CopyState::running).ok());
  }

  Options options_;
  AsioLoop loop_;
  std::vector<TlsIdentity> identities_;
  std::deque<Agent*> waiting_;
  std::set<Agent*> opening_;
  std::thread thread_;
};

Result<std::unique_ptr<Agents>> Agents::start(const Options& options) {
  std::unique_ptr<Agents> agents(new Agents());
  agents->impl_ = std::make_unique<Impl>(options);
  if (auto begun = agents->impl_->begin(); !begun) return begun.error();
  return agents;
}

Agents::Agents() = default;
Agents::~Agents() = default;
int Agents::leases() const { return impl_->leases; }
int Agents::running() const { return impl_->running; }
int Agents::renewed() const { return impl_->watch.renewed; }
int Agents::lapsed() const { return impl_->watch.lapsed; }
void Agents::watch_leases() {
  impl_->watch.renewed = 0;
  impl_->watch.lapsed = 0;
  ++impl_->watch.round;
}

}  // namespace virga::bench
