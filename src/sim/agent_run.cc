#include "sim/agent_run.h"

#include <fmt/format.h>

#include "agent/agent_core.h"
#include "agent/storage_watch.h"

namespace virga::sim {
namespace {

constexpr std::uint16_t kProbePort = 7947;
constexpr Duration kStorageRetry = milliseconds(500);

}  // namespace

/// The balancers of one host as its agent's drivers.
class HostBalancers : public BalancerHome {
 public:
  HostBalancers(Loop& agent, HostTruth& host) : agent_(agent), host_(host) {}

  std::unique_ptr<LoadBalancer> make(const ServiceId& service, const std::string&) override {
    return std::make_unique<SimLoadBalancer>(agent_, host_.balancers[service]);
  }
  std::map<ServiceId, BalancerLeg> remembered() override { return host_.balancer_legs; }
  Result<void> remember(const ServiceId& service, const BalancerLeg& leg) override {
    host_.balancer_legs[service] = leg;
    return {};
  }
  Result<void> forget(const ServiceId& service) override {
    host_.balancer_legs.erase(service);
    return {};
  }

 private:
  Loop& agent_;
  HostTruth& host_;
};

/// Goes where its host's overlay leads, as packets do.
class HostAsker : public ServiceAsker {
 public:
  HostAsker(Loop& agent, World& world, const HostTruth& host, const HostNetworks& networks)
      : agent_(agent), world_(world), host_(host), networks_(networks) {}

  void ask(const ServiceProbe& probe, std::shared_ptr<const int>,
           Callback<Duration> done) override {
    HostTruth* there = balancer_host(probe);
    const auto balancer = there == nullptr ? nullptr : &there->balancers.at(probe.service);
    const std::string place = fmt::format("{}:{}", probe.address, probe.port);
    BalancerTruth::ServerKey taken;
    if (balancer == nullptr) {
      agent_.after(probe.timeout_ms, [done = std::move(done)] {
        done(make_error(Errc::timeout, "no answer in time"));
      });
      return;
    }
    if (!balancer->begin_request(place, agent_.now(), taken))
      return answer<Duration>(agent_, std::move(done), make_error(Errc::unavailable, "no answer"));
    agent_.after(kAnswerTakes, [there, service = probe.service, taken, done = std::move(done)] {
      const auto still = there->balancers.find(service);
      if (still != there->balancers.end()) still->second.end_request(taken);
      done(kAnswerTakes);
    });
  }

 private:
  static constexpr Duration kAnswerTakes = milliseconds(5);

  HostTruth* balancer_host(const ServiceProbe& probe) {
    const auto known = networks_.addresses.find(probe.leg.vni);
    if (known == networks_.addresses.end() || !host_.acts()) return nullptr;
    const auto tunnel = known->second.find(probe.address);
    if (tunnel == known->second.end()) return nullptr;
    for (HostTruth& host : world_.hosts()) {
      const bool there =
          host.address == tunnel->second && host.acts() && world_.joined(host_, host);
      if (there && host.balancers.contains(probe.service)) return &host;
    }
    return nullptr;
  }

  Loop& agent_;
  World& world_;
  const HostTruth& host_;
  const HostNetworks& networks_;
};

class AgentRun::Impl : public AgentLink, public PeerLink {
 public:
  Impl(Parts parts, const SimProcess& clock);
  ~Impl() override {
    process_.end();
    parts_.host.listener = nullptr;
  }

  void send(AgentMessage message) override {
    if (connected_) parts_.network.send_to_server(parts_.host, std::move(message));
  }
  void upload(std::uint64_t, std::string, Callback<void> done) override {
    done(make_error(Errc::unsupported, "nobody reads consoles in the simulator"));
  }
  void reconnect() override;
  void send(const ClusterMember& to, const PeerProbe& probe, const std::string&) override {
    parts_.network.send_datagram(parts_.host, to.address, probe, probe_key_);
  }

  SimProcess& process() { return process_; }
  GuardClient& guard() { return guard_; }

 private:
  AgentDependencies dependencies();
  Result<std::unique_ptr<BlockStore>> make_device(const std::string& directory);
  std::string degraded() const;
  void look_at_storage(Callback<void> done);
  AgentOptions options() const;
  MessageNetwork::AgentSide network_side();
  void connect_later();
  void lost(const std::string& why);

