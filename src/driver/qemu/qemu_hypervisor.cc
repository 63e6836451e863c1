#include "driver/qemu/qemu_hypervisor.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>
#include <sstream>

#include "base/log.h"
#include "driver/qemu/kvm_probe.h"
#include "edge/file.h"

namespace virga {
namespace {

constexpr int kWorkers = 4;
constexpr std::size_t kQueueMax = 1024;
constexpr Duration kTick = seconds(1);
constexpr Duration kAskDeadline = seconds(5);

Result<std::string> ask_qemu(const std::string& program, std::vector<std::string> arguments) {
  ProcessOptions options;
  options.arguments = std::move(arguments);
  options.arguments.insert(options.arguments.begin(), program);
  options.environment = {{"LC_ALL", "C"}};
  const auto output = run_process(options, kAskDeadline);
  if (!output) return output.error();
  if (output->exit.code == 0) return output->out;
  return make_error(Errc::unsupported, program + " ended with an error: " + output->err);
}

/// "QEMU emulator version 7.2.22 (Debian ...)" -> "7.2.22".
std::string version_of(const std::string& text) {
  constexpr std::string_view kMark = "version ";
  const std::size_t at = text.find(kMark);
  if (at == std::string::npos) return {};
  const std::size_t begin = at + kMark.size();
  return text.substr(begin, text.find_first_of(" \n", begin) - begin);
}

/// Versioned q35 types, newest first, from `-machine help`.
std::vector<std::string> machine_types_of(const std::string& text) {
  std::vector<std::pair<std::pair<int, int>, std::string>> found;
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    int major = 0;
    int minor = 0;
    if (std::sscanf(line.c_str(), "pc-q35-%d.%d ", &major, &minor) != 2) continue;
    found.push_back({{major, minor}, line.substr(0, line.find(' '))});
  }
  std::sort(found.rbegin(), found.rend());
  std::vector<std::string> names;
  for (const auto& [version, name] : found) names.push_back(name);
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

/// Blocking: asks QEMU and the processor what they can do.
Result<std::shared_ptr<HypervisorInfo>> find_info(const QemuOptions& options) {
  const auto version = ask_qemu(options.program, {"--version"});
  if (!version) return version.error();
  const auto machines = ask_qemu(options.program, {"-machine", "help"});
  if (!machines) return machines.error();
  if (auto made = make_folders(options.run_directory, 0711); !made) return made.error();
  CanaryGuest canary;
  canary.qemu = options.program;
  if (options.users.first != 0) canary.as = {options.users.first, options.group, {}};
  const KvmVerdict verdict = kvm_verdict(options.run_directory + "/kvm.json", canary);
  auto info = std::make_shared<HypervisorInfo>();
  info->accelerator = verdict.usable ? Accelerator::kvm : Accelerator::tcg;
  info->accelerator_reason = verdict.reason;
  info->qemu_version = version_of(*version);
  info->cpu_model = verdict.usable ? options.cpu_model_kvm : options.cpu_model_tcg;
  info->machine_types = machine_types_of(*machines);
  if (info->qemu_version.empty() || info->machine_types.empty()) {
    return make_error(Errc::unsupported, options.program + " names no version or no q35 machine");
  }
  return info;
}

std::vector<VmId> recorded_vms(const std::string& run_directory) {
  std::vector<VmId> vms;
  std::error_code error;
  for (const auto& tenant : std::filesystem::directory_iterator(run_directory, error)) {
    if (!tenant.is_directory(error)) continue;
    for (const auto& vm : std::filesystem::directory_iterator(tenant.path(), error)) {
      vms.emplace_back(tenant.path().filename().string() + "/" + vm.path().filename().string());
    }
  }
  std::sort(vms.begin(), vms.end());
  return vms;
}

std::vector<pid_t> processes_of(const Cgroups& cgroups, const VmId& vm) {
  std::vector<pid_t> found;
  for (const std::string& path : cgroups.procs_files(vm.value)) {
    const auto text = read_file(path);
    if (!text) continue;
    std::istringstream pids(*text);
    for (pid_t pid = 0; pids >> pid;) found.push_back(pid);
  }
  return found;
}

/// An agent that died between the birth of a process and its record left one that has never run.
void end_unrecorded(const Cgroups* cgroups, const VmId& vm) {
  if (cgroups == nullptr) return;
  for (const pid_t pid : processes_of(*cgroups, vm)) {
    log_line(LogLevel::warning, "qemu",
             fmt::format("{}: ended process {}, which no record names", vm.value, pid));
    ::kill(pid, SIGKILL);
  }
}

/// Nothing unless it is a range of ids that can be guests' alone.
std::optional<GuestUsers> users_of(const std::string& range) {
  constexpr std::uint32_t kPeople = 1000;         // below are services of the system
  constexpr std::uint32_t kOthersFirst = 65'000;  // of disk probes, `nobody`, 16 bits of -1
  constexpr std::uint32_t kOthersLast = 65'535;
  std::uint32_t first = 0;
  std::uint32_t last = 0;
  const char* const end = range.data() + range.size();
  const auto begun = std::from_chars(range.data(), end, first);
  if (begun.ec != std::errc() || begun.ptr == end || *begun.ptr != '-') return std::nullopt;
  const auto ended = std::from_chars(begun.ptr + 1, end, last);
  if (ended.ec != std::errc() || ended.ptr != end) return std::nullopt;
  // The largest number is no id: who becomes it stays root.
  if (first < kPeople || last <= first || last == std::numeric_limits<std::uint32_t>::max()) {
    return std::nullopt;
  }
  if (first <= kOthersLast && last >= kOthersFirst) return std::nullopt;
  return GuestUsers{first, last - first + 1};
}

bool are_mapped(const GuestUsers& users, const std::string& uid_map) {
  const std::uint64_t end = std::uint64_t{users.first} + users.count;
  std::istringstream lines(uid_map);
  for (std::uint64_t inside = 0, outside = 0, count = 0; lines >> inside >> outside >> count;) {
    if (users.first >= inside && end <= inside + count) return true;
  }
  return uid_map.empty();
}

}  // namespace

Result<GuestUsers> choose_guest_users(const std::string& range, const std::string& uid_map) {
  constexpr GuestUsers kShared{65'534, 1};
  const auto users = range.empty() ? GuestUsers() : users_of(range);
  if (!users) {
    return make_error(Errc::invalid,
                      fmt::format("\"{}\": right is FIRST-LAST, at least two user ids from 1000 on "
                                  "without 65000 to 65535, as 70000-74095",
                                  range));
  }
  if (are_mapped(*users, uid_map)) return *users;
  if (range.empty()) return kShared;
  return make_error(Errc::invalid,
                    fmt::format("\"{}\": the user namespace of this process has not all of them; "
                                "right is a part of what its /proc/self/uid_map maps",
                                range));
}

QemuHypervisor::QemuHypervisor(AsioLoop& loop, QemuOptions options, ProcessGuard& guard,
                               Fabric& fabric)
    : loop_(loop),
      options_(std::move(options)),
      worker_(loop, kWorkers, kQueueMax),
      reader_(loop, 1, kQueueMax),
      prober_(loop, 1, kQueueMax),
      relays_(loop, options_.own_program, options_.group),
      context_{loop,    options_, guard,   fabric,        nullptr,
               worker_, reader_,  prober_, image_checks_, relays_},
      ticker_(loop) {}

QemuHypervisor::~QemuHypervisor() { image_checks_.cancel(); }

void QemuHypervisor::open(HypervisorSink& sink, Callback<HypervisorInfo> done) {
  sink_ = &sink;
  const auto mounts = read_file("/proc/mounts");
  Result<std::unique_ptr<Cgroups>> cgroups = make_error(Errc::unsupported, "as they were told to");
  if (options_.cgroups)
    cgroups = mounts ? find_cgroups(*mounts, options_.cgroup_base) : mounts.error();
  if (cgroups) {
    context_.cgroups = std::move(*cgroups);
  } else if (options_.cgroups && options_.cgroups_required) {
    return answer<HypervisorInfo>(loop_, std::move(done), cgroups.error());
  } else {
    log_line(LogLevel::warning, "qemu", "VMs run without limits: " + cgroups.error().text());
  }
  worker_.run<std::shared_ptr<HypervisorInfo>>(
      [options = options_] { return find_info(options); },
      [this, alive = std::weak_ptr<int>(alive_),
       done = std::move(done)](Result<std::shared_ptr<HypervisorInfo>> info) mutable {
        if (alive.expired()) return;
        if (!info) return done(info.error());
        adopt_all(*info, std::move(done));
      });
}

void QemuHypervisor::adopt_all(std::shared_ptr<HypervisorInfo> info,
                               Callback<HypervisorInfo> done) {
  // Counts the VMs that are being asked, and one for this function itself.
  auto left = std::make_shared<int>(1);
  auto unknown = std::make_shared<std::optional<Error>>();
  auto one_done = [this, left, unknown, info, done] {
    if (--*left > 0) return;
    if (*unknown) return done(**unknown);
    ticker_.set_after(kTick, [this] { tick(); });
    done(*info);
  };
  for (const VmId& id : recorded_vms(options_.run_directory)) {
    const auto folder = vm_folder(options_.run_directory, id);
    if (!folder) continue;
    const auto epoch = read_epoch_record(*folder);
    if (!epoch) return done(wrap_error("adopt " + id.value, epoch.error()));
    epochs_[id] = *epoch;
    const auto record = read_launch_record(*folder);
    const bool damaged = !record && record.error().code != Errc::not_found;
    const bool may_run =
        context_.cgroups == nullptr || !processes_of(*context_.cgroups, id).empty();
    if (damaged && may_run) return done(wrap_error("adopt " + id.value, record.error()));
    if (!record || record->ended) {
      end_unrecorded(context_.cgroups.get(), id);
      continue;
    }
    auto vm = make_vm(*folder, record->launch);
    vms_[id] = vm;
    ++*left;
    vm->adopt(*record, [this, id, unknown, one_done](Result<void> adopted) {
      // Of what may still run nobody says that it has ended: the agent begins anew.
      const bool ended = !adopted && (adopted.error().code == Errc::not_found ||
                                      adopted.error().code == Errc::unavailable);
      if (!adopted && !ended) *unknown = wrap_error("adopt " + id.value, adopted.error());
      if (ended) {
        log_line(LogLevel::info, "qemu", adopted.error().text());
        vms_.erase(id);
        users_.erase(id);
      }
      one_done();
    });
    users_[id] = vm->user();
  }
  loop_.post(one_done);
}

void QemuHypervisor::tick() {
  ticker_.set_after(kTick, [this] { tick(); });
  const auto vms = vms_;
  for (const auto& [id, vm] : vms) vm->tick();
}

std::shared_ptr<QemuVm> QemuHypervisor::make_vm(const VmFolder& folder, const VmLaunch& launch) {
  const VmId id = launch.vm;
  QemuVm::Handlers handlers;
  handlers.changed = [this](const ObservedVm& now, const std::string& why) {
    loop_.post([this, alive = std::weak_ptr<int>(alive_), now, why] {
      if (!alive.expired() && sink_ != nullptr) sink_->vm_changed(now, why);
    });
  };
  handlers.ended = [this, id] { ended(id); };
  handlers.before_run = [this, id, epoch = launch.epoch] { return remember(id, {epoch, true}); };
  return std::make_shared<QemuVm>(context_, folder, launch, std::move(handlers));
}

Result<void> QemuHypervisor::remember(const VmId& vm, const EpochRecord& record) {
  const auto folder = vm_folder(options_.run_directory, vm);
  if (!folder) return folder.error();
  EpochRecord& known = epochs_[vm];
  if (known.epoch == record.epoch && known.used == record.used) return {};
  if (auto written = write_epoch_record(*folder, record); !written) {
    return wrap_error("store epoch " + to_string(record.epoch) + " of " + vm.value,
                      written.error());
  }
  known = record;
  return {};
}

Result<VmFolder> QemuHypervisor::admit(const VmId& vm, const Epoch& epoch) {
  const auto folder = vm_folder(options_.run_directory, vm);
  if (!folder) return folder.error();
  const auto known = epochs_.find(vm);
  if (known == epochs_.end() || epoch >= known->second.epoch) return *folder;
  return make_error(Errc::fenced,
                    fmt::format("{}: epoch {} is older than {}, which this host has seen", vm.value,
                                to_string(epoch), to_string(known->second.epoch)));
}

/// A copy that is not here yet. Its epoch is stored before anything else is done.
Result<void> QemuHypervisor::admit_new(const VmLaunch& launch) {
  const EpochRecord& known = epochs_[launch.vm];
  if (known.epoch == launch.epoch && known.used) {
    return make_error(
        Errc::conflict,
        fmt::format("{}: a copy with epoch {} has run here or was stopped; a new start "
                    "needs a new epoch",
                    launch.vm.value, to_string(launch.epoch)));
  }
  for (const auto& [id, vm] : vms_) {
    for (const std::string& name : launch.host_devices) {
      if (id == launch.vm || std::ranges::count(vm->launch().host_devices, name) == 0) continue;
      return make_error(Errc::conflict, fmt::format("{}: host device {} is held by {}",
                                                    launch.vm.value, name, id.value));
    }
  }
  return remember(launch.vm, {launch.epoch, false});
}

Result<std::shared_ptr<QemuVm>> QemuHypervisor::find(const VmId& vm, const Epoch& epoch) const {
  const auto found = vms_.find(vm);
  if (found == vms_.end())
    return make_error(Errc::not_found, vm.value + " has no copy on this host");
  const Epoch here = found->second->launch().epoch;
  if (here == epoch) return found->second;
  return make_error(epoch < here ? Errc::fenced : Errc::conflict,
                    fmt::format("{}: the copy here has epoch {}, not {}", vm.value, to_string(here),
                                to_string(epoch)));
}

/// In turn: relays of a VM that is gone may live a moment longer than it.
Result<std::uint32_t> QemuHypervisor::pick_user() {
  const auto& [first, count] = options_.users;
  if (first == 0 || count == 1) return first;
  std::set<std::uint32_t> taken;
  for (const auto& [id, user] : users_) taken.insert(user);
  for (std::uint32_t tried = 0; tried < count; ++tried) {
    const std::uint32_t user = first + users_picked_++ % count;
    if (!taken.contains(user)) return user;
  }
  return make_error(Errc::exhausted,
                    fmt::format("each of the {} users of guests, {} to {}, has a VM on this host; "
                                "right is a larger range (--guest-users)",
                                count, first, first + count - 1));
}

void QemuHypervisor::begin(const VmLaunch& launch, bool incoming, Callback<void> done) {
  const auto folder = admit(launch.vm, launch.epoch);
  if (!folder) return answer<void>(loop_, std::move(done), folder.error());
  if (vms_.contains(launch.vm)) {
    auto vm = find(launch.vm, launch.epoch);
    if (!vm) return answer<void>(loop_, std::move(done), vm.error());
    return (*vm)->join_start(std::move(done));
  }
  if (auto admitted = admit_new(launch); !admitted) {
    return answer<void>(loop_, std::move(done), admitted);
  }
  const auto user = pick_user();
  if (!user) {
    return answer<void>(loop_, std::move(done),
                        wrap_error("start " + launch.vm.value, user.error()));
  }
  auto vm = make_vm(*folder, launch);
  vms_[launch.vm] = vm;
  users_[launch.vm] = *user;
  vm->start(incoming, *user, std::move(done));
}

void QemuHypervisor::start(const VmLaunch& launch, Callback<void> done) {
  begin(launch, false, std::move(done));
}

void QemuHypervisor::prepare_incoming(const VmLaunch& launch, Callback<MigrationEndpoint> done) {
  begin(launch, true, [this, id = launch.vm, done = std::move(done)](Result<void> begun) {
    if (!begun) return done(begun.error());
    const auto vm = vms_.find(id);
    if (vm == vms_.end() || !vm->second->incoming() || vm->second->endpoint().port == 0) {
      return done(
          make_error(Errc::conflict, id.value + ": the copy here does not wait for a migration"));
    }
    done(vm->second->endpoint());
  });
}

void QemuHypervisor::stop(const VmId& vm, const Epoch& epoch, const StopOptions& options,
                          Callback<void> done) {
  if (const auto admitted = admit(vm, epoch); !admitted) {
    return answer<void>(loop_, std::move(done), admitted.error());
  }
  if (auto stored = remember(vm, {epoch, true}); !stored) {
    return answer<void>(loop_, std::move(done), stored);
  }
  const auto found = vms_.find(vm);
  if (found == vms_.end()) return answer<void>(loop_, std::move(done), {});
  const auto copy = found->second;
  copy->stop(options, std::move(done));
}

void QemuHypervisor::erase(const VmLaunch& launch, Callback<void> done) {
  const auto folder = admit(launch.vm, launch.epoch);
  if (!folder) return answer<void>(loop_, std::move(done), folder.error());
  if (vms_.contains(launch.vm)) {
    return answer<void>(
        loop_, std::move(done),
        make_error(Errc::conflict, "erase " + launch.vm.value + ": a copy of it is here"));
  }
  // The epoch stays known: an order to start that comes late must not bring it back.
  if (auto stored = remember(launch.vm, {launch.epoch, true}); !stored) {
    return answer<void>(loop_, std::move(done), stored);
  }
  worker_.run<bool>(
      [shared = options_.shared_directory, launch, folder = *folder]() -> Result<bool> {
        for (const std::string& path : {folder.console(), folder.log(), folder.record()}) {
          ::unlink(path.c_str());
        }
        auto erased = erase_files(shared, launch);
        if (!erased) return erased.error();
        return true;
      },
      [done = std::move(done)](Result<bool> erased) {
        done(erased ? Result<void>() : Result<void>(erased.error()));
      });
}

void QemuHypervisor::send(const VmId& vm, const Epoch& epoch, const MigrationEndpoint& to,
                          const MigrationLimits& limits, Callback<MigrationProgress> done) {
  auto copy = find(vm, epoch);
  if (!copy) return answer<MigrationProgress>(loop_, std::move(done), copy.error());
  (*copy)->send(to, limits, std::move(done));
}

void QemuHypervisor::switch_over(const VmId& vm, const Epoch& epoch,
                                 Callback<MigrationProgress> done) {
  auto copy = find(vm, epoch);
  if (!copy) return answer<MigrationProgress>(loop_, std::move(done), copy.error());
  (*copy)->switch_over(std::move(done));
}

void QemuHypervisor::resume(const VmId& vm, const Epoch& epoch, Callback<void> done) {
  auto copy = find(vm, epoch);
  if (!copy) return answer<void>(loop_, std::move(done), copy.error());
  (*copy)->resume(std::move(done));
}

void QemuHypervisor::cancel_send(const VmId& vm, const Epoch& epoch, Callback<void> done) {
  auto copy = find(vm, epoch);
  if (!copy && copy.error().code == Errc::not_found)
    return answer<void>(loop_, std::move(done), {});
  if (!copy) return answer<void>(loop_, std::move(done), copy.error());
  (*copy)->cancel_send(std::move(done));
}

void QemuHypervisor::grow_disk(const VmId& vm, const Epoch& epoch, const std::string& volume,
                               Callback<void> done) {
  auto copy = find(vm, epoch);
  if (!copy) return answer<void>(loop_, std::move(done), copy.error());
  (*copy)->grow_disk(volume, std::move(done));
}

void QemuHypervisor::keep_leg(const VmId& vm, const Epoch& epoch, const std::string& volume,
                              const DeviceId& device, Callback<void> done) {
  auto copy = find(vm, epoch);
  if (!copy) return answer<void>(loop_, std::move(done), copy.error());
  (*copy)->keep_leg(volume, device, std::move(done));
}

void QemuHypervisor::mirror_disk(const VmId& vm, const Epoch& epoch, const DiskMirror& mirror,
                                 Callback<MigrationProgress> done) {
  auto copy = find(vm, epoch);
  if (!copy) return answer<MigrationProgress>(loop_, std::move(done), copy.error());
  (*copy)->mirror_disk(mirror, std::move(done));
}

void QemuHypervisor::switch_disk(const VmId& vm, const Epoch& epoch, const std::string& volume,
                                 Callback<void> done) {
  auto copy = find(vm, epoch);
  if (!copy) return answer<void>(loop_, std::move(done), copy.error());
  (*copy)->switch_disk(volume, std::move(done));
}

void QemuHypervisor::cancel_mirror(const VmId& vm, const Epoch& epoch, const std::string& volume,
                                   Callback<void> done) {
  auto copy = find(vm, epoch);
  if (!copy && copy.error().code == Errc::not_found)
    return answer<void>(loop_, std::move(done), {});
  if (!copy) return answer<void>(loop_, std::move(done), copy.error());
  (*copy)->cancel_mirror(volume, std::move(done));
}

MigrationProgress QemuHypervisor::progress(const VmId& vm) const {
  const auto found = vms_.find(vm);
  return found == vms_.end() ? MigrationProgress{} : found->second->progress();
}

void QemuHypervisor::attribute(const VmId& vm, const std::string& correlation) {
  const auto found = vms_.find(vm);
  if (found != vms_.end()) found->second->attribute(correlation);
}

std::vector<ObservedVm> QemuHypervisor::observe() const {
  std::vector<ObservedVm> all;
  for (const auto& [id, vm] : vms_) all.push_back(vm->observed());
  return all;
}

void QemuHypervisor::ended(const VmId& vm) {
  users_.erase(vm);
  const auto found = vms_.find(vm);
  if (found == vms_.end()) return;
  VmUsage last = found->second->used();
  last.ended = true;
  vms_.erase(found);
  if (last.run_ms == Duration::zero()) return;
  if (ended_.size() == kEndedUsagesMax) ended_.erase(ended_.begin());
  ended_.emplace_back(std::move(last), loop_.now());
}

std::vector<VmUsage> QemuHypervisor::usage() const {
  std::vector<VmUsage> all;
  for (const auto& [usage, since] : ended_) {
    all.push_back(usage);
    all.back().age_ms += loop_.now() - since;
  }
  for (const auto& [id, vm] : vms_) all.push_back(vm->used());
  return all;
}

void QemuHypervisor::forget_usage(const VmId& vm, const Epoch& epoch) {
  std::erase_if(ended_,
                [&](const auto& one) { return one.first.vm == vm && one.first.epoch == epoch; });
}

Result<std::string> QemuHypervisor::console_tail(const VmId& vm, std::size_t bytes_max) const {
  const auto folder = vm_folder(options_.run_directory, vm);
  if (!folder) return folder.error();
  return virga::console_tail(folder->console(), bytes_max);
}

Result<void> QemuHypervisor::change_limits(const VmLaunch& launch) {
  auto vm = find(launch.vm, launch.epoch);
  if (!vm) return vm.error();
  return (*vm)->change_limits(launch);
}

}  // namespace virga
