#include "driver/qemu/hardware.h"

#include <fmt/format.h>

#include <charconv>

#include "base/reflect.h"
#include "edge/tls.h"

namespace virga {
namespace {

// Slots on pcie.0. Guests see them and a migration compares them: never change one.
constexpr int kSerialSlot = 0x1;
constexpr int kPanicSlot = 0x2;
constexpr int kEntropySlot = 0x3;
constexpr int kFirstDiskSlot = 0x8;
constexpr int kFirstNicSlot = 0x10;
constexpr int kSeedSlot = 0x18;  // above all disks: guests name them in this order
constexpr int kFirstHostDeviceSlot = 0x19;
constexpr int kFirstHostDevicePort = 3;  // on the bus of serial ports

// Offloads depend on what a back end can do, and guests keep what they negotiated: off, so that
// every back end can take over from every other.
constexpr const char* kNoOffloads =
    "csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,"
    "guest_announce=on,host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off,mq=off";

class Arguments {
 public:
  template <typename... Args>
  void add(const char* option, fmt::format_string<Args...> pattern, Args&&... args) {
    list_.push_back(option);
    list_.push_back(fmt::format(pattern, std::forward<Args>(args)...));
  }
  void add(const char* option) { list_.push_back(option); }
  void add_text(const char* option, std::string text) {
    list_.push_back(option);
    list_.push_back(std::move(text));
  }
  std::vector<std::string> take() { return std::move(list_); }

