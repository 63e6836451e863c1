#pragma once

#include <string>

#include "base/reflect.h"
#include "model/launch.h"

namespace virga {

/// A mirror that has begun and is not over; stands on this host's disk before QEMU hears of it.
struct MirrorRecord {
  std::string volume;
  std::string device;  ///< id of the disk's device
  std::string from;    ///< block node that it uses
  std::string target;  ///< block node of the new place
  VolumeEndpoint to;
  bool joins = false;  ///< the volume is mirrored: it goes on in both places
};
BOOST_DESCRIBE_STRUCT(MirrorRecord, (), (volume, device, from, target, to, joins))

/// A mirrored disk that is being put on one place, guest paused; stands there likewise.
struct LegRecord {
  std::string volume;
  DeviceId device;
};
BOOST_DESCRIBE_STRUCT(LegRecord, (), (volume, device))

}  // namespace virga
