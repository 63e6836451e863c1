#include "image/disk_probe.h"

#include <unistd.h>

namespace virga {
namespace {

// Nobody's, other than 65534, and each importing process has its own: the limit of processes counts
// all that a user has on the machine.
constexpr uid_t kUserFirst = 65'000;
constexpr uid_t kUsers = 512;

}  // namespace

Result<ProcessOutput> run_disk_probe(const std::string& disk_path,
                                     const std::vector<std::string>& command, Duration deadline) {
  ProcessOptions process;
  process.arguments = {"/usr/bin/prlimit", "--as=1073741824", "--cpu=30",    "--fsize=0",
                       "--core=0",         "--nofile=64",     "--nproc=64"};
  process.arguments.insert(process.arguments.end(), command.begin(), command.end());
  process.environment = {{"LC_ALL", "C"}};
  process.sandbox = {
      {"usr", "/usr"}, {"lib", "/lib"}, {"lib64", "/lib64"}, {"disk", disk_path}};
  const uid_t user = kUserFirst + static_cast<uid_t>(::getpid()) % kUsers;
  if (::geteuid() == 0) process.as = {user, user, {}};
  process.die_with_parent = true;
  return run_process(process, deadline);
}

}  // namespace virga
