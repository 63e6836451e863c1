#pragma once

#include <string>

#include "driver/volumes/recorded_store.h"

namespace virga {

struct DirectoryOptions {
  enum class Consumers {
    this_host,    ///< only processes of this machine's kernel open its files: a host's own disks
    other_hosts,  ///< other machines have the directory too, over NFS or the like
  };

  std::string directory;  ///< the device: one folder a volume
  Consumers consumers = Consumers::other_hosts;
  std::string seen_at;  ///< where consumers have `directory`; empty = at the same path
};

/// Volumes as raw sparse files of a directory that consumers open by themselves, under a name that is made for each
/// attachment and removed with it. Nobody stands between: what a consumer has open cannot be taken from it, and locks
/// on files end with the host that held them. So the store cannot revoke. It succeeds when nobody has the volume open,
/// which only this host's kernel can tell, of a directory that no other host has; everything else needs release().
/// Loop thread only. Source: fcntl(2), F_SETLEASE.
class DirectoryStore : public RecordedStore {
 public:
  DirectoryStore(AsioLoop& loop, DirectoryOptions options);
};

}  // namespace virga
