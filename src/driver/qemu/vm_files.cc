#include "driver/qemu/vm_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/reflect.h"
#include "driver/qemu/disk_legs.h"
#include "edge/file.h"
#include "edge/tls.h"
#include "image/seed.h"

namespace virga {
namespace {

constexpr Duration kCreateDeadline = seconds(10);

Result<void> check_below(const std::string& path) {
  const std::string framed = "/" + path + "/";
  const bool climbs = framed.find("/../") != std::string::npos ||
                      framed.find("/./") != std::string::npos ||
                      framed.find("//") != std::string::npos;
  if (!climbs && path.find('\0') == std::string::npos) return {};
  return make_error(Errc::invalid,
                    fmt::format("path \"{}\": must be relative to the shared directory, "
                                "without empty, \".\" or \"..\" parts",
                                path));
}

/// Opens a file so that neither ".." nor a symbolic link can lead out of the shared directory.
Result<Descriptor> open_below(const std::string& directory, const std::string& path, int flags) {
  if (auto fine = check_below(path); !fine) return fine.error();
  const Descriptor root(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) return errno_error("open the shared directory " + directory, errno);
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  Descriptor file(
      static_cast<int>(::syscall(SYS_openat2, root.get(), path.c_str(), &how, sizeof how)));
  if (file.valid()) return file;
  if (errno == EXDEV || errno == ELOOP) {
    return make_error(Errc::invalid, fmt::format("path \"{}\" leaves the shared directory", path));
  }
  return errno_error(fmt::format("open {} in {}", path, directory), errno);
}

std::string format_of(const std::string& path) {
  return path.ends_with(".qcow2") ? "qcow2" : "raw";
}

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

/// From the folder of `path` to `target`; both are relative to one directory.
std::string relative_to(const std::string& path, const std::string& target) {
  std::string climb;
  for (const char letter : path) {
    if (letter == '/') climb += "../";
  }
  return climb + target;
}

Error creation_error(const LaunchDisk& disk, const std::string& words) {
  Errc code = Errc::invalid;
  if (words.find("No space left") != std::string::npos) code = Errc::exhausted;
  if (words.find("Disk quota") != std::string::npos) code = Errc::exhausted;
  return make_error(code, fmt::format("create disk {}: {}", disk.path, words));
}

Result<void> run_creation(const FileRequest& request, const LaunchDisk& disk,
                          const std::string& path) {
  ProcessOptions options;
  const std::string format = format_of(disk.path);
  options.arguments = {request.image_program, "create", "-q", "-f", format};
  options.environment = {{"LC_ALL", "C"}};
  if (!disk.backing.empty()) {
    if (auto fine = check_below(disk.backing); !fine) return fine;
    if (format != "qcow2") {
      return make_error(Errc::invalid,
                        "disk " + disk.path + ": only qcow2 can have a backing file");
    }
    const std::vector<std::string> more = {"-F", format_of(disk.backing), "-b",
                                           relative_to(disk.path, disk.backing)};
    options.arguments.insert(options.arguments.end(), more.begin(), more.end());
  }
  options.arguments.push_back(path);
  if (disk.size_mib.value > 0) options.arguments.push_back(fmt::format("{}M", disk.size_mib.value));
  const auto output = run_process(options, kCreateDeadline);
  if (!output) return wrap_error("create disk " + disk.path, output.error());
  if (output->exit.code != 0) return creation_error(disk, output->err);
  return {};
}

/// Makes the disk under another name first, so that a crash leaves none that is half made.
Result<void> create_disk(const FileRequest& request, const LaunchDisk& disk) {
  const std::string path = request.shared_directory + "/" + disk.path;
  if (::access(path.c_str(), F_OK) == 0) return {};
  if (auto fine = check_below(disk.path); !fine) return fine;
  const std::string folder = request.shared_directory + "/" + folder_of(disk.path);
  if (auto done = make_folders(folder); !done) return done;
  if (disk.backing.empty() && disk.size_mib.value <= 0) {
    return make_error(Errc::not_found,
                      "disk " + disk.path + " is not there and has neither size nor image");
  }
  const std::string unfinished = path + ".new";
  ::unlink(unfinished.c_str());
  if (auto done = run_creation(request, disk, unfinished); !done) {
    ::unlink(unfinished.c_str());
    return done;
  }
  ::chmod(unfinished.c_str(), 0600);
  if (::rename(unfinished.c_str(), path.c_str()) != 0)
    return errno_error("rename to " + path, errno);
  return {};
}

Result<void> check_shared_epoch(const FileRequest& request) {
  const VmLaunch& launch = request.launch;
  const std::string path = request.shared_directory + "/" + launch.directory + "/vm.json";
  const auto text = read_file(path, 1 << 20);
  if (!text)
    return text.error().code == Errc::not_found ? Result<void>() : Result<void>(text.error());
  const auto seen = from_json_text<VmLaunch>(*text, UnknownFields::ignore);
  if (!seen) return wrap_error("read " + path, seen.error());
  if (seen->epoch <= launch.epoch) return {};
  return make_error(Errc::fenced,
                    fmt::format("start {} with epoch {}: its storage knows epoch {}",
                                launch.vm.value, to_string(launch.epoch), to_string(seen->epoch)));
}

Result<std::vector<OpenDiskFile>> open_chain(const FileRequest& request, const LaunchDisk& disk) {
  std::vector<OpenDiskFile> chain;
  auto file = open_below(request.shared_directory, disk.path, O_RDWR);
  if (!file) return file.error();
  chain.push_back({std::move(*file), format_of(disk.path)});
  if (disk.backing.empty()) return chain;
  auto backing = open_below(request.shared_directory, disk.backing, O_RDONLY);
  if (!backing) return backing.error();
  chain.push_back({std::move(*backing), format_of(disk.backing)});
  return chain;
}

/// What is said of it goes to tenants: where it is on the host stays here.
Result<OpenHostDevice> open_host_device(const FileRequest& request, const std::string& name) {
  const auto offered = request.host_devices.find(name);
  if (offered == request.host_devices.end()) {
    return make_error(Errc::not_found, "host device " + name + ": this host offers none of the " +
                                           "name; `virgad agent --host-device " + name + "=...`");
  }
  const std::string& path = offered->second;
  struct stat seen {};
  if (::stat(path.c_str(), &seen) != 0) return errno_error("host device " + name, errno);
  if (!S_ISBLK(seen.st_mode) && !S_ISCHR(seen.st_mode)) {
    return make_error(Errc::invalid, "host device " + name + ": what is offered is no device");
  }
  OpenHostDevice made{name, {}, S_ISBLK(seen.st_mode)};
  const int exclusive = made.block ? O_EXCL : O_NOCTTY;
  made.descriptor = Descriptor(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC | exclusive));
  if (made.descriptor.valid()) return made;
  if (errno == EBUSY)
    return make_error(Errc::conflict, "host device " + name + ": the host itself uses it");
  return errno_error("open host device " + name, errno);
}

/// What of the image this start is the first to use.
std::vector<std::string> used_first(const FileRequest& request) {
  const VmLaunch& launch = request.launch;
  std::vector<std::string> paths;
  for (const LaunchDisk& disk : launch.disks) {
    const std::string path = request.shared_directory + "/" + disk.path;
    if (!disk.backing.empty() && ::access(path.c_str(), F_OK) != 0) paths.push_back(disk.backing);
  }
  for (const std::string* boot : {&launch.kernel, &launch.initrd}) {
    if (!boot->empty()) paths.push_back(*boot);
  }
  return paths;
}

Result<std::vector<Descriptor>> unchecked_files(const FileRequest& request) {
  std::vector<Descriptor> files;
  if (!request.create || !request.launch.image || request.image_checks == nullptr) return files;
  std::vector<int> numbers;
  for (const std::string& path : used_first(request)) {
    auto file = open_below(request.shared_directory, path, O_RDONLY);
    if (!file) return wrap_error("the image", file.error());
    numbers.push_back(file->get());
    files.push_back(std::move(*file));
  }
  if (request.image_checks->known(numbers, *request.launch.image)) files.clear();
  return files;
}

/// Made at every start: cloud-init acts on what is new in it. It may hold secrets: root's alone.
Result<void> write_seed(const FileRequest& request) {
  const std::string& path = request.launch.seed->path;
  if (auto fine = check_below(path); !fine) return fine;
  const auto iso = make_seed_iso(request.launch);
  if (!iso) return iso.error();
  if (auto done = make_folders(request.shared_directory + "/" + folder_of(path)); !done)
    return done;
  return write_file_atomically(request.shared_directory + "/" + path, *iso, 0600);
}

template <typename T>
Result<T> read_record(const std::string& path) {
  const auto text = read_file(path, 1 << 20);
  if (!text) return text.error();
  // Records hold for one boot and are not synced: a crash of the machine can leave an empty file.
  if (text->empty()) return make_error(Errc::not_found, "read " + path + ": it is empty");
  auto record = from_json_text<T>(*text, UnknownFields::ignore);
  if (!record) return wrap_error("read " + path, record.error());
  return record;
}

/// A folder with a file of keys that QEMU as `user` (0 = as this process) may read: open.
Result<Descriptor> write_keys(const std::string& path, const std::string& keys,
                              std::uint32_t user) {
  constexpr auto kGroupAsItIs = static_cast<gid_t>(-1);
  if (auto made = make_folders(path, 0700); !made) return made.error();
  // Not that user's own: who owns a folder can put another file in the place of one that is given
  // away. Only who has the folder open comes into it: those above let nobody through.
  const bool enters = user == 0 || (::chown(path.c_str(), ::geteuid(), kGroupAsItIs) == 0 &&
                                    ::chmod(path.c_str(), 0711) == 0);
  if (!enters) return errno_error("let the user of QEMU into " + path, errno);
  const std::string file = path + "/keys.psk";
  if (auto written = replace_file(file, keys, 0400); !written) return written.error();
  if (user != 0 && ::chown(file.c_str(), user, kGroupAsItIs) != 0)
    return errno_error("give " + file + " to the user of QEMU", errno);
  Descriptor opened(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!opened.valid()) return errno_error("open " + path, errno);
  return opened;
}

}  // namespace

