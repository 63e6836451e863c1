#pragma once

#include <optional>

#include "server/api/handlers.h"

/// What each kind asks of a change beyond the text itself: references that exist and fit the tenant, fields that never
/// change, values that the server picks. Called with a view on every try; may add guards and writes to `change`.
namespace virga::api {

/// What earlier tries of the same request did.
struct Tries {
  int count = 0;
  std::set<std::uint32_t> addresses;
};

struct RuleContext {
  Engine& engine;
  const Call& call;
  const ClusterView& view;
  Tries& tries;
};

using Refusal = std::optional<Problem>;

/// `before` = nullptr: is being created. Completes `after`.
Refusal apply_rules(const RuleContext& context, const Tenant* before, Tenant& after);
Refusal apply_rules(const RuleContext& context, const Cluster* before, Cluster& after);
Refusal apply_rules(const RuleContext& context, const Machine* before, Machine& after);
Refusal apply_rules(const RuleContext& context, const Host* before, Host& after);
Refusal apply_rules(const RuleContext& context, const Image* before, Image& after);
Refusal apply_rules(const RuleContext& context, const Network* before, Network& after);
Refusal apply_rules(const RuleContext& context, const Device* before, Device& after);
Refusal apply_rules(const RuleContext& context, const Volume* before, Volume& after);
Refusal apply_rules(const RuleContext& context, const Service* before, Service& after);
Refusal apply_rules(const RuleContext& context, const SecurityGroup* before, SecurityGroup& after);
Refusal apply_rules(const RuleContext& context, const FloatingAddress* before,
                    FloatingAddress& after);
Refusal apply_rules(const RuleContext& context, const Vm* before, Vm& after);

/// Whether the tenant has that image and may begin to use it; the refusal begins with `field`.
Refusal check_image(const ClusterView& view, const std::string& field, const std::string& tenant,
                    const ImageId& id);

/// Whether an image's file and its disk are within what a cluster takes; the refusal begins with `field`.
Refusal check_image_size(std::string_view field, const ImageSpec& spec, const Cluster& cluster);

/// Whether the tenant has that security group and may begin to use it; the refusal begins with `field`.
Refusal check_group(const ClusterView& view, const std::string& field, const std::string& tenant,
                    const std::string& name);

/// Whether the floating addresses that a cluster or a network has allow its change.
Refusal check_floating(const ClusterView& view, const Cluster& after);
Refusal check_floating(const ClusterView& view, const Network& after);

/// Whether everything is where it may be when this is so; what is not already does not count.
Refusal check_regions_of(const ClusterView& view, const Tenant& after);
Refusal check_regions_of(const ClusterView& view, const Volume& after);
Refusal check_region_of(const ClusterView& view, const Host& after);

/// Whether a copy of the volume may be where it shall; one that says nothing may be where its source may.
Refusal fit_regions(const Volume& source, Volume& copy);

/// Guards and further keys that belong into the same commit as the resource.
Refusal add_companions(const RuleContext& context, const Network* before, const Network& after,
                       Change& change);
Refusal add_companions(const RuleContext& context, const Device* before, const Device& after,
                       Change& change);
Refusal add_companions(const RuleContext& context, const Volume* before, const Volume& after,
                       Change& change);
Refusal add_companions(const RuleContext& context, const Service* before, const Service& after,
                       Change& change);
Refusal add_companions(const RuleContext& context, const SecurityGroup* before,
                       const SecurityGroup& after, Change& change);
Refusal add_companions(const RuleContext& context, const FloatingAddress* before,
                       const FloatingAddress& after, Change& change);
Refusal add_companions(const RuleContext& context, const Vm* before, const Vm& after,
                       Change& change);

/// Whether a copy of the service can be relocated so; an empty `copy` becomes one that serves.
Refusal check_weight(const Service& service, const WeightOrder& order);
Refusal check_relocation(const ClusterView& view, const Service& service, RelocationOrder& order);

/// Why a user cannot change this VM: it is a copy of a service.
Refusal refuse_copy(const Vm& vm);

/// Whether a new VM can have the volumes that it names, and the keys that make them its own.
Refusal check_volumes_of(const ClusterView& view, const Vm& vm);
void add_uses(const ClusterView& view, const Vm& vm, Change& change);
template <typename T>
Refusal add_companions(const RuleContext&, const T*, const T&, Change&) {
  return std::nullopt;
}

/// Who uses the resource and therefore stands against its removal; at most 20.
std::vector<Reason> users_of(const ClusterView& view, const Tenant& tenant);
std::vector<Reason> users_of(const ClusterView& view, const Cluster& cluster);
std::vector<Reason> users_of(const ClusterView& view, const Machine& machine);
std::vector<Reason> users_of(const ClusterView& view, const Host& host);
std::vector<Reason> users_of(const ClusterView& view, const Image& image);
std::vector<Reason> users_of(const ClusterView& view, const Network& network);
std::vector<Reason> users_of(const ClusterView& view, const Device& device);
std::vector<Reason> users_of(const ClusterView& view, const Volume& volume);
std::vector<Reason> users_of(const ClusterView& view, const Service& service);
std::vector<Reason> users_of(const ClusterView& view, const SecurityGroup& group);
std::vector<Reason> users_of(const ClusterView& view, const FloatingAddress& address);

/// The cluster that a tenant's thing shall belong to; empty `wanted` = the only one that fits. Errors: invalid,
/// not_found, denied (another tenant's cluster).
Result<const Cluster*> fitting_cluster(const ClusterView& view, const std::string& tenant,
                                       const ClusterId& wanted);

}  // namespace virga::api
