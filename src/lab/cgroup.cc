#include "lab/cgroup.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace virga {

namespace {

namespace fs = std::filesystem;

constexpr const char* kControllers[] = {"cpu", "cpuacct", "memory", "pids", "freezer"};
constexpr std::int64_t kPeriodMicroseconds = 20'000;
constexpr std::int64_t kPidsMax = 4096;

Result<void> write_knob(const std::string& path, const std::string& text) {
  const int file = open(path.c_str(), O_WRONLY | O_CLOEXEC | O_TRUNC);
  const bool written =
      file >= 0 && write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int number = errno;
  if (file >= 0) close(file);
  if (written) return {};
  const bool refused = number == EACCES || number == EPERM;
  return make_error(refused ? Errc::denied : Errc::internal,
                    "write \"" + text + "\" to " + path + ": " + strerror(number));
}

std::string read_word(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

void kill_by_pidfd(pid_t pid) {
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) return;
  syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0);
  close(pidfd);
}

/// Deepest folders first. What vanishes meanwhile is left out.
std::vector<fs::path> tree_of(const fs::path& top) {
  std::vector<fs::path> found;
  std::error_code error;
  if (!fs::is_directory(top, error)) return found;
  found.push_back(top);
  for (fs::recursive_directory_iterator at(top, error), end; !error && at != end;
       at.increment(error)) {
    if (at->is_directory(error)) found.push_back(at->path());
  }
  std::sort(found.begin(), found.end(), std::greater<>());
  return found;
}

Result<void> remove_folder(const std::string& path) {
  if (rmdir(path.c_str()) == 0 || errno == ENOENT) return {};
  return make_error(Errc::conflict, "remove the cgroup " + path + ": " + strerror(errno));
}

// Version 1 tells neither that a group is frozen nor that it has become empty: one can only look
// again.
void pause_before_next_look() { poll(nullptr, 0, 1); }

}  // namespace

LabCgroup::LabCgroup(std::string name, std::string mount)
    : name_(std::move(name)),
      mount_(std::move(mount)),
      version_2_(fs::exists(mount_ + "/cgroup.controllers")) {}

LabCgroup LabCgroup::child(const std::string& child_name) const {
  return LabCgroup(name_ + "/" + child_name, mount_);
}

std::vector<std::string> LabCgroup::folders() const {
  if (version_2_) return {mount_ + "/" + name_};
  std::vector<std::string> found;
  for (const char* controller : kControllers) {
    found.push_back(mount_ + "/" + controller + "/" + name_);
  }
  return found;
}

// Nothing of Virga moves processes between freezer groups, so that this hierarchy alone tells what
// belongs together.
std::string LabCgroup::tracking_folder() const { return folders().back(); }

Result<void> LabCgroup::create() const {
  for (const std::string& folder : folders()) {
    const std::string root = folder.substr(0, folder.size() - name_.size());
    if (!fs::is_directory(root)) {
      return make_error(Errc::unsupported, "make the cgroup " + folder + ": " + root +
                                               " is not mounted; the lab needs the controllers "
                                               "cpu, cpuacct, memory, pids and freezer");
    }
    std::string made = root;
    for (const auto& part : fs::path(name_)) {
      // Version 2 hands a controller down only where the folder above says so.
      if (version_2_) {
        auto handed = write_knob(made + "/cgroup.subtree_control", "+cpu +memory +pids");
        if (!handed) return handed;
      }
      made = (fs::path(made) / part).string();
      std::error_code error;
      fs::create_directory(made, error);
      if (error) {
        return make_error(Errc::denied, "make the cgroup " + made + ": " + error.message());
      }
    }
  }
  return {};
}

Result<void> LabCgroup::limit(const LabHostLimits& limits) const {
  const std::int64_t quota = limits.cpu_millicores.value * kPeriodMicroseconds / 1000;
  const std::string period = std::to_string(kPeriodMicroseconds);
  const std::string memory = std::to_string(to_bytes(limits.memory_mib).value);
  std::vector<std::pair<std::string, std::string>> knobs;
  if (version_2_) {
    const std::string folder = mount_ + "/" + name_;
    knobs = {{folder + "/cpu.max", std::to_string(quota) + " " + period},
             {folder + "/memory.max", memory},
             {folder + "/pids.max", std::to_string(kPidsMax)}};
  } else {
    const auto knob = [this](const char* controller, const char* file) {
      return mount_ + "/" + controller + "/" + name_ + "/" + file;
    };
    knobs = {{knob("cpu", "cpu.cfs_period_us"), period},
             {knob("cpu", "cpu.cfs_quota_us"), std::to_string(quota)},
             {knob("memory", "memory.limit_in_bytes"), memory},
             {knob("pids", "pids.max"), std::to_string(kPidsMax)}};
  }
  for (const auto& [path, text] : knobs) {
    if (auto written = write_knob(path, text); !written) return written;
  }
  return {};
}

