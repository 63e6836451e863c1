#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "model/observed_volume.h"
#include "model/volume.h"

namespace virga {

/// What is known of one device beside what is stored: volatile, held by the leader alone.
struct DeviceEvidence {
  bool host_reports = false;  ///< its host's agent is connected and reports
  bool awaited = false;   ///< not heard since this server leads, which is not long: nobody knows
  bool can_serve = true;  ///< that agent knows storage devices
  bool listed = false;    ///< `seen` is of its last report
  ObservedDevice seen;
  bool resting = false;  ///< a command about the device itself is under way or failed a moment ago
  Duration silence{0};  ///< of its host, as long as that does not report
};

/// Evidence about the storage of one cluster at one moment.
struct StorageEvidence {
  std::map<DeviceId, DeviceEvidence> devices;
  std::vector<std::pair<DeviceId, HostId>>
      strangers;      ///< served by a host that they are not registered with
  bool held = false;  ///< restored from a backup and not yet confirmed: nothing is ended or erased
  std::set<Epoch> strays;  ///< of copies that hosts report now and whose VMs are not stored
  std::set<std::pair<VmId, Epoch>> copies;   ///< of VMs with volumes, that hosts report now
  /// Of mirrored volumes: places that did not take what a guest wrote, by the word of its host.
  std::set<std::pair<VolumeId, DeviceId>> failing_legs;
  /// The places that the copy in force writes to, by the word of its host.
  std::map<VolumeId, std::vector<DeviceId>> written_legs;
  /// Those that copies write to which the store does not know yet, after a restore: of a newer epoch, or of no VM.
  std::set<std::pair<VolumeId, DeviceId>> written_ahead;
  std::set<VolumeId> resting;                ///< a command is under way or failed a moment ago
  std::map<VolumeId, std::string> failures;  ///< of the last command; gone when one succeeds
};

/// The stored state of a device follows what its host says.
struct DeviceChange {
  DeviceId device;
  DeviceStatus status;
};

/// The host's agent shall open the device.
struct ServeDevice {
  DeviceId device;
  HostId host;
  std::string directory;
  Mib copied_per_second;
};

/// A volume gets its place, or a second one where it shall move to.
struct PlaceVolume {
  VolumeId volume;
  DeviceId device;
  Epoch floor;
  std::string reason;
};

enum class VolumeTask { create, copy, grow, revoke, detach, erase };
BOOST_DESCRIBE_ENUM(VolumeTask, create, copy, grow, revoke, detach, erase)

/// Something for a volume's device to do; idempotent, so that it is simply asked for again.
struct VolumeWork {
  VolumeId volume;
  DeviceId device;
  HostId host;
  VolumeTask task = VolumeTask::create;
  Mib size_mib;  ///< create, grow
  Epoch epoch;   ///< create, copy: the floor; revoke: all up to it; detach: this one
  VolumeId source{};  ///< copy
  ImageId image{};    ///< create: it begins with this image's disk
};

/// The stored state of a volume follows what its device says.
struct VolumeChange {
  VolumeId volume;
  LegState state = LegState::creating;
  Mib size_mib;
  std::string reason;
  bool missing = false;  ///< it was there and is not any more
  std::optional<WallTime> taken_at{};
};

/// What becomes of one place of a volume that has several, or that it turns out to have.
struct LegChange {
  VolumeId volume;
  DeviceId device;
  LegState state = LegState::creating;  ///< in_sync: it alone counts from now on
  bool gone = false;                    ///< nothing is left there
  std::string reason{};  ///< why it does not count any more
};

/// The room's decision. At most one action a volume and a device.
struct StoragePlan {
  std::vector<DeviceChange> device_changes;
  std::vector<ServeDevice> serves;
  std::vector<std::pair<DeviceId, HostId>> releases;  ///< hosts shall serve these no more
  std::vector<PlaceVolume> placements;
  std::vector<VolumeWork> work;
  std::vector<VolumeChange> volume_changes;
  std::vector<LegChange> leg_changes;
  std::vector<VolumeId> removals;  ///< nothing of them is left: their records go

  bool empty() const {
    return device_changes.empty() && serves.empty() && releases.empty() && placements.empty() &&
           work.empty() && volume_changes.empty() && leg_changes.empty() && removals.empty();
  }
};

struct StorageOptions {
  int actions_max = 128;  ///< of each kind in one round; the rest waits for the next
  /// A mirrored volume goes on without a place whose host is silent for so long: longer than an agent needs to restart.
  Duration leg_silence_max = seconds(5);
  /// ... and gets another one instead of it after that.
  Duration leg_lost_after = seconds(600);
};

}  // namespace virga
