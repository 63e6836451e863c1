#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/reflect.h"
#include "model/meta.h"

namespace virga {

enum class BalancerProtocol { tcp, http };
BOOST_DESCRIBE_ENUM(BalancerProtocol, tcp, http)

enum class BalanceAlgorithm { round_robin, least_connections, source_address };
BOOST_DESCRIBE_ENUM(BalanceAlgorithm, round_robin, least_connections, source_address)

enum class BalancerServerState {
  ready,
  drain,       ///< gets nothing new; what it has goes on, its health is watched
  maintenance  ///< the same, and its health is not watched
};
BOOST_DESCRIBE_ENUM(BalancerServerState, ready, drain, maintenance)

enum class BalancerHealth { unknown, up, down };
BOOST_DESCRIBE_ENUM(BalancerHealth, unknown, up, down)

/// Where clients come to.
struct BalancerFrontend {
  std::string name;
  std::string address;  ///< IPv4 that the balancer's host or namespace has
  int port = 0;
  BalancerProtocol protocol = BalancerProtocol::tcp;
  std::string pool;  ///< name of the pool that serves it
  std::string
      certificate;  ///< PEM: certificate, chain, private key; TLS ends here. Empty = none. Secret
  int connections_max = 10'000;  ///< more wait in the kernel until one ends
};
BOOST_DESCRIBE_STRUCT(BalancerFrontend, (),
                      (name, address, port, protocol, pool, certificate, connections_max))

/// How a pool's servers are looked at. One that fails is out after `fall` x (`interval_ms` + `timeout_ms`) at most.
struct BalancerCheck {
  BalancerProtocol protocol =
      BalancerProtocol::tcp;  ///< http: GET of `path` is answered with 200 to 399
  std::string path = "/";
  Duration interval_ms = seconds(1);
  Duration timeout_ms = seconds(1);
  int fall = 2;  ///< failures in a row until it is down
  int rise = 1;  ///< successes in a row until it is up
};
BOOST_DESCRIBE_STRUCT(BalancerCheck, (), (protocol, path, interval_ms, timeout_ms, fall, rise))

struct BalancerServer {
  std::string name;
  std::string address;  ///< IPv4
  int port = 0;
  int weight = 100;  ///< 1 to 256: its share, compared with the others of its pool
  BalancerServerState state = BalancerServerState::ready;
  int connections_max = 0;  ///< more wait in the queue of its pool; 0 = no limit
};
BOOST_DESCRIBE_STRUCT(BalancerServer, (), (name, address, port, weight, state, connections_max))

struct BalancerPool {
  std::string name;
  BalanceAlgorithm algorithm = BalanceAlgorithm::round_robin;
  BalancerCheck check;
  std::vector<BalancerServer> servers;
};
BOOST_DESCRIBE_STRUCT(BalancerPool, (), (name, algorithm, check, servers))

/// What one balancer has to be; replaced as a whole.
struct BalancerSpec {
  std::uint64_t revision = 0;  ///< 1 and up
  std::vector<BalancerFrontend> frontends;
  std::vector<BalancerPool> pools;
};
BOOST_DESCRIBE_STRUCT(BalancerSpec, (), (revision, frontends, pools))

struct ObservedBalancerServer {
  std::string pool;
  std::string name;
  BalancerServerState state = BalancerServerState::ready;
  BalancerHealth health = BalancerHealth::unknown;  ///< up until its check says otherwise
  std::int64_t sessions = 0;                        ///< now; http: requests, tcp: connections
  std::int64_t total = 0;                           ///< sessions that were given to it
  std::int64_t errors = 0;            ///< connections that failed, answers that were none
  std::int64_t response_time_ms = 0;  ///< mean of the last 1024; tcp: of connecting
};
BOOST_DESCRIBE_STRUCT(ObservedBalancerServer, (),
                      (pool, name, state, health, sessions, total, errors, response_time_ms))

struct ObservedBalancerFrontend {
  std::string name;
  std::int64_t requests_per_second = 0;  ///< of the last second; tcp: new connections
  std::int64_t sessions = 0;             ///< connections now
  std::int64_t total = 0;                ///< requests; tcp: connections
  std::int64_t errors_5xx = 0;  ///< answers 500 to 599, of servers and of the balancer itself
};
BOOST_DESCRIBE_STRUCT(ObservedBalancerFrontend, (),
                      (name, requests_per_second, sessions, total, errors_5xx))

struct ObservedBalancerPool {
  std::string name;
  std::int64_t queue = 0;  ///< wait now, as all servers have what they may
};
BOOST_DESCRIBE_STRUCT(ObservedBalancerPool, (), (name, queue))

struct ObservedBalancer {
  std::uint64_t revision = 0;  ///< in force
  std::string counters;        ///< another one than last time: totals and errors began at 0 again
  std::vector<ObservedBalancerServer> servers;
  std::vector<ObservedBalancerPool> pools;
  std::vector<ObservedBalancerFrontend> frontends;
};
BOOST_DESCRIBE_STRUCT(ObservedBalancer, (), (revision, counters, servers, pools, frontends))

/// A service's load balancer on a host, as its agent last knew it.
struct ServiceBalancer {
  ServiceId service;
  bool running = false;   ///< it takes clients
  std::string failing;    ///< why not, or what else fails of it; empty = nothing
  ObservedBalancer seen;  ///< revision 0 = not seen yet, or not any more
};
BOOST_DESCRIBE_STRUCT(ServiceBalancer, (), (service, running, failing, seen))

}  // namespace virga
