#include "server/api/api.h"

#include <fmt/format.h>

#include <algorithm>

#include "model/join.h"
#include "server/api/handlers.h"

namespace virga {

using api::CallPtr;
using api::EnginePtr;
using api::Kind;

namespace {

constexpr std::size_t kRequestIdMax = 64;

/// Where a request's path leads: /v1/KIND/... with a wildcard per "*".
struct Route {
  std::string_view method;
  std::vector<std::string_view> pattern;
  void (*handler)(const EnginePtr&, const CallPtr&);
};

std::vector<Route> make_routes() {
  std::vector<Route> routes = {
      {"POST", {"vms", "*", "*", "start"}, api::act_on_vm},
      {"POST", {"vms", "*", "*", "stop"}, api::act_on_vm},
      {"POST", {"vms", "*", "*", "restart"}, api::act_on_vm},
      {"POST", {"vms", "*", "*", "migrate"}, api::act_on_vm},
      {"GET", {"vms", "*", "*", "console"}, api::show_console},
      {"POST", {"services", "*", "*", "relocate"}, api::relocate_service},
      {"POST", {"services", "*", "*", "weigh"}, api::weigh_copy},
      {"GET", {"services", "*", "*", "level"}, api::show_level},
      {"POST", {"hosts", "*", "maintenance"}, api::act_on_host},
      {"POST", {"hosts", "*", "activate"}, api::act_on_host},
      {"POST", {"hosts", "*", "confirm-off"}, api::act_on_host},
      {"GET", {"hosts", "*", "live"}, api::show_live_host},
      {"POST", {"clusters", "*", "arm"}, api::act_on_cluster},
      {"POST", {"clusters", "*", "disarm"}, api::act_on_cluster},
      {"POST", {"clusters", "*", "join-token"}, api::make_join_token},
      {"GET", {"clusters", "*", "whatif"}, api::show_whatif},
      {"POST", {"operations", "*", "cancel"}, api::cancel_operation},
      {"POST", {"join"}, api::join_host},
      {"POST", {"backup"}, api::write_backup},
      {"GET", {"watch"}, api::watch_resources},
      {"GET", {"events"}, api::read_events},
      {"GET", {"usage"}, api::read_usage},
      {"GET", {"usage", "points"}, api::read_usage_points},
      {"GET", {"bills", "*", "*"}, api::read_bill},
  };
  api::for_each_kind([&]<typename T>() {
    const std::string_view kind = Kind<T>::kPlural;
    const bool owned = Kind<T>::kTenantOwned;
    const bool writable = !std::is_same_v<T, Port> && !std::is_same_v<T, Operation>;
    std::vector<std::string_view> one{kind, "*"};
    routes.push_back({"GET", {kind}, api::list_resources});
    if (owned) {
      routes.push_back({"GET", {kind, "*"}, api::list_resources});
      one.push_back("*");
    }
    routes.push_back({"GET", one, api::get_resource});
    if (!writable) return;
    routes.push_back({"POST", {kind}, api::write_resource});
    if (owned) routes.push_back({"POST", {kind, "*"}, api::write_resource});
    routes.push_back({"PUT", one, api::write_resource});
    routes.push_back({"PATCH", one, api::write_resource});
    routes.push_back({"DELETE", one, api::delete_resource});
  });
  return routes;
}

bool fits(const Route& route, const std::vector<std::string>& segments) {
  return std::equal(route.pattern.begin(), route.pattern.end(), segments.begin(), segments.end(),
                    [](std::string_view want, const std::string& got) {
                      return want == "*" ? !got.empty() : want == got;
                    });
}

std::string label_of(const Route& route) {
  std::string label = "/v1";
  for (const std::string_view segment : route.pattern) label += "/" + std::string(segment);
  return label;
}

/// The parts of "/v1/a/b"; a path of its own for what does not begin with /v1.
std::vector<std::string> segments_of(const std::string& path) {
  std::vector<std::string> segments;
  std::size_t begin = 1;
  while (begin <= path.size()) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    segments.push_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return segments;
}

/// The part of a Host header or of an Origin before its port.
std::string host_part(std::string text) {
  if (const std::size_t scheme = text.find("://"); scheme != std::string::npos) {
    text = text.substr(scheme + 3);
  }
  if (text.starts_with("[")) return text.substr(0, text.find(']') + 1);
  return text.substr(0, text.find(':'));
}

/// A web page that some browser on this machine shows must not drive the API: neither from another
/// origin nor under a foreign name that was bound to the loopback address.
bool comes_from_elsewhere(const HttpRequest& request) {
  const auto header = [&](const char* name) {
    const auto found = request.headers.find(name);
    return found == request.headers.end() ? std::string() : found->second;
  };
  const auto local = [](const std::string& host) {
    return host.empty() || host == "localhost" || host == "127.0.0.1" || host == "[::1]";
  };
  if (!local(host_part(header("host")))) return true;
  const std::string origin = header("origin");
  return !origin.empty() && !local(host_part(origin));
}

}  // namespace

class Api::Router {
 public:
  explicit Router(ApiContext context)
      : engine_(std::make_shared<api::Engine>(std::move(context))), routes_(make_routes()) {}
  ~Router() { engine_->close(); }

