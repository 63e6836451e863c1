#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "driver/qemu/disk_legs.h"
#include "driver/qemu/hardware.h"
#include "driver/qemu/vm.h"

/// A disk that moves to another volume under a running guest, or grows. The mirror's record is on
/// the disk before QEMU hears of it and goes when the guest runs on one of the two places.
namespace virga {
namespace {

std::size_t disk_of(const VmLaunch& launch, const std::string& volume) {
  const auto found = std::ranges::find(launch.disks, volume, &LaunchDisk::volume);
  return static_cast<std::size_t>(found - launch.disks.begin());
}

std::string device_of(std::size_t disk) { return fmt::format("disk{}-device", disk); }

/// A node of a volume that replaces another one of it.
struct DiskGrowth {
  QmpClient& client;
  std::string device;
  VolumeEndpoint at;
  std::shared_ptr<Descriptor> keys;
  std::string from;
  std::string to;
};

/// A disk in two places that goes on in one of them.
struct LegChoice {
  QmpClient& client;
  LegNodes nodes;
  std::string kept;
  std::string other;
  bool again = false;  ///< it may be this that has paused the guest
};

void go_on_alone(const LegChoice& choice, const Callback<void>& done) {
  QmpClient& client = choice.client;
  const auto then = [done](std::function<void()> next) {
    return [done, next = std::move(next)](const Result<void>& result) {
      result ? next() : done(result);
    };
  };
  // The node that is left over is removed by whoever wants its name again, at the latest.
  const auto let_go = [&client, choice, done, then](bool waits) {
    const auto remove = [&client, other = choice.other, done] {
      qmp::remove_volume(client, other, [done](const Result<void>&) { done({}); });
    };
    waits ? qmp::resume(client, then(remove)) : remove();
  };
  const auto turn = [&client, choice, then, let_go](bool waits) {
    put_on_leg(client, choice.nodes, choice.kept, then([let_go, waits] { let_go(waits); }));
  };
  // A guest that something else has paused stays so.
  const auto stop = [&client, then, turn, again = choice.again,
                     done](const Result<qmp::RunState>& state) {
    if (!state) return done(state.error());
    const bool waits = *state == qmp::RunState::running || *state == qmp::RunState::io_error ||
                       (again && *state == qmp::RunState::paused);
    qmp::pause(client, then([turn, waits] { turn(waits); }));
  };
  qmp::yank_volume(client, choice.other, [&client, stop](const Result<void>&) {
    qmp::query_status(client, stop);
  });
}

void show_size(const DiskGrowth& growth, const Callback<void>& done) {
  const auto then = [done](std::function<void()> next) {
    return [done, next = std::move(next)](const Result<void>& result) {
      result ? next() : done(result);
    };
  };
  const auto drop = [growth, done] { qmp::remove_volume(growth.client, growth.from, done); };
  const auto resize = [growth, done, then, drop] {
    qmp::query_disk(growth.client, growth.device,
                    [growth, done, then, drop](const Result<qmp::DiskNode>& node) {
                      if (!node) return done(node.error());
                      qmp::grow_node(growth.client, growth.to, node->size, then(drop));
                    });
  };
  const auto use = [growth, then, resize] {
    qmp::use_node(growth.client, growth.device, growth.to, then(resize));
  };
  const auto add = [growth, then, use] {
    qmp::add_volume(growth.client, growth.to, nbd_of(growth.at, false), growth.keys->get(),
                    then(use));
  };
  qmp::remove_volume(growth.client, growth.to, then(add));
}

/// The two names that a disk's node has, by turns.
std::string other_node(const std::string& node, std::size_t disk) {
  const std::string first = fmt::format("disk{}", disk);
  return node == first ? first + "-b" : first;
}

}  // namespace

Error QemuVm::mirror_error(const std::string& volume, Errc code, const std::string& why) const {
  return make_error(code, fmt::format("move disk {} of {}: {}", volume, launch_.vm.value, why));
}

/// What stands in the way of a new mirror; a guest that waits on its new disk is paused by it.
Result<void> QemuVm::may_mirror(const std::string& volume) {
  const auto& known = process_.record().mirror;
  const std::size_t disk = disk_of(launch_, volume);
  if (disk == launch_.disks.size())
    return mirror_error(volume, Errc::not_found, "has no such disk");
  if (known && known->volume != volume) {
    return mirror_error(volume, Errc::conflict, "the move of " + known->volume + " is not over");
  }
  const bool runs = power_ == VmPower::running || (known && power_ == VmPower::paused);
  if (!runs || stage_ != Stage::ready || is_moving()) {
    return mirror_error(volume, Errc::conflict, "its guest does not run, or is being moved");
  }
  if (keeping_leg_ || process_.record().kept_leg) {
    return mirror_error(volume, Errc::conflict, "a disk is put on one place");
  }
  if (process_.qmp() == nullptr) {
    return mirror_error(volume, Errc::unavailable, "QEMU does not answer");
  }
  return {};
}

Result<std::shared_ptr<Descriptor>> QemuVm::keys_for(std::size_t disk, const VolumeEndpoint& at) {
  LaunchDisk volume = launch_.disks[disk];
  volume.endpoint = at;
  auto keys = write_volume_keys(process_.folder(), disk, volume, process_.record().user);
  if (!keys) return keys.error();
  return std::make_shared<Descriptor>(std::move(*keys));
}

void QemuVm::mirror_disk(const DiskMirror& wanted, Callback<MigrationProgress> done) {
  const auto refuse = [this, done](const Error& why) {
    context_.loop.post([done, why] { done(why); });
  };
  if (const auto may = may_mirror(wanted.volume); !may) return refuse(may.error());
  const auto& known = process_.record().mirror;
  if (known && known->to.export_name != wanted.to.export_name) {
    return refuse(mirror_error(wanted.volume, Errc::conflict, "is on its way to another place"));
  }
  if (known) return copy_disk(wanted, done);
  const std::size_t disk = disk_of(launch_, wanted.volume);
  const auto& now = launch_.disks[disk].endpoint;
  if (!wanted.joins && now && now->device == wanted.to.device) {
    return refuse(mirror_error(wanted.volume, Errc::conflict,
                               "it is on " + now->device.value + " already"));
  }
  const std::string device = device_of(disk);
  const auto found = [this, weak = weak_from_this(), wanted, disk, device,
                      done](const Result<qmp::DiskNode>& node) {
    const auto self = weak.lock();
    if (self == nullptr || !node) {
      return done(node ? make_error(Errc::unavailable, "its process has ended") : node.error());
    }
    if (wanted.joins && node->name == leg_nodes(disk).both) {
      return done(mirror_error(wanted.volume, Errc::conflict, "it is in two places already"));
    }
    const std::string target =
        wanted.joins ? leg_node(disk, wanted.to.device) : other_node(node->name, disk);
    const MirrorRecord record{wanted.volume, device, node->name, target, wanted.to, wanted.joins};
    if (const auto may = may_mirror(wanted.volume); !may) return done(may.error());
    if (auto noted = process_.note_mirror(record); !noted) return done(noted.error());
    copy_disk(wanted, done);
  };
  qmp::query_disk(*process_.qmp(), device, found);
}

void QemuVm::copy_disk(const DiskMirror& wanted, const Callback<MigrationProgress>& done) {
  auto keys = keys_for(disk_of(launch_, wanted.volume), wanted.to);
  if (!keys) return done(keys.error());
  // What failed stays on record until cancel_mirror() has seen that the guest runs where it was.
  mirroring().copy(std::move(*keys), wanted,
                   [volume = wanted.volume, done](Result<MigrationProgress> copied) {
                     if (copied) return done(std::move(copied));
                     done(wrap_error("move disk " + volume, copied.error()));
                   });
}

/// Another node of the same volume takes the place of the one that cannot grow.
void QemuVm::grow_disk(const std::string& volume, Callback<void> done) {
  const auto may = may_mirror(volume);
  const auto& mirror = process_.record().mirror;
  const std::size_t disk = disk_of(launch_, volume);
  const bool grows = may && !mirror && launch_.disks[disk].endpoint;
  if (!grows || launch_.disks[disk].mirrored) {
    const Error why =
        may ? mirror_error(volume, Errc::conflict, "is being moved, is mirrored, or is a file")
            : may.error();
    return context_.loop.post([done = std::move(done), why] { done(why); });
  }
  auto keys = keys_for(disk, *launch_.disks[disk].endpoint);
  if (!keys) return context_.loop.post([done, why = keys.error()] { done(why); });
  DiskGrowth growth{
      *process_.qmp(), device_of(disk), *launch_.disks[disk].endpoint, std::move(*keys), {}, {}};
  const auto grown = [this, weak = weak_from_this(), done](const Result<void>& result) {
    if (weak.lock() != nullptr) learn_disks();
    done(result);
  };
  qmp::query_disk(*process_.qmp(), growth.device,
                  [growth, disk, grown](const Result<qmp::DiskNode>& node) mutable {
                    if (!node) return grown(node.error());
                    growth.from = node->name;
                    growth.to = other_node(node->name, disk);
                    show_size(growth, grown);
                  });
}

/// What stands in the way of putting a mirrored disk on one place.
Result<void> QemuVm::may_keep_leg(std::size_t disk, const DeviceId& device) {
  const auto refuse = [&](Errc code, const std::string& why) {
    return make_error(code, fmt::format("put a disk of {} on {}: {}", launch_.vm.value,
                                        device.value, why));
  };
  if (disk == launch_.disks.size()) return refuse(Errc::not_found, "it has no such disk");
  const LaunchDisk& known = launch_.disks[disk];
  const auto is_there = [&](const std::optional<VolumeEndpoint>& place) {
    return place && place->device == device;
  };
  if (!known.mirrored || (!is_there(known.endpoint) && !is_there(known.second))) {
    return refuse(Errc::not_found, "it does not write there");
  }
  if (keeping_leg_ || process_.record().mirror || stage_ != Stage::ready || incoming_ ||
      is_moving()) {
    return refuse(Errc::conflict, "it is being moved, or is put on a place already");
  }
  if (process_.qmp() == nullptr) return refuse(Errc::unavailable, "QEMU does not answer");
  return {};
}

/// The place that is given up may hang: its connection is broken first, or QEMU would wait for it
/// with all else.
void QemuVm::keep_leg(const std::string& volume, const DeviceId& device, Callback<void> done) {
  const std::size_t disk = disk_of(launch_, volume);
  if (const auto may = may_keep_leg(disk, device); !may) {
    return context_.loop.post([done = std::move(done), why = may.error()] { done(why); });
  }
  const LaunchDisk& known = launch_.disks[disk];
  if (!known.second) {
    const auto cleared = process_.record().kept_leg ? process_.note_kept_leg(std::nullopt)
                                                    : Result<void>();
    return context_.loop.post([done = std::move(done), cleared] { done(cleared); });
  }
  const bool keeps_first = known.endpoint->device == device;
  const VolumeEndpoint& other = keeps_first ? *known.second : *known.endpoint;
  const bool again = process_.record().kept_leg.has_value();
  if (auto noted = process_.note_kept_leg(LegRecord{volume, device}); !noted) {
    return context_.loop.post([done = std::move(done), noted] { done(noted); });
  }
  keeping_leg_ = true;
  const LegChoice choice{*process_.qmp(), leg_nodes(disk), leg_node(disk, device),
                         leg_node(disk, other.device), again};
  go_on_alone(choice, [this, weak = weak_from_this(), volume, disk, keeps_first,
                       done = std::move(done)](const Result<void>& alone) {
    const auto self = weak.lock();
    if (self == nullptr) return done(make_error(Errc::unavailable, "its process has ended"));
    keeping_leg_ = false;
    if (!alone) return done(alone);
    LaunchDisk& turned = launch_.disks[disk];
    if (!keeps_first) turned.endpoint = turned.second;
    turned.second.reset();
    failing_legs_.erase(VolumeId(volume));
    process_.turn_disk(turned);
    changed("disk " + turned.name + " goes on in one place");
    done(process_.note_kept_leg(std::nullopt));
  });
}

/// What the agent before this one did not come to end has left its guest paused.
void QemuVm::keep_leg_again() {
  const auto& left = process_.record().kept_leg;
  if (!left || keeping_leg_) return;
  keep_leg(left->volume, left->device, [](const Result<void>& kept) {
    if (!kept) log_line(LogLevel::warning, "qemu", kept.error().text());
  });
}

/// A place that did not take what was written to it, as QEMU names its node.
void QemuVm::leg_failed(const std::string& node) {
  for (std::size_t index = 0; index < launch_.disks.size(); ++index) {
    const LaunchDisk& disk = launch_.disks[index];
    if (!disk.mirrored || !disk.second) continue;
    for (const auto& place : {disk.endpoint, disk.second}) {
      if (leg_node(index, place->device) != node) continue;
      if (!failing_legs_[VolumeId(disk.volume)].insert(place->device).second) continue;
      changed(fmt::format("disk {}: its place on {} does not take what is written", disk.name,
                          place->device.value));
    }
  }
}

/// What the guest knows of its volumes' sizes; told with every report.
void QemuVm::learn_disks() {
  for (std::size_t disk = 0; disk < launch_.disks.size(); ++disk) {
    if (launch_.disks[disk].volume.empty() || process_.qmp() == nullptr) continue;
    qmp::query_disk(
        *process_.qmp(), device_of(disk),
        [this, weak = weak_from_this(),
         id = VolumeId(launch_.disks[disk].volume)](const Result<qmp::DiskNode>& node) {
          if (weak.lock() == nullptr || !node) return;
          disk_sizes_[id] = Mib{node->size.value >> 20};
        });
  }
}

DiskMirroring& QemuVm::mirroring() {
  if (mirroring_ == nullptr) {
    const MirrorRecord& record = *process_.record().mirror;
    mirroring_ = std::make_unique<DiskMirroring>(context_, *process_.qmp(), record,
                                                 leg_nodes(disk_of(launch_, record.volume)));
  }
  return *mirroring_;
}

void QemuVm::switch_disk(const std::string& volume, Callback<void> done) {
  end_mirror(
      volume, &DiskMirroring::finish,
      [this, volume] {
        const MirrorRecord& mirror = *process_.record().mirror;
        LaunchDisk& disk = launch_.disks[disk_of(launch_, volume)];
        (mirror.joins ? disk.second : disk.endpoint) = mirror.to;
        process_.turn_disk(disk);
        failing_legs_.erase(VolumeId(volume));
        changed("disk " + disk.name + " is on its new place");
      },
      std::move(done));
}

void QemuVm::cancel_mirror(const std::string& volume, Callback<void> done) {
  end_mirror(
      volume, &DiskMirroring::go_back, [] {}, std::move(done));
}

void QemuVm::end_mirror(const std::string& volume, void (DiskMirroring::*how)(Callback<void>),
                        Task then, Callback<void> done) {
  const auto& known = process_.record().mirror;
  if (!known || known->volume != volume) {
    return context_.loop.post([done = std::move(done)] { done({}); });
  }
  if (process_.qmp() == nullptr) {
    return context_.loop.post(
        [done = std::move(done),
         why = mirror_error(volume, Errc::unavailable, "QEMU does not answer")] { done(why); });
  }
  (mirroring().*how)([this, weak = weak_from_this(), then = std::move(then),
                      done = std::move(done)](const Result<void>& ended) {
    const auto self = weak.lock();
    if (self == nullptr || !ended) return done(ended);
    then();
    mirroring_.reset();
    done(process_.note_mirror(std::nullopt));  // one that is not written is asked for again
  });
}

}  // namespace virga
