#include "image/seed.h"

#include <fmt/format.h>

#include <utility>

#include "image/archive.h"

namespace virga {
namespace {

std::string network_config(const std::vector<LaunchNic>& nics) {
  bool routed = false;  // two default routes would be one too many
  std::string text = "version: 2\nethernets:\n";
  for (std::size_t index = 0; index < nics.size(); ++index) {
    const LaunchNic& nic = nics[index];
    text += fmt::format(
        "  nic{}:\n    match: {{macaddress: \"{}\"}}\n    mtu: {}\n    addresses: [\"{}\"]\n",
        index, nic.mac, nic.mtu, nic.address);
    if (!nic.router.empty() && !std::exchange(routed, true))
      text += fmt::format("    routes: [{{to: \"0.0.0.0/0\", via: \"{}\"}}]\n", nic.router);
    if (!nic.resolver.empty()) {
      text += fmt::format("    nameservers: {{addresses: [\"{}\"], search: [\"{}\"]}}\n",
                          nic.resolver, nic.domain);
    }
  }
  return text;
}

}  // namespace

Result<std::string> make_seed_iso(const VmLaunch& launch) {
  if (!launch.seed || launch.identity.uuid.empty()) {
    return make_error(Errc::invalid, "seed of " + launch.vm.value +
                                         ": the VM has none, or no UUID to be known by");
  }
  const std::string name = launch.vm.value.substr(launch.vm.value.find('/') + 1);
  std::vector<ArchiveEntry> entries;
  const auto add = [&entries](const std::string& path, const std::string& contents) {
    entries.push_back({path, ArchiveEntry::Kind::file, 0644, contents});
  };
  add("meta-data",
      fmt::format("instance-id: \"{}\"\nlocal-hostname: \"{}\"\n", launch.identity.uuid, name));
  add("user-data", launch.seed->user_data.empty() ? "#cloud-config\n{}\n" : launch.seed->user_data);
  if (!launch.nics.empty()) add("network-config", network_config(launch.nics));
  return make_iso(entries, "cidata");
}

}  // namespace virga
