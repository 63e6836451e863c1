#pragma once

#include <string>
#include <string_view>

#include "model/cluster.h"
#include "model/event.h"
#include "model/floating_address.h"
#include "model/image.h"
#include "model/network.h"
#include "model/operation.h"
#include "model/security_group.h"
#include "model/service.h"
#include "model/service_level.h"
#include "model/vm.h"
#include "model/volume.h"

/// Keys of resources in the Store: "kind/name" or "kind/tenant/name". The value is the resource's JSON.
namespace virga::keys {

inline constexpr std::string_view kRoot = "";
inline constexpr std::string_view kMachine = "machine/";
inline constexpr std::string_view kTenant = "tenant/";
inline constexpr std::string_view kCluster = "cluster/";
inline constexpr std::string_view kHost = "host/";
inline constexpr std::string_view kImage = "image/";
inline constexpr std::string_view kNetwork = "network/";
inline constexpr std::string_view kPort = "port/";
inline constexpr std::string_view kSecurityGroup = "security_group/";
inline constexpr std::string_view kFloatingAddress = "floating_address/";
inline constexpr std::string_view kVm = "vm/";
inline constexpr std::string_view kDevice = "device/";
inline constexpr std::string_view kVolume = "volume/";
inline constexpr std::string_view kService = "service/";
inline constexpr std::string_view kLevel = "level/";
inline constexpr std::string_view kOperation = "operation/";
inline constexpr std::string_view kOutbox = "outbox/";      ///< events on their way to the journal
inline constexpr std::string_view kMeta = "meta/";          ///< incarnation, schema, authority
inline constexpr std::string_view kToken = "token/";        ///< join tokens, by SHA-256
inline constexpr std::string_view kIdempotency = "idempotency/";
inline constexpr std::string_view kAddress = "address/";    ///< one a port: makes its address unique on the network
inline constexpr std::string_view kUse = "use/";            ///< one a used volume: no two VMs have it
inline constexpr std::string_view kFloating = "floating/";    ///< one a floating address: makes it unique in the cloud
inline constexpr std::string_view kFloatingOf = "floating_of/";  ///< one a NIC that has one: it has no second
inline constexpr std::string_view kVni = "vni/";            ///< one a network: makes its VXLAN id unique in the cloud

inline std::string of(const MachineId& id) { return std::string(kMachine) + id.value; }
inline std::string of(const ClusterId& id) { return std::string(kCluster) + id.value; }
inline std::string of(const HostId& id) { return std::string(kHost) + id.value; }
inline std::string of(const ImageId& id) { return std::string(kImage) + id.value; }
inline std::string of(const NetworkId& id) { return std::string(kNetwork) + id.value; }
inline std::string of(const PortId& id) { return std::string(kPort) + id.value; }
inline std::string of(const SecurityGroupId& id) { return std::string(kSecurityGroup) + id.value; }
inline std::string of(const FloatingAddressId& id) {
  return std::string(kFloatingAddress) + id.value;
}
inline std::string of(const VmId& id) { return std::string(kVm) + id.value; }
inline std::string of(const DeviceId& id) { return std::string(kDevice) + id.value; }
inline std::string of(const VolumeId& id) { return std::string(kVolume) + id.value; }
inline std::string of(const ServiceId& id) { return std::string(kService) + id.value; }
inline std::string of(const TenantId& id) { return std::string(kTenant) + id.value; }
inline std::string of(const LevelId& id) { return std::string(kLevel) + id.value; }
inline std::string of(const OperationId& id) { return std::string(kOperation) + id.value; }

/// "address/acme/front/10.50.0.10"; the value is the PortId. `address` with or without prefix length.
inline std::string address(const NetworkId& network, const std::string& address) {
  return std::string(kAddress) + network.value + "/" + address.substr(0, address.find('/'));
}
/// "use/acme/data"; the value is the VmId.
inline std::string use(const VolumeId& volume) { return std::string(kUse) + volume.value; }

/// "floating/203.0.113.17"; the value is the FloatingAddressId.
inline std::string floating(const std::string& address) { return std::string(kFloating) + address; }

/// Key of the VM or service that a floating address leads to; empty = to nobody.
inline std::string led_by(const FloatingAddress& one) {
  if (!one.spec.vm.empty()) return of(one.vm_id());
  return one.spec.service.empty() ? std::string() : of(one.service_id());
}
/// "floating_of/vm/acme/web/front"; the value is the FloatingAddressId. Empty when it leads to nobody.
inline std::string floating_of(const FloatingAddress& one) {
  if (!one.leads()) return {};
  return std::string(kFloatingOf) + led_by(one) + "/" + one.spec.network;
}

inline std::string vni(std::uint32_t number) { return std::string(kVni) + std::to_string(number); }

}  // namespace virga::keys
