#pragma once

#include "base/reflect.h"
#include "server/api/engine.h"
#include "server/api/kinds.h"

/// The handlers behind the routes. Each answers its call exactly once, now or later.
namespace virga::api {

using EnginePtr = std::shared_ptr<Engine>;

// reads.cc: from the view
void list_resources(const EnginePtr& engine, const CallPtr& call);  ///< /v1/KIND[/TENANT]
void get_resource(const EnginePtr& engine, const CallPtr& call);    ///< /v1/KIND[/TENANT]/NAME
/// What clients may see of a stored resource: secrets are taken out. `prefix` of its key.
void redact(std::string_view prefix, boost::json::object& resource);

// writes.cc: desired state
void write_resource(const EnginePtr& engine, const CallPtr& call);   ///< POST, PUT, PATCH
void delete_resource(const EnginePtr& engine, const CallPtr& call);  ///< DELETE

// actions.cc
void act_on_vm(const EnginePtr& engine, const CallPtr& call);         ///< start stop restart migrate
void weigh_copy(const EnginePtr& engine, const CallPtr& call);
void relocate_service(const EnginePtr& engine, const CallPtr& call);
void show_level(const EnginePtr& engine, const CallPtr& call);
void act_on_host(const EnginePtr& engine, const CallPtr& call);       ///< maintenance activate confirm-off
void act_on_cluster(const EnginePtr& engine, const CallPtr& call);    ///< arm disarm
void cancel_operation(const EnginePtr& engine, const CallPtr& call);
void show_console(const EnginePtr& engine, const CallPtr& call);
void show_live_host(const EnginePtr& engine, const CallPtr& call);
void show_whatif(const EnginePtr& engine, const CallPtr& call);
void write_backup(const EnginePtr& engine, const CallPtr& call);

// join.cc
void make_join_token(const EnginePtr& engine, const CallPtr& call);
void join_host(const EnginePtr& engine, const CallPtr& call);
void renew_certificate(const EnginePtr& engine, const CallPtr& call);

// streams.cc
void watch_resources(const EnginePtr& engine, const CallPtr& call);
void read_events(const EnginePtr& engine, const CallPtr& call);

// usage.cc
void read_usage(const EnginePtr& engine, const CallPtr& call);
void read_usage_points(const EnginePtr& engine, const CallPtr& call);
void read_bill(const EnginePtr& engine, const CallPtr& call);

/// The body as a JSON object; empty body = {}. Errors: invalid (not JSON, too deep or large, not an object, content
/// type is not JSON).
Result<boost::json::object> read_body(const Call& call);

/// A whole number of the query. Errors: invalid, naming the parameter.
Result<std::uint64_t> query_number(const Call& call, const std::string& name,
                                   std::uint64_t fallback, std::uint64_t max);

/// The event that tells of a change of one resource.
Event event_of(std::string kind, std::string subject, std::string tenant, std::string text);

/// A resource as clients see it.
template <typename T>
json::object shown(const T& resource) {
  json::value made = to_json(resource);
  redact(Kind<T>::kPrefix, made.get_object());
  return std::move(made.get_object());
}

/// The change that replaces `before` (nullptr: creates) by `after`, guarded by before's revision. Grows the
/// generation, sets correlation and creation time; `status` is the answer's when it was committed.
template <typename T>
Change change_of(Engine& engine, const Call& call, const T* before, T after, int status) {
  if (before == nullptr) after.meta.created_at = engine.context().loop.wall_now();
  after.meta.generation = before == nullptr ? 1 : before->meta.generation + 1;
  after.meta.revision = 0;
  after.meta.correlation = call.correlation;
  Change change;
  change.primary = key_of<T>(after.meta);
  change.guards.push_back({change.primary, before == nullptr ? 0 : before->meta.revision});
  change.writes.push_back({change.primary, to_json_text(after)});
  change.status = status;
  change.location = path_of<T>(after.meta);
  change.body = shown(after);
  return change;
}

/// The answer to a request that asks for what is there already.
template <typename T>
Change unchanged(const T& resource, int status) {
  Change change;
  change.status = status;
  change.location = path_of<T>(resource.meta);
  change.body = shown(resource);
  return change;
}

/// If-Match against the resource's revision; 412 when it is another one. Resource may be nullptr.
std::optional<Problem> check_precondition(const Call& call, const Meta* meta);

template <typename T>
Error no_such(const std::string& id) {
  return make_error(Errc::not_found, "there is no " + std::string(Kind<T>::kSingular) + " \"" +
                                         id.substr(0, 130) + "\"");
}

}  // namespace virga::api
