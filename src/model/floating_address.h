#pragma once

#include <string>

#include "base/reflect.h"
#include "model/meta.h"

namespace virga {

struct FloatingAddressSpec {
  ClusterId cluster;  ///< never changes
  std::string
      address;  ///< IPv4 out of the cluster's floating_ranges; empty = the server picks; never changes
  std::string vm;       ///< name of a VM of the same tenant that it leads to
  std::string service;  ///< instead of `vm`: name of a service of the same tenant
  std::string network;  ///< on which of its networks, one with `gateway: nat`; empty = its only one
};
BOOST_DESCRIBE_STRUCT(FloatingAddressSpec, (), (cluster, address, vm, service, network))

/// An address outside that is a tenant's, and by which the outside reaches one of its VMs or services, wherever that
/// is. What the VM sends outside comes from it too. Whoever is deleted leaves it to its tenant; one that is made under
/// the same name has it again.
struct FloatingAddress {
  Meta meta;
  FloatingAddressSpec spec;

  FloatingAddressId id() const { return FloatingAddressId(qualified(meta.tenant, meta.name)); }
  VmId vm_id() const { return spec.vm.empty() ? VmId() : VmId(qualified(meta.tenant, spec.vm)); }
  ServiceId service_id() const {
    return spec.service.empty() ? ServiceId() : ServiceId(qualified(meta.tenant, spec.service));
  }
  bool leads() const { return !spec.vm.empty() || !spec.service.empty(); }
  NetworkId network_id() const { return NetworkId(qualified(meta.tenant, spec.network)); }
};
BOOST_DESCRIBE_STRUCT(FloatingAddress, (), (meta, spec))

// Read and written in one translation unit (model/json.cc): reflection is dear to compile.
extern template json::value to_json<FloatingAddress>(const FloatingAddress&);
extern template Result<FloatingAddress> from_json<FloatingAddress>(const json::value&,
                                                                   UnknownFields);

}  // namespace virga
