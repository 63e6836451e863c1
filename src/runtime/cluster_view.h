#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "model/cluster.h"
#include "model/image.h"
#include "model/network.h"
#include "model/operation.h"
#include "model/security_group.h"
#include "model/service.h"
#include "model/service_level.h"
#include "model/vm.h"
#include "model/volume.h"
#include "store/store.h"

namespace virga {

/// Resources of one kind, in order of id, shared copy-on-write: taking a copy is O(1); changing one that somebody
/// else holds copies the pointers once, never the resources.
///
/// Each of `Groups` is a way to find resources by something else than their id: it names the `Key` and says, by
/// `each(resource, tell)`, under which keys a resource is found.
template <typename T, typename... Groups>
class Table {
 public:
  using IdType = decltype(std::declval<const T&>().id());
  using Map = std::map<IdType, std::shared_ptr<const T>>;

  const T* find(const IdType& id) const {
    const auto found = map_->find(id);
    return found == map_->end() ? nullptr : found->second.get();
  }
  std::shared_ptr<const T> share(const IdType& id) const {
    const auto found = map_->find(id);
    return found == map_->end() ? nullptr : found->second;
  }
  const Map& all() const { return *map_; }
  std::size_t size() const { return map_->size(); }

  /// The resources of a group, in order of id. O(their number).
  template <typename Group>
  std::vector<const T*> in(const typename Group::Key& key) const {
    std::vector<const T*> found;
    const auto& index = *std::get<Index<Group>>(indices_).map;
    const auto entry = index.find(key);
    if (entry == index.end()) return found;
    found.reserve(entry->second->size());
    for (const auto& [id, resource] : *entry->second) found.push_back(resource.get());
    return found;
  }

  /// A table of one group alone, however many others there are. O(their number).
  template <typename Group>
  Table only(const typename Group::Key& key) const {
    Table alone;
    const auto& index = *std::get<Index<Group>>(indices_).map;
    const auto entry = index.find(key);
    if (entry == index.end()) return alone;
    for (const auto& [id, resource] : *entry->second) alone.put(resource);
    return alone;
  }

  template <typename Group>
  std::size_t count(const typename Group::Key& key) const {
    const auto& index = *std::get<Index<Group>>(indices_).map;
    const auto entry = index.find(key);
    return entry == index.end() ? 0 : entry->second->size();
  }

  void put(std::shared_ptr<const T> resource) {
    const IdType id = resource->id();
    std::shared_ptr<const T>& place = own(map_)[id];
    if (place != nullptr) (leave<Groups>(id, *place), ...);
    (enter<Groups>(id, resource), ...);
    place = std::move(resource);
  }
  void erase(const IdType& id) {
    const auto found = map_->find(id);
    if (found == map_->end()) return;
    (leave<Groups>(id, *found->second), ...);
    own(map_).erase(id);
  }

 private:
  template <typename Group>
  struct Index {
    using Entries = std::map<typename Group::Key, std::shared_ptr<Map>>;
    std::shared_ptr<Entries> map = std::make_shared<Entries>();
  };

  template <typename M>
  static M& own(std::shared_ptr<M>& shared) {
    if (shared == nullptr) shared = std::make_shared<M>();
    if (shared.use_count() > 1) shared = std::make_shared<M>(*shared);
    return *shared;
  }
  template <typename Group>
  void enter(const IdType& id, const std::shared_ptr<const T>& resource) {
    auto& index = std::get<Index<Group>>(indices_).map;
    Group::each(*resource, [&](const auto& key) { own(own(index)[key])[id] = resource; });
  }
  template <typename Group>
  void leave(const IdType& id, const T& resource) {
    auto& index = std::get<Index<Group>>(indices_).map;
    Group::each(resource, [&](const auto& key) {
      const auto entry = own(index).find(key);
      own(entry->second).erase(id);
      if (entry->second->empty()) index->erase(entry);
    });
  }

  std::shared_ptr<Map> map_ = std::make_shared<Map>();
  std::tuple<Index<Groups>...> indices_;
};

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
  Table<Cluster> clusters;
  Table<Host, HostsOfCluster> hosts;
  Table<Image> images;
  Table<Network, NetworksOfCluster> networks;
  Table<Port> ports;
  Table<SecurityGroup> security_groups;
  Table<Vm, VmsOfCluster, VmsOnHost, VmsOfVolume> vms;
  Table<Device> devices;
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

  /// The VM that has this volume as a disk; nullptr = none.
  const Vm* user_of(const VolumeId& volume) const {
    const std::vector<const Vm*> users = vms.in<VmsOfVolume>(volume);
    return users.empty() ? nullptr : users.front();
  }

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
