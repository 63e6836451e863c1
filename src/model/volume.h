#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/reflect.h"
#include "base/units.h"
#include "model/meta.h"

namespace virga {

struct DeviceSpec {
  HostId host;            ///< whose agent serves it; never changes
  std::string directory;  ///< absolute, on that host; never changes
  Mib capacity_mib;  ///< of volumes that it may hold, as consumers see them; more than it has = they are promised more
  std::string storage_class = "standard";  ///< volumes ask for a class, not for a device
  /// Of each copy from it or to it, each second; a copy that goes on keeps the rate it began with.
  Mib copy_mib_per_second_max{100};
  bool lost = false;  ///< does not come back, an operator says: what lies there alone is gone; stays so
};
BOOST_DESCRIBE_STRUCT(DeviceSpec, (),
                      (host, directory, capacity_mib, storage_class, copy_mib_per_second_max, lost))

/// DeviceStatus::reason while its agent opens it.
inline constexpr std::string_view kDeviceBeingOpened = "is being opened";

/// How much room is left below a device, whatever was promised of it.
enum class DeviceRoom {
  unknown,  ///< its agent does not say
  ample,
  low,   ///< less than a tenth
  none,  ///< less than a hundredth: writes to new places fail, or will soon
};
BOOST_DESCRIBE_ENUM(DeviceRoom, unknown, ample, low, none)

struct DeviceStatus {
  bool available = false;  ///< its agent serves it now
  std::string reason;      ///< why not
  DeviceRoom room = DeviceRoom::unknown;
  Mib free_mib;  ///< really free below it, if `room` is known; follows with steps of a hundredth
};
BOOST_DESCRIBE_STRUCT(DeviceStatus, (), (available, reason, room, free_mib))

/// A part of a host's storage that holds volumes and serves them to any host.
struct Device {
  Meta meta;
  DeviceSpec spec;
  DeviceStatus status;

  DeviceId id() const { return DeviceId(meta.name); }
};
BOOST_DESCRIBE_STRUCT(Device, (), (meta, spec, status))

struct VolumeSpec {
  ClusterId cluster;
  Mib size_mib;                            ///< grows, never shrinks
  std::string storage_class = "standard";  ///< never changes
  DeviceId device;  ///< where it shall be; empty = the server picks, and it stays there
  std::string source{};   ///< a volume of the tenant: it begins with what that holds at one moment; never changes
  bool snapshot = false;  ///< stays as it is: no VM has it as a disk, volumes are made from it; never changes
  ImageId image{};        ///< it begins with this image's disk; never changes
  bool mirrored = false;  ///< in two places, on devices of different hosts; never changes
  bool local = false;     ///< on a device of the host that runs its VM: it follows that
  /// Where it may lie and its guest may run, at most 16; empty = wherever its tenant's may.
  std::vector<std::string> regions{};
};
BOOST_DESCRIBE_STRUCT(VolumeSpec, (),
                      (cluster, size_mib, storage_class, device, source, snapshot, image, mirrored,
                       local, regions))

enum class LegState {
  creating,  ///< its place is reserved; the device has not said yet that it is there
  in_sync,   ///< holds all that was ever acknowledged
  behind,    ///< is there and does not hold all: nobody reads it
  leaving,   ///< not wanted any more; it is erased
};
BOOST_DESCRIBE_ENUM(LegState, creating, in_sync, behind, leaving)

/// One copy of a volume's data on one device.
struct VolumeLeg {
  DeviceId device;
  LegState state = LegState::creating;
};
BOOST_DESCRIBE_STRUCT(VolumeLeg, (), (device, state))

struct VolumeStatus {
  /// Empty until a device was chosen. The first is what consumers use; beside it one to which it moves, or the second
  /// place of a mirrored one: those that are in sync, which come first, hold the same and are all written.
  std::vector<VolumeLeg> legs;
  Epoch floor;   ///< attachments up to this epoch, of an earlier volume of the name, are refused
  Mib size_mib;  ///< as consumers see it now
  std::string reason;  ///< why it is not there, not larger or not gone although it should
  std::optional<WallTime> taken_at{};  ///< a copy: the moment of its source that it began with
};
BOOST_DESCRIBE_STRUCT(VolumeStatus, (), (legs, floor, size_mib, reason, taken_at))

/// A disk of its own: it outlives VMs and hosts, and one VM at a time may use it.
struct Volume {
  Meta meta;
  VolumeSpec spec;
  VolumeStatus status;

  VolumeId id() const { return VolumeId(qualified(meta.tenant, meta.name)); }

  /// Its data are on a device and can be attached.
  bool ready() const {
    return !status.legs.empty() && status.legs.front().state == LegState::in_sync;
  }

  /// It has, or still has, a place beside that in use which is to take over from it.
  bool moving() const { return !spec.mirrored && status.legs.size() > 1; }

  /// The places that consumers use, in their order; of one that is not mirrored at most the first.
  std::vector<DeviceId> in_use() const;
};

/// What is believed of a leg from now on. Legs in sync come first; else the order stays. False when there is none on
/// the device.
bool set_leg(VolumeStatus& status, const DeviceId& device, LegState state);
BOOST_DESCRIBE_STRUCT(Volume, (), (meta, spec, status))

// Read and written in one translation unit (model/json.cc): reflection is dear to compile.
extern template json::value to_json<Device>(const Device&);
extern template Result<Device> from_json<Device>(const json::value&, UnknownFields);
extern template json::value to_json<Volume>(const Volume&);
extern template Result<Volume> from_json<Volume>(const json::value&, UnknownFields);

}  // namespace virga
