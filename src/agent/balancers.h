#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/protocol.h"
#include "driver/fabric.h"
#include "driver/load_balancer.h"

namespace virga {

/// What a host has for load balancers: their driver, and a memory of them for the next agent. Loop thread only; calls
/// of microseconds. Implementations: BalancerFolders, one in the simulator.
class BalancerHome {
 public:
  virtual ~BalancerHome() = default;

  /// The driver of a service's balancer, not open yet. `network_namespace`: path of its leg's.
  virtual std::unique_ptr<LoadBalancer> make(const ServiceId& service,
                                             const std::string& network_namespace) = 0;

  virtual std::map<ServiceId, BalancerLeg> remembered() = 0;

  /// Errors: invalid (the id), exhausted, denied.
  virtual Result<void> remember(const ServiceId& service, const BalancerLeg& leg) = 0;

  /// With all that was kept for it.
  virtual Result<void> forget(const ServiceId& service) = 0;
};

/// The load balancers of services that this host carries: which ones, the server says (apply_balancer). Loop thread
/// only.
///
/// They outlive the agent, and they go on when the host has lost its lease: they hold no state that a second balancer
/// of the same service could harm, and which one clients come to is the network's matter, see Fabric::place().
class Balancers {
 public:
  /// More are refused: what they report must fit into one message.
  static constexpr std::size_t kBalancersMax = 32;
  static constexpr std::size_t kServersMax = 2048;  ///< of all of them together

  /// `home` may be nullptr: this host carries none.
  Balancers(Fabric& fabric, BalancerHome* home) : fabric_(fabric), home_(home) {}

  /// Goes on with those of an earlier agent. Once, first. One that cannot go on says so in observe(); the next
  /// apply_balancer tries again.
  void start();

  /// Whether the command is one of a balancer's; then `done` runs exactly once, within 90 s, or never when this object
  /// ends before. What is applied was looked at before `done`, so that observe() shows it.
  /// Errors: those of Fabric and LoadBalancer; unsupported (none on this host), invalid (the field is missing),
  /// exhausted (too many balancers or servers on this host), unavailable (a call for this service is under way).
  bool execute(const Command& command, const Callback<CommandResult>& done);

  /// Looks at all of them, except where the look of before still waits; once a heartbeat. Returns at once.
  void look();

  /// As of the last look, in order of service: at most a heartbeat and 10 s old; what could not be seen is empty.
  std::vector<ServiceBalancer> observe() const;

 private:
  struct Balancer {
    std::unique_ptr<LoadBalancer> driver;
    bool opened = false;    ///< open() was called
    bool changing = false;  ///< a call is under way
    int looking = 0;
    std::uint64_t looks = 0;      ///< that were begun
    std::uint64_t seen_with = 0;  ///< number of the look that `seen` is of
    std::size_t servers = 0;
    std::string failing;  ///< why the last change failed
    std::string unseen;   ///< why the last look failed
    ObservedBalancer seen;

    bool running() const { return seen.revision != 0; }
  };

  void apply(const BalancerCommand& asked, const Callback<void>& done);
  void remove(const ServiceId& service, const Callback<void>& done);
  Result<void> check_room(const BalancerCommand& asked) const;
  Balancer& add(const ServiceId& service);
  void raise(const ServiceId& service, const BalancerLeg& leg, const Callback<void>& done);
  void finish(const ServiceId& service, const Result<void>& result, const Callback<void>& done);
  void erase(const ServiceId& service, const Callback<void>& done);
  void look_at(const ServiceId& service, const Task& then);
  static void take(Balancer& balancer, Result<ObservedBalancer> seen);
  Callback<void> while_here(Callback<void> next);

  Fabric& fabric_;
  BalancerHome* home_;
  std::map<ServiceId, Balancer> balancers_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
