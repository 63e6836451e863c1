#include <fmt/format.h>

#include "cli/client.h"
#include "cli/handlers.h"
#include "cli/output.h"

namespace virga::cli {
namespace {

namespace json = boost::json;

/// What the server says as CSV, as it is.
int print_csv(Session& session, const std::string& target) {
  const auto answer = session.transport.call("GET", target + "format=csv", {}, "");
  if (!answer.ok()) return fail(session, answer.error());
  if (answer->status < 300) return session.out(answer->body), 0;
  // The refusal in words.
  const auto refused = request(session, "GET", target);
  return fail(session, refused.ok() ? make_error(Errc::internal, answer->body.substr(0, 300))
                                    : refused.error());
}

int print_items(Session& session, const std::string& target, const std::string& kind) {
  const auto answer = request(session, "GET", target);
  if (!answer.ok()) return fail(session, answer.error());
  const auto* list =
      answer->body.is_object() ? answer->body.get_object().if_contains("items") : nullptr;
  std::vector<json::value> items;
  if (list != nullptr && list->is_array()) {
    items.assign(list->get_array().begin(), list->get_array().end());
  }
  print_resources(session, kind, items, false);
  return 0;
}

void add_option(std::string& target, const std::string& name, const std::string& value) {
  if (!value.empty()) target += fmt::format("{}={}&", name, percent_encoded(value));
}

}  // namespace

int list_usage(Session& session, const Invocation& invocation) {
  std::string target = "/v1/usage?";
  for (const char* name : {"tenant", "from", "to"}) {
    add_option(target, name, invocation.text(name));
  }
  for (const char* kind : {"vm", "volume", "service"}) {
    if (invocation.has(kind)) {
      add_option(target, "resource", std::string(kind) + "/" + invocation.text(kind));
    }
  }
  if (invocation.has("csv")) return print_csv(session, target);
  return print_items(session, target, "usage");
}

int show_usage_points(Session& session, const Invocation& invocation) {
  std::string target = "/v1/usage/points?";
  add_option(target, "resource", invocation.text("name"));
  for (const char* name : {"from", "to", "step"}) {
    add_option(target, name, invocation.text(name));
  }
  return print_items(session, target, "usage_points");
}

int show_bill(Session& session, const Invocation& invocation) {
  const std::string target =
      fmt::format("/v1/bills/{}/{}?", percent_encoded(invocation.text("tenant")),
                  percent_encoded(invocation.text("month")));
  if (invocation.has("csv")) return print_csv(session, target);
  const auto answer = request(session, "GET", target);
  if (!answer.ok()) return fail(session, answer.error());
  if (is_structured(session)) {
    print_value(session, answer->body);
    return 0;
  }
  const auto* lines =
      answer->body.is_object() ? answer->body.get_object().if_contains("lines") : nullptr;
  std::vector<json::value> rows;
  if (lines != nullptr && lines->is_array()) {
    rows.assign(lines->get_array().begin(), lines->get_array().end());
  }
  session.out(table_text(columns_of("bill_lines"), rows, false));
  session.out(fmt::format("sum {} millionths of {}\n", text_at(answer->body, "amount_micros"),
                          text_at(answer->body, "currency")));
  return 0;
}

}  // namespace virga::cli
