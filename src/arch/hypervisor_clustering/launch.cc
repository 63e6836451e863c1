#include "arch/hypervisor_clustering/launch.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/rng.h"
#include "mechanism/network/addresses.h"
#include "mechanism/placement/placement.h"

namespace virga {
namespace {

std::uint64_t fingerprint(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325U;  // FNV-1a, 64 bits
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3U;
  }
  return hash;
}

Result<void> add_nics(const ClusterView& view, const Vm& vm, VmLaunch& launch) {
  for (const Port* port : view.ports_of(vm.id())) {
    const Network* network = view.networks.find(port->spec.network);
    if (network == nullptr) {
      return make_error(Errc::not_found,
                        fmt::format("vm {}: network {} of port {} does not exist", launch.vm.value,
                                    port->spec.network.value, port->id().value));
    }
    launch.nics.push_back({port->id().value, network->id().value, network->spec.vni, port->spec.mac,
                           port->spec.address, network->spec.mtu,
                           !port->spec.security_groups.empty()});
    const std::string gateway = gateway_address(network->spec);
    if (gateway.empty()) continue;
    LaunchNic& nic = launch.nics.back();
    nic.resolver = gateway.substr(0, gateway.find('/'));
    nic.domain = network->domain();
    if (network->spec.gateway == NetworkGateway::nat) nic.router = nic.resolver;
  }
  return {};
}

LaunchDisk volume_disk(const ClusterView& view, const Vm& vm, const VmDisk& disk) {
  LaunchDisk made{.name = disk.name, .volume = qualified(vm.meta.tenant, disk.volume)};
  const Volume* volume = view.volumes.find(VolumeId(made.volume));
  made.mirrored = volume != nullptr && volume->spec.mirrored;
  return made;
}

/// Disk images boot from an overlay of their own and read what they are from a seed.
void add_disk_boot(const Vm& vm, const Image& image, VmLaunch& launch) {
  launch.disks.push_back(
      {"root", launch.directory + "/root.qcow2", disk_path(image.spec), image.spec.size_mib});
  launch.seed = LaunchSeed{launch.directory + "/seed.iso", vm.spec.user_data};
}

/// Tiny images boot straight into their kernel and read what they are from its command line.
void add_direct_boot(const Vm& vm, const Image& image, VmLaunch& launch) {
  launch.kernel = image.spec.path + "/kernel";
  launch.initrd = image.spec.path + "/initrd";
  launch.command_line = image.spec.command_line;
  launch.command_line += " virga.name=" + vm.meta.name;
  if (!launch.nics.empty()) {
    const LaunchNic& nic = launch.nics.front();
    launch.command_line += " virga.ip=" + nic.address;
    if (!nic.router.empty()) launch.command_line += " virga.gateway=" + nic.router;
    if (!nic.resolver.empty())
      launch.command_line += fmt::format(" virga.dns={} virga.domain={}", nic.resolver, nic.domain);
  }
  for (const auto& [name, value] : vm.spec.parameters) {
    launch.command_line += fmt::format(" virga.{}={}", name, value);
  }
}

}  // namespace

Result<VmLaunch> resolve_launch(const ClusterView& view, const Vm& vm, const Epoch& epoch) {
  VmLaunch launch;
  launch.vm = vm.id();
  launch.epoch = epoch;
  launch.identity = vm.status.identity;
  launch.cpus = vm.spec.cpus;
  launch.cpu_millicores = demand_of(vm).cpu_millicores;
  launch.cpu_weight = vm.spec.cpu_weight;
  launch.processes_max = vm.spec.processes_max;
  launch.memory_mib = vm.spec.memory_mib;
  launch.directory = "vms/" + vm.id().value;
  launch.parameters = vm.spec.parameters;
  launch.downtime_ms_max = vm.spec.downtime_ms_max;
  launch.host_devices = vm.spec.host_devices;
  const Image* image = view.images.find(vm.spec.image);
  if (image == nullptr) {
    return make_error(Errc::not_found, fmt::format("vm {}: image {} does not exist",
                                                   launch.vm.value, vm.spec.image.value));
  }
  if (auto done = add_nics(view, vm, launch); !done) return done.error();
  if (!image->spec.sha256.empty())
    launch.image = LaunchImage{image->spec.file_bytes, image->spec.sha256};
  if (image->spec.format == ImageFormat::direct) {
    add_direct_boot(vm, *image, launch);
  } else {
    add_disk_boot(vm, *image, launch);
  }
  for (const VmDisk& disk : vm.spec.disks) {
    if (disk.name == "root" && !disk.volume.empty()) {
      launch.disks.front() = volume_disk(view, vm, disk);
      continue;
    }
    if (disk.name == "root") {
      launch.disks.front().size_mib = std::max(disk.size_mib, image->spec.size_mib);
      continue;
    }
    if (!disk.volume.empty()) {
      launch.disks.push_back(volume_disk(view, vm, disk));
      continue;
    }
    launch.disks.push_back(
        {disk.name, launch.directory + "/" + disk.name + ".qcow2", "", disk.size_mib});
  }
  return launch;
}

VmIdentity make_identity(const Vm& vm, const Host& host) {
  if (!vm.status.identity.machine_type.empty()) return vm.status.identity;
  Rng bits(fingerprint(vm.id().value) ^ static_cast<std::uint64_t>(vm.meta.created_at.unix_ms));
  const std::uint64_t high = (bits.next() & ~0xf000ULL) | 0x4000ULL;
  const std::uint64_t low = (bits.next() & ~(3ULL << 62)) | (2ULL << 62);
  VmIdentity identity;
  identity.uuid =
      fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, (high >> 16) & 0xffff,
                  high & 0xffff, low >> 48, low & 0xffffffffffffULL);
  const HypervisorInfo& hypervisor = host.status.hypervisor;
  if (!hypervisor.machine_types.empty()) identity.machine_type = hypervisor.machine_types.front();
  identity.cpu_model = hypervisor.cpu_model;
  identity.accelerator = hypervisor.accelerator;
  return identity;
}

}  // namespace virga
