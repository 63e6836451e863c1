#pragma once

#include <sys/types.h>

#include <cstdint>

namespace virga {

/// When the process was started, in clock ticks since boot (field 22 of /proc/PID/stat): with the pid it names one
/// process for ever. 0 = no such process.
std::uint64_t start_ticks_of(pid_t pid);

/// The process that a pidfd stands for; -1 = it has ended, or the descriptor is no pidfd.
pid_t pid_of_pidfd(int pidfd);

}  // namespace virga
