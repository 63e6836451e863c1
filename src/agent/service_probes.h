#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/loop.h"
#include "driver/fabric.h"
#include "model/balancer.h"
#include "model/service_level.h"

namespace virga {

/// How a service is asked at its address, from a place of the asker's own on the service's network.
struct ServiceProbe {
  ServiceId service;
  BalancerLeg leg;
  std::string address;  ///< of the service, IPv4
  int port = 0;
  BalancerProtocol protocol = BalancerProtocol::tcp;
  std::string path;      ///< http
  int status_max = 399;  ///< http: 200 to this is an answer
  Duration every_ms = seconds(1);
  Duration timeout_ms = seconds(1);
  std::string trusted{};  ///< http: PEM of the certificate that is shown there; empty = without TLS

  friend bool operator==(const ServiceProbe&, const ServiceProbe&) = default;
};
BOOST_DESCRIBE_STRUCT(ServiceProbe, (),
                      (service, leg, address, port, protocol, path, status_max, every_ms,
                       timeout_ms, trusted))

/// All services that a host asks; sent by the server, replaced as a whole.
struct ServiceProbeList {
  std::vector<ServiceProbe> probes;
};
BOOST_DESCRIBE_STRUCT(ServiceProbeList, (), (probes))

/// Asks a service once. Implementations: one by HTTP and TCP in the agent, one in the simulator. Loop thread only.
class ServiceAsker {
 public:
  virtual ~ServiceAsker() = default;

  /// `from` is what Fabric::visit() gave. `done` runs once, on the loop, within twice the probe's timeout: after what
  /// time it was answered as a consumer wants it (http: its status; tcp: taken, and not ended at once), or why not.
  virtual void ask(const ServiceProbe& probe, std::shared_ptr<const int> from,
                   Callback<Duration> done) = 0;
};

/// The SLA monitor of a host: asks services as their consumers do and counts. Nothing of it outlives the agent. Loop
/// thread only. One request a service at a time: while one waits, its turns pass.
class ServiceProbes {
 public:
  static constexpr Duration kConfirmed = seconds(5);

  /// `asker` may be nullptr: this host asks nobody. `run` names this run of the agent.
  ServiceProbes(Loop& loop, Fabric& fabric, ServiceAsker* asker, std::string run)
      : loop_(loop), fabric_(fabric), asker_(asker), run_(std::move(run)) {}

  /// Of more than kMonitorsMax services the last ones are not asked.
  void take(const ServiceProbeList& wanted);

  /// A session begins: what is not named within kConfirmed is not asked any more.
  void welcomed() { confirm_by_ = loop_.now() + kConfirmed; }

  /// Once a heartbeat.
  void look();

  /// In order of service.
  std::vector<ObservedProbe> observe() const;

 private:
  struct Watch {
    explicit Watch(Loop& loop) : timer(loop) {}

    ServiceProbe probe;
    std::uint64_t number = 0;  ///< answers to an earlier watch of this service count no more
    std::shared_ptr<const int> place;
    Timer timer;
    Instant settled;  ///< nobody is asked before
    Instant due;
    std::optional<Instant> asked_at;                 ///< a request is under way
    std::optional<Instant> unanswered_since;         ///< when the first was sent that had no answer
    std::deque<std::pair<Instant, Duration>> waits;  ///< of consumers, by their end
    ObservedProbe seen;
  };

  void begin(const ServiceProbe& probe);
  void visit(Watch& watch);
  void turn(Watch& watch);
  void ended(Watch& watch, const Result<Duration>& answered);
  Watch* find(const ServiceId& service, std::uint64_t number);

  Loop& loop_;
  Fabric& fabric_;
  ServiceAsker* asker_;
  const std::string run_;
  std::uint64_t watches_made_ = 0;
  std::optional<Instant> confirm_by_;
  std::map<ServiceId, Watch> watches_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
