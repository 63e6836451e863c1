#pragma once

#include <map>

#include "sim/cloud.h"

namespace virga::sim {

/// Consumers of all services: each service is asked at its address as often as the world demands, by somebody who
/// reaches every host that acts. Behind a balancer answers whoever runs there in truth.
class Consumers {
 public:
  struct Tally {
    std::int64_t answered = 0;
    std::int64_t failed = 0;
  };

  explicit Consumers(Cloud& cloud) : cloud_(cloud) {}

  /// Once; asks from the moment on at which a service is available for the first time.
  void start();

  const std::map<ServiceId, Tally>& tallies() const { return tallies_; }

 private:
  void round();
  void listen(const HostTruth& from, BalancerTruth& balancer);
  bool answers_at(const HostTruth& from, const std::string& address) const;
  bool ask(const Service& service);

  Cloud& cloud_;
  std::map<ServiceId, Tally> tallies_;
};

}  // namespace virga::sim
