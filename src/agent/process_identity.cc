#include "agent/process_identity.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace virga {

namespace {

std::string read_small_file(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return {};
  std::string text(4096, '\0');
  const ssize_t bytes = read(file, text.data(), text.size());
  close(file);
  text.resize(bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
  return text;
}

}  // namespace

// The program's name, field 2, may hold spaces and brackets: count from its closing bracket.
std::uint64_t start_ticks_of(pid_t pid) {
  const std::string text = read_small_file("/proc/" + std::to_string(pid) + "/stat");
  std::size_t at = text.rfind(')');
  if (at == std::string::npos) return 0;
  constexpr int kFieldsAfterName = 20;
  for (int field = 0; field < kFieldsAfterName && at != std::string::npos; ++field) {
    at = text.find(' ', at + 1);
  }
  return at == std::string::npos ? 0 : std::strtoull(text.c_str() + at, nullptr, 10);
}

pid_t pid_of_pidfd(int pidfd) {
  const std::string text = read_small_file("/proc/self/fdinfo/" + std::to_string(pidfd));
  const std::size_t at = text.find("\nPid:");
  if (at == std::string::npos) return -1;
  return static_cast<pid_t>(std::strtol(text.c_str() + at + 5, nullptr, 10));
}

}  // namespace virga
