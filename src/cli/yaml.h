#pragma once

#include <boost/json.hpp>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace virga::cli {

struct YamlLimits {
  std::size_t bytes_max = 4 << 20;
  int depth_max = 32;
  std::size_t values_max = 200'000;
  std::size_t documents_max = 1000;
};

/// All documents of a YAML text as JSON, by the core schema of YAML 1.2: `no` is a string, `null`, `true`, 12, 0x1f,
/// 1.5 are what they look like, quoted text is always a string. JSON is YAML. Anchors, aliases, tags and doubled
/// names are refused: a manifest says each thing once. Pure. Errors: invalid, with line and column.
Result<std::vector<boost::json::value>> parse_yaml(std::string_view text,
                                                   const YamlLimits& limits = {});

}  // namespace virga::cli
