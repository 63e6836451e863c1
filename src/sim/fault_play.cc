#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "sim/consumers.h"
#include "sim/fault_matrix.h"
#include "sim/scenario.h"

namespace virga::sim {
namespace {

constexpr Duration kComeAt = seconds(3);
constexpr Duration kOrderAt = seconds(30);
constexpr Duration kLook = milliseconds(5);
constexpr Duration kSettleMax = seconds(260);
constexpr Duration kStays = seconds(20);
constexpr Duration kSwitchedOnEvery = seconds(30);
constexpr int kHosts = 5;

/// One story on a new cloud: host-1 to host-3 run guests, host-4 and host-5 hold volumes.
class Play {
 public:
  explicit Play(const FaultCase& fault) : fault_(fault), cloud_(loop_, options(fault)) {
    found_cloud(cloud_, kHosts, {{8000}, {8192}}, true, kHosts);
    if (fault_.story == Story::service_relocates) {
      loop_.after(kComeAt, [this] { put_service(cloud_, service()); });
      consumers_.start();
    } else {
      loop_.after(kComeAt, [this] { found_vm(); });
    }
    cloud_.start();
    loop_.run_for(kOrderAt - milliseconds(500));
  }

  FaultOutcome run() {
    choose_parties();
    if (fault_.phase == Phase::before) begin_fault();
    loop_.run_for(milliseconds(500));
    order();
    ordered_ = loop_.now();
    while (!began_ && loop_.now() - ordered_ < seconds(60)) {
      loop_.run_for(kLook);
      if (reached()) begin_fault();
    }
    if (!began_) outcome_.wrong.emplace_back("its phase was never reached");
    loop_.run_for(fault_.length);
    if (!cloud_.server_runs()) cloud_.start_server();
    for (HostTruth& host : cloud_.world().hosts()) cloud_.heal(host);
    settle();
    judge();
    for (const Event& event : cloud_.events()) {
      outcome_.journal += normalised(event, start_);
      auto& kinds = outcome_.kinds;
      if (since_order(event) && std::ranges::find(kinds, event.kind) == kinds.end())
        kinds.push_back(event.kind);
    }
    return std::move(outcome_);
  }

 private:
  /// What is killed for a short time is started again at once.
  static CloudOptions options(const FaultCase& fault) {
    CloudOptions made;
    if (fault.length <= seconds(8)) made.supervisor = seconds(1);
    return made;
  }
  static ScenarioService service() {
    ScenarioService made;
    made.id = ServiceId("acme/web");
    return made;
  }

  bool since_order(const Event& event) const {
    return event.at.unix_ms - start_.unix_ms >= to_ms(kOrderAt);
  }
  bool said(std::string_view kind) const {
    return std::ranges::any_of(cloud_.events(), [&](const Event& event) {
      return event.kind == kind && since_order(event);
    });
  }

  void found_vm() {
    for (const char* name : {"host-4", "host-5"}) {
      cloud_.edit<virga::Host>(HostId(name),
                               [](virga::Host& host) { host.spec.maintenance = true; });
      put_device(cloud_, HostId(name));
    }
    ScenarioVm vm;
    vm.id = kVm;
    vm.memory = Mib{4096};
    if (fault_.disks != Disks::files) vm.volume = "data";
    vm.mirrored = fault_.disks == Disks::mirrored;
    put_vm(cloud_, vm);
  }

  std::size_t places() const { return fault_.disks == Disks::mirrored ? 2 : 1; }

  std::optional<Vm> vm(const VmId& id) const { return cloud_.read<Vm>(keys::of(id)); }
  std::optional<Volume> volume() const { return cloud_.read<Volume>(keys::of(kVolume)); }
  std::optional<Service> web() const { return cloud_.read<Service>(keys::of(service().id)); }

  HostTruth* host(const HostId& id) { return cloud_.world().find_host(id); }
  HostTruth* free_host(const std::vector<HostTruth*>& taken) {
    for (HostTruth& host : cloud_.world().hosts()) {
      if (std::ranges::find(taken, &host) == taken.end()) return &host;
    }
    return nullptr;
  }

