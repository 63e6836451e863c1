#include <fmt/format.h>

#include <set>

#include "server/api/rules.h"
#include "server/api/validate.h"

namespace virga::api {
namespace {

constexpr std::size_t kReasonsMax = 20;

Problem problem(Errc code, std::string text, std::vector<Reason> reasons = {}) {
  return Problem{make_error(code, std::move(text)), std::move(reasons), 0};
}

std::set<SecurityGroupId> others_of(const SecurityGroup& group) {
  std::set<SecurityGroupId> others;
  for (const SecurityRule& rule : group.spec.rules) {
    if (!rule.remote_group.empty() && rule.remote_group != group.meta.name)
      others.insert(SecurityGroupId(qualified(group.meta.tenant, rule.remote_group)));
  }
  return others;
}

}  // namespace

Refusal check_group(const ClusterView& view, const std::string& field, const std::string& tenant,
                    const std::string& name) {
  const SecurityGroupId id(qualified(tenant, name));
  const SecurityGroup* group = view.security_groups.find(id);
  if (group != nullptr && !group->meta.deleting_at) return std::nullopt;
  if (group != nullptr)
    return problem(Errc::conflict,
                   fmt::format("{}: security group {} is being deleted", field, id.value));
  std::vector<Reason> known;
  for (const auto& [other, ignored] : view.security_groups.all()) {
    const bool same_tenant = other.value.starts_with(tenant + "/");
    if (same_tenant && known.size() < kReasonsMax)
      known.push_back({"security_group " + other.value, "exists"});
  }
  return problem(Errc::not_found,
                 fmt::format("{}: tenant \"{}\" has no security group \"{}\"", field, tenant, name),
                 known);
}

Refusal apply_rules(const RuleContext& context, const SecurityGroup*, SecurityGroup& after) {
  if (auto sound = check_security_group(after.spec); !sound.ok())
    return Problem{sound.error(), {}, 0};
  for (std::size_t i = 0; i < after.spec.rules.size(); ++i) {
    const std::string& other = after.spec.rules[i].remote_group;
    if (other.empty() || other == after.meta.name) continue;
    const std::string field = fmt::format("spec.rules[{}].remote_group", i);
    if (auto refused = check_group(context.view, field, after.meta.tenant, other)) return refused;
  }
  return std::nullopt;
}

/// What it names stays while it is written.
Refusal add_companions(const RuleContext& context, const SecurityGroup*, const SecurityGroup& after,
                       Change& change) {
  for (const SecurityGroupId& id : others_of(after)) {
    const SecurityGroup* other = context.view.security_groups.find(id);
    VIRGA_CHECK(other != nullptr);
    change.guards.push_back({keys::of(id), other->meta.revision});
  }
  return std::nullopt;
}

std::vector<Reason> users_of(const ClusterView& view, const SecurityGroup& group) {
  std::vector<Reason> users;
  for (const auto& [id, port] : view.ports.all()) {
    const auto& groups = port->spec.security_groups;
    const bool uses = std::find(groups.begin(), groups.end(), group.id()) != groups.end();
    if (uses && users.size() < kReasonsMax)
      users.push_back({"port " + id.value, "of vm " + port->spec.vm.value});
  }
  for (const auto& [id, service] : view.services.all()) {
    const auto& groups = service->spec.vm.security_groups;
    const bool same_tenant = service->meta.tenant == group.meta.tenant;
    const bool uses = std::find(groups.begin(), groups.end(), group.meta.name) != groups.end();
    if (same_tenant && uses && users.size() < kReasonsMax)
      users.push_back({"service " + id.value, "its copies have it"});
  }
  for (const auto& [id, other] : view.security_groups.all()) {
    if (others_of(*other).contains(group.id()) && users.size() < kReasonsMax)
      users.push_back({"security_group " + id.value, "names it in a rule"});
  }
  return users;
}

}  // namespace virga::api
