#include <fmt/format.h>

#include "mechanism/perimeter/regions.h"
#include "mechanism/storage/vm_volumes.h"
#include "server/api/rules.h"
#include "server/api/validate.h"

namespace virga::api {
namespace {

/// An action's change to one resource, or why not; fills in what the event says.
template <typename T>
using Mutate = std::function<Refusal(const ClusterView& view, T& after, Event& event)>;

Problem problem(Errc code, std::string text, std::vector<Reason> reasons = {}) {
  return Problem{make_error(code, std::move(text)), std::move(reasons), 0};
}

/// Applies `mutate` to the resource that the path names; answers 202 when controllers work on it,
/// 200 else.
template <typename T>
void change_one(const EnginePtr& engine, const CallPtr& call, Mutate<T> mutate,
                int status = worked_on<T> ? 202 : 200) {
  const std::string id =
      Kind<T>::kTenantOwned ? qualified(call->segments[1], call->segments[2]) : call->segments[1];
  engine->submit(call, [engine, call, id, mutate, status](const ClusterView& view) -> Decision {
    const T* before = Kind<T>::table(view).find(typename Table<T>::IdType(id));
    if (before == nullptr) return Problem{no_such<T>(id), {}, 0};
    if (auto refused = check_precondition(*call, &before->meta)) return *refused;
    if (before->meta.deleting_at) {
      return problem(Errc::conflict,
                     fmt::format("{} \"{}\" is being deleted", Kind<T>::kSingular, id));
    }
    if constexpr (std::is_same_v<T, Vm>) {
      if (auto refused = refuse_copy(*before)) return *refused;
    }
    T after = *before;
    Event event = event_of("", key_of<T>(before->meta), before->meta.tenant, "");
    if (auto refused = mutate(view, after, event)) return *refused;
    if (to_json(after) == to_json(*before)) return unchanged(*before, status);
    Change change = change_of(*engine, *call, before, std::move(after), status);
    change.event = std::move(event);
    return change;
  });
}

/// The members of the VM's cluster, each with the reason for which one would (not) choose it.
std::vector<Reason> candidates_for(const ClusterView& view, const Vm& vm) {
  std::vector<Reason> candidates;
  for (const Host* host : view.hosts_of(vm.spec.cluster)) {
    std::string reason = "possible";
    if (host->id() == vm.status.host) reason = "the VM is there";
    if (host->spec.maintenance) reason = "is in maintenance";
    if (host->status.health != HostHealth::alive) {
      reason = "is " + std::string(enum_name(host->status.health));
    }
    if (candidates.size() < 20) candidates.push_back({"host " + host->meta.name, reason});
  }
  return candidates;
}

Refusal check_move(const ClusterView& view, const Vm& vm, const HostId& to) {
  const auto refuse = [&](Errc code, std::string text) {
    return problem(code, std::move(text), candidates_for(view, vm));
  };
  const Host* host = view.hosts.find(to);
  if (host == nullptr || host->spec.cluster != vm.spec.cluster) {
    return refuse(Errc::not_found, fmt::format("host: \"{}\" is no host of cluster \"{}\"",
                                               to.value.substr(0, 80), vm.spec.cluster.value));
  }
  if (to == vm.status.host) {
    return refuse(Errc::conflict,
                  fmt::format("host: vm {} is on \"{}\" already", vm.id().value, to.value));
  }
  if (auto why = region_refusal(view, vm, *host); !why.empty())
    return refuse(Errc::denied, "host: \"" + to.value + "\" " + why);
  if (host->spec.maintenance)
    return refuse(Errc::conflict, "host: \"" + to.value + "\" is in maintenance");
  if (host->status.health != HostHealth::alive) {
    return refuse(Errc::unavailable,
                  fmt::format("host: \"{}\" is {}", to.value, enum_name(host->status.health)));
  }
  const bool has_local = !hosts_beside_volumes(view, vm, false).empty();
  if (has_local && !hosts_beside_volumes(view, vm, true).contains(to)) {
    return refuse(Errc::exhausted,
                  fmt::format("host: \"{}\" has no storage devices with room for the local volumes "
                              "of vm {}",
                              to.value, vm.id().value));
  }
  return std::nullopt;
}

void migrate_vm(const EnginePtr& engine, const CallPtr& call, const json::object& body) {
  HostId wanted;
  if (const auto* host = body.if_contains("host")) {
    if (!host->is_string()) {
      return engine->refuse(call,
                            reflect::wrong_type(reflect::Path().field("host"), "a string", *host));
    }
    wanted = HostId(std::string(host->get_string()));
  }
  change_one<Vm>(
      engine, call, [engine, wanted](const ClusterView& view, Vm& vm, Event& event) -> Refusal {
        if (holds_host_device(vm.spec)) {
          const std::string field = vm.spec.direct_io ? "spec.direct_io" : "spec.host_devices";
          return problem(Errc::unsupported,
                         field + ": the VM holds a device of its host and cannot move alive");
        }
        if (!vm.spec.pinned_host.empty()) {
          return problem(Errc::conflict, "spec.pinned_host: the VM may run on \"" +
                                             vm.spec.pinned_host.value + "\" only");
        }
        if (vm.status.power != VmPower::running) {
          return problem(Errc::conflict, fmt::format("vm {} is {}; only a running VM moves alive",
                                                     vm.id().value, enum_name(vm.status.power)));
        }
        HostId to = wanted;
        if (to.empty()) {
          if (!engine->context().choose_host) {
            return problem(Errc::invalid, "host: name the host to move to",
                           candidates_for(view, vm));
          }
          const auto chosen = engine->context().choose_host(vm.id());
          if (!chosen.ok()) return Problem{chosen.error(), candidates_for(view, vm), 0};
          to = *chosen;
        }
        if (auto refused = check_move(view, vm, to)) return refused;
        vm.spec.move_to = to;
        event.kind = "vm.migrate_requested";
        event.text = fmt::format("vm {} shall move alive from {} to {}", vm.id().value,
                                 vm.status.host.value, to.value);
        event.facts["host"] = to.value;
        return std::nullopt;
      });
}

void set_power(const EnginePtr& engine, const CallPtr& call, DesiredPower power) {
  change_one<Vm>(engine, call, [power](const ClusterView&, Vm& vm, Event& event) -> Refusal {
    const bool run = power == DesiredPower::running;
    vm.spec.power = power;
    // What was lost and is not started again by itself waits for this word.
    const bool lost = vm.status.recovering || !vm.status.host.empty();
    if (run && vm.status.power == VmPower::stopped && lost) vm.spec.restart = true;
    if (!run) vm.spec.restart = false;
    event.kind = run ? "vm.start_requested" : "vm.stop_requested";
    event.text = fmt::format("vm {} shall {}", vm.id().value, run ? "run" : "stop");
    return std::nullopt;
  });
}

void confirm_off(const EnginePtr& engine, const CallPtr& call) {
  change_one<Host>(engine, call, [](const ClusterView&, Host& host, Event& event) -> Refusal {
    const HostHealth health = host.status.health;
    if (health == HostHealth::alive || health == HostHealth::degraded) {
      return problem(Errc::conflict,
                     fmt::format("host {} is {}: it reports by itself, there is nothing to confirm",
                                 host.meta.name, enum_name(health)));
    }
    if (host.status.boot_id.empty()) {
      return problem(Errc::conflict,
                     "host " + host.meta.name + " never reported, there is nothing to confirm");
    }
    host.spec.confirmed_off_boot_id = host.status.boot_id;
    event.kind = "host.confirmed_off";
    event.severity = Severity::warning;
    event.text = "a person vouches that host " + host.meta.name + " runs nothing any more";
    event.facts["boot_id"] = host.status.boot_id;
    return std::nullopt;
  });
}

/// Answers what a part of the server says, or why it cannot.
template <typename T>
void answer_result(const EnginePtr& engine, const CallPtr& call, const Result<T>& result) {
  if (!result.ok()) return engine->refuse(call, result.error());
  engine->answer(call, json_response(200, json::value(*result)));
}

Error not_wired(std::string_view what) {
  return make_error(Errc::unsupported, fmt::format("this server offers no {}", what));
}

}  // namespace

void act_on_vm(const EnginePtr& engine, const CallPtr& call) {
  const std::string& action = call->segments[3];
  const auto body = read_body(*call);
  if (!body.ok()) return engine->refuse(call, body.error());
  for (const auto& [name, value] : *body) {
    if (action == "migrate" && name == "host") continue;
    return engine->refuse(
        call, make_error(Errc::invalid, std::string(name) + ": no such field for " + action));
  }
  if (action == "migrate") return migrate_vm(engine, call, *body);
  if (action == "start") return set_power(engine, call, DesiredPower::running);
  if (action == "stop") return set_power(engine, call, DesiredPower::stopped);
  change_one<Vm>(engine, call, [](const ClusterView&, Vm& vm, Event& event) -> Refusal {
    vm.spec.power = DesiredPower::running;
    vm.spec.restart = vm.status.power != VmPower::stopped;
    event.kind = "vm.restart_requested";
    event.text = "vm " + vm.id().value + " shall restart";
    return std::nullopt;
  });
}

void relocate_service(const EnginePtr& engine, const CallPtr& call) {
  const auto body = read_body(*call);
  if (!body.ok()) return engine->refuse(call, body.error());
  change_one<Service>(
      engine, call, [body = *body](const ClusterView& view, Service& service, Event& event) {
        json::object whole = body;
        if (!whole.contains("mode")) whole["mode"] = enum_name(service.spec.policy.relocation);
        auto order = from_json<RelocationOrder>(json::value(std::move(whole)));
        if (!order.ok()) return Refusal(Problem{order.error(), {}, 0});
        if (auto refused = check_relocation(view, service, *order)) return refused;
        event.kind = "service.relocation_requested";
        event.text = fmt::format("vm {}/{} of service {} shall be relocated", service.meta.tenant,
                                 order->copy, service.id().value);
        event.facts["host"] = order->host.value;
        service.spec.relocate = std::move(*order);
        return Refusal();
      });
}

void weigh_copy(const EnginePtr& engine, const CallPtr& call) {
  const auto body = read_body(*call);
  if (!body.ok()) return engine->refuse(call, body.error());
  const auto order = from_json<WeightOrder>(json::value(*body));
  if (!order.ok()) return engine->refuse(call, order.error());
  change_one<Service>(engine, call,
                      [order = *order](const ClusterView&, Service& service, Event& event) {
                        if (auto refused = check_weight(service, order)) return refused;
                        event.kind = "service.weight_requested";
                        event.text = fmt::format("copy {} of service {} shall have weight {}",
                                                 order.copy, service.id().value, order.weight);
                        service.spec.weigh = order;
                        return Refusal();
                      });
}

void act_on_host(const EnginePtr& engine, const CallPtr& call) {
  const std::string& action = call->segments[2];
  if (action == "confirm-off") return confirm_off(engine, call);
  const bool maintenance = action == "maintenance";
  // To empty a host is long work: one operation for each VM that moves.
  const int status = maintenance ? 202 : 200;
  change_one<Host>(
      engine, call,
      [maintenance](const ClusterView&, Host& host, Event& event) -> Refusal {
        host.spec.maintenance = maintenance;
        host.status.window_maintenance = false;  // an operator's word outlives a window
        event.kind = maintenance ? "host.maintenance_requested" : "host.activated";
        event.text =
            fmt::format("host {} {}", host.meta.name,
                        maintenance ? "shall be evacuated for maintenance" : "may take VMs again");
        return std::nullopt;
      },
      status);
}

void act_on_cluster(const EnginePtr& engine, const CallPtr& call) {
  const bool armed = call->segments[2] == "arm";
  const ApiContext& context = engine->context();
  const bool known = context.view().clusters.find(ClusterId(call->segments[1])) != nullptr;
  // Not part of the change: a restored state waits for this word, whatever its policy says.
  if (armed && known && !call->dry_run && context.confirm_recovery) context.confirm_recovery();
  change_one<Cluster>(engine, call,
                      [armed](const ClusterView&, Cluster& cluster, Event& event) -> Refusal {
                        cluster.spec.policy.ha_armed = armed;
                        event.kind = armed ? "cluster.armed" : "cluster.disarmed";
                        event.severity = armed ? Severity::info : Severity::warning;
                        event.text = fmt::format("high availability of cluster {} was {}",
                                                 cluster.meta.name, armed ? "armed" : "disarmed");
                        return std::nullopt;
                      });
}

void cancel_operation(const EnginePtr& engine, const CallPtr& call) {
  const OperationId id(call->segments[1]);
  engine->submit(call, [engine, call, id](const ClusterView& view) -> Decision {
    const Operation* before = view.operations.find(id);
    if (before == nullptr) return Problem{no_such<Operation>(id.value), {}, 0};
    if (auto refused = check_precondition(*call, &before->meta)) return *refused;
    if (before->ended()) {
      return problem(Errc::conflict,
                     fmt::format("operation {} has ended: {}", id.value, enum_name(before->state)));
    }
    if (before->cancel_requested) return unchanged(*before, 202);
    Operation after = *before;
    after.cancel_requested = true;
    Change change = change_of(*engine, *call, before, std::move(after), 202);
    change.event =
        event_of("operation.cancel_requested", before->subject, before->meta.tenant,
                 fmt::format("operation {} on {} shall be cancelled", id.value, before->subject));
    return change;
  });
}

void show_console(const EnginePtr& engine, const CallPtr& call) {
  if (!engine->context().console) return engine->refuse(call, not_wired("consoles"));
  const VmId id(qualified(call->segments[1], call->segments[2]));
  if (engine->context().view().vms.find(id) == nullptr)
    return engine->refuse(call, no_such<Vm>(id.value));
  engine->context().console(id, [engine, call](Result<std::string> text) {
    if (!text.ok()) return engine->refuse(call, text.error());
    HttpResponse response;
    response.headers["content-type"] = "text/plain; charset=utf-8";
    response.body = std::move(*text);
    engine->answer(call, std::move(response));
  });
}

void show_live_host(const EnginePtr& engine, const CallPtr& call) {
  if (!engine->context().live_host) return engine->refuse(call, not_wired("live facts of hosts"));
  answer_result(engine, call, engine->context().live_host(HostId(call->segments[1])));
}

void show_whatif(const EnginePtr& engine, const CallPtr& call) {
  if (!engine->context().whatif) return engine->refuse(call, not_wired("what-if answers"));
  const ClusterId id(call->segments[1]);
  if (engine->context().view().clusters.find(id) == nullptr) {
    return engine->refuse(call, no_such<Cluster>(id.value));
  }
  answer_result(engine, call, engine->context().whatif(id));
}

void show_level(const EnginePtr& engine, const CallPtr& call) {
  if (!engine->context().level) return engine->refuse(call, not_wired("levels of services"));
  const ServiceId id(qualified(call->segments[1], call->segments[2]));
  if (engine->context().view().services.find(id) == nullptr)
    return engine->refuse(call, no_such<Service>(id.value));
  const auto level = engine->context().level(id);
  if (level) return engine->answer(call, json_response(200, to_json(*level)));
  engine->refuse(call, make_error(Errc::not_found,
                                  "spec.objective.availability_ppm: service " + id.value +
                                      " promises nothing; `virga service objective` changes that"));
}

void write_backup(const EnginePtr& engine, const CallPtr& call) {
  if (!engine->context().backup) return engine->refuse(call, not_wired("backups"));
  const auto body = read_body(*call);
  if (!body.ok()) return engine->refuse(call, body.error());
  std::string name = fmt::format("backup-{}", engine->context().loop.wall_now().unix_ms);
  if (const auto* given = body->if_contains("name")) {
    if (!given->is_string()) {
      return engine->refuse(call,
                            reflect::wrong_type(reflect::Path().field("name"), "a string", *given));
    }
    name = std::string(given->get_string());
  }
  if (auto sound = check_name("name", name); !sound.ok())
    return engine->refuse(call, sound.error());
  engine->context().backup(
      name, [engine, call](Result<json::object> made) { answer_result(engine, call, made); });
}

}  // namespace virga::api
