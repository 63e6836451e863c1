#include <fmt/format.h>

#include "driver/net/linux_fabric.h"

/// Whether the kernel holds what was told it: asked after a port has come here by a live move.
namespace virga {

void LinuxFabric::inspect_port(const LaunchNic& nic, Callback<void> done) {
  worker_.run<void>([this, nic] { return inspect(nic); }, std::move(done));
}

Result<void> LinuxFabric::inspect(const LaunchNic& nic) {
  const auto differs = [&nic](std::string words) {
    return Result<void>(make_error(Errc::conflict, "port " + nic.port + ": " + std::move(words)));
  };
  const auto present = links();
  if (!present) return present.error();
  const std::string tap = tap_name(nic.port);
  const auto port = present->find(tap), bridge = present->find(bridge_name(nic.vni));
  if (port == present->end()) return differs("its device " + tap + " is not there");
  if (bridge == present->end() || port->second.master != bridge->second.index) {
    return differs(fmt::format("{} is not on the bridge of VNI {}", tap, nic.vni));
  }
  for (const auto& [name, link] : *present) {
    if (link.master != bridge->second.index || link.kind != "vxlan") continue;
    if (link.vni == nic.vni && !link.learns) continue;
    return differs(fmt::format("its bridge has the tunnel {} of VNI {}", name, link.vni));
  }
  if (auto held = filter_.check(tap, nic); !held) {
    return held.error().code == Errc::conflict ? differs(held.error().what) : held;
  }
  if (!groups_.taps().contains(tap)) return {};
  if (!bridge->second.tracked) return differs("its bridge hands nothing to the security groups");
  const auto asked = groups_.check(tap);
  return asked || asked.error().code != Errc::conflict ? asked : differs(asked.error().what);
}

}  // namespace virga
