#include "driver/qemu/vm.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "base/reflect.h"
#include "edge/connect_tcp.h"

namespace virga {
namespace {

namespace json = boost::json;

constexpr Duration kAdoptDeadline = seconds(5);
constexpr Duration kHeartbeatMax = seconds(5);
constexpr int kStateTicks = 2;
constexpr int kTrafficTicks = 5;  // twice between two reports of usage
constexpr int kInspectTicks = 10;
constexpr int kRoomTicks = 3;
constexpr int kVolumeTicks = 3;
constexpr Duration kVolumeAnswersWithin = milliseconds(300);

std::string text_at(const json::object& object, const char* name) {
  const json::value* value = object.if_contains(name);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

bool flag_at(const json::object& object, const char* name) {
  const json::value* value = object.if_contains(name);
  return value != nullptr && value->is_bool() && value->get_bool();
}

bool has_volumes(const VmLaunch& launch) {
  return std::any_of(launch.disks.begin(), launch.disks.end(),
                     [](const LaunchDisk& disk) { return disk.endpoint.has_value(); });
}

bool is_volume(const VmLaunch& launch, const json::object& io_error) {
  const int index = disk_index_of_node(text_at(io_error, "node-name"));
  const bool known = index >= 0 && index < static_cast<int>(launch.disks.size());
  return known && launch.disks[static_cast<std::size_t>(index)].endpoint.has_value();
}

Result<void> reach(const VolumeEndpoint& place) {
  const auto port = static_cast<std::uint16_t>(place.port);
  const auto reached = connect_tcp(place.address, port, kVolumeAnswersWithin);
  return reached ? Result<void>() : Result<void>(reached.error());
}

/// Blocking. Of a volume in two places one is enough: QEMU says then which one it misses.
Result<void> reach_volumes(const VmLaunch& launch) {
  for (const LaunchDisk& disk : launch.disks) {
    if (!disk.endpoint) continue;
    const auto reached = reach(*disk.endpoint);
    if (reached || (disk.second && reach(*disk.second))) continue;
    return reached;
  }
  return {};
}

std::string io_error_text(const VmLaunch& launch, const json::object& data) {
  const int index = disk_index_of_node(text_at(data, "node-name"));
  const bool known = index >= 0 && index < static_cast<int>(launch.disks.size());
  const std::string disk = known ? launch.disks[static_cast<std::size_t>(index)].name : "?";
  const std::string why = flag_at(data, "nospace") ? "no space left" : text_at(data, "reason");
  return fmt::format("disk {}: {}", disk,
                     why.empty() ? text_at(data, "operation") + " failed" : why);
}

}  // namespace

void QemuVm::event(const QmpEvent& seen) {
  if (seen.name == "RESUME") {
    if (!trying_) runs_again();
  } else if (seen.name == "STOP") {
    if (stage_ == Stage::ready && power_ == VmPower::running) {
      power_ = VmPower::paused;
      changed(failing_.empty() ? "paused" : failing_);
    }
  } else if (seen.name == "RESET") {
    guest_.reset();
    failing_.clear();
    if (stage_ == Stage::ready) changed("guest reset: " + text_at(seen.data, "reason"));
  } else if (seen.name == "SHUTDOWN") {
    const std::string reason = text_at(seen.data, "reason");
    shutdown_reason_ =
        flag_at(seen.data, "guest") ? "guest powered off" : "QEMU was told to end: " + reason;
  } else if (seen.name == "MIGRATION") {
    const auto state = qmp::migration_state(text_at(seen.data, "status"));
    if (outgoing_ != nullptr) outgoing_->migration_event(state);
    follow_left_send(state);
    if (state == qmp::MigrationState::completed) state_arrived();
  } else if (seen.name == "QUORUM_REPORT_BAD") {
    leg_failed(text_at(seen.data, "node-name"));
  } else if (seen.name == "VSERPORT_CHANGE") {
    if (text_at(seen.data, "id") == "port-guest-agent")
      guest_.set_agent_open(flag_at(seen.data, "open"));
  } else {
    guest_stopped(seen);
  }
}

void QemuVm::runs_again() {
  trying_ = false;
  failing_.clear();
  failing_legs_.clear();
  volume_awaited_ = false;
  if (stage_ != Stage::ready || incoming_ || power_ != VmPower::paused) return;
  power_ = VmPower::running;
  postmigrate_ = false;
  changed("runs again");
}

void QemuVm::guest_stopped(const QmpEvent& seen) {
  std::string trouble;
  if (seen.name == "GUEST_PANICKED") trouble = kGuestPanicked;
  if (seen.name == "WATCHDOG") trouble = kWatchdogExpired;
  if (seen.name == "BLOCK_IO_ERROR" && text_at(seen.data, "action") == "stop") {
    trying_ = false;
    trouble = io_error_text(launch_, seen.data);
    if (is_volume(launch_, seen.data)) {
      volume_awaited_ = true;
    } else if (flag_at(seen.data, "nospace")) {
      await_room();
    }
  }
  if (trouble.empty() || trouble == failing_) return;
  failing_ = trouble;
  changed(trouble);
}

void QemuVm::changed(const std::string& why) {
  meter_.set_running(guest_runs(), context_.loop.now());
  const ObservedVm now = observed();
  told_health_ = now.health;
  log_line(LogLevel::info, "qemu",
           fmt::format("{} epoch {}: {}", launch_.vm.value, to_string(launch_.epoch), why),
           launch_.correlation);
  if (handlers_.changed) handlers_.changed(now, why);
}

/// A guest that was asked to end runs until it has.
bool QemuVm::guest_runs() const {
  if (power_ == VmPower::stopping) return meter_.running();
  return power_ == VmPower::running && !incoming_ && !postmigrate_;
}

VmUsage QemuVm::used() const {
  const Instant now = context_.loop.now();
  VmUsage usage = traffic_;
  usage.vm = launch_.vm;
  usage.epoch = launch_.epoch;
  usage.age_ms = meter_.age(now);
  usage.cpus = launch_.cpus;
  usage.memory_mib = launch_.memory_mib;
  usage.run_ms = meter_.run_time(now);
  usage.cpu_ms = usage_.cpu_time;
  usage.memory_mib_used = Mib{usage_.memory.value >> 20};
  return usage;
}

ObservedDisk QemuVm::observed_disk(const VolumeId& volume, Mib size) const {
  ObservedDisk seen{volume, size};
  const auto& mirror = process_.record().mirror;
  if (mirror && mirror->volume == volume.value) seen.copied_to = mirror->to.device;
  const auto disk = std::ranges::find(launch_.disks, volume.value, &LaunchDisk::volume);
  if (disk == launch_.disks.end()) return seen;
  for (const auto& place : {disk->endpoint, disk->second}) {
    if (place) seen.legs.push_back(place->device);
  }
  if (const auto failing = failing_legs_.find(volume); failing != failing_legs_.end()) {
    seen.failing.assign(failing->second.begin(), failing->second.end());
  }
  return seen;
}

ObservedVm QemuVm::observed() const {
  ObservedVm seen;
  seen.vm = launch_.vm;
  seen.epoch = launch_.epoch;
  seen.power = power_;
  seen.incoming = incoming_;
  seen.postmigrate = postmigrate_;
  seen.cpu_millicores_used = cpu_used_;
  seen.memory_mib_used = Mib{usage_.memory.value >> 20};
  seen.cpu_millicores_max = launch_.cpu_millicores;
  seen.cpu_weight = launch_.cpu_weight;
  seen.processes_max = launch_.processes_max;
  for (const auto& [volume, size] : disk_sizes_) seen.disks.push_back(observed_disk(volume, size));
  seen.isolation_checked = isolation_checked_;
  seen.isolation_breach = isolation_breach_;
  if (const auto sign = guest_.last_sign()) seen.heartbeat_age_ms = context_.loop.now() - *sign;
  if (!failing_.empty() || qmp_silent_) {
    seen.health = VmHealth::failing;
    seen.health_reason = failing_.empty() ? "QEMU does not answer on its QMP socket" : failing_;
  } else if (power_ == VmPower::running) {
    const bool lives =
        seen.heartbeat_age_ms >= Duration::zero() && seen.heartbeat_age_ms < kHeartbeatMax;
    seen.health = lives ? VmHealth::healthy : VmHealth::no_heartbeat;
  }
  return seen;
}

void QemuVm::tick() {
  if (stage_ != Stage::ready) return;
  ++ticks_;
  guest_.tick(power_ == VmPower::running && !incoming_);
  meter_.set_running(guest_runs(), context_.loop.now());
  sample_usage();
  if (ticks_ % kTrafficTicks == 0) sample_traffic();
  const bool look = inspect_due_ && guest_runs() && context_.loop.now() >= inspected_by_;
  if (look && ticks_ % kInspectTicks == 0) inspect_ports(0);
  trim_console(process_.folder().console());
  if (process_.qmp() == nullptr) {
    reconnect();
  } else if (ticks_ % kStateTicks == 0) {
    ask_state();
    ask_left_send();
  }
  const bool paused = power_ == VmPower::paused;
  if (disk_full_ && paused && ticks_ % kRoomTicks == 0) ask_for_room();
  if (volume_awaited_ && !disk_full_ && paused && ticks_ % kVolumeTicks == 0) ask_for_volumes();
  if (observed().health != told_health_)
    changed(fmt::format("health: {}", enum_name(observed().health)));
}

/// Why a guest is paused whose event nobody has heard.
void QemuVm::ask_disks() {
  if (process_.qmp() == nullptr) return;
  qmp::query_disk_full(*process_.qmp(), [this](Result<bool> full) {
    if (!full || !*full || power_ != VmPower::paused || failing_.empty()) return;
    failing_ = "disk: no space left";
    changed(failing_);
    if (!volume_awaited_) await_room();
  });
}

void QemuVm::await_room() {
  if (std::exchange(disk_full_, true)) return;
  room_bytes_ = -1;
  ask_for_room();
}

/// A guest that a full disk has paused goes on when there is more room than at the first look: its
/// writes wait in QEMU and are tried again.
void QemuVm::ask_for_room() {
  if (std::exchange(asking_room_, true)) return;
  context_.worker.run<std::int64_t>(
      [path = context_.options.shared_directory + "/" + launch_.directory] {
        return free_bytes(path);
      },
      [weak = weak_from_this()](Result<std::int64_t> free) {
        const auto self = weak.lock();
        if (self == nullptr) return;
        self->asking_room_ = false;
        if (!free || !self->disk_full_) return;
        const bool grown = self->room_bytes_ >= 0 && *free > self->room_bytes_;
        self->room_bytes_ = *free;
        if (!grown || self->power_ != VmPower::paused || self->process_.qmp() == nullptr) return;
        self->disk_full_ = false;
        self->try_disks_again();
      });
}

/// Lets a guest run again that a disk has paused; not one that a move has paused or taken away. It
/// is said to run when it still does at the next look: one that fails as before says nothing new.
void QemuVm::try_disks_again() {
  // What is being put on one place stands on a node that takes nothing.
  if (process_.record().kept_leg) return keep_leg_again();
  if (is_moving() || postmigrate_ || incoming_) return;
  qmp::query_status(*process_.qmp(), [this](const Result<qmp::RunState>& state) {
    const bool paused_by_disk = state.ok() && *state == qmp::RunState::io_error;
    if (!paused_by_disk || is_moving() || postmigrate_ || process_.qmp() == nullptr) return;
    if (process_.record().kept_leg) return;
    trying_ = true;
    failing_legs_.clear();  // the same write is tried again, and QEMU says what becomes of it
    qmp::resume(*process_.qmp(), [](Result<void>) {});
  });
}

/// A guest whose volume did not answer for longer than QEMU waits goes on once somebody listens
/// there: its requests wait in QEMU and are tried again. One that was cut off is refused there, and
/// pauses again.
void QemuVm::ask_for_volumes() {
  if (std::exchange(asking_volumes_, true)) return;
  context_.prober.run<void>([launch = launch_] { return reach_volumes(launch); },
                            [weak = weak_from_this()](const Result<void>& reached) {
                              const auto self = weak.lock();
                              if (self == nullptr) return;
                              self->asking_volumes_ = false;
                              const bool waits =
                                  self->volume_awaited_ && self->power_ == VmPower::paused;
                              if (!reached || !waits || self->process_.qmp() == nullptr) return;
                              self->try_disks_again();
                            });
}

void QemuVm::sample_usage() {
  const auto usage = process_.usage();
  if (!usage) return;
  const Instant now = context_.loop.now();
  const Duration span = now - usage_at_;
  if (usage_at_ != Instant() && span > Duration::zero()) {
    cpu_used_ = Millicores{(usage->cpu_time - usage_.cpu_time).count() * 1000 / span.count()};
  }
  usage_ = *usage;
  usage_at_ = now;
}

void QemuVm::sample_traffic() {
  VmUsage links;
  meter_.read_links(links);
  traffic_.net_received_bytes = links.net_received_bytes;
  traffic_.net_sent_bytes = links.net_sent_bytes;
  if (process_.qmp() == nullptr) return;
  qmp::query_disk_traffic(*process_.qmp(), [weak = weak_from_this()](Result<VmUsage> disks) {
    const auto self = weak.lock();
    if (self == nullptr || !disks) return;
    self->traffic_.disk_read_bytes = disks->disk_read_bytes;
    self->traffic_.disk_written_bytes = disks->disk_written_bytes;
    self->traffic_.disk_reads = disks->disk_reads;
    self->traffic_.disk_writes = disks->disk_writes;
  });
}

void QemuVm::ask_state() {
  if (std::exchange(asking_, true)) return;
  qmp::query_status(*process_.qmp(), [this](Result<qmp::RunState> state) {
    asking_ = false;
    apply_state(std::move(state));
  });
}

/// Corrects what an event that was lost with a connection would have told.
void QemuVm::apply_state(Result<qmp::RunState> state) {
  if (stage_ != Stage::ready) return;
  const bool silent = !state && state.error().code == Errc::timeout;
  if (silent != qmp_silent_) {
    qmp_silent_ = silent;
    changed(silent ? "QEMU does not answer" : "QEMU answers again");
  }
  if (!state) return;
  if (*state == qmp::RunState::panicked && failing_.empty()) failing_ = kGuestPanicked;
  if (*state == qmp::RunState::watchdog && failing_.empty()) failing_ = kWatchdogExpired;
  if (*state == qmp::RunState::io_error && failing_.empty()) {
    failing_ = "a disk failed";
    volume_awaited_ = has_volumes(launch_);
    ask_disks();
  }
  if (*state == qmp::RunState::postmigrate && !incoming_) postmigrate_ = true;
  const bool runs = *state == qmp::RunState::running;
  if (runs && power_ == VmPower::paused && !incoming_) {
    runs_again();
  } else if (!runs && power_ == VmPower::running && !incoming_) {
    power_ = VmPower::paused;
    changed(failing_.empty() ? "paused" : failing_);
  }
}

void QemuVm::reconnect() {
  if (std::exchange(asking_, true)) return;
  process_.connect_qmp(kAdoptDeadline, [this](Result<void> opened) {
    asking_ = false;
    if (stage_ != Stage::ready) return;
    if (!opened && !qmp_silent_) {
      qmp_silent_ = true;
      changed("QEMU does not answer: " + opened.error().text());
    }
    if (!opened) return;
    ask_state();
    ask_left_send();
    learn_disks();
    keep_leg_again();
  });
}

void QemuVm::adopt(const LaunchRecord& record, Callback<void> done) {
  incoming_ = record.incoming;
  meter_.adopt(launch_.epoch, context_.loop.now());
  if (const auto adopted = process_.adopt(record); !adopted) {
    const bool unknown = !process_.exists() && adopted.error().code != Errc::not_found;
    if (unknown) return context_.loop.post([done = std::move(done), adopted] { done(adopted); });
    if (process_.exists()) process_.kill();  // a guest never runs unguarded
    stage_ = Stage::ended;
    power_ = VmPower::stopped;
    process_.release();
    context_.loop.post([done = std::move(done), adopted] { done(adopted); });
    return;
  }
  stage_ = Stage::ready;
  power_ = VmPower::paused;
  process_.connect_qmp(kAdoptDeadline, [this, done = std::move(done)](Result<void> opened) {
    if (stage_ != Stage::ready) return done({});
    if (!opened) {
      qmp_silent_ = true;
      left_send_ = !incoming_;  // nobody knows whether it was being moved
      power_ = incoming_ ? VmPower::paused : VmPower::running;
      changed("adopted; QEMU does not answer: " + opened.error().text());
      return done({});
    }
    qmp::query_port_open(*process_.qmp(), "guest-agent", [this](Result<bool> open) {
      if (open) guest_.set_agent_open(*open);
    });
    qmp::query_status(*process_.qmp(), [this, done](Result<qmp::RunState> state) {
      left_send_ = !incoming_;  // until QEMU has said whether it is being moved
      if (!state || process_.qmp() == nullptr) return done({});
      qmp::query_migration(*process_.qmp(),
                           [this, done, state = *state](Result<qmp::MigrationInfo> migration) {
                             // Not known is not "none": tick() asks again.
                             if (!migration || adopted_state(state, *migration)) return done({});
                             stop({true, seconds(1)}, done);
                           });
    });
  });
}

/// False for a copy that has never run and that nobody can reach any more: its migration port was
/// known to the old agent alone.
bool QemuVm::adopted_state(qmp::RunState state, const qmp::MigrationInfo& migration) {
  using qmp::MigrationState;
  if (stage_ != Stage::ready) return true;
  if (state == qmp::RunState::prelaunch) return false;
  if (incoming_ && migration.state == MigrationState::none) return false;
  postmigrate_ = state == qmp::RunState::postmigrate;
  arrived_ = incoming_ && migration.state == MigrationState::completed;
  left_send_ = false;
  inspect_due_ = !incoming_;  // the agent of before may have found it broken, or not looked
  if (!incoming_ && under_way(migration.state)) end_left_send(migration.state);
  apply_state(state);
  learn_disks();
  changed("adopted");
  keep_leg_again();
  return true;
}

}  // namespace virga
