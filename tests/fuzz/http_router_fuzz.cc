// F-F31: any method, path, query, headers and body: each is answered once,
// the store stays readable.
#include "base/check.h"
#include "base/log.h"
#include "model/keys.h"
#include "server/api/api.h"
#include "sim/sim_loop.h"
#include "store/memory_store.h"

namespace {

using namespace virga;

struct CountingReply : HttpReply {
  struct Stream : EventStream {
    Result<void> send(std::string) override { return {}; }
    void close() override {}
    void on_closed(Task) override {}
  };
  void send(HttpResponse) override { ++answers; }
  std::shared_ptr<EventStream> stream(HttpResponse) override {
    return ++answers, std::make_shared<Stream>();
  }
  std::shared_ptr<MessageSocket> upgrade() override { return nullptr; }
  int answers = 0;
};

struct EmptyJournal : Journal {
  explicit EmptyJournal(Loop& on) : loop(on) {}
  void append(std::string, Event, Callback<std::uint64_t>) override {}
  void read(JournalQuery, Callback<std::vector<Event>> done) override {
    loop.post([done] { done(std::vector<Event>{}); });
  }
  std::shared_ptr<void> follow(Sink) override { return nullptr; }
  void trim(std::size_t, Callback<void>) override {}
  Loop& loop;
};

/// Takes the next line of the input.
std::string take_line(std::string_view& rest) {
  const std::size_t end = std::min(rest.find('\n'), rest.size());
  std::string line(rest.substr(0, end));
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return line;
}

/// Lines: method, path, "?name=value", "header=value", an empty line; the rest is the body.
HttpRequest read_request(std::string_view text) {
  HttpRequest request;
  request.method = take_line(text);
  request.path = "/" + take_line(text);
  for (std::string line = take_line(text); !line.empty(); line = take_line(text)) {
    const std::size_t equals = std::min(line.find('='), line.size());
    const std::string value = equals < line.size() ? line.substr(equals + 1) : "";
    if (line.front() == '?') request.query[line.substr(1, equals == 0 ? 0 : equals - 1)] = value;
    request.headers[line.substr(0, equals)] = value;
  }
  request.body = std::string(text);
  request.headers.try_emplace("content-type", "application/json");
  return request;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  set_log_level(LogLevel::error);
  SimLoop loop;
  MemoryStore store(loop, Rng(1));
  EmptyJournal journal(loop);
  Metrics metrics;
  ClusterView view;
  const auto watch = store.watch(std::string(keys::kRoot), 0,
                                 {[&](Revision, std::vector<Change> changes) {
                                    for (const Change& change : changes)
                                      VIRGA_CHECK(view.apply(change).ok());
                                  },
                                  [](Revision) {}});
  ApiContext context{loop, store, journal, metrics, [&] { return view; }, "fuzz", {}, {}, {}, {},
                     {},   {},    {},      {}};
  Api api(context);
  auto reply = std::make_shared<CountingReply>();
  api.handle(read_request({reinterpret_cast<const char*>(data), size}), reply);
  loop.run_for(seconds(10));
  VIRGA_CHECK(reply->answers == 1);
  return 0;
}
