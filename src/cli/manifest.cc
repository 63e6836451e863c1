#include "cli/manifest.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/yaml.h"
#include "model/meta.h"

namespace virga::cli {

namespace json = boost::json;

namespace {

struct KnownKind {
  std::string_view kind;
  std::string_view plural;
  bool tenant_owned;
};

/// In the order in which they are applied.
constexpr KnownKind kKinds[] = {{"tenant", "tenants", false},
                                {"cluster", "clusters", false}, {"machine", "machines", false},
                                {"image", "images", false},     {"network", "networks", true},
                                {"security_group", "security_groups", true},
                                {"host", "hosts", false},       {"device", "devices", false},
                                {"volume", "volumes", true},    {"vm", "vms", true},
                                {"service", "services", true},
                                {"floating_address", "floating_addresses", true}};

std::string text_of(const json::object& from, std::string_view name) {
  const auto* value = from.if_contains(name);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

Result<ManifestEntry> read_entry(const json::value& document, const std::string& where) {
  const auto wrong = [&](const std::string& what) {
    return make_error(Errc::invalid, where + ": " + what);
  };
  if (!document.is_object()) return wrong("is not a resource; right would be kind, meta and spec");
  json::object body = document.get_object();
  const std::string kind = text_of(body, "kind");
  const auto* known = std::find_if(std::begin(kKinds), std::end(kKinds),
                                   [&](const KnownKind& one) { return one.kind == kind; });
  if (known == std::end(kKinds)) {
    return wrong("kind: \"" + kind.substr(0, 80) +
                 "\" is not one of tenant, cluster, machine, image, network, security_group, host, "
                 "device, volume, vm, service, floating_address");
  }
  body.erase("kind");
  body.erase("status");
  for (const auto& [name, value] : body) {
    if (name != "meta" && name != "spec")
      return wrong(std::string(name) + ": no such field; known: kind, meta, spec");
  }
  const auto* meta = body.if_contains("meta");
  if (meta == nullptr || !meta->is_object())
    return wrong("meta: is missing; it holds name and tenant");
  ManifestEntry entry{std::string(known->kind),
                      std::string(known->plural),
                      text_of(meta->get_object(), "name"),
                      {}};
  if (auto named = check_name("meta.name", entry.name); !named.ok())
    return wrong(named.error().text());
  if (known->tenant_owned) {
    const std::string tenant = text_of(meta->get_object(), "tenant");
    if (auto named = check_name("meta.tenant", tenant); !named.ok())
      return wrong(named.error().text());
    entry.name = qualified(tenant, entry.name);
  }
  entry.body = std::move(body);
  return entry;
}

std::size_t order_of(const ManifestEntry& entry) {
  const auto* known = std::find_if(std::begin(kKinds), std::end(kKinds),
                                   [&](const KnownKind& one) { return one.kind == entry.kind; });
  return static_cast<std::size_t>(known - std::begin(kKinds));
}

}  // namespace

Result<std::vector<ManifestEntry>> read_manifest(std::string_view text) {
  const auto documents = parse_yaml(text);
  if (!documents.ok()) return documents.error();
  std::vector<ManifestEntry> entries;
  for (std::size_t i = 0; i < documents->size(); ++i) {
    const json::value& document = (*documents)[i];
    const std::string where = fmt::format("document {}", i + 1);
    if (document.is_null()) continue;
    if (!document.is_array()) {
      auto entry = read_entry(document, where);
      if (!entry.ok()) return entry.error();
      entries.push_back(std::move(*entry));
      continue;
    }
    for (std::size_t k = 0; k < document.get_array().size(); ++k) {
      auto entry = read_entry(document.get_array()[k], fmt::format("{}, entry {}", where, k + 1));
      if (!entry.ok()) return entry.error();
      entries.push_back(std::move(*entry));
    }
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const ManifestEntry& left, const ManifestEntry& right) {
                     return order_of(left) < order_of(right);
                   });
  return entries;
}

}  // namespace virga::cli
