#include "cli/wait.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

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
    case Goal::running:
      return power == "running" && idle && !commands;
    case Goal::stopped:
      return power == "stopped" && idle;
    case Goal::moved:
      return idle && power == "running" && text_at(vm, "spec.move_to") == "-" &&
             (host.empty() || text_at(vm, "status.host") == host);
    case Goal::settled:
      return idle && power == text_at(vm, "spec.power");
    case Goal::gone:
      return false;
  }
  return false;
}

/// True when the order to move was carried out or given up, and the VM is not where it should be.
bool move_was_given_up(const json::value& vm, const std::string& host) {
  return !host.empty() && text_at(vm, "status.operation") == "-" &&
         text_at(vm, "spec.move_to") == "-" && text_at(vm, "status.host") != host;
}

/// Why the last move of the VM failed, in the words of the journal.
Error move_failure(Session& session, const std::string& name) {
  const auto answer = request(session, "GET",
                              "/v1/events?newest=true&limit=1&kind=vm.move_failed&subject=" +
                                  percent_encoded("vm/" + name));
  std::string why = "`virga vm get " + name + "` shows its state";
  const auto* items = answer.ok() && answer->body.is_object()
                          ? answer->body.get_object().if_contains("items")
                          : nullptr;
  if (items != nullptr && items->is_array() && !items->get_array().empty()) {
    why = text_at(items->get_array().front(), "text");
  }
  return make_error(Errc::conflict, fmt::format("vm {} was not moved: {}", name, why));
}

}  // namespace

