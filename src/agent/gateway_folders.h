#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "agent/gateways.h"

namespace virga {

/// Of gateways, followed by how the names of an agent's namespaces begin: each agent of a machine has its own. What
/// serves reads there as a user without rights, and so it is no part of the agent's data.
constexpr std::string_view kGatewayFolder = "/run/virga/gateways/";

/// The gateways of a real host: a folder for each below `directory`, "1001", with its network (gateway.json) and what
/// the driver keeps (driver/). Nothing of it is secret, and nothing of it is worth more than one boot.
class GatewayFolders final : public GatewayHome {
 public:
  /// Makes the driver of a gateway that has a directory and a network namespace (its path).
  using Make = std::function<std::unique_ptr<GatewayServer>(const std::string& directory,
                                                            const std::string& network_namespace)>;

  GatewayFolders(std::string directory, Make make)
      : directory_(std::move(directory)), make_(std::move(make)) {}

  std::unique_ptr<GatewayServer> make(std::uint32_t vni,
                                      const std::string& network_namespace) override;

  /// A folder that cannot be read is removed.
  std::map<std::uint32_t, GatewayNetwork> remembered() override;

  Result<void> remember(const GatewayNetwork& network) override;
  Result<void> forget(std::uint32_t vni) override;

 private:
  std::string folder(std::uint32_t vni) const;

  const std::string directory_;
  const Make make_;
};

}  // namespace virga
