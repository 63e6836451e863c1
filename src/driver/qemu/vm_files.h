#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "driver/qemu/hardware.h"
#include "driver/qemu/mirror_record.h"
#include "edge/process.h"
#include "image/image_checks.h"
#include "model/launch.h"

namespace virga {

/// Names in a VM's own folder on its host: `<run>/<tenant>/<vm>/`. QEMU itself opens none of them.
struct VmFolder {
  std::string path;

  std::string record() const { return path + "/launch.json"; }
  std::string epoch() const { return path + "/epoch.json"; }
  std::string qmp() const { return path + "/qmp.sock"; }
  std::string heartbeat() const { return path + "/heartbeat.sock"; }
  std::string guest_agent() const { return path + "/guest-agent.sock"; }
  std::string console() const { return path + "/console.log"; }
  std::string log() const { return path + "/qemu.log"; }
  std::string meter() const { return path + "/meter.json"; }
  std::string keys(std::size_t disk) const { return path + "/keys-" + std::to_string(disk); }
};

/// Errors: invalid (an id that is not two names).
Result<VmFolder> vm_folder(const std::string& run_directory, const VmId& vm);

/// What a restarted agent needs to find a VM again.
struct LaunchRecord {
  VmLaunch launch;
  std::string boot_id;
  std::int64_t pid = 0;
  std::uint64_t start_ticks = 0;
  std::uint32_t user = 0;
  bool incoming = false;  ///< waits for a live migration
  bool ended = false;
  std::optional<MirrorRecord> mirror{};  ///< a disk is on its way to another volume
  std::optional<LegRecord> kept_leg{};
};
BOOST_DESCRIBE_STRUCT(LaunchRecord, (),
                      (launch, boot_id, pid, start_ticks, user, incoming, ended, mirror, kept_leg))

/// The highest epoch that was seen for a VM on this host.
struct EpochRecord {
  Epoch epoch;
  bool used =
      false;  ///< a copy with it has run or was forbidden to: none will be started with it again
};
BOOST_DESCRIBE_STRUCT(EpochRecord, (), (epoch, used))

Result<LaunchRecord> read_launch_record(const VmFolder& folder);
Result<void> write_launch_record(const VmFolder& folder, const LaunchRecord& record);

/// A file that is not there reads as epoch 0. Errors: internal (damaged).
Result<EpochRecord> read_epoch_record(const VmFolder& folder);
Result<void> write_epoch_record(const VmFolder& folder, const EpochRecord& record);

struct OpenDiskFile {
  Descriptor descriptor;
  std::string format;
};

struct OpenHostDevice {
  std::string name;
  Descriptor descriptor;
  bool block = false;  ///< else a character device
};

/// A VM's files on shared storage, open.
struct OpenFiles {
  std::vector<std::vector<OpenDiskFile>>
      disks;  ///< per disk: the file and its backing file; of a volume none
  Descriptor kernel;
  Descriptor initrd;
  Descriptor seed;  ///< read-only ISO 9660
  std::vector<OpenHostDevice> host_devices;
  /// Not empty: the image's files, of which nobody knows that they are right. Nothing else was opened or made: check
  /// these against launch.image, then ask again.
  std::vector<Descriptor> unchecked;
};

struct FileRequest {
  VmLaunch launch;
  std::string shared_directory;
  std::string image_program;  ///< qemu-img
  bool create = true;  ///< make missing disks, write seed and vm.json; else all must be there
  std::map<std::string, std::string> host_devices{};  ///< that this host offers: name to path
  const ImageChecks* image_checks = nullptr;  ///< nullptr: images are taken as they are
};

/// A kernel that is to be booted, and a disk that a new one is based on, are first given back as `unchecked` unless
/// they are known; disks of a VM that has run stand on what was checked when they were made: a recovery reads no whole
/// image. Blocking, at most 15 s of helper programs. Disk formats follow from the names: ".qcow2", all others raw.
/// A block device that the host itself uses, mounted or otherwise, is not taken.
/// Errors: fenced (vm.json tells of a newer epoch), exhausted (no space), not_found (a file is missing, incoming; a
/// host device that is not offered), conflict (a host device is in use), invalid (an image that cannot be used; a path
/// that leaves the shared directory; what is offered is no device).
Result<OpenFiles> open_files(const FileRequest& request);

/// Removes the VM's disks, its configuration and its folder on shared storage; what is not there counts as removed, and
/// what Virga has not made stays. Blocking. Errors: invalid (a path outside of the VM's own folder), internal.
Result<void> erase_files(const std::string& shared_directory, const VmLaunch& launch);

/// What an ordinary user may still write on the file system of a folder. Blocking.
Result<std::int64_t> free_bytes(const std::string& folder);

/// What lets QEMU, which runs as `user` (0 = as this process), in to a volume: a folder with `keys.psk`, open.
/// Errors: invalid (no end point, or of another protocol than NBD).
Result<Descriptor> write_volume_keys(const VmFolder& folder, std::size_t disk,
                                     const LaunchDisk& volume, std::uint32_t user);

/// Where a volume is, without its key; a place of a mirrored one is not awaited for long.
NbdDisk nbd_of(const VolumeEndpoint& at, bool mirrored);

/// Writes the resolved configuration beside the disks, atomically, without what opens volumes. Blocking.
Result<void> write_shared_launch(const std::string& shared_directory, const VmLaunch& launch);

}  // namespace virga