  CallPtr begin(HttpRequest request, std::shared_ptr<HttpReply> reply) {
    auto call = std::make_shared<api::Call>();
    call->request = std::move(request);
    call->reply = std::move(reply);
    call->began = engine_->context().loop.now();
    const auto& headers = call->request.headers;
    const auto given = headers.find("x-request-id");
    if (given != headers.end() && sound_id(given->second)) {
      call->correlation = given->second;
    } else {
      call->correlation = fmt::format("req-{}-{}", engine_->context().session, ++requests_);
    }
    const auto dry = call->request.query.find("dry_run");
    call->dry_run = dry != call->request.query.end() && dry->second == "true";
    return call;
  }

  void route(const CallPtr& call) {
    if (comes_from_elsewhere(call->request)) {
      return engine_->refuse(
          call,
          make_error(Errc::denied, "host, origin: the API answers requests for localhost only"));
    }
    const std::string& path = call->request.path;
    if (path == "/healthz") return plain(call, 200, "alive\n");
    if (path == "/readyz") return ready(call);
    if (path == "/metrics") return metrics(call);
    call->segments = segments_of(path);
    if (path == "/openapi.json") {
      call->route = path;
      return engine_->answer(call, api::json_response(200, openapi_document()));
    }
    if (call->segments.empty() || call->segments.front() != "v1") return unknown(call);
    call->segments.erase(call->segments.begin());
    // Until the state is loaded all lists would be empty and nothing would be found.
    const Result<void> state = readiness();
    if (!state.ok()) return engine_->refuse(call, state.error());
    dispatch(call);
  }

  void route_agents(const CallPtr& call) {
    if (call->request.path == "/healthz") return plain(call, 200, "alive\n");
    const bool renewal = call->request.path == kRenewal;
    const bool join = call->request.path == "/v1/join";
    if (!(renewal || join) || call->request.method != "POST") return unknown(call);
    call->route = call->request.path;
    call->dry_run = false;  // what is answered is a certificate, whatever is committed
    if (const Result<void> state = readiness(); !state.ok()) {
      return engine_->refuse(call, state.error());
    }
    renewal ? api::renew_certificate(engine_, call) : api::join_host(engine_, call);
  }

 private:
  static bool sound_id(const std::string& id) {
    return !id.empty() && id.size() <= kRequestIdMax &&
           std::all_of(id.begin(), id.end(), [](char c) {
             return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    c == '-' || c == '_' || c == '.';
           });
  }

  void dispatch(const CallPtr& call) {
    std::string allowed;
    for (const Route& route : routes_) {
      if (!fits(route, call->segments)) continue;
      if (route.method == call->request.method) {
        call->route = label_of(route);
        return route.handler(engine_, call);
      }
      allowed += (allowed.empty() ? "" : ", ") + std::string(route.method);
    }
    if (allowed.empty()) return unknown(call);
    HttpResponse response = api::problem_response(
        {make_error(Errc::unsupported,
                    fmt::format("{} is not possible on {}; possible: {}", call->request.method,
                                call->request.path.substr(0, 200), allowed)),
         {},
         405});
    response.headers["allow"] = allowed;
    engine_->answer(call, std::move(response));
  }

  void unknown(const CallPtr& call) {
    engine_->refuse(call, make_error(Errc::not_found, "there is nothing at " +
                                                          call->request.path.substr(0, 200) +
                                                          "; /openapi.json lists what there is"));
  }

  void plain(const CallPtr& call, int status, std::string text) {
    call->route = call->request.path;
    HttpResponse response;
    response.status = status;
    response.headers["content-type"] = "text/plain; charset=utf-8";
    response.body = std::move(text);
    engine_->answer(call, std::move(response));
  }

  Result<void> readiness() {
    const auto& ask = engine_->context().ready;
    return ask ? ask() : Result<void>();
  }

  void ready(const CallPtr& call) {
    const Result<void> state = readiness();
    plain(call, state.ok() ? 200 : 503, state.ok() ? "ready\n" : state.error().text() + "\n");
  }

  void metrics(const CallPtr& call) {
    if (engine_->context().collect) engine_->context().collect(engine_->context().metrics);
    plain(call, 200, engine_->context().metrics.text());
  }

  EnginePtr engine_;
  std::vector<Route> routes_;
  std::uint64_t requests_ = 0;
};

Api::Api(ApiContext context) : router_(std::make_unique<Router>(std::move(context))) {}
Api::~Api() = default;

void Api::handle(HttpRequest request, std::shared_ptr<HttpReply> reply) {
  router_->route(router_->begin(std::move(request), std::move(reply)));
}

void Api::handle_agents(HttpRequest request, std::shared_ptr<HttpReply> reply) {
  router_->route_agents(router_->begin(std::move(request), std::move(reply)));
}

}  // namespace virga
