#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "model/host.h"

namespace virga {

/// A device of this host that its guests may hold, and where it is: a path that only this host knows.
struct OfferedDevice {
  HostDevice device;
  std::string path;
};

/// What an operator offers: "NAME=/dev/..." each. In order of name. One that is not there now is left out and named in
/// the log: others shall not wait for it. Blocking, for as long as the kernel takes to open them.
/// Errors: invalid (no pair, no name, a name twice, neither a block nor a character device).
Result<std::vector<OfferedDevice>> offer_devices(const std::vector<std::string>& words);

}  // namespace virga