Result<VmFolder> vm_folder(const std::string& run_directory, const VmId& vm) {
  const std::size_t slash = vm.value.find('/');
  if (slash == std::string::npos)
    return make_error(Errc::invalid, "VM id \"" + vm.value + "\": tenant/name is right");
  if (auto fine = check_name("tenant", vm.value.substr(0, slash)); !fine) return fine.error();
  if (auto fine = check_name("VM name", vm.value.substr(slash + 1)); !fine) return fine.error();
  return VmFolder{run_directory + "/" + vm.value};
}

Result<LaunchRecord> read_launch_record(const VmFolder& folder) {
  return read_record<LaunchRecord>(folder.record());
}

Result<void> write_launch_record(const VmFolder& folder, const LaunchRecord& record) {
  return replace_file(folder.record(), to_json_text(record), 0600);
}

Result<EpochRecord> read_epoch_record(const VmFolder& folder) {
  auto record = read_record<EpochRecord>(folder.epoch());
  if (!record && record.error().code == Errc::not_found) return EpochRecord{};
  return record;
}

Result<void> write_epoch_record(const VmFolder& folder, const EpochRecord& record) {
  if (auto done = make_folders(folder.path, 0700); !done) return done;
  return replace_file(folder.epoch(), to_json_text(record), 0600);
}

