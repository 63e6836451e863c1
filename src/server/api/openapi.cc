#include <fmt/format.h>

#include "base/reflect.h"
#include "model/join.h"
#include "server/api/answer.h"
#include "server/api/api.h"
#include "server/api/kinds.h"

namespace virga {
namespace {

using api::Kind;

json::object reference(std::string_view schema) {
  return {{"$ref", "#/components/schemas/" + std::string(schema)}};
}

json::object content(json::object schema, std::string_view type = "application/json") {
  return {{type, json::object{{"schema", std::move(schema)}}}};
}

json::object answers(std::string_view status, std::string_view description, json::object schema) {
  return {
      {status, json::object{{"description", description}, {"content", content(std::move(schema))}}},
      {"default",
       json::object{{"description", "why not"}, {"content", content(reference("Error"))}}}};
}

json::object parameter(std::string_view name, std::string_view in, std::string_view description) {
  return {{"name", name},
          {"in", in},
          {"required", in == "path"},
          {"description", description},
          {"schema", json::object{{"type", "string"}}}};
}

json::object body_of(json::object schema, std::string_view type = "application/json") {
  return {{"required", true}, {"content", content(std::move(schema), type)}};
}

json::object operation(std::string_view summary, json::object responses) {
  return {{"summary", summary}, {"responses", std::move(responses)}};
}

json::array path_parameters(bool owned) {
  json::array list;
  if (owned) list.push_back(parameter("tenant", "path", "owner"));
  list.push_back(parameter("name", "path", "name"));
  return list;
}

json::object list_operation(std::string_view plural, std::string_view schema) {
  json::object page{
      {"type", "object"},
      {"properties",
       json::object{{"items", json::object{{"type", "array"}, {"items", reference(schema)}}},
                    {"revision", json::object{{"type", "integer"}}},
                    {"next", json::object{{"type", "string"}}}}}};
  json::object made =
      operation(fmt::format("list {}", plural), answers("200", "a page", std::move(page)));
  made["parameters"] = json::array{
      parameter("limit", "query", "at most so many"),
      parameter("after", "query", "`next` of the page before"),
      parameter("revision", "query", "of the first page, so that all pages are of one moment"),
      parameter("labels", "query", "NAME=VALUE,... : only these"),
      parameter("tenant", "query", "only this owner's"),
      parameter("correlation", "query", "only what this X-Request-Id made or changed last"),
      parameter("fields", "query", "meta.name,status.power: only these fields")};
  return made;
}

json::array write_parameters() {
  return {parameter("If-Match", "header", "the ETag that was read; 412 when it changed"),
          parameter("Idempotency-Key", "header", "a repetition within 24 h gets the first answer"),
          parameter("X-Request-Id", "header", "correlation id, up to the hypervisor's log"),
          parameter("dry_run", "query", "true: say what would be, change nothing")};
}

json::object with_body(json::object made, json::object body) {
  made["requestBody"] = std::move(body);
  made["parameters"] = write_parameters();
  return made;
}

template <typename T>
void add_kind(json::object& paths, json::object& schemas, std::string_view schema) {
  const std::string plural(Kind<T>::kPlural);
  const std::string single(Kind<T>::kSingular);
  const bool owned = Kind<T>::kTenantOwned;
  const bool writable = !std::is_same_v<T, Port> && !std::is_same_v<T, Operation>;
  const bool made_by_join = std::is_same_v<T, Host>;
  schemas[schema] = json_schema<T>();
  json::object all{{"get", list_operation(plural, schema)}};
  json::object one{
      {"parameters", path_parameters(owned)},
      {"get", operation("show a " + single, answers("200", single, reference(schema)))}};
  const std::string_view done = api::worked_on<T> ? "202" : "200";
  if (writable && !made_by_join) {
    all["post"] = with_body(
        operation("make a " + single,
                  answers(api::worked_on<T> ? "202" : "201", single, reference(schema))),
        body_of(reference(schema)));
  }
  if (writable) {
    one["put"] = with_body(
        operation("make or replace a " + single, answers(done, single, reference(schema))),
        body_of(reference(schema)));
    one["patch"] =
        with_body(operation("merge into a " + single, answers(done, single, reference(schema))),
                  body_of(reference(schema), "application/merge-patch+json"));
    one["delete"] = operation("delete a " + single, answers(done, single, reference(schema)));
  }
  paths["/v1/" + plural] = std::move(all);
  if (owned) {
    paths["/v1/" + plural + "/{tenant}"] = json::object{
        {"parameters", json::array{parameter("tenant", "path", "owner")}},
        {"get", list_operation(plural, schema)}};
  }
  paths["/v1/" + plural + (owned ? "/{tenant}" : "") + "/{name}"] = std::move(one);
}

json::object any_object() { return {{"type", "object"}}; }

void add_action(json::object& paths, std::string_view path, std::string_view summary,
                std::string_view schema, std::string_view status) {
  const bool owned = path.find("{tenant}") != std::string_view::npos;
  json::object post = operation(summary, answers(status, "accepted", reference(schema)));
  post["parameters"] = write_parameters();
  json::object item{{"post", std::move(post)}};
  if (path.find("{name}") != std::string_view::npos) item["parameters"] = path_parameters(owned);
  paths[path] = std::move(item);
}

void add_reading(json::object& paths, std::string_view path, std::string_view summary) {
  const bool owned = path.find("{tenant}") != std::string_view::npos;
  json::object item{{"get", operation(summary, answers("200", "what it says", any_object()))}};
  if (path.find("{name}") != std::string_view::npos) item["parameters"] = path_parameters(owned);
  paths[path] = std::move(item);
}

void add_actions(json::object& paths) {
  add_action(paths, "/v1/vms/{tenant}/{name}/start", "let a vm run", "Vm", "202");
  add_action(paths, "/v1/vms/{tenant}/{name}/stop", "let a vm stop", "Vm", "202");
  add_action(paths, "/v1/vms/{tenant}/{name}/restart", "stop a vm and start it again", "Vm", "202");
  add_action(paths, "/v1/vms/{tenant}/{name}/migrate", "move a vm alive; body {\"host\"} or none",
             "Vm", "202");
  add_action(paths, "/v1/services/{tenant}/{name}/relocate",
             "replace one copy elsewhere; body {\"copy\", \"host\", \"mode\", \"for_ms\"} or less",
             "Service", "202");
  add_action(paths, "/v1/services/{tenant}/{name}/weigh",
             "change the share of new requests that one copy gets; body {\"copy\", \"weight\"}",
             "Service", "202");
  add_action(paths, "/v1/hosts/{name}/maintenance", "evacuate a host and place nothing there",
             "Host", "202");
  add_action(paths, "/v1/hosts/{name}/activate", "end maintenance", "Host", "200");
  add_action(paths, "/v1/hosts/{name}/confirm-off", "vouch that a silent host runs nothing", "Host",
             "200");
  add_action(paths, "/v1/clusters/{name}/arm", "let high availability act", "Cluster", "200");
  add_action(paths, "/v1/clusters/{name}/disarm", "let high availability rest", "Cluster", "200");
  add_action(paths, "/v1/clusters/{name}/join-token",
             "a one-time token for a host, valid for an hour", "Token", "201");
  add_action(paths, "/v1/operations/{name}/cancel", "undo a running operation", "Operation", "202");
  add_action(paths, "/v1/backup", "write a backup on the server; body {\"name\"} or none", "Object",
             "200");
  add_action(paths, "/v1/join", "let a host join (agents' port)", "JoinAnswer", "201");
  paths["/v1/join"].as_object()["post"].as_object()["requestBody"] =
      body_of(reference("JoinRequest"));
  const std::string renewal(kRenewal);
  add_action(paths, renewal, "another certificate for a member (agents' port)", "JoinAnswer",
             "201");
  paths[renewal].as_object()["post"].as_object()["requestBody"] =
      body_of(reference("RenewalRequest"));
  add_reading(paths, "/v1/vms/{tenant}/{name}/console", "the last of the console, as text");
  add_reading(paths, "/v1/services/{tenant}/{name}/level",
              "how a service stands against its objective");
  add_reading(paths, "/v1/hosts/{name}/live", "report age, peers, use of a host");
  add_reading(paths, "/v1/clusters/{name}/whatif",
              "what the loss of each single host would lead to");
  add_reading(paths, "/v1/watch",
              "server-sent events of changes: ?revision= &kinds= &tenant=; 410 when too old");
  add_reading(paths, "/v1/events",
              "the journal: ?after= &limit= &newest= &kind= &subject= &tenant= &follow=true");
  add_reading(paths, "/v1/usage",
              "pay-per-use records: ?tenant= &resource=vm/TENANT/NAME &from= &to= &format=csv");
  add_reading(paths, "/v1/usage/points",
              "what a resource used: ?resource= (also host/NAME) &from= &to= &step= in seconds");
  add_reading(paths, "/v1/bills/{tenant}/{month}", "what a tenant owes for 2026-11; ?format=csv");
  paths["/v1/bills/{tenant}/{month}"].as_object()["parameters"] =
      json::array{parameter("tenant", "path", "owner"), parameter("month", "path", "2026-11")};
  add_reading(paths, "/healthz", "alive");
  add_reading(paths, "/readyz", "can serve");
  add_reading(paths, "/metrics", "figures for Prometheus");
}

}  // namespace

boost::json::object openapi_document() {
  json::object paths;
  json::object schemas;
  add_kind<Tenant>(paths, schemas, "Tenant");
  add_kind<Cluster>(paths, schemas, "Cluster");
  add_kind<Machine>(paths, schemas, "Machine");
  add_kind<Host>(paths, schemas, "Host");
  add_kind<Image>(paths, schemas, "Image");
  add_kind<Network>(paths, schemas, "Network");
  add_kind<SecurityGroup>(paths, schemas, "SecurityGroup");
  add_kind<FloatingAddress>(paths, schemas, "FloatingAddress");
  add_kind<Vm>(paths, schemas, "Vm");
  add_kind<Device>(paths, schemas, "Device");
  add_kind<Volume>(paths, schemas, "Volume");
  add_kind<Service>(paths, schemas, "Service");
  add_kind<Port>(paths, schemas, "Port");
  add_kind<Operation>(paths, schemas, "Operation");
  schemas["Event"] = json_schema<Event>();
  schemas["Error"] = json_schema<api::ErrorBody>();
  schemas["JoinRequest"] = json_schema<JoinRequest>();
  schemas["JoinAnswer"] = json_schema<JoinAnswer>();
  schemas["RenewalRequest"] = json_schema<RenewalRequest>();
  schemas["Object"] = any_object();
  schemas["Token"] =
      json::object{{"type", "object"},
                   {"properties", json::object{{"token", json::object{{"type", "string"}}},
                                               {"cluster", json::object{{"type", "string"}}},
                                               {"valid_ms", json::object{{"type", "integer"}}}}}};
  add_actions(paths);
  return {{"openapi", "3.1.0"},
          {"info", json::object{{"title", "Virga"}, {"version", VIRGA_VERSION}}},
          {"paths", std::move(paths)},
          {"components", json::object{{"schemas", std::move(schemas)}}}};
}

}  // namespace virga
