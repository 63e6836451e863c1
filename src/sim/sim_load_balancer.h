#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "driver/load_balancer.h"

namespace virga::sim {

/// One load balancer as it really is, with what listens around it. It outlives agents. Clients come to it directly.
struct BalancerTruth {
  using ServerKey = std::pair<std::string, std::string>;  ///< pool, name

  /// Who listens at a place.
  struct Listener {
    std::string name;
    bool alive = true;
    Instant since;         ///< of that
    bool noticed = false;  ///< a check has found it dead
  };
  struct Tally {
    std::int64_t sessions = 0;
    std::int64_t total = 0;
    std::int64_t errors = 0;
    std::int64_t credit = 0;  ///< of the turn by weights
  };

  /// Gives a request that came to "address:port" to a server. False: it failed.
  bool begin_request(const std::string& place, Instant now, ServerKey& taken_by);
  void end_request(const ServerKey& taken_by);

  /// What its check says by now.
  BalancerHealth health(const BalancerPool& pool, const BalancerServer& server, Instant now);

  /// Takes a spec over; another shape begins the counters anew.
  void take(const BalancerSpec& wanted, Instant now);
  void begin_counters();

  /// Ends it with all that is under way; its agent hears of it.
  void kill();

  /// Ends it with its host; what it has to be stands on the disk.
  void lose_power();

  std::map<std::string, Listener> listeners;  ///< servers, by "address:port"
  std::set<std::string> taken;                ///< "address:port" of others than servers
  BalancerSpec in_force;                      ///< revision 0 = none
  bool serving = false;
  std::uint64_t counters = 0;
  std::map<ServerKey, Tally> servers;
  std::map<std::string, Tally> frontends;
  std::function<void()> on_ended;  ///< of the agent that runs now

 private:
  const BalancerServer* pick(const BalancerPool& pool, Instant now);
};

/// The agent's driver of a simulated balancer: the same promises as HaproxyBalancer, in virtual time.
class SimLoadBalancer : public LoadBalancer {
 public:
  SimLoadBalancer(Loop& agent, BalancerTruth& truth);
  ~SimLoadBalancer() override;

  void open(Callback<void> done) override;
  void apply(const BalancerSpec& wanted, Callback<void> done) override;
  std::uint64_t revision() const override { return truth_.in_force.revision; }
  void observe(Callback<ObservedBalancer> done) override;
  void remove(Callback<void> done) override;

 private:
  void later(Duration takes, Task task);
  Result<void> take(const BalancerSpec& wanted);
  ObservedBalancer look();

  Loop& agent_;
  BalancerTruth& truth_;
  Instant busy_until_;  ///< calls end in their order
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga::sim
