#pragma once

#include <functional>
#include <memory>

#include "base/rng.h"
#include "sim/drivers.h"
#include "sim/network.h"
#include "sim/sim_hypervisor.h"

namespace virga::sim {

/// One run of `virgad agent` on a simulated host: the shipped AgentCore on simulated drivers. Destroying it is kill -9.
class AgentRun {
 public:
  struct Parts {
    World& world;
    Migrations& migrations;
    MessageNetwork& network;
    HostTruth& host;
    HostNetworks& networks;
    Rng rng;
    bool reports_usage = false;
    std::function<Leash*()> leash{};                         ///< the host's leash, or nullptr
    std::function<void(const LeaseGrant& grant)> granted{};  ///< told before the agent reads it
  };

  /// `clock`: what the host's clock shows.
  AgentRun(Parts parts, const SimProcess& clock);
  ~AgentRun();
  AgentRun(const AgentRun&) = delete;
  AgentRun& operator=(const AgentRun&) = delete;

  SimProcess& process();
  GuardClient& guard();
  void set_frozen(bool frozen);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace virga::sim
