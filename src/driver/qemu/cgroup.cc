#include "driver/qemu/cgroup.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <map>
#include <sstream>

#include "edge/file.h"

namespace virga {
namespace {

constexpr std::int64_t kPeriodUs = 100'000;

struct Mount {
  std::string path;
  std::string type;
  std::string options;
};

std::vector<Mount> parse_mounts(const std::string& text) {
  std::vector<Mount> mounts;
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string device;
    Mount mount;
    if (words >> device >> mount.path >> mount.type >> mount.options) mounts.push_back(mount);
  }
  return mounts;
}

bool has_word(const std::string& list, const std::string& word, char separator) {
  std::istringstream words(list);
  std::string seen;
  while (std::getline(words, seen, separator)) {
    if (seen == word) return true;
  }
  return false;
}

/// The number after `name` in a file of "name number" lines, or the whole file for an empty name.
Result<std::int64_t> read_number(const std::string& path, const std::string& name = {}) {
  const auto text = read_file(path, 1 << 16);
  if (!text) return text.error();
  std::size_t at = 0;
  if (!name.empty()) {
    at = text->starts_with(name + " ") ? 0 : text->find("\n" + name + " ");
    if (at == std::string::npos) return make_error(Errc::internal, path + " has no " + name);
    at = text->find(' ', at) + 1;
  }
  std::int64_t number = 0;
  if (std::from_chars(text->data() + at, text->data() + text->size(), number).ec != std::errc()) {
    return make_error(Errc::internal, path + " holds no number");
  }
  return number;
}

Result<void> check(const CgroupLimits& limits) {
  if (limits.cpu_quota.value > 0 && limits.memory_mib_max.value > 0 && limits.processes_max > 0 &&
      limits.cpu_weight >= 1 && limits.cpu_weight <= 10'000) {
    return {};
  }
  return make_error(
      Errc::invalid,
      fmt::format("limits of {} millicores, weight {}, {} MiB, {} processes: all must be "
                  "positive and the weight at most 10000",
                  limits.cpu_quota.value, limits.cpu_weight, limits.memory_mib_max.value,
                  limits.processes_max));
}

/// The kernel takes no quota below 1 ms a period.
std::int64_t quota_us(const CgroupLimits& limits) {
  return std::max<std::int64_t>(limits.cpu_quota.value * kPeriodUs / 1000, 1000);
}

Result<void> remove_folder(const std::string& path) {
  if (::rmdir(path.c_str()) == 0 || errno == ENOENT) return {};
  return errno_error("remove the cgroup " + path, errno);
}

std::string tenant_of(const std::string& group) { return group.substr(0, group.find('/')); }

class CgroupsV1 final : public Cgroups {
 public:
  CgroupsV1(std::string cpu, std::string cpuacct, std::string memory, std::string pids)
      : cpu_(std::move(cpu)),
        cpuacct_(std::move(cpuacct)),
        memory_(std::move(memory)),
        pids_(std::move(pids)) {}

  Result<void> set(const std::string& group, const CgroupLimits& limits) override {
    if (auto fine = check(limits); !fine) return fine;
    for (const std::string& folder : roots()) {
      if (auto done = make_folders(folder + "/" + group); !done) return done;
    }
    // v1 counts shares around 1024 where v2 counts weights around 100.
    const std::int64_t shares = std::max<std::int64_t>(limits.cpu_weight * 1024 / 100, 2);
    const std::int64_t bytes = to_bytes(limits.memory_mib_max).value;
    const std::pair<std::string, std::int64_t> values[] = {
        {cpu_ + "/" + group + "/cpu.shares", shares},
        {cpu_ + "/" + group + "/cpu.cfs_period_us", kPeriodUs},
        {cpu_ + "/" + group + "/cpu.cfs_quota_us", quota_us(limits)},
        {memory_ + "/" + group + "/memory.limit_in_bytes", bytes},
        {pids_ + "/" + group + "/pids.max", limits.processes_max}};
    for (const auto& [path, value] : values) {
      if (auto done = write_kernel_file(path, std::to_string(value)); !done) return done;
    }
    return {};
  }

  std::vector<std::string> procs_files(const std::string& group) const override {
    std::vector<std::string> files;
    for (const std::string& folder : roots())
      files.push_back(folder + "/" + group + "/cgroup.procs");
    return files;
  }

  Result<CgroupUsage> usage(const std::string& group) const override {
    const auto cpu = read_number(cpuacct_ + "/" + group + "/cpuacct.usage");
    if (!cpu) return cpu.error();
    const auto memory = read_number(memory_ + "/" + group + "/memory.stat", "rss");
    if (!memory) return memory.error();
    return CgroupUsage{Duration(*cpu), Bytes{*memory}};
  }

