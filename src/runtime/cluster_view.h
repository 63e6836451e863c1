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

/// Resources of one kind, in order of id, shared copy-on-write: taking a copy is O(1); changing one that somebody
/// else holds copies the pointers once, never the resources.
template <typename T>
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

  void put(std::shared_ptr<const T> resource) { own()[resource->id()] = std::move(resource); }
  void erase(const IdType& id) { own().erase(id); }

 private:
  Map& own() {
    if (map_.use_count() > 1) map_ = std::make_shared<Map>(*map_);
    return *map_;
  }

  std::shared_ptr<Map> map_ = std::make_shared<Map>();
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
