#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "base/time.h"
#include "model/host.h"

/// People's calendars. The one place where wall time decides; only what a person could order at any moment may depend
/// on it, so that a wrong clock does no harm (ADR 0027).
namespace virga {

/// "22:05" as minutes since midnight; nothing else than two digits, a colon and two digits.
std::optional<int> parse_time_of_day(std::string_view text);

/// A window is open at this moment (UTC). One that cannot be read never is. Pure.
bool is_open(const std::vector<MaintenanceWindow>& windows, WallTime now);

}  // namespace virga