  /// Of a service: its balancer is `storage`, which the consumers' traffic goes through.
  void choose_parties() {
    const bool service = fault_.story == Story::service_relocates;
    moved_ = service ? web()->status.copies.back().vm : kVm;
    source_ = host(vm(moved_)->status.host);
    if (service) {
      storage_ = host(web()->status.balancer);
      if (storage_ == source_) moved_ = web()->status.copies.front().vm;
      source_ = host(vm(moved_)->status.host);
    } else {
      storage_ = host(volume() ? HostId(volume()->status.legs.front().device.value) : kStore);
    }
    destination_ = fault_.story == Story::volume_moves
                       ? host(HostId(storage_->id.value == "host-4" ? "host-5" : "host-4"))
                       : free_host({source_, storage_});
    peer_ = free_host({source_, destination_, storage_});
  }

  HostTruth* party(Party which) {
    switch (which) {
      case Party::source:
        return source_;
      case Party::destination:
        return destination_;
      case Party::storage:
        return storage_;
      case Party::peer:
        return peer_;
      case Party::server:
        break;
    }
    return nullptr;
  }

  void begin_fault() {
    began_ = true;
    const auto now = vm(moved_);  // of a fence: where it has been placed
    if (fault_.story == Story::vm_is_fenced && now && host(now->status.host) != source_) {
      destination_ = host(now->status.host);
      peer_ = free_host({source_, destination_, storage_});
    }
    HostTruth* one = party(fault_.one);
    HostTruth* other = party(fault_.other);
    if (!fault_.bmcs) {
      for (HostTruth* host : {one, other, source_}) {
        if (host != nullptr) host->bmc = BmcMode::silent;
      }
    }
    if (!fault_.silence()) return strike(one);
    if (fault_.trouble != Trouble::silence_back) cloud_.world().cut(one, other);
    if (fault_.trouble != Trouble::silence_there) cloud_.world().cut(other, one);
  }

  void apply(FaultKind kind, const HostTruth& host) {
    cloud_.apply({kind, host.id, Wire::management, {}});
  }

  void strike(HostTruth* host) {
    switch (fault_.trouble) {
      case Trouble::killed_server:
        return cloud_.kill_server();
      case Trouble::killed_agent:
        return apply(FaultKind::agent, *host);
      case Trouble::killed_leash:
        return apply(FaultKind::leash, *host);
      case Trouble::killed_qemu:
        return cloud_.kill_vms(*host, moved_);
      case Trouble::killed_volume_server:
        for (auto& [directory, device] : host->devices) device.kill_server(kVolume);
        return;
      case Trouble::killed_balancer:
        for (auto& [id, balancer] : host->balancers) balancer.kill();
        return;
      case Trouble::power:
        return apply(FaultKind::power, *host);
      case Trouble::hang:
        return apply(FaultKind::hang, *host);
      default:
        VIRGA_CHECK(!"a silence");
    }
  }

  void order() {
    if (fault_.story == Story::vm_is_fenced) {
      apply(FaultKind::link, *source_);
    } else if (fault_.story == Story::vm_moves) {
      cloud_.edit<Vm>(kVm, [to = destination_->id](Vm& vm) { vm.spec.move_to = to; });
    } else if (fault_.story == Story::volume_moves) {
      cloud_.edit<Volume>(kVolume, [to = destination_->id.value](Volume& volume) {
        volume.spec.device = DeviceId(to);
      });
    } else {
      cloud_.edit<Service>(service().id, [copy = moved_.value](Service& service) {
        service.spec.relocate = RelocationOrder{
            copy.substr(copy.find('/') + 1), {}, RelocationMode::duplicate, Duration{0}};
      });
    }
  }

  /// Of the source's copy, in truth.
  std::optional<CopyState> state() const {
    const auto copy = source_->copies.find(moved_);
    if (copy == source_->copies.end()) return std::nullopt;
    return copy->second.state;
  }

  bool reached() {
    if (fault_.story == Story::vm_is_fenced) {
      return said(fault_.phase == Phase::under_way   ? "host.dead"
                  : fault_.phase == Phase::hand_over ? "vm.placed"
                                                     : "vm.started");
    }
    const bool waited = loop_.now() - ordered_ > seconds(1);
    if (fault_.story == Story::service_relocates) {
      if (fault_.phase == Phase::under_way) return waited;
      return said(fault_.phase == Phase::hand_over ? "service.copy_serving" : "service.redirected");
    }
    const bool paused = state() == CopyState::paused;
    was_paused_ = was_paused_ || paused;
    if (fault_.phase == Phase::under_way) return waited;
    return fault_.phase == Phase::hand_over ? paused : was_paused_ && !paused;
  }

