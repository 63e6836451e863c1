#include "lab/lab_host.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/log.h"
#include "base/reflect.h"
#include "edge/file.h"
#include "edge/tls.h"
#include "lab/machine_switch.h"

namespace virga {

namespace {

constexpr Duration kLookEvery = milliseconds(2);
constexpr int kLooksMax = 5000;

std::string new_boot_id() {
  const std::string hex = random_secret();
  return hex.substr(0, 8) + "-" + hex.substr(8, 4) + "-" + hex.substr(12, 4) + "-" +
         hex.substr(16, 4) + "-" + hex.substr(20, 12);
}

}  // namespace

std::map<std::string, std::string> lab_environment() {
  std::map<std::string, std::string> environment{{"PATH", "/usr/sbin:/usr/bin:/sbin:/bin"}};
  for (const char* name : {"ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS"}) {
    if (const char* value = std::getenv(name)) environment[name] = value;
  }
  return environment;
}

LabHost::LabHost(AsioLoop& loop, const LabOptions& options, LabNetwork& network, int index,
                 Task changed)
    : loop_(loop),
      options_(options),
      network_(network),
      index_(index),
      name_("host-" + std::to_string(index)),
      paths_(options),
      processes_id_(host_processes_id(options, name_, network.plan().host_namespace(index))),
      agent_(loop, name_ + ".agent", changed),
      leash_(loop, name_ + ".leash", changed),
      bmc_(loop, name_ + ".bmc", changed),
      waiting_(loop) {}

Result<void> LabHost::prepare() {
  for (const auto& folder : {paths_.host_data(name_), paths_.host_runtime(name_)}) {
    if (auto made = make_folders(folder, 0700); !made) return made;
  }
  auto processes = open_host_processes(processes_id_);
  if (!processes) return processes.error();
  processes_ = std::move(*processes);
  if (auto prepared = processes_->prepare(options_.limits); !prepared) return prepared;
  const std::string pipe = runtime("watchdog");
  unlink(pipe.c_str());
  if (mkfifo(pipe.c_str(), 0600) != 0) {
    return make_error(Errc::denied, "make the pipe " + pipe + ": " + strerror(errno));
  }
  auto on = write_power_switch(runtime("power"), MachinePower::off);
  return on ? set_bmc_mode("answers") : on;
}

ProcessOptions LabHost::program(const std::string& log_name) const {
  ProcessOptions program;
  program.environment = lab_environment();
  program.output_path = paths_.log(name_ + "." + log_name);
  return program;
}

Result<void> LabHost::start_bmc() {
  auto opened = open_namespace(network_.plan().bmc_namespace());
  if (!opened) return opened.error();
  bmc_namespace_ = Descriptor(*opened);
  auto birth_files = make_part(options_, "bmc");
  if (!birth_files) return birth_files.error();
  ProcessOptions start = program("bmc");
  start.arguments = {options_.own_program,
                     "bmc",
                     "--listen",
                     network_.plan().bmc_address(index_) + ":" + std::to_string(kBmcPort),
                     "--host",
                     name_,
                     "--instance",
                     options_.instance,
                     "--processes",
                     processes_id_,
                     "--power-file",
                     runtime("power"),
                     "--mode-file",
                     runtime("bmc-mode"),
                     "--password-file",
                     paths_.bmc_password()};
  if (options_.watchdog_s > 0) {
    start.arguments.insert(
        start.arguments.end(),
        {"--watchdog", runtime("watchdog"), "--watchdog-s", std::to_string(options_.watchdog_s)});
  }
  start.cgroup_procs = std::move(*birth_files);
  start.network_namespace = bmc_namespace_.get();
  return bmc_.start(std::move(start));
}

Result<void> LabHost::power_on() {
  if (plugged_ && read_power_switch(runtime("power")) == MachinePower::off &&
      processes_->list().empty()) {
    // The BMC has switched it off, and its word has not come yet.
    agent_.give_up();
    leash_.give_up();
    finish_power_off();
  }
  // Else its processes are still dying: it is switched on when they are gone.
  on_again_ = plugged_ && read_power_switch(runtime("power")) == MachinePower::off;
  if (plugged_) return {};
  waiting_.cancel();
  if (auto thawed = processes_->thaw(); !thawed) return thawed;
  frozen_ = false;
  if (auto made = network_.plug_host(index_); !made) return made;
  plugged_ = true;
  auto opened = open_namespace(network_.plan().host_namespace(index_));
  if (!opened) return opened.error();
  namespace_ = Descriptor(*opened);
  boot_id_ = new_boot_id();
  if (options_.watchdog_s > 0) disarm_watchdog(runtime("watchdog"));
  if (auto on = write_power_switch(runtime("power"), MachinePower::on); !on) return on;
  log_line(LogLevel::info, "lab", name_ + " boots with boot id " + boot_id_);
  return start_programs();
}

ProcessOptions LabHost::leash_program() const {
  ProcessOptions leash = program("leash");
  leash.arguments = {options_.own_program,  "leash",   "--socket",
                     runtime("leash.sock"), "--state", runtime("leash.state")};
  if (options_.watchdog_s > 0) {
    leash.arguments.insert(
        leash.arguments.end(),
        {"--watchdog", runtime("watchdog"), "--watchdog-s", std::to_string(options_.watchdog_s)});
  }
  return leash;
}

ProcessOptions LabHost::agent_program() const {
  ProcessOptions agent = program("agent");
  const LabPlan& plan = network_.plan();
  agent.arguments = {options_.agent_program,
                     "agent",
                     "--server",
                     "wss://" + plan.server_address() + ":" + std::to_string(kAgentsPort),
                     "--token-file",
                     paths_.token(name_),
                     "--authority",
                     paths_.server() + "/authority/authority.crt",
                     "--data",
                     paths_.host_data(name_),
                     "--name",
                     name_,
                     "--address",
                     plan.management_address(index_),
                     "--tenant-address",
                     plan.tenant_address(index_),
                     "--storage-address",
                     plan.storage_address(index_),
                     "--outside-device",
                     "out0",
                     "--leash",
                     runtime("leash.sock"),
                     "--shared",
                     runtime("shared"),
                     "--namespaces",
                     plan.host_namespace(index_) + "-",
                     "--log-level",
                     options_.log_level};
  for (const std::string& device : options_.host_devices) {
    const std::string mine = name_ + ":";
    if (!device.starts_with(mine)) continue;
    agent.arguments.insert(agent.arguments.end(), {"--host-device", device.substr(mine.size())});
  }
  if (options_.rights == LabRights::whole_machine) {
    agent.arguments.insert(agent.arguments.end(), {"--cgroup-base", cgroup()});
  } else {
    agent.arguments.insert(
        agent.arguments.end(),
        {"--unlimited", "--cpu-millicores", std::to_string(options_.limits.cpu_millicores.value),
         "--memory-mib", std::to_string(options_.limits.memory_mib.value)});
  }
  return agent;
}

// A host reaches the shared directory by a link of its own, which is gone while its storage network
// is cut: nothing there can be opened. What is open stays so, the directory being local in the lab.
Result<void> LabHost::mount_shared() const {
  const std::string link = runtime("shared");
  const std::vector<std::string> cut = network_.cuts(index_);
  if (unlink(link.c_str()) != 0 && errno != ENOENT) return errno_error("unlink " + link, errno);
  if (std::find(cut.begin(), cut.end(), enum_name(LabNetworkName::storage)) != cut.end()) return {};
  if (symlink(paths_.shared().c_str(), link.c_str()) == 0) return {};
  return errno_error("link " + link + " to " + paths_.shared(), errno);
}

Result<void> LabHost::start_programs() {
  if (auto mounted = mount_shared(); !mounted) return mounted;
  ProcessOptions leash = leash_program();
  ProcessOptions agent = agent_program();
  for (ProcessOptions* start : {&leash, &agent}) {
    start->environment["VIRGA_BOOT_ID"] = boot_id_;
    start->cgroup_procs = processes_->birth_files();
    start->network_namespace = namespace_.get();
  }
  auto started = leash_.start(std::move(leash));
  return started ? agent_.start(std::move(agent)) : started;
}

void LabHost::power_off(Callback<void> done) {
  on_again_ = false;
  if (auto off = write_power_switch(runtime("power"), MachinePower::off); !off) {
    return loop_.post([done, error = off.error()] { done(error); });
  }
  agent_.give_up();
  leash_.give_up();
  if (plugged_) {
    if (auto cut = network_.cut_all(index_); !cut) {
      log_line(LogLevel::error, "lab", cut.error().text());
    }
  }
  processes_->kill_all();
  wait_until_empty(kLooksMax, std::move(done));
}

// The group is killed again at every look: a process may have been born into it by one that was not
// frozen yet.
void LabHost::wait_until_empty(int looks_left, Callback<void> done) {
  waiting_.set_after(kLookEvery, [this, looks_left, done = std::move(done)] {
    if (processes_->list().empty()) {
      finish_power_off();
      return done({});
    }
    if (looks_left == 0) {
      return done(make_error(Errc::timeout, "power off " + name_ + ": processes survive SIGKILL"));
    }
    if (looks_left % 20 == 0) processes_->kill_all();
    wait_until_empty(looks_left - 1, done);
  });
}

void LabHost::finish_power_off() {
  frozen_ = false;
  if (!plugged_) return;
  plugged_ = false;
  namespace_.reset();
  if (auto done = network_.unplug_host(index_); !done) {
    log_line(LogLevel::error, "lab", done.error().text());
  }
  log_line(LogLevel::info, "lab", name_ + " is off");
}

// A program may have been started again between the BMC's last kill and this.
void LabHost::powered_off_by_bmc() {
  if (read_power_switch(runtime("power")) != MachinePower::off) return;
  agent_.give_up();
  leash_.give_up();
  if (!processes_->list().empty()) processes_->kill_all();
  wait_until_empty(kLooksMax, [this](Result<void> done) {
    if (done && std::exchange(on_again_, false)) done = power_on();
    if (!done) log_line(LogLevel::error, "lab", done.error().text());
  });
}

Result<void> LabHost::fail(const LabRequest& fault) {
  switch (fault.how) {
    case LabFault::none:
      return {};
    case LabFault::power:
      return make_error(Errc::internal, "power_off() cuts the power");
    case LabFault::link: {
      auto cut = network_.set_cut(index_, fault.network, true);
      return cut ? mount_shared() : cut;
    }
    case LabFault::link_out:
      return network_.set_one_way(index_, fault.network, LinkDirection::from_host, true);
    case LabFault::link_in:
      return network_.set_one_way(index_, fault.network, LinkDirection::to_host, true);
    case LabFault::hang: {
      auto done = processes_->freeze();
      frozen_ = done.ok();
      return done;
    }
    case LabFault::qemu:
      kill_hypervisors();
      return {};
    case LabFault::agent:
      agent_.hold(fault.hold);
      agent_.signal(SIGKILL);
      return {};
    case LabFault::leash:
      leash_.hold(fault.hold);
      leash_.signal(SIGKILL);
      return {};
  }
  return {};
}

void LabHost::kill_hypervisors() const {
  for (const pid_t pid : processes_->list()) {
    const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    if (pidfd < 0) continue;
    std::ifstream file("/proc/" + std::to_string(pid) + "/comm");
    std::string program_name;
    std::getline(file, program_name);
    if (program_name.rfind("qemu-system", 0) == 0) {
      syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0);
    }
    close(pidfd);
  }
}

