#pragma once

#include <string>

#include "base/result.h"

namespace virga {

/// The Error for a failed system call: `what` (what was tried, on what) and the kernel's words for `number`.
/// ENOENT = not_found; EACCES, EPERM, EROFS = denied; ENOSPC, EDQUOT, ENOMEM, EMFILE, ENFILE, EAGAIN = exhausted;
/// EEXIST, EBUSY = conflict; EINVAL, ENAMETOOLONG = invalid; else internal.
Error errno_error(const std::string& what, int number);

/// Reads a whole file of at most `bytes_max`. Errors: not_found, invalid (too large), internal.
Result<std::string> read_file(const std::string& path, std::size_t bytes_max = 16 << 20);

/// Replaces a file by rename, so that a reader sees the old or the new text, also when this process is killed. A crash
/// of the machine may lose both. Never waits for the disk: for what is true for one boot, or written again soon.
Result<void> replace_file(const std::string& path, const std::string& text, int mode = 0644);

/// Replaces a file by rename after fsync, so that a reader sees the old or the new text and a crash loses neither.
/// Errors: exhausted (disk full), denied, not_found (folder).
Result<void> write_file_atomically(const std::string& path, const std::string& text,
                                   int mode = 0644);

/// Replaces a file whose room is kept, so that a full disk refuses no later text that takes no more blocks: a second
/// file beside it, `path`.spare, has as many, and the two exchange their names. `durable`: as write_file_atomically(),
/// else as replace_file(). Where the file system cannot exchange names (NFS) it may be refused as those are.
Result<void> rewrite_file(const std::string& path, const std::string& text, int mode, bool durable);

/// Writes `text` with one call into a file that exists: for files of the kernel (cgroups, sysctls).
Result<void> write_kernel_file(const std::string& path, const std::string& text);

/// Makes the folder and its parents.
Result<void> make_folders(const std::string& path, int mode = 0755);

}  // namespace virga
