#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/reflect.h"
#include "base/units.h"
#include "model/meta.h"

namespace virga {

/// What a device really holds of one volume.
struct ObservedVolume {
  VolumeId volume;
  Mib size_mib;               ///< as the consumer sees it
  Bytes used_bytes;           ///< on the device
  Epoch revoked;              ///< attachments up to this epoch are over for ever
  Epoch floor;                ///< what was revoked when it was made: with the name it says which volume this is
  std::vector<Epoch> epochs;  ///< attached, in order
  bool served = false;        ///< consumers get answers now
  VolumeId source{};          ///< not whole yet: it is being copied from this one; empty = it is whole
  std::optional<WallTime> taken_at{};  ///< of a copy: the moment of its source that it holds
  std::string failing{};               ///< why copying or filling does not go on
  std::string image{};                 ///< not whole yet: it is being filled from this file; empty = it is whole

  bool whole() const { return source.empty() && image.empty(); }
};
BOOST_DESCRIBE_STRUCT(ObservedVolume, (),
                      (volume, size_mib, used_bytes, revoked, floor, epochs, served, source,
                       taken_at, failing, image))

/// Of what lies below a device: its file system, or a pool.
struct RealSpace {
  Bytes size;  ///< 0 = not known
  Bytes free;
};
BOOST_DESCRIBE_STRUCT(RealSpace, (), (size, free))

/// One device of a host, as its agent last knew it.
struct ObservedDevice {
  DeviceId device;
  std::string directory;  ///< that is served
  bool open = false;    ///< its volumes are served
  std::string failing;  ///< why it is not open; empty = it is, or is about to be
  std::vector<ObservedVolume> volumes;
  bool copies = false;  ///< it can copy its volumes
  RealSpace space{};
  bool images = false;  ///< it can fill its volumes from images
  Mib copy_mib_per_second_max{};  ///< in force for copies that begin; 0 = its agent knows of none
};
BOOST_DESCRIBE_STRUCT(ObservedDevice, (),
                      (device, directory, open, failing, volumes, copies, space, images,
                       copy_mib_per_second_max))

}  // namespace virga
