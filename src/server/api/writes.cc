#include <fmt/format.h>

#include "mechanism/network/addresses.h"
#include "server/api/rules.h"
#include "server/api/validate.h"

namespace virga::api {
namespace {

enum class Mode { create, replace, patch };

/// A write as it was asked for.
template <typename T>
struct Wanted {
  Mode mode = Mode::create;
  std::string tenant;
  std::string name;
  T resource;           ///< create, replace: what the body says
  json::object patch;   ///< patch: the merge patch
};

bool is_json_type(const Call& call) {
  const auto type = call.request.headers.find("content-type");
  if (type == call.request.headers.end()) return false;
  const std::string media = type->second.substr(0, type->second.find(';'));
  return media == "application/json" || media == "application/merge-patch+json";
}

/// RFC 7386.
void merge_patch(json::value& target, const json::value& patch) {
  if (!patch.is_object()) {
    target = patch;
    return;
  }
  if (!target.is_object()) target.emplace_object();
  json::object& object = target.get_object();
  for (const auto& [name, value] : patch.get_object()) {
    if (value.is_null()) {
      object.erase(name);
    } else {
      merge_patch(object[name], value);
    }
  }
}

/// Name and tenant from path and body; where both say something they must agree.
template <typename T>
Result<void> read_identity(const Call& call, Wanted<T>& wanted) {
  const auto& segments = call.segments;
  wanted.name = wanted.resource.meta.name;
  wanted.tenant = wanted.resource.meta.tenant;
  const auto agree = [](std::string& told, const std::string& path,
                        std::string_view field) -> Result<void> {
    if (!told.empty() && told != path) {
      return make_error(Errc::invalid, fmt::format("{}: \"{}\" differs from the path's \"{}\"",
                                                   field, told.substr(0, 80), path.substr(0, 80)));
    }
    told = path;
    return {};
  };
  if (Kind<T>::kTenantOwned && segments.size() > 1) {
    if (auto ok = agree(wanted.tenant, segments[1], "meta.tenant"); !ok.ok()) return ok;
  }
  if (segments.size() == (Kind<T>::kTenantOwned ? 3 : 2)) {
    if (auto ok = agree(wanted.name, segments.back(), "meta.name"); !ok.ok()) return ok;
  }
  Meta meta;
  meta.name = wanted.name;
  meta.tenant = wanted.tenant;
  return check_meta(meta, Kind<T>::kTenantOwned);
}

template <typename T>
Result<Wanted<T>> read_wanted(const Call& call) {
  Wanted<T> wanted;
  const std::string& method = call.request.method;
  wanted.mode = method == "POST" ? Mode::create : method == "PUT" ? Mode::replace : Mode::patch;
  auto body = read_body(call);
  if (!body.ok()) return body.error();
  if (wanted.mode == Mode::patch) {
    wanted.patch = std::move(*body);
  } else {
    auto resource = from_json<T>(json::value(std::move(*body)));
    if (!resource.ok()) return resource.error();
    wanted.resource = std::move(*resource);
  }
  if (auto named = read_identity(call, wanted); !named.ok()) return named.error();
  return wanted;
}

/// What the resource shall be: labels and spec as wanted, all else as it is.
template <typename T>
Result<T> merged(const Wanted<T>& wanted, const T* before) {
  T after = before != nullptr ? *before : T{};
  after.meta.name = wanted.name;
  if (before == nullptr) after.meta.tenant = wanted.tenant;
  if (wanted.mode != Mode::patch) {
    if (!wanted.tenant.empty() && wanted.tenant != after.meta.tenant) {
      return make_error(Errc::invalid,
                        fmt::format("meta.tenant: is \"{}\" and never changes", after.meta.tenant));
    }
    after.meta.labels = wanted.resource.meta.labels;
    after.spec = wanted.resource.spec;
    return after;
  }
  json::value whole = to_json(after);
  for (const auto& [name, value] : wanted.patch) {
    if (name == "meta" || name == "spec" || name == "status") continue;
    return make_error(Errc::invalid, std::string(name) + ": no such field; known: meta, spec");
  }
  merge_patch(whole, json::value(wanted.patch));
  auto patched = from_json<T>(whole);
  if (!patched.ok()) return patched.error();
  after.meta.labels = patched->meta.labels;
  after.spec = patched->spec;
  return after;
}

template <typename T>
Event told(const T* before, const T& after) {
  const std::string name =
      Kind<T>::kTenantOwned ? after.meta.tenant + "/" + after.meta.name : after.meta.name;
  const std::string verb = before != nullptr       ? "changed"
                           : worked_on<T>          ? "requested"
                                                   : "created";
  return event_of(fmt::format("{}.{}", Kind<T>::kSingular, verb), key_of<T>(after.meta),
                  after.meta.tenant, fmt::format("{} {} was {}", Kind<T>::kSingular, name, verb));
}

/// A dry run of a new VM says where it would start, or why nowhere.
template <typename T>
void foretell(Engine& engine, const Call& call, T& after) {
  if constexpr (std::is_same_v<T, Vm>) {
    const auto& foretell_start = engine.context().foretell_start;
    if (!call.dry_run || !foretell_start || after.spec.power != DesiredPower::running) return;
    const auto host = foretell_start(after);
    if (host) after.status.host = *host;
    if (!host) after.status.unplaced_reason = host.error().what;
  }
}

template <typename T>
Decision decide_write(Engine& engine, const Call& call, const Wanted<T>& wanted,
                      const ClusterView& view, Tries& tries) {
  const std::string id = id_text<T>(wanted.tenant, wanted.name);
  const T* before = Kind<T>::table(view).find(typename Table<T>::IdType(id));
  if (wanted.mode == Mode::create && before != nullptr) {
    return Problem{make_error(Errc::conflict,
                              fmt::format("meta.name: {} \"{}\" exists already; PUT changes it",
                                          Kind<T>::kSingular, id)),
                   {},
                   0};
  }
  if (auto refused = check_precondition(call, before != nullptr ? &before->meta : nullptr)) {
    return *refused;
  }
  if (wanted.mode == Mode::patch && before == nullptr) return Problem{no_such<T>(id), {}, 0};
  if (before != nullptr && before->meta.deleting_at) {
    return Problem{
        make_error(Errc::conflict, fmt::format("{} \"{}\" is being deleted; wait until it is gone",
                                               Kind<T>::kSingular, id)),
        {},
        0};
  }
  auto after = merged(wanted, before);
  if (!after.ok()) return Problem{after.error(), {}, 0};
  if (auto sound = check_meta(after->meta, Kind<T>::kTenantOwned); !sound.ok()) {
    return Problem{sound.error(), {}, 0};
  }
  const RuleContext context{engine, call, view, tries};
  if (auto refused = apply_rules(context, before, *after)) return *refused;
  if (before != nullptr && before->meta.labels == after->meta.labels &&
      to_json(before->spec) == to_json(after->spec)) {
    return unchanged(*before, 200);
  }
  if (before == nullptr) foretell(engine, call, *after);
  const int status = worked_on<T> ? 202 : before == nullptr ? 201 : 200;
  Change change = change_of(engine, call, before, *after, status);
  change.event = told(before, *after);
  if (auto refused = add_companions(context, before, *after, change)) return *refused;
  return change;
}

template <typename T>
void write_one(const EnginePtr& engine, const CallPtr& call) {
  auto wanted = read_wanted<T>(*call);
  if (!wanted.ok()) return engine->refuse(call, wanted.error());
  auto shared = std::make_shared<const Wanted<T>>(std::move(*wanted));
  auto tries = std::make_shared<Tries>();
  engine->submit(call, [engine, call, shared, tries](const ClusterView& view) {
    ++tries->count;
    return decide_write(*engine, *call, *shared, view, *tries);
  });
}

template <typename T>
const T* find_named(const Call& call, const ClusterView& view) {
  const std::string id = Kind<T>::kTenantOwned ? qualified(call.segments[1], call.segments[2])
                                               : call.segments[1];
  return Kind<T>::table(view).find(typename Table<T>::IdType(id));
}

template <typename T>
Refusal refuse_used(const ClusterView& view, const T& resource) {
  auto users = users_of(view, resource);
  if (users.empty()) return std::nullopt;
  return Problem{make_error(Errc::conflict, fmt::format("{} \"{}\" is in use", Kind<T>::kSingular,
                                                        resource.id().value)),
                 std::move(users), 0};
}

/// Second half of a removal: the mark is stored, so nothing new can come to use the resource; who
/// came before is seen now. Removes it, or takes the mark back.
template <typename T>
Decision decide_removal(Engine& engine, const Call& call, const ClusterView& view) {
  const T* found = find_named<T>(call, view);
  if (found == nullptr) {
    Change gone;
    gone.body = json::object{};
    return gone;
  }
  const auto used = refuse_used(view, *found);
  if (used) {
    T kept = *found;
    kept.meta.deleting_at.reset();
    Change change = change_of(engine, call, found, kept, 409);
    change.body = json::parse(problem_response(*used).body);
    change.location.clear();
    return change;
  }
  Change change;
  change.primary = key_of<T>(found->meta);
  change.guards.push_back({change.primary, found->meta.revision});
  change.writes.push_back({change.primary, std::nullopt});
  if constexpr (std::is_same_v<T, Network>) {
    change.writes.push_back({keys::vni(found->spec.vni), std::nullopt});
    for (const std::string& address : reserved_addresses(found->spec))
      change.writes.push_back({keys::address(found->id(), address), std::nullopt});
  }
  if constexpr (std::is_same_v<T, FloatingAddress>) {
    change.writes.push_back({keys::floating(found->spec.address), std::nullopt});
    if (found->leads()) change.writes.push_back({keys::floating_of(*found), std::nullopt});
  }
  change.event =
      event_of(fmt::format("{}.deleted", Kind<T>::kSingular), change.primary, found->meta.tenant,
               fmt::format("{} {} was deleted", Kind<T>::kSingular, found->id().value));
  change.body = shown(*found);
  return change;
}

template <typename T>
Decision decide_mark(Engine& engine, const Call& call, const ClusterView& view) {
  const T* before = find_named<T>(call, view);
  if (auto refused = check_precondition(call, before != nullptr ? &before->meta : nullptr)) {
    return *refused;
  }
  if (before == nullptr) return Problem{no_such<T>(call.segments.back()), {}, 0};
  T after = *before;
  if (!after.meta.deleting_at) after.meta.deleting_at = engine.context().loop.wall_now();
  if constexpr (worked_on<T>) {
    if (before->meta.deleting_at) return unchanged(*before, 202);
    const std::string kind(Kind<T>::kSingular);
    Change change = change_of(engine, call, before, after, 202);
    change.event = event_of(kind + ".delete_requested", change.primary, after.meta.tenant,
                            kind + " " + after.id().value + " shall be deleted");
    if constexpr (std::is_same_v<T, Vm>) {
      if (auto refused = refuse_copy(*before)) return *refused;
    }
    if constexpr (std::is_same_v<T, Volume>) {
      if (auto refused = refuse_used(view, *before)) return *refused;
      change.guards.push_back({keys::use(before->id()), 0});
    }
    return change;
  } else {
    if (auto refused = refuse_used(view, *before)) return *refused;
    return change_of(engine, call, before, after, 200);
  }
}

template <typename T>
void remove_marked(const EnginePtr& engine, const CallPtr& call) {
  engine->submit(call, [engine, call](const ClusterView& view) {
    return decide_removal<T>(*engine, *call, view);
  });
}

template <typename T>
void delete_one(const EnginePtr& engine, const CallPtr& call) {
  engine->submit(call, [engine, call](const ClusterView& view) -> Decision {
    Decision decision = decide_mark<T>(*engine, *call, view);
    if constexpr (!worked_on<T>) {
      auto* change = std::get_if<Change>(&decision);
      if (change == nullptr) return decision;
      change->then = [engine, call](Revision) { remove_marked<T>(engine, call); };
    }
    return decision;
  });
}

template <typename Task>
void with_writable_kind(const std::string& name, Task&& task) {
  if (name == Kind<Tenant>::kPlural) task.template operator()<Tenant>();
  if (name == Kind<Cluster>::kPlural) task.template operator()<Cluster>();
  if (name == Kind<Machine>::kPlural) task.template operator()<Machine>();
  if (name == Kind<Host>::kPlural) task.template operator()<Host>();
  if (name == Kind<Image>::kPlural) task.template operator()<Image>();
  if (name == Kind<Network>::kPlural) task.template operator()<Network>();
  if (name == Kind<Device>::kPlural) task.template operator()<Device>();
  if (name == Kind<Volume>::kPlural) task.template operator()<Volume>();
  if (name == Kind<Service>::kPlural) task.template operator()<Service>();
  if (name == Kind<SecurityGroup>::kPlural) task.template operator()<SecurityGroup>();
  if (name == Kind<FloatingAddress>::kPlural) task.template operator()<FloatingAddress>();
  if (name == Kind<Vm>::kPlural) task.template operator()<Vm>();
}

}  // namespace

Result<boost::json::object> read_body(const Call& call) {
  if (call.request.body.empty()) return json::object{};
  if (!is_json_type(call)) {
    return make_error(Errc::invalid,
                      "content-type: must be application/json for a request with a body");
  }
  auto parsed = parse_json(call.request.body);
  if (!parsed.ok()) return parsed.error();
  if (!parsed->is_object()) return make_error(Errc::invalid, "the body must be a JSON object");
  return std::move(parsed->get_object());
}

Event event_of(std::string kind, std::string subject, std::string tenant, std::string text) {
  Event event;
  event.kind = std::move(kind);
  event.subject = std::move(subject);
  event.tenant = std::move(tenant);
  event.text = std::move(text);
  event.actor = "operator";
  return event;
}

std::optional<Problem> check_precondition(const Call& call, const Meta* meta) {
  const auto& headers = call.request.headers;
  const auto failed = [](std::string text) {
    return Problem{make_error(Errc::conflict, std::move(text)), {}, 412};
  };
  if (const auto none = headers.find("if-none-match"); none != headers.end()) {
    if (none->second == "*" && meta != nullptr) return failed("if-none-match: it exists already");
  }
  const auto match = headers.find("if-match");
  if (match == headers.end()) return std::nullopt;
  if (meta == nullptr) return failed("if-match: it does not exist");
  const std::string current = fmt::format("\"{}\"", meta->revision);
  if (match->second == "*" || match->second == current) return std::nullopt;
  return failed(fmt::format("if-match: it is at revision {}, not at {}; read it again", current,
                            match->second.substr(0, 40)));
}

void write_resource(const EnginePtr& engine, const CallPtr& call) {
  with_writable_kind(call->segments[0], [&]<typename T>() { write_one<T>(engine, call); });
}

void delete_resource(const EnginePtr& engine, const CallPtr& call) {
  with_writable_kind(call->segments[0], [&]<typename T>() { delete_one<T>(engine, call); });
}

}  // namespace virga::api
