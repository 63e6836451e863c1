#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "model/launch.h"

namespace virga {

/// A descriptor by its number in QEMU's process. Where it came from is not QEMU's business.
struct InheritedDescriptor {
  int number = -1;
};

/// One file of a disk's chain.
struct DiskFile {
  InheritedDescriptor descriptor;
  std::string format;  ///< "qcow2" or "raw"; never guessed from the content, which guests can write
};

/// Files on shared storage: [0] is written, the others are its read-only backing files in order.
struct FileDisk {
  std::vector<DiskFile> chain;
};
/// A server that is lost is awaited for a while; longer, and the guest is paused by its failing disk.
struct NbdDisk {
  std::string address;
  std::uint16_t port = 0;
  std::string export_name;
  std::string user;            ///< of the TLS-PSK; empty = without TLS
  std::string keys_directory;  ///< holds keys.psk; readable for QEMU's user
  int reconnect_s = 30;
};
/// A mirrored volume in one place or two. See disk_legs.h.
struct MirroredDisk {
  struct Leg {
    std::string node;
    NbdDisk at;
  };
  std::vector<Leg> legs;
};
/// The agent's own NBD export, through a connected socket.
struct ExportDisk {
  InheritedDescriptor descriptor;
  std::string export_name;
};
using DiskBackend = std::variant<FileDisk, NbdDisk, MirroredDisk, ExportDisk>;

/// What QEMU keeps the key of `user` in, as -object and object-add take it. `directory` holds keys.psk.
boost::json::object keys_object(const std::string& id, const std::string& directory,
                                const std::string& user);

/// Block node of a volume, as -blockdev and blockdev-add take it; with `user` it needs an object keys_of(node).
boost::json::object volume_node(const std::string& node, const NbdDisk& volume);
std::string keys_of(const std::string& node);

/// Block node that writes to all `below`, fails when one of them does, and reads from the first that answers.
boost::json::object quorum_node(const std::string& node, const std::vector<std::string>& below);

struct TapNic {
  InheritedDescriptor descriptor;
};
/// A connected socket, one frame a message.
struct DatagramNic {
  InheritedDescriptor descriptor;
};
using NicBackend = std::variant<TapNic, DatagramNic>;

struct AnonymousMemory {};
struct MemfdMemory {};
struct SharedFileMemory {
  InheritedDescriptor descriptor;
};
using MemoryBackend = std::variant<AnonymousMemory, MemfdMemory, SharedFileMemory>;

struct DiskDevice {
  std::string name;
  DiskBackend backend;
};
struct NicDevice {
  std::string mac;
  int mtu = 1450;
  NicBackend backend;
};

/// A device of the host. A block device is a disk behind all others, a character device a port "virga.NAME".
struct HostDeviceHere {
  std::string name;
  InheritedDescriptor descriptor;
  bool block = false;
};

/// Kernel that is booted without a boot loader.
struct DirectBoot {
  InheritedDescriptor kernel;
  InheritedDescriptor initrd;  ///< number -1 = none
  std::string command_line;
};

/// A VM as QEMU shall build it. The devices, their addresses and all that a guest can see follow from the upper half
/// alone; back ends can differ between two hosts, and a live migration still fits.
struct Hardware {
  std::string name;  ///< "tenant/name"
  VmIdentity identity;
  int cpus = 1;
  Mib memory_mib;
  std::vector<DiskDevice> disks;  ///< at most 8
  std::vector<NicDevice> nics;    ///< at most 8
  std::vector<HostDeviceHere> host_devices;  ///< at most kHostDevicesMax
  InheritedDescriptor seed;       ///< ISO 9660, read-only; -1 = none
  bool direct_boot = false;
  DirectBoot boot;

  MemoryBackend memory;
  InheritedDescriptor qmp;          ///< listening sockets
  InheritedDescriptor heartbeat;    ///< of port org.virga.hb.0
  InheritedDescriptor guest_agent;  ///< of port org.qemu.guest_agent.0
  InheritedDescriptor console;      ///< file, opened for appending
  bool incoming = false;            ///< waits for a live migration
};

inline constexpr std::size_t kDisksMax = 8;
inline constexpr std::size_t kNicsMax = 8;

/// QEMU's arguments without the program's name. Pure. The processors are stopped until "cont".
/// Errors: invalid (too many devices, a disk without files, a name or number that QEMU would misread).
Result<std::vector<std::string>> command_line(const Hardware& hardware);

/// Index of the disk that a block node belongs to ("disk2-file" -> 2); -1 = none.
int disk_index_of_node(const std::string& node);

}  // namespace virga
