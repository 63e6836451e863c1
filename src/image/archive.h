#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace virga {

/// One file, folder or link of an archive that is made in memory.
struct ArchiveEntry {
  enum class Kind { file, folder, link };

  std::string path;  ///< without a leading '/'
  Kind kind = Kind::file;
  int mode = 0644;
  std::string contents;  ///< of a file; target of a link
};

/// An initial RAM disk: cpio "newc", compressed with zstd. The same entries give the same bytes: owner, times and inode
/// numbers are fixed. Errors: invalid (an entry that the format cannot hold), internal.
/// Source: kernel.org Documentation/driver-api/early-userspace/buffer-format.rst.
Result<std::string> make_initrd(const std::vector<ArchiveEntry>& entries);

/// An ISO 9660 file system with Rock Ridge and Joliet names, labelled `volume` (at most 16 characters).
Result<std::string> make_iso(const std::vector<ArchiveEntry>& entries, const std::string& volume);

/// Calls `take` for each regular file of a Debian package whose path `wanted` accepts; paths have no leading "./".
/// At most 1 GiB is unpacked. Errors: not_found, invalid (not a package, damaged).
Result<void> read_debian_package(
    const std::string& package_path, const std::function<bool(std::string_view path)>& wanted,
    const std::function<void(std::string path, std::string contents)>& take);

}  // namespace virga
