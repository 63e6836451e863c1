#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "model/cluster.h"
#include "model/floating_address.h"
#include "model/image.h"
#include "model/network.h"
#include "model/operation.h"
#include "model/security_group.h"
#include "model/service.h"
#include "model/service_level.h"
#include "model/tenant.h"
#include "model/vm.h"
#include "model/volume.h"
#include "runtime/table.h"
#include "store/store.h"

namespace virga {

template <typename T>
struct OfCluster {
  using Key = ClusterId;
  static void each(const T& resource, const auto& tell) { tell(resource.spec.cluster); }
};
using HostsOfCluster = OfCluster<Host>;
using VmsOfCluster = OfCluster<Vm>;
using NetworksOfCluster = OfCluster<Network>;
using VolumesOfCluster = OfCluster<Volume>;
using ServicesOfCluster = OfCluster<Service>;

/// By the VM that they lead to.
struct FloatingOfVm {
  using Key = VmId;
  static void each(const FloatingAddress& address, const auto& tell) {
    if (!address.spec.vm.empty()) tell(address.vm_id());
  }
};

/// By the service that they lead to.
struct FloatingOfService {
  using Key = ServiceId;
  static void each(const FloatingAddress& address, const auto& tell) {
    if (!address.spec.service.empty()) tell(address.service_id());
  }
};

/// By status.host and by the destination of a migration.
struct VmsOnHost {
  using Key = HostId;
  static void each(const Vm& vm, const auto& tell) {
    const HostId& host = vm.status.host;
    const HostId& destination = vm.status.migration.destination;
    if (!host.empty()) tell(host);
    if (!destination.empty() && destination != host) tell(destination);
  }
};

/// By the volumes that they have as disks.
struct VmsOfVolume {
  using Key = VolumeId;
  static void each(const Vm& vm, const auto& tell) {
    for (const VmDisk& disk : vm.spec.disks) {
      if (!disk.volume.empty()) tell(VolumeId(qualified(vm.meta.tenant, disk.volume)));
    }
  }
};

struct DevicesOnHost {
  using Key = HostId;
  static void each(const Device& device, const auto& tell) { tell(device.spec.host); }
};

/// Those that have not ended, by their source and destination.
struct OperationsOnHost {
  using Key = HostId;
  static void each(const Operation& operation, const auto& tell) {
    if (operation.ended()) return;
    const HostId& source = operation.arguments.source;
    const HostId& destination = operation.arguments.destination;
    if (!source.empty()) tell(source);
    if (!destination.empty() && destination != source) tell(destination);
  }
};

struct OperationsByEnd {
  using Key = bool;  ///< true = they have ended
  static void each(const Operation& operation, const auto& tell) { tell(operation.ended()); }
};

/// The whole stored state at one revision, with the indices that planners need. Immutable to its readers; a copy is
/// cheap and may be read on another thread.
struct ClusterView {
  Revision revision = 0;
  std::uint64_t incarnation = 0;
  Table<Machine> machines;
  Table<Tenant> tenants;
  Table<Cluster> clusters;
  Table<Host, HostsOfCluster> hosts;
  Table<Image> images;
  Table<Network, NetworksOfCluster> networks;
  Table<Port> ports;
  Table<SecurityGroup> security_groups;
  Table<FloatingAddress, FloatingOfVm, FloatingOfService> floating_addresses;
  Table<Vm, VmsOfCluster, VmsOnHost, VmsOfVolume> vms;
  Table<Device, DevicesOnHost> devices;
  Table<Volume, VolumesOfCluster> volumes;
  Table<Service, ServicesOfCluster> services;
  Table<ServiceLevel> levels;
  Table<Operation, OperationsOnHost, OperationsByEnd> operations;

  /// VMs whose status.host or migration destination is `host`, in order of id.
  std::vector<const Vm*> vms_on(const HostId& host) const { return vms.in<VmsOnHost>(host); }

  /// VMs of a cluster, wherever they are, in order of id.
  std::vector<const Vm*> vms_of(const ClusterId& cluster) const {
    return vms.in<VmsOfCluster>(cluster);
  }

  /// Members, networks, volumes and services of a cluster, in order of id.
  std::vector<const Host*> hosts_of(const ClusterId& cluster) const {
    return hosts.in<HostsOfCluster>(cluster);
  }

  std::vector<const Network*> networks_of(const ClusterId& cluster) const {
    return networks.in<NetworksOfCluster>(cluster);
  }

  /// Devices of a cluster's hosts, host by host.
  std::vector<const Device*> devices_of(const ClusterId& cluster) const;

  /// The VM that has this volume as a disk; nullptr = none.
  const Vm* user_of(const VolumeId& volume) const { return vms.first<VmsOfVolume>(volume); }

  std::vector<const Volume*> volumes_of(const ClusterId& cluster) const {
    return volumes.in<VolumesOfCluster>(cluster);
  }

  std::vector<const Service*> services_of(const ClusterId& cluster) const {
    return services.in<ServicesOfCluster>(cluster);
  }

  /// The service that will replace this copy of it when its host is to be emptied; nullptr = none.
  const Service* replacer_of(const Vm& vm) const;

  /// Operations that have not ended and come from or go to `host`, in order of id.
  std::vector<const Operation*> operations_on(const HostId& host) const {
    return operations.in<OperationsOnHost>(host);
  }

  /// Ports of a VM, in order of id.
  std::vector<const Port*> ports_of(const VmId& vm) const;

  /// The floating address that leads to a port, of a VM or a service's frontend; nullptr = none.
  const FloatingAddress* floating_of(const Port& port) const;

  /// IPv4 addresses of a network's ports, in host byte order.
  const std::set<std::uint32_t>& addresses_on(const NetworkId& network) const;

  /// Every store key that goes when a VM goes: its own, its ports' and their addresses', the
  /// uses of its volumes.
  std::vector<std::string> keys_of(const VmId& vm) const;

  /// Applies one change of the store; keys of unknown kinds are skipped. Errors: internal, naming the key whose value
  /// cannot be read; the entry before it is kept.
  Result<void> apply(const Change& change);

 private:
  using AddressIndex = std::map<NetworkId, std::set<std::uint32_t>>;
  void index_port(const Port* before, const Port* after);

  std::shared_ptr<AddressIndex> addresses_ = std::make_shared<AddressIndex>();
};

}  // namespace virga