Result<void> LabHost::set_bmc_mode(const std::string& mode) {
  BmcMode known = BmcMode::answers;
  if (!boost::describe::enum_from_string(mode.c_str(), known)) {
    return make_error(Errc::invalid, "set the BMC of " + name_ + " to \"" + mode +
                                         "\": it is one of " + reflect::enum_names<BmcMode>());
  }
  return write_file_atomically(runtime("bmc-mode"), mode + "\n");
}

Result<void> LabHost::heal() {
  auto done = network_.set_cut(index_, LabNetworkName::all, false);
  for (const LinkDirection direction : {LinkDirection::to_host, LinkDirection::from_host}) {
    if (done) done = network_.set_one_way(index_, LabNetworkName::all, direction, false);
  }
  if (done) done = mount_shared();
  if (done) done = set_bmc_mode("answers");
  if (done) done = processes_->thaw();
  if (!done) return done;
  frozen_ = false;
  agent_.hold(false);
  leash_.hold(false);
  return power_on();
}

std::string LabHost::cgroup() const {
  const bool grouped = options_.rights == LabRights::whole_machine;
  return grouped ? lab_cgroup_name(options_.instance) + "/" + name_ : "";
}

LabHostStatus LabHost::status() const {
  LabHostStatus status;
  status.name = name_;
  status.powered = !processes_->list().empty();
  status.frozen = frozen_;
  status.boot_id = boot_id_;
  status.bmc = std::string(enum_name(read_bmc_mode(runtime("bmc-mode"))));
  status.agent_pid = agent_.pid();
  status.leash_pid = leash_.pid();
  for (const Supervised* one : {&agent_, &leash_}) {
    if (one->held()) status.held_down.push_back(one->name());
  }
  status.cut = network_.cuts(index_);
  status.deaf = network_.one_ways(index_, LinkDirection::to_host);
  status.mute = network_.one_ways(index_, LinkDirection::from_host);
  status.address = network_.plan().management_address(index_);
  status.tenant_address = network_.plan().tenant_address(index_);
  status.network_namespace = network_.plan().host_namespace(index_);
  status.cgroup = cgroup();
  return status;
}

}  // namespace virga
