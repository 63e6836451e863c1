#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "mechanism/perimeter/regions.h"
#include "server/api/rules.h"
#include "server/api/validate.h"

namespace virga::api {
namespace {

constexpr std::size_t kReasonsMax = 20;

/// What would be where it may not be, if it were so, and is not now.
Refusal refuse_misplaced(const ClusterView& now, const ClusterView& then,
                         const std::string& field) {
  std::set<std::pair<std::string, std::string>> before;
  for (const Misplaced& one : misplaced(now)) before.insert(one.key());
  std::vector<Reason> reasons;
  for (const Misplaced& one : misplaced(then)) {
    if (before.contains(one.key()) || reasons.size() >= kReasonsMax) continue;
    reasons.push_back({one.subject, one.place + " " + one.reason});
  }
  if (reasons.empty()) return std::nullopt;
  return Problem{make_error(Errc::conflict, field + ": something is where it may not be then; "
                                                    "move it away first"),
                 std::move(reasons), 0};
}

}  // namespace

Refusal check_regions_of(const ClusterView& view, const Tenant& after) {
  ClusterView then = view;
  then.tenants.put(std::make_shared<const Tenant>(after));
  return refuse_misplaced(view, then, "spec.regions");
}

Refusal check_regions_of(const ClusterView& view, const Volume& after) {
  ClusterView then = view;
  then.volumes.put(std::make_shared<const Volume>(after));
  return refuse_misplaced(view, then, "spec.regions");
}

Refusal check_region_of(const ClusterView& view, const Host& after) {
  ClusterView then = view;
  then.hosts.put(std::make_shared<const Host>(after));
  return refuse_misplaced(view, then, "spec.region");
}

/// A copy may be where its source may be, or in a part of that.
Refusal fit_regions(const Volume& source, Volume& copy) {
  auto& wanted = copy.spec.regions;
  const auto& allowed = source.spec.regions;
  if (wanted.empty()) wanted = allowed;
  for (const std::string& region : wanted) {
    if (allowed.empty() || std::ranges::find(allowed, region) != allowed.end()) continue;
    return Problem{make_error(Errc::denied,
                              fmt::format("spec.regions: what its source {} holds may not be in "
                                          "\"{}\"",
                                          source.id().value, region)),
                   {},
                   0};
  }
  return std::nullopt;
}

Refusal apply_rules(const RuleContext& context, const Tenant*, Tenant& after) {
  if (auto sound = check_tenant(after.spec); !sound.ok()) return Problem{sound.error(), {}, 0};
  return check_regions_of(context.view, after);
}

/// A record can go whoever has things: then nothing is forbidden.
std::vector<Reason> users_of(const ClusterView&, const Tenant&) { return {}; }

}  // namespace virga::api
