#include <fmt/format.h>

#include <algorithm>

#include "cli/client.h"
#include "cli/handlers.h"
#include "cli/options.h"
#include "cli/wait.h"
#include "edge/file.h"

namespace virga::cli {
namespace {

Result<void> put_numbers(const Invocation& invocation, json::object& into,
                         std::initializer_list<std::pair<const char*, const char*>> fields) {
  for (const auto& [option, field] : fields) {
    if (auto put = put_number(invocation, option, into, field); !put.ok()) return put;
  }
  return {};
}

/// What copies are made from. Errors: invalid, what reading files gives.
Result<json::object> read_template(const Invocation& invocation) {
  json::object vm;
  put_text(invocation, "image", vm, "image");
  put_text(invocation, "network", vm, "network");
  put_text(invocation, "pin", vm, "pinned_host");
  auto put = put_numbers(invocation, vm,
                         {{"cpus", "cpus"},
                          {"memory-mib", "memory_mib"},
                          {"millicores", "cpu_millicores"},
                          {"guest-port", "port"}});
  if (!put.ok()) return put.error();
  const auto groups = invocation.all("security-group");
  if (!groups.empty()) vm["security_groups"] = json::array(groups.begin(), groups.end());
  auto parameters = read_pairs(invocation, "parameter");
  if (!parameters.ok()) return parameters.error();
  if (!parameters->empty()) vm["parameters"] = *parameters;
  if (invocation.has("user-data")) {
    auto text = read_file(invocation.text("user-data"), 32 << 10);
    if (!text.ok()) return wrap_error("--user-data", text.error());
    vm["user_data"] = *text;
  }
  return vm;
}

/// Of the file that an option names. Errors: what reading files gives.
Result<void> put_certificate(const Invocation& invocation, const char* option,
                             json::object& frontend) {
  if (!invocation.has(option)) return {};
  auto text = read_file(invocation.text(option), 32 << 10);
  if (!text.ok()) return wrap_error("--" + std::string(option), text.error());
  frontend["tls"] = true;
  frontend["certificate"] = *std::move(text);
  return {};
}

/// "99.95" -> 999500. Errors: invalid.
Result<std::int64_t> read_percent(const std::string& text) {
  constexpr std::int64_t kWhole = 100;
  constexpr std::size_t kDigits = 4;
  const std::size_t point = std::min(text.find('.'), text.size());
  std::string digits = text.substr(0, point);
  std::string rest = point < text.size() ? text.substr(point + 1) : "";
  const bool plain = (digits + rest).find_first_not_of("0123456789") == std::string::npos &&
                     !digits.empty() && digits.size() <= 3 && rest.size() <= kDigits;
  rest.resize(kDigits, '0');
  const std::int64_t ppm = plain ? std::stoll(digits + rest) : -1;
  if (plain && ppm <= kWhole * 10'000) return ppm;
  return make_error(Errc::invalid,
                    "--availability: \"" + text.substr(0, 40) +
                        "\" is no share of the time in percent; right would be 99.9");
}

int change_spec(Session& session, const Invocation& invocation, json::object spec) {
  const auto answer =
      request(session, "PATCH", resource_target("services", invocation.text("name")),
              json::object{{"spec", std::move(spec)}});
  return answer.ok() ? show_one(session, "services", answer->body) : fail(session, answer.error());
}

int show_service(Session& session, const Invocation& invocation, const json::value& answered) {
  if (!session.wait || session.dry_run) return show_one(session, "services", answered);
  const auto settled = wait_for_service(session, invocation.text("name"), false);
  return settled.ok() ? show_one(session, "services", *settled) : fail(session, settled.error());
}

}  // namespace

int create_service(Session& session, const Invocation& invocation) {
  json::object spec;
  put_text(invocation, "cluster", spec, "cluster");
  auto vm = read_template(invocation);
  if (!vm.ok()) return fail(session, vm.error());
  spec["vm"] = std::move(*vm);
  json::object frontend;
  json::object check;
  json::object policy;
  put_text(invocation, "address", frontend, "address");
  put_text(invocation, "protocol", frontend, "protocol");
  put_text(invocation, "check", check, "protocol");
  put_text(invocation, "check-path", check, "path");
  put_text(invocation, "relocation", policy, "relocation");
  if (invocation.has("return-home")) policy["return_home"] = true;
  auto put = put_numbers(invocation, spec, {{"replicas", "replicas"}});
  if (put.ok()) {
    put = put_numbers(invocation, frontend,
                      {{"port", "port"}, {"copy-connections-max", "copy_connections_max"}});
  }
  if (put.ok()) {
    put = put_numbers(invocation, policy, {{"drain-ms", "drain_ms"}, {"answer-ms", "answer_ms"}});
  }
  if (put.ok()) put = put_certificate(invocation, "certificate", frontend);
  if (!put.ok()) return fail(session, put.error());
  if (!frontend.empty()) spec["frontend"] = frontend;
  if (!check.empty()) spec["check"] = check;
  if (!policy.empty()) spec["policy"] = policy;
  return create(session, invocation, "services", spec);
}

int set_certificate(Session& session, const Invocation& invocation) {
  json::object frontend;
  if (invocation.has("file") == invocation.has("none")) {
    return fail(session, make_error(Errc::invalid, "name a --file, or --none: one of the two"));
  }
  if (invocation.has("none")) frontend["tls"] = false;
  if (auto put = put_certificate(invocation, "file", frontend); !put.ok())
    return fail(session, put.error());
  return change_spec(session, invocation, json::object{{"frontend", std::move(frontend)}});
}

int weigh_copy(Session& session, const Invocation& invocation) {
  json::object order;
  put_text(invocation, "copy", order, "copy");
  if (auto put = put_number(invocation, "weight", order, "weight"); !put.ok())
    return fail(session, put.error());
  const auto answer =
      request(session, "POST", resource_target("services", invocation.text("name")) + "/weigh",
              json::value(order));
  return answer.ok() ? show_one(session, "services", answer->body) : fail(session, answer.error());
}

int relocate_service(Session& session, const Invocation& invocation) {
  json::object order;
  for (const char* field : {"copy", "host", "mode"}) put_text(invocation, field, order, field);
  if (auto put = put_number(invocation, "for-ms", order, "for_ms"); !put.ok())
    return fail(session, put.error());
  const auto answer =
      request(session, "POST", resource_target("services", invocation.text("name")) + "/relocate",
              json::value(order));
  if (!answer.ok()) return fail(session, answer.error());
  return show_service(session, invocation, answer->body);
}

int scale_service(Session& session, const Invocation& invocation) {
  json::object spec;
  if (auto put = put_number(invocation, "replicas", spec, "replicas"); !put.ok())
    return fail(session, put.error());
  const auto answer =
      request(session, "PATCH", resource_target("services", invocation.text("name")),
              json::object{{"spec", spec}});
  if (!answer.ok()) return fail(session, answer.error());
  return show_service(session, invocation, answer->body);
}

int set_objective(Session& session, const Invocation& invocation) {
  json::object objective;
  const auto availability = read_percent(invocation.text("availability"));
  if (!availability.ok()) return fail(session, availability.error());
  objective["availability_ppm"] = *availability;
  const auto put = put_numbers(invocation, objective,
                               {{"response-ms", "response_ms"},
                                {"blackout-ms", "blackout_ms"},
                                {"window-days", "window_days"},
                                {"every-ms", "every_ms"}});
  if (!put.ok()) return fail(session, put.error());
  return change_spec(session, invocation, {{"objective", objective}});
}

int show_level(Session& session, const Invocation& invocation) {
  return show_document(session, resource_target("services", invocation.text("name")) + "/level");
}

int autoscale_service(Session& session, const Invocation& invocation) {
  json::object scaling;
  json::object frontend;
  put_text(invocation, "action", scaling, "action");
  auto put = put_numbers(invocation, scaling,
                         {{"replicas-max", "replicas_max"},
                          {"requests-max", "requests_max"},
                          {"cpu-percent-max", "cpu_percent_max"},
                          {"response-ms-max", "response_ms_max"},
                          {"queue-max", "queue_max"},
                          {"errors-percent-max", "errors_percent_max"},
                          {"sustained-ms", "sustained_ms"},
                          {"calm-ms", "calm_ms"},
                          {"cooldown-ms", "cooldown_ms"}});
  if (put.ok()) {
    put = put_numbers(invocation, frontend, {{"copy-connections-max", "copy_connections_max"}});
  }
  if (!put.ok()) return fail(session, put.error());
  json::object spec{{"scaling", scaling}};
  if (!frontend.empty()) spec["frontend"] = frontend;
  return change_spec(session, invocation, std::move(spec));
}

}  // namespace virga::cli