Result<void> LabCgroup::weigh(int weight) const {
  if (version_2_) {
    return write_knob(mount_ + "/" + name_ + "/cpu.weight", std::to_string(weight));
  }
  // Version 1 counts shares around 1024.
  return write_knob(mount_ + "/cpu/" + name_ + "/cpu.shares", std::to_string(weight * 1024 / 100));
}

std::vector<std::string> LabCgroup::procs_files() const {
  std::vector<std::string> files = folders();
  for (std::string& file : files) file += "/cgroup.procs";
  return files;
}

std::vector<pid_t> LabCgroup::processes() const {
  std::vector<pid_t> found;
  for (const fs::path& folder : tree_of(tracking_folder())) {
    std::ifstream file(folder / "cgroup.procs");
    for (pid_t pid = 0; file >> pid;) found.push_back(pid);
  }
  std::sort(found.begin(), found.end());
  return found;
}

Result<void> LabCgroup::thaw_folder(const std::string& folder) const {
  return version_2_ ? write_knob(folder + "/cgroup.freeze", "0")
                    : write_knob(folder + "/freezer.state", "THAWED");
}

Result<void> LabCgroup::freeze() const {
  constexpr int kWaitMillisecondsMax = 1000;
  const std::string folder = tracking_folder();
  for (int waited = 0; waited < kWaitMillisecondsMax; ++waited) {
    auto asked = version_2_ ? write_knob(folder + "/cgroup.freeze", "1")
                            : write_knob(folder + "/freezer.state", "FROZEN");
    if (!asked) return asked;
    if (version_2_) {
      std::ifstream file(folder + "/cgroup.events");
      const std::string text((std::istreambuf_iterator<char>(file)), {});
      if (text.find("frozen 1") != std::string::npos) return {};
    } else if (read_word(folder + "/freezer.state") == "FROZEN") {
      return {};
    }
    pause_before_next_look();
  }
  return make_error(Errc::timeout, "freeze the cgroup " + name_ + ": not done within 1 s");
}

Result<void> LabCgroup::thaw() const { return thaw_folder(tracking_folder()); }

// A group that does not freeze in time is killed all the same; who still forks is met by the next
// pass.
void LabCgroup::kill_all() const {
  [[maybe_unused]] const auto frozen = freeze();
  for (const pid_t pid : processes()) kill_by_pidfd(pid);
  // A group below may have been frozen on its own: it would keep its processes from dying.
  for (const fs::path& folder : tree_of(tracking_folder())) {
    [[maybe_unused]] const auto thawed = thaw_folder(folder.string());
  }
}

Result<void> LabCgroup::end_all() const {
  constexpr int kLooksMax = 10'000;
  constexpr int kLooksPerKill = 20;
  for (int look = 0; look < kLooksMax; ++look) {
    if (processes().empty()) return {};
    if (look % kLooksPerKill == 0) kill_all();
    pause_before_next_look();
  }
  return make_error(Errc::timeout,
                    "end the processes in the cgroup " + name_ + ": some survive SIGKILL for 10 s");
}

// The kernel counts a process in its group for a moment after it has left the list.
Result<void> LabCgroup::remove() const {
  constexpr int kLooksMax = 2000;
  for (const std::string& folder : folders()) {
    for (const fs::path& path : tree_of(folder)) {
      Result<void> done = remove_folder(path.string());
      for (int look = 0; look < kLooksMax && !done; ++look) {
        pause_before_next_look();
        done = remove_folder(path.string());
      }
      if (!done) return done;
    }
  }
  return {};
}

Result<void> LabCgroup::remove_if_empty() const {
  for (const std::string& folder : folders()) {
    if (auto done = remove_folder(folder); !done) return done;
  }
  return {};
}

}  // namespace virga
