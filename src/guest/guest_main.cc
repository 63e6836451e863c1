// First and only program of the tiny guest: boots it, serves, shows signs of life, and switches it
// off on request.

#include <dirent.h>
#include <fcntl.h>
#include <linux/input.h>
#include <sys/io.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/sysinfo.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "guest/boot.h"
#include "guest/poller.h"
#include "guest/services.h"
#include "guest/witness.h"

namespace virga::guest {
namespace {

constexpr char kHeartbeatPort[] = "org.virga.hb.0";
constexpr unsigned short kWatchdogPort = 0x443;

std::string setting(const Settings& settings, const std::string& name,
                    const std::string& otherwise) {
  const auto found = settings.find(name);
  return found == settings.end() ? otherwise : found->second;
}

std::string printable_name(std::string name) {
  for (char& letter : name) {
    const bool plain = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
                       (letter >= '0' && letter <= '9') || letter == '-' || letter == '.';
    if (!plain) letter = '_';
  }
  return name.substr(0, 63);
}

/// The virtio-serial port of that name, found by /sys because nothing here makes links in /dev; -1
/// = there is none.
int open_port(const std::string& wanted) {
  int port = -1;
  DIR* folder = ::opendir("/sys/class/virtio-ports");
  if (folder == nullptr) return port;
  while (const dirent* entry = ::readdir(folder)) {
    const std::string name = entry->d_name;
    if (port >= 0 || read_text("/sys/class/virtio-ports/" + name + "/name") != wanted) continue;
    port = ::open(("/dev/" + name).c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
  }
  ::closedir(folder);
  return port;
}

class Guest {
 public:
  explicit Guest(Settings settings)
      : settings_(std::move(settings)),
        name_(printable_name(setting(settings_, "name", "guest"))),
        boot_id_(read_text("/proc/sys/kernel/random/boot_id")),
        services_(poller_, [this] { return answer(); }),
        witness_("/dev/vda", boot_id_) {}

  [[noreturn]] void run() {
    ::sethostname(name_.c_str(), name_.size());
    catch_signals();
    start_network(settings_);
    services_.serve_http(80);
    services_.serve_echo(7);
    has_witness_ = witness_.start();
    start_watchdog();
    start_clock();
    say("GUEST-UP " + name_);
    load_modules("/etc/modules-late");
    watch_power_button();
    say("GUEST-READY " + name_);
    if (setting(settings_, "spin", "0") == "1") spin();
    if (setting(settings_, "shell", "0") == "1") {
      start_program(
          {"/bin/busybox", "sh", "-c", "busybox --install -s /bin; exec setsid -c sh -i"});
    }
    poller_.run();
  }

 private:
  std::string answer() {
    ++counter_;
    std::string text = "{\"name\":\"" + name_ + "\",\"boot_id\":\"" + boot_id_ +
                       "\",\"uptime_ms\":" + std::to_string(uptime_ms()) +
                       ",\"counter\":" + std::to_string(counter_);
    if (has_witness_) {
      text += ",\"disk_sequence\":" + std::to_string(witness_.sequence()) +
              ",\"disk_foreign_writes\":" + std::to_string(witness_.foreign_writes()) +
              ",\"disk_errors\":" + std::to_string(witness_.errors()) +
              ",\"disk_bytes\":" + std::to_string(witness_.disk_bytes());
    }
    return text + "}\n";
  }

  void catch_signals() {
    sigset_t caught;
    ::sigemptyset(&caught);
    for (const int number : {SIGTERM, SIGCHLD, SIGPIPE}) ::sigaddset(&caught, number);
    ::sigprocmask(SIG_BLOCK, &caught, nullptr);
    const int signals = ::signalfd(-1, &caught, SFD_NONBLOCK | SFD_CLOEXEC);
    poller_.add(signals, EPOLLIN, [signals](std::uint32_t) {
      signalfd_siginfo signal{};
      while (::read(signals, &signal, sizeof signal) == sizeof signal) {
        if (signal.ssi_signo == SIGTERM) power_off("SIGTERM");
      }
      while (::waitpid(-1, nullptr, WNOHANG) > 0) {
      }
    });
  }

  void start_clock() {
    const int clock = ::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    itimerspec every_second{};
    every_second.it_interval.tv_sec = 1;
    every_second.it_value.tv_nsec = 1;
    ::timerfd_settime(clock, 0, &every_second, nullptr);
    poller_.add(clock, EPOLLIN, [this, clock](std::uint32_t) {
      std::uint64_t ticks = 0;
      if (::read(clock, &ticks, sizeof ticks) == sizeof ticks) second_passed();
    });
  }

  void second_passed() {
    ++seconds_;
    services_.sweep();
    if (heartbeat_ < 0) heartbeat_ = open_port(kHeartbeatPort);
    const std::string line = std::to_string(seconds_) + "\n";
    // A line that nobody reads is dropped: the next one says more than the old one.
    if (heartbeat_ >= 0) static_cast<void>(!::write(heartbeat_, line.data(), line.size()));
    if (watchdog_armed_) ::outb(watchdog_value_, kWatchdogPort);
    if (seconds_ == number("panic_after")) write_text("/proc/sysrq-trigger", "c");
    if (seconds_ == number("hang_after")) hang();
  }

  long long number(const std::string& name) const {
    return std::atoll(setting(settings_, name, "-1").c_str());
  }

  /// Debian's cloud kernel has no driver for the ib700; it takes one byte, 15 for no time and 2 s
  /// more a step down.
  void start_watchdog() {
    const long long seconds = number("watchdog");
    if (seconds < 2 || seconds > 30) return;
    if (::ioperm(kWatchdogPort, 1, 1) != 0) {
      say(std::string("watchdog: ") + std::strerror(errno));
      return;
    }
    watchdog_value_ = static_cast<unsigned char>(15 - seconds / 2);
    watchdog_armed_ = true;
  }

  [[noreturn]] void hang() {
    say("GUEST-HANG " + name_);
    while (true) ::pause();
  }

  void watch_power_button() {
    constexpr int kInputsMax = 8;
    for (int index = 0; index < kInputsMax; ++index) {
      const std::string path = "/dev/input/event" + std::to_string(index);
      const int device = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
      if (device < 0) continue;
      poller_.add(device, EPOLLIN, [device](std::uint32_t) { read_keys(device); });
    }
  }

  static void read_keys(int device) {
    input_event event{};
    while (::read(device, &event, sizeof event) == sizeof event) {
      const bool pressed = event.type == EV_KEY && event.value == 1;
      if (pressed && event.code == KEY_POWER) power_off("power button");
    }
  }

  void spin() {
    for (int count = ::get_nprocs(); count > 0; --count) {
      std::thread([] {
        volatile std::uint64_t work = 0;
        while (true) work = work + 1;
      }).detach();
    }
  }

  Settings settings_;
  std::string name_;
  std::string boot_id_;
  Poller poller_;
  Services services_;
  DiskWitness witness_;
  bool has_witness_ = false;
  int heartbeat_ = -1;
  bool watchdog_armed_ = false;
  unsigned char watchdog_value_ = 0;
  long long seconds_ = 0;
  std::uint64_t counter_ = 0;
};

}  // namespace
}  // namespace virga::guest

int main() {
  using namespace virga::guest;
  if (::getpid() != 1) {
    say("virga-guest is the first program of the tiny guest image; it does nothing elsewhere");
    return 2;
  }
  const rlimit files{8192, 8192};
  ::setrlimit(RLIMIT_NOFILE, &files);
  mount_file_systems();
  load_modules("/etc/modules-early");
  static Guest guest(read_settings());
  guest.run();
}