 private:
  std::vector<std::string> list_;
};

template <typename... Visitors>
struct Overloaded : Visitors... {
  using Visitors::operator()...;
};
template <typename... Visitors>
Overloaded(Visitors...) -> Overloaded<Visitors...>;

/// A descriptor set has the number of its descriptor, so that no second numbering is needed.
std::string set_path(InheritedDescriptor descriptor) {
  return fmt::format("/dev/fdset/{}", descriptor.number);
}

void add_set(Arguments& arguments, InheritedDescriptor descriptor) {
  arguments.add("-add-fd", "fd={0},set={0}", descriptor.number);
}

void add_listener(Arguments& arguments, const char* id, InheritedDescriptor socket) {
  arguments.add("-chardev", "socket,id={},fd={},server=on,wait=off", id, socket.number);
}

/// The guest's memory. QEMU before 9.0 loses writes of an emulated guest that moves alive: when it
/// collects the dirty pages of a block whose length is a multiple of 64 pages, it does not tell the
/// processors' translation buffers, and they go on writing to such pages unseen
/// (cpu_physical_memory_sync_dirty_bitmap(), mended upstream in March 2024). Any other length takes
/// the slower path, which does. Follows from the identity: both ends of a move agree.
std::int64_t memory_kib(const Hardware& hardware) {
  constexpr std::int64_t kLeftOut = 8;  // the least that QEMU does not round up again
  const VmIdentity& identity = hardware.identity;
  const std::int64_t whole = hardware.memory_mib.value * 1024;
  if (identity.accelerator == Accelerator::kvm) return whole;
  int release = 0;  // of "pc-q35-7.2"
  const std::string& machine = identity.machine_type;
  const std::size_t dash = machine.rfind('-');
  if (dash != std::string::npos)
    std::from_chars(machine.data() + dash + 1, machine.data() + machine.size(), release);
  return release >= 9 ? whole : whole - kLeftOut;
}

void add_machine(Arguments& arguments, const Hardware& hardware) {
  const VmIdentity& identity = hardware.identity;
  arguments.add("-name", "guest={},debug-threads=on", hardware.name);
  arguments.add("-nodefaults");
  arguments.add("-no-user-config");
  arguments.add("-display", "none");
  arguments.add("-sandbox",
                "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
  arguments.add("-machine",
                "{},memory-backend=ram0,usb=off,vmport=off,graphics=off,dump-guest-core=off",
                identity.machine_type);
  if (identity.accelerator == Accelerator::kvm) {
    arguments.add("-accel", "kvm");
  } else {
    arguments.add("-accel", "tcg,tb-size=64");
  }
  arguments.add("-cpu", "{}", identity.cpu_model);
  arguments.add("-smp", "cpus={0},sockets=1,cores={0},threads=1", hardware.cpus);
  arguments.add("-m", "size={}K", memory_kib(hardware));
  arguments.add("-uuid", "{}", identity.uuid);
  arguments.add("-rtc", "base=utc");
  arguments.add("-boot", "menu=off,strict=off");
  arguments.add("-action", "panic=pause,watchdog=pause");
  arguments.add("-S");
  if (hardware.incoming) arguments.add("-incoming", "defer");
}

void add_memory(Arguments& arguments, const Hardware& hardware) {
  const std::int64_t size = memory_kib(hardware);
  // One id for all kinds: it names the block of memory in a migration's stream.
  std::visit(Overloaded{[&](const AnonymousMemory&) {
                          arguments.add("-object", "memory-backend-ram,id=ram0,size={}K", size);
                        },
                        [&](const MemfdMemory&) {
                          arguments.add("-object", "memory-backend-memfd,id=ram0,size={}K,share=on",
                                        size);
                        },
                        [&](const SharedFileMemory& file) {
                          arguments.add("-object",
                                        "memory-backend-file,id=ram0,size={}K,share=on,"
                                        "mem-path=/proc/self/fd/{}",
                                        size, file.descriptor.number);
                        }},
             hardware.memory);
}

void add_monitor(Arguments& arguments, const Hardware& hardware) {
  add_listener(arguments, "qmp", hardware.qmp);
  arguments.add("-mon", "chardev=qmp,mode=control");
  add_set(arguments, hardware.console);
  arguments.add("-chardev", "file,id=console,path={},append=on", set_path(hardware.console));
  arguments.add("-device", "isa-serial,id=serial0,chardev=console,index=0");
  arguments.add("-device", "virtio-serial-pci,id=ports,bus=pcie.0,addr={:#x},max_ports=8",
                kSerialSlot);
  add_listener(arguments, "heartbeat", hardware.heartbeat);
  arguments.add(
      "-device",
      "virtserialport,bus=ports.0,nr=1,id=port-heartbeat,chardev=heartbeat,name=org.virga.hb.0");
  add_listener(arguments, "guest-agent", hardware.guest_agent);
  arguments.add("-device",
                "virtserialport,bus=ports.0,nr=2,id=port-guest-agent,chardev=guest-agent,"
                "name=org.qemu.guest_agent.0");
  arguments.add("-device", "pvpanic-pci,id=panic0,bus=pcie.0,addr={:#x}", kPanicSlot);
  arguments.add("-device", "ib700,id=watchdog0");
  arguments.add("-object", "rng-builtin,id=entropy0");
  arguments.add("-device", "virtio-rng-pci,id=rng0,rng=entropy0,bus=pcie.0,addr={:#x}",
                kEntropySlot);
}

void add_block_node(Arguments& arguments, const json::object& node) {
  arguments.add_text("-blockdev", json::serialize(node));
}

void add_file_chain(Arguments& arguments, const std::string& node, const FileDisk& disk) {
  // Bottom first: a node can only refer to what exists.
  for (std::size_t index = disk.chain.size(); index-- > 0;) {
    const DiskFile& file = disk.chain[index];
    const bool read_only = index > 0;
    const std::string name = read_only ? fmt::format("{}-base{}", node, index) : node;
    add_set(arguments, file.descriptor);
    add_block_node(arguments, {{"driver", "file"},
                               {"node-name", name + "-file"},
                               {"filename", set_path(file.descriptor)},
                               {"locking", "on"},
                               {"read-only", read_only},
                               {"discard", "unmap"}});
    json::object format{{"driver", file.format},
                        {"node-name", name},
                        {"file", name + "-file"},
                        {"read-only", read_only},
                        {"discard", "unmap"}};
    if (file.format == "qcow2") {
      // Named or null: what the image's header says about a backing file is never opened.
      const bool last = index + 1 == disk.chain.size();
      format["backing"] =
          last ? json::value() : json::value(fmt::format("{}-base{}", node, index + 1));
    }
    add_block_node(arguments, format);
  }
}

json::object nbd_node(const std::string& node, json::object server,
                      const std::string& export_name) {
  return {{"driver", "nbd"},
          {"node-name", node},
          {"server", std::move(server)},
          {"export", export_name},
          {"discard", "unmap"}};
}

void add_nbd(Arguments& arguments, const std::string& node, const NbdDisk& disk) {
  if (!disk.user.empty()) {
    const auto keys = keys_object(keys_of(node), disk.keys_directory, disk.user);
    arguments.add_text("-object", json::serialize(keys));
  }
  add_block_node(arguments, volume_node(node, disk));
}

/// The node that the disk's device uses.
std::string add_mirrored(Arguments& arguments, const std::string& node, const MirroredDisk& disk) {
  std::vector<std::string> names;
  for (const MirroredDisk::Leg& leg : disk.legs) {
    add_nbd(arguments, leg.node, leg.at);
    names.push_back(leg.node);
  }
  if (names.size() == 1) return names.front();
  add_block_node(arguments, quorum_node(node, names));
  return node;
}

void add_disk(Arguments& arguments, const DiskDevice& disk, int index) {
  std::string node = fmt::format("disk{}", index);
  std::visit(Overloaded{[&](const FileDisk& files) { add_file_chain(arguments, node, files); },
                        [&](const NbdDisk& nbd) { add_nbd(arguments, node, nbd); },
                        [&](const MirroredDisk& two) {
                          node = add_mirrored(arguments, node + "-both", two);
                        },
                        [&](const ExportDisk& own) {
                          add_block_node(arguments,
                                         nbd_node(node,
                                                  {{"type", "fd"},
                                                   {"str", std::to_string(own.descriptor.number)}},
                                                  own.export_name));
                        }},
             disk.backend);
  // A serial number has 20 bytes; guests find the disk under /dev/disk/by-id/virtio-NAME.
  // Boot index 0 is left to QEMU's own loader of a directly booted kernel.
  arguments.add("-device",
                "virtio-blk-pci,id=disk{0}-device,drive={1},bus=pcie.0,addr={2:#x},serial={3},"
                "bootindex={4},werror=stop,rerror=stop,num-queues=1",
                index, node, kFirstDiskSlot + index, disk.name.substr(0, 20), index + 1);
}

void add_seed(Arguments& arguments, InheritedDescriptor seed) {
  add_set(arguments, seed);
  add_block_node(arguments, {{"driver", "file"},
                             {"node-name", "seed-file"},
                             {"filename", set_path(seed)},
                             {"read-only", true}});
  add_block_node(
      arguments,
      {{"driver", "raw"}, {"node-name", "seed"}, {"file", "seed-file"}, {"read-only", true}});
  arguments.add("-device",
                "virtio-blk-pci,id=seed-device,drive=seed,bus=pcie.0,addr={:#x},serial=seed,"
                "num-queues=1",
                kSeedSlot);
}

void add_host_device(Arguments& arguments, const HostDeviceHere& device, int index) {
  add_set(arguments, device.descriptor);
  if (!device.block) {
    arguments.add("-chardev", "serial,id=host-device{},path={}", index,
                  set_path(device.descriptor));
    arguments.add("-device",
                  "virtserialport,bus=ports.0,nr={0},id=port-host-device{1},"
                  "chardev=host-device{1},name=virga.{2}",
                  kFirstHostDevicePort + index, index, device.name);
    return;
  }
  add_block_node(arguments, {{"driver", "host_device"},
                             {"node-name", fmt::format("host-device{}", index)},
                             {"filename", set_path(device.descriptor)},
                             {"locking", "on"},
                             {"discard", "unmap"}});
  arguments.add("-device",
                "virtio-blk-pci,id=host-device{0}-device,drive=host-device{0},bus=pcie.0,"
                "addr={1:#x},serial={2},werror=stop,rerror=stop,num-queues=1",
                index, kFirstHostDeviceSlot + index, device.name.substr(0, 20));
}

void add_nic(Arguments& arguments, const NicDevice& nic, int index) {
  std::visit(Overloaded{[&](const TapNic& tap) {
                          arguments.add("-netdev", "tap,id=net{},fd={},vhost=off", index,
                                        tap.descriptor.number);
                        },
                        [&](const DatagramNic& socket) {
                          arguments.add("-netdev", "dgram,id=net{},local.type=fd,local.str={}",
                                        index, socket.descriptor.number);
                        }},
             nic.backend);
  arguments.add(
      "-device",
      "virtio-net-pci,id=nic{0},netdev=net{0},mac={1},host_mtu={2},bus=pcie.0,addr={3:#x},"
      "romfile=,{4}",
      index, nic.mac, nic.mtu, kFirstNicSlot + index, kNoOffloads);
}

void add_boot(Arguments& arguments, const DirectBoot& boot) {
  // QEMU reads these with plain open(), which knows no descriptor sets.
  arguments.add("-kernel", "/proc/self/fd/{}", boot.kernel.number);
  if (boot.initrd.number >= 0) arguments.add("-initrd", "/proc/self/fd/{}", boot.initrd.number);
  if (!boot.command_line.empty()) arguments.add_text("-append", boot.command_line);
}

Result<void> check_word(const char* what, const std::string& text) {
  const bool fine =
      !text.empty() && text.find_first_not_of(
                           "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/") ==
                           std::string::npos;
  if (fine) return {};
  return make_error(Errc::invalid,
                    fmt::format("{} \"{}\": letters, digits, '-', '_', '.', ':' and '/' "
                                "are allowed",
                                what, text));
}

Result<void> check(const Hardware& hardware) {
  const auto too_many = [&](const char* what, std::size_t count, std::size_t most) {
    return make_error(Errc::invalid, fmt::format("VM {} has {} {}; at most {} fit", hardware.name,
                                                 count, what, most));
  };
  if (hardware.disks.size() > kDisksMax) return too_many("disks", hardware.disks.size(), kDisksMax);
  if (hardware.nics.size() > kNicsMax) return too_many("NICs", hardware.nics.size(), kNicsMax);
  if (hardware.host_devices.size() > kHostDevicesMax)
    return too_many("host devices", hardware.host_devices.size(), kHostDevicesMax);
  if (hardware.cpus < 1 || hardware.cpus > 64 || hardware.memory_mib.value < 1) {
    return make_error(Errc::invalid,
                      fmt::format("VM {} has {} processors and {} MiB; 1 to 64 and at least 1 "
                                  "are right",
                                  hardware.name, hardware.cpus, hardware.memory_mib.value));
  }
  const std::pair<const char*, const std::string*> words[] = {
      {"VM name", &hardware.name},
      {"machine type", &hardware.identity.machine_type},
      {"CPU model", &hardware.identity.cpu_model},
      {"UUID", &hardware.identity.uuid}};
  for (const auto& [what, text] : words) {
    if (auto fine = check_word(what, *text); !fine) return fine;
  }
  for (const DiskDevice& disk : hardware.disks) {
    if (auto fine = check_word("disk name", disk.name); !fine) return fine;
    const auto* files = std::get_if<FileDisk>(&disk.backend);
    if (files != nullptr && files->chain.empty()) {
      return make_error(Errc::invalid, "disk " + disk.name + " has no file");
    }
  }
  for (const HostDeviceHere& device : hardware.host_devices) {
    if (auto fine = check_word("host device", device.name); !fine) return fine;
  }
  for (const NicDevice& nic : hardware.nics) {
    if (auto fine = check_word("MAC address", nic.mac); !fine) return fine;
  }
  return {};
}

}  // namespace

Result<std::vector<std::string>> command_line(const Hardware& hardware) {
  if (auto fine = check(hardware); !fine) return fine.error();
  Arguments arguments;
  add_machine(arguments, hardware);
  add_memory(arguments, hardware);
  add_monitor(arguments, hardware);
  for (std::size_t index = 0; index < hardware.disks.size(); ++index) {
    add_disk(arguments, hardware.disks[index], static_cast<int>(index));
  }
  if (hardware.seed.number >= 0) add_seed(arguments, hardware.seed);
  for (std::size_t index = 0; index < hardware.host_devices.size(); ++index) {
    add_host_device(arguments, hardware.host_devices[index], static_cast<int>(index));
  }
  for (std::size_t index = 0; index < hardware.nics.size(); ++index) {
    add_nic(arguments, hardware.nics[index], static_cast<int>(index));
  }
  if (hardware.direct_boot) add_boot(arguments, hardware.boot);
  return arguments.take();
}

json::object volume_node(const std::string& node, const NbdDisk& volume) {
  // A host that loses its power after it has taken a request would be waited for without end: the
  // agent has made the kernel ask soon, see hasten_keepalive().
  json::object made = nbd_node(node,
                               {{"type", "inet"},
                                {"host", volume.address},
                                {"port", std::to_string(volume.port)},
                                {"keep-alive", true}},
                               volume.export_name);
  made["reconnect-delay"] = volume.reconnect_s;
  if (!volume.user.empty()) made["tls-creds"] = keys_of(node);
  return made;
}

json::object quorum_node(const std::string& node, const std::vector<std::string>& below) {
  json::array children;
  for (const std::string& one : below) children.emplace_back(one);
  const auto all = static_cast<std::int64_t>(below.size());
  return {{"driver", "quorum"},
          {"node-name", node},
          {"vote-threshold", all},
          {"read-pattern", "fifo"},
          {"children", std::move(children)}};
}

json::object keys_object(const std::string& id, const std::string& directory,
                         const std::string& user) {
  return {{"qom-type", "tls-creds-psk"}, {"id", id},         {"endpoint", "client"},
          {"priority", psk_priority()},  {"dir", directory}, {"username", user}};
}

std::string keys_of(const std::string& node) { return node + "-keys"; }

int disk_index_of_node(const std::string& node) {
  constexpr std::string_view kPrefix = "disk";
  if (!node.starts_with(kPrefix)) return -1;
  int index = -1;
  const char* first = node.data() + kPrefix.size();
  if (std::from_chars(first, node.data() + node.size(), index).ec != std::errc()) return -1;
  return index;
}

}  // namespace virga
