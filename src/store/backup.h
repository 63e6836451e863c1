#pragma once

#include <string>

#include "base/units.h"
#include "store/store.h"

namespace virga {

/// The key whose decimal value counts how often this cloud's store was restored; the server creates it with 1.
inline constexpr const char* kIncarnationKey = "meta/incarnation";

/// Restoring raises the revision by this much for each incarnation that it raises, so that no revision that was handed
/// out after the backup was taken comes again with another meaning. Source: etcdutl snapshot restore --bump-revision,
/// etcd-io/etcd#15381.
inline constexpr Revision kRestoreRevisionStep = 1'000'000'000;

struct BackupInfo {
  int schema = 0;
  Revision revision = 0;
  std::uint64_t incarnation = 0;  ///< 0 = the store never had one
  std::uint64_t keys = 0;
  Bytes bytes;  ///< size of the file
};

/// Reads a backup whole and says what is in it. The file is not changed. Blocks; cost: linear in its size.
/// Errors: not_found, invalid (not a store), unsupported (newer schema), internal (damaged: what and where).
Result<BackupInfo> verify_backup(const std::string& path);

/// Makes the store's file `to` from a backup that passes verify_backup: brings its schema up to date, raises
/// meta/incarnation above its own and `above`, that of the last life of this cloud, whose hosts follow nothing older;
/// raises the revision and forgets the history. `to` appears whole or not at all. Returns what the new file holds.
/// Blocks.
/// Errors: conflict (`to` exists, or a process has it open), and those of verify_backup.
Result<BackupInfo> restore_backup(const std::string& from, const std::string& to,
                                  std::uint64_t above = 0);

}  // namespace virga
