#include "sim/consumers.h"
#include "sim/scenario.h"

#include <fmt/format.h>

#include "base/reflect.h"
#include "model/keys.h"
#include "model/tenant.h"

namespace virga::sim {
namespace {

constexpr Duration kVmsComeAfter = seconds(2);  // VMs come after the hosts

bool is_stable(std::string_view fact) {
  return !fact.ends_with("_ms") && !fact.ends_with("_bytes") && fact != "operation";
}

std::string truth_of(const Cloud& cloud, const Vm& vm, const World& world) {
  std::string places;
  for (const HostTruth& host : world.hosts()) {
    const auto found = host.copies.find(vm.id());
    if (found == host.copies.end()) continue;
    places += fmt::format(" {} on {}", enum_name(found->second.state), host.id.value);
    const Instant answers = found->second.answers_at;
    if (answers != Instant{} && answers <= cloud.now()) places += " answers";
  }
  return fmt::format("truth vm {}{}\n", vm.id().value, places.empty() ? " nowhere" : places);
}

/// Whose configurations stand beside their disks, and who can read them.
std::string truth_of_shared(const World& world) {
  std::string readers;
  for (const HostTruth& host : world.hosts()) {
    if (world.storage_reachable(host)) readers += " " + host.id.value;
  }
  std::string lines;
  for (const auto& [vm, stored] : world.stored()) {
    lines += fmt::format("truth shared {} epoch {} read by{}\n", vm.value, to_string(stored.epoch),
                         readers);
  }
  return lines;
}

/// A rule that the scenario says is broken must be.
std::vector<Violation> unannounced(const Scenario& scenario, const std::vector<Violation>& seen,
                                   Duration end) {
  std::vector<Violation> left;
  std::set<std::string> kept = scenario.breaks;
  for (const Violation& violation : seen) {
    if (!scenario.breaks.contains(violation.rule)) left.push_back(violation);
    kept.erase(violation.rule);
  }
  for (const std::string& rule : kept) left.push_back({end, rule, "announced, and not broken"});
  return left;
}

std::string truth_of(const Cloud& cloud, const HostTruth& host) {
  std::string networks;
  for (const virga::Network& network : cloud.networks(host).state.networks)
    networks += " " + network.id().value;
  return fmt::format("truth host {} {} boot {}{}{}\n", host.id.value,
                     !host.powered ? "off"
                     : host.frozen ? "stands still"
                                   : "on",
                     host.boots, networks.empty() ? "" : " networks", networks);
}

}  // namespace

std::string normalised(const Event& event, WallTime start) {
  const std::int64_t ms = event.at.unix_ms - start.unix_ms;
  std::string line =
      fmt::format("{:>6}.{}s {:<20} {}", ms / 1000, ms / 100 % 10, event.kind, event.subject);
  std::map<std::string, std::string> facts;
  for (const auto& [name, value] : event.facts) {
    if (!is_stable(std::string_view(name.data(), name.size()))) continue;
    facts[std::string(name)] =
        value.is_string() ? std::string(value.get_string()) : json::serialize(value);
  }
  for (const auto& [name, value] : facts) line += fmt::format(" {}={}", name, value);
  return line + "\n";
}

void found_cloud(Cloud& cloud, int hosts, Capacity capacity, bool bmcs, int cluster_hosts) {
  const ClusterPolicy policy = cloud.options().policy;
  cloud.edit<Image>(ImageId("tiny"), [](Image& image) {
    image.meta.name = "tiny";
    image.spec.path = "images/tiny";
    image.spec.file_bytes = Bytes{1};
    image.spec.sha256 = std::string(64, '0');
  });
  for (int number = 1; number <= hosts; ++number) {
    const std::string name = fmt::format("host-{}", number);
    const std::string cluster = fmt::format("c{}", (number - 1) / cluster_hosts + 1);
    cloud.add_host(HostId(name), capacity);
    if ((number - 1) % cluster_hosts == 0) {
      cloud.edit<Cluster>(ClusterId(cluster), [cluster, policy](Cluster& stored) {
        stored.meta.name = cluster;
        stored.spec = {policy, "/shared"};
      });
    }
    cloud.edit<Machine>(MachineId(name), [name, bmcs](Machine& machine) {
      machine.meta.name = name;
      machine.spec.bmc.protocol = bmcs ? BmcProtocol::redfish : BmcProtocol::none;
      machine.spec.bmc.url = "simulated";
    });
    cloud.edit<virga::Host>(HostId(name), [name, cluster](virga::Host& host) {
      host.meta.name = name;
      host.spec.cluster = ClusterId(cluster);
      host.spec.machine = MachineId(name);
    });
  }
}

void put_network(Cloud& cloud, const ClusterId& cluster) {
  cloud.edit<virga::Network>(NetworkId("t0/" + cluster.value), [cluster](virga::Network& network) {
    network.meta.tenant = "t0";
    network.meta.name = cluster.value;
    const auto vni = static_cast<std::uint32_t>(std::stoul(cluster.value.substr(1)));
    network.spec = {cluster, vni, "10.0.0.0/8", 1450};
  });
}

void put_port(Cloud& cloud, const ScenarioVm& vm, int number) {
  const std::string name = vm.id.value + "-0";
  cloud.edit<Port>(PortId(name), [vm, name, number](Port& port) {
    port.meta.tenant = name.substr(0, name.find('/'));
    port.meta.name = name.substr(name.find('/') + 1);
    port.spec.vm = vm.id;
    port.spec.network = NetworkId("t0/" + vm.cluster.value);
    port.spec.mac = fmt::format("52:54:00:{:02x}:{:02x}:{:02x}", number >> 16 & 255,
                                number >> 8 & 255, number & 255);
    port.spec.address =
        fmt::format("10.{}.{}.{}/8", number >> 16 & 255, number >> 8 & 255, number & 255);
    if (number % 2 == 0) port.spec.security_groups = {SecurityGroupId(port.meta.tenant + "/web")};
  });
}

void put_floating(Cloud& cloud, const ScenarioVm& vm, int number) {
  if (number % 3 != 0 || !vm.id.value.starts_with("t0/")) return;
  cloud.edit<FloatingAddress>(FloatingAddressId(vm.id.value), [vm, number](FloatingAddress& made) {
    made.meta.tenant = "t0";
    made.meta.name = vm.id.value.substr(vm.id.value.find('/') + 1);
    made.spec = {vm.cluster, fmt::format("203.0.{}.{}", number >> 8 & 255, number & 255),
                 made.meta.name, "", vm.cluster.value};
  });
}

void put_device(Cloud& cloud, const HostId& host) {
  cloud.edit<Device>(DeviceId(host.value), [host](Device& device) {
    device.meta.name = host.value;
    device.spec.host = host;
    device.spec.directory = "/device";
    device.spec.capacity_mib = Mib{100'000};
  });
}

void put_region(Cloud& cloud, const HostId& host, const std::string& region) {
  cloud.world().find_host(host)->region = region;
  cloud.edit<virga::Host>(host, [region](virga::Host& stored) { stored.spec.region = region; });
}

void put_tenant(Cloud& cloud, const std::string& tenant, const std::vector<std::string>& regions) {
  cloud.edit<Tenant>(TenantId(tenant), [tenant, regions](Tenant& stored) {
    stored.meta.name = tenant;
    stored.spec.regions = regions;
  });
}

void put_volume(Cloud& cloud, const ScenarioVm& vm) {
  const std::string tenant = vm.id.value.substr(0, vm.id.value.find('/'));
  cloud.edit<Volume>(VolumeId(qualified(tenant, vm.volume)), [vm, tenant](Volume& volume) {
    volume.meta.tenant = tenant;
    volume.meta.name = vm.volume;
    volume.spec.cluster = vm.cluster;
    volume.spec.size_mib = Mib{64};
    volume.spec.mirrored = vm.mirrored;
    volume.spec.local = vm.local;
  });
}

void put_vm(Cloud& cloud, const ScenarioVm& vm) {
  if (!vm.volume.empty()) put_volume(cloud, vm);
  cloud.edit<Vm>(vm.id, [vm](Vm& stored) {
    const std::size_t slash = vm.id.value.find('/');
    stored.meta.tenant = vm.id.value.substr(0, slash);
    stored.meta.name = vm.id.value.substr(slash + 1);
    stored.spec.cluster = vm.cluster;
    stored.spec.image = ImageId("tiny");
    stored.spec.cpu_millicores = vm.cpu;
    stored.spec.memory_mib = vm.memory;
    stored.spec.restart_priority = vm.priority;
    stored.spec.pinned_host = vm.pinned;
    stored.spec.anti_affinity_group = vm.group;
    if (!vm.volume.empty()) stored.spec.disks = {{"data", Mib(), vm.volume}};
  });
}

void put_service(Cloud& cloud, const ScenarioService& service) {
  const std::string tenant = service.id.value.substr(0, service.id.value.find('/'));
  const std::string name = service.id.value.substr(tenant.size() + 1);
  const NetworkId network(tenant + "/front");
  cloud.edit<virga::Network>(network, [tenant](virga::Network& made) {
    made.meta.tenant = tenant;
    made.meta.name = "front";
    made.spec = {ClusterId("c1"), 77, "10.50.0.0/24", 1450};
  });
  const std::string address = "10.50.0.10";
  const auto put_port = [&](const std::string& of, const std::string& at, const std::string& mac) {
    cloud.edit<Port>(PortId(service.id.value + of), [=](Port& port) {
      port.meta.tenant = tenant;
      port.meta.name = name + of;
      port.spec.service = service.id;
      port.spec.network = network;
      port.spec.mac = mac;
      port.spec.address = at + "/24";
    });
  };
  put_port("-frontend", address, "52:54:00:00:32:0a");
  if (service.objective.availability_ppm > 0)
    put_port("-monitor", "10.50.0.9", "52:54:00:00:32:09");
  cloud.edit<Service>(service.id, [=](Service& made) {
    made.meta.tenant = tenant;
    made.meta.name = name;
    made.spec.cluster = ClusterId("c1");
    made.spec.vm.image = ImageId("tiny");
    made.spec.vm.network = "front";
    made.spec.replicas = service.replicas;
    made.spec.frontend.address = address;
    made.spec.frontend.protocol = BalancerProtocol::http;
    made.spec.check.protocol = BalancerProtocol::http;
    made.spec.policy.relocation = service.relocation;
    made.spec.scaling = service.scaling;
    made.spec.objective = service.objective;
  });
}

Rehearsal play(const Scenario& scenario) {
  Rehearsal rehearsal;
  SimLoop loop;
  const WallTime start = loop.wall_now();
  Cloud cloud(loop, scenario.cloud);
  cloud.world().observe([&](WorldChange change, const HostTruth& host, const Copy* copy) {
    if (change == WorldChange::ended) rehearsal.ended.push_back({copy->vm, host.id, copy->trouble});
  });
  const int together = scenario.cluster_hosts > 0 ? scenario.cluster_hosts : scenario.hosts;
  found_cloud(cloud, scenario.hosts, scenario.capacity, scenario.bmcs, together);
  for (HostTruth& host : cloud.world().hosts()) host.watchdog = scenario.watchdogs;
  for (const auto& [host, region] : scenario.regions) put_region(cloud, host, region);
  for (const auto& [tenant, regions] : scenario.tenants) put_tenant(cloud, tenant, regions);
  for (const HostId& host : scenario.devices) {
    loop.after(kVmsComeAfter, [&cloud, &host] { put_device(cloud, host); });
  }
  for (const ScenarioVm& vm : scenario.vms) {
    loop.after(kVmsComeAfter, [&cloud, &vm] { put_vm(cloud, vm); });
  }
  for (const ScenarioService& service : scenario.services) {
    loop.after(kVmsComeAfter, [&cloud, &service] { put_service(cloud, service); });
  }
  Consumers consumers(cloud);
  if (!scenario.services.empty()) consumers.start();
  for (const ScenarioEvent& event : scenario.events) {
    loop.after(event.at, [&cloud, &event] { event.act(cloud); });
  }
  cloud.start();
  loop.run_for(scenario.length);

  for (const Event& event : cloud.events()) rehearsal.journal += normalised(event, start);
  for (const Vm& vm : cloud.read_all<Vm>(keys::kVm)) {
    rehearsal.journal += truth_of(cloud, vm, cloud.world());
  }
  if (scenario.shows_shared) rehearsal.journal += truth_of_shared(cloud.world());
  for (const auto& [id, tally] : consumers.tallies()) {
    rehearsal.journal += fmt::format("truth service {} answered {} failed {}\n", id.value,
                                     tally.answered, tally.failed);
  }
  for (const HostTruth& host : cloud.world().hosts()) {
    rehearsal.journal += truth_of(cloud, host);
  }
  rehearsal.violations = unannounced(scenario, cloud.checker().violations(), loop.elapsed());
  rehearsal.hash = cloud.state_hash();
  return rehearsal;
}

}  // namespace virga::sim
