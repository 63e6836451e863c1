#include "sim/swarm.h"

#include <fmt/format.h>

#include <map>

#include "base/reflect.h"
#include "mechanism/metering/series.h"
#include "sim/consumers.h"
#include "sim/scenario.h"

namespace virga::sim {
namespace {

constexpr Duration kHostsJoin = seconds(3);
constexpr Duration kCalm = seconds(20);  // until the first fault: hosts join, VMs start
constexpr Duration kSwitchedOnEvery = seconds(30);
constexpr Duration kSettleMax = seconds(240);  // the bound of liveness
constexpr Duration kCrossingsEvery = seconds(5);
constexpr std::uint64_t kMeteredSeeds = 4;  // each fourth: it takes twice the time
constexpr std::int64_t kUnheardMs = 30'000 + metering::kWindowMs;  // see metering_test.cc
constexpr std::uint64_t kBoundSeeds = 3;  // each third: one tenant may be in one of two regions
constexpr Duration kKeptWithin =
    milliseconds(2 * metering::kWindowMs);  // but for a server that is away
constexpr int kHostsPerDevice = 4;          // and in a region
constexpr int kVmsPerVolume = 3;
constexpr const char* kService = "shop/web";
constexpr std::int64_t kHostMemory = 8192;
constexpr std::int64_t kHostCpu = 8000;

class Swarm {
 public:
  Swarm(SimLoop& loop, const SwarmOptions& options);
  SwarmOutcome run();

 private:
  static CloudOptions cloud_options(const SwarmOptions& options);
  void found();
  void found_regions();
  void found_service();
  void choose_faults();
  void next_fault();
  void one_fault();
  void host_fault(FaultKind kind);
  void cut();
  void server_fault();
  void desire();
  void move_volume();
  void change_service();
  void heal_all();
  void look_for_crossings();
  void note_ends();
  void agent_ends(const HostId& host);
  void settle_bills();
  void switch_on();
  void note(const std::string& what);
  HostTruth& some_host() {
    return cloud_.world().hosts()[rng_.below(cloud_.world().hosts().size())];
  }
  VmId some_vm() { return vms_[rng_.below(vms_.size())]; }
  Duration some_time(std::int64_t low_ms, std::int64_t high_ms) {
    return milliseconds(rng_.between(low_ms, high_ms));
  }

