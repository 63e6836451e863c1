#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "driver/qemu/hardware.h"
#include "driver/qemu/vm.h"

/// A disk that moves to another volume under a running guest. The mirror's record is on the disk before QEMU hears of
/// it and goes when the guest runs on one of the two places.
namespace virga {
namespace {

std::size_t disk_of(const VmLaunch& launch, const std::string& volume) {
  const auto found = std::ranges::find(launch.disks, volume, &LaunchDisk::volume);
  return static_cast<std::size_t>(found - launch.disks.begin());
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
Result<void> QemuVm::may_mirror(const std::string& volume) const {
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

void QemuVm::mirror_disk(const DiskMirror& wanted, Callback<MigrationProgress> done) {
  const auto refuse = [this, &done](const Error& why) {
    context_.loop.post([done = std::move(done), why] { done(why); });
  };
  if (const auto may = may_mirror(wanted.volume); !may) return refuse(may.error());
  const std::size_t disk = disk_of(launch_, wanted.volume);
  const auto& known = process_.record().mirror;
  if (known && known->to.export_name != wanted.to.export_name) {
    return refuse(mirror_error(wanted.volume, Errc::conflict, "is on its way to another place"));
  }
  LaunchDisk target = launch_.disks[disk];
  target.endpoint = wanted.to;
  auto keys = write_volume_keys(process_.folder(), disk, target, process_.record().user);
  if (!keys) return refuse(keys.error());
  if (!known) {
    const auto& turned = process_.record().turned;
    const bool second = std::ranges::find(turned, static_cast<int>(disk)) != turned.end();
    const std::string from = fmt::format("disk{}{}", disk, second ? "-b" : "");
    const MirrorRecord record{wanted.volume, fmt::format("disk{}-device", disk), from,
                              other_node(from, disk), wanted.to};
    if (auto noted = process_.note_mirror(record); !noted) return refuse(noted.error());
  }
  mirroring().copy(std::make_shared<Descriptor>(std::move(*keys)), wanted,
                   [this, weak = weak_from_this(), volume = wanted.volume,
                    done = std::move(done)](Result<MigrationProgress> copied) {
                     const auto self = weak.lock();
                     if (copied) return done(std::move(copied));
                     const Error& why = copied.error();
                     if (self != nullptr && may_forget_mirror(why)) forget_mirror();
                     done(mirror_error(volume, why.code, why.text()));
                   });
}

/// False when nobody knows what QEMU makes of it, or somebody else sees to it.
bool QemuVm::may_forget_mirror(const Error& why) const {
  return process_.qmp() != nullptr && why.code != Errc::cancelled && stage_ == Stage::ready;
}

DiskMirroring& QemuVm::mirroring() {
  if (mirroring_ == nullptr) {
    mirroring_ =
        std::make_unique<DiskMirroring>(context_, *process_.qmp(), *process_.record().mirror);
  }
  return *mirroring_;
}

void QemuVm::forget_mirror() {
  mirroring_.reset();
  const auto noted = process_.note_mirror(std::nullopt);
  if (!noted) log_line(LogLevel::warning, "qemu", noted.error().text(), launch_.correlation);
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
  (mirroring().*how)([this, weak = weak_from_this(), volume, then = std::move(then),
                      done = std::move(done)](const Result<void>& ended) {
    const auto self = weak.lock();
    if (self == nullptr || !ended) {
      return done(ended ? ended
                        : Result<void>(make_error(ended.error().code, ended.error().text())));
    }
    then();
    forget_mirror();
    done({});
  });
}

}  // namespace virga
