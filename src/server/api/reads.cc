#include <fmt/format.h>

#include <charconv>

#include "base/reflect.h"
#include "server/api/handlers.h"

namespace virga::api {
namespace {

constexpr std::size_t kListMax = 100'000;

/// What a list asks for.
struct Selection {
  std::string tenant;
  std::string correlation;  ///< of the request that led to it
  std::string after;
  std::size_t limit = kListMax;
  std::map<std::string, std::string> labels;
  std::vector<std::string> fields;
};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  while (begin <= text.size() && !text.empty()) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::string query_text(const Call& call, const std::string& name) {
  const auto found = call.request.query.find(name);
  return found == call.request.query.end() ? std::string() : found->second;
}

Result<Selection> read_selection(const Call& call) {
  Selection selection;
  selection.tenant = query_text(call, "tenant");
  if (call.segments.size() > 1) selection.tenant = call.segments[1];
  selection.correlation = query_text(call, "correlation");
  selection.after = query_text(call, "after");
  const auto limit = query_number(call, "limit", kListMax, kListMax);
  if (!limit.ok()) return limit.error();
  selection.limit = *limit == 0 ? kListMax : static_cast<std::size_t>(*limit);
  for (const std::string& pair : split(query_text(call, "labels"), ',')) {
    const std::size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0) {
      return make_error(Errc::invalid, "labels: \"" + pair.substr(0, 80) + "\" is not NAME=VALUE");
    }
    selection.labels[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  selection.fields = split(query_text(call, "fields"), ',');
  return selection;
}

template <typename T>
bool selected(const T& resource, const Selection& selection) {
  const Meta& meta = resource.meta;
  const std::string* correlation = &meta.correlation;
  if constexpr (std::is_same_v<T, Operation>) correlation = &resource.correlation;
  if (!selection.correlation.empty() && *correlation != selection.correlation) return false;
  if (!selection.tenant.empty() && meta.tenant != selection.tenant) return false;
  for (const auto& [name, value] : selection.labels) {
    const auto found = meta.labels.find(name);
    if (found == meta.labels.end() || found->second != value) return false;
  }
  return true;
}

/// Copies one dotted path of `from` into `to`; a path that does not exist is left out.
void copy_field(const json::object& from, json::object& to, const std::string& path) {
  const std::size_t dot = path.find('.');
  const std::string front = path.substr(0, dot);
  const json::value* found = from.if_contains(front);
  if (found == nullptr) return;
  if (dot == std::string::npos) {
    to[front] = *found;
  } else if (found->is_object()) {
    json::value& nested = to[front];
    if (!nested.is_object()) nested.emplace_object();
    copy_field(found->get_object(), nested.get_object(), path.substr(dot + 1));
  }
}

/// One resource of a list; from the cache, where there is one and the whole resource is wanted.
template <typename T>
std::string item_text(const T& resource, const Selection& selection, TextCache* cache) {
  if (selection.fields.empty()) {
    const auto whole = [&] { return json::serialize(shown(resource)); };
    return cache == nullptr ? whole()
                            : cache->text(key_of<T>(resource.meta), resource.meta.revision, whole);
  }
  const json::object item = shown(resource);
  json::object pruned;
  for (const std::string& field : selection.fields) copy_field(item, pruned, field);
  return json::serialize(pruned);
}

template <typename T>
HttpResponse list_of(const ClusterView& view, const Selection& selection, TextCache* cache) {
  using IdType = typename Table<T>::IdType;
  const auto& all = Kind<T>::table(view).all();
  HttpResponse response;
  response.headers["content-type"] = "application/json";
  response.body = "{\"items\":[";
  std::size_t count = 0;
  std::string last;
  bool more = false;
  for (auto next = all.upper_bound(IdType(selection.after)); next != all.end(); ++next) {
    if (!selected(*next->second, selection)) continue;
    if (count == selection.limit) {
      more = true;
      break;
    }
    if (count++ > 0) response.body += ",\n";
    response.body += item_text(*next->second, selection, cache);
    last = next->first.value;
  }
  response.body += fmt::format("],\"revision\":{}", view.revision);
  if (more) response.body += ",\"next\":" + json::serialize(json::string(last));
  response.body += "}\n";
  response.headers["x-virga-revision"] = std::to_string(view.revision);
  if (cache != nullptr) cache->trim(all.size());
  return response;
}

/// Short lists are written at once, long ones on the writer's thread. The view ends on the loop.
template <typename T>
void answer_list(const EnginePtr& engine, const CallPtr& call, const ClusterView& view,
                 const Selection& selection) {
  constexpr std::size_t kShort = 200;
  const std::size_t size = Kind<T>::table(view).size();
  if (selection.limit < size) engine->paged_views().keep(view);
  if (std::min(size, selection.limit) <= kShort) {
    return engine->answer(call, list_of<T>(view, selection, nullptr));
  }
  const auto held = std::make_shared<const ClusterView>(view);
  const bool taken = engine->list_writer().write(
      [held, selection](TextCache& cache) { return list_of<T>(*held, selection, &cache); },
      [engine, call, held](HttpResponse response) { engine->answer(call, std::move(response)); });
  if (taken) return;
  engine->refuse(call,
                 make_error(Errc::exhausted, "too many long lists are being written; try again"));
}

/// Calls `task.template operator()<T>()` for the kind that the path names; false if there is none.
template <typename Task>
bool with_kind(const Call& call, Task&& task) {
  bool found = false;
  for_each_kind([&]<typename T>() {
    if (!found && call.segments[0] == Kind<T>::kPlural) {
      found = true;
      task.template operator()<T>();
    }
  });
  return found;
}

/// Empties the text at a path of member names, where it is there.
void blank(boost::json::object& resource, std::initializer_list<std::string_view> path) {
  boost::json::object* place = &resource;
  for (auto name = path.begin(); name + 1 != path.end(); ++name) {
    boost::json::value* next = place->if_contains(*name);
    if (next == nullptr || !next->is_object()) return;
    place = &next->get_object();
  }
  if (place->contains(*(path.end() - 1))) (*place)[*(path.end() - 1)] = "";
}

}  // namespace

void redact(std::string_view prefix, boost::json::object& resource) {
  if (prefix == keys::kMachine) blank(resource, {"spec", "bmc", "password"});
  if (prefix == keys::kService) blank(resource, {"spec", "frontend", "certificate"});
  if (prefix == keys::kOperation) {
    for (const char* name : {"secret", "key"}) blank(resource, {"facts", "endpoint", name});
  }
}

Result<std::uint64_t> query_number(const Call& call, const std::string& name,
                                   std::uint64_t fallback, std::uint64_t max) {
  const auto found = call.request.query.find(name);
  if (found == call.request.query.end()) return fallback;
  const std::string& text = found->second;
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || text.empty() || number > max) {
    return make_error(Errc::invalid, fmt::format("{}: \"{}\" is not a number of 0 to {}", name,
                                                 text.substr(0, 80), max));
  }
  return number;
}

void list_resources(const EnginePtr& engine, const CallPtr& call) {
  const auto selection = read_selection(*call);
  if (!selection.ok()) return engine->refuse(call, selection.error());
  const auto revision = query_number(*call, "revision", 0, UINT64_MAX);
  if (!revision.ok()) return engine->refuse(call, revision.error());
  const auto answer = [engine, call, selection = *selection](const ClusterView& view) {
    with_kind(*call, [&]<typename T>() { answer_list<T>(engine, call, view, selection); });
  };
  if (*revision == 0) return engine->with_view(engine->committed(), answer);
  if (const ClusterView* kept = engine->paged_views().find(*revision)) {
    const ClusterView view = *kept;
    return answer(view);
  }
  engine->refuse(
      call,
      Problem{make_error(Errc::conflict,
                         fmt::format("revision: the list of revision {} is not kept any more; "
                                     "list again from the first page",
                                     *revision)),
              {},
              410});
}

void get_resource(const EnginePtr& engine, const CallPtr& call) {
  engine->with_view(engine->committed(), [engine, call](const ClusterView& view) {
    with_kind(*call, [&]<typename T>() {
      const std::string id = Kind<T>::kTenantOwned ? qualified(call->segments[1], call->segments[2])
                                                   : call->segments[1];
      const T* found = Kind<T>::table(view).find(typename Table<T>::IdType(id));
      if (found == nullptr) return engine->refuse(call, no_such<T>(id));
      const std::string etag = fmt::format("\"{}\"", found->meta.revision);
      const auto known = call->request.headers.find("if-none-match");
      HttpResponse response;
      if (known != call->request.headers.end() && known->second == etag) {
        response.status = 304;
      } else {
        response = json_response(200, shown(*found));
      }
      response.headers["etag"] = etag;
      engine->answer(call, std::move(response));
    });
  });
}

}  // namespace virga::api
