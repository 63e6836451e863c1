#include "agent/host_facts.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <charconv>
#include <memory>
#include <optional>
#include <set>
#include <sstream>

#include "edge/file.h"
#include "model/ipv4.h"

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

/// The number after `name` and spaces in a file of such lines.
std::optional<std::int64_t> read_named(const std::string& path, std::string_view name) {
  const auto text = read_file(path, 64 << 10);
  if (!text) return std::nullopt;
  const auto at = text->find(std::string(name) + " ");
  if (at == std::string::npos) return std::nullopt;
  const auto begin = text->find_first_not_of(' ', at + name.size());
  if (begin == std::string::npos) return std::nullopt;
  return number_at(std::string_view(*text).substr(begin));
}

/// Of a whole machine, in bytes: all but what is free or can be had at once. The top group of
/// version 2 does not say.
std::optional<std::int64_t> machine_memory() {
  const auto total = read_named("/proc/meminfo", "MemTotal:");
  const auto available = read_named("/proc/meminfo", "MemAvailable:");
  if (!total || !available) return std::nullopt;
  return (*total - *available) << 10;
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
  const std::string in_use =
      version_2_ ? path("", "memory.current") : path("memory", "memory.usage_in_bytes");
  const auto memory = cgroup_.empty() ? machine_memory() : read_number(in_use);
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

std::vector<std::string> networks_of(const std::vector<std::string>& addresses) {
  std::set<std::uint32_t> wanted;
  for (const std::string& text : addresses) {
    if (const auto address = parse_ipv4(text)) wanted.insert(*address);
  }
  std::set<std::string> found;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) list = nullptr;
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> held(list, ::freeifaddrs);
  for (const ifaddrs* one = list; one != nullptr; one = one->ifa_next) {
    const bool ipv4 = one->ifa_addr != nullptr && one->ifa_addr->sa_family == AF_INET;
    if (!ipv4 || one->ifa_netmask == nullptr) continue;
    const auto number_of = [](const sockaddr* from) {
      return ntohl(reinterpret_cast<const sockaddr_in*>(from)->sin_addr.s_addr);
    };
    const std::uint32_t address = number_of(one->ifa_addr);
    const std::uint32_t mask = number_of(one->ifa_netmask);
    if (wanted.erase(address) == 0) continue;
    found.insert(fmt::format("{}/{}", ipv4_text(address & mask), __builtin_popcount(mask)));
  }
  for (const std::uint32_t address : wanted) found.insert(ipv4_text(address) + "/32");
  return {found.begin(), found.end()};
}

std::vector<std::string> resolvers_in(const std::string& text) {
  constexpr std::size_t kMax = 3;  // as the C library reads it
  std::vector<std::string> found;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line) && found.size() < kMax;) {
    std::istringstream words(line);
    std::string word, address;
    words >> word >> address;
    const auto number = parse_ipv4(address);
    const bool usable = word == "nameserver" && number && address.find('/') == std::string::npos;
    if (usable && *number >> 24 != 127) found.push_back(address);
  }
  return found;
}

}  // namespace virga
