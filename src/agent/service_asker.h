#pragma once

#include "agent/service_probes.h"
#include "edge/asio_loop.h"

namespace virga {

/// Asks services by HTTP and TCP, each time on a connection of its own as a new consumer would.
class NetworkAsker final : public ServiceAsker {
 public:
  explicit NetworkAsker(AsioLoop& loop) : loop_(loop) {}

  void ask(const ServiceProbe& probe, std::shared_ptr<const int> from,
           Callback<Duration> done) override;

  /// A balancer takes connections also while it has nobody to give them to, and ends them at once.
  static constexpr Duration kStands = milliseconds(50);

 private:
  AsioLoop& loop_;
};

}  // namespace virga
