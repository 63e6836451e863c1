#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "agent/balancers.h"

namespace virga {

/// The balancers of a real host: a folder for each below `directory`, "acme.web", with its leg (leg.json) and what the
/// driver keeps (driver/). Secret: certificates with their keys stand there.
class BalancerFolders : public BalancerHome {
 public:
  /// Makes the driver of a balancer that has a directory and a network namespace (its path).
  using Make = std::function<std::unique_ptr<LoadBalancer>(const std::string& directory,
                                                           const std::string& network_namespace)>;

  BalancerFolders(std::string directory, Make make)
      : directory_(std::move(directory)), make_(std::move(make)) {}

  std::unique_ptr<LoadBalancer> make(const ServiceId& service,
                                     const std::string& network_namespace) override;

  /// A folder whose leg cannot be read was damaged when the machine went down; nothing of it runs. It is removed.
  std::map<ServiceId, BalancerLeg> remembered() override;

  Result<void> remember(const ServiceId& service, const BalancerLeg& leg) override;
  Result<void> forget(const ServiceId& service) override;

 private:
  std::string folder(const ServiceId& service) const;

  const std::string directory_;
  const Make make_;
};

}  // namespace virga
