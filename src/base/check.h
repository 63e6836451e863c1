#pragma once

namespace virga {

/// Prints the broken assumption with its place and ends the process. Only for what a bug alone can cause:
/// input, disks, networks and child processes fail with an Error.
[[noreturn]] void check_failed(const char* expression, const char* file, int line);

}  // namespace virga

#define VIRGA_CHECK(expression) \
  ((expression) ? static_cast<void>(0) : ::virga::check_failed(#expression, __FILE__, __LINE__))
