// F-F32: reads any text as a manifest. What YAML accepts must survive being written and read again.
#include "base/check.h"
#include "cli/manifest.h"
#include "cli/output.h"
#include "cli/yaml.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)virga::cli::read_manifest(text);
  const auto documents = virga::cli::parse_yaml(text);
  if (!documents.ok()) return 0;
  for (const auto& document : *documents) {
    const auto again = virga::cli::parse_yaml(virga::cli::yaml_text(document), {64 << 20});
    if (!document.is_object() && !document.is_array()) continue;
    VIRGA_CHECK(again.ok());
    VIRGA_CHECK(again->size() == 1);
  }
  return 0;
}
