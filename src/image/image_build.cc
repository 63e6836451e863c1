#include "image/image_build.h"

#include <dirent.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "base/reflect.h"
#include "edge/file.h"
#include "edge/process.h"
#include "image/archive.h"
#include "image/digest.h"
#include "image/publish.h"

namespace virga {
namespace {

// Before the guest serves: buses, disks and networks. After it: what may come later.
const std::vector<std::string> kEarlyModules = {"virtio_pci", "virtio_net", "virtio_blk",
                                                "virtio_console"};
const std::vector<std::string> kLateModules = {"pvpanic-pci", "button", "evdev", "virtio_balloon",
                                               "virtio-rng"};

// Under emulation on a busy host the kernel's test of its timer finds faults that are not there.
constexpr char kCommandLine[] = "console=ttyS0 quiet no_timer_check";

constexpr char kDhcpScript[] = R"(#!/bin/busybox sh
case "$1" in
bound|renew)
  /bin/busybox ifconfig "$interface" "$ip" netmask "$subnet"
  if [ -n "$router" ]; then
    /bin/busybox route add default gw "${router%% *}" dev "$interface" 2>/dev/null
  fi
  for server in $dns; do echo "nameserver $server"; done > /etc/resolv.conf
  if [ -n "$domain" ]; then echo "search $domain" >> /etc/resolv.conf; fi
  echo "GUEST-ADDRESS $interface $ip" > /dev/console
  ;;
esac
exit 0
)";

using Modules = std::map<std::string, std::string>;  ///< file by name, '-' written as '_'