Result<OpenFiles> open_files(const FileRequest& request) {
  const VmLaunch& launch = request.launch;
  if (auto fine = check_below(launch.directory); !fine) return fine.error();
  if (auto fine = check_shared_epoch(request); !fine) return fine.error();
  OpenFiles files;
  auto unchecked = unchecked_files(request);
  if (!unchecked) return unchecked.error();
  files.unchecked = std::move(*unchecked);
  if (!files.unchecked.empty()) return files;
  for (const LaunchDisk& disk : launch.disks) {
    if (!disk.volume.empty()) {
      files.disks.emplace_back();
      continue;
    }
    if (request.create) {
      if (auto done = create_disk(request, disk); !done) return done.error();
    }
    auto chain = open_chain(request, disk);
    if (!chain) return chain.error();
    files.disks.push_back(std::move(*chain));
  }
  for (const std::string& name : launch.host_devices) {
    auto device = open_host_device(request, name);
    if (!device) return device.error();
    files.host_devices.push_back(std::move(*device));
  }
  if (!launch.kernel.empty()) {
    auto kernel = open_below(request.shared_directory, launch.kernel, O_RDONLY);
    if (!kernel) return wrap_error("the image's kernel", kernel.error());
    files.kernel = std::move(*kernel);
  }
  if (!launch.initrd.empty()) {
    auto initrd = open_below(request.shared_directory, launch.initrd, O_RDONLY);
    if (!initrd) return wrap_error("the image's initrd", initrd.error());
    files.initrd = std::move(*initrd);
  }
  if (launch.seed) {
    if (request.create) {
      if (auto done = write_seed(request); !done) return done.error();
    }
    auto seed = open_below(request.shared_directory, launch.seed->path, O_RDONLY);
    // A copy that comes by a move has the devices of its source, which may be older than seeds.
    const bool without = !request.create && !seed && seed.error().code == Errc::not_found;
    if (!seed && !without) return wrap_error("the seed", seed.error());
    if (seed) files.seed = std::move(*seed);
  }
  if (!request.create) return files;
  if (auto done = write_shared_launch(request.shared_directory, launch); !done) return done.error();
  return files;
}

