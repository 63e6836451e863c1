#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>

#include "base/log.h"
#include "base/reflect.h"
#include "sim/consumers.h"
#include "sim/scenario.h"

/// Silent partitions between any two parties of a move: nobody is told, packets vanish, everybody
/// else is heard.
namespace virga::sim {
namespace {

constexpr Duration kComeAt = seconds(3);
constexpr Duration kOrderAt = seconds(30);
constexpr Duration kLook = milliseconds(5);
constexpr Duration kSettleMax = seconds(240);
constexpr Duration kSwitchedOnEvery = seconds(30);
constexpr int kHosts = 5;

enum class Story { vm_moves, volume_moves, service_relocates };
BOOST_DESCRIBE_ENUM(Story, vm_moves, volume_moves, service_relocates)

enum class Phase { before, copying, hand_over, after };
BOOST_DESCRIBE_ENUM(Phase, before, copying, hand_over, after)

enum class Party { server, source, destination, storage, peer };
BOOST_DESCRIBE_ENUM(Party, server, source, destination, storage, peer)

enum class Direction { both, there, back };
BOOST_DESCRIBE_ENUM(Direction, both, there, back)

struct Cut {
  Story story = Story::vm_moves;
  Phase phase = Phase::before;
  Party one = Party::server;
  Party other = Party::source;
  Direction direction = Direction::both;
  Duration length = seconds(8);
  bool bmcs = true;  ///< those of both hosts answer meanwhile
};

std::string name_of(const Cut& cut) {
  return fmt::format("{} {}: {} and {} {} for {} s{}", enum_name(cut.story), enum_name(cut.phase),
                     enum_name(cut.one), enum_name(cut.other), enum_name(cut.direction),
                     to_ms(cut.length) / 1000, cut.bmcs ? "" : ", BMCs silent");
}

/// Who can be cut off from whom, at each phase once; length and direction take turns, so that each
/// of them meets each pair and each phase.
std::vector<Cut> pairwise(Story story) {
  std::vector<Cut> cuts;
  int pair = 0;
  for (int one = 0; one < 5; ++one) {
    for (int other = one + 1; other < 5; ++other, ++pair) {
      for (int phase = 0; phase < 4; ++phase) {
        const int turn = pair + phase;
        Cut cut{story,
                static_cast<Phase>(phase),
                static_cast<Party>(one),
                static_cast<Party>(other),
                static_cast<Direction>(turn % 3),
                turn % 2 == 0 ? seconds(8) : seconds(60),
                turn % 4 != 3};
        cuts.push_back(cut);
      }
    }
  }
  return cuts;
}

/// One story on a new cloud: host-1 to host-3 run guests, host-4 and host-5 hold volumes.
class Play {
 public:
  explicit Play(const Cut& cut) : cut_(cut), cloud_(loop_, options()) {
    found_cloud(cloud_, kHosts, {{8000}, {8192}}, true, kHosts);
    if (cut_.story == Story::service_relocates) {
      loop_.after(kComeAt, [this] { put_service(cloud_, service()); });
      consumers_.start();
    } else {
      loop_.after(kComeAt, [this] { found_storage(); });
    }
    cloud_.start();
    loop_.run_for(kOrderAt - milliseconds(500));
  }

  /// What is wrong at the end, one sentence each.
  std::vector<std::string> run() {
    choose_parties();
    if (cut_.phase == Phase::before) begin_cut();
    loop_.run_for(milliseconds(500));
    order();
    ordered_ = loop_.now();
    while (!began_ && loop_.now() - ordered_ < seconds(60)) {
      loop_.run_for(kLook);
      if (reached()) begin_cut();
    }
    if (!began_) wrong_.push_back("its phase was never reached");
    loop_.run_for(cut_.length);
    for (HostTruth& host : cloud_.world().hosts()) {
      cloud_.world().mend(host);
      host.bmc = BmcMode::answers;
    }
    settle();
    loop_.run_for(seconds(20));
    judge();
    return std::move(wrong_);
  }

  /// Something of this kind has happened since it was ordered.
  bool said(std::string_view kind) const {
    return std::ranges::any_of(cloud_.events(), [&](const Event& event) {
      return event.kind == kind && event.at.unix_ms - start_.unix_ms >= to_ms(kOrderAt);
    });
  }

  std::string journal() const {
    std::string text;
    for (const Event& event : cloud_.events()) text += normalised(event, start_);
    return text;
  }

 private:
  static CloudOptions options() {
    CloudOptions made;
    made.supervisor = seconds(1);
    return made;
  }
  static ScenarioService service() {
    ScenarioService made;
    made.id = ServiceId("acme/web");
    return made;
  }

  void found_storage() {
    for (const char* name : {"host-4", "host-5"}) {
      cloud_.edit<virga::Host>(HostId(name),
                               [](virga::Host& host) { host.spec.maintenance = true; });
      put_device(cloud_, HostId(name));
    }
    ScenarioVm vm;
    vm.id = kVm;
    vm.memory = Mib{4096};
    vm.volume = "data";
    put_vm(cloud_, vm);
  }

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
    moved_ = cut_.story == Story::service_relocates ? web()->status.copies.back().vm : kVm;
    source_ = host(vm(moved_)->status.host);
    if (cut_.story == Story::service_relocates) {
      storage_ = host(web()->status.balancer);
      if (storage_ == source_) moved_ = web()->status.copies.front().vm;
      source_ = host(vm(moved_)->status.host);
      destination_ = free_host({source_, storage_});
    } else {
      storage_ = host(HostId(volume()->status.legs.front().device.value));
      destination_ = cut_.story == Story::volume_moves
                         ? host(HostId(storage_->id.value == "host-4" ? "host-5" : "host-4"))
                         : free_host({source_});
    }
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

