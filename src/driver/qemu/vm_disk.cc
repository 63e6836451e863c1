#include <fmt/format.h>

#include <algorithm>

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
    qmp::add_volume(growth.client, growth.to, nbd_of(growth.at), growth.keys->get(), then(use));
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
  const std::string device = device_of(disk);
  const auto found = [this, weak = weak_from_this(), wanted, disk, device,
                      done](const Result<qmp::DiskNode>& node) {
    const auto self = weak.lock();
    if (self == nullptr || !node) {
      return done(node ? make_error(Errc::unavailable, "its process has ended") : node.error());
    }
    const MirrorRecord record{wanted.volume, device, node->name, other_node(node->name, disk),
                              wanted.to};
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
  if (!may || mirror || !launch_.disks[disk].endpoint) {
    const Error why =
        may ? mirror_error(volume, Errc::conflict, "is being moved, or is a file") : may.error();
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

/// What the guest knows of its volumes' sizes; told with every report.
void QemuVm::learn_disks() {
  for (std::size_t disk = 0; disk < launch_.disks.size(); ++disk) {
    if (launch_.disks[disk].volume.empty() || process_.qmp() == nullptr) continue;
    qmp::query_disk(*process_.qmp(), device_of(disk),
                    [this, weak = weak_from_this(),
                     id = VolumeId(launch_.disks[disk].volume)](const Result<qmp::DiskNode>& node) {
                      if (weak.lock() == nullptr || !node) return;
                      disk_sizes_[id] = Mib{node->size.value >> 20};
                    });
  }
}

DiskMirroring& QemuVm::mirroring() {
  if (mirroring_ == nullptr) {
    mirroring_ =
        std::make_unique<DiskMirroring>(context_, *process_.qmp(), *process_.record().mirror);
  }
  return *mirroring_;
}

void QemuVm::switch_disk(const std::string& volume, Callback<void> done) {
  end_mirror(
      volume, &DiskMirroring::finish,
      [this, volume] {
        const MirrorRecord& mirror = *process_.record().mirror;
        const std::size_t disk = disk_of(launch_, volume);
        launch_.disks[disk].endpoint = mirror.to;
        process_.turn_disk(disk, mirror.to);
        changed("disk " + launch_.disks[disk].name + " is on its new place");
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
