#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "edge/process.h"

namespace virga {

/// Runs a program on a disk image that a stranger may have made. The program sees the file as /disk, read-only, and
/// beside it only /usr, /lib and /lib64 (see ProcessOptions::sandbox): nothing that the image names can be opened. It
/// has a user of its own (65000 to 65511) where this process is root, writes no file, and has at most 1 GiB of address
/// space, 64 threads and processes, 30 s of processor time and `deadline`.
///
/// `command`: [0] = absolute path of the program. Blocking. Errors: those of run_process.
Result<ProcessOutput> run_disk_probe(const std::string& disk_path,
                                     const std::vector<std::string>& command, Duration deadline);

}  // namespace virga