  SimLoop& loop_;
  SwarmOptions options_;
  Cloud cloud_;
  Consumers consumers_{cloud_};
  Rng rng_;
  std::vector<FaultKind> kinds_;
  std::vector<VmId> vms_;
  /// Copies of each so far of whose last use it may be that nobody has heard: they ended by
  /// themselves, or their agent did before the server had to have kept it.
  std::map<VmId, std::int64_t> unheard_;
  std::map<HostId, std::vector<std::pair<VmId, Instant>>> ended_;  ///< in order, and when, by host
  bool server_faults_ = false;
  bool desires_ = false;
  bool cuts_ = false;
  bool lying_bmcs_ = false;
  Duration pause_{};
  std::pair<Revision, std::uint64_t> looked_at_{};
  bool healing_ = false;
  SwarmOutcome outcome_;
};

/// The seed decides alone; a swarm's own stream is apart from the cloud's.
CloudOptions Swarm::cloud_options(const SwarmOptions& options) {
  CloudOptions made;
  made.seed = options.seed;
  made.network.codec = options.codec.value_or(false);
  if (!options.faults) return made;
  Rng rng(options.seed ^ 0x5eed'0f00'c10d'0000U);
  const auto sometimes = [&rng](std::uint32_t most) {
    const bool on = rng.below(2) == 0;
    return on ? static_cast<std::uint32_t>(rng.below(most)) : 0U;
  };
  made.network.loss_per_million = sometimes(100'000);
  made.network.duplicate_per_million = sometimes(50'000);
  made.network.reorder_per_million = sometimes(100'000);
  made.network.stall_per_million = sometimes(2'000);
  made.network.reset_per_million = sometimes(200);
  const bool drawn_codec = rng.below(4) == 0;
  made.network.codec = options.codec.value_or(drawn_codec);
  made.store.unknown_done_per_million = sometimes(30'000);
  made.store.unknown_lost_per_million = sometimes(30'000);
  made.store.compact_per_million = sometimes(10'000);
  made.store.commit_delay_max = milliseconds(sometimes(60));
  made.metering = options.seed % kMeteredSeeds == 0;
  made.world.image_locks = rng.below(2) == 0;
  made.supervisor = rng.below(2) == 0 ? seconds(1) : Duration::zero();
  return made;
}

Swarm::Swarm(SimLoop& loop, const SwarmOptions& options)
    : loop_(loop),
      options_(options),
      cloud_(loop, cloud_options(options)),
      rng_(options.seed ^ 0xfa17'fa17'fa17'fa17U) {}

void Swarm::found() {
  found_cloud(cloud_, options_.hosts, {{kHostCpu}, {kHostMemory}}, true, options_.cluster_hosts);
  if (options_.faults && options_.seed % kBoundSeeds == 0) found_regions();
  std::set<ClusterId> networks;
  for (int number = 1; number <= options_.hosts; number += kHostsPerDevice) {
    loop_.after(kHostsJoin,
                [this, number] { put_device(cloud_, HostId(fmt::format("host-{}", number))); });
  }
  for (int number = 1; number <= options_.vms; ++number) {
    ScenarioVm vm;
    vm.id = VmId(fmt::format("t{}/vm-{}", number % 5, number));
    // As many VMs in a cluster as its share of the hosts.
    vm.cluster =
        ClusterId(fmt::format("c{}", number % options_.hosts / options_.cluster_hosts + 1));
    vm.memory = {256 << rng_.below(3)};
    vm.priority = static_cast<RestartPriority>(rng_.below(3));
    if (number % kVmsPerVolume == 0) vm.volume = fmt::format("data-{}", number);
    vm.mirrored = number % (2 * kVmsPerVolume) == 0;
    vm.local = number % (4 * kVmsPerVolume) == kVmsPerVolume;
    vms_.push_back(vm.id);
    if (networks.insert(vm.cluster).second) {
      loop_.after(kHostsJoin, [this, vm] { put_network(cloud_, vm.cluster); });
    }
    loop_.after(kHostsJoin, [this, vm, number] {
      put_port(cloud_, vm, number);
      put_floating(cloud_, vm, number);
      put_vm(cloud_, vm);
    });
  }
}

void Swarm::found_regions() {
  for (int number = 1; number <= options_.hosts; ++number) {
    const bool abroad = (number - 1) / kHostsPerDevice % 2 != 0;
    put_region(cloud_, HostId(fmt::format("host-{}", number)), abroad ? "us" : "eu");
  }
  put_tenant(cloud_, "t0", {"eu"});
}

/// Two copies and more while its consumers ask much, which they do now and then.
void Swarm::found_service() {
  ScenarioService service;
  service.id = ServiceId(kService);
  service.scaling.action = ScalingAction::scale;
  service.scaling.replicas_max = 4;
  service.scaling.requests_max = 20;
  service.scaling.calm_ms = seconds(30);
  service.scaling.cooldown_ms = seconds(20);
  loop_.after(kHostsJoin, [this, service] { put_service(cloud_, service); });
  consumers_.start();
}

void Swarm::choose_faults() {
  boost::mp11::mp_for_each<boost::describe::describe_enumerators<FaultKind>>([&](auto kind) {
    if (rng_.below(3) == 0) kinds_.push_back(kind.value);
  });
  server_faults_ = rng_.below(2) == 0;
  desires_ = rng_.below(2) == 0;
  cuts_ = rng_.below(2) == 0;
  lying_bmcs_ = cloud_.options().world.image_locks && rng_.below(4) == 0;
  pause_ = some_time(3'000, 40'000);
}

void Swarm::note(const std::string& what) {
  outcome_.faults.push_back(fmt::format("{:>7.1f}s {}", to_ms(loop_.elapsed()) / 1000.0, what));
}

void Swarm::next_fault() {
  const auto wait = milliseconds(
      500 + static_cast<std::int64_t>(rng_.below(static_cast<std::uint64_t>(2 * to_ms(pause_)))));
  loop_.after(wait, [this] {
    if (healing_) return;
    one_fault();
    next_fault();
  });
}

void Swarm::one_fault() {
  const std::uint64_t choice = rng_.below(10);
  if (choice == 0 && server_faults_) return server_fault();
  if (choice <= 2 && desires_) return desire();
  if (choice == 3 && cuts_) return cut();
  if (!kinds_.empty()) host_fault(kinds_[rng_.below(kinds_.size())]);
}

void Swarm::host_fault(FaultKind kind) {
  HostTruth& host = some_host();
  Fault fault{kind, host.id, static_cast<Wire>(rng_.below(kWires)), {}};
  const std::uint64_t bmc = rng_.below(8);
  if (bmc == 0) host.bmc = BmcMode::silent;
  if (bmc == 1) host.bmc = BmcMode::slow;
  if (bmc == 2 && lying_bmcs_) host.bmc = BmcMode::lies;
  const bool one_vm = rng_.below(2) == 0;
  if (one_vm && !host.copies.empty()) {
    auto picked = host.copies.begin();
    std::advance(picked, static_cast<std::ptrdiff_t>(rng_.below(host.copies.size())));
    fault.vm = picked->first;
  }
  note(fmt::format("{} {} {} bmc {}", enum_name(kind), host.id.value, enum_name(fault.wire),
                   enum_name(host.bmc)));
  if (kind == FaultKind::agent) agent_ends(host.id);
  cloud_.apply(fault);
  loop_.after(some_time(500, 90'000), [this, &host] {
    if (healing_) return;
    note("heal " + host.id.value);
    cloud_.heal(host);
  });
}

/// Two parties hear nothing of each other, or one nothing of the other; everybody else does.
void Swarm::cut() {
  HostTruth& from = some_host();
  HostTruth& other = some_host();
  const HostTruth* to = rng_.below(3) == 0 || &other == &from ? nullptr : &other;
  const bool one_way = rng_.below(3) == 0;
  note(fmt::format("cut {} and {}{}", from.id.value, to == nullptr ? "server" : to->id.value,
                   one_way ? " one way" : ""));
  cloud_.world().cut(&from, to);
  if (!one_way) cloud_.world().cut(to, &from);
  loop_.after(some_time(500, 90'000), [this, &from] {
    if (healing_) return;
    note("mend " + from.id.value);
    cloud_.world().mend(from);
  });
}

void Swarm::server_fault() {
  const std::uint64_t choice = rng_.below(3);
  const Duration time = some_time(200, 40'000);
  if (choice == 0) {
    note("server killed");
    cloud_.kill_server();
    loop_.after(time, [this] { cloud_.start_server(); });
  } else if (choice == 1) {
    note("server frozen");
    cloud_.freeze_server(true);
    loop_.after(time, [this] { cloud_.freeze_server(false); });
  } else {
    note("server cut off");
    cloud_.network().set_server_link({rng_.below(3) == 0, false});
    loop_.after(time, [this] { cloud_.network().set_server_link({true, true}); });
  }
}

/// What users and operators ask for in the middle of it.
void Swarm::desire() {
  const std::uint64_t choice = rng_.below(6);
  const VmId id = some_vm();
  const HostId host = some_host().id;
  if (choice == 4) return move_volume();
  if (choice == 5) return change_service();
  if (choice == 0) {
    note("stop or start " + id.value);
    cloud_.edit<Vm>(id, [](Vm& vm) {
      vm.spec.power =
          vm.spec.power == DesiredPower::running ? DesiredPower::stopped : DesiredPower::running;
    });
  } else if (choice <= 2) {
    if (!cloud_.may_be_on(id, host)) return;  // the API refuses it
    note("move " + id.value + " to " + host.value);
    cloud_.edit<Vm>(id, [host](Vm& vm) { vm.spec.move_to = host; });
  } else {
    note("maintenance on or off " + host.value);
    cloud_.edit<virga::Host>(
        host, [](virga::Host& stored) { stored.spec.maintenance = !stored.spec.maintenance; });
  }
}

void Swarm::move_volume() {
  const auto number = kVmsPerVolume * (1 + static_cast<int>(rng_.below(20)));
  const auto host = 1 + kHostsPerDevice * static_cast<int>(rng_.below(5));
  const VolumeId id(fmt::format("t{}/data-{}", number % 5, number));
  const DeviceId device(fmt::format("host-{}", host));
  const auto stored = cloud_.read<Volume>(keys::of(id));
  if (!stored || stored->spec.mirrored || stored->spec.local) return;
  if (!cloud_.read<Device>(keys::of(device))) return;
  note("move " + id.value + " to " + device.value);
  cloud_.edit<Volume>(id, [device](Volume& volume) { volume.spec.device = device; });
}

void Swarm::change_service() {
  const ServiceId id(kService);
  if (rng_.below(2) == 0) {
    const int requests = 10 << rng_.below(4);
    note(fmt::format("consumers ask {} {} times a second", id.value, requests));
    return cloud_.world().set_demand(id, requests);
  }
  const auto service = cloud_.read<Service>(keys::of(id));
  if (!service || service->status.copies.empty()) return;
  const auto& copies = service->status.copies;
  const VmId copy = copies[rng_.below(copies.size())].vm;
  const bool alive = rng_.below(3) == 0;
  note("relocate " + copy.value);
  cloud_.edit<Service>(id, [copy, alive](Service& changed) {
    const auto mode = alive ? RelocationMode::live_migration : RelocationMode::duplicate;
    changed.spec.relocate =
        RelocationOrder{copy.value.substr(copy.value.find('/') + 1), {}, mode, Duration{0}};
  });
}

void Swarm::heal_all() {
  healing_ = true;
  cloud_.world().set_demand(ServiceId(kService), 10);
  note("heal all");
  cloud_.start_server();
  cloud_.freeze_server(false);
  cloud_.network().set_server_link({true, true});
  for (HostTruth& host : cloud_.world().hosts()) {
    cloud_.heal(host);
    cloud_.edit<virga::Host>(host.id, [](virga::Host& stored) { stored.spec.maintenance = false; });
  }
}

/// Somebody switches on what was fenced when all was healed: volumes are there and nowhere else.
void Swarm::switch_on() {
  for (HostTruth& host : cloud_.world().hosts()) {
    if (!host.powered) cloud_.heal(host);
  }
}

/// At no moment a frame of one network is led over another, nor data out of their regions, whatever
/// has failed.
void Swarm::look_for_crossings() {
  const auto before = std::exchange(looked_at_, cloud_.changes());
  if (before != looked_at_) {
    for (const std::string& wrong : cloud_.crossed()) cloud_.checker().report("isolation", wrong);
    for (const std::string& wrong : cloud_.exported()) cloud_.checker().report("region", wrong);
  }
  loop_.after(kCrossingsEvery, [this] { look_for_crossings(); });
}

void Swarm::note_ends() {
  cloud_.world().observe([this](WorldChange change, const HostTruth& host, const Copy* copy) {
    if (change == WorldChange::power && !host.powered) agent_ends(host.id);
    if (change != WorldChange::ended) return;
    // Without its agent nobody has measured it to its end.
    const bool in_order =
        host.listener && (copy->trouble == kOrderedStop || copy->state == CopyState::postmigrate);
    if (!in_order) ++unheard_[copy->vm];
    if (in_order) ended_[host.id].emplace_back(copy->vm, loop_.now());
  });
}

/// What it alone remembered is gone; a server that is killed as well forgets what it has heard.
void Swarm::agent_ends(const HostId& host) {
  for (const auto& [vm, at] : std::exchange(ended_[host], {})) {
    if (loop_.now() - at < kKeptWithin) ++unheard_[vm];
  }
}

/// Once everything has ended and was reported, no VM was charged more than it ran, nor less but for
/// what nobody has heard of: the last reports of copies that ended with their host or agent.
void Swarm::settle_bills() {
  if (!cloud_.options().metering) return;
  for (const VmId& id : vms_)
    cloud_.edit<Vm>(id, [](Vm& vm) { vm.spec.power = DesiredPower::stopped; });
  loop_.run_for(seconds(120) + milliseconds(2 * metering::kWindowMs));
  for (const VmId& id : vms_) {
    const std::string tenant = id.value.substr(0, id.value.find('/'));
    std::int64_t charged = 0;
    std::int64_t rounded = 0;  // counters are whole milliseconds
    for (const auto& entry : cloud_.usage().entries({tenant, id.value, 0, 1'000'000})) {
      charged += entry.charge.amounts[metering::kRun];
      ++rounded;
    }
    const std::int64_t truth = to_ms(cloud_.world().run_time(id));
    const std::string what = fmt::format("{} ran {} ms, {} are charged", id.value, truth, charged);
    if (charged > truth) cloud_.checker().report("charged_twice", what);
    const std::int64_t least = truth - rounded - kUnheardMs * unheard_[id];
    if (charged < least) cloud_.checker().report("charge_gap", what);
  }
}

SwarmOutcome Swarm::run() {
  const WallTime start = loop_.wall_now();
  found();
  note_ends();
  look_for_crossings();
  if (options_.faults) found_service();
  cloud_.start();
  if (options_.faults) {
    choose_faults();
    loop_.after(kCalm, [this] { next_fault(); });
    loop_.run_for(options_.length);
    heal_all();
    const Instant healed = loop_.now();
    while (loop_.now() - healed < kSettleMax && outcome_.settled_after < Duration::zero()) {
      loop_.run_for(seconds(1));
      if ((loop_.now() - healed) % kSwitchedOnEvery < seconds(1)) switch_on();
      if (cloud_.unsettled().empty()) outcome_.settled_after = loop_.now() - healed;
    }
  } else {
    loop_.run_for(options_.length);
    if (cloud_.unsettled().empty()) outcome_.settled_after = Duration::zero();
  }
  for (const std::string& open : cloud_.unsettled()) cloud_.checker().report("liveness", open);
  settle_bills();
  outcome_.violations = cloud_.checker().violations();
  for (const Event& event : cloud_.events()) {
    if (options_.journal) outcome_.journal += normalised(event, start);
  }
  outcome_.events = cloud_.events().size();
  outcome_.hash = cloud_.state_hash();
  outcome_.tasks = loop_.executed();
  outcome_.messages = cloud_.network().messages();
  outcome_.datagrams = cloud_.network().datagrams();
  return std::move(outcome_);
}

}  // namespace

SwarmOutcome run_swarm(const SwarmOptions& options) {
  SimLoop loop;
  return Swarm(loop, options).run();
}

}  // namespace virga::sim
