#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "agent/leash_core.h"
#include "driver/bmc.h"
#include "driver/fabric.h"
#include "driver/process_guard.h"
#include "sim/world.h"

namespace virga::sim {

/// A host's leash: the shipped LeashCore in a process of its own, holding simulated processes by their serial.
class Leash {
 public:
  Leash(World& world, HostTruth& host);

  SimProcess& process() { return process_; }
  LeashCore& core() { return core_; }
  void guard(const std::string& name, std::uint64_t serial);
  void set_frozen(bool frozen);
  /// Answered its client within the last 2 s.
  bool answers() const;

 private:
  void kill(const std::string& name);

  World& world_;
  HostTruth& host_;
  SimProcess process_;
  std::map<std::string, std::uint64_t> serials_;
  Instant frozen_since_{};
  LeashCore core_;
};

/// The agent's side of the leash. Tells a leash that came back what it had told the one before.
class GuardClient : public ProcessGuard {
 public:
  /// `leash` gives the host's leash, or nullptr while none runs.
  GuardClient(SimLoop& world_loop, std::function<Leash*()> leash)
      : world_loop_(world_loop), leash_(std::move(leash)) {}

  Result<void> guard(const std::string& name, int pidfd) override;
  void release(const std::string& name) override;
  void extend(Instant deadline, Duration lease) override;
  Instant held_until() const override;
  bool armed() const override;

  /// A new leash runs: hands everything over again.
  void leash_started();

 private:
  template <typename What>
  void tell(What what);

  SimLoop& world_loop_;
  std::function<Leash*()> leash_;
  std::map<std::string, int> guarded_;
  Instant deadline_{};
};

/// The networks of one host and where it believes their ports to be.
struct HostNetworks {
  FabricState state;
  std::map<std::string, std::vector<std::string>> groups;  ///< by PortId
  std::map<std::uint32_t, std::map<std::string, std::string>>
      places;  ///< by VNI: MAC -> tunnel end
  std::map<std::uint32_t, std::map<std::string, std::string>>
      floating;  ///< by VNI: MAC -> floating address, of those that have one
  std::map<std::uint32_t, std::map<std::string, std::string>>
      addresses;  ///< by VNI: address -> tunnel end
  std::map<ServiceId, BalancerLeg> legs;
  std::map<std::uint32_t, GatewayNetwork> gateways;  ///< by VNI
  std::uint64_t placings = 0;                        ///< so often its places have changed
};

/// An agent's hold on the networks of its host, which outlive it: `there`.
class SimFabric : public Fabric {
 public:
  SimFabric(Loop& agent, HostNetworks& there) : agent_(agent), there_(there) {}

  void apply(const FabricState& state, Callback<void> done) override;
  void place(const FabricPlaces& places, Callback<void> done) override;
  void guard(const FabricGroups& groups, Callback<void> done) override;
  std::uint64_t version() const override { return there_.state.version; }
  void open_port(const LaunchNic& nic, Callback<OpenPort> done) override;
  void inspect_port(const LaunchNic& nic, Callback<void> done) override;
  void close_port(const LaunchNic& nic, Callback<void> done) override;
  void open_leg(const ServiceId& service, const BalancerLeg& leg, Callback<void> done) override;
  std::string leg_namespace(const ServiceId&) const override { return {}; }
  void close_leg(const ServiceId& service, Callback<void> done) override;
  void visit(const std::string& visitor, const BalancerLeg& leg,
             Callback<std::shared_ptr<const int>> done) override;
  void leave(const std::string& visitor, Callback<void> done) override;
  void open_gateway(const GatewayNetwork& network, Callback<void> done) override;
  std::string gateway_namespace(std::uint32_t) const override { return {}; }
  void close_gateway(std::uint32_t vni, Callback<void> done) override;

 private:
  Result<void> check_network(const std::string& what, std::uint32_t vni) const;

  Loop& agent_;
  HostNetworks& there_;
};

/// The management controllers of all machines, as the server reaches them. A machine is found by its name, which is
/// its host's.
class SimBmc : public Bmc {
 public:
  /// `switch_power` switches a machine for real.
  SimBmc(World& world, Loop& server, std::function<void(HostTruth&, MachinePower)> switch_power)
      : world_(world), server_(server), switch_power_(std::move(switch_power)) {}

  void power(const Machine& machine, Callback<MachinePower> done) override;
  void set_power(const Machine& machine, MachinePower to, Callback<void> done) override;

 private:
  void ask(const Machine& machine, std::optional<MachinePower> to, Callback<MachinePower> done);

  World& world_;
  Loop& server_;
  std::function<void(HostTruth&, MachinePower)> switch_power_;
  std::map<HostId, MachinePower> lied_;
};

}  // namespace virga::sim