  Result<void> remove(const std::string& group) override {
    Result<void> outcome;
    for (const std::string& folder : roots()) {
      auto done = remove_folder(folder + "/" + group);
      if (!done) outcome = done;
      if (done) ::rmdir((folder + "/" + tenant_of(group)).c_str());
    }
    return outcome;
  }

  std::string version() const override { return "v1"; }

 private:
  std::vector<std::string> roots() const {
    std::vector<std::string> all = {cpu_};
    for (const std::string& other : {cpuacct_, memory_, pids_}) {
      if (std::find(all.begin(), all.end(), other) == all.end()) all.push_back(other);
    }
    return all;
  }

  std::string cpu_;
  std::string cpuacct_;
  std::string memory_;
  std::string pids_;
};

class CgroupsV2 final : public Cgroups {
 public:
  CgroupsV2(std::string mount, const std::string& below)
      : mount_(std::move(mount)), root_(mount_ + below) {}

  Result<void> set(const std::string& group, const CgroupLimits& limits) override {
    if (auto fine = check(limits); !fine) return fine;
    const std::string folder = root_ + "/" + group;
    if (auto done = make_folders(folder); !done) return done;
    if (auto done = delegate(folder); !done) return done;
    const std::pair<std::string, std::string> values[] = {
        {"/cpu.weight", std::to_string(limits.cpu_weight)},
        {"/cpu.max", fmt::format("{} {}", quota_us(limits), kPeriodUs)},
        {"/memory.max", std::to_string(to_bytes(limits.memory_mib_max).value)},
        {"/pids.max", std::to_string(limits.processes_max)}};
    for (const auto& [name, value] : values) {
      if (auto done = write_kernel_file(folder + name, value); !done) return done;
    }
    return {};
  }

  std::vector<std::string> procs_files(const std::string& group) const override {
    return {root_ + "/" + group + "/cgroup.procs"};
  }

  Result<CgroupUsage> usage(const std::string& group) const override {
    const auto cpu_us = read_number(root_ + "/" + group + "/cpu.stat", "usage_usec");
    if (!cpu_us) return cpu_us.error();
    const auto memory = read_number(root_ + "/" + group + "/memory.stat", "anon");
    if (!memory) return memory.error();
    return CgroupUsage{std::chrono::microseconds(*cpu_us), Bytes{*memory}};
  }

  Result<void> remove(const std::string& group) override {
    auto done = remove_folder(root_ + "/" + group);
    if (done) ::rmdir((root_ + "/" + tenant_of(group)).c_str());
    return done;
  }

  std::string version() const override { return "v2"; }

 private:
  /// A group gets the controllers that each group above it passes down.
  Result<void> delegate(const std::string& folder) {
    for (std::size_t slash = folder.find('/', mount_.size()); slash != std::string::npos;
         slash = folder.find('/', slash + 1)) {
      const std::string above = folder.substr(0, slash) + "/cgroup.subtree_control";
      if (auto done = write_kernel_file(above, "+cpu +memory +pids"); !done) return done;
    }
    return {};
  }

  std::string mount_;
  std::string root_;
};

}  // namespace

Result<std::unique_ptr<Cgroups>> find_cgroups(const std::string& mounts, const std::string& base) {
  const std::string below = (base.empty() || base.front() == '/' ? base : "/" + base) + "/virga";
  std::map<std::string, std::string> controllers;
  for (const Mount& mount : parse_mounts(mounts)) {
    if (mount.type == "cgroup2") {
      const auto offered = read_file(mount.path + "/cgroup.controllers");
      const std::string words = offered ? offered->substr(0, offered->find('\n')) : "";
      if (has_word(words, "cpu", ' ') && has_word(words, "memory", ' ') &&
          has_word(words, "pids", ' ')) {
        return std::unique_ptr<Cgroups>(std::make_unique<CgroupsV2>(mount.path, below));
      }
    }
    if (mount.type != "cgroup") continue;
    for (const char* name : {"cpu", "cpuacct", "memory", "pids"}) {
      if (has_word(mount.options, name, ',')) controllers[name] = mount.path + below;
    }
  }
  if (controllers.size() == 4) {
    return std::unique_ptr<Cgroups>(std::make_unique<CgroupsV1>(
        controllers["cpu"], controllers["cpuacct"], controllers["memory"], controllers["pids"]));
  }
  return make_error(
      Errc::unsupported,
      "no cgroup file system with cpu, memory and pids is mounted (neither v2 nor v1)");
}

}  // namespace virga
