#include "cli/client.h"

#include <fmt/format.h>

#include "base/reflect.h"
#include "edge/file.h"
#include "edge/tls.h"

namespace virga::cli {
namespace {

constexpr std::size_t kAnswerMax = 64 << 20;

std::string header(const HttpResponse& response, const std::string& name) {
  const auto found = response.headers.find(name);
  return found == response.headers.end() ? std::string() : found->second;
}

/// The server's refusal as an Error.
Error refusal(const HttpResponse& response, const std::string& target) {
  const auto parsed = parse_json(response.body, kAnswerMax);
  if (!parsed.ok() || !parsed->is_object() || !parsed->get_object().contains("code")) {
    return make_error(Errc::internal, fmt::format("{} answered {}: {}", target, response.status,
                                                  response.body.substr(0, 200)));
  }
  const json::object& body = parsed->get_object();
  const auto text = [](const json::value* value) {
    return value != nullptr && value->is_string() ? std::string(value->get_string())
                                                  : std::string();
  };
  std::string what = text(body.if_contains("text"));
  if (const auto* reasons = body.if_contains("reasons");
      reasons != nullptr && reasons->is_array()) {
    for (const json::value& reason : reasons->get_array()) {
      if (!reason.is_object()) continue;
      what += fmt::format("\n  {}: {}", text(reason.get_object().if_contains("candidate")),
                          text(reason.get_object().if_contains("reason")));
    }
  }
  return make_error(errc_from_string(text(body.if_contains("code"))), std::move(what));
}

class HttpTransport final : public Transport {
 public:
  explicit HttpTransport(std::string server) : server_(std::move(server)) {
    while (!server_.empty() && server_.back() == '/') server_.pop_back();
  }

  Result<HttpResponse> call(const std::string& method, const std::string& target,
                            const std::map<std::string, std::string>& headers,
                            const std::string& body) override {
    HttpCall call;
    call.method = method;
    call.url = server_ + target;
    call.headers = headers;
    call.body = body;
    AsioLoop loop;
    Result<HttpResponse> outcome = make_error(Errc::internal, "no answer");
    http_call(loop, std::move(call), [&](Result<HttpResponse> response) {
      outcome = std::move(response);
      loop.stop();
    });
    loop.run();
    return named(std::move(outcome));
  }

  Result<HttpResponse> stream(const std::string& target,
                              std::function<bool(const std::string&)> keep_on) override {
    HttpCall call;
    call.url = server_ + target;
    AsioLoop loop;
    Result<HttpResponse> outcome = make_error(Errc::internal, "no answer");
    http_stream(loop, std::move(call), std::move(keep_on), [&](Result<HttpResponse> response) {
      outcome = std::move(response);
      loop.stop();
    });
    loop.run();
    return named(std::move(outcome));
  }

  void pause(Duration duration) override {
    AsioLoop loop;
    loop.after(duration, [&] { loop.stop(); });
    loop.run();
  }

  Instant now() override { return clock_.now(); }

 private:
  Result<HttpResponse> named(Result<HttpResponse> outcome) const {
    if (outcome.ok()) return outcome;
    return wrap_error("server " + server_ + " (set by --server, VIRGA_SERVER or `context.json`)",
                      outcome.error());
  }

