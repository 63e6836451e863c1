#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/reflect.h"
#include "model/join.h"
#include "model/keys.h"
#include "server/api/api.h"
#include "sim/sim_loop.h"
#include "store/memory_store.h"

namespace virga::test {

/// Keeps what a handler answered.
struct RecordedStream : EventStream {
  Result<void> send(std::string chunk) override {
    if (full) return make_error(Errc::exhausted, "the client is too slow");
    text += chunk;
    return {};
  }
  void close() override { closed = true; }
  void on_closed(Task handler) override { closed_handler = std::move(handler); }

  std::string text;
  bool closed = false;
  bool full = false;
  Task closed_handler;
};

struct RecordedReply : HttpReply {
  void send(HttpResponse made) override {
    ++answers;
    response = std::move(made);
  }
  std::shared_ptr<EventStream> stream(HttpResponse head) override {
    ++answers;
    response = std::move(head);
    opened = std::make_shared<RecordedStream>();
    return opened;
  }
  std::shared_ptr<MessageSocket> upgrade() override { return nullptr; }

  int answers = 0;
  HttpResponse response;
  std::shared_ptr<RecordedStream> opened;
};

/// The journal as far as these tests need it.
struct ListJournal : Journal {
  explicit ListJournal(Loop& on) : loop(on) {}
  void append(std::string, Event event, Callback<std::uint64_t> done) override {
    event.sequence = events.size() + 1;
    events.push_back(event);
    if (sink) sink(event);
    loop.post([done, sequence = event.sequence] { done(sequence); });
  }
  void read(JournalQuery query, Callback<std::vector<Event>> done) override {
    std::vector<Event> page;
    for (const Event& event : events) {
      if (event.sequence > query.after && page.size() < query.limit) page.push_back(event);
    }
    loop.post([done, page] { done(page); });
  }
  std::shared_ptr<void> follow(Sink to) override {
    sink = std::move(to);
    return std::shared_ptr<void>(nullptr, [this](void*) { sink = nullptr; });
  }
  void trim(std::size_t, Callback<void> done) override {
    loop.post([done] { done({}); });
  }

  Loop& loop;
  std::vector<Event> events;
  Sink sink;
};

/// The API on a memory store in virtual time. The view follows the store as the server's does.
class ApiTest : public ::testing::Test {
 protected:
  ApiTest() {
    watch_ = store.watch(std::string(keys::kRoot), 0,
                         {[this](Revision, std::vector<Change> changes) {
                            for (const Change& change : changes)
                              EXPECT_TRUE(view.apply(change).ok());
                          },
                          [](Revision) { FAIL() << "the view's watch was compacted"; }});
    api = std::make_unique<Api>(context());
  }

  ApiContext context() {
    ApiContext made{loop, store, journal, metrics, [this] { return view; }, "test", {}, {}, {}, {},
                    {},   {},    {},      {}};
    made.issue_certificate = [this](const HostId& host, const std::vector<std::string>&) {
      return Result<IssuedCertificate>({{"certificate of agent:" + host.value, "key", "authority"},
                                        {loop.wall_now().unix_ms + 1000}});
    };
    return made;
  }

  using Headers = std::map<std::string, std::string>;

  /// Starts a request; its answer is there when the loop has run.
  std::shared_ptr<RecordedReply> start(const std::string& method, const std::string& target,
                                       const std::string& body = "", Headers headers = {}) {
    HttpRequest request;
    request.method = method;
    const std::size_t mark = target.find('?');
    request.path = target.substr(0, mark);
    std::string query = mark == std::string::npos ? "" : target.substr(mark + 1);
    while (!query.empty()) {
      const std::size_t end = std::min(query.find('&'), query.size());
      const std::size_t equals = query.find('=');
      request.query[query.substr(0, equals)] = query.substr(equals + 1, end - equals - 1);
      query.erase(0, end + 1);
    }
    request.headers = std::move(headers);
    if (!body.empty()) request.headers.try_emplace("content-type", "application/json");
    request.body = body;
    request.peer_name = peer_name;
    request.peer_since = peer_since.value_or(loop.wall_now());
    auto reply = std::make_shared<RecordedReply>();
    if (target.starts_with("/v1/join") || target == kRenewal) {
      api->handle_agents(std::move(request), reply);
    } else {
      api->handle(std::move(request), reply);
    }
    return reply;
  }

