#include "driver/qemu/vm_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "base/log.h"
#include "driver/qemu/disk_legs.h"
#include "driver/qemu/kvm_probe.h"
#include "driver/qmp/unix_socket.h"
#include "edge/file.h"

namespace virga {
namespace {

constexpr int kFirstDescriptor = 10;
constexpr Duration kGroupRetry = milliseconds(20);
constexpr int kGroupAttempts = 100;

std::string group_of(const VmLaunch& launch) { return launch.vm.value; }

CgroupLimits limits_of(const VmLaunch& launch, const QemuOptions& options) {
  CgroupLimits limits;
  limits.cpu_quota =
      launch.cpu_millicores.value > 0 ? launch.cpu_millicores : Millicores{launch.cpus * 1000};
  limits.cpu_weight = launch.cpu_weight;
  limits.memory_mib_max = launch.memory_mib + options.overhead_mib;
  limits.processes_max = launch.processes_max;
  return limits;
}

/// The group outlives the VmProcess when the kernel still counts the process that has just ended.
void remove_group_later(AsioLoop& loop, const std::weak_ptr<Cgroups>& cgroups,
                        const std::string& group, int attempts) {
  const auto alive = cgroups.lock();
  if (alive == nullptr) return;
  const auto done = alive->remove(group);
  if (done) return;
  if (attempts <= 0) {
    log_line(LogLevel::warning, "qemu", done.error().text());
    return;
  }
  loop.after(kGroupRetry, [&loop, cgroups, group, attempts] {
    remove_group_later(loop, cgroups, group, attempts - 1);
  });
}

/// As QEMU may name a folder that it has open.
std::string folder_of(InheritedDescriptor folder) {
  return fmt::format("/proc/self/fd/{}", folder.number);
}

}  // namespace

void take_limits(const VmLaunch& from, VmLaunch& to) {
  to.cpu_millicores = from.cpu_millicores;
  to.cpu_weight = from.cpu_weight;
  to.processes_max = from.processes_max;
}

/// Descriptors on their way into the child, and the hardware that refers to them.
struct VmProcess::Inherited {
  Hardware hardware;
  std::vector<Descriptor> owned;
  std::map<int, int> map;  ///< number in the child -> number here
  int next = kFirstDescriptor;

