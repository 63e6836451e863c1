#include "lab/lab_state.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "edge/file.h"
#include "lab/cgroup.h"
#include "lab/network.h"

namespace virga {

namespace {

namespace fs = std::filesystem;

/// The effective capabilities of this process, as the kernel's bit set.
std::uint64_t capabilities() {
  std::ifstream file("/proc/self/status");
  std::string word;
  while (file >> word) {
    if (word == "CapEff:") break;
  }
  std::uint64_t bits = 0;
  file >> std::hex >> bits;
  return bits;
}

std::string lock_path(const std::string& instance) {
  return "/run/virga-lab/" + instance + ".lock";
}

bool has_program(const std::string& name) {
  for (const char* folder : {"/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/"}) {
    if (access((folder + name).c_str(), X_OK) == 0) return true;
  }
  return false;
}

}  // namespace

Result<void> clean_lab(const LabOptions& options) {
  const LabPaths paths(options);
  const LabCgroup group(lab_cgroup_name(options.instance));
  if (auto ended = group.end_all(); !ended) return ended;
  if (auto removed = LabNetwork::remove_all(options.instance); !removed) return removed;
  if (auto removed = group.remove(); !removed) return removed;
  // The folder of all labs goes with the last of them.
  [[maybe_unused]] const auto others = LabCgroup("virga-lab").remove_if_empty();
  std::error_code error;
  fs::remove_all(paths.runtime, error);
  fs::remove_all(paths.control, error);
  return {};
}

Result<void> check_lab_rights() {
  constexpr int kNetAdmin = 12;
  constexpr int kSysAdmin = 21;
  const std::uint64_t bits = capabilities();
  const auto lacks = [bits](int number) { return (bits >> number & 1) == 0; };
  std::string missing;
  if (lacks(kSysAdmin))
    missing += "\n  CAP_SYS_ADMIN, to make network namespaces: run it with sudo";
  if (lacks(kNetAdmin))
    missing += "\n  CAP_NET_ADMIN, to make links and addresses: run it with sudo";
  for (const char* program : {"ip", "bridge"}) {
    if (!has_program(program))
      missing += std::string("\n  the program ") + program + ": apt-get install iproute2";
  }
  if (!has_program("nft")) missing += "\n  the program nft: apt-get install nftables";
  if (missing.empty()) {
    const LabCgroup probe("virga-lab/probe");
    auto made = probe.create();
    if (!made) missing += "\n  cgroups: " + made.error().text();
    [[maybe_unused]] const auto removed = probe.remove();
  }
  if (missing.empty()) return {};
  return make_error(Errc::denied, "start a lab on this machine: it lacks" + missing);
}

Result<int> lock_lab(const std::string& instance) {
  constexpr int kTriesMax = 100;
  const std::string path = lock_path(instance);
  for (int attempt = 0; attempt < kTriesMax; ++attempt) {
    if (auto made = make_folders("/run/virga-lab", 0755); !made) return made.error();
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
  rmdir("/run/virga-lab");
  close(lock);
}

}  // namespace virga