  HttpResponse call(const std::string& method, const std::string& target,
                    const std::string& body = "", Headers headers = {}) {
    auto reply = start(method, target, body, std::move(headers));
    EXPECT_TRUE(loop.run_until_true([&] { return reply->answers > 0; }, seconds(60)))
        << method << " " << target << " was never answered";
    loop.run_for(milliseconds(5));
    EXPECT_EQ(reply->answers, 1);
    return reply->response;
  }

  static json::object parsed(const HttpResponse& response) {
    auto made = parse_json(response.body, 64 << 20);
    EXPECT_TRUE(made.ok()) << response.body.substr(0, 300);
    return made.ok() && made->is_object() ? made->get_object() : json::object{};
  }

  static std::string text_at(const json::object& object, const std::string& field) {
    const auto* found = object.if_contains(field);
    return found != nullptr && found->is_string() ? std::string(found->get_string())
                                                  : std::string();
  }

  /// A cluster, an image and a network of tenant acme.
  void make_house() {
    EXPECT_EQ(call("POST", "/v1/clusters", R"({"meta":{"name":"lab"},"spec":{"shared_directory":"/srv/virga"}})")
                  .status, 201);
    EXPECT_EQ(call("POST", "/v1/images", image_body(R"("name":"tiny")", R"("path":"images/tiny")")).status, 201);
    const auto network = call("POST", "/v1/networks",
                              R"({"meta":{"tenant":"acme","name":"front"},"spec":{"subnet":"10.50.0.0/16"}})");
    EXPECT_EQ(network.status, 201) << network.body;
  }

  /// With what an import would have found.
  static std::string image_body(const std::string& meta, const std::string& spec) {
    return R"({"meta":{)" + meta + R"(},"spec":{"file_bytes":1000,"sha256":")" + std::string(64, 'a') + "\"," + spec +
           "}}";
  }

  static std::string vm_body(const std::string& name, const std::string& more = "") {
    return R"({"meta":{"tenant":"acme","name":")" + name +
           R"("},"spec":{"image":"tiny","nics":[{"network":"front"}])" + more + "}}";
  }

  /// What a controller would write: replaces a stored resource.
  template <typename T>
  void put(const T& resource, const std::string& key) {
    bool done = false;
    store.commit({}, {{key, to_json_text(resource)}}, [&](Result<CommitOutcome>) { done = true; });
    EXPECT_TRUE(loop.run_until_true([&] { return done; }, seconds(5)));
    loop.run_for(milliseconds(5));
  }

  std::size_t count_keys(const std::string& prefix) {
    std::size_t count = SIZE_MAX;
    ListRequest request;
    request.prefix = prefix;
    store.list(request, [&](Result<Page> page) { count = page.value().entries.size(); });
    EXPECT_TRUE(loop.run_until_true([&] { return count != SIZE_MAX; }, seconds(5)));
    return count;
  }

  std::vector<Event> outbox() {
    std::vector<Event> events;
    bool done = false;
    ListRequest request;
    request.prefix = keys::kOutbox;
    store.list(request, [&](Result<Page> page) {
      for (const KeyValue& entry : page.value().entries) {
        events.push_back(from_json_text<Event>(entry.value).value());
      }
      done = true;
    });
    EXPECT_TRUE(loop.run_until_true([&] { return done; }, seconds(5)));
    return events;
  }

  SimLoop loop;
  MemoryStore store{loop, Rng(1)};
  ListJournal journal{loop};
  Metrics metrics;
  ClusterView view;
  std::string peer_name;  ///< of the certificate that requests come with
  std::optional<WallTime> peer_since;  ///< when it was issued; nothing = now
  std::unique_ptr<Api> api;

 private:
  std::unique_ptr<Watch> watch_;
};

}  // namespace virga::test
