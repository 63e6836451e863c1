#pragma once

#include <cstddef>
#include <map>
#include <memory>

#include "driver/bmc.h"
#include "edge/asio_loop.h"

namespace virga {

/// Power through Redfish: ComputerSystem.Reset with ForceOff and On, always proven by reading PowerState back; an
/// accepted command that changes nothing within the deadline ends as `timeout`. What a controller that lies says
/// cannot be told from the truth here: the caller compares it with what the host itself reports.
///
/// Source: DMTF DSP0266 (Redfish), schema ComputerSystem; nothing is taken on trust because controllers answer 200
/// and do nothing (redhat-performance/jetlag#245).
class RedfishBmc final : public Bmc {
 public:
  static constexpr std::size_t kWaitingMax = 8;

  explicit RedfishBmc(AsioLoop& loop);
  RedfishBmc(const RedfishBmc&) = delete;
  RedfishBmc& operator=(const RedfishBmc&) = delete;

  /// Calls that have not completed are dropped without their completion.
  ~RedfishBmc() override;

  void power(const Machine& machine, Callback<MachinePower> done) override;
  void set_power(const Machine& machine, MachinePower to, Callback<void> done) override;

 private:
  struct Command;
  struct State;
  void enqueue(const Machine& machine, std::shared_ptr<Command> command);

  std::shared_ptr<State> state_;
};

}  // namespace virga