  void begin_cut() {
    began_ = true;
    HostTruth* one = party(cut_.one);
    HostTruth* other = party(cut_.other);
    if (cut_.direction != Direction::back) cloud_.world().cut(one, other);
    if (cut_.direction != Direction::there) cloud_.world().cut(other, one);
    if (cut_.bmcs) return;
    for (HostTruth* host : {one, other}) {
      if (host != nullptr) host->bmc = BmcMode::silent;
    }
  }

  void order() {
    if (cut_.story == Story::vm_moves) {
      cloud_.edit<Vm>(kVm, [to = destination_->id](Vm& vm) { vm.spec.move_to = to; });
    } else if (cut_.story == Story::volume_moves) {
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
    const bool waited = loop_.now() - ordered_ > seconds(1);
    if (cut_.story == Story::service_relocates) {
      if (cut_.phase == Phase::copying) return waited;
      return said(cut_.phase == Phase::hand_over ? "service.copy_serving" : "service.redirected");
    }
    const bool paused = state() == CopyState::paused;
    was_paused_ = was_paused_ || paused;
    if (cut_.phase == Phase::copying) return waited;
    return cut_.phase == Phase::hand_over ? paused : was_paused_ && !paused;
  }

  bool settled() {
    if (!cloud_.unsettled().empty()) return false;
    const auto stored = volume();
    return !stored || stored->status.legs.size() == 1;
  }

  /// Machines that were fenced are switched on by somebody, as in a swarm.
  void settle() {
    const Instant healed = loop_.now();
    while (!settled() && loop_.now() - healed < kSettleMax) {
      loop_.run_for(seconds(1));
      if ((loop_.now() - healed) % kSwitchedOnEvery >= seconds(1)) continue;
      for (HostTruth& host : cloud_.world().hosts()) {
        if (!host.powered) cloud_.heal(host);
      }
    }
  }

  void judge() {
    for (std::string& open : cloud_.unsettled()) wrong_.push_back(std::move(open));
    for (const Violation& broken : cloud_.checker().violations()) {
      wrong_.push_back(
          fmt::format("{:.1f}s {}: {}", to_ms(broken.at) / 1000.0, broken.rule, broken.text));
    }
    if (cut_.story != Story::service_relocates) return judge_storage();
    if (web()->status.relocation) wrong_.push_back("the relocation is neither ended nor undone");
  }

  void judge_storage() {
    const auto places = cloud_.checker().running_at(kVm);
    const auto stored = vm(kVm);
    if (places.size() != 1 || !stored) return wrong_.push_back("it does not run in one place");
    const Copy& copy = cloud_.world().hosts()[places.front()].copies.at(kVm);
    if (const std::string lost = cloud_.world().lost_writes(copy); !lost.empty()) {
      wrong_.push_back("acknowledged writes are not on " + lost);
    }
    if (stored->status.migration.phase != MigrationPhase::none) {
      wrong_.push_back("its move is neither ended nor undone");
    }
    const Volume there = *volume();
    if (there.status.legs.size() != 1) wrong_.push_back("its volume is in two places");
    for (HostTruth& host : cloud_.world().hosts()) {
      for (const auto& [directory, device] : host.devices) {
        const auto truth = device.volumes.find(kVolume);
        if (truth == device.volumes.end()) continue;
        const bool right = host.id.value == there.status.legs.front().device.value;
        if (!right) wrong_.push_back("something of the volume is left on " + host.id.value);
        if (right && truth->second.attachments.size() != 1) {
          wrong_.push_back(fmt::format("{} may use the volume", truth->second.attachments.size()));
        }
      }
    }
  }

  static inline const VmId kVm{"acme/db"};
  static inline const VolumeId kVolume{"acme/data"};

  const Cut cut_;
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
  std::vector<std::string> wrong_;
};

void drop_line(LogLevel, std::string_view, std::string_view) {}

class Partitions : public testing::Test {
 protected:
  void SetUp() override { set_log_sink(drop_line); }
  void TearDown() override { set_log_sink(nullptr); }

  /// How many of them had something of each kind.
  static void expect_well(const std::vector<Cut>& cuts, const std::vector<std::string>& kinds) {
    std::map<std::string, int> counts;
    for (const Cut& cut : cuts) {
      Play play(cut);
      const auto wrong = play.run();
      for (const std::string& one : wrong) ADD_FAILURE() << name_of(cut) << ": " << one;
      if (!wrong.empty()) std::printf("%s\n%s\n", name_of(cut).c_str(), play.journal().c_str());
      for (const std::string& kind : kinds) counts[kind] += play.said(kind) ? 1 : 0;
    }
    for (const auto& [kind, count] : counts) {
      std::printf("%s in %d of %zu\n", kind.c_str(), count, cuts.size());
      EXPECT_GT(count, 0) << "no cut came to " << kind;
    }
  }
};

TEST_F(Partitions, R_F3_any_two_parties_of_a_live_move_may_lose_each_other_in_silence) {
  expect_well(pairwise(Story::vm_moves), {"vm.moved", "vm.move_failed", "host.fenced"});
}

TEST_F(Partitions, R_F3_any_two_parties_of_a_volumes_move_may_lose_each_other_in_silence) {
  expect_well(pairwise(Story::volume_moves),
              {"vm.disk_moved", "vm.disk_move_failed", "host.fenced"});
}

TEST_F(Partitions, R_F3_any_two_parties_of_a_relocation_may_lose_each_other_in_silence) {
  expect_well(pairwise(Story::service_relocates), {"service.relocated", "host.fenced"});
}

}  // namespace
}  // namespace virga::sim
