#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/loop.h"
#include "driver/fabric.h"

namespace virga {

/// A host without networks, for tests of what needs a Fabric.
class NullFabric final : public Fabric {
 public:
  explicit NullFabric(Loop& loop) : loop_(loop) {}
  void apply(const FabricState&, Callback<void> done) override {
    answer<void>(loop_, std::move(done), {});
  }
  void place(const FabricPlaces&, Callback<void> done) override {
    answer<void>(loop_, std::move(done), {});
  }
  void guard(const FabricGroups& groups, Callback<void> done) override {
    guarded.push_back(groups);
    answer<void>(loop_, std::move(done), {});
  }
  std::uint64_t version() const override { return in_force; }
  void open_port(const LaunchNic&, Callback<OpenPort> done) override {
    answer<OpenPort>(loop_, std::move(done), ports ? ports() : OpenPort{});
  }
  void inspect_port(const LaunchNic&, Callback<void> done) override {
    answer<void>(loop_, std::move(done), isolation);
  }
  void close_port(const LaunchNic&, Callback<void> done) override {
    answer<void>(loop_, std::move(done), {});
  }
  void open_leg(const ServiceId& service, const BalancerLeg& leg, Callback<void> done) override {
    if (leg_answer) legs[service] = leg;
    answer<void>(loop_, std::move(done), leg_answer);
  }
  std::string leg_namespace(const ServiceId&) const override { return {}; }
  void close_leg(const ServiceId& service, Callback<void> done) override {
    if (leg_answer) legs.erase(service);
    answer<void>(loop_, std::move(done), leg_answer);
  }

  void visit(const std::string& visitor, const BalancerLeg& leg,
             Callback<std::shared_ptr<const int>> done) override {
    if (!leg_answer)
      return answer<std::shared_ptr<const int>>(loop_, std::move(done), leg_answer.error());
    visitors[visitor] = leg;
    answer<std::shared_ptr<const int>>(loop_, std::move(done), std::make_shared<const int>(-1));
  }
  void leave(const std::string& visitor, Callback<void> done) override {
    visitors.erase(visitor);
    answer<void>(loop_, std::move(done), {});
  }
  void open_gateway(const GatewayNetwork& network, Callback<void> done) override {
    if (gateway_answer) gateways[network.vni] = network;
    answer<void>(loop_, std::move(done), gateway_answer);
  }
  std::string gateway_namespace(std::uint32_t) const override { return {}; }
  void close_gateway(std::uint32_t vni, Callback<void> done) override {
    if (gateway_answer) gateways.erase(vni);
    answer<void>(loop_, std::move(done), gateway_answer);
  }

  std::vector<FabricGroups> guarded;  ///< all calls
  std::map<ServiceId, BalancerLeg> legs;
  std::map<std::string, BalancerLeg> visitors;
  std::function<OpenPort()> ports;  ///< what is opened; empty = nothing
  Result<void> isolation;           ///< of all ports
  Result<void> leg_answer;  ///< of the next calls about legs
  std::uint64_t in_force = 0;  ///< what version() says
  std::map<std::uint32_t, GatewayNetwork> gateways;
  Result<void> gateway_answer;  ///< the same about gateways

 private:
  Loop& loop_;
};

}  // namespace virga
