#include "sim/sim_hypervisor.h"

#include <fmt/format.h>

#include <algorithm>

namespace virga::sim {
namespace {

constexpr Duration kStartMax = seconds(20);
constexpr Duration kKill = milliseconds(30);
constexpr Duration kOpen = milliseconds(50);
constexpr Duration kResumeMax = seconds(10);
constexpr Duration kSwitchMax = seconds(10);
constexpr Duration kPoll = milliseconds(20);
constexpr Duration kMirror = seconds(2);
constexpr Duration kInspectAgain = seconds(1);
constexpr Duration kNoHeartbeat = seconds(10);

std::string on_host(const char* what, const VmId& vm, const HostTruth& host) {
  return fmt::format("{} vm {} on {}", what, vm.value, host.id.value);
}

}  // namespace

SimHypervisor::SimHypervisor(const Parts& parts)
    : world_(parts.world),
      migrations_(parts.migrations),
      host_(parts.host),
      agent_(parts.agent),
      guard_(parts.guard),
      fabric_(parts.fabric) {}

/// Completions of what the world does by itself reach this agent only while it lives, and in its
/// own time.
template <typename T>
Callback<T> SimHypervisor::on_agent(Callback<T> done) {
  return [this, alive = std::weak_ptr<int>(alive_), done = std::move(done)](Result<T> outcome) {
    if (alive.expired()) return;
    agent_.post([done, outcome = std::move(outcome)] { done(outcome); });
  };
}

void SimHypervisor::open(HypervisorSink& sink, Callback<HypervisorInfo> done) {
  sink_ = &sink;
  agent_.after(kOpen, [this, done = std::move(done)] {
    std::vector<VmId> orphans;
    for (const auto& [vm, copy] : host_.copies) {
      if (copy.state == CopyState::starting) orphans.push_back(vm);
    }
    for (const VmId& vm : orphans) world_.end_copy(host_, vm, "its start was never finished");
    std::vector<std::uint64_t> serials;
    for (const auto& [vm, copy] : host_.copies) serials.push_back(copy.serial);
    for (const std::uint64_t serial : serials) migrations_.lose_owner(serial);
    for (const auto& [vm, copy] : host_.copies) {
      static_cast<void>(guard_.guard(vm.value, static_cast<int>(copy.serial)));
      if (copy.received) inspect(vm, copy.serial, 0);
    }
    HypervisorInfo info;
    info.accelerator_reason = "simulated";
    info.qemu_version = "7.2.22";
    info.cpu_model = "qemu64";
    info.machine_types = {"pc-q35-7.2"};
    done(info);
  });
}

/// Refuses what is older than this host or the shared disk has seen.
Result<void> SimHypervisor::admit(const VmId& vm, const Epoch& epoch) {
  Epoch& seen = host_.seen[vm];
  const Epoch highest = std::max(seen, world_.stored()[vm].epoch);
  if (epoch < highest) {
    return make_error(Errc::fenced,
                      fmt::format("{}: epoch {} is older than {}", on_host("admit", vm, host_),
                                  to_string(epoch), to_string(highest)));
  }
  seen = std::max(seen, epoch);
  return {};
}

Result<Copy*> SimHypervisor::find(const VmId& vm, const Epoch& epoch) {
  const auto found = host_.copies.find(vm);
  if (found == host_.copies.end()) {
    return make_error(Errc::not_found, on_host("find", vm, host_) + ": no such process");
  }
  if (found->second.epoch != epoch) {
    return make_error(epoch < found->second.epoch ? Errc::fenced : Errc::conflict,
                      fmt::format("{}: has epoch {}, not {}", on_host("find", vm, host_),
                                  to_string(found->second.epoch), to_string(epoch)));
  }
  return &found->second;
}

Result<void> SimHypervisor::begin_process(const VmLaunch& launch, CopyState state) {
  StoredVm& stored = world_.stored()[launch.vm];
  if (auto admitted = admit(launch.vm, launch.epoch); !admitted) return admitted;
  if (host_.copies.count(launch.vm) != 0) {
    return make_error(Errc::conflict, on_host("start", launch.vm, host_) + ": a copy is here");
  }
  if (host_.disk_full) {
    return make_error(Errc::exhausted, on_host("start", launch.vm, host_) + ": no space left");
  }
  if (host_.starts_failing > 0) {
    --host_.starts_failing;
    return make_error(Errc::internal, on_host("start", launch.vm, host_) + ": process exited");
  }
  for (const LaunchDisk& disk : launch.disks) {
    if (disk.volume.empty()) continue;
    const auto answers = [&](const std::optional<VolumeEndpoint>& place) {
      return place && world_.volume_of(*place, &host_) != nullptr;
    };
    if (answers(disk.endpoint) && (!disk.second || answers(disk.second))) continue;
    return make_error(Errc::unavailable, on_host("start", launch.vm, host_) + ": volume " +
                                             disk.volume + " does not answer");
  }
  if (state == CopyState::starting) {
    if (world_.options().image_locks && World::has_files(launch) && stored.lock != 0) {
      return make_error(Errc::conflict, on_host("start", launch.vm, host_) +
                                            ": disk root is locked by another copy");
    }
    stored.epoch = std::max(stored.epoch, launch.epoch);
  }
  const Copy& copy = world_.spawn(host_, launch, state);
  if (auto guarded = guard_.guard(launch.vm.value, static_cast<int>(copy.serial)); !guarded) {
    world_.end_copy(host_, launch.vm, "not guarded");
    return guarded;
  }
  return {};
}

void SimHypervisor::start(const VmLaunch& launch, Callback<void> done) {
  if (auto admitted = admit(launch.vm, launch.epoch); !admitted) {
    agent_.post([done = std::move(done), admitted] { done(admitted); });
    return;
  }
  const auto here = host_.copies.find(launch.vm);
  if (here != host_.copies.end() && here->second.epoch == launch.epoch &&
      here->second.state == CopyState::running) {
    agent_.post([done = std::move(done)] { done({}); });
    return;
  }
  auto& waiting = starts_[launch.vm];
  waiting.push_back(std::move(done));
  if (waiting.size() > 1) return;
  if (!world_.storage_reachable(host_)) {
    agent_.after(kStartMax, [this, vm = launch.vm] {
      finish_start(vm, make_error(Errc::timeout, on_host("start", vm, host_) +
                                                     ": shared storage does not answer"));
    });
    return;
  }
  agent_.after(world_.options().start / 2, [this, launch] {
    if (auto begun = begin_process(launch, CopyState::starting); !begun) {
      return finish_start(launch.vm, begun);
    }
    run_started(launch.vm, host_.copies.at(launch.vm).serial);
  });
}

void SimHypervisor::run_started(const VmId& vm, std::uint64_t serial) {
  agent_.after(world_.options().start / 2, [this, vm, serial] {
    const auto found = host_.copies.find(vm);
    if (found == host_.copies.end() || found->second.serial != serial) {
      return finish_start(
          vm, make_error(Errc::internal, on_host("start", vm, host_) + ": process ended"));
    }
    finish_start(vm, world_.set_state(host_, found->second, CopyState::running));
  });
}

void SimHypervisor::finish_start(const VmId& vm, const Result<void>& outcome) {
  auto waiting = std::move(starts_[vm]);
  starts_.erase(vm);
  for (const auto& done : waiting) done(outcome);
}

void SimHypervisor::stop(const VmId& vm, const Epoch& epoch, const StopOptions& options,
                         Callback<void> done) {
  const auto found = host_.copies.find(vm);
  if (found == host_.copies.end()) {
    agent_.post([done = std::move(done)] { done({}); });
    return;
  }
  Copy& copy = found->second;
  if (epoch < copy.epoch) {
    agent_.post([done = std::move(done), text = on_host("stop", vm, host_)] {
      done(make_error(Errc::fenced, text + ": a newer copy is here"));
    });
    return;
  }
  const bool answers = !copy.deaf && !copy.guest_hung && !copy.panicked &&
                       copy.state == CopyState::running && copy.answers_at <= world_.loop().now();
  Duration wait = kKill;
  if (!options.force) {
    wait = answers ? std::min(world_.options().guest_shutdown, options.deadline_ms)
                   : options.deadline_ms;
    if (copy.state != CopyState::running) wait = kKill;
    copy.stopping = true;
  }
  agent_.after(wait, [this, vm, serial = copy.serial, done = std::move(done)] {
    const auto still = host_.copies.find(vm);
    if (still != host_.copies.end() && still->second.serial == serial) {
      guard_.release(vm.value);
      world_.end_copy(host_, vm, "stopped");
    }
    done({});
  });
}

void SimHypervisor::erase(const VmLaunch& launch, Callback<void> done) {
  if (host_.copies.count(launch.vm) != 0) {
    agent_.post([done = std::move(done), text = on_host("erase", launch.vm, host_)] {
      done(make_error(Errc::conflict, text + ": a copy of it is here"));
    });
    return;
  }
  agent_.after(kKill, [this, vm = launch.vm, done = std::move(done)] {
    if (!world_.storage_reachable(host_)) {
      return done(make_error(Errc::unavailable,
                             on_host("erase", vm, host_) + ": shared storage does not answer"));
    }
    world_.stored().erase(vm);
    done({});
  });
}

void SimHypervisor::prepare_incoming(const VmLaunch& launch, Callback<MigrationEndpoint> done) {
  agent_.after(world_.options().start, [this, launch, done = std::move(done)] {
    const auto here = host_.copies.find(launch.vm);
    const bool again = here != host_.copies.end() && here->second.epoch == launch.epoch &&
                       here->second.state == CopyState::incoming;
    if (!again) {
      if (auto begun = begin_process(launch, CopyState::incoming); !begun) {
        return done(begun.error());
      }
    }
    const Copy& copy = host_.copies.at(launch.vm);
    done(MigrationEndpoint{host_.address, static_cast<std::uint16_t>(49152 + copy.serial % 16384),
                           std::to_string(copy.serial)});
  });
}

void SimHypervisor::send(const VmId& vm, const Epoch& epoch, const MigrationEndpoint& to,
                         const MigrationLimits& limits, Callback<MigrationProgress> done) {
  auto reply = on_agent(std::move(done));
  const auto copy = find(vm, epoch);
  if (!copy) return reply(copy.error());
  if ((*copy)->state != CopyState::running || (*copy)->deaf) {
    return reply(make_error(Errc::conflict, on_host("send", vm, host_) + ": it does not run"));
  }
  migrations_.begin(host_, **copy, to, limits, std::move(reply));
}

void SimHypervisor::switch_over(const VmId& vm, const Epoch& epoch,
                                Callback<MigrationProgress> done) {
  auto reply = on_agent(std::move(done));
  const auto copy = find(vm, epoch);
  if (!copy) return reply(copy.error());
  if ((*copy)->state == CopyState::postmigrate) return reply(MigrationProgress{});
  if (!world_.storage_reachable(host_)) {  // its QEMU waits for the last writes
    agent_.after(kSwitchMax, [this, vm, reply = std::move(reply)] {
      reply(make_error(Errc::timeout,
                       on_host("switch over", vm, host_) + ": shared storage does not answer"));
    });
    return;
  }
  migrations_.switch_over(**copy, std::move(reply));
}

void SimHypervisor::resume(const VmId& vm, const Epoch& epoch, Callback<void> done) {
  wait_received(vm, epoch, agent_.now() + kResumeMax, std::move(done));
}

void SimHypervisor::wait_received(const VmId& vm, const Epoch& epoch, Instant until,
                                  Callback<void> done) {
  agent_.after(kPoll, [this, vm, epoch, until, done = std::move(done)]() mutable {
    const auto copy = find(vm, epoch);
    if (!copy) return done(copy.error());
    if ((*copy)->state == CopyState::running) return done({});
    if ((*copy)->received && world_.storage_reachable(host_)) {
      StoredVm& stored = world_.stored()[vm];
      stored.epoch = std::max(stored.epoch, epoch);
      if ((*copy)->answers_at == Instant{}) (*copy)->answers_at = agent_.now();
      const auto running = world_.set_state(host_, **copy, CopyState::running);
      if (running) inspect(vm, (*copy)->serial, 0);
      return done(running);
    }
    if (agent_.now() >= until) {
      return done(make_error(Errc::timeout, on_host("resume", vm, host_) + ": no state arrived"));
    }
    wait_received(vm, epoch, until, std::move(done));
  });
}

/// What keeps the ports of a copy that has arrived apart from others, one after the other; what is
/// broken is looked at again.
void SimHypervisor::inspect(const VmId& vm, std::uint64_t serial, std::size_t nic) {
  const auto found = host_.copies.find(vm);
  if (found == host_.copies.end() || found->second.serial != serial) return;
  const Copy& copy = found->second;
  const auto again = [this, vm, serial] { inspect(vm, serial, 0); };
  if (copy.state != CopyState::running) {
    if (copy.state == CopyState::paused) agent_.after(kInspectAgain, again);
    return;
  }
  if (nic >= copy.nics.size()) return found_isolated(copy, "");
  fabric_.inspect_port(copy.nics[nic], [this, vm, serial, nic, again](const Result<void>& held) {
    if (held) return inspect(vm, serial, nic + 1);
    agent_.after(kInspectAgain, again);
    if (held.error().code != Errc::conflict) return;
    const auto still = host_.copies.find(vm);
    const bool here = still != host_.copies.end() && still->second.serial == serial;
    if (here) found_isolated(still->second, held.error().what);
  });
}

void SimHypervisor::found_isolated(const Copy& copy, const std::string& breach) {
  const auto [known, first] = inspected_.emplace(copy.serial, breach);
  if (!first && known->second == breach) return;
  known->second = breach;
  copy_changed(copy, false);
}

void SimHypervisor::cancel_send(const VmId& vm, const Epoch& epoch, Callback<void> done) {
  agent_.after(kPoll, [this, vm, epoch, done = std::move(done)] {
    const auto copy = find(vm, epoch);
    if (!copy) {
      return done(copy.error().code == Errc::not_found ? Result<void>() : copy.error());
    }
    migrations_.cancel((*copy)->serial);
    const CopyState state = (*copy)->state;
    if (state != CopyState::postmigrate && state != CopyState::paused) return done({});
    done(world_.set_state(host_, **copy, CopyState::running));
  });
}

void SimHypervisor::grow_disk(const VmId& vm, const Epoch& epoch, const std::string& volume,
                              Callback<void> done) {
  agent_.after(kPoll, [this, vm, epoch, id = VolumeId(volume), done = std::move(done)] {
    const auto copy = find(vm, epoch);
    if (!copy) return done(copy.error());
    const auto with = (*copy)->volumes.find(id);
    const VolumeTruth* truth = with == (*copy)->volumes.end()
                                   ? nullptr
                                   : world_.volume_of(with->second.legs.front(), &host_);
    if (truth == nullptr || !world_.storage_reachable(host_)) {
      return done(make_error(Errc::unavailable, on_host("grow a disk of", vm, host_) +
                                                    ": the volume does not answer"));
    }
    (*copy)->disk_sizes[id] = truth->size_mib;
    done({});
  });
}

void SimHypervisor::keep_leg(const VmId& vm, const Epoch& epoch, const std::string& volume,
                             const DeviceId& device, Callback<void> done) {
  agent_.after(kPoll, [this, vm, epoch, id = VolumeId(volume), device, done = std::move(done)] {
    done(put_on_leg(vm, epoch, id, device));
  });
}

Result<void> SimHypervisor::put_on_leg(const VmId& vm, const Epoch& epoch, const VolumeId& volume,
                                       const DeviceId& device) {
  const auto copy = find(vm, epoch);
  if (!copy) return copy.error();
  const std::string what = on_host("put a disk of", vm, host_) + " on " + device.value;
  const auto used = (*copy)->volumes.find(volume);
  if (used == (*copy)->volumes.end()) {
    return make_error(Errc::not_found, what + ": it has no such disk");
  }
  const auto leg = std::ranges::find(used->second.legs, device, &VolumeEndpoint::device);
  if (leg == used->second.legs.end()) {
    return make_error(Errc::not_found, what + ": it does not write there");
  }
  if ((*copy)->state != CopyState::running || (*copy)->equal_places.contains(volume)) {
    return make_error(Errc::conflict, what + ": it does not run, or is being moved");
  }
  used->second.legs = {VolumeEndpoint(*leg)};
  return {};
}

void SimHypervisor::mirror_disk(const VmId& vm, const Epoch& epoch, const DiskMirror& mirror,
                                Callback<MigrationProgress> done) {
  const auto copy = find(vm, epoch);
  const bool ready = copy && (*copy)->equal_places.contains(VolumeId(mirror.volume));
  agent_.after(ready ? kPoll : kMirror, [this, vm, epoch, mirror, done = std::move(done)] {
    const auto equal = mirrored(vm, epoch, mirror);
    if (!equal) return done(equal.error());
    done(MigrationProgress());
  });
}

/// Both are equal and the guest is paused.
Result<void> SimHypervisor::mirrored(const VmId& vm, const Epoch& epoch, const DiskMirror& mirror) {
  const auto copy = find(vm, epoch);
  if (!copy) return copy.error();
  const VolumeId volume(mirror.volume);
  if ((*copy)->equal_places.contains(volume)) return {};
  const auto from = (*copy)->volumes.find(volume);
  if (from == (*copy)->volumes.end() || (*copy)->state != CopyState::running || (*copy)->deaf) {
    return make_error(Errc::conflict, on_host("mirror a disk of", vm, host_) + ": it does not run");
  }
  if (!mirror.joins && from->second.legs.front().device == mirror.to.device) {
    return make_error(Errc::conflict, on_host("mirror a disk of", vm, host_) + ": it is on " +
                                          mirror.to.device.value + " already");
  }
  VolumeTruth* source = world_.volume_of(from->second.legs.front(), &host_);
  VolumeTruth* target = world_.volume_of(mirror.to, &host_);
  if (source == nullptr || target == nullptr || !world_.storage_reachable(host_)) {
    return make_error(Errc::unavailable,
                      on_host("mirror a disk of", vm, host_) + ": a volume does not answer");
  }
  world_.guest_writes(host_, **copy);
  target->written = source->written;
  target->blocks = source->blocks;
  (*copy)->equal_places[volume] = {mirror.to, mirror.joins};
  (*copy)->ran = (*copy)->run_time(world_.loop().now());
  (*copy)->state = CopyState::paused;  // so that it writes no more when its state is set
  return world_.set_state(host_, **copy, CopyState::paused);
}

void SimHypervisor::switch_disk(const VmId& vm, const Epoch& epoch, const std::string& volume,
                                Callback<void> done) {
  agent_.after(kPoll, [this, vm, epoch, id = VolumeId(volume), done = std::move(done)] {
    const auto copy = find(vm, epoch);
    if (!copy) return done(copy.error());
    const auto equal = (*copy)->equal_places.extract(id);
    if (equal.empty()) return done({});
    std::vector<VolumeEndpoint>& legs = (*copy)->volumes[id].legs;
    if (!equal.mapped().joins) legs.clear();
    legs.push_back(equal.mapped().to);
    done(world_.set_state(host_, **copy, CopyState::running));
  });
}

void SimHypervisor::cancel_mirror(const VmId& vm, const Epoch& epoch, const std::string& volume,
                                  Callback<void> done) {
  agent_.after(kPoll, [this, vm, epoch, id = VolumeId(volume), done = std::move(done)] {
    const auto copy = find(vm, epoch);
    if (!copy) {
      return done(copy.error().code == Errc::not_found ? Result<void>() : copy.error());
    }
    if ((*copy)->equal_places.erase(id) == 0) return done({});
    done(world_.set_state(host_, **copy, CopyState::running));
  });
}

Result<void> SimHypervisor::change_limits(const VmLaunch& launch) {
  const auto copy = find(launch.vm, launch.epoch);
  if (!copy) return copy.error();
  (*copy)->takes.cpu_millicores = launch.cpu_millicores;
  (*copy)->cpu_weight = launch.cpu_weight;
  (*copy)->processes_max = launch.processes_max;
  return {};
}

MigrationProgress SimHypervisor::progress(const VmId& vm) const {
  const auto found = host_.copies.find(vm);
  return found == host_.copies.end() ? MigrationProgress{}
                                     : migrations_.progress(found->second.serial);
}

ObservedVm SimHypervisor::observed(const Copy& copy) const {
  ObservedVm seen;
  seen.vm = copy.vm;
  seen.epoch = copy.epoch;
  seen.incoming = copy.state == CopyState::incoming;
  seen.postmigrate = copy.state == CopyState::postmigrate;
  seen.power = copy.state == CopyState::running    ? VmPower::running
               : copy.state == CopyState::starting ? VmPower::starting
                                                   : VmPower::paused;
  if (copy.panicked) seen.power = VmPower::paused;  // as QEMU's -action panic=pause
  if (copy.stopping) seen.power = VmPower::stopping;
  const Instant now = world_.loop().now();
  const bool booted = copy.answers_at != Instant{} && copy.answers_at <= now;
  if (booted) {
    const Instant last = copy.guest_hung ? copy.hung_at : now;
    seen.heartbeat_age_ms = now - last;
    seen.health = seen.heartbeat_age_ms < kNoHeartbeat ? VmHealth::healthy : VmHealth::no_heartbeat;
  }
  if (!copy.trouble.empty()) {
    seen.health = VmHealth::failing;
    seen.health_reason = copy.trouble;
  }
  seen.cpu_millicores_used = {copy.takes.cpu_millicores.value / 10};
  seen.memory_mib_used = copy.takes.memory_mib;
  seen.cpu_millicores_max = copy.takes.cpu_millicores;
  seen.cpu_weight = copy.cpu_weight;
  seen.processes_max = copy.processes_max;
  const auto inspected = inspected_.find(copy.serial);
  seen.isolation_checked = inspected != inspected_.end();
  if (seen.isolation_checked) seen.isolation_breach = inspected->second;
  for (const auto& [volume, size] : copy.disk_sizes) {
    ObservedDisk& disk = seen.disks.emplace_back(ObservedDisk{volume, size});
    const DiskTruth& used = copy.volumes.at(volume);
    const auto equal = copy.equal_places.find(volume);
    if (equal != copy.equal_places.end()) disk.copied_to = equal->second.to.device;
    for (const VolumeEndpoint& leg : used.legs) disk.legs.push_back(leg.device);
    if (used.mirrored && copy.state == CopyState::running)
      disk.failing = world_.failing_legs(host_, used);
  }
  return seen;
}

std::vector<ObservedVm> SimHypervisor::observe() const {
  std::vector<ObservedVm> all;
  all.reserve(host_.copies.size());
  for (const auto& [vm, copy] : host_.copies) all.push_back(observed(copy));
  return all;
}

/// A tenth of what it may have, and a page a second to disk and network.
VmUsage SimHypervisor::used(const Copy& copy) const {
  constexpr std::int64_t kPage = 4096;
  VmUsage usage;
  usage.vm = copy.vm;
  usage.epoch = copy.epoch;
  usage.age_ms = world_.loop().now() - copy.born;
  usage.cpus = copy.cpus;
  usage.memory_mib = copy.takes.memory_mib;
  usage.run_ms = copy.run_time(world_.loop().now());
  usage.cpu_ms = usage.run_ms * copy.takes.cpu_millicores.value / 10'000;
  usage.memory_mib_used = copy.takes.memory_mib;
  usage.disk_writes = to_ms(usage.run_ms) / 1'000;
  usage.disk_written_bytes = usage.net_sent_bytes = usage.disk_writes * kPage;
  return usage;
}

std::vector<VmUsage> SimHypervisor::usage() const {
  std::vector<VmUsage> all;
  for (const auto& [usage, since] : ended_) {
    all.push_back(usage);
    all.back().age_ms += world_.loop().now() - since;
  }
  for (const auto& [vm, copy] : host_.copies) all.push_back(used(copy));
  return all;
}

void SimHypervisor::forget_usage(const VmId& vm, const Epoch& epoch) {
  std::erase_if(ended_,
                [&](const auto& one) { return one.first.vm == vm && one.first.epoch == epoch; });
}

Result<std::string> SimHypervisor::console_tail(const VmId& vm, std::size_t bytes_max) const {
  if (host_.copies.count(vm) == 0) {
    return make_error(Errc::not_found, on_host("read console of", vm, host_) + ": not here");
  }
  return ("console of " + vm.value + "\n").substr(0, bytes_max);
}

void SimHypervisor::copy_changed(const Copy& copy, bool ended) {
  if (sink_ == nullptr) return;
  ObservedVm seen = observed(copy);
  if (ended) {
    inspected_.erase(copy.serial);
    seen.power = VmPower::stopped;
    if (ended_.size() == kEndedUsagesMax) ended_.erase(ended_.begin());
    ended_.emplace_back(used(copy), world_.loop().now());
    ended_.back().first.ended = true;
  }
  agent_.post([this, seen = std::move(seen), why = copy.trouble] { sink_->vm_changed(seen, why); });
}

}  // namespace virga::sim