std::string module_name(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

bool begins_with(std::string_view text, std::string_view with) {
  return text.substr(0, with.size()) == with;
}

bool ends_with(std::string_view text, std::string_view with) {
  return text.size() >= with.size() && text.substr(text.size() - with.size()) == with;
}

/// The newest package of that kind in the folder; empty = none.
std::string find_package(const std::string& folder, std::string_view prefix,
                         std::string_view part) {
  std::string newest;
  DIR* listing = ::opendir(folder.c_str());
  if (listing == nullptr) return newest;
  while (const dirent* entry = ::readdir(listing)) {
    const std::string_view name = entry->d_name;
    const bool fits =
        begins_with(name, prefix) && name.find(part) != name.npos && ends_with(name, "_amd64.deb");
    if (fits && (newest.empty() || ::strverscmp(newest.c_str(), entry->d_name) < 0)) newest = name;
  }
  ::closedir(listing);
  return newest;
}

struct Packages {
  std::string kernel;  ///< file names in the package folder
  std::string busybox;
};

Packages find_packages(const std::string& folder) {
  return {find_package(folder, "linux-image-", "-cloud-amd64_"),
          find_package(folder, "busybox-static_", "")};
}

Result<std::string> run_apt(const std::vector<std::string>& arguments, const std::string& folder) {
  ProcessOptions options;
  options.arguments = arguments;
  options.environment = {{"PATH", "/usr/sbin:/usr/bin:/sbin:/bin"}, {"LC_ALL", "C"}};
  options.working_directory = folder;
  auto ended = run_process(options, seconds(300));
  if (!ended) return ended.error();
  if (ended->exit.code != 0) {
    return make_error(Errc::unavailable,
                      fmt::format("{} failed: {}", fmt::join(arguments, " "), ended->err));
  }
  return std::move(ended->out);
}

/// linux-image-cloud-amd64 is empty and depends on the kernel of the day.
Result<std::string> kernel_package_name(const std::string& folder) {
  auto listing = run_apt({"/usr/bin/apt-cache", "depends", "linux-image-cloud-amd64"}, folder);
  if (!listing) return listing.error();
  constexpr std::string_view kMark = "Depends: linux-image-";
  const std::size_t at = listing->find(kMark);
  if (at == std::string::npos) {
    return make_error(
        Errc::unavailable,
        "apt knows no kernel behind linux-image-cloud-amd64; is `apt-get update` due?");
  }
  const std::size_t begin = at + std::strlen("Depends: ");
  return listing->substr(begin, listing->find_first_of(" \n", begin) - begin);
}

Result<Packages> get_packages(const TinyImageOptions& options) {
  const std::string& folder = options.package_folder;
  if (auto made = make_folders(folder); !made) return made.error();
  Packages packages = find_packages(folder);
  std::vector<std::string> missing;
  if (packages.kernel.empty()) {
    auto name = kernel_package_name(folder);
    if (!name) return name.error();
    missing.push_back(*name);
  }
  if (packages.busybox.empty()) missing.push_back("busybox-static");
  if (missing.empty()) return packages;
  if (options.progress) options.progress(fmt::format("download {}", fmt::join(missing, ", ")));
  std::vector<std::string> command = {"/usr/bin/apt-get", "-qq", "download"};
  command.insert(command.end(), missing.begin(), missing.end());
  if (auto done = run_apt(command, folder); !done) return done.error();
  packages = find_packages(folder);
  if (packages.kernel.empty() || packages.busybox.empty()) {
    return make_error(Errc::unavailable, fmt::format("apt-get download left no {} in {}",
                                                     fmt::join(missing, ", "), folder));
  }
  return packages;
}

/// "depends=" of a module's .modinfo section: texts that end in NUL.
std::vector<std::string> module_needs(const std::string& module) {
  constexpr std::string_view kKey("\0depends=", 9);
  std::vector<std::string> needs;
  const std::size_t at = module.find(kKey);
  if (at == std::string::npos) return needs;
  const std::string list = module.c_str() + at + kKey.size();
  std::size_t begin = 0;
  while (begin < list.size()) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    if (end > begin) needs.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return needs;
}

struct Parts {
  std::string kernel;
  std::string busybox;
  Modules modules;
};

Result<Parts> read_parts(const TinyImageOptions& options, const Packages& packages) {
  Parts parts;
  const auto is_kernel_part = [](std::string_view path) {
    return begins_with(path, "boot/vmlinuz-") || ends_with(path, ".ko");
  };
  const auto take_kernel_part = [&parts](const std::string& path, std::string contents) {
    if (!ends_with(path, ".ko")) {
      parts.kernel = std::move(contents);
      return;
    }
    const std::size_t slash = path.rfind('/') + 1;
    parts.modules[module_name(path.substr(slash, path.size() - slash - 3))] = std::move(contents);
  };
  const std::string folder = options.package_folder + "/";
  if (auto done = read_debian_package(folder + packages.kernel, is_kernel_part, take_kernel_part);
      !done) {
    return done.error();
  }
  const auto is_busybox = [](std::string_view path) { return ends_with(path, "bin/busybox"); };
  const auto take_busybox = [&parts](const std::string&, std::string contents) {
    parts.busybox = std::move(contents);
  };
  if (auto done = read_debian_package(folder + packages.busybox, is_busybox, take_busybox); !done) {
    return done.error();
  }
  if (parts.kernel.empty() || parts.busybox.empty()) {
    return make_error(Errc::invalid, fmt::format("{} or {} lacks its kernel or program",
                                                 packages.kernel, packages.busybox));
  }
  return parts;
}

Result<void> add_modules(const Parts& parts, std::vector<ArchiveEntry>& entries) {
  const auto module_of = [&parts](const std::string& name) -> const std::string* {
    const auto found = parts.modules.find(name);
    return found == parts.modules.end() ? nullptr : &found->second;
  };
  std::set<std::string> added;
  const std::pair<const char*, const std::vector<std::string>*> lists[] = {
      {"etc/modules-early", &kEarlyModules}, {"etc/modules-late", &kLateModules}};
  for (const auto& [list_path, roots] : lists) {
    const auto order = module_load_order(*roots, module_of);
    if (!order) return order.error();
    std::string lines;
    for (const std::string& name : *order) {
      if (!added.insert(name).second) continue;
      lines += "/lib/modules/" + name + ".ko\n";
      entries.push_back(
          {"lib/modules/" + name + ".ko", ArchiveEntry::Kind::file, 0644, *module_of(name)});
    }
    entries.push_back({list_path, ArchiveEntry::Kind::file, 0644, std::move(lines)});
  }
  return {};
}

Result<std::string> make_guest_initrd(const TinyImageOptions& options, const Parts& parts) {
  auto guest = read_file(options.guest_program_path);
  if (!guest) return wrap_error("the guest's program", guest.error());
  std::vector<ArchiveEntry> entries;
  for (const char* folder :
       {"bin", "dev", "etc", "lib", "lib/modules", "proc", "root", "run", "sys", "tmp"}) {
    entries.push_back({folder, ArchiveEntry::Kind::folder, 0755, {}});
  }
  entries.push_back({"init", ArchiveEntry::Kind::file, 0755, std::move(*guest)});
  entries.push_back({"bin/busybox", ArchiveEntry::Kind::file, 0755, parts.busybox});
  entries.push_back({"bin/sh", ArchiveEntry::Kind::link, 0777, "busybox"});
  entries.push_back({"etc/udhcpc.script", ArchiveEntry::Kind::file, 0755, kDhcpScript});
  if (auto done = add_modules(parts, entries); !done) return done.error();
  return make_initrd(entries);
}

struct LoadOrder {
  const std::function<const std::string*(const std::string&)>& module_of;
  std::vector<std::string> order;
  std::set<std::string> entered;

  /// Depth first; a module that is entered twice is on the list already or, in a circle, about to
  /// be.
  Result<void> enter(const std::string& raw_name) {
    const std::string name = module_name(raw_name);
    if (!entered.insert(name).second) return {};
    const std::string* module = module_of(name);
    if (module == nullptr) {
      return make_error(Errc::not_found, fmt::format("the kernel package has no module {}", name));
    }
    for (const std::string& needed : module_needs(*module)) {
      if (auto done = enter(needed); !done) return wrap_error("needed by " + name, done.error());
    }
    order.push_back(name);
    return {};
  }
};

}  // namespace

