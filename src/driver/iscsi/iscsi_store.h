#pragma once

#include <string>

#include "base/time.h"
#include "driver/volumes/recorded_store.h"

namespace virga {

struct IscsiOptions {
  std::string program = "/usr/sbin/tgtd";
  std::string admin = "/usr/sbin/tgtadm";
  std::string directory;              ///< the device: one folder a volume; at most 80 characters
  std::string address = "127.0.0.1";  ///< IPv4 that consumers reach
  int port = 3260;                    ///< of the portal
  Duration obey_within =
      seconds(1);  ///< a daemon that does not cut a consumer off in this time is killed
};

/// Volumes as raw sparse files of one folder, for consumers outside that speak iSCSI: one tgtd for the device, on a
/// control socket and a portal of its own. Each attachment is a target of its own with LUN 1 behind CHAP and a list of
/// one initiator's name. An attachment ends when its LUN is gone: tgtd refuses to remove one with a request under way.
/// A daemon that does not obey is killed; consumers of the other volumes find them again at the same place.
/// The daemon outlives this object. Loop thread only.
/// Source: tgt 1.0.85, tgtd(8), tgtadm(8).
class IscsiStore : public RecordedStore {
 public:
  IscsiStore(AsioLoop& loop, IscsiOptions options);
};

}  // namespace virga
