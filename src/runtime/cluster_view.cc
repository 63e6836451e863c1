#include "runtime/cluster_view.h"

#include <algorithm>

#include "base/reflect.h"
#include "model/ipv4.h"
#include "model/keys.h"

namespace virga {
namespace {

template <typename T, typename... Groups>
Result<void> apply_to(Table<T, Groups...>& table, const Change& change, std::string_view prefix) {
  const typename Table<T, Groups...>::IdType id(change.entry.key.substr(prefix.size()));
  if (change.removed) {
    table.erase(id);
    return {};
  }
  auto read = from_json_text<T>(change.entry.value);
  if (!read) return wrap_error("read " + change.entry.key + " from the store", read.error());
  read->meta.revision = change.entry.modified;
  table.put(std::make_shared<const T>(std::move(*read)));
  return {};
}

}  // namespace

Result<void> ClusterView::apply(const Change& change) {
  const std::string_view key = change.entry.key;
  Result<void> done;
  if (key.starts_with(keys::kVm)) {
    done = apply_to(vms, change, keys::kVm);
  } else if (key.starts_with(keys::kOperation)) {
    done = apply_to(operations, change, keys::kOperation);
  } else if (key.starts_with(keys::kHost)) {
    done = apply_to(hosts, change, keys::kHost);
  } else if (key.starts_with(keys::kPort)) {
    const PortId id(std::string(key.substr(keys::kPort.size())));
    const auto before = ports.share(id);
    done = apply_to(ports, change, keys::kPort);
    if (done.ok()) index_port(before.get(), ports.find(id));
  } else if (key.starts_with(keys::kNetwork)) {
    done = apply_to(networks, change, keys::kNetwork);
  } else if (key.starts_with(keys::kVolume)) {
    done = apply_to(volumes, change, keys::kVolume);
  } else if (key.starts_with(keys::kDevice)) {
    done = apply_to(devices, change, keys::kDevice);
  } else if (key.starts_with(keys::kService)) {
    done = apply_to(services, change, keys::kService);
  } else if (key.starts_with(keys::kLevel)) {
    done = apply_to(levels, change, keys::kLevel);
  } else if (key.starts_with(keys::kSecurityGroup)) {
    done = apply_to(security_groups, change, keys::kSecurityGroup);
  } else if (key.starts_with(keys::kFloatingAddress)) {
    done = apply_to(floating_addresses, change, keys::kFloatingAddress);
  } else if (key.starts_with(keys::kImage)) {
    done = apply_to(images, change, keys::kImage);
  } else if (key.starts_with(keys::kCluster)) {
    done = apply_to(clusters, change, keys::kCluster);
  } else if (key.starts_with(keys::kMachine)) {
    done = apply_to(machines, change, keys::kMachine);
  } else if (key.starts_with(keys::kTenant)) {
    done = apply_to(tenants, change, keys::kTenant);
  }
  revision = std::max(revision, change.entry.modified);
  return done;
}

void ClusterView::index_port(const Port* before, const Port* after) {
  if (addresses_.use_count() > 1) addresses_ = std::make_shared<AddressIndex>(*addresses_);
  if (before != nullptr) {
    if (const auto address = parse_ipv4(before->spec.address)) {
      (*addresses_)[before->spec.network].erase(*address);
    }
  }
  if (after != nullptr) {
    if (const auto address = parse_ipv4(after->spec.address)) {
      (*addresses_)[after->spec.network].insert(*address);
    }
  }
}

const std::set<std::uint32_t>& ClusterView::addresses_on(const NetworkId& network) const {
  static const std::set<std::uint32_t> kNone;
  const auto found = addresses_->find(network);
  return found == addresses_->end() ? kNone : found->second;
}

std::vector<std::string> ClusterView::keys_of(const VmId& vm) const {
  std::vector<std::string> found{keys::of(vm)};
  for (const Port* port : ports_of(vm)) {
    found.push_back(keys::of(port->id()));
    found.push_back(keys::address(port->spec.network, port->spec.address));
  }
  const Vm* stored = vms.find(vm);
  if (stored == nullptr) return found;
  for (const VmDisk& disk : stored->spec.disks) {
    if (disk.volume.empty()) continue;
    found.push_back(keys::use(VolumeId(qualified(stored->meta.tenant, disk.volume))));
  }
  return found;
}

const Service* ClusterView::replacer_of(const Vm& vm) const {
  const Service* service = vm.spec.service.empty() ? nullptr : services.find(vm.spec.service);
  return service != nullptr && service->replaces(vm.id()) ? service : nullptr;
}

const FloatingAddress* ClusterView::floating_of(const Port& port) const {
  const ServiceId& id = port.spec.service;
  const Service* service = id.empty() ? nullptr : services.find(id);
  if (!id.empty() && (service == nullptr || service->port_id() != port.id())) return nullptr;
  const auto all = id.empty() ? floating_addresses.in<FloatingOfVm>(port.spec.vm)
                              : floating_addresses.in<FloatingOfService>(id);
  const auto leads_here = [&](const auto* one) { return one->network_id() == port.spec.network; };
  const auto found = std::find_if(all.begin(), all.end(), leads_here);
  return found == all.end() ? nullptr : *found;
}

std::vector<const Device*> ClusterView::devices_of(const ClusterId& cluster) const {
  std::vector<const Device*> found;
  for (const Host* host : hosts_of(cluster)) {
    for (const Device* device : devices.in<DevicesOnHost>(host->id())) found.push_back(device);
  }
  return found;
}

std::vector<const Port*> ClusterView::ports_of(const VmId& vm) const {
  std::vector<const Port*> found;
  const auto& all = ports.all();
  for (auto next = all.lower_bound(PortId(vm.value + "-")); next != all.end(); ++next) {
    if (!next->first.value.starts_with(vm.value + "-")) break;
    if (next->second->spec.vm == vm) found.push_back(next->second.get());
  }
  return found;
}

}  // namespace virga
