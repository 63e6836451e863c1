#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "model/cluster.h"
#include "model/image.h"
#include "model/network.h"
#include "model/operation.h"
#include "model/vm.h"
#include "store/store.h"

namespace virga {

/// Kinds whose spec names the cluster that they belong to.
template <typename T>
concept InCluster = requires(const T& resource) { ClusterId(resource.spec.cluster); };

/// Resources of one kind, in order of id, shared copy-on-write: taking a copy is O(1); changing one that somebody
/// else holds copies the pointers once, never the resources.
template <typename T>
class Table {
 public:
  using IdType = decltype(std::declval<const T&>().id());
  using Map = std::map<IdType, std::shared_ptr<const T>>;

  Table() = default;

  /// A table of these alone, however many others there are.
  explicit Table(const Map& resources) {
    for (const auto& [id, resource] : resources) put(resource);
  }

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

  /// Those of one cluster, in order of id. O(log clusters).
  const Map& of_cluster(const ClusterId& cluster) const
    requires InCluster<T>
  {
    static const Map kNone;
    const auto found = groups_->find(cluster);
    return found == groups_->end() ? kNone : *found->second;
  }

  void put(std::shared_ptr<const T> resource) {
    std::shared_ptr<const T>& place = own(map_)[resource->id()];
    if constexpr (InCluster<T>) {
      if (place != nullptr && place->spec.cluster != resource->spec.cluster) leave_group(*place);
      own(own(groups_)[resource->spec.cluster])[resource->id()] = resource;
    }
    place = std::move(resource);
  }

  void erase(const IdType& id) {
    const auto found = share(id);
    if (found == nullptr) return;
    if constexpr (InCluster<T>) leave_group(*found);
    own(map_).erase(id);
  }

 private:
  using Groups = std::map<ClusterId, std::shared_ptr<Map>>;

  /// The value behind a pointer, this table's alone.
  template <typename Value>
  static Value& own(std::shared_ptr<Value>& held) {
    if (held == nullptr) held = std::make_shared<Value>();
    if (held.use_count() > 1) held = std::make_shared<Value>(*held);
    return *held;
  }

  void leave_group(const T& resource) {
    Groups& groups = own(groups_);
    const auto group = groups.find(resource.spec.cluster);
    own(group->second).erase(resource.id());
    if (group->second->empty()) groups.erase(group);
  }

  std::shared_ptr<Map> map_ = std::make_shared<Map>();
  std::shared_ptr<Groups> groups_ = std::make_shared<Groups>();  ///< by cluster; InCluster only
};

/// The whole stored state at one revision, with the indices that planners need. Immutable to its readers; a copy is
/// cheap and may be read on another thread.
struct ClusterView {
  Revision revision = 0;
  std::uint64_t incarnation = 0;
  Table<Machine> machines;
  Table<Cluster> clusters;
  Table<Host> hosts;
  Table<Image> images;
  Table<Network> networks;
  Table<Port> ports;
  Table<Vm> vms;
  Table<Operation> operations;

  /// VMs whose status.host or migration destination is `host`, in order of id.
  std::vector<const Vm*> vms_on(const HostId& host) const;

  /// Members of a cluster, in order of id.
  std::vector<const Host*> hosts_of(const ClusterId& cluster) const;

  /// Ports of a VM, in order of id.
  std::vector<const Port*> ports_of(const VmId& vm) const;

  /// IPv4 addresses of a network's ports, in host byte order.
  const std::set<std::uint32_t>& addresses_on(const NetworkId& network) const;

  /// Every store key that goes when a VM goes: its own, its ports' and their addresses'.
  std::vector<std::string> keys_of(const VmId& vm) const;

  /// Applies one change of the store; keys of unknown kinds are skipped. Errors: internal, naming the key whose value
  /// cannot be read; the entry before it is kept.
  Result<void> apply(const Change& change);

 private:
  using HostIndex = std::map<HostId, std::set<VmId>>;
  using AddressIndex = std::map<NetworkId, std::set<std::uint32_t>>;
  void index_vm(const Vm* before, const Vm* after);
  void index_port(const Port* before, const Port* after);

  std::shared_ptr<HostIndex> vms_by_host_ = std::make_shared<HostIndex>();
  std::shared_ptr<AddressIndex> addresses_ = std::make_shared<AddressIndex>();
};

}  // namespace virga