Result<void> erase_files(const std::string& shared_directory, const VmLaunch& launch) {
  if (launch.directory.empty())
    return make_error(Errc::invalid, "erase " + launch.vm.value + ": it has no folder");
  std::vector<std::string> names = {launch.directory + "/vm.json"};
  for (const LaunchDisk& disk : launch.disks) {
    if (!disk.volume.empty()) continue;
    if (!disk.path.starts_with(launch.directory + "/")) {
      return make_error(Errc::invalid, fmt::format("erase {}: disk {} is not in {}",
                                                   launch.vm.value, disk.path, launch.directory));
    }
    names.push_back(disk.path);
    names.push_back(disk.path + ".new");
  }
  if (launch.seed) names.push_back(launch.directory + "/seed.iso");
  for (const std::string& name : names) {
    if (auto fine = check_below(name); !fine) return fine;
    const std::string path = shared_directory + "/" + name;
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return errno_error("remove " + path, errno);
  }
  const std::string folder = shared_directory + "/" + launch.directory;
  if (::rmdir(folder.c_str()) != 0 && errno != ENOENT && errno != ENOTEMPTY) {
    return errno_error("remove " + folder, errno);
  }
  return {};
}

Result<std::int64_t> free_bytes(const std::string& folder) {
  struct statvfs seen {};
  if (::statvfs(folder.c_str(), &seen) != 0) return errno_error("look at " + folder, errno);
  return static_cast<std::int64_t>(seen.f_bavail * seen.f_frsize);
}

Result<Descriptor> write_volume_keys(const VmFolder& folder, std::size_t disk,
                                     const LaunchDisk& volume, std::uint32_t user) {
  if (!volume.endpoint || volume.endpoint->protocol != "nbd") {
    return make_error(Errc::invalid, "disk " + volume.name + ": volume " + volume.volume +
                                         " has no NBD end point for this copy");
  }
  const std::string line = volume.endpoint->user + ":" + volume.endpoint->key + "\n";
  return write_keys(folder.keys(disk), line, user);
}

NbdDisk nbd_of(const VolumeEndpoint& at, bool mirrored) {
  NbdDisk made{at.address, static_cast<std::uint16_t>(at.port), at.export_name, at.user, {}};
  if (mirrored) made.reconnect_s = kLegReconnectSeconds;
  return made;
}

Result<void> write_shared_launch(const std::string& shared_directory, const VmLaunch& launch) {
  if (launch.directory.empty()) return {};
  const std::string folder = shared_directory + "/" + launch.directory;
  if (auto done = make_folders(folder); !done) return done;
  VmLaunch shown = launch;
  for (LaunchDisk& disk : shown.disks) {
    disk.endpoint.reset();
    disk.second.reset();
  }
  return write_file_atomically(folder + "/vm.json", to_json_text(shown), 0600);
}

}  // namespace virga
