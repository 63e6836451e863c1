#pragma once

#include <string>
#include <vector>

#include "model/launch.h"

namespace virga {

struct ConfigurationList {
  std::vector<VmLaunch> launches;     ///< in order of tenant and name
  std::vector<std::string> problems;  ///< one sentence for each file that cannot be read
};

/// The resolved configurations that lie on the cluster's shared storage, as each host of it can read them, also without
/// a server: which VM was placed last with which epoch, and what it is made of. Blocking. Errors: not_found, denied.
Result<ConfigurationList> list_configurations(const std::string& shared_directory);

}  // namespace virga
