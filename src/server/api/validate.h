#pragma once

#include <map>
#include <string>

#include "model/cluster.h"
#include "model/floating_address.h"
#include "model/tenant.h"
#include "model/image.h"
#include "model/network.h"
#include "model/security_group.h"
#include "model/service.h"
#include "model/vm.h"
#include "model/volume.h"

/// Checks of what users write, as far as the text itself can be judged. Pure. Errors: invalid, beginning with the
/// field's path, with the value seen and what would be right. All ranges stand in one table in validate.cc.
namespace virga::api {

/// A range of the table: "spec.cpus" of a VM is 1..256 processors.
struct Range {
  std::string_view field;
  std::int64_t low;
  std::int64_t high;
  std::string_view unit;
};

/// The whole table, for the reference.
const std::map<std::string, Range>& ranges();

Result<void> check_meta(const Meta& meta, bool tenant_owned);
Result<void> check_cluster(const ClusterSpec& spec);
Result<void> check_machine(const MachineSpec& spec);
Result<void> check_host(const HostSpec& spec);
Result<void> check_image(const ImageSpec& spec);
Result<void> check_network(const NetworkSpec& spec);
Result<void> check_device(const DeviceSpec& spec);
Result<void> check_volume(const VolumeSpec& spec);
/// Beside what is asked of its copies, which are VMs.
Result<void> check_service(const Meta& meta, const ServiceSpec& spec);
Result<void> check_security_group(const SecurityGroupSpec& spec);
Result<void> check_tenant(const TenantSpec& spec);
Result<void> check_floating_address(const FloatingAddressSpec& spec);
Result<void> check_vm(const VmSpec& spec);

/// Errors: invalid when `path` climbs, is absolute (or is not, where `absolute`), or has odd characters.
Result<void> check_path(std::string_view field, std::string_view path, bool absolute);

}  // namespace virga::api
