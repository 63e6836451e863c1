#include "edge/network_namespace.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>

#include "base/check.h"
#include "edge/file.h"

namespace virga {
namespace {

constexpr const char* kOwn = "/proc/thread-self/ns/net";

/// A thread that stayed there would do all its later work in the wrong network.
void go_home(const Descriptor& home) { VIRGA_CHECK(::setns(home.get(), CLONE_NEWNET) == 0); }

}  // namespace

Result<void> in_network_namespace(int network_namespace, const std::function<void()>& task) {
  if (network_namespace < 0) {
    task();
    return {};
  }
  const Descriptor home(::open(kOwn, O_RDONLY | O_CLOEXEC));
  if (!home.valid() || ::setns(network_namespace, CLONE_NEWNET) != 0)
    return errno_error("enter a network namespace", errno);
  task();
  go_home(home);
  return {};
}

Result<Descriptor> make_network_namespace() {
  const Descriptor home(::open(kOwn, O_RDONLY | O_CLOEXEC));
  if (!home.valid() || ::unshare(CLONE_NEWNET) != 0)
    return errno_error("make a network namespace", errno);
  Descriptor made(::open(kOwn, O_RDONLY | O_CLOEXEC));
  const int number = errno;
  go_home(home);
  if (!made.valid()) return errno_error("open the new network namespace", number);
  return made;
}

Result<Descriptor> lock_namespace_folder(const std::string& folder) {
  constexpr auto kPause = std::chrono::milliseconds(2);
  constexpr int kTriesMax = 5'000;
  const std::string above = std::filesystem::path(folder).parent_path().string();
  Descriptor lock(::open(above.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!lock.valid()) return errno_error("open " + above, errno);
  for (int tried = 0; ::flock(lock.get(), LOCK_EX | LOCK_NB) != 0; ++tried) {
    if (errno != EWOULDBLOCK) return errno_error("lock " + above, errno);
    if (tried == kTriesMax)
      return make_error(Errc::timeout, "lock " + above + ": another process holds it for 10 s");
    std::this_thread::sleep_for(kPause);
  }
  return lock;
}

void drop_unused_namespace_folder(const std::string& folder) {
  const auto lock = lock_namespace_folder(folder);
  std::error_code failed;
  if (!lock) return;
  if (!std::filesystem::is_empty(folder, failed) || failed) return;
  // Not lazily: a name that appears meanwhile is a mount below, and keeps the folder's.
  if (::umount2(folder.c_str(), UMOUNT_NOFOLLOW) == 0) ::rmdir(folder.c_str());
}

}  // namespace virga
