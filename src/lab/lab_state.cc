#include "lab/lab_state.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "agent/gateway_folders.h"
#include "edge/file.h"
#include "lab/cgroup.h"
#include "lab/host_processes.h"
#include "lab/lab_client.h"
#include "lab/network.h"

namespace virga {

namespace {

namespace fs = std::filesystem;

std::string lock_path(const std::string& instance) {
  return std::string(kLabControlFolder) + "/" + instance + ".lock";
}

/// Of its hosts' agents; they stand beside those of the machine's own agent.
void remove_gateways(const std::string& instance) {
  const fs::path all = fs::path(kGatewayFolder).parent_path();
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(all, error)) {
    const std::string name = entry.path().filename();
    if (name.starts_with("vg-" + instance + "-")) fs::remove_all(entry.path(), error);
  }
  if (fs::remove(all, error)) fs::remove(all.parent_path(), error);
}

}  // namespace

Result<void> clean_lab(const LabOptions& options) {
  const LabPaths paths(options);
  const LabCgroup group(lab_cgroup_name(options.instance));
  const bool grouped = options.rights == LabRights::whole_machine;
  auto ended = grouped ? group.end_all()
                       : end_processes_in(LabNetwork::namespaces_of(options.instance));
  if (!ended) return ended;
  if (auto removed = LabNetwork::remove_all(options.instance); !removed) return removed;
  if (grouped) {
    if (auto removed = group.remove(); !removed) return removed;
    // The folder of all labs goes with the last of them.
    [[maybe_unused]] const auto others = LabCgroup("virga-lab").remove_if_empty();
  }
  std::error_code error;
  fs::remove_all(paths.runtime, error);
  fs::remove_all(paths.control, error);
  remove_gateways(options.instance);
  return {};
}

Result<int> lock_lab(const std::string& instance) {
  constexpr int kTriesMax = 100;
  const std::string path = lock_path(instance);
  for (int attempt = 0; attempt < kTriesMax; ++attempt) {
    if (auto made = make_folders(kLabControlFolder, 0755); !made) return made.error();
    const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0) return make_error(Errc::denied, "open " + path + ": " + strerror(errno));
    const bool locked = flock(file, LOCK_EX | LOCK_NB) == 0;
    struct stat found {};
    if (locked && fstat(file, &found) == 0 && found.st_nlink > 0) return file;
    close(file);
    // Locked, but its former holder has removed the file: the next one counts.
    if (!locked) break;
  }
  return make_error(
      Errc::conflict,
      "start the lab \"" + instance + "\": it runs already; end it, or choose another --instance");
}

void unlock_lab(const std::string& instance, int lock) {
  unlink(lock_path(instance).c_str());
  rmdir(kLabControlFolder);
  close(lock);
}

}  // namespace virga
