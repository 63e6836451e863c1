#include <fmt/format.h>

#include <filesystem>

#include "base/reflect.h"
#include "cli/client.h"
#include "cli/handlers.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/wait.h"
#include "edge/file.h"
#include "image/image_build.h"

namespace virga::cli {
namespace {

constexpr const char* kAgentStatusDefault = "/var/lib/virga/agent/run/status.json";

std::string list_target(const Invocation& invocation, const std::string& plural) {
  std::string target = "/v1/" + plural;
  std::string separator = "?";
  for (const char* name : {"tenant", "labels"}) {
    if (!invocation.has(name)) continue;
    target += separator + name + "=" + percent_encoded(invocation.text(name));
    separator = "&";
  }
  return target;
}

/// Rows of changed resources as they come, below a table that was printed.
int follow_list(Session& session, const Invocation& invocation, const std::string& plural,
                std::uint64_t revision) {
  std::string target = fmt::format("/v1/watch?kinds={}&revision={}", plural, revision);
  if (invocation.has("tenant")) target += "&tenant=" + percent_encoded(invocation.text("tenant"));
  const auto ended = follow(session, target, [&](const std::string& kind, const json::value& data) {
    if (kind == "changed" && data.is_object()) {
      const json::value& resource = data.get_object().at("resource");
      if (is_structured(session)) {
        print_value(session, resource, true);
      } else {
        session.out(
            table_text(columns_of(plural), {resource}, session.format == Format::wide, false));
      }
    }
    if (kind == "removed" && is_structured(session)) {
      print_value(session, json::object{{"removed", text_at(data, "key")}}, true);
    } else if (kind == "removed") {
      session.out(text_at(data, "key") + " is gone\n");
    }
    return kind != "compacted";
  });
  return ended.ok() ? 0 : fail(session, ended.error());
}

/// "TENANT/NAME" as meta. Errors: invalid.
Result<json::object> meta_of(const std::string& name, bool owned) {
  const std::size_t slash = name.find('/');
  if (!owned) return json::object{{"name", name}};
  if (slash == std::string::npos) {
    return make_error(Errc::invalid,
                      "\"" + name + "\" names no tenant; right would be TENANT/" + name);
  }
  return json::object{{"tenant", name.substr(0, slash)}, {"name", name.substr(slash + 1)}};
}

/// What of a VM can be chosen when it is made and changed later. Errors: invalid.
Result<void> put_vm_size(const Invocation& invocation, json::object& spec) {
  put_text(invocation, "priority", spec, "restart_priority");
  for (const auto& [option, field] :
       {std::pair{"cpus", "cpus"}, std::pair{"memory-mib", "memory_mib"},
        std::pair{"millicores", "cpu_millicores"}, std::pair{"weight", "cpu_weight"},
        std::pair{"processes-max", "processes_max"}}) {
    if (auto put = put_number(invocation, option, spec, field); !put.ok()) return put;
  }
  return {};
}

/// DIRECTION[,PROTOCOL[,PORTS[,REMOTE]]] of each --allow. Whether the words are right the server
/// says. Errors: invalid.
Result<json::array> read_rules(const Invocation& invocation) {
  json::array rules;
  for (const std::string& text : invocation.all("allow")) {
    std::vector<std::string> words(1);
    for (const char c : text) {
      if (c == ',') {
        words.emplace_back();
      } else {
        words.back() += c;
      }
    }
    const auto wrong = [&text] {
      return make_error(Errc::invalid, "--allow: \"" + text +
                                           "\" is no rule; right would be "
                                           "ingress,tcp,80-443,10.50.0.0/24");
    };
    if (words.size() > 4) return wrong();
    words.resize(4);
    json::object rule{{"direction", words[0]}};
    if (!words[1].empty()) rule["protocol"] = words[1];
    if (!words[2].empty()) {
      const std::size_t dash = words[2].find('-');
      const auto first = parse_json(words[2].substr(0, dash));
      const auto last = dash == std::string::npos ? first : parse_json(words[2].substr(dash + 1));
      if (!first.ok() || !last.ok() || !first->is_int64() || !last->is_int64()) return wrong();
      rule["port_min"] = *first;
      rule["port_max"] = *last;
    }
    const bool range = words[3].find('.') != std::string::npos;
    if (!words[3].empty()) rule[range ? "remote" : "remote_group"] = words[3];
    rules.push_back(std::move(rule));
  }
  return rules;
}

}  // namespace

Result<void> put_number(const Invocation& invocation, const std::string& option, json::object& spec,
                        const std::string& field) {
  if (!invocation.has(option)) return {};
  const auto parsed = parse_json(invocation.text(option));
  if (!parsed.ok() || !(parsed->is_int64() || parsed->is_uint64())) {
    return make_error(Errc::invalid, fmt::format("--{}: \"{}\" is not a whole number", option,
                                                 invocation.text(option)));
  }
  spec[field] = *parsed;
  return {};
}

void put_text(const Invocation& invocation, const std::string& option, json::object& spec,
              const std::string& field) {
  if (invocation.has(option)) spec[field] = invocation.text(option);
}

Result<json::object> read_pairs(const Invocation& invocation, const std::string& option) {
  json::object pairs;
  for (const std::string& pair : invocation.all(option)) {
    const std::size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0) {
      return make_error(Errc::invalid, fmt::format("--{}: \"{}\" is not NAME=VALUE", option, pair));
    }
    pairs[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  return pairs;
}

int create(Session& session, const Invocation& invocation, const std::string& plural,
           json::object spec) {
  const bool owned = plural == "vms" || plural == "networks" || plural == "volumes" ||
                     plural == "security_groups" || plural == "services" ||
                     plural == "floating_addresses";
  auto meta = meta_of(invocation.text("name"), owned);
  if (!meta.ok()) return fail(session, meta.error());
  if (!owned && invocation.has("tenant")) (*meta)["tenant"] = invocation.text("tenant");
  auto labels = read_pairs(invocation, "label");
  if (!labels.ok()) return fail(session, labels.error());
  if (!labels->empty()) (*meta)["labels"] = *labels;
  const json::value body = json::object{{"meta", *meta}, {"spec", std::move(spec)}};
  const auto made = request(session, "POST", "/v1/" + plural, body);
  if (!made.ok()) return fail(session, made.error());
  if (session.wait && plural == "vms" && !session.dry_run) {
    const auto settled = wait_for_vm(session, invocation.text("name"), Goal::settled);
    return settled.ok() ? show_one(session, plural, *settled) : fail(session, settled.error());
  }
  if (session.wait && plural == "volumes" && !session.dry_run) {
    const auto ready = wait_for_volume(session, invocation.text("name"), false);
    return ready.ok() ? show_one(session, plural, *ready) : fail(session, ready.error());
  }
  if (session.wait && plural == "services" && !session.dry_run) {
    const auto ready = wait_for_service(session, invocation.text("name"), false);
    return ready.ok() ? show_one(session, plural, *ready) : fail(session, ready.error());
  }
  warn_unplaced(session, made->body);
  return show_one(session, plural, made->body);
}

void warn_unplaced(Session& session, const json::value& vm) {
  const std::string reason = text_at(vm, "status.unplaced_reason");
  if (session.dry_run && reason != "-") session.err("it would not start: " + reason + "\n");
}

int show_one(Session& session, const std::string& plural, const json::value& resource) {
  print_resources(session, plural, {resource}, true);
  return 0;
}

int list_resources(Session& session, const Invocation& invocation, const std::string& plural) {
  const auto listing = list_all(session, list_target(invocation, plural));
  if (!listing.ok()) return fail(session, listing.error());
  print_resources(session, plural, listing->items, false);
  return session.watch ? follow_list(session, invocation, plural, listing->revision) : 0;
}

int get_resource(Session& session, const Invocation& invocation, const std::string& plural) {
  const auto answer = request(session, "GET", resource_target(plural, invocation.text("name")));
  return answer.ok() ? show_one(session, plural, answer->body) : fail(session, answer.error());
}

int delete_resource(Session& session, const Invocation& invocation, const std::string& plural) {
  const std::string name = invocation.text("name");
  const auto answer = request(session, "DELETE", resource_target(plural, name));
  if (!answer.ok()) return fail(session, answer.error());
  if (session.wait && plural == "vms" && !session.dry_run) {
    const auto gone = wait_for_vm(session, name, Goal::gone);
    if (!gone.ok()) return fail(session, gone.error());
  }
  if (session.wait && plural == "volumes" && !session.dry_run) {
    const auto gone = wait_for_volume(session, name, true);
    if (!gone.ok()) return fail(session, gone.error());
  }
  if (session.wait && plural == "services" && !session.dry_run) {
    const auto gone = wait_for_service(session, name, true);
    if (!gone.ok()) return fail(session, gone.error());
  }
  const bool goes_on = answer->status == 202 && !session.wait;
  if (is_structured(session)) {
    print_value(session,
                json::object{{"name", name}, {"outcome", goes_on ? "accepted" : "deleted"}});
  } else {
    session.out(fmt::format("{} {}\n", name, goes_on ? "is being deleted" : "deleted"));
  }
  return 0;
}

int act(Session& session, const Invocation& invocation, const std::string& plural,
        const std::string& action) {
  const auto answer =
      request(session, "POST", resource_target(plural, invocation.text("name")) + "/" + action);
  if (!answer.ok()) return fail(session, answer.error());
  if (session.wait && !session.dry_run && action == "maintenance") {
    const auto empty = wait_for_empty_host(session, invocation.text("name"));
    if (!empty.ok()) return fail(session, empty.error());
  }
  if (session.wait && !session.dry_run && action == "cancel") {
    const auto ended = wait_for_cancelled(session, invocation.text("name"));
    return ended.ok() ? show_one(session, plural, *ended) : fail(session, ended.error());
  }
  return show_one(session, plural, answer->body);
}

int create_cluster(Session& session, const Invocation& invocation) {
  json::object spec;
  json::object policy;
  put_text(invocation, "shared-directory", spec, "shared_directory");
  for (const auto& [option, field] :
       {std::pair{"failures-tolerated", "failures_tolerated"}, std::pair{"lease-ms", "lease_ms"},
        std::pair{"heartbeat-ms", "heartbeat_ms"}, std::pair{"image-mib-max", "image_mib_max"}}) {
    if (auto put = put_number(invocation, option, policy, field); !put.ok())
      return fail(session, put.error());
  }
  if (!policy.empty()) spec["policy"] = policy;
  const auto ranges = invocation.all("floating-range");
  if (!ranges.empty()) spec["floating_ranges"] = json::array(ranges.begin(), ranges.end());
  return create(session, invocation, "clusters", spec);
}

int create_machine(Session& session, const Invocation& invocation) {
  json::object bmc{{"protocol", "redfish"}};
  put_text(invocation, "bmc-url", bmc, "url");
  put_text(invocation, "bmc-user", bmc, "user");
  if (invocation.has("bmc-password-file")) {
    auto password = read_file(invocation.text("bmc-password-file"), 4096);
    if (!password.ok()) return fail(session, password.error());
    while (!password->empty() && password->back() == '\n') password->pop_back();
    bmc["password"] = *password;
  }
  return create(session, invocation, "machines", {{"bmc", bmc}});
}

int create_network(Session& session, const Invocation& invocation) {
  json::object spec;
  put_text(invocation, "cluster", spec, "cluster");
  put_text(invocation, "subnet", spec, "subnet");
  put_text(invocation, "gateway", spec, "gateway");
  for (const char* field : {"vni", "mtu"}) {
    if (auto put = put_number(invocation, field, spec, field); !put.ok())
      return fail(session, put.error());
  }
  return create(session, invocation, "networks", spec);
}

namespace {

Result<void> put_device_size(const Invocation& invocation, json::object& spec) {
  if (auto put = put_number(invocation, "capacity-mib", spec, "capacity_mib"); !put.ok())
    return put;
  return put_number(invocation, "copy-mib-per-second", spec, "copy_mib_per_second_max");
}

}  // namespace

int create_device(Session& session, const Invocation& invocation) {
  json::object spec;
  put_text(invocation, "host", spec, "host");
  put_text(invocation, "directory", spec, "directory");
  put_text(invocation, "class", spec, "storage_class");
  if (auto put = put_device_size(invocation, spec); !put.ok()) return fail(session, put.error());
  return create(session, invocation, "devices", spec);
}

namespace {

json::array regions_of(const Invocation& invocation) {
  const auto regions = invocation.all("region");
  return json::array(regions.begin(), regions.end());
}

}  // namespace

int create_volume(Session& session, const Invocation& invocation) {
  json::object spec;
  for (const char* field : {"cluster", "device", "image"}) put_text(invocation, field, spec, field);
  put_text(invocation, "class", spec, "storage_class");
  put_text(invocation, "from", spec, "source");
  for (const char* kind : {"mirrored", "local"}) {
    if (invocation.has(kind)) spec[kind] = true;
  }
  if (json::array regions = regions_of(invocation); !regions.empty()) spec["regions"] = regions;
  if (auto put = put_number(invocation, "size-mib", spec, "size_mib"); !put.ok())
    return fail(session, put.error());
  return create(session, invocation, "volumes", spec);
}

int snapshot_volume(Session& session, const Invocation& invocation) {
  json::object spec{{"snapshot", true}};
  put_text(invocation, "of", spec, "source");
  return create(session, invocation, "volumes", spec);
}

int grow_volume(Session& session, const Invocation& invocation) {
  json::object spec;
  if (auto put = put_number(invocation, "size-mib", spec, "size_mib"); !put.ok())
    return fail(session, put.error());
  const auto answer = request(session, "PATCH", resource_target("volumes", invocation.text("name")),
                              json::object{{"spec", spec}});
  if (!answer.ok()) return fail(session, answer.error());
  if (!session.wait || session.dry_run) return show_one(session, "volumes", answer->body);
  const auto grown = wait_for_volume(session, invocation.text("name"), false);
  return grown.ok() ? show_one(session, "volumes", *grown) : fail(session, grown.error());
}

int move_volume(Session& session, const Invocation& invocation) {
  json::object spec;
  put_text(invocation, "device", spec, "device");
  const auto answer = request(session, "PATCH", resource_target("volumes", invocation.text("name")),
                              json::object{{"spec", spec}});
  if (!answer.ok()) return fail(session, answer.error());
  if (!session.wait || session.dry_run) return show_one(session, "volumes", answer->body);
  const auto moved = wait_for_volume(session, invocation.text("name"), false);
  return moved.ok() ? show_one(session, "volumes", *moved) : fail(session, moved.error());
}

namespace {

int patch_spec(Session& session, const Invocation& invocation, const std::string& plural,
               json::object spec) {
  const auto answer =
      request(session, "PATCH", resource_target(plural, invocation.text("name")),
              json::object{{"spec", std::move(spec)}});
  return answer.ok() ? show_one(session, plural, answer->body) : fail(session, answer.error());
}

int set_sizes(Session& session, const Invocation& invocation, const std::string& plural,
              Result<void> (*put)(const Invocation&, json::object&)) {
  json::object spec;
  if (auto read = put(invocation, spec); !read.ok()) return fail(session, read.error());
  if (spec.empty()) {
    return fail(session, make_error(Errc::invalid, "nothing is to be changed; see --help"));
  }
  return patch_spec(session, invocation, plural, std::move(spec));
}

}  // namespace

int set_device(Session& session, const Invocation& invocation) {
  return set_sizes(session, invocation, "devices", put_device_size);
}

int give_up_device(Session& session, const Invocation& invocation) {
  return patch_spec(session, invocation, "devices", {{"lost", true}});
}

int create_tenant(Session& session, const Invocation& invocation) {
  return create(session, invocation, "tenants", {{"regions", regions_of(invocation)}});
}

int set_tenant_regions(Session& session, const Invocation& invocation) {
  return patch_spec(session, invocation, "tenants", {{"regions", regions_of(invocation)}});
}

int set_volume_regions(Session& session, const Invocation& invocation) {
  return patch_spec(session, invocation, "volumes", {{"regions", regions_of(invocation)}});
}

int set_host_region(Session& session, const Invocation& invocation) {
  return patch_spec(session, invocation, "hosts", {{"region", invocation.text("region")}});
}

int create_security_group(Session& session, const Invocation& invocation) {
  auto rules = read_rules(invocation);
  if (!rules.ok()) return fail(session, rules.error());
  return create(session, invocation, "security_groups", {{"rules", *rules}});
}

int set_security_group(Session& session, const Invocation& invocation) {
  auto rules = read_rules(invocation);
  if (!rules.ok()) return fail(session, rules.error());
  return patch_spec(session, invocation, "security_groups", {{"rules", *rules}});
}

int set_floating_ranges(Session& session, const Invocation& invocation) {
  const auto ranges = invocation.all("range");
  return patch_spec(session, invocation, "clusters",
                    {{"floating_ranges", json::array(ranges.begin(), ranges.end())}});
}

int create_floating_address(Session& session, const Invocation& invocation) {
  json::object spec;
  for (const char* field : {"vm", "service", "network", "address", "cluster"})
    put_text(invocation, field, spec, field);
  return create(session, invocation, "floating_addresses", std::move(spec));
}

int lead_floating_address(Session& session, const Invocation& invocation) {
  if (invocation.has("vm") == invocation.has("service")) {
    return fail(session, make_error(Errc::invalid, "--vm: who does it lead to? one of --vm and "
                                                   "--service"));
  }
  json::object spec{{"vm", invocation.text("vm")}, {"service", invocation.text("service")}};
  put_text(invocation, "network", spec, "network");
  return patch_spec(session, invocation, "floating_addresses", std::move(spec));
}

int release_floating_address(Session& session, const Invocation& invocation) {
  return patch_spec(session, invocation, "floating_addresses",
                    {{"vm", ""}, {"service", ""}, {"network", ""}});
}

int create_image(Session& session, const Invocation& invocation) {
  std::filesystem::path folder(invocation.text("folder"));
  if (!folder.has_filename()) folder = folder.parent_path();
  const auto manifest = read_image_manifest(folder.string());
  if (!manifest.ok()) return fail(session, manifest.error());
  const std::string path = invocation.text("path", "images/" + folder.filename().string());
  return create(session, invocation, "images", to_json(image_spec(*manifest, path)).as_object());
}

int create_vm(Session& session, const Invocation& invocation) {
  json::object spec;
  for (const char* field : {"cluster", "image"}) put_text(invocation, field, spec, field);
  put_text(invocation, "apart", spec, "anti_affinity_group");
  put_text(invocation, "pin", spec, "pinned_host");
  if (auto put = put_vm_size(invocation, spec); !put.ok()) return fail(session, put.error());
  json::array nics;
  for (const std::string& network : invocation.all("network")) {
    json::object nic{{"network", network}};
    const auto groups = invocation.all("security-group");
    if (!groups.empty()) nic["security_groups"] = json::array(groups.begin(), groups.end());
    nics.push_back(std::move(nic));
  }
  if (!nics.empty()) spec["nics"] = nics;
  json::array disks;
  if (invocation.has("root-volume"))
    disks.push_back(json::object{{"name", "root"}, {"volume", invocation.text("root-volume")}});
  for (const std::string& volume : invocation.all("volume"))
    disks.push_back(json::object{{"name", volume}, {"volume", volume}});
  if (!disks.empty()) spec["disks"] = disks;
  const auto devices = invocation.all("host-device");
  if (!devices.empty()) spec["host_devices"] = json::array(devices.begin(), devices.end());
  auto parameters = read_pairs(invocation, "parameter");
  if (!parameters.ok()) return fail(session, parameters.error());
  if (!parameters->empty()) spec["parameters"] = *parameters;
  if (invocation.has("user-data")) {
    auto text = read_file(invocation.text("user-data"), 32 << 10);
    if (!text.ok()) return fail(session, wrap_error("--user-data", text.error()));
    spec["user_data"] = *text;
  }
  if (invocation.has("stopped")) spec["power"] = "stopped";
  return create(session, invocation, "vms", spec);
}

int set_vm(Session& session, const Invocation& invocation) {
  return set_sizes(session, invocation, "vms", put_vm_size);
}

int set_host_window(Session& session, const Invocation& invocation) {
  json::array windows;
  if (invocation.has("from")) {
    json::object window;
    put_text(invocation, "from", window, "from");
    if (auto put = put_number(invocation, "for-ms", window, "for_ms"); !put.ok())
      return fail(session, put.error());
    const auto days = invocation.all("day");
    if (!days.empty()) window["days"] = json::array(days.begin(), days.end());
    windows.push_back(std::move(window));
  } else if (invocation.has("day") || invocation.has("for-ms")) {
    return fail(session, make_error(Errc::invalid, "--from: when does it open? 02:30"));
  }
  const json::object spec{{"windows", std::move(windows)}};
  const auto answer = request(session, "PATCH", resource_target("hosts", invocation.text("name")),
                              json::object{{"spec", spec}});
  return answer.ok() ? show_one(session, "hosts", answer->body) : fail(session, answer.error());
}

int set_vm_groups(Session& session, const Invocation& invocation) {
  const std::string target = resource_target("vms", invocation.text("name"));
  const auto vm = request(session, "GET", target);
  if (!vm.ok()) return fail(session, vm.error());
  const auto groups = invocation.all("security-group");
  json::array nics = vm->body.at_pointer("/spec/nics").as_array();
  for (json::value& nic : nics)
    nic.as_object()["security_groups"] = json::array(groups.begin(), groups.end());
  const auto answer =
      request(session, "PATCH", target, json::object{{"spec", json::object{{"nics", nics}}}});
  return answer.ok() ? show_one(session, "vms", answer->body) : fail(session, answer.error());
}

int act_on_vm(Session& session, const Invocation& invocation, const std::string& action) {
  const std::string name = invocation.text("name");
  std::optional<json::value> body;
  const std::string host = invocation.text("host");
  if (!host.empty()) body = json::object{{"host", host}};
  const auto answer = request(session, "POST", resource_target("vms", name) + "/" + action, body);
  if (!answer.ok()) return fail(session, answer.error());
  if (!session.wait || session.dry_run) return show_one(session, "vms", answer->body);
  const Goal goal = action == "stop"      ? Goal::stopped
                    : action == "migrate" ? Goal::moved
                                          : Goal::running;
  const std::string to = action == "migrate" ? text_at(answer->body, "spec.move_to") : "";
  const Instant deadline = session.transport.now() + session.deadline;
  const auto settled = wait_for_vm(session, name, goal, to == "-" ? "" : to);
  if (settled.ok() && goal == Goal::moved) {
    if (auto followed = wait_for_local_volumes(session, name, deadline); !followed.ok())
      return fail(session, followed.error());
  }
  return settled.ok() ? show_one(session, "vms", *settled) : fail(session, settled.error());
}

int show_console(Session& session, const Invocation& invocation) {
  const auto answer =
      request(session, "GET", resource_target("vms", invocation.text("name")) + "/console");
  if (!answer.ok()) return fail(session, answer.error());
  std::string text =
      answer->body.is_string() ? std::string(answer->body.get_string()) : std::string();
  for (char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f) c = ' ';
  }
  session.out(text);
  return 0;
}

/// What the agent of this machine wrote, when the server does not answer.
Result<json::value> peers_without_server(Session& session, const std::string& file,
                                         const Error& why) {
  const bool away = why.code == Errc::unavailable || why.code == Errc::timeout;
  if (!away) return why;
  const std::string path = file.empty() ? kAgentStatusDefault : file;
  const auto text = read_file(path);
  if (!text.ok() && file.empty()) {
    return wrap_error(fmt::format("no agent has written {} either; run this on a host, or name its "
                                  "file with --agent-status",
                                  path),
                      why);
  }
  if (!text.ok()) return text.error();
  auto parsed = parse_json(*text);
  if (!parsed.ok()) return wrap_error("read " + path, parsed.error());
  session.err("the server does not answer; showing what the agent wrote to " + path + "\n");
  return parsed;
}

int show_peers(Session& session, const Invocation& invocation) {
  json::value live;
  const auto answer =
      request(session, "GET", resource_target("hosts", invocation.text("name")) + "/live");
  if (answer.ok()) {
    live = answer->body;
  } else {
    auto seen = peers_without_server(session, invocation.text("agent-status"), answer.error());
    if (!seen.ok()) return fail(session, seen.error());
    live = std::move(*seen);
  }
  std::vector<json::value> peers;
  const auto* list = live.is_object() ? live.get_object().if_contains("peers") : nullptr;
  if (list != nullptr && list->is_array())
    peers.assign(list->get_array().begin(), list->get_array().end());
  print_resources(session, "peers", peers, false);
  return 0;
}

int list_events(Session& session, const Invocation& invocation) {
  std::string target = "/v1/events?";
  for (const char* name : {"kind", "subject", "tenant", "after", "limit"}) {
    if (invocation.has(name))
      target += fmt::format("{}={}&", name, percent_encoded(invocation.text(name)));
  }
  if (session.watch) {
    const auto ended = follow(
        session, target + "follow=true", [&](const std::string& kind, const json::value& event) {
          if (kind != "event") return true;
          if (is_structured(session)) return print_value(session, event, true), true;
          session.out(
              table_text(columns_of("events"), {event}, session.format == Format::wide, false));
          return true;
        });
    return ended.ok() ? 0 : fail(session, ended.error());
  }
  if (invocation.has("newest")) target += "newest=true";
  const auto answer = request(session, "GET", target);
  if (!answer.ok()) return fail(session, answer.error());
  std::vector<json::value> items;
  const auto* list =
      answer->body.is_object() ? answer->body.get_object().if_contains("items") : nullptr;
  if (list != nullptr && list->is_array())
    items.assign(list->get_array().begin(), list->get_array().end());
  print_resources(session, "events", items, false);
  return 0;
}

int make_join_token(Session& session, const Invocation& invocation) {
  const auto answer =
      request(session, "POST", resource_target("clusters", invocation.text("name")) + "/join-token",
              json::value(json::object{}));
  if (!answer.ok()) return fail(session, answer.error());
  if (is_structured(session)) {
    print_value(session, answer->body);
  } else {
    session.out(text_at(answer->body, "token") + "\n");
    session.err("valid once, for an hour: virgad agent --token-file FILE on the host\n");
  }
  return 0;
}

int show_document(Session& session, const std::string& target) {
  const auto answer = request(session, "GET", target);
  if (!answer.ok()) return fail(session, answer.error());
  print_value(session, answer->body);
  return 0;
}

int show_whatif(Session& session, const Invocation& invocation) {
  return show_document(session, resource_target("clusters", invocation.text("name")) + "/whatif");
}

}  // namespace virga::cli
