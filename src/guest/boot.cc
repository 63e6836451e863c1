#include "guest/boot.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace virga::guest {
namespace {

std::vector<std::string> split(const std::string& text, const char* separators) {
  std::vector<std::string> parts;
  std::size_t begin = text.find_first_not_of(separators);
  while (begin != std::string::npos) {
    const std::size_t end = text.find_first_of(separators, begin);
    parts.push_back(text.substr(begin, end - begin));
    begin = end == std::string::npos ? end : text.find_first_not_of(separators, end);
  }
  return parts;
}

void mount_one(const char* type, const char* target) {
  ::mkdir(target, 0755);
  if (::mount(type, target, type, MS_NOSUID, nullptr) != 0 && errno != EBUSY) {
    say(std::string("mount ") + target + ": " + std::strerror(errno));
  }
}

std::vector<std::string> network_cards() {
  std::vector<std::string> names;
  DIR* folder = ::opendir("/sys/class/net");
  if (folder == nullptr) return names;
  while (const dirent* entry = ::readdir(folder)) {
    const std::string name = entry->d_name;
    if (name.rfind("eth", 0) == 0) names.push_back(name);
  }
  ::closedir(folder);
  std::sort(names.begin(), names.end(), [](const std::string& left, const std::string& right) {
    return left.size() != right.size() ? left.size() < right.size() : left < right;
  });
  return names;
}

ifreq request_for(const std::string& card) {
  ifreq request{};
  card.copy(request.ifr_name, IFNAMSIZ - 1);
  return request;
}

void switch_up(int socket, const std::string& card) {
  ifreq request = request_for(card);
  ::ioctl(socket, SIOCGIFFLAGS, &request);
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (::ioctl(socket, SIOCSIFFLAGS, &request) != 0) say(card + " up: " + std::strerror(errno));
}

bool set_address(int socket, const std::string& card, const std::string& address) {
  const std::size_t slash = address.find('/');
  const int prefix = slash == std::string::npos ? 24 : std::atoi(address.c_str() + slash + 1);
  if (prefix < 1 || prefix > 32) return false;
  ifreq request = request_for(card);
  sockaddr_in value{};
  value.sin_family = AF_INET;
  if (::inet_pton(AF_INET, address.substr(0, slash).c_str(), &value.sin_addr) != 1) return false;
  std::memcpy(&request.ifr_addr, &value, sizeof value);
  if (::ioctl(socket, SIOCSIFADDR, &request) != 0) return false;
  value.sin_addr.s_addr = htonl(~0U << (32 - prefix));
  std::memcpy(&request.ifr_netmask, &value, sizeof value);
  return ::ioctl(socket, SIOCSIFNETMASK, &request) == 0;
}

bool set_gateway(int socket, const std::string& gateway) {
  rtentry route{};
  sockaddr_in value{};
  value.sin_family = AF_INET;
  std::memcpy(&route.rt_dst, &value, sizeof value);
  std::memcpy(&route.rt_genmask, &value, sizeof value);
  if (::inet_pton(AF_INET, gateway.c_str(), &value.sin_addr) != 1) return false;
  std::memcpy(&route.rt_gateway, &value, sizeof value);
  route.rt_flags = RTF_UP | RTF_GATEWAY;
  return ::ioctl(socket, SIOCADDRT, &route) == 0;
}

}  // namespace

std::string read_text(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return {};
  std::string text;
  char block[4096];
  ssize_t count = 0;
  while ((count = ::read(file, block, sizeof block)) > 0) {
    text.append(block, static_cast<std::size_t>(count));
  }
  ::close(file);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

bool write_text(const std::string& path, const std::string& text) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (file < 0) return false;
  const ssize_t count = ::write(file, text.data(), text.size());
  ::close(file);
  return count == static_cast<ssize_t>(text.size());
}

long long uptime_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<long long>(now.tv_sec) * 1000 + now.tv_nsec / 1'000'000;
}

void say(const std::string& line) { ::dprintf(STDOUT_FILENO, "%s\n", line.c_str()); }

void mount_file_systems() {
  mount_one("devtmpfs", "/dev");
  const int console = ::open("/dev/console", O_RDWR | O_NOCTTY);
  if (console >= 0) {
    for (int target = 0; target <= 2; ++target) ::dup2(console, target);
    if (console > 2) ::close(console);
  }
  mount_one("proc", "/proc");
  mount_one("sysfs", "/sys");
  mount_one("tmpfs", "/run");
  mount_one("devpts", "/dev/pts");
}

Settings read_settings() {
  constexpr char kPrefix[] = "virga.";
  Settings settings;
  for (const std::string& word : split(read_text("/proc/cmdline"), " ")) {
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos || word.rfind(kPrefix, 0) != 0) continue;
    settings[word.substr(sizeof kPrefix - 1, equals - sizeof kPrefix + 1)] =
        word.substr(equals + 1);
  }
  return settings;
}

void load_modules(const std::string& list_path) {
  for (const std::string& path : split(read_text(list_path), "\n")) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const long outcome = file < 0 ? -1 : ::syscall(SYS_finit_module, file, "", 0);
    if (outcome != 0 && errno != EEXIST) say("module " + path + ": " + std::strerror(errno));
    if (file >= 0) ::close(file);
  }
}

void start_network(const Settings& settings) {
  // Switches between hosts learn where this guest now is from the announcement that goes with a new
  // address.
  write_text("/proc/sys/net/ipv4/conf/all/arp_notify", "1");
  const int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  switch_up(socket, "lo");
  const auto passed = settings.find("ip");
  const bool asks = passed == settings.end() || passed->second == "dhcp";
  std::vector<std::string> addresses;
  if (!asks) addresses = split(passed->second, ",");
  std::size_t index = 0;
  for (const std::string& card : network_cards()) {
    if (index < addresses.size() && !set_address(socket, card, addresses[index])) {
      say(card + ": address " + addresses[index] + " refused: " + std::strerror(errno));
    }
    switch_up(socket, card);
    if (asks) {
      start_program({"/bin/busybox", "udhcpc", "-f", "-S", "-i", card, "-t", "5", "-T", "1", "-A",
                     "5", "-s", "/etc/udhcpc.script"});
    }
    ++index;
  }
  const auto gateway = settings.find("gateway");
  if (!asks && gateway != settings.end() && !set_gateway(socket, gateway->second)) {
    say("gateway " + gateway->second + " refused: " + std::strerror(errno));
  }
  ::close(socket);
  const auto resolver = settings.find("dns");
  if (asks || resolver == settings.end()) return;
  const auto domain = settings.find("domain");
  const std::string search = domain == settings.end() ? "" : "search " + domain->second + "\n";
  write_text("/etc/resolv.conf", "nameserver " + resolver->second + "\n" + search);
}

void start_program(const std::vector<std::string>& arguments) {
  std::vector<char*> words;
  for (const std::string& argument : arguments)
    words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  const pid_t child = ::fork();
  if (child != 0) return;
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::setsid();
  char path[] = "PATH=/bin";
  char* environment[] = {path, nullptr};
  ::execve(words[0], words.data(), environment);
  ::_exit(127);
}

void power_off(const std::string& reason) {
  say("GUEST-DOWN " + reason);
  ::sync();
  ::reboot(LINUX_REBOOT_CMD_POWER_OFF);
  say(std::string("power off: ") + std::strerror(errno));
}

}  // namespace virga::guest