  std::string server_;
  AsioLoop clock_;
};

}  // namespace

std::unique_ptr<Transport> http_transport(const std::string& server) {
  return std::make_unique<HttpTransport>(server);
}

std::string choose_server(const std::string& option,
                          const std::function<std::string(const std::string&)>& environment) {
  if (!option.empty()) return option;
  if (const std::string named = environment("VIRGA_SERVER"); !named.empty()) return named;
  const std::string home = environment("HOME");
  const std::string configured = environment("XDG_CONFIG_HOME");
  const std::string folder = configured.empty() ? home + "/.config" : configured;
  if (const auto text = read_file(folder + "/virga/context.json", 64 << 10); text.ok()) {
    const auto context = parse_json(*text);
    const auto* server = context.ok() && context->is_object()
                             ? context->get_object().if_contains("server")
                             : nullptr;
    if (server != nullptr && server->is_string()) return std::string(server->get_string());
  }
  return "http://127.0.0.1:7480";
}

std::string percent_encoded(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '_' || c == '.' || c == '~';
    if (plain) {
      out += c;
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

std::string resource_target(const std::string& plural, const std::string& name) {
  std::string target = "/v1/" + plural;
  std::size_t begin = 0;
  while (begin <= name.size()) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    target += "/" + percent_encoded(name.substr(begin, end - begin));
    begin = end + 1;
  }
  return target;
}

Result<Answer> request(Session& session, const std::string& method, const std::string& target,
                       const std::optional<json::value>& body) {
  std::map<std::string, std::string> headers{{"accept", "application/json"}};
  std::string text;
  if (body) {
    text = json::serialize(*body);
    headers["content-type"] = "application/json";
  }
  if (method == "POST") headers["idempotency-key"] = random_secret();
  std::string whole = target;
  if (session.dry_run && method != "GET") {
    whole += (target.find('?') == std::string::npos ? "?" : "&") + std::string("dry_run=true");
  }
  const auto response = session.transport.call(method, whole, headers, text);
  if (!response.ok()) return response.error();
  if (response->status >= 400) return refusal(*response, method + " " + whole);
  Answer answer;
  answer.status = response->status;
  answer.etag = header(*response, "etag");
  answer.location = header(*response, "location");
  answer.unchanged = header(*response, "x-virga-unchanged") == "true";
  if (header(*response, "content-type").starts_with("text/")) {
    answer.body = json::string(response->body);
  } else if (!response->body.empty()) {
    auto parsed = parse_json(response->body, kAnswerMax);
    if (!parsed.ok())
      return wrap_error(method + " " + whole + " answered what is not JSON", parsed.error());
    answer.body = std::move(*parsed);
  }
  return answer;
}

Result<Listing> list_all(Session& session, const std::string& target) {
  Listing listing;
  const std::string join = target.find('?') == std::string::npos ? "?" : "&";
  std::string page_target = target + join + "limit=5000";
  while (true) {
    auto page = request(session, "GET", page_target);
    if (!page.ok()) return page.error();
    if (!page->body.is_object()) return make_error(Errc::internal, target + " answered no list");
    json::object& body = page->body.get_object();
    if (auto* items = body.if_contains("items"); items != nullptr && items->is_array()) {
      for (json::value& item : items->get_array()) listing.items.push_back(std::move(item));
    }
    if (const auto* revision = body.if_contains("revision");
        revision != nullptr && revision->is_number()) {
      listing.revision = revision->to_number<std::uint64_t>();
    }
    const auto* next = body.if_contains("next");
    if (next == nullptr || !next->is_string()) return listing;
    page_target = fmt::format("{}{}limit=5000&after={}&revision={}", target, join,
                              percent_encoded(std::string(next->get_string())), listing.revision);
  }
}

Result<void> follow(Session& session, const std::string& target,
                    std::function<bool(const std::string&, const json::value&)> take) {
  constexpr std::size_t kEventMax = 4 << 20;
  std::string waiting;
  bool more = true;
  const auto take_event = [&](const std::string& block) {
    std::string kind;
    std::string data;
    std::size_t begin = 0;
    while (begin < block.size()) {
      const std::size_t end = std::min(block.find('\n', begin), block.size());
      const std::string line = block.substr(begin, end - begin);
      if (line.starts_with("event: ")) kind = line.substr(7);
      if (line.starts_with("data: ")) data += line.substr(6);
      begin = end + 1;
    }
    if (data.empty()) return true;
    const auto parsed = parse_json(data, kEventMax);
    return !parsed.ok() || take(kind, *parsed);
  };
  const auto response = session.transport.stream(target, [&](const std::string& piece) {
    waiting += piece;
    std::size_t end = 0;
    while (more && (end = waiting.find("\n\n")) != std::string::npos) {
      more = take_event(waiting.substr(0, end));
      waiting.erase(0, end + 2);
    }
    return more && waiting.size() < kEventMax;
  });
  if (!response.ok()) {
    if (!more) return {};
    return response.error();
  }
  if (response->status >= 400) return refusal(*response, "GET " + target);
  return {};
}

}  // namespace virga::cli