  Parts parts_;
  SimProcess process_;
  GuardClient guard_;
  SimFabric fabric_;
  SimHypervisor hypervisor_;
  HostBalancers balancers_;
  HostAsker asker_;
  StorageWatch storage_;
  bool connected_ = false;
  bool connecting_ = false;
  const std::string* probe_key_ = nullptr;  ///< core_.probe_key()
  AgentCore core_;
};

AgentRun::Impl::Impl(Parts parts, const SimProcess& clock)
    : parts_(std::move(parts)),
      process_(parts_.world.loop()),
      guard_(parts_.world.loop(), parts_.leash),
      fabric_(process_, parts_.networks),
      hypervisor_({parts_.world, parts_.migrations, parts_.host, process_, guard_, fabric_}),
      balancers_(process_, parts_.host),
      asker_(process_, parts_.world, parts_.host, parts_.networks),
      storage_(process_, "shared storage",
               [this](Callback<void> done) { look_at_storage(std::move(done)); }),
      core_(dependencies(), options()) {
  process_.follow(clock);
  parts_.host.listener = [this](WorldChange change, const Copy& copy) {
    hypervisor_.copy_changed(copy, change == WorldChange::ended);
  };
  parts_.network.agent_up(parts_.host, process_.group(), network_side());
  core_.start([this](const Result<void>& ready) {
    if (!ready.ok()) return;
    storage_.start();
    connect_later();
  });
}

AgentDependencies AgentRun::Impl::dependencies() {
  return AgentDependencies{process_,
                           hypervisor_,
                           fabric_,
                           guard_,
                           *this,
                           *this,
                           [this] { return parts_.host.used(); },
                           [this] { return degraded(); },
                           [this](const std::string& directory) { return make_device(directory); },
                           &balancers_,
                           &asker_};
}

Result<std::unique_ptr<BlockStore>> AgentRun::Impl::make_device(const std::string& directory) {
  DeviceTruth& truth = parts_.host.devices[directory];
  truth.address = parts_.host.address;
  return std::unique_ptr<BlockStore>(std::make_unique<SimBlockStore>(process_, truth));
}

std::string AgentRun::Impl::degraded() const {
  return parts_.host.disk_full ? "disk full" : storage_.failing();
}

/// As a mount that hangs: the answer comes when the storage is back.
void AgentRun::Impl::look_at_storage(Callback<void> done) {
  if (parts_.world.storage_reachable(parts_.host)) return done({});
  process_.after(kStorageRetry,
                 [this, done = std::move(done)]() mutable { look_at_storage(std::move(done)); });
}

AgentOptions AgentRun::Impl::options() const {
  AgentOptions options;
  options.reports_usage = parts_.reports_usage;
  options.leads_outside = true;
  Hello& hello = options.hello;
  hello.host = parts_.host.id;
  hello.boot_id = parts_.host.boot_id();
  hello.session_id = fmt::format("{}-{}", parts_.host.id.value, process_.group());
  hello.agent_version = VIRGA_VERSION;
  hello.address = parts_.host.address;
  hello.tenant_address = parts_.host.address;
  hello.probe_port = kProbePort;
  hello.capacity = parts_.host.capacity;
  return options;
}

MessageNetwork::AgentSide AgentRun::Impl::network_side() {
  MessageNetwork::AgentSide side;
  side.connected = [this](const Result<SessionId>& session) {
    connecting_ = false;
    if (!session) return connect_later();
    connected_ = true;
    core_.link_opened();
  };
  side.message = [this](const ServerMessage& message) {
    if (message.grant && parts_.granted) parts_.granted(*message.grant);
    core_.link_received(message);
    if (message.cluster) probe_key_ = parts_.network.key(core_.probe_key());
  };
  side.closed = [this](const std::string& why) { lost(why); };
  side.datagram = [this](PeerDatagram& datagram) {
    if (datagram.open(probe_key_)) core_.peer_received(datagram.probe);
  };
  return side;
}

void AgentRun::Impl::reconnect() {
  parts_.network.close_by_agent(parts_.host);
  process_.post([this] { lost("closed by this agent"); });
}

void AgentRun::Impl::lost(const std::string& why) {
  if (!connected_) return;
  connected_ = false;
  core_.link_closed(why);
  connect_later();
}

void AgentRun::Impl::connect_later() {
  if (connecting_) return;
  connecting_ = true;
  const auto jitter = milliseconds(100 + static_cast<std::int64_t>(parts_.rng.below(900)));
  process_.after(jitter, [this] { parts_.network.connect(parts_.host); });
}

AgentRun::AgentRun(Parts parts, const SimProcess& clock)
    : impl_(std::make_unique<Impl>(std::move(parts), clock)) {}
AgentRun::~AgentRun() = default;
SimProcess& AgentRun::process() { return impl_->process(); }
GuardClient& AgentRun::guard() { return impl_->guard(); }
void AgentRun::set_frozen(bool frozen) {
  frozen ? impl_->process().freeze() : impl_->process().thaw();
}

}  // namespace virga::sim
