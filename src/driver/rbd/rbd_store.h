#pragma once

#include <string>

#include "driver/volumes/recorded_store.h"

namespace virga {

struct RbdOptions {
  std::string rbd = "/usr/bin/rbd";
  std::string configuration;  ///< absolute path of a ceph.conf that names monitors and keyring
  std::string client = "client.admin";  ///< may make images, users and entries of the blocklist
  std::string pool = "rbd";
  std::string monitors;   ///< that consumers reach: ADDRESS:PORT, a comma between
  std::string directory;  ///< of the records: one folder a volume
};

/// Volumes as images of a Ceph pool. Each has a namespace of its own, each attachment a user of its own that may use
/// that namespace and nothing else of the cluster. Consumers speak to Ceph directly.
///
/// To revoke: the user is removed, its clients are looked for among the image's watchers and lock owners and the
/// monitors' sessions, and put on Ceph's blocklist, which outlives them. Only a client that was found and cut is proof:
/// one that nobody sees may have ended, or be cut off and come back with a ticket it has (for an hour); revoke() is
/// then unavailable, and release() is for who knows of its end. A write of a cut client that is on its way is ordered
/// before the next consumer's first request to the same placement group, which brings the newer map with it.
/// Used bytes are looked up every minute. Loop thread only. Cost: a revocation takes 1.5 s, most of it until Ceph has
/// a new map. Needs the program rbd and Ceph's library.
/// Source: Ceph 16.2, doc/rbd/rbd-exclusive-locks.rst, doc/rados/operations/user-management.rst.
class RbdStore : public RecordedStore {
 public:
  RbdStore(AsioLoop& loop, RbdOptions options);
};

}  // namespace virga
