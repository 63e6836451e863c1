#pragma once

#include <string>
#include <string_view>

#include "model/keys.h"
#include "runtime/cluster_view.h"

/// What the API knows of each kind of resource: names, key, table. One line a kind.
namespace virga::api {

template <typename T>
struct Kind;

#define VIRGA_API_KIND(type, single, many, key_prefix, owned)               \
  template <>                                                               \
  struct Kind<type> {                                                       \
    static constexpr std::string_view kSingular = single;                   \
    static constexpr std::string_view kPlural = #many;                      \
    static constexpr std::string_view kPrefix = key_prefix;                 \
    static constexpr bool kTenantOwned = owned;                             \
    static const auto& table(const ClusterView& view) { return view.many; } \
  }

VIRGA_API_KIND(Tenant, "tenant", tenants, keys::kTenant, false);
VIRGA_API_KIND(Cluster, "cluster", clusters, keys::kCluster, false);
VIRGA_API_KIND(Machine, "machine", machines, keys::kMachine, false);
VIRGA_API_KIND(Host, "host", hosts, keys::kHost, false);
VIRGA_API_KIND(Image, "image", images, keys::kImage, false);
VIRGA_API_KIND(Network, "network", networks, keys::kNetwork, true);
VIRGA_API_KIND(SecurityGroup, "security_group", security_groups, keys::kSecurityGroup, true);
VIRGA_API_KIND(FloatingAddress, "floating_address", floating_addresses, keys::kFloatingAddress,
               true);
VIRGA_API_KIND(Vm, "vm", vms, keys::kVm, true);
VIRGA_API_KIND(Device, "device", devices, keys::kDevice, false);
VIRGA_API_KIND(Volume, "volume", volumes, keys::kVolume, true);
VIRGA_API_KIND(Service, "service", services, keys::kService, true);
VIRGA_API_KIND(Port, "port", ports, keys::kPort, true);
VIRGA_API_KIND(Operation, "operation", operations, keys::kOperation, false);

#undef VIRGA_API_KIND

/// Kinds that controllers work on after the answer: created, changed and deleted with 202.
template <typename T>
constexpr bool worked_on =
    std::is_same_v<T, Vm> || std::is_same_v<T, Volume> || std::is_same_v<T, Service>;

/// Calls `task.template operator()<T>()` for each kind.
template <typename Task>
void for_each_kind(Task&& task) {
  task.template operator()<Tenant>();
  task.template operator()<Cluster>();
  task.template operator()<Machine>();
  task.template operator()<Host>();
  task.template operator()<Image>();
  task.template operator()<Network>();
  task.template operator()<SecurityGroup>();
  task.template operator()<FloatingAddress>();
  task.template operator()<Vm>();
  task.template operator()<Device>();
  task.template operator()<Volume>();
  task.template operator()<Service>();
  task.template operator()<Port>();
  task.template operator()<Operation>();
}

/// The id's text in keys and paths: "acme/web" or "host-1".
template <typename T>
std::string id_text(const std::string& tenant, const std::string& name) {
  return Kind<T>::kTenantOwned ? qualified(tenant, name) : name;
}

/// "/v1/vms/acme/web".
template <typename T>
std::string path_of(const Meta& meta) {
  return "/v1/" + std::string(Kind<T>::kPlural) + "/" + id_text<T>(meta.tenant, meta.name);
}

/// "vm/acme/web", the resource's store key and the subject of its events.
template <typename T>
std::string key_of(const Meta& meta) {
  return std::string(Kind<T>::kPrefix) + id_text<T>(meta.tenant, meta.name);
}

}  // namespace virga::api
