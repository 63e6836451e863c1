#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/reflect.h"
#include "model/vm.h"

namespace virga {

/// Where a consumer finds a volume, what it asks for there and as whom. All of it is secret and valid for one
/// attachment only; each protocol fills what it has, so that a consumer's block driver can be made of it alone:
///
///          address, port       export_name                     user, key
///   nbd    of the server       the export's                    of the TLS-PSK
///   file   none                absolute path of a raw file     none: the path is the secret
///   iscsi  of the portal       the target; the volume is LUN 1 of CHAP; `user` is the initiator's name too
///   rbd    of the monitors     POOL/NAMESPACE/IMAGE            of cephx
struct VolumeEndpoint {
  std::string protocol;     ///< as in the table
  std::string address;      ///< IPv4; rbd: ADDRESS:PORT of each monitor, a comma between
  int port = 0;             ///< 0 = the protocol has none, or it stands in the address
  std::string export_name;  ///< volume, epoch and 128 random bits or more
  std::string user;
  std::string key;          ///< nbd, iscsi: hex; rbd: as Ceph writes it
  DeviceId device{};        ///< where that is; of commands alone, filled in by the server
};
BOOST_DESCRIBE_STRUCT(VolumeEndpoint, (), (protocol, address, port, export_name, user, key, device))

/// A file of the VM's own (`path`), or a volume (`volume`, `endpoint`).
struct LaunchDisk {
  std::string name;  ///< "root" or the VmDisk's name
  std::string path{};  ///< below the shared directory: "vms/acme/web/root.qcow2"
  std::string
      backing{};  ///< image's disk below the shared directory that a new overlay is based on; or empty
  Mib size_mib{};
  std::string volume{};  ///< VolumeId; empty = a file
  std::optional<VolumeEndpoint> endpoint{};  ///< what lets this epoch in; never written to shared storage
  bool mirrored = false;  ///< the volume: a place that fails is soon given up
  std::optional<VolumeEndpoint> second{};  ///< of its other place in sync, which is written as well; as `endpoint`
};
BOOST_DESCRIBE_STRUCT(LaunchDisk, (),
                      (name, path, backing, size_mib, volume, endpoint, mirrored, second))

/// What a disk image finds at its first boot, in the manner of clouds (NoCloud).
struct LaunchSeed {
  std::string path;       ///< below the shared directory: "vms/acme/web/seed.iso"
  std::string user_data;  ///< "#cloud-config\n..." or a script; empty = none
};
BOOST_DESCRIBE_STRUCT(LaunchSeed, (), (path, user_data))

/// What the image's files must be: its disk, or kernel + initrd.
struct LaunchImage {
  Bytes file_bytes;
  std::string sha256;

  friend bool operator==(const LaunchImage&, const LaunchImage&) = default;
};
BOOST_DESCRIBE_STRUCT(LaunchImage, (), (file_bytes, sha256))

struct LaunchNic {
  std::string port;     ///< PortId
  std::string network;  ///< NetworkId
  std::uint32_t vni = 0;
  std::string mac;
  std::string address;  ///< "10.50.0.10/24"
  int mtu = 1450;
  bool guarded = false;  ///< has security groups: nothing passes before the host was told of them
  std::string router{};    ///< IPv4; empty = the network has no way out
  std::string resolver{};  ///< IPv4; empty = the network has no names
  std::string domain{};    ///< "front.acme.virga", where there are names
};
BOOST_DESCRIBE_STRUCT(LaunchNic, (),
                      (port, network, vni, mac, address, mtu, guarded, router, resolver, domain))

/// A VM's resolved configuration: everything a host needs to run it, with the epoch that may. Written beside the
/// VM's disks on shared storage at every placement, so that each host of the cluster can read it.
struct VmLaunch {
  VmId vm;
  Epoch epoch;
  VmIdentity identity;
  int cpus = 1;
  Millicores cpu_millicores;  ///< quota, > 0
  int cpu_weight = 100;
  int processes_max = 256;
  Mib memory_mib;
  std::string directory;  ///< below the shared directory: "vms/acme/web"
  std::string kernel;     ///< below the shared directory; empty = boots from the root disk
  std::string initrd;
  std::string command_line;  ///< kernel's, complete
  std::optional<LaunchImage> image;  ///< nothing: registered before this was asked for, not checked
  std::vector<LaunchDisk> disks;
  std::vector<LaunchNic> nics;
  std::vector<std::string> host_devices{};  ///< names that this host's agent knows
  std::optional<LaunchSeed> seed;  ///< of images that boot from a root disk
  std::map<std::string, std::string> parameters;
  Duration downtime_ms_max = milliseconds(300);
  std::string correlation;
};
BOOST_DESCRIBE_STRUCT(VmLaunch, (),
                      (vm, epoch, identity, cpus, cpu_millicores, cpu_weight, processes_max,
                       memory_mib, directory, kernel, initrd, command_line, image, disks, nics,
                       host_devices, seed, parameters, downtime_ms_max, correlation))

// Read and written in one translation unit (model/json.cc): reflection is dear to compile.
extern template json::value to_json<VmLaunch>(const VmLaunch&);
extern template Result<VmLaunch> from_json<VmLaunch>(const json::value&, UnknownFields);

}  // namespace virga