  InheritedDescriptor lend(int here) {
    map.emplace(next, here);
    return {next++};
  }
  InheritedDescriptor give(Descriptor descriptor) {
    owned.push_back(std::move(descriptor));
    return lend(owned.back().get());
  }
};

VmProcess::VmProcess(VmContext& context, VmFolder folder, Handlers handlers)
    : context_(context), folder_(std::move(folder)), handlers_(std::move(handlers)) {}

void VmProcess::open_ports(const VmLaunch& launch, Callback<void> done) {
  record_.launch = launch;
  open_nics_ = launch.nics;
  struct Outcome {
    std::size_t left;
    Result<void> first;
    Callback<void> done;
  };
  auto outcome = std::make_shared<Outcome>(Outcome{launch.nics.size() + 1, {}, std::move(done)});
  const auto one_done = [outcome](const Result<void>& port) {
    if (outcome->first.ok()) outcome->first = port;
    if (--outcome->left == 0) outcome->done(outcome->first);
  };
  for (const LaunchNic& nic : launch.nics) {
    context_.fabric.open_port(
        nic, [this, nic, one_done, alive = std::weak_ptr<int>(alive_)](Result<OpenPort> port) {
          Descriptor opened(port ? port->tap_descriptor : -1);
          if (!alive.expired()) one_done(take_port(nic, std::move(opened), port));
        });
  }
  context_.loop.post([one_done, alive = std::weak_ptr<int>(alive_)] {
    if (!alive.expired()) one_done({});
  });
}

Result<void> VmProcess::take_port(const LaunchNic& nic, Descriptor opened,
                                  const Result<OpenPort>& port) {
  if (!port) return wrap_error("port " + nic.port, port.error());
  if (!opened.valid())
    return make_error(Errc::internal, "port " + nic.port + ": no tap was opened");
  ports_[nic.port] = {std::move(opened), port->packets};
  if (!port->packets) taps_.push_back(port->tap_name);
  return {};
}

Result<void> VmProcess::launch(const OpenFiles& files, bool incoming, std::uint32_t user) {
  const VmLaunch launch = record_.launch;
  record_ = LaunchRecord{launch, read_boot_id(), 0, 0, user, incoming, false};
  if (auto done = make_folders(folder_.path, 0700); !done) return done;
  if (context_.cgroups != nullptr) {
    auto grouped = context_.cgroups->set(group_of(launch), limits_of(launch, context_.options));
    if (!grouped) return wrap_error("cgroup of " + launch.vm.value, grouped.error());
  }
  if (auto done = spawn(files); !done) return done;
  record_.pid = process_->pid();
  record_.start_ticks = process_->start_ticks();
  if (auto done = write_launch_record(folder_, record_); !done) return done;
  return context_.guard.guard(launch.vm.value, process_->pidfd());
}

Result<void> VmProcess::spawn(const OpenFiles& files) {
  const VmLaunch& launch = record_.launch;
  Inherited inherited;
  Hardware& hardware = inherited.hardware;
  hardware.name = launch.vm.value;
  hardware.identity = launch.identity;
  hardware.cpus = launch.cpus;
  hardware.memory_mib = launch.memory_mib;
  hardware.incoming = record_.incoming;
  if (context_.options.memory == MemoryKind::memfd) hardware.memory = MemfdMemory{};
  if (auto done = add_files(files, inherited); !done) return done;
  if (auto done = add_nics(inherited); !done) return done;
  if (auto done = open_channels(inherited); !done) return done;
  auto arguments = command_line(hardware);
  if (!arguments) return arguments.error();

  ProcessOptions options;
  options.arguments = std::move(*arguments);
  options.arguments.insert(options.arguments.begin(), context_.options.program);
  options.environment = {{"LC_ALL", "C"}, {"PATH", "/usr/bin:/bin"}};
  options.descriptors = inherited.map;
  options.lowered = true;
  options.output_path = folder_.log();
  ::unlink(options.output_path.c_str());
  if (context_.cgroups != nullptr)
    options.cgroup_procs = context_.cgroups->procs_files(group_of(launch));
  if (record_.user != 0) {
    options.as.user = record_.user;
    options.as.group = context_.options.group;
    if (launch.identity.accelerator == Accelerator::kvm) options.as.groups = kvm_groups();
  }
  auto process = Process::spawn(context_.loop, options);
  if (!process) return process.error();
  follow(std::move(*process));
  return {};
}

Result<void> VmProcess::add_files(const OpenFiles& files, Inherited& inherited) {
  const VmLaunch& launch = record_.launch;
  for (std::size_t index = 0; index < files.disks.size(); ++index) {
    if (!launch.disks[index].volume.empty()) {
      if (auto done = add_volume(index, inherited); !done) return done;
      continue;
    }
    FileDisk disk;
    for (const OpenDiskFile& file : files.disks[index]) {
      disk.chain.push_back({inherited.lend(file.descriptor.get()), file.format});
    }
    inherited.hardware.disks.push_back({launch.disks[index].name, std::move(disk)});
  }
  for (const OpenHostDevice& device : files.host_devices) {
    inherited.hardware.host_devices.push_back(
        {device.name, inherited.lend(device.descriptor.get()), device.block});
  }
  if (files.seed.valid()) inherited.hardware.seed = inherited.lend(files.seed.get());
  if (!files.kernel.valid()) return {};
  inherited.hardware.direct_boot = true;
  DirectBoot& boot = inherited.hardware.boot;
  boot.kernel = inherited.lend(files.kernel.get());
  if (files.initrd.valid()) boot.initrd = inherited.lend(files.initrd.get());
  boot.command_line = launch.command_line;
  return {};
}

/// QEMU reads the key by the name of a folder and may enter none of the agent's: it gets this one
/// open.
Result<void> VmProcess::add_volume(std::size_t index, Inherited& inherited) {
  const LaunchDisk& disk = record_.launch.disks[index];
  const auto open_at = [&](std::size_t folder, const LaunchDisk& place) -> Result<NbdDisk> {
    auto keys = write_volume_keys(folder_, folder, place, record_.user);
    if (!keys) return keys.error();
    NbdDisk volume = nbd_of(*place.endpoint, place.mirrored);
    volume.keys_directory = folder_of(inherited.give(std::move(*keys)));
    return volume;
  };
  const auto first = open_at(index, disk);
  if (!first) return first.error();
  if (!disk.mirrored) {
    inherited.hardware.disks.push_back({disk.name, *first});
    return {};
  }
  MirroredDisk mirrored;
  mirrored.legs.push_back({leg_node(index, disk.endpoint->device), *first});
  if (disk.second) {
    LaunchDisk other = disk;
    other.endpoint = disk.second;
    const auto second = open_at(index + kDisksMax, other);
    if (!second) return second.error();
    mirrored.legs.push_back({leg_node(index, disk.second->device), *second});
  }
  inherited.hardware.disks.push_back({disk.name, std::move(mirrored)});
  return {};
}

Result<void> VmProcess::add_nics(Inherited& inherited) {
  auto ports = std::exchange(ports_, {});
  for (const LaunchNic& nic : record_.launch.nics) {
    const auto port = ports.find(nic.port);
    if (port == ports.end()) return make_error(Errc::internal, "port " + nic.port + " is not open");
    if (!port->second.packets) {
      inherited.hardware.nics.push_back(
          {nic.mac, nic.mtu, TapNic{inherited.give(std::move(port->second.descriptor))}});
      continue;
    }
    auto wire = lay_wire(port->second.descriptor, inherited);
    if (!wire) return wrap_error("port " + nic.port, wire.error());
    inherited.hardware.nics.push_back({nic.mac, nic.mtu, *wire});
  }
  return {};
}

// QEMU takes no packet socket. With SOCK_SEQPACKET, other than with SOCK_DGRAM, the wire sees that
// QEMU has ended.
Result<NicBackend> VmProcess::lay_wire(const Descriptor& port, Inherited& inherited) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return errno_error("make a socket to QEMU", errno);
  }
  const Descriptor far(ends[1]);
  const DatagramNic nic{inherited.give(Descriptor(ends[0]))};
  ProcessOptions options;
  options.arguments = {context_.options.own_program, "wire"};
  options.descriptors = {{3, port.get()}, {4, far.get()}};
  auto wire = Process::spawn(context_.loop, options);
  if (!wire) return wire.error();
  wires_.push_back(std::move(*wire));
  return NicBackend(nic);
}