  bool settled() {
    for (const HostTruth& host : cloud_.world().hosts()) {
      const auto seen = cloud_.read<virga::Host>(keys::of(host.id));
      if (!host.acts() || !seen || seen->status.health != HostHealth::alive) return false;
    }
    if (!cloud_.unsettled().empty()) return false;
    const auto stored = volume();
    return !stored || stored->status.legs.size() == places();
  }

  /// Until it has been so for 20 s. Machines that were fenced are switched on by somebody, as in a
  /// swarm.
  void settle() {
    const Instant healed = loop_.now();
    Instant open = healed;
    while (loop_.now() - open < kStays && loop_.now() - healed < kSettleMax) {
      loop_.run_for(seconds(1));
      if (!settled()) open = loop_.now();
      if ((loop_.now() - healed) % kSwitchedOnEvery >= seconds(1)) continue;
      for (HostTruth& host : cloud_.world().hosts()) {
        if (!host.powered) cloud_.heal(host);
      }
    }
  }

  void judge() {
    for (std::string& open : cloud_.unsettled()) outcome_.wrong.push_back(std::move(open));
    for (const Violation& broken : cloud_.checker().violations()) {
      outcome_.wrong.push_back(
          fmt::format("{:.1f}s {}: {}", to_ms(broken.at) / 1000.0, broken.rule, broken.text));
    }
    if (fault_.story != Story::service_relocates) return judge_storage();
    if (web()->status.relocation)
      outcome_.wrong.emplace_back("the relocation is neither ended nor undone");
  }

  void judge_storage() {
    const auto places = cloud_.checker().running_at(kVm);
    const auto stored = vm(kVm);
    if (places.size() != 1 || !stored) {
      outcome_.wrong.emplace_back("it does not run in one place");
      return;
    }
    const Copy& copy = cloud_.world().hosts()[places.front()].copies.at(kVm);
    if (const std::string lost = cloud_.world().lost_writes(copy); !lost.empty()) {
      outcome_.wrong.push_back("acknowledged writes are not on " + lost);
    }
    if (stored->status.migration.phase != MigrationPhase::none) {
      outcome_.wrong.push_back("its move is neither ended nor undone");
    }
    if (const auto there = volume()) judge_volume(*there);
  }

  void judge_volume(const Volume& there) {
    const auto& legs = there.status.legs;
    if (legs.size() != places())
      outcome_.wrong.push_back(fmt::format("its volume is in {} places", legs.size()));
    for (HostTruth& host : cloud_.world().hosts()) {
      const bool right = std::ranges::any_of(
          legs, [&](const VolumeLeg& leg) { return leg.device.value == host.id.value; });
      for (const auto& [directory, device] : host.devices) {
        const auto truth = device.volumes.find(kVolume);
        if (truth == device.volumes.end()) continue;
        if (!right) outcome_.wrong.push_back("some of the volume is left on " + host.id.value);
        const std::size_t may = truth->second.attachments.size();
        if (right && may != 1)
          outcome_.wrong.push_back(fmt::format("{} may use the volume on {}", may, host.id.value));
      }
    }
  }

  static inline const VmId kVm{"acme/db"};
  static inline const HostId kStore{"host-4"};  ///< has no part where disks are files
  static inline const VolumeId kVolume{"acme/data"};

  const FaultCase fault_;
  SimLoop loop_;
  const WallTime start_ = loop_.wall_now();
  Cloud cloud_;
  Consumers consumers_{cloud_};
  VmId moved_;
  HostTruth* source_ = nullptr;
  HostTruth* destination_ = nullptr;
  HostTruth* storage_ = nullptr;
  HostTruth* peer_ = nullptr;
  Instant ordered_;
  bool began_ = false;
  bool was_paused_ = false;
  FaultOutcome outcome_;
};

}  // namespace

FaultOutcome play(const FaultCase& fault) {
  return Play(fault).run();
}

}  // namespace virga::sim
