#include "driver/qemu/test_lab.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "driver/qemu/boot_sectors.h"
#include "edge/file.h"

namespace virga {
namespace {

/// A port that nothing leads to.
OpenPort unconnected_tap() {
  OpenPort made;
  made.tap_descriptor = ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  EXPECT_EQ(::ioctl(made.tap_descriptor, TUNSETIFF, &request), 0);
  return made;
}

}  // namespace

QemuLab::QemuLab() {
  char name[] = "/tmp/virga-qemu-XXXXXX";
  if (::mkdtemp(name) == nullptr) std::abort();
  folder_ = name;
  ::chmod(name, 0755);
  // Where a user who may not look into the build folder can start it too.
  std::error_code far;
  std::filesystem::create_hard_link(VIRGAD_PROGRAM, folder_ + "/virgad", far);
  if (far) std::filesystem::copy_file(VIRGAD_PROGRAM, folder_ + "/virgad");
  for (int index = 0; index < 2; ++index) {
    EXPECT_TRUE(make_folders(run(index)).ok());
    open(index);
  }
}

QemuLab::~QemuLab() {
  for (int index = 0; index < 2; ++index) {
    const auto vms = hosts_[index].hypervisor->observe();
    for (const ObservedVm& vm : vms) signal(index, vm.vm, SIGKILL);
    run_until([&] { return hosts_[index].hypervisor->observe().empty(); }, seconds(20));
    for (const ObservedVm& vm : vms) {
      run_until([&] { return leftovers(index, vm.vm).empty(); }, seconds(5));
    }
    hosts_[index].hypervisor.reset();
  }
  for (const char* controller : {"cpu", "cpuacct", "memory", "pids", "unified"}) {
    for (int index = 0; index < 2; ++index) {
      const std::string base = fmt::format("/sys/fs/cgroup/{}/{}", controller, group(index));
      for (const char* below : {"/virga/acme", "/virga", ""}) ::rmdir((base + below).c_str());
    }
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::string QemuLab::group(int index) const {
  return fmt::format("{}-{}", folder_.substr(folder_.rfind('/') + 1), index);
}

void QemuLab::open(int index) {
  QemuOptions options;
  options.run_directory = run(index);
  options.shared_directory = shared();
  options.cgroup_base = group(index);
  options.encrypt_migrations = encrypt_migrations;
  options.host_devices = host_devices;
  options.own_program = folder_ + "/virgad";
  Host& host = hosts_[index];
  host.fabric = std::make_unique<NullFabric>(loop_);
  host.fabric->ports = unconnected_tap;
  host.hypervisor = std::make_unique<QemuHypervisor>(loop_, options, host.guard, *host.fabric);
  bool opened = false;
  host.hypervisor->open(host.sink, [&](Result<HypervisorInfo> info) {
    EXPECT_TRUE(info.ok()) << info.error().text();
    if (info) host.info = *info;
    opened = true;
  });
  EXPECT_TRUE(run_until([&] { return opened; }, seconds(30)));
}

void QemuLab::restart_agent(int index) {
  hosts_[index].hypervisor.reset();
  hosts_[index].guard.guarded.clear();
  open(index);
}

VmLaunch QemuLab::launch(const std::string& name, std::uint64_t epoch) {
  VmLaunch launch;
  launch.vm = VmId("acme/" + name);
  launch.epoch = {1, epoch};
  launch.identity = {"6f3c6a3e-3d5b-4a5c-9d59-5d3f6f1c0a01", "pc-q35-7.2", "qemu64-v1",
                     Accelerator::tcg};
  launch.cpu_millicores = Millicores{1000};
  launch.memory_mib = Mib{32};
  launch.directory = "vms/acme/" + name;
  launch.disks = {{"root", launch.directory + "/root.raw", "", Mib{1}}};
  if (::access((shared() + "/" + launch.disks[0].path).c_str(), F_OK) != 0)
    write_root(launch, boot_sectors::idle());
  return launch;
}

void QemuLab::write_root(const VmLaunch& launch, const std::string& sector) {
  EXPECT_TRUE(make_folders(shared() + "/" + launch.directory).ok());
  std::string disk = sector;
  disk.resize(1 << 20, '\0');
  EXPECT_TRUE(write_file_atomically(shared() + "/" + launch.disks[0].path, disk, 0600).ok());
}

std::int64_t QemuLab::pid(int index, const VmId& vm) const {
  const auto record = read_launch_record(*vm_folder(run(index), vm));
  return record && !record->ended ? record->pid : 0;
}

std::string QemuLab::group_file(int index, const VmId& vm, const std::string& file) const {
  for (const std::string& controller : {file.substr(0, file.find('.')), std::string()}) {
    const auto text = read_file(
        fmt::format("/sys/fs/cgroup/{}/{}/virga/{}/{}", controller, group(index), vm.value, file));
    if (text) return text->substr(0, text->find('\n'));
  }
  return {};
}

void QemuLab::signal(int index, const VmId& vm, int number) {
  const std::int64_t process = pid(index, vm);
  if (process > 0) ::kill(static_cast<pid_t>(process), number);
}

std::optional<ObservedVm> QemuLab::told(int index, const VmId& vm) {
  const auto found = hosts_[index].sink.last.find(vm);
  if (found == hosts_[index].sink.last.end()) return std::nullopt;
  return found->second;
}

std::vector<std::string> QemuLab::leftovers(int index, const VmId& vm) {
  std::vector<std::string> left;
  if (pid(index, vm) > 0) left.push_back("a process in launch.json");
  for (const char* controller : {"cpu", "cpuacct", "memory", "pids", "unified"}) {
    const std::string path =
        fmt::format("/sys/fs/cgroup/{}/{}/virga/{}", controller, group(index), vm.value);
    if (::access(path.c_str(), F_OK) == 0) left.push_back(path);
  }
  if (hosts_[index].guard.guarded.contains(vm.value)) left.push_back("guard");
  const std::string socket = run(index) + "/" + vm.value + "/qmp.sock";
  if (::access(socket.c_str(), F_OK) == 0) left.push_back(socket);
  return left;
}

bool QemuLab::run_until(const std::function<bool()>& condition, Duration deadline) {
  const Instant end = loop_.now() + deadline;
  while (!condition()) {
    if (loop_.now() >= end) return false;
    loop_.after(milliseconds(5), [this] { loop_.stop(); });
    loop_.run();
  }
  return true;
}

}  // namespace virga
