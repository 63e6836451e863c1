#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace virga {

/// One look at a shared directory for StorageWatch: replaces DIRECTORY/hosts/HOST by `number`, down to the disk, and
/// reads it again. Never makes DIRECTORY itself. Blocks for as long as the file system does: for a Worker.
/// Errors: not_found (nothing is mounted there), exhausted, denied, internal (something else was read).
Result<void> look_at_directory(const std::string& directory, const std::string& host,
                               std::uint64_t number);

}  // namespace virga
