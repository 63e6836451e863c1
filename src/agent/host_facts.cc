#include "agent/host_facts.h"

#include <sys/sysinfo.h>
#include <unistd.h>

#include <charconv>
#include <optional>

#include "edge/file.h"

namespace virga {
namespace {

constexpr const char* kRoot = "/sys/fs/cgroup";

std::optional<std::int64_t> number_at(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || end == text.data()) return std::nullopt;
  return number;
}

std::optional<std::int64_t> read_number(const std::string& path) {
  const auto text = read_file(path, 4096);
  return text ? number_at(*text) : std::nullopt;
}

/// The number after `name` in a file of "name number" lines.
std::optional<std::int64_t> read_named(const std::string& path, std::string_view name) {
  const auto text = read_file(path, 64 << 10);
  if (!text) return std::nullopt;
  const auto at = text->find(std::string(name) + " ");
  if (at == std::string::npos) return std::nullopt;
  return number_at(std::string_view(*text).substr(at + name.size() + 1));
}

}  // namespace

HostFacts::HostFacts(Loop& loop, std::string cgroup, DeclaredCapacity declared)
    : loop_(loop), cgroup_(std::move(cgroup)), declared_(declared) {
  version_2_ = access("/sys/fs/cgroup/cgroup.controllers", R_OK) == 0;
}

std::string HostFacts::path(const std::string& controller, const std::string& file) const {
  std::string folder = kRoot;
  if (!version_2_) folder += "/" + controller;
  if (!cgroup_.empty()) folder += "/" + cgroup_;
  return folder + "/" + file;
}

Capacity HostFacts::capacity() const {
  struct sysinfo machine {};
  sysinfo(&machine);
  const auto unit = static_cast<std::int64_t>(machine.mem_unit);
  Capacity capacity;
  capacity.cpu_millicores = Millicores{sysconf(_SC_NPROCESSORS_ONLN) * 1000};
  capacity.memory_mib = Mib{static_cast<std::int64_t>(machine.totalram) * unit >> 20};
  std::optional<std::int64_t> quota;
  std::optional<std::int64_t> period;
  if (version_2_) {
    const auto text = read_file(path("", "cpu.max"), 4096);
    if (text) quota = number_at(*text);
    const auto space = text ? text->find(' ') : std::string::npos;
    if (space != std::string::npos) period = number_at(std::string_view(*text).substr(space + 1));
  } else {
    quota = read_number(path("cpu", "cpu.cfs_quota_us"));
    period = read_number(path("cpu", "cpu.cfs_period_us"));
  }
  if (quota && period && *quota > 0 && *period > 0) {
    capacity.cpu_millicores = Millicores{*quota * 1000 / *period};
  }
  const auto limit =
      read_number(version_2_ ? path("", "memory.max") : path("memory", "memory.limit_in_bytes"));
  if (limit) capacity.memory_mib = std::min(capacity.memory_mib, Mib{*limit >> 20});
  if (declared_.cpu_millicores > 0) {
    capacity.cpu_millicores = Millicores{declared_.cpu_millicores};
  }
  if (declared_.memory_mib > 0) {
    capacity.memory_mib = std::min(capacity.memory_mib, Mib{declared_.memory_mib});
  }
  return capacity;
}

Capacity HostFacts::used() {
  Capacity used;
  const auto memory = read_number(version_2_ ? path("", "memory.current")
                                             : path("memory", "memory.usage_in_bytes"));
  if (memory) used.memory_mib = Mib{*memory >> 20};
  std::optional<std::int64_t> cpu_ns;
  if (version_2_) {
    const auto cpu_us = read_named(path("", "cpu.stat"), "usage_usec");
    if (cpu_us) cpu_ns = *cpu_us * 1000;
  } else {
    cpu_ns = read_number(path("cpuacct", "cpuacct.usage"));
  }
  const Instant now = loop_.now();
  if (cpu_ns && last_cpu_ns_ >= 0 && now > last_at_) {
    used.cpu_millicores = Millicores{(*cpu_ns - last_cpu_ns_) * 1000 / (now - last_at_).count()};
  }
  last_cpu_ns_ = cpu_ns.value_or(-1);
  last_at_ = now;
  return used;
}

}  // namespace virga
