#pragma once

#include <boost/describe.hpp>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "base/id.h"
#include "base/result.h"
#include "base/time.h"

namespace virga {

struct HostTag {};
struct VmTag {};
struct ClusterTag {};
struct NetworkTag {};
struct ImageTag {};
struct MachineTag {};
struct OperationTag {};
struct PortTag {};
struct SecurityGroupTag {};
struct FloatingAddressTag {};
struct VolumeTag {};
struct DeviceTag {};
struct ServiceTag {};
struct LevelTag {};
struct TenantTag {};

using HostId = Id<HostTag>;            ///< the host's name
using VmId = Id<VmTag>;                ///< "tenant/name"
using ClusterId = Id<ClusterTag>;      ///< the cluster's name
using NetworkId = Id<NetworkTag>;      ///< "tenant/name"
using ImageId = Id<ImageTag>;          ///< the image's name
using MachineId = Id<MachineTag>;      ///< the machine's name
using OperationId = Id<OperationTag>;  ///< "op-" + number, unique in a store's life
using PortId = Id<PortTag>;            ///< "tenant/vm-index"
using SecurityGroupId = Id<SecurityGroupTag>;  ///< "tenant/name"
using FloatingAddressId = Id<FloatingAddressTag>;  ///< "tenant/name"
using VolumeId = Id<VolumeTag>;        ///< "tenant/name"
using DeviceId = Id<DeviceTag>;        ///< the storage device's name
using ServiceId = Id<ServiceTag>;      ///< "tenant/name"
using LevelId = Id<LevelTag>;          ///< "tenant/name" of the service
using TenantId = Id<TenantTag>;        ///< the tenant's name

/// Head of every stored resource.
struct Meta {
  std::string name;                           ///< see check_name; never changes
  std::string tenant;                         ///< owner; empty for what belongs to the cloud itself
  std::uint64_t generation = 0;               ///< grows with every change of spec
  std::uint64_t revision = 0;                 ///< the store's revision of the last change; set on reading
  std::map<std::string, std::string> labels;  ///< free pairs for selection
  WallTime created_at;
  std::optional<WallTime> deleting_at;  ///< set once: controllers clean up, the last one removes
  std::string correlation;              ///< of the request that last changed spec, labels or deleting_at
};
BOOST_DESCRIBE_STRUCT(Meta, (),
                      (name, tenant, generation, revision, labels, created_at, deleting_at,
                       correlation))

/// Fencing token of one VM. Grows at every placement and is stored before the first effect; agents and storage
/// refuse an older one. `incarnation` counts restores of the store from a backup.
struct Epoch {
  std::uint64_t incarnation = 0;
  std::uint64_t counter = 0;  ///< 0 = never placed

  friend auto operator<=>(const Epoch&, const Epoch&) = default;
};
BOOST_DESCRIBE_STRUCT(Epoch, (), (incarnation, counter))

/// "1.42": incarnation and counter.
std::string to_string(const Epoch& epoch);

/// Names are 1 to 63 characters of a-z, 0-9 and '-', beginning and ending with a letter or digit.
/// Errors: invalid, naming `field`, the value and the rule.
Result<void> check_name(std::string_view field, std::string_view name);

/// "tenant/name", the text of ids of what tenants own.
std::string qualified(const std::string& tenant, const std::string& name);

}  // namespace virga