Result<json::value> wait_for_vm(Session& session, const std::string& name, Goal goal,
                                const std::string& host) {
  const std::string target = resource_target("vms", name);
  const Instant deadline = session.transport.now() + session.deadline;
  json::value last;
  while (true) {
    const auto answer = request(session, "GET", target);
    if (!answer.ok()) {
      if (goal == Goal::gone && answer.error().code == Errc::not_found) return last;
      return answer.error();
    }
    last = answer->body;
    if (reached(last, goal, host)) return last;
    if (goal == Goal::moved && move_was_given_up(last, host)) return move_failure(session, name);
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

Result<json::value> wait_for_volume(Session& session, const std::string& name, bool gone) {
  const Instant deadline = session.transport.now() + session.deadline;
  json::value last;
  while (true) {
    const auto answer = request(session, "GET", resource_target("volumes", name));
    if (!answer.ok() && gone && answer.error().code == Errc::not_found) return last;
    if (!answer.ok()) return answer.error();
    last = answer->body;
    const std::string wanted = text_at(last, "spec.device");
    const bool alone =
        text_at(last, "status.legs.1.state") == "-" || text_at(last, "spec.mirrored") == "true";
    const bool there = alone && (wanted == "-" || wanted == text_at(last, "status.legs.0.device"));
    const bool ready = there && text_at(last, "status.legs.0.state") == "in_sync" &&
                       text_at(last, "status.size_mib") == text_at(last, "spec.size_mib");
    if (ready && !gone) return last;
    if (session.transport.now() >= deadline) {
      const std::string reason = text_at(last, "status.reason");
      return make_error(
          Errc::timeout,
          fmt::format("volume {} is {} on {} with {} MiB after {} ms{}", name,
                      text_at(last, "status.legs.0.state"), text_at(last, "status.legs.0.device"),
                      text_at(last, "status.size_mib"), to_ms(session.deadline),
                      reason == "-" ? "" : ": " + reason));
    }
    session.transport.pause(kPollInterval);
  }
}

namespace {

bool service_is_settled(const json::value& service) {
  const json::array& copies = service.at_pointer("/status/copies").as_array();
  const bool serving = std::all_of(copies.begin(), copies.end(), [](const json::value& copy) {
    return text_at(copy, "state") == "serving";
  });
  boost::system::error_code absent;  // a server of before has none
  const json::value* extra = service.find_pointer("/status/extra", absent);
  const auto wanted = service.at_pointer("/spec/replicas").to_number<std::size_t>() +
                      (extra == nullptr ? 0 : extra->to_number<std::size_t>());
  return serving && copies.size() == wanted &&
         text_at(service, "status.available") == "true" &&
         text_at(service, "status.relocation.mode") == "-" &&
         text_at(service, "spec.relocate.copy") == "-";
}

}  // namespace

Result<json::value> wait_for_service(Session& session, const std::string& name, bool gone) {
  const Instant deadline = session.transport.now() + session.deadline;
  json::value last;
  while (true) {
    const auto answer = request(session, "GET", resource_target("services", name));
    if (!answer.ok() && gone && answer.error().code == Errc::not_found) return last;
    if (!answer.ok()) return answer.error();
    last = answer->body;
    if (!gone && service_is_settled(last)) return last;
    if (session.transport.now() >= deadline) {
      const std::string reason = text_at(last, "status.reason");
      return make_error(Errc::timeout,
                        fmt::format("service {} is not as it should be after {} ms{}; `virga "
                                    "service get {}` shows how it goes on",
                                    name, to_ms(session.deadline),
                                    reason == "-" ? "" : ": " + reason, name));
    }
    session.transport.pause(kPollInterval);
  }
}

namespace {

/// The local volumes of these VMs that are not, or not yet alone, on a device of the host that runs
/// their VM. With `leaves` only those that are on a device of that host.
Result<std::vector<std::string>> volumes_that_follow(Session& session, const json::array& vms,
                                                     const std::string& leaves) {
  std::map<std::string, std::string> host_of_volume;
  for (const json::value& vm : vms) {
    if (text_at(vm, "status.power") == "stopped") continue;
    for (const json::value& disk : vm.at_pointer("/spec/disks").as_array()) {
      const std::string volume = text_at(vm, "meta.tenant") + "/" + text_at(disk, "volume");
      host_of_volume[volume] = text_at(vm, "status.host");
    }
  }
  const auto devices = request(session, "GET", "/v1/devices?fields=meta.name,spec.host");
  if (!devices.ok()) return devices.error();
  std::map<std::string, std::string> host_of_device;
  for (const json::value& device : devices->body.at("items").as_array())
    host_of_device[text_at(device, "meta.name")] = text_at(device, "spec.host");
  std::vector<std::string> left;
  if (host_of_device.empty()) return left;
  const auto volumes = request(
      session, "GET",
      "/v1/volumes?fields=meta.tenant,meta.name,spec.local,status.legs,status.reason");
  if (!volumes.ok()) return volumes.error();
  for (const json::value& volume : volumes->body.at("items").as_array()) {
    const std::string name = text_at(volume, "meta.tenant") + "/" + text_at(volume, "meta.name");
    const auto used = host_of_volume.find(name);
    if (text_at(volume, "spec.local") != "true" || used == host_of_volume.end()) continue;
    bool elsewhere = false, leaving = leaves.empty();
    for (const json::value& leg : volume.at_pointer("/status/legs").as_array()) {
      const std::string host = host_of_device[text_at(leg, "device")];
      elsewhere = elsewhere || host != used->second;
      leaving = leaving || host == leaves;
    }
    const std::string reason = text_at(volume, "status.reason");
    if (elsewhere && leaving)
      left.push_back("volume " + name + (reason == "-" ? "" : " (" + reason + ")"));
  }
  return left;
}

}  // namespace

Result<void> wait_for_local_volumes(Session& session, const std::string& vm, Instant deadline) {
  while (true) {
    const auto now = request(session, "GET", resource_target("vms", vm));
    if (!now.ok()) return now.error();
    const auto left = volumes_that_follow(session, {now->body}, "");
    if (!left.ok()) return left.error();
    if (left->empty()) return {};
    if (session.transport.now() >= deadline) {
      return make_error(Errc::timeout,
                        fmt::format("after {} ms there are not where their VM is: {}",
                                    to_ms(session.deadline), fmt::join(*left, ", ")));
    }
    session.transport.pause(kPollInterval);
  }
}

Result<void> wait_for_empty_host(Session& session, const std::string& host) {
  const Instant deadline = session.transport.now() + session.deadline;
  std::size_t told = 0;
  while (true) {
    const auto answer = request(session, "GET",
                                "/v1/vms?fields=meta.tenant,meta.name,spec.disks,status.host,"
                                "status.power,status.migration.destination,status.unplaced_reason");
    if (!answer.ok()) return answer.error();
    std::vector<std::string> left;
    for (const json::value& vm : answer->body.at("items").as_array()) {
      const bool comes = text_at(vm, "status.migration.destination") == host;
      const bool runs =
          text_at(vm, "status.host") == host && text_at(vm, "status.power") != "stopped";
      if (!comes && !runs) continue;
      const std::string reason = text_at(vm, "status.unplaced_reason");
      left.push_back(text_at(vm, "meta.tenant") + "/" + text_at(vm, "meta.name") +
                     (reason == "-" ? "" : " (" + reason + ")"));
    }
    const std::size_t running = left.size();
    if (left.empty()) {
      auto following = volumes_that_follow(session, answer->body.at("items").as_array(), host);
      if (!following.ok()) return following.error();
      left = std::move(*following);
    }
    if (left.empty()) return {};
    if (left.size() != told) {
      session.err(fmt::format("{}: {} {} left\n", host, left.size(),
                              running > 0 ? "VMs" : "volumes of VMs that are elsewhere"));
    }
    told = left.size();
    if (session.transport.now() >= deadline) {
      return make_error(Errc::timeout,
                        fmt::format("after {} ms there are on {} still: {}",
                                    to_ms(session.deadline), host, fmt::join(left, ", ")));
    }
    session.transport.pause(kPollInterval);
  }
}

Result<json::value> wait_for_cancelled(Session& session, const std::string& name) {
  const Instant deadline = session.transport.now() + session.deadline;
  while (true) {
    const auto answer = request(session, "GET", resource_target("operations", name));
    if (!answer.ok()) return answer.error();
    const std::string state = text_at(answer->body, "state");
    const std::string left = text_at(answer->body, "facts.undo_error");
    if (state == "cancelled" && left == "-") return answer->body;
    if (state == "cancelled") {
      return make_error(
          Errc::conflict,
          fmt::format("operation {} is cancelled, but not all was undone: {}", name, left));
    }
    if (state != "running" && state != "undoing") {
      const std::string error = text_at(answer->body, "error");
      return make_error(Errc::conflict, fmt::format("operation {} was not undone: it {}{}", name,
                                                    state, error == "-" ? "" : ": " + error));
    }
    if (session.transport.now() >= deadline) {
      return make_error(Errc::timeout, fmt::format("operation {} is {} after {} ms", name, state,
                                                   to_ms(session.deadline)));
    }
    session.transport.pause(kPollInterval);
  }
}

}  // namespace virga::cli
