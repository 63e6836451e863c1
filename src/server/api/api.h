#pragma once

#include <boost/json.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "edge/http.h"
#include "edge/tls.h"
#include "mechanism/metering/bill.h"
#include "runtime/cluster_view.h"
#include "runtime/journal.h"
#include "server/api/metrics.h"
#include "store/store.h"

namespace virga {

struct IssuedCertificate {
  TlsIdentity identity;
  WallTime ends;
};

/// What the API is given by the server. References outlive the Api. An empty function makes its routes answer
/// `unsupported`. All are called on the Loop.
struct ApiContext {
  Loop& loop;
  Store& store;
  Journal& journal;
  Metrics& metrics;

  /// The latest view; O(1). It follows the store by a watch of all keys, so that its revision reaches every commit's.
  std::function<ClusterView()> view;

  /// A random word of this run; makes generated request ids and outbox keys unique. Letters and digits.
  std::string session;

  /// Volatile facts of a host: report age, peers, used capacity. not_found when it never reported.
  std::function<Result<boost::json::object>(const HostId&)> live_host;

  /// The last of a VM's console, fetched from its host.
  std::function<void(const VmId&, Callback<std::string>)> console;

  /// What the loss of each single host of the cluster would lead to.
  std::function<Result<boost::json::object>(const ClusterId&)> whatif;

  /// The host to which the planner would move this VM now; the error lists the candidates with reasons.
  std::function<Result<HostId>(const VmId&)> choose_host;

  /// Certificate "agent:HOST" for a host that joins or has its own renewed.
  std::function<Result<IssuedCertificate>(const HostId&, const std::vector<std::string>& addresses)>
      issue_certificate;

  /// Writes a backup named `name` (see check_name) into the server's backup folder; answers path, revision, sizes.
  std::function<void(const std::string& name, Callback<boost::json::object>)> backup;

  /// Refreshes gauges before /metrics is written. May be empty.
  std::function<void(Metrics&)> collect;

  /// Whether this server can serve; the error says what it waits for.
  std::function<Result<void>()> ready;

  /// An operator armed high availability: a restored state need not wait for hosts any longer. May be empty.
  std::function<void()> confirm_recovery = {};

  /// Where the planner would start a VM that is not stored; the error says why nowhere. May be empty.
  std::function<Result<HostId>(const Vm&)> foretell_start = {};

  /// How a service stands against its objective; nothing = it promises nothing. May be empty.
  std::function<std::optional<LevelReport>(const ServiceId&)> level = {};

  /// What was used, and what it costs. nullptr = nothing is metered.
  metering::UsageStore* usage = nullptr;
  metering::PriceList prices = {};
};

/// The HTTP API: reads come from the view, changes go to the store as desired state with their audit event in the
/// same commit. Optimistic: a change that meets another one is planned again on the newer view, a bounded number of
/// times; an unknown outcome is resolved by reading again. Loop thread only.
/// Reads see every change that this Api acknowledged before.
class Api {
 public:
  explicit Api(ApiContext context);
  ~Api();

  /// Answers a request on the operators' listener (loopback).
  void handle(HttpRequest request, std::shared_ptr<HttpReply> reply);

  /// Answers a request on the agents' listener: POST /v1/join, POST kRenewal and /healthz, nothing else.
  void handle_agents(HttpRequest request, std::shared_ptr<HttpReply> reply);

 private:
  class Router;
  std::unique_ptr<Router> router_;
};

/// The OpenAPI 3.1 document of all routes, made from the described structs. Pure.
boost::json::object openapi_document();

}  // namespace virga
