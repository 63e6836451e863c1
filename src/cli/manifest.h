#pragma once

#include <boost/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace virga::cli {

/// One resource of a manifest: where it goes and what is sent.
struct ManifestEntry {
  std::string kind;     ///< "vm"
  std::string plural;   ///< "vms"
  std::string name;     ///< "acme/web" or "lab"
  boost::json::object body;  ///< meta and spec
};

/// Reads a manifest: YAML or JSON documents, each a resource (`kind`, `meta`, `spec`) or a list of them, as `virga KIND
/// list -o yaml` prints. In order of dependence: clusters, machines, images, networks, security groups, hosts, devices,
/// volumes, VMs, services, floating addresses; else as written. Errors: invalid, naming the document and what would be
/// right.
Result<std::vector<ManifestEntry>> read_manifest(std::string_view text);

}  // namespace virga::cli
