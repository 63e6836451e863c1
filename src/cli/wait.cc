#include "cli/wait.h"

#include <fmt/format.h>

#include "cli/output.h"

namespace virga::cli {

namespace json = boost::json;

namespace {

constexpr Duration kPollInterval = milliseconds(200);

bool reached(const json::value& vm, Goal goal, const std::string& host) {
  const std::string power = text_at(vm, "status.power");
  const bool idle = text_at(vm, "status.operation") == "-";
  const bool commands = text_at(vm, "spec.restart") == "true";
  switch (goal) {
    case Goal::running: return power == "running" && idle && !commands;
    case Goal::stopped: return power == "stopped" && idle;
    case Goal::moved:
      return idle && power == "running" && text_at(vm, "spec.move_to") == "-" &&
             (host.empty() || text_at(vm, "status.host") == host);
    case Goal::settled: return idle && power == text_at(vm, "spec.power");
    case Goal::gone: return false;
  }
  return false;
}

/// The error of an operation that has ended badly.
std::optional<Error> failure_of(Session& session, const std::string& operation) {
  const auto answer = request(session, "GET", resource_target("operations", operation));
  if (!answer.ok()) return std::nullopt;
  const std::string state = text_at(answer->body, "state");
  if (state != "failed" && state != "cancelled") return std::nullopt;
  return make_error(
      state == "cancelled" ? Errc::cancelled : Errc::conflict,
      fmt::format("operation {} {}: {}", operation, state, text_at(answer->body, "error")));
}

}  // namespace

Result<json::value> wait_for_vm(Session& session, const std::string& name, Goal goal,
                                const std::string& host) {
  const std::string target = resource_target("vms", name);
  const Instant deadline = session.transport.now() + session.deadline;
  std::string operation = "-";
  json::value last;
  while (true) {
    const auto answer = request(session, "GET", target);
    if (!answer.ok()) {
      if (goal == Goal::gone && answer.error().code == Errc::not_found) return last;
      return answer.error();
    }
    last = answer->body;
    if (reached(last, goal, host)) return last;
    const std::string running = text_at(last, "status.operation");
    if (running == "-" && operation != "-" && goal == Goal::moved) {
      if (const auto failed = failure_of(session, operation)) return *failed;
    }
    operation = running;
    if (session.transport.now() >= deadline) {
      const std::string reason = text_at(last, "status.unplaced_reason");
      return make_error(
          Errc::timeout,
          fmt::format("vm {} is {} on {} after {} ms{}; `virga vm get {}` shows how it goes on",
                      name, text_at(last, "status.power"), text_at(last, "status.host"),
                      to_ms(session.deadline), reason == "-" ? "" : ": " + reason, name));
    }
    session.transport.pause(kPollInterval);
  }
}

}  // namespace virga::cli
