#include "edge/network_namespace.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
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

/// Beside the folder, for root alone: nobody else can hold it up.
std::string lock_of(const std::string& folder) { return folder + ".lock"; }

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
  constexpr int kTriesMax = 500;
  const std::string path = lock_of(folder);
  for (int tried = 0; tried < kTriesMax; ++tried) {
    constexpr int kHow = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
    Descriptor lock(::open(path.c_str(), kHow, 0600));
    if (!lock.valid()) return errno_error("open " + path, errno);
    struct stat found {};
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      std::this_thread::sleep_for(kPause);
    } else if (::fstat(lock.get(), &found) == 0 && found.st_nlink > 0) {
      return lock;
    }
    // Else its former holder has removed the file: the next one counts.
  }
  return make_error(Errc::timeout, "lock " + path + ": another process holds it for 1 s");
}

void drop_unused_namespace_folder(const std::string& folder) {
  const auto lock = lock_namespace_folder(folder);
  std::error_code failed;
  if (!lock) return;
  const bool unused = std::filesystem::is_empty(folder, failed) && !failed;
  // Not lazily: a name that appears meanwhile is a mount below, and keeps the folder's.
  if (unused && ::umount2(folder.c_str(), UMOUNT_NOFOLLOW) == 0) ::rmdir(folder.c_str());
  ::unlink(lock_of(folder).c_str());  // last: who comes then locks another file
}

}  // namespace virga