ImageSpec image_spec(const ImageManifest& manifest, const std::string& path) {
  return {manifest.format,     path,            manifest.size_mib,
          manifest.file_bytes, manifest.sha256, manifest.command_line};
}

Result<ImageManifest> read_image_manifest(const std::string& image_folder) {
  const auto text = read_file(image_folder + "/manifest.json", 1 << 16);
  if (!text) return text.error();
  auto manifest = from_json_text<ImageManifest>(*text);
  if (!manifest) return wrap_error(image_folder + "/manifest.json", manifest.error());
  return manifest;
}

Result<std::vector<std::string>> module_load_order(
    const std::vector<std::string>& roots,
    const std::function<const std::string*(const std::string& name)>& module_of) {
  LoadOrder load{module_of, {}, {}};
  for (const std::string& root : roots) {
    if (auto done = load.enter(root); !done) return done.error();
  }
  return std::move(load.order);
}

Result<ImageManifest> build_tiny_image(const TinyImageOptions& options) {
  const auto tell = [&options](const std::string& step) {
    if (options.progress) options.progress(step);
  };
  const auto packages = get_packages(options);
  if (!packages) return wrap_error("get the packages of the tiny image", packages.error());
  tell(fmt::format("unpack {} and {}", packages->kernel, packages->busybox));
  const auto parts = read_parts(options, *packages);
  if (!parts) return wrap_error("build the tiny image", parts.error());
  tell("make the initial RAM disk");
  const auto initrd = make_guest_initrd(options, *parts);
  if (!initrd) return wrap_error("build the tiny image", initrd.error());

  ImageManifest manifest;
  Digest digest;
  digest.add(parts->kernel);
  digest.add(*initrd);
  manifest.sha256 = digest.hex();
  manifest.file_bytes = Bytes{static_cast<std::int64_t>(parts->kernel.size() + initrd->size())};
  manifest.command_line = kCommandLine;
  manifest.sources = {packages->kernel, packages->busybox};
  tell("write " + options.output_folder);
  auto staging = StagingFolder::make(options.output_folder);
  if (!staging) return staging.error();
  const std::pair<const char*, const std::string*> files[] = {{"kernel", &parts->kernel},
                                                              {"initrd", &*initrd}};
  for (const auto& [name, contents] : files) {
    if (auto done = write_file_atomically(staging->path() + "/" + name, *contents); !done)
      return done.error();
  }
  if (auto done = staging->write_manifest(manifest); !done) return done.error();
  if (auto done = staging->replace(); !done) return done.error();
  return manifest;
}

}  // namespace virga
