#include "arch/service_relocation/controller.h"

#include <fmt/format.h>

#include <algorithm>

#include "arch/service_relocation/step.h"
#include "base/log.h"
#include "mechanism/network/addresses.h"
#include "model/ipv4.h"
#include "model/keys.h"

namespace virga {
namespace {

bool settled(const Service& service) {
  const ServiceStatus& status = service.status;
  return !status.relocation && status.balancer_next.empty() && !service.meta.deleting_at &&
         status.available && std::ranges::all_of(status.copies, [](const ServiceCopy& copy) {
           return copy.state == ServiceCopyState::serving && copy.home.empty();
         });
}

bool listens(const Service& service) { return service.spec.scaling.action != ScalingAction::none; }

const ObservedBalancerServer* server_of(const ServiceBalancer& seen, const VmId& vm) {
  const auto found =
      std::ranges::find(seen.seen.servers, server_name(vm), &ObservedBalancerServer::name);
  return found == seen.seen.servers.end() ? nullptr : &*found;
}

const ServiceBalancer* balancer_in(const ServiceEvidence& evidence, const Service& service) {
  const auto host = evidence.hosts.find(service.status.balancer);
  if (host == evidence.hosts.end() || !host->second.reports) return nullptr;
  const auto found = host->second.balancers.find(service.id());
  return found == host->second.balancers.end() ? nullptr : &found->second;
}

bool is_up(const ServiceBalancer* seen, const VmId& vm) {
  if (seen == nullptr || !seen->running) return false;
  const ObservedBalancerServer* server = server_of(*seen, vm);
  return server != nullptr && server->health == BalancerHealth::up;
}

}  // namespace

ServiceController::ServiceController(Loop& loop, Store& store, StoreMirror& mirror,
                                     HostCommands& commands, NameSource& names)
    : loop_(loop),
      mirror_(mirror),
      commands_(commands),
      names_(names),
      queue_(loop, store, mirror, "services") {}

void ServiceController::start(Observe observe, Options options) {
  observe_ = std::move(observe);
  options_ = options;
  queue_.start([this](const std::string& key) { run(ClusterId(key)); });
  mirror_.listen([this](const std::vector<Change>& changes) { notice(changes); });
  for (const auto& [id, cluster] : mirror_.view().clusters.all()) mark(id);
}

void ServiceController::notice(const std::vector<Change>& changes) {
  const ClusterView& view = mirror_.view();
  for (const Change& change : changes) {
    const std::string& key = change.entry.key;
    if (key.starts_with(keys::kService)) {
      const ServiceId id(key.substr(keys::kService.size()));
      const Service* service = view.services.find(id);
      if (change.removed) services_.erase(id);
      if (service != nullptr) mark(service->spec.cluster);
    } else if (key.starts_with(keys::kVm)) {
      const VmId id(key.substr(keys::kVm.size()));
      const Vm* vm = view.vms.find(id);
      if (vm != nullptr && !vm->spec.service.empty()) mark(vm->spec.cluster);
      if (change.removed && copies_.erase(id) > 0) {
        for (const auto& [cluster, stored] : view.clusters.all()) mark(cluster);
      }
    } else if (key.starts_with(keys::kHost) && view.services.size() > 0) {
      const Host* host = view.hosts.find(HostId(key.substr(keys::kHost.size())));
      if (host != nullptr) mark(host->spec.cluster);
    }
  }
}

void ServiceController::tick() {
  const bool look = loop_.now() >= look_at_demand_;
  if (look) look_at_demand_ = loop_.now() + options_.demand_every;
  for (const auto& [id, service] : mirror_.view().services.all()) {
    const bool watched = listens(*service) || service->spec.objective.availability_ppm > 0;
    if (!settled(*service) || (look && watched)) mark(service->spec.cluster);
  }
}

void ServiceController::measure_copies(const Service& service, const ServiceBalancer* seen,
                                       ServiceEvidence& evidence) {
  const Instant now = loop_.now();
  for (const ServiceCopy& copy : service.status.copies) {
    const auto [found, is_new] = copies_.try_emplace(copy.vm, CopyWatch{copy.state, now, {}, {}});
    CopyWatch& watch = found->second;
    if (watch.state != copy.state) {
      watch.state = copy.state;
      watch.since = now;
    }
    if (watch.balancer != service.status.balancer) {
      watch.balancer = service.status.balancer;
      watch.up_since.reset();
    }
    if (!is_up(seen, copy.vm)) {
      watch.up_since.reset();
    } else if (!watch.up_since) {
      watch.up_since = now;
    }
    evidence.in_state[copy.vm] = now - watch.since;
    if (watch.up_since) evidence.up_for[copy.vm] = now - *watch.up_since;
  }
}

/// What is being changed, and what nobody sees, says nothing of demand.
void ServiceController::listen(const Service& service, const ServiceBalancer* seen,
                               ServiceEvidence& evidence) {
  ScalingListener& listener = services_[service.id()].listener;
  const Instant now = loop_.now();
  // Who has not answered for so long is not waited for: it may be demand that it cannot be met.
  const auto changes = [&](const ServiceCopy& copy) {
    return copy.state != ServiceCopyState::serving &&
           (copy.state != ServiceCopyState::starting ||
            evidence.in_state[copy.vm] < service.spec.policy.answer_ms);
  };
  const ServiceStatus& status = service.status;
  const bool changing = status.relocation || !status.balancer_next.empty() ||
                        std::ranges::any_of(status.copies, changes);
  if (!listens(service) || changing || seen == nullptr || !seen->running)
    return listener.rest(now, status.relocation.has_value());
  const ObservedBalancer& balancer = seen->seen;
  if (balancer.frontends.empty()) return listener.rest(now);
  DemandSample sample;
  sample.counters = balancer.counters;
  sample.requests = balancer.frontends.front().total;
  for (const ObservedBalancerPool& pool : balancer.pools) sample.queue += pool.queue;
  for (const ServiceCopy& copy : status.copies) {
    if (copy.state != ServiceCopyState::serving) continue;
    const ObservedBalancerServer* server = server_of(*seen, copy.vm);
    if (server == nullptr) return listener.rest(now);
    CopyDemand& one = sample.copies.emplace_back();
    one.vm = copy.vm;
    one.healthy = server->health == BalancerHealth::up;
    one.requests = server->total;
    one.errors = server->errors;
    one.response_ms = server->response_time_ms;
    const auto cpu = evidence.cpu_percent.find(copy.vm);
    if (cpu != evidence.cpu_percent.end()) one.cpu_percent = cpu->second;
  }
  evidence.demand[service.id()] = listener.look(service.spec.scaling, std::move(sample), now);
}

void ServiceController::measure(const Service& service, ServiceEvidence& evidence) {
  const Instant now = loop_.now();
  const ServiceBalancer* seen = balancer_in(evidence, service);
  measure_copies(service, seen, evidence);
  listen(service, seen, evidence);
  ServiceWatch& watch = services_[service.id()];
  if (service.status.relocation) {
    if (watch.relocation != service.status.relocation->started_at) {
      watch.relocation = service.status.relocation->started_at;
      watch.relocating_since = now;
    }
    evidence.relocating[service.id()] = now - watch.relocating_since;
  } else {
    watch.relocation.reset();
  }
  if (seen == nullptr || seen->seen.frontends.empty()) {
    watch.counters.clear();
    return;
  }
  const std::int64_t total = seen->seen.frontends.front().total;
  if (watch.counters != seen->seen.counters || watch.total != total) {
    watch.counters = seen->seen.counters;
    watch.total = total;
    watch.quiet_since = now;
  }
  evidence.quiet[service.id()] = now - watch.quiet_since;
}

ServiceEvidence ServiceController::gather(const ClusterId& cluster) {
  ServiceEvidence evidence = observe_(cluster);
  evidence.now = loop_.wall_now();
  for (const auto& [place, tries] : tries_) {
    if (tries.under_way || tries.not_before > loop_.now()) evidence.resting.insert(place);
    if (!tries.failure.empty()) evidence.failures[place] = tries.failure;
  }
  for (const Service* service : mirror_.view().services_of(cluster)) measure(*service, evidence);
  return evidence;
}

void ServiceController::run(const ClusterId& cluster) {
  const ServiceEvidence evidence = gather(cluster);
  const ServicePlan plan = plan_services(mirror_.view(), cluster, evidence, options_.planner);
  for (const ServiceStep& step : plan.steps) {
    queue_.commit(cluster.value, [&](Transaction& into) { return take_step(into, step); });
  }
  for (const BalancerWork& one : plan.work) work(cluster, one);
}

bool ServiceController::take_step(Transaction& transaction, const ServiceStep& step) {
  const Service* stored = mirror_.view().services.find(step.service);
  if (stored == nullptr) return false;
  if (step.remove) {
    remove(transaction, *stored);
  } else {
    Service changed = *stored;
    changed.status = step.status;
    if (step.order_decided) changed.spec.relocate.reset();
    if (step.weight_decided) changed.spec.weigh.reset();
    if (step.create && !add_vm(transaction, changed, *step.create)) return false;
    change_vms(transaction, step);
    transaction.put(changed);
  }
  for (Event told : step.events) {
    told.at = loop_.wall_now();
    told.subject = keys::of(step.service);
    told.tenant = stored->meta.tenant;
    told.correlation = stored->meta.correlation;
    transaction.event(names_.outbox_key(mirror_.view().revision), told);
  }
  return true;
}

/// The VM with its port, as the API would make it.
bool ServiceController::add_vm(Transaction& transaction, const Service& service,
                               const NewCopy& copy) {
  const ClusterView& view = mirror_.view();
  const NetworkId network_id(qualified(service.meta.tenant, service.spec.vm.network));
  const Network* network = view.networks.find(network_id);
  const Image* image = view.images.find(service.spec.vm.image);
  if (network == nullptr || image == nullptr) return false;
  const auto address = free_address(view, *network, [](std::uint32_t) { return false; });
  if (!address) {
    log_line(LogLevel::warning, "services", address.error().text());
    return false;
  }
  Vm vm = vm_of(service, copy);
  vm.meta.created_at = loop_.wall_now();
  std::vector<SecurityGroupId> groups;
  for (const std::string& name : service.spec.vm.security_groups)
    groups.emplace_back(qualified(service.meta.tenant, name));
  Port port = make_port(*network, *address, groups);
  port.meta.name = vm.meta.name + "-0";
  port.meta.tenant = vm.meta.tenant;
  port.meta.created_at = vm.meta.created_at;
  port.meta.correlation = vm.meta.correlation;
  port.spec.vm = vm.id();
  transaction.put(vm);
  transaction.put(port);
  transaction.write(keys::address(network_id, port.spec.address), 0, port.id().value);
  transaction.guard(keys::of(network_id), network->meta.revision);
  transaction.guard(keys::of(image->id()), image->meta.revision);
  return true;
}

void ServiceController::change_vms(Transaction& transaction, const ServiceStep& step) {
  const ClusterView& view = mirror_.view();
  const Service* service = view.services.find(step.service);
  std::map<VmId, Vm> changed;
  const auto vm = [&](const VmId& id) -> Vm* {
    const Vm* stored = view.vms.find(id);
    if (stored == nullptr) return nullptr;
    return &changed.try_emplace(id, *stored).first->second;
  };
  for (const VmId& id : step.unpins) {
    if (Vm* one = vm(id)) one->spec.pinned_host = service->spec.vm.pinned_host;
  }
  for (const auto& [id, host] : step.moves) {
    if (Vm* one = vm(id)) one->spec.move_to = host;
  }
  for (const VmId& id : step.deletes) {
    Vm* one = vm(id);
    if (one != nullptr && !one->meta.deleting_at) one->meta.deleting_at = loop_.wall_now();
  }
  for (auto& [id, one] : changed) {
    ++one.meta.generation;
    one.meta.correlation = service->meta.correlation;
    transaction.put(one);
  }
}

void ServiceController::remove(Transaction& transaction, const Service& service) {
  transaction.erase(service);
  for (const PortId& id : {service.port_id(), service.monitor_port_id()}) {
    const Port* port = mirror_.view().ports.find(id);
    if (port == nullptr || port->spec.service != service.id()) continue;
    transaction.erase(*port);
    transaction.erase_with(keys::address(port->spec.network, port->spec.address));
  }
}

void ServiceController::work(const ClusterId& cluster, const BalancerWork& work) {
  const ClusterView& view = mirror_.view();
  Command command;
  command.kind = work.spec ? CommandKind::apply_balancer : CommandKind::remove_balancer;
  BalancerCommand& asked = command.balancer.emplace();
  asked.service = work.service;
  if (work.spec) {
    const Service* service = view.services.find(work.service);
    const Port* port = service == nullptr ? nullptr : view.ports.find(service->port_id());
    const Network* network = port == nullptr ? nullptr : view.networks.find(port->spec.network);
    if (network == nullptr) return;
    command.correlation = service->meta.correlation;
    asked.leg = {network->spec.vni, port->spec.mac, port->spec.address, network->spec.mtu,
                 way_out_of(network->spec)};
    asked.spec = *work.spec;
  }
  const Place place{work.service, work.host};
  tries_[place].under_way = true;
  log_line(
      LogLevel::info, "services",
      fmt::format("{} of {} on {}", enum_name(command.kind), work.service.value, work.host.value));
  commands_.call(
      work.host, std::move(command), options_.command_deadline,
      [this, cluster, place, alive = std::weak_ptr(alive_)](const Result<CommandResult>& done) {
        if (alive.expired()) return;
        ended(cluster, place, done.ok() ? Result<void>() : Result<void>(done.error()));
      });
}

void ServiceController::ended(const ClusterId& cluster, const Place& place,
                              const Result<void>& result) {
  Tries& tries = tries_[place];
  tries.under_way = false;
  if (result.ok()) {
    tries_.erase(place);
    return mark(cluster);
  }
  log_line(LogLevel::warning, "services",
           fmt::format("balancer of {} on {}: {}", place.first.value, place.second.value,
                       result.error().text()));
  const Duration pause =
      std::min(options_.retry_first * (1 << std::min(tries.failures, 5)), options_.retry_max);
  ++tries.failures;
  tries.failure = result.error().text();
  tries.not_before = loop_.now() + pause;
  mark(cluster);
  loop_.at(tries.not_before, [this, cluster, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) mark(cluster);
  });
}

}  // namespace virga
