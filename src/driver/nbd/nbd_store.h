#pragma once

#include "driver/nbd/storage_daemon.h"
#include "driver/volumes/recorded_store.h"

namespace virga {

/// Volumes as raw sparse files of one folder, each served by a qemu-storage-daemon of its own over NBD with TLS-PSK:
/// own port, own keys, own process to kill. Servers outlive this object. Loop thread only.
/// Source: QEMU 7.2, docs/tools/qemu-storage-daemon.rst, qapi/block-export.json.
class NbdStore : public RecordedStore {
 public:
  NbdStore(AsioLoop& loop, NbdOptions options);
};

}  // namespace virga
