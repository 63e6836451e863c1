#include "sim/cloud.h"

#include <fmt/format.h>

#include "base/reflect.h"
#include "model/keys.h"
#include "model/tenant.h"
#include "model/volume.h"

namespace virga::sim {
namespace {

constexpr Duration kWatchdog = seconds(10);
constexpr Duration kWriteAgain = milliseconds(100);
constexpr Duration kWriteLost = seconds(2);
constexpr Duration kClockJump = seconds(60);
constexpr std::int64_t kDriftPerMillion = -10'000;

void fill_devices(HostTruth& host, bool full) {
  for (auto& [directory, device] : host.devices) device.full = full;
}

}  // namespace

Cloud::Cloud(SimLoop& loop, CloudOptions options)
    : loop_(loop),
      options_(std::move(options)),
      rng_(options_.seed),
      world_(loop, options_.world),
      migrations_(world_),
      network_(world_, options_.network, rng_.fork()),
      checker_(world_, records()) {}

Cloud::~Cloud() {
  server_.reset();
  for (auto& programs : programs_) {
    programs->agent.reset();
    programs->leash.reset();
  }
}

HostTruth& Cloud::add_host(const HostId& id, Capacity capacity) {
  HostTruth& host = world_.add_host(id, capacity);
  auto made = std::make_unique<Programs>();
  made->clock = std::make_unique<SimProcess>(loop_);
  programs_.push_back(std::move(made));
  return host;
}

void Cloud::start() {
  start_server();
  for (HostTruth& host : world_.hosts()) {
    start_leash(host);
    start_agent(host);
  }
}

void Cloud::start_server() {
  if (server_ != nullptr) return;
  ServerRun::Parts parts{world_, network_, disk_, journal_, rng_.fork(), options_.store};
  parts.switch_power = [this](HostTruth& host, MachinePower to) {
    to == MachinePower::on ? power_on(host) : power_off(host, kSwitchedOff);
  };
  parts.event = [this](const Event& event) { take_event(event); };
  if (options_.metering) parts.usage = usage_;
  server_ = std::make_unique<ServerRun>(std::move(parts));
  world_.mix("server starts");
}

void Cloud::take_event(const Event& event) {
  world_.mix(event.kind + event.subject + event.text);
  events_.push_back(event);
}

void Cloud::kill_server() {
  if (server_ == nullptr) return;
  network_.server_down();
  server_.reset();
  world_.mix("server ends");
}

void Cloud::freeze_server(bool frozen) {
  if (server_ == nullptr) return;
  frozen ? server_->process().freeze() : server_->process().thaw();
}

void Cloud::start_leash(HostTruth& host) {
  Programs& here = programs(host);
  if (here.leash != nullptr || !host.powered) return;
  here.leash = std::make_unique<Leash>(world_, host);
  here.leash->process().follow(*here.clock);
  here.leash_stopped = false;
  if (here.agent != nullptr) here.agent->guard().leash_started();
  programs_changed(host);
}

void Cloud::kill_leash(HostTruth& host) {
  programs(host).leash.reset();
  programs_changed(host);
}

void Cloud::start_agent(HostTruth& host) {
  Programs& here = programs(host);
  if (here.agent != nullptr || !host.powered) return;
  AgentRun::Parts parts{world_, migrations_, network_, host, here.networks, rng_.fork()};
  parts.reports_usage = options_.metering;
  parts.leash = [&here] { return here.leash.get(); };
  parts.granted = [this, &host](const LeaseGrant& grant) { lease_granted(host, grant); };
  here.agent_stopped = false;
  here.agent = std::make_unique<AgentRun>(std::move(parts), *here.clock);
  programs_changed(host);
}

void Cloud::kill_agent(HostTruth& host) {
  Programs& here = programs(host);
  if (here.agent == nullptr) return;
  network_.agent_down(host, host.powered);
  here.agent.reset();
  programs_changed(host);
}

/// The deadline that the agent takes from a grant, in true time.
void Cloud::lease_granted(HostTruth& host, const LeaseGrant& grant) {
  const Instant shown = programs(host).clock->now();
  const Instant until = Instant() + milliseconds(grant.report_sent_at_ms) + grant.lease_ms;
  if (until > shown) checker_.lease_granted(host, loop_.now() + (until - shown));
}

/// When the watchdog that is not fed any more resets the host: the leash has put it off as far as
/// it may while something is guarded.
Instant Cloud::watchdog_due(const HostTruth& host) const {
  const Instant last = loop_.now() + kWatchdog;
  if (host.copies.empty() || host.lease_until == Instant{}) return last;
  return std::max(loop_.now(), std::min(last, host.lease_until + LeashCore::kOverrun));
}

/// Brings what stands still in line with the faults, and lets the watchdog count.
void Cloud::programs_changed(HostTruth& host) {
  Programs& here = programs(host);
  if (here.agent != nullptr) here.agent->set_frozen(host.frozen || here.agent_stopped);
  if (here.leash != nullptr) here.leash->set_frozen(host.frozen || here.leash_stopped);
  const bool leash_works = here.leash != nullptr && !here.leash_stopped;
  const bool agent_works = here.agent != nullptr && !here.agent_stopped;
  checker_.set_ender(host, leash_works || agent_works ? Checker::Ender::program
                           : host.watchdog            ? Checker::Ender::watchdog
                                                      : Checker::Ender::nobody);
  const bool fed = !host.powered || (host.acts() && leash_works);
  if (fed == here.fed) return;
  here.fed = fed;
  const std::uint64_t run = ++here.fed_runs;
  if (fed || !host.watchdog) return;
  loop_.at(watchdog_due(host), [this, &host, run] {
    if (programs(host).fed_runs != run) return;
    world_.mix("watchdog resets " + host.id.value);
    power_off(host, kReset);
    power_on(host);
  });
}

void Cloud::power_off(HostTruth& host, const std::string& why) {
  ++programs(host).power_runs;
  host.booting = false;
  if (!host.powered) return;
  Programs& here = programs(host);
  world_.power_off(host, why);
  kill_agent(host);
  here.leash.reset();
  here.networks = HostNetworks();
  programs_changed(host);
}

void Cloud::power_on(HostTruth& host) {
  if (host.powered || host.booting) return;
  host.booting = true;
  const std::uint64_t run = ++programs(host).power_runs;
  loop_.after(options_.world.host_boot, [this, &host, run] {
    if (programs(host).power_runs != run) return;
    host.booting = false;
    world_.power_on(host);
    start_leash(host);
    start_agent(host);
  });
}

void Cloud::kill_vms(HostTruth& host, const VmId& only) {
  std::vector<VmId> killed;
  for (const auto& [vm, copy] : host.copies) {
    if (only.empty() || vm == only) killed.push_back(vm);
  }
  for (const VmId& vm : killed) world_.end_copy(host, vm, "process killed");
}

void Cloud::apply(const Fault& fault) {
  HostTruth* host = world_.find_host(fault.host);
  VIRGA_CHECK(host != nullptr);
  world_.mix(std::string(enum_name(fault.kind)) + " " + fault.host.value);
  switch (fault.kind) {
    case FaultKind::agent:
    case FaultKind::agent_stop:
    case FaultKind::leash:
    case FaultKind::leash_stop:
      return apply_to_programs(*host, fault.kind);
    case FaultKind::qemu:
    case FaultKind::deaf:
    case FaultKind::guest_hang:
    case FaultKind::panic:
      return apply_to_guests(*host, fault);
    default:
      return apply_to_machine(*host, fault);
  }
}

void Cloud::apply_to_machine(HostTruth& host, const Fault& fault) {
  const Link before = host.links[static_cast<std::size_t>(fault.wire)];
  if (fault.kind == FaultKind::power) power_off(host, kPowerLost);
  if (fault.kind == FaultKind::hang) world_.set_frozen(host, true);
  if (fault.kind == FaultKind::link) world_.set_links(host, fault.wire, {false, false});
  if (fault.kind == FaultKind::link_out) world_.set_links(host, fault.wire, {before.in, false});
  if (fault.kind == FaultKind::link_in) world_.set_links(host, fault.wire, {false, before.out});
  if (fault.kind == FaultKind::disk_full) host.disk_full = true;
  if (fault.kind == FaultKind::device_full) fill_devices(host, true);
  if (fault.kind == FaultKind::starts) host.starts_failing = 3;
  Programs& here = programs(host);
  if (fault.kind == FaultKind::clock) here.clock->jump(kClockJump);
  if (fault.kind == FaultKind::drift) here.clock->set_drift(kDriftPerMillion);
  if (here.agent != nullptr) here.agent->process().follow(*here.clock);
  if (here.leash != nullptr) here.leash->process().follow(*here.clock);
  programs_changed(host);
}

void Cloud::apply_to_programs(HostTruth& host, FaultKind kind) {
  Programs& here = programs(host);
  if (kind == FaultKind::agent_stop) here.agent_stopped = here.agent != nullptr;
  if (kind == FaultKind::leash_stop) here.leash_stopped = here.leash != nullptr;
  if (kind == FaultKind::agent) kill_agent(host);
  if (kind == FaultKind::leash) kill_leash(host);
  programs_changed(host);
  if (options_.supervisor == Duration::zero()) return;
  loop_.after(options_.supervisor, [this, &host, kind] {
    if (kind == FaultKind::agent) start_agent(host);
    if (kind == FaultKind::leash) start_leash(host);
  });
}

void Cloud::apply_to_guests(HostTruth& host, const Fault& fault) {
  if (fault.kind == FaultKind::qemu) return kill_vms(host, fault.vm);
  for (auto& [vm, copy] : host.copies) {
    if (!fault.vm.empty() && vm != fault.vm) continue;
    if (fault.kind == FaultKind::deaf) copy.deaf = true;
    const bool hangs = copy.guest_hung || fault.kind == FaultKind::guest_hang;
    world_.set_guest(host, copy, hangs,
                     fault.kind == FaultKind::panic ? std::string(kGuestPanicked) : copy.trouble);
  }
}

void Cloud::heal(HostTruth& host) {
  for (const Wire wire : {Wire::management, Wire::storage, Wire::tenant}) {
    world_.set_links(host, wire, {});
  }
  world_.set_partition(host, 0);
  world_.mend(host);
  host.disk_full = false;
  fill_devices(host, false);
  host.starts_failing = 0;
  host.bmc = BmcMode::answers;
  Programs& here = programs(host);
  here.agent_stopped = here.leash_stopped = false;
  world_.set_frozen(host, false);
  here.clock->set_drift(0);
  if (here.agent != nullptr) here.agent->process().follow(*here.clock);
  if (here.leash != nullptr) here.leash->process().follow(*here.clock);
  for (auto& [vm, copy] : host.copies) {
    copy.deaf = false;
    world_.set_guest(host, copy, false, copy.trouble);
  }
  programs_changed(host);
  if (!host.powered) return power_on(host);
  start_leash(host);
  start_agent(host);
}

void Cloud::write(std::string key, Rewrite rewrite) {
  loop_.post(
      [this, key = std::move(key), rewrite = std::move(rewrite)] { try_write(key, rewrite); });
}

void Cloud::try_write(const std::string& key, const Rewrite& rewrite) {
  const auto again = [this, key, rewrite] { try_write(key, rewrite); };
  if (server_ == nullptr) {
    loop_.after(kWriteAgain, again);
    return;
  }
  const auto entry = disk_->state.find(key);
  std::vector<virga::Guard> guards{{key, entry == nullptr ? 0 : entry->modified}};
  std::vector<Write> writes{{key, rewrite(entry == nullptr ? "" : entry->value), 0}};
  const TimerId lost = loop_.after(kWriteLost, again);
  server_->store().commit(std::move(guards), std::move(writes),
                          [this, lost, again](const Result<CommitOutcome>& outcome) {
                            loop_.cancel(lost);
                            if (outcome && outcome->verdict == CommitVerdict::committed) return;
                            loop_.after(kWriteAgain, again);
                          });
}

std::vector<std::string> Cloud::values_below(std::string_view prefix) const {
  std::vector<std::string> values;
  ListRequest request;
  request.prefix = std::string(prefix);
  while (true) {
    const auto page = disk_->state.list(request);
    VIRGA_CHECK(page.ok());
    for (const KeyValue& entry : page->entries) values.push_back(entry.value);
    if (!page->more) return values;
    request.after = page->entries.back().key;
  }
}

void Cloud::backup() {
  backup_.clear();
  ListRequest request;
  while (true) {
    const auto page = disk_->state.list(request);
    VIRGA_CHECK(page.ok());
    backup_.insert(backup_.end(), page->entries.begin(), page->entries.end());
    if (!page->more) return;
    request.after = page->entries.back().key;
  }
}

void Cloud::restore() {
  kill_server();
  auto restored = std::make_shared<MemoryDisk>();
  std::vector<Write> writes;
  for (const KeyValue& entry : backup_) {
    std::string value = entry.value;
    if (entry.key == "meta/incarnation") value = std::to_string(std::stoull(value) + 1);
    writes.push_back({entry.key, std::move(value), 0});
  }
  restored->state.apply(std::move(writes));
  disk_ = std::move(restored);
  start_server();
}

Records Cloud::records() {
  Records records;
  records.cpu_overcommit_percent = options_.policy.cpu_overcommit_percent;
  records.epoch = [this](const VmId& id) {
    const auto vm = read<Vm>(keys::of(id));
    return vm ? std::max(vm->status.epoch, vm->status.migration.epoch) : Epoch{};
  };
  records.decided = [this](const VmId& id) {
    Epoch highest;
    for (const Operation& operation : read_all<Operation>(keys::kOperation)) {
      if (operation.subject != keys::of(id)) continue;
      const OperationArguments& arguments = operation.arguments;
      highest = std::max({highest, arguments.epoch, arguments.next_epoch});
    }
    return highest;
  };
  records.lost = [this](const VmId& id, const Epoch& epoch) -> LostCopies {
    const auto vm = read<Vm>(keys::of(id));
    return vm && vm->status.epoch == epoch ? vm->status.lost : LostCopies();
  };
  records.beside = [this](const VmId& id) -> std::optional<std::vector<VmId>> {
    const auto vm = read<Vm>(keys::of(id));
    if (!vm || !vm->meta.deleting_at || vm->spec.service.empty()) return std::nullopt;
    const auto service = read<Service>(keys::of(vm->spec.service));
    if (!service || service->meta.deleting_at) return std::nullopt;
    std::vector<VmId> others;
    for (const ServiceCopy& copy : service->status.copies) {
      if (copy.vm != id) others.push_back(copy.vm);
    }
    return others;
  };
  records.known = [this](const VmId& id) { return bool(read<Vm>(keys::of(id))); };
  records.regions = [this](const VmId& id) {
    const auto vm = read<Vm>(keys::of(id));
    std::vector<VolumeId> volumes;
    for (const VmDisk& disk : vm ? vm->spec.disks : std::vector<VmDisk>()) {
      if (!disk.volume.empty()) volumes.emplace_back(qualified(vm->meta.tenant, disk.volume));
    }
    return allowed_regions(id.value.substr(0, id.value.find('/')), volumes);
  };
  return records;
}

/// What the tenant and all these volumes allow.
std::optional<std::set<std::string>> Cloud::allowed_regions(
    const std::string& tenant, const std::vector<VolumeId>& volumes) const {
  std::optional<std::set<std::string>> allowed;
  const auto only = [&allowed](const std::vector<std::string>& regions) {
    if (regions.empty()) return;
    std::set<std::string> both;
    for (const std::string& region : regions) {
      if (!allowed || allowed->contains(region)) both.insert(region);
    }
    allowed = std::move(both);
  };
  if (const auto stored = read<Tenant>(keys::of(TenantId(tenant)))) only(stored->spec.regions);
  for (const VolumeId& id : volumes) {
    if (const auto stored = read<Volume>(keys::of(id))) only(stored->spec.regions);
  }
  return allowed;
}

bool Cloud::may_be_on(const VmId& vm, const HostId& host) {
  const auto allowed = records().regions(vm);
  return !allowed || allowed->contains(world_.find_host(host)->region);
}

std::vector<std::string> Cloud::exported() {
  std::vector<std::string> wrong;
  for (const HostTruth& host : world_.hosts()) {
    for (const auto& [directory, device] : host.devices) {
      for (const auto& [volume, truth] : device.volumes) {
        const auto allowed =
            allowed_regions(volume.value.substr(0, volume.value.find('/')), {volume});
        if (!allowed || allowed->contains(host.region)) continue;
        wrong.push_back(fmt::format("volume {} lies on {}, which is in region \"{}\"", volume.value,
                                    host.id.value, host.region));
      }
    }
  }
  return wrong;
}

/// What hosts that carry a network believe of the places of its ports and of the floating addresses
/// that lead to them, where it is not so.
std::vector<std::string> Cloud::misled() {
  std::map<VmId, std::pair<std::string, std::string>> ports;  // MAC and network
  for (const Port& port : read_all<Port>(keys::kPort))
    ports[port.spec.vm] = {port.spec.mac, port.spec.network.value};
  std::map<VmId, std::string> floating;
  for (const auto& address : read_all<FloatingAddress>(keys::kFloatingAddress))
    floating[address.vm_id()] = address.spec.address;
  std::map<std::string, std::uint32_t> vnis;
  for (const auto& network : read_all<virga::Network>(keys::kNetwork))
    vnis[network.id().value] = network.spec.vni;
  std::map<std::uint32_t, std::set<std::size_t>> carriers;
  std::vector<std::pair<VmId, std::size_t>> placed;
  for (const auto& [vm, port] : ports) {
    const auto places = checker_.running_at(vm);
    if (places.size() != 1) continue;
    placed.emplace_back(vm, places.front());
    carriers[vnis[port.second]].insert(places.front());
  }
  std::vector<std::string> wrong;
  for (const auto& [vm, place] : placed) {
    const auto& [mac, network] = ports[vm];
    const std::uint32_t vni = vnis[network];
    const std::string& right = world_.hosts()[place].address;
    auto& answered = programs_[place]->networks.floating[vni][mac];
    if (answered != floating[vm]) {
      wrong.push_back(fmt::format("{} answers for {} by \"{}\" instead of \"{}\"",
                                  world_.hosts()[place].id.value, vm.value, answered,
                                  floating[vm]));
    }
    for (const std::size_t host : carriers[vni]) {
      const auto& known = programs_[host]->networks.places[vni];
      const auto found = known.find(mac);
      const std::string believed = found == known.end() ? "nowhere" : found->second;
      if (believed == right) continue;
      wrong.push_back(fmt::format("{} leads to {} at {}, which is at {}",
                                  world_.hosts()[host].id.value, vm.value, believed, right));
    }
  }
  return wrong;
}

/// Ports whose host does not know their security groups.
std::vector<std::string> Cloud::unguarded() {
  std::vector<std::string> wrong;
  for (const Port& port : read_all<Port>(keys::kPort)) {
    const auto places = checker_.running_at(port.spec.vm);
    if (places.size() != 1) continue;
    std::vector<std::string> right;
    for (const SecurityGroupId& group : port.spec.security_groups) right.push_back(group.value);
    const auto& known = programs_[places.front()]->networks.groups;
    const auto found = known.find(port.id().value);
    const auto believed = found == known.end() ? std::vector<std::string>() : found->second;
    if (believed == right) continue;
    wrong.push_back(fmt::format("{} knows port {} with {} security groups instead of {}",
                                world_.hosts()[places.front()].id.value, port.id().value,
                                believed.size(), right.size()));
  }
  return wrong;
}

/// Services that are not as they were asked for.
std::vector<std::string> Cloud::unserved() {
  std::vector<std::string> open;
  for (const Service& service : read_all<Service>(keys::kService)) {
    const ServiceStatus& status = service.status;
    const auto serving =
        std::ranges::count(status.copies, ServiceCopyState::serving, &ServiceCopy::state);
    const bool all = serving == service.copies_wanted() &&
                     status.copies.size() == static_cast<std::size_t>(serving);
    if (status.available && all && !status.relocation) continue;
    open.push_back(fmt::format("{} has {} of {} copies serving, {}: {}", service.id().value,
                               serving, service.copies_wanted(),
                               status.relocation ? "one relocated" : "none relocated",
                               status.reason));
  }
  return open;
}

std::vector<std::string> Cloud::unsettled() {
  std::vector<std::string> open = misled();
  for (std::string& wrong : unserved()) open.push_back(std::move(wrong));
  for (std::string& wrong : unguarded()) open.push_back(std::move(wrong));
  for (const Vm& vm : read_all<Vm>(keys::kVm)) {
    const bool should_run = vm.spec.power == DesiredPower::running && !vm.meta.deleting_at;
    const auto places = checker_.running_at(vm.id());
    const std::string name = vm.id().value;
    if (!should_run) {
      if (!places.empty()) open.push_back(name + " runs although it should not");
      continue;
    }
    if (places.size() != 1) {
      open.push_back(
          fmt::format("{} runs in {} places: {}", name, places.size(), vm.status.unplaced_reason));
      continue;
    }
    const HostTruth& host = world_.hosts()[places.front()];
    const Copy& copy = host.copies.at(vm.id());
    if (copy.epoch != vm.status.epoch || host.id != vm.status.host ||
        !vm.status.operation.empty()) {
      open.push_back(fmt::format("{} runs on {} with epoch {}; stored is {} with {}", name,
                                 host.id.value, to_string(copy.epoch), vm.status.host.value,
                                 to_string(vm.status.epoch)));
    }
    if (copy.panicked) open.push_back(name + " stands still");
    for (const auto& [volume, disk] : copy.volumes) {
      if (disk.mirrored && disk.legs.size() < 2)
        open.push_back(name + " writes " + volume.value + " to one place");
      const auto stored = read<Volume>(keys::of(volume));
      if (!stored || !stored->spec.local) continue;
      const std::vector<VolumeLeg>& legs = stored->status.legs;
      const auto beside = read<Device>(keys::of(DeviceId(host.id.value)));
      const bool could = beside && beside->status.available && !beside->spec.lost;
      if (legs.size() != 1 || (could && legs.front().device != beside->id()))
        open.push_back(name + " has its local volume " + volume.value + " elsewhere");
    }
  }
  return open;
}

std::pair<Revision, std::uint64_t> Cloud::changes() const {
  std::uint64_t placings = 0;
  for (const HostTruth& host : world_.hosts()) placings += networks(host).placings;
  return {disk_->state.revision(), placings};
}

std::vector<std::string> Cloud::crossed() {
  std::map<std::string, std::uint32_t> vnis;
  for (const auto& network : read_all<virga::Network>(keys::kNetwork))
    vnis[network.id().value] = network.spec.vni;
  std::map<std::string, std::set<std::uint32_t>> own;  // by MAC
  for (const Port& port : read_all<Port>(keys::kPort))
    own[port.spec.mac].insert(vnis[port.spec.network.value]);
  std::vector<std::string> wrong;
  for (const HostTruth& host : world_.hosts()) {
    for (const auto& [vni, led] : networks(host).places) {
      for (const auto& [mac, place] : led) {
        const auto known = own.find(mac);
        if (known == own.end() || known->second.contains(vni)) continue;
        wrong.push_back(fmt::format("{} leads {} over network {}", host.id.value, mac, vni));
      }
    }
  }
  return wrong;
}

std::uint64_t Cloud::state_hash() {
  for (const std::string& value : values_below("")) world_.mix(value);
  world_.mix(static_cast<std::uint64_t>(events_.size()));
  return world_.trace_hash();
}

}  // namespace virga::sim
