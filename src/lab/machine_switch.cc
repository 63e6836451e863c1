#include "lab/machine_switch.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/log.h"
#include "base/reflect.h"
#include "edge/file.h"
#include "lab/lab_client.h"

namespace virga {

namespace {

constexpr int kKillPassesMax = 2000;
constexpr Duration kKillPassEvery = milliseconds(5);

}  // namespace

Result<std::unique_ptr<LabMachine>> LabMachine::open(AsioLoop& loop,
                                                           const LabMachineOptions& options) {
  auto processes = open_host_processes(options.processes);
  if (!processes) return processes.error();
  std::unique_ptr<LabMachine> made(new LabMachine(loop, options, std::move(*processes)));
  if (options.watchdog_path.empty()) return made;
  // Open for writing as well, so that a leash that goes away is no end of file.
  made->watchdog_ =
      Descriptor(::open(options.watchdog_path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!made->watchdog_.valid()) {
    return make_error(errno == ENOENT ? Errc::not_found : Errc::denied,
                      "open the watchdog's pipe " + options.watchdog_path + ": " + strerror(errno));
  }
  loop.watch_descriptor(made->watchdog_.get(),
                        [machine = made.get()] { machine->read_watchdog(); });
  return made;
}

LabMachine::LabMachine(AsioLoop& loop, const LabMachineOptions& options,
                       std::unique_ptr<HostProcesses> processes)
    : loop_(loop),
      options_(options),
      processes_(std::move(processes)),
      killing_(loop),
      watchdog_timer_(loop) {}

LabMachine::~LabMachine() {
  if (watchdog_.valid()) loop_.forget_descriptor(watchdog_.get());
}

MachinePower LabMachine::power() {
  return processes_->list().empty() ? MachinePower::off : MachinePower::on;
}

// The switch's position first: whoever starts a program for the host looks at it before.
void LabMachine::force_off() {
  watchdog_timer_.cancel();
  if (auto done = write_power_switch(options_.power_path, MachinePower::off); !done) {
    log_line(LogLevel::error, "bmc", done.error().text());
  }
  kill_until_empty(kKillPassesMax);
}

void LabMachine::kill_until_empty(int passes_left) {
  if (processes_->list().empty()) return tell_lab(LabRequestKind::powered_off);
  if (passes_left == 0) {
    return log_line(LogLevel::error, "bmc", options_.host + ": processes survive SIGKILL");
  }
  processes_->kill_all();
  killing_.set_after(kKillPassEvery, [this, passes_left] { kill_until_empty(passes_left - 1); });
}

Result<void> LabMachine::switch_on() {
  killing_.cancel();
  LabRequest request;
  request.kind = LabRequestKind::power_on;
  request.host = options_.host;
  auto done = call_lab(options_.instance, request);
  return done ? Result<void>() : Result<void>(done.error());
}

void LabMachine::tell_lab(LabRequestKind kind) {
  LabRequest request;
  request.kind = kind;
  request.host = options_.host;
  if (auto done = call_lab(options_.instance, request); !done) {
    log_line(LogLevel::warning, "bmc", done.error().text());
  }
}

BmcMode LabMachine::mode() { return read_bmc_mode(options_.mode_path); }

bool LabMachine::read_watchdog() {
  char bytes[256];
  const ssize_t got = read(watchdog_.get(), bytes, sizeof bytes);
  if (got <= 0) return false;
  if (bytes[got - 1] == kWatchdogDisarmed) {
    watchdog_timer_.cancel();
  } else {
    watchdog_timer_.set_after(options_.watchdog_ms, [this] { on_watchdog_due(); });
  }
  return true;
}

// A host that has booted meanwhile disarmed it before its first program: its word lies in the pipe.
void LabMachine::on_watchdog_due() {
  if (power() == MachinePower::off || read_watchdog()) return;
  log_line(LogLevel::warning, "bmc",
           options_.host + ": the watchdog was not fed for " +
               std::to_string(to_ms(options_.watchdog_ms)) + " ms, switching the host off");
  force_off();
}

void disarm_watchdog(const std::string& path) {
  const Descriptor pipe(::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
  if (pipe.valid() && write(pipe.get(), &kWatchdogDisarmed, 1) != 1) {
    log_line(LogLevel::warning, "lab", "disarm the watchdog " + path + ": " + strerror(errno));
  }
}

MachinePower read_power_switch(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word == "off" ? MachinePower::off : MachinePower::on;
}

Result<void> write_power_switch(const std::string& path, MachinePower power) {
  return write_file_atomically(path, std::string(enum_name(power)) + "\n");
}

BmcMode read_bmc_mode(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  BmcMode mode = BmcMode::answers;
  boost::describe::enum_from_string(word.c_str(), mode);
  return mode;
}

}  // namespace virga
