#include "lab/user_namespace.h"

#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "edge/file.h"
#include "edge/process.h"
#include "lab/lab_client.h"

namespace virga {

namespace {

using InsideTask = std::function<int(const std::string& enter)>;

/// What the first process inside must know of the outside.
struct Origin {
  uid_t user = 0;
  gid_t group = 0;
  int pidfd = -1;  ///< of the process outside
};

NamespaceFailure failed(const char* step) { return {step, errno}; }

bool write_text(const char* path, const std::string& text) {
  const Descriptor file(open(path, O_WRONLY | O_CLOEXEC));
  return file.valid() &&
         write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

NamespaceFailure become_root(const Origin& origin) {
  const std::string user = "0 " + std::to_string(origin.user) + " 1\n";
  const std::string group = "0 " + std::to_string(origin.group) + " 1\n";
  // The kernel lets nobody map a group who could still drop one that keeps him out of files.
  if (!write_text("/proc/self/setgroups", "deny")) return failed("give up other groups");
  if (!write_text("/proc/self/uid_map", user)) return failed("map the user to root");
  if (!write_text("/proc/self/gid_map", group)) return failed("map the group to root");
  return {};
}

bool bind_folder(int folder, const std::string& path) {
  const std::string from = "/proc/self/fd/" + std::to_string(folder);
  return make_folders(path, 0755).ok() &&
         mount(from.c_str(), path.c_str(), nullptr, MS_BIND | MS_REC, nullptr) == 0;
}

// Folders are opened before what covers them is mounted, and bound from their descriptors then.
NamespaceFailure mount_own(const LabNamespaces& places) {
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return failed("make the mounts private");
  std::vector<std::pair<Descriptor, std::string>> folders;
  const auto keep = [&folders](const std::string& outside, const std::string& inside) {
    folders.emplace_back(open(outside.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC), inside);
    return folders.back().first.valid();
  };
  if (!places.control.empty() && !keep(places.control, kLabControlFolder))
    return failed("open the folder of the lab's sockets");
  for (const std::string& path : places.kept) {
    if (!keep(path, path)) return failed("open the lab's data folder");
  }
  if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0)
    return failed("mount an own /proc");
  if (mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755") != 0)
    return failed("mount an own /run");
  if (mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") != 0)
    return failed("mount an own /dev/shm");
  for (const auto& [folder, inside] : folders) {
    if (!bind_folder(folder.get(), inside)) return failed("bring the lab's folders along");
  }
  return {};
}

NamespaceFailure bring_loopback_up() {
  const Descriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::string("lo").copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return failed("bring the loopback up");
  return {};
}

/// A process that dies together with the one outside.
NamespaceFailure tie_to(const Origin& origin) {
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return failed("follow the end of its parent");
  pollfd gone{origin.pidfd, POLLIN, 0};
  if (poll(&gone, 1, 0) == 0) return {};
  errno = ESRCH;
  return failed("follow the end of its parent");
}

NamespaceFailure set_up(const LabNamespaces& places, const Origin& origin) {
  NamespaceFailure failure = become_root(origin);
  if (failure.step == nullptr) failure = tie_to(origin);
  if (failure.step == nullptr) failure = mount_own(places);
  if (failure.step == nullptr) failure = bring_loopback_up();
  return failure;
}

sigset_t handed_on() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&set, number);
  return set;
}

int exit_code(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// Hands signals on to the child until it has ended and returns its exit code. Collects what other
/// processes have left behind.
int follow(pid_t child) {
  const sigset_t set = handed_on();
  while (true) {
    siginfo_t info{};
    const int number = sigwaitinfo(&set, &info);
    if (number > 0 && number != SIGCHLD) kill(child, number);
    if (number != SIGCHLD) continue;
    int status = 0;
    for (pid_t ended = waitpid(-1, &status, WNOHANG); ended > 0;
         ended = waitpid(-1, &status, WNOHANG)) {
      if (ended == child) return exit_code(status);
    }
  }
}

/// Like fork(), into new namespaces; the child is the first process of its own.
pid_t fork_into_namespaces() {
  constexpr unsigned long kFlags =
      CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | SIGCHLD;
  return static_cast<pid_t>(syscall(SYS_clone, kFlags, nullptr, nullptr, nullptr, nullptr));
}

std::string enter_command() {
  char pid[32] = {};  // /proc is still the outer one
  if (readlink("/proc/self", pid, sizeof pid - 1) <= 0) return {};
  return std::string("nsenter --target ") + pid +
         " --user --preserve-credentials --mount --net --pid";
}

/// The first process inside: it collects what others leave behind; the kernel ends all with it.
[[noreturn]] void run_inside(const LabNamespaces& places, const Origin& origin, Descriptor report,
                             const InsideTask& task, const sigset_t& mask) {
  const std::string enter = enter_command();
  const NamespaceFailure failure = set_up(places, origin);
  if (failure.step != nullptr || !task) {
    [[maybe_unused]] const auto told = write(report.get(), &failure, sizeof failure);
    _exit(1);
  }
  report.reset();
  const pid_t child = fork();
  if (child < 0) _exit(1);
  if (child > 0) _exit(follow(child));
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  exit(task(enter));
}

struct Started {
  pid_t child = -1;
  NamespaceFailure failure;
};

/// Completes when all steps are done or one has failed; then, and without a task, the child has
/// ended.
Started start(const LabNamespaces& places, const InsideTask& task, const sigset_t& mask) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return {-1, failed("make a pipe")};
  const Descriptor report(ends[0]);
  Descriptor write_end(ends[1]);
  const Descriptor own(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  const Origin origin{geteuid(), getegid(), own.get()};
  Started started{fork_into_namespaces(), {}};
  if (started.child < 0) {
    started.failure = failed("make a user namespace");
    return started;
  }
  if (started.child == 0) run_inside(places, origin, std::move(write_end), task, mask);
  write_end.reset();
  // The child is a copy of this process: its pointer to a literal holds here too.
  const ssize_t bytes = read(report.get(), &started.failure, sizeof started.failure);
  if (bytes != sizeof started.failure) started.failure = {};
  if (started.failure.step != nullptr || !task) waitpid(started.child, nullptr, 0);
  return started;
}

}  // namespace

NamespaceFailure try_user_namespace() { return start({}, {}, {}).failure; }

Result<int> run_in_user_namespace(const LabNamespaces& places, const InsideTask& task) {
  const sigset_t set = handed_on();
  sigset_t before;
  sigprocmask(SIG_BLOCK, &set, &before);
  const Started started = start(places, task, before);
  const NamespaceFailure& failure = started.failure;
  int code = 1;
  if (failure.step == nullptr) code = follow(started.child);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (failure.step == nullptr) return code;
  return errno_error(std::string("enter a user namespace: ") + failure.step, failure.error);
}

Result<void> make_lab_control_folder() {
  const std::string path = lab_control_folder(geteuid());
  if (auto made = make_folders(path, 0700); !made) return made;
  struct stat found {};
  const bool own = lstat(path.c_str(), &found) == 0 && S_ISDIR(found.st_mode) &&
                   found.st_uid == geteuid() && (found.st_mode & 022) == 0;
  if (own) return {};
  return make_error(Errc::denied, "use the folder " + path +
                                      " for the lab's sockets: it belongs to another user; "
                                      "remove it as root");
}

}  // namespace virga
