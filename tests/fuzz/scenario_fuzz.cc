// F-F33: any text as a scenario file ends in a scenario within the bounds,
// or in an error that names the line.
#include "base/check.h"
#include "sim/scenario.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto scenario = virga::sim::parse_scenario(text);
  if (!scenario.ok()) {
    VIRGA_CHECK(scenario.error().code == virga::Errc::invalid);
    VIRGA_CHECK(!scenario.error().text().empty());
    return 0;
  }
  VIRGA_CHECK(scenario->hosts <= 1000 && scenario->vms.size() <= 10'000);
  for (const auto& event : scenario->events) VIRGA_CHECK(event.at >= virga::Duration{});
  return 0;
}
