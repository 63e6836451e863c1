#include "lab/host_processes.h"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <utility>

#include "lab/cgroup.h"

namespace virga {

namespace {

namespace fs = std::filesystem;

constexpr int kSystemWeight = 1000;  // ten times that of all guests together
constexpr const char* kGroupKind = "cgroup:";
constexpr const char* kNamespaceKind = "namespace:";

void pause_before_next_look() { poll(nullptr, 0, 1); }

class GroupedProcesses final : public HostProcesses {
 public:
  explicit GroupedProcesses(const std::string& name) : group_(name) {}

  Result<void> prepare(const LabHostLimits& limits) const override {
    if (auto made = group_.child("system").create(); !made) return made;
    // Agent and leash stand above the guests, as a real host's system does.
    if (auto above = group_.child("system").weigh(kSystemWeight); !above) return above;
    return group_.limit(limits);
  }
  std::vector<std::string> birth_files() const override {
    return group_.child("system").procs_files();
  }
  std::vector<pid_t> list() const override { return group_.processes(); }
  Result<void> freeze() const override { return group_.freeze(); }
  Result<void> thaw() const override { return group_.thaw(); }
  void kill_all() const override { group_.kill_all(); }

 private:
  LabCgroup group_;
};

/// One letter, as 'T' for stopped; 0 = there is no such process.
char state_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const std::size_t name_end = text.rfind(')');
  return name_end == std::string::npos || name_end + 2 >= text.size() ? 0 : text[name_end + 2];
}

class NamespacedProcesses final : public HostProcesses {
 public:
  explicit NamespacedProcesses(const std::string& name) : name_(name) {}

  Result<void> prepare(const LabHostLimits&) const override { return {}; }
  std::vector<std::string> birth_files() const override { return {}; }

  std::vector<pid_t> list() const override {
    std::vector<pid_t> found;
    const std::set<Place> wanted = places();
    if (wanted.empty()) return found;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator("/proc", error)) {
      const pid_t pid = std::atoi(entry.path().filename().c_str());
      if (pid <= 0) continue;
      const auto place = place_of(entry.path() / "ns/net");
      if (place && wanted.contains(*place)) found.push_back(pid);
    }
    std::sort(found.begin(), found.end());
    return found;
  }

  // Who is not stopped yet may still start another: a look must find all of them stopped.
  Result<void> freeze() const override {
    constexpr int kLooksMax = 1000;
    for (int look = 0; look < kLooksMax; ++look) {
      bool all = true;
      for (const pid_t pid : signal_all(SIGSTOP)) {
        const char state = state_of(pid);
        all = all && (state == 'T' || state == 't' || state == 0);
      }
      if (all) return {};
      pause_before_next_look();
    }
    return make_error(Errc::timeout,
                      "stop the processes in the namespace " + name_ + ": not done within 1 s");
  }

  Result<void> thaw() const override {
    signal_all(SIGCONT);
    return {};
  }

  void kill_all() const override {
    [[maybe_unused]] const auto stopped = freeze();
    signal_all(SIGKILL);
  }

 private:
  using Place = std::pair<dev_t, ino_t>;

  static std::optional<Place> place_of(const fs::path& path) {
    struct stat seen {};
    if (stat(path.c_str(), &seen) != 0) return std::nullopt;
    return Place(seen.st_dev, seen.st_ino);
  }

  /// The host's namespace and those that its agent has made: their names begin with the host's.
  std::set<Place> places() const {
    std::set<Place> found;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator("/run/netns", error)) {
      const std::string name = entry.path().filename();
      if (name != name_ && !name.starts_with(name_ + "-")) continue;
      if (const auto place = place_of(entry.path())) found.insert(*place);
    }
    return found;
  }

  /// Returns whom it was sent to. The pidfd is opened before the namespace is looked at again, so
  /// that a pid which was given to another meanwhile does no harm.
  std::vector<pid_t> signal_all(int number) const {
    const std::vector<pid_t> found = list();
    std::vector<std::pair<pid_t, int>> opened;
    for (const pid_t pid : found) {
      const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
      if (pidfd >= 0) opened.emplace_back(pid, pidfd);
    }
    const std::vector<pid_t> still = list();
    for (const auto& [pid, pidfd] : opened) {
      if (std::binary_search(still.begin(), still.end(), pid)) {
        syscall(SYS_pidfd_send_signal, pidfd, number, nullptr, 0);
      }
      close(pidfd);
    }
    return still;
  }

  std::string name_;
};

}  // namespace

Result<std::unique_ptr<HostProcesses>> open_host_processes(const std::string& id) {
  const std::size_t colon = id.find(':') + 1;
  const std::string name = id.substr(colon);
  const bool plain = !name.empty() && name.find("..") == std::string::npos;
  if (plain && id.substr(0, colon) == kGroupKind) {
    return std::unique_ptr<HostProcesses>(std::make_unique<GroupedProcesses>(name));
  }
  if (plain && id.substr(0, colon) == kNamespaceKind && name.find('/') == std::string::npos) {
    return std::unique_ptr<HostProcesses>(std::make_unique<NamespacedProcesses>(name));
  }
  return make_error(Errc::invalid, "follow the processes of \"" + id +
                                       "\": right are cgroup:NAME and namespace:NAME");
}

std::string host_processes_id(const LabOptions& options, const std::string& host,
                              const std::string& network_namespace) {
  if (options.rights == LabRights::user_namespace) return kNamespaceKind + network_namespace;
  return kGroupKind + lab_cgroup_name(options.instance) + "/" + host;
}

Result<std::vector<std::string>> make_part(const LabOptions& options, const std::string& part) {
  if (options.rights == LabRights::user_namespace) return std::vector<std::string>();
  const LabCgroup group(lab_cgroup_name(options.instance) + "/" + part);
  if (auto made = group.create(); !made) return made.error();
  return group.procs_files();
}

Result<void> end_processes_in(const std::vector<std::string>& network_namespaces) {
  constexpr int kLooksMax = 10'000;
  constexpr int kLooksPerKill = 20;
  for (int look = 0; look < kLooksMax; ++look) {
    bool any = false;
    for (const std::string& name : network_namespaces) {
      const NamespacedProcesses processes(name);
      if (processes.list().empty()) continue;
      any = true;
      if (look % kLooksPerKill == 0) processes.kill_all();
    }
    if (!any) return {};
    pause_before_next_look();
  }
  return make_error(Errc::timeout,
                    "end the lab's processes: some survive SIGKILL for 10 s");
}

}  // namespace virga