Result<void> VmProcess::open_channels(Inherited& inherited) {
  Hardware& hardware = inherited.hardware;
  const std::pair<std::string, InheritedDescriptor*> sockets[] = {
      {folder_.qmp(), &hardware.qmp},
      {folder_.heartbeat(), &hardware.heartbeat},
      {folder_.guest_agent(), &hardware.guest_agent}};
  for (const auto& [path, place] : sockets) {
    auto socket = listen_unix(path);
    if (!socket) return socket.error();
    *place = inherited.give(std::move(*socket));
  }
  const std::string path = folder_.console();
  Descriptor console(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
  if (!console.valid()) return errno_error("open " + path, errno);
  hardware.console = inherited.give(std::move(console));
  return {};
}

void VmProcess::follow(std::unique_ptr<Process> process) {
  process_ = std::move(process);
  process_->on_exit([this](ProcessExit exit) {
    qmp_open_ = false;
    if (handlers_.exit) handlers_.exit(exit);
  });
}

Result<void> VmProcess::adopt(const LaunchRecord& record) {
  record_ = record;
  open_nics_ = record.launch.nics;
  if (record.ended || record.pid <= 0 || record.boot_id != read_boot_id()) {
    return make_error(Errc::not_found, "the process of " + record.launch.vm.value + " has ended");
  }
  auto process = Process::adopt(context_.loop, static_cast<pid_t>(record.pid), record.start_ticks);
  if (!process) return process.error();
  follow(std::move(*process));
  return context_.guard.guard(record.launch.vm.value, process_->pidfd());
}

void VmProcess::connect_qmp(Duration deadline, Callback<void> done) {
  qmp_open_ = false;
  qmp_.reset();
  auto socket = connect_unix(folder_.qmp());
  if (!socket) {
    context_.loop.post(
        [alive = std::weak_ptr<int>(alive_), done = std::move(done), why = socket.error()] {
          if (!alive.expired()) done(why);
        });
    return;
  }
  qmp_ = std::make_unique<QmpClient>(
      context_.loop, std::make_unique<QmpSocket>(context_.loop, std::move(*socket)));
  qmp_->set_correlation(record_.launch.correlation);
  qmp_->on_event([this](const QmpEvent& event) {
    if (handlers_.event) handlers_.event(event);
  });
  qmp_->on_closed([this](const Error& why) {
    qmp_open_ = false;
    if (handlers_.qmp_lost) handlers_.qmp_lost(why);
  });
  qmp_->open(deadline, [this, done = std::move(done)](Result<void> opened) {
    qmp_open_ = opened.ok();
    done(std::move(opened));
  });
}

void VmProcess::kill() {
  if (process_ != nullptr) process_->signal(SIGKILL);
}

void VmProcess::release() {
  qmp_open_ = false;
  context_.guard.release(record_.launch.vm.value);
  for (const LaunchNic& nic : open_nics_) {
    context_.fabric.close_port(nic, [](const Result<void>& closed) {
      if (!closed) log_line(LogLevel::warning, "qemu", closed.error().text());
    });
  }
  open_nics_.clear();
  ports_.clear();
  for (const std::string& path : {folder_.qmp(), folder_.heartbeat(), folder_.guest_agent()}) {
    ::unlink(path.c_str());
  }
  record_.ended = true;
  if (record_.pid > 0) {
    const auto written = write_launch_record(folder_, record_);
    if (!written) log_line(LogLevel::warning, "qemu", written.error().text());
  }
  if (context_.cgroups != nullptr) {
    remove_group_later(context_.loop, context_.cgroups, group_of(record_.launch), kGroupAttempts);
  }
}

Result<void> VmProcess::change_limits(const VmLaunch& from) {
  VmLaunch changed = record_.launch;
  take_limits(from, changed);
  if (context_.cgroups != nullptr) {
    auto set = context_.cgroups->set(group_of(changed), limits_of(changed, context_.options));
    if (!set) return set;
  }
  record_.launch = std::move(changed);
  return write_launch_record(folder_, record_);
}

Result<CgroupUsage> VmProcess::usage() const {
  if (context_.cgroups == nullptr) return make_error(Errc::unsupported, "no cgroups");
  return context_.cgroups->usage(group_of(record_.launch));
}

std::string VmProcess::log_tail() const {
  auto text = read_file(folder_.log());
  if (!text) return {};
  while (!text->empty() && text->back() == '\n') text->pop_back();
  return text->size() > 2000 ? text->substr(text->size() - 2000) : *text;
}

Result<void> VmProcess::mark_incoming(bool incoming) {
  record_.incoming = incoming;
  return write_launch_record(folder_, record_);
}

Result<void> VmProcess::note_mirror(std::optional<MirrorRecord> mirror) {
  const auto before = std::exchange(record_.mirror, std::move(mirror));
  auto written = write_launch_record(folder_, record_);
  if (!written) record_.mirror = before;
  return written;
}

Result<void> VmProcess::note_kept_leg(std::optional<LegRecord> kept) {
  const auto before = std::exchange(record_.kept_leg, std::move(kept));
  auto written = write_launch_record(folder_, record_);
  if (!written) record_.kept_leg = before;
  return written;
}

void VmProcess::turn_disk(const LaunchDisk& disk) {
  for (LaunchDisk& known : record_.launch.disks) {
    if (known.name == disk.name) known = disk;
  }
}

}  // namespace virga
