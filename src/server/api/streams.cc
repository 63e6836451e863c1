#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "runtime/journal.h"
#include "server/api/handlers.h"

namespace virga::api {
namespace {

constexpr Duration kKeepAlive = seconds(15);  ///< a comment so often: finds clients that are gone
constexpr std::size_t kStreamsMax = 1000;     ///< clients that follow at once
constexpr std::size_t kBacklogPage = 500;

/// One client that follows. Everything it owns ends with the connection.
struct Stream : std::enable_shared_from_this<Stream> {
  Stream(const EnginePtr& owner, std::shared_ptr<EventStream> opened)
      : engine(owner), out(std::move(opened)), keep_alive(owner->context().loop) {}

  EnginePtr engine;
  std::shared_ptr<EventStream> out;
  Timer keep_alive;
  std::unique_ptr<Watch> watch;       ///< of /v1/watch
  std::shared_ptr<void> following;    ///< of /v1/events
  std::vector<std::string> prefixes;  ///< wanted keys
  std::string tenant;
  JournalQuery query;
  std::deque<Event> waiting;          ///< appended while the backlog is being sent
  bool caught_up = false;
  bool closed = false;

  void open() {
    engine->streams().insert(shared_from_this());
    out->on_closed([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->close();
    });
    tick();
  }
  void tick() {
    keep_alive.set_after(kKeepAlive, [weak = weak_from_this()] {
      const auto self = weak.lock();
      if (self && self->send(": alive\n\n")) self->tick();
    });
  }
  bool send(std::string text) {
    if (closed) return false;
    if (out->send(std::move(text)).ok()) return true;
    close();
    return false;
  }
  void close() {
    if (std::exchange(closed, true)) return;
    keep_alive.cancel();
    watch.reset();
    following.reset();
    out->close();
    engine->streams().erase(shared_from_this());
  }
};
using StreamPtr = std::shared_ptr<Stream>;

StreamPtr open_stream(const EnginePtr& engine, const CallPtr& call) {
  HttpResponse head;
  head.headers["content-type"] = "text/event-stream";
  head.headers["cache-control"] = "no-store";
  head.headers["x-request-id"] = call->correlation;
  auto opened = call->reply->stream(std::move(head));
  if (opened == nullptr) return nullptr;
  engine->count(call, 200);
  auto stream = std::make_shared<Stream>(engine, std::move(opened));
  stream->open();
  return stream;
}

bool refuse_crowd(const EnginePtr& engine, const CallPtr& call) {
  if (engine->streams().size() < kStreamsMax) return false;
  engine->refuse(
      call, make_error(Errc::exhausted, fmt::format("{} clients follow already, that is the most; "
                                                    "end one or poll",
                                                    kStreamsMax)));
  return true;
}

std::string query_text(const Call& call, const std::string& name) {
  const auto found = call.request.query.find(name);
  return found == call.request.query.end() ? std::string() : found->second;
}

/// "vms,hosts" as key prefixes; empty = all kinds. Errors: invalid.
Result<std::vector<std::string>> read_prefixes(const std::string& kinds) {
  std::vector<std::string> prefixes;
  std::string known;
  for_each_kind([&]<typename T>() {
    const std::string name(Kind<T>::kPlural);
    known += (known.empty() ? "" : ", ") + name;
    const bool wanted =
        kinds.empty() || ("," + kinds + ",").find("," + name + ",") != std::string::npos;
    if (wanted) prefixes.emplace_back(Kind<T>::kPrefix);
  });
  const auto commas = static_cast<std::size_t>(std::count(kinds.begin(), kinds.end(), ','));
  if (!kinds.empty() && prefixes.size() != commas + 1) {
    return make_error(Errc::invalid,
                      "kinds: \"" + kinds.substr(0, 80) + "\" is not a list of some of " + known);
  }
  return prefixes;
}

std::string sse(std::string_view event, std::uint64_t id, const json::value& data) {
  return fmt::format("event: {}\nid: {}\ndata: {}\n\n", event, id, json::serialize(data));
}

/// One change as a server-sent event; empty when it is not for this client.
std::string change_text(const Stream& stream, const virga::Change& change) {
  const std::string& key = change.entry.key;
  const auto prefix =
      std::find_if(stream.prefixes.begin(), stream.prefixes.end(),
                   [&](const std::string& wanted) { return key.starts_with(wanted); });
  if (prefix == stream.prefixes.end()) return {};
  json::object data{{"key", key}, {"revision", change.entry.modified}};
  if (change.removed) {
    const bool other = !stream.tenant.empty() && !key.starts_with(*prefix + stream.tenant + "/");
    return other ? std::string() : sse("removed", change.entry.modified, data);
  }
  auto parsed = parse_json(change.entry.value);
  if (!parsed.ok() || !parsed->is_object()) return {};
  json::object& resource = parsed->get_object();
  redact(*prefix, resource);
  if (auto* meta = resource.if_contains("meta"); meta != nullptr && meta->is_object()) {
    json::object& fields = meta->get_object();
    fields["revision"] = change.entry.modified;
    const auto* owner = fields.if_contains("tenant");
    const bool fits =
        owner != nullptr && owner->is_string() && owner->get_string() == stream.tenant;
    if (!stream.tenant.empty() && !fits) return {};
  }
  data["resource"] = std::move(resource);
  return sse("changed", change.entry.modified, data);
}

void start_watch(const StreamPtr& stream, Revision after) {
  WatchSink sink;
  sink.changed = [weak = std::weak_ptr(stream)](Revision, std::vector<virga::Change> changes) {
    const auto self = weak.lock();
    if (!self || self->closed) return;
    std::string text;
    for (const virga::Change& change : changes) text += change_text(*self, change);
    if (!text.empty()) self->send(std::move(text));
  };
  sink.compacted = [weak = std::weak_ptr(stream)](Revision revision) {
    const auto self = weak.lock();
    if (!self) return;
    self->send(sse("compacted", revision, json::object{{"revision", revision}}));
    self->close();
  };
  stream->watch =
      stream->engine->context().store.watch(std::string(keys::kRoot), after, std::move(sink));
}

bool fits(const Event& event, const JournalQuery& query) {
  return event.kind.starts_with(query.kind_prefix) &&
         (query.subject.empty() || event.subject == query.subject) &&
         (query.tenant.empty() || event.tenant == query.tenant);
}

void send_event(const StreamPtr& stream, const Event& event) {
  if (event.sequence <= stream->query.after || !fits(event, stream->query)) return;
  stream->query.after = event.sequence;
  stream->send(sse("event", event.sequence, to_json(event)));
}

/// Sends what the journal has, page by page, then what came meanwhile, then goes live.
void send_backlog(const StreamPtr& stream) {
  if (stream->closed) return;
  stream->engine->context().journal.read(stream->query, [stream](Result<std::vector<Event>> page) {
    if (!page.ok()) return stream->close();
    for (const Event& event : *page) send_event(stream, event);
    if (page->size() == stream->query.limit) return send_backlog(stream);
    while (!stream->waiting.empty()) {
      send_event(stream, stream->waiting.front());
      stream->waiting.pop_front();
    }
    stream->caught_up = true;
  });
}

void follow_events(const EnginePtr& engine, const CallPtr& call, const JournalQuery& query) {
  if (refuse_crowd(engine, call)) return;
  const StreamPtr stream = open_stream(engine, call);
  if (stream == nullptr) return;
  stream->query = query;
  stream->query.newest_first = false;
  stream->query.limit = kBacklogPage;
  stream->following =
      engine->context().journal.follow([weak = std::weak_ptr(stream)](const Event& event) {
        constexpr std::size_t kWaitingMax = 10'000;
        const auto self = weak.lock();
        if (!self || self->closed) return;
        if (self->caught_up) return send_event(self, event);
        if (self->waiting.size() == kWaitingMax) return self->close();
        self->waiting.push_back(event);
      });
  send_backlog(stream);
}

Result<JournalQuery> read_query(const Call& call) {
  JournalQuery query;
  const auto after = query_number(call, "after", 0, UINT64_MAX);
  if (!after.ok()) return after.error();
  const auto limit = query_number(call, "limit", 100, 1000);
  if (!limit.ok()) return limit.error();
  query.after = *after;
  query.limit = *limit == 0 ? 100 : static_cast<std::size_t>(*limit);
  query.newest_first = query_text(call, "newest") == "true";
  query.kind_prefix = query_text(call, "kind");
  query.subject = query_text(call, "subject");
  query.tenant = query_text(call, "tenant");
  return query;
}

}  // namespace

void watch_resources(const EnginePtr& engine, const CallPtr& call) {
  if (refuse_crowd(engine, call)) return;
  auto revision = query_number(*call, "revision", 0, UINT64_MAX);
  const auto last = call->request.headers.find("last-event-id");
  if (last != call->request.headers.end()) {
    call->request.query["revision"] = last->second;
    revision = query_number(*call, "revision", 0, UINT64_MAX);
  }
  if (!revision.ok()) return engine->refuse(call, revision.error());
  const auto prefixes = read_prefixes(query_text(*call, "kinds"));
  if (!prefixes.ok()) return engine->refuse(call, prefixes.error());
  ListRequest probe;
  probe.prefix = keys::kCluster;
  probe.limit = 1;
  probe.revision = *revision;
  // A revision whose history is gone is found before the stream begins, while a status can say so.
  engine->context().store.list(
      probe, [engine, call, wanted = *revision, prefixes = *prefixes](Result<Page> page) {
        if (!page.ok()) {
          const bool gone = page.error().code == Errc::invalid;
          return engine->refuse(
              call, Problem{wrap_error("revision: list again and watch from there", page.error()),
                            {},
                            gone ? 410 : 0});
        }
        const StreamPtr stream = open_stream(engine, call);
        if (stream == nullptr) return;
        stream->prefixes = prefixes;
        stream->tenant = query_text(*call, "tenant");
        const Revision from = wanted != 0 ? wanted : page->revision;
        if (stream->send(sse("begin", from, json::object{{"revision", from}})))
          start_watch(stream, from);
      });
}

void read_events(const EnginePtr& engine, const CallPtr& call) {
  auto query = read_query(*call);
  if (!query.ok()) return engine->refuse(call, query.error());
  if (query_text(*call, "follow") == "true") return follow_events(engine, call, *query);
  engine->context().journal.read(*query, [engine, call](Result<std::vector<Event>> page) {
    if (!page.ok()) return engine->refuse(call, page.error());
    json::array items;
    for (const Event& event : *page) items.push_back(to_json(event));
    json::object body{{"items", std::move(items)}};
    if (!page->empty()) body["next"] = page->back().sequence;
    engine->answer(call, json_response(200, body));
  });
}

}  // namespace virga::api
