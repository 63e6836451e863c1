#include "server/api/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "agent/leash_core.h"
#include "agent/protocol.h"
#include "mechanism/calendar/windows.h"
#include "model/ipv4.h"

namespace virga::api {
namespace {

constexpr std::size_t kTextMax = 1024;
constexpr std::size_t kCommandLineMax = 1024;
constexpr std::size_t kWordMax = 63;
constexpr std::size_t kRegionsMax = 16;
constexpr std::size_t kOutsideMax = 64;

Error wrong(std::string_view field, std::string_view value, std::string_view right) {
  return make_error(Errc::invalid,
                    fmt::format("{}: \"{}\" is wrong: {}", field, value.substr(0, 80), right));
}

Result<void> in_range(const std::string& kind, std::string_view field, std::int64_t value) {
  const Range& range = ranges().at(kind + "." + std::string(field));
  if (value >= range.low && value <= range.high) return {};
  return make_error(Errc::invalid, fmt::format("spec.{}: {} is out of range: {} to {} {}", field,
                                               value, range.low, range.high, range.unit));
}

/// The first error of several checks.
Result<void> all(std::initializer_list<Result<void>> checks) {
  for (const auto& check : checks) {
    if (!check.ok()) return check;
  }
  return {};
}

/// Letters, digits and . _ - /: what needs no quoting anywhere.
bool plain(std::string_view text, std::string_view more) {
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           more.find(c) != std::string_view::npos;
  });
}

bool printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

Result<void> check_optional_name(std::string_view field, const std::string& name) {
  return name.empty() ? Result<void>() : check_name(field, name);
}

Result<void> check_labels(const std::map<std::string, std::string>& labels) {
  constexpr std::size_t kLabelsMax = 32;
  if (labels.size() > kLabelsMax) {
    return wrong("meta.labels", std::to_string(labels.size()), "at most 32 labels");
  }
  for (const auto& [name, value] : labels) {
    if (name.empty() || name.size() > kWordMax || !plain(name, "._-/")) {
      return wrong("meta.labels", name, "a label's name is 1 to 63 letters, digits and . _ - /");
    }
    if (value.size() > 4 * kWordMax || !printable(value)) {
      return wrong("meta.labels." + name, value,
                   "a value is at most 252 printable ASCII characters");
    }
  }
  return {};
}

Result<void> check_volume_disk(const std::string& field, const VmDisk& disk) {
  if (disk.size_mib.value != 0) {
    return wrong(field + ".size_mib", std::to_string(disk.size_mib.value),
                 "is the volume's; leave it out");
  }
  return check_name(field + ".volume", disk.volume);
}

Result<void> check_disks(const std::vector<VmDisk>& disks) {
  std::set<std::string> names{"root"};
  for (std::size_t i = 0; i < disks.size(); ++i) {
    const std::string field = fmt::format("spec.disks[{}]", i);
    if (auto named = check_name(field + ".name", disks[i].name); !named.ok()) return named;
    if (disks[i].name != "root" && !names.insert(disks[i].name).second) {
      return wrong(field + ".name", disks[i].name, "another disk of this VM has that name");
    }
    if (!disks[i].volume.empty()) {
      if (auto sound = check_volume_disk(field, disks[i]); !sound.ok()) return sound;
      continue;
    }
    const Range& range = ranges().at("vm.disks.size_mib");
    const std::int64_t low = disks[i].name == "root" ? 0 : range.low;
    if (disks[i].size_mib.value < low || disks[i].size_mib.value > range.high) {
      return make_error(Errc::invalid,
                        fmt::format("{}.size_mib: {} is out of range: {} to {} {}", field,
                                    disks[i].size_mib.value, low, range.high, range.unit));
    }
  }
  return {};
}

Result<void> check_host_devices(const VmSpec& spec) {
  std::set<std::string> names{"root"};
  for (const VmDisk& disk : spec.disks) names.insert(disk.name);
  for (std::size_t i = 0; i < spec.host_devices.size(); ++i) {
    const std::string field = fmt::format("spec.host_devices[{}]", i);
    const std::string& name = spec.host_devices[i];
    if (auto named = check_name(field, name); !named.ok()) return named;
    if (!names.insert(name).second)
      return wrong(field, name, "a disk or another device of this VM has that name");
  }
  return {};
}

Result<void> check_parameters(const std::map<std::string, std::string>& parameters) {
  constexpr std::size_t kParametersMax = 32;
  if (parameters.size() > kParametersMax) {
    return wrong("spec.parameters", std::to_string(parameters.size()), "at most 32 parameters");
  }
  for (const auto& [name, value] : parameters) {
    if (name.empty() || name.size() > kWordMax || !plain(name, "._-")) {
      return wrong("spec.parameters", name, "a name is 1 to 63 letters, digits and . _ -");
    }
    const bool sound = printable(value) && value.find_first_of(" \"'\\") == std::string::npos;
    if (value.size() > 256 || !sound) {
      return wrong("spec.parameters." + name, value,
                   "at most 256 printable ASCII characters without space, quote and backslash");
    }
  }
  return {};
}

Result<void> check_user_data(const std::string& text) {
  constexpr std::size_t kUserDataMax = 32 << 10;
  if (text.size() <= kUserDataMax) return {};
  return make_error(Errc::invalid, fmt::format("spec.user_data: {} bytes are too many: at most {}",
                                               text.size(), kUserDataMax));
}

}  // namespace

constexpr std::int64_t kMibMax = 64LL << 20;  // 64 TiB

/// `vm.processes_max`: QEMU ends when it gets no thread: 64 processors, 64 for its disks and a few
/// of its own.
const std::map<std::string, Range>& ranges() {
  static const std::map<std::string, Range> kTable = {
      {"vm.cpus", {"cpus", 1, 64, "processors"}},
      {"vm.cpu_millicores",
       {"cpu_millicores", 0, 64'000, "thousandths of a core (0 = cpus * 1000)"}},
      {"vm.cpu_weight", {"cpu_weight", 1, 10'000, "shares"}},
      {"vm.processes_max", {"processes_max", 160, 32'768, "threads and processes"}},
      {"vm.memory_mib", {"memory_mib", 32, 4 << 20, "MiB"}},
      {"vm.downtime_ms_max", {"downtime_ms_max", 10, 10'000, "milliseconds"}},
      {"vm.throttle_percent_max", {"throttle_percent_max", 0, 99, "percent (0 = not slowed)"}},
      {"vm.disks", {"disks", 0, 8, "disks"}},
      {"vm.disks.size_mib", {"disks.size_mib", 1, kMibMax, "MiB"}},
      {"vm.nics", {"nics", 0, 8, "NICs"}},
      {"vm.host_devices", {"host_devices", 0, kHostDevicesMax, "devices of its host"}},
      {"device.capacity_mib", {"capacity_mib", 1, 1LL << 34, "MiB"}},
      {"device.copy_mib_per_second_max", {"copy_mib_per_second_max", 8, 1 << 20, "MiB/s"}},
      {"volume.size_mib", {"size_mib", 1, kMibMax, "MiB"}},
      {"service.replicas", {"replicas", 1, 16, "copies"}},
      {"service.vm.port", {"vm.port", 1, 65'535, "(a TCP port)"}},
      {"service.frontend.port", {"frontend.port", 1, 65'535, "(a TCP port)"}},
      {"service.check.interval_ms", {"check.interval_ms", 50, 60'000, "milliseconds"}},
      {"service.check.timeout_ms", {"check.timeout_ms", 10, 60'000, "milliseconds"}},
      {"service.check.fall", {"check.fall", 1, 100, "failures"}},
      {"service.check.rise", {"check.rise", 1, 100, "successes"}},
      {"service.policy.drain_ms", {"policy.drain_ms", 0, 3'600'000, "milliseconds"}},
      {"service.policy.answer_ms", {"policy.answer_ms", 1'000, 3'600'000, "milliseconds"}},
      {"service.frontend.copy_connections_max",
       {"frontend.copy_connections_max", 0, 100'000, "connections (0 = no limit)"}},
      {"service.scaling.replicas_max", {"scaling.replicas_max", 0, 16, "copies"}},
      {"service.scaling.requests_max",
       {"scaling.requests_max", 0, 1'000'000, "requests a second and copy (0 = not watched)"}},
      {"service.scaling.cpu_percent_max", {"scaling.cpu_percent_max", 0, 100, "percent, 0 = none"}},
      {"service.scaling.response_ms_max", {"scaling.response_ms_max", 0, 600'000, "ms, 0 = none"}},
      {"service.scaling.queue_max", {"scaling.queue_max", 0, 100'000, "requests, 0 = none"}},
      {"service.scaling.errors_percent_max", {"scaling.errors_percent_max", 0, 99, "percent"}},
      {"service.scaling.sustained_ms", {"scaling.sustained_ms", 1'000, 3'600'000, "milliseconds"}},
      {"service.objective.availability_ppm", {"objective.availability_ppm", 0, 1'000'000, "ppm"}},
      {"service.objective.response_ms", {"objective.response_ms", 10, 10'000, "milliseconds"}},
      {"service.objective.blackout_ms", {"objective.blackout_ms", 0, 60'000, "milliseconds"}},
      {"service.objective.window_days", {"objective.window_days", 1, 90, "days"}},
      {"service.objective.every_ms", {"objective.every_ms", 100, 60'000, "milliseconds"}},
      {"service.scaling.calm_ms", {"scaling.calm_ms", 1'000, 86'400'000, "milliseconds"}},
      {"service.scaling.cooldown_ms", {"scaling.cooldown_ms", 1'000, 86'400'000, "milliseconds"}},
      {"vm.nics.security_groups", {"nics.security_groups", 0, 5, "groups"}},
      {"security_group.rules", {"rules", 0, 64, "rules"}},
      {"network.vni", {"vni", 0, (1 << 24) - 1, "(0 = the server picks)"}},
      {"network.mtu", {"mtu", 1280, 9000, "bytes"}},
      {"host.windows", {"windows", 0, 16, "windows"}},
      {"host.windows.for_ms", {"windows.for_ms", 60'000, 86'400'000, "milliseconds"}},
      {"image.size_mib", {"size_mib", 0, kMibMax, "MiB"}},
      {"image.file_bytes", {"file_bytes", 1, kMibMax << 20, "bytes"}},
      {"cluster.policy.heartbeat_ms", {"policy.heartbeat_ms", 50, 60'000, "milliseconds"}},
      {"cluster.policy.lease_ms",
       {"policy.lease_ms", to_ms(kLinkUserTimeout) + 1'000, to_ms(kLeaseMax), "milliseconds"}},
      // Longer than what the leash leaves to a watchdog after the end of a lease.
      {"cluster.policy.grace_ms",
       {"policy.grace_ms", to_ms(LeashCore::kOverrun) + 500, 60'000, "milliseconds"}},
      {"cluster.policy.suspect_after_ms",
       {"policy.suspect_after_ms", 100, 300'000, "milliseconds"}},
      {"cluster.policy.confirm_after_ms", {"policy.confirm_after_ms", 0, 300'000, "milliseconds"}},
      {"cluster.policy.failures_tolerated", {"policy.failures_tolerated", 0, 16, "hosts"}},
      {"cluster.policy.moves_per_host", {"policy.moves_per_host", 1, 16, "moves"}},
      {"cluster.policy.starts_per_host", {"policy.starts_per_host", 1, 64, "starts"}},
      {"cluster.policy.cpu_overcommit_percent",
       {"policy.cpu_overcommit_percent", 100, 10'000, "percent"}},
      {"cluster.floating_ranges", {"floating_ranges", 0, 16, "ranges"}},
      {"cluster.policy.image_mib_max", {"policy.image_mib_max", 1, kMibMax, "MiB"}},
  };
  return kTable;
}

Result<void> check_meta(const Meta& meta, bool tenant_owned) {
  if (auto named = check_name("meta.name", meta.name); !named.ok()) return named;
  if (tenant_owned || !meta.tenant.empty()) {
    if (auto named = check_name("meta.tenant", meta.tenant); !named.ok()) return named;
  }
  return check_labels(meta.labels);
}

Result<void> check_path(std::string_view field, std::string_view path, bool absolute) {
  constexpr std::size_t kPathMax = 512;
  if (path.empty() || path.size() > kPathMax || !plain(path, "._-/")) {
    return wrong(field, path, "a path of 1 to 512 letters, digits and . _ - /");
  }
  if ((path.front() == '/') != absolute) {
    return wrong(field, path, absolute ? "must begin with '/'" : "must not begin with '/'");
  }
  std::string_view rest = absolute ? path.substr(1) : path;
  while (true) {
    const std::size_t end = rest.find('/');
    const std::string_view segment = rest.substr(0, end);
    if (segment.empty() || segment == "." || segment == "..") {
      return wrong(field, path, "must hold no empty, \".\" or \"..\" part");
    }
    if (end == std::string_view::npos) return {};
    rest.remove_prefix(end + 1);
  }
}

namespace {

/// Each of at most 65,536 addresses, none in two of them.
Result<void> check_floating_ranges(const std::vector<std::string>& ranges) {
  const auto count = static_cast<std::int64_t>(ranges.size());
  if (auto few = in_range("cluster", "floating_ranges", count); !few.ok()) return few;
  constexpr int kPrefixMin = 16;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const std::string field = fmt::format("spec.floating_ranges[{}]", i);
    const auto range = parse_range(ranges[i]);
    if (!range || range->prefix < kPrefixMin) {
      return wrong(field, ranges[i],
                   "an IPv4 range of /16 to /32 without bits after its prefix; right would be "
                   "203.0.113.16/28");
    }
    for (std::size_t k = 0; k < i; ++k) {
      const Ipv4Subnet other = *parse_range(ranges[k]);
      if (range->base <= other.broadcast() && other.base <= range->broadcast())
        return wrong(field, ranges[i], "shares addresses with " + ranges[k]);
    }
  }
  return {};
}

}  // namespace

Result<void> check_cluster(const ClusterSpec& spec) {
  const ClusterPolicy& policy = spec.policy;
  const auto in = [](std::string_view field, std::int64_t value) {
    return in_range("cluster", field, value);
  };
  auto checked = all({in("policy.heartbeat_ms", to_ms(policy.heartbeat_ms)),
                      in("policy.lease_ms", to_ms(policy.lease_ms)),
                      in("policy.grace_ms", to_ms(policy.grace_ms)),
                      in("policy.suspect_after_ms", to_ms(policy.suspect_after_ms)),
                      in("policy.confirm_after_ms", to_ms(policy.confirm_after_ms)),
                      in("policy.failures_tolerated", policy.failures_tolerated),
                      in("policy.moves_per_host", policy.moves_per_host),
                      in("policy.starts_per_host", policy.starts_per_host),
                      in("policy.cpu_overcommit_percent", policy.cpu_overcommit_percent),
                      in("policy.image_mib_max", policy.image_mib_max.value)});
  if (!checked.ok()) return checked;
  const auto text = [](Duration duration) { return std::to_string(to_ms(duration)); };
  if (policy.lease_ms < policy.heartbeat_ms * 3) {
    return wrong(
        "spec.policy.lease_ms", text(policy.lease_ms),
        fmt::format("must be at least three heartbeats, {} ms", to_ms(policy.heartbeat_ms * 3)));
  }
  if (policy.suspect_after_ms <= policy.heartbeat_ms) {
    return wrong("spec.policy.suspect_after_ms", text(policy.suspect_after_ms),
                 fmt::format("must be longer than a heartbeat, {} ms", to_ms(policy.heartbeat_ms)));
  }
  if (auto ranges = check_floating_ranges(spec.floating_ranges); !ranges.ok()) return ranges;
  return check_path("spec.shared_directory", spec.shared_directory, true);
}

Result<void> check_machine(const MachineSpec& spec) {
  if (spec.bmc.protocol == BmcProtocol::none) return {};
  const std::string& url = spec.bmc.url;
  const bool scheme = url.starts_with("http://") || url.starts_with("https://");
  if (!scheme || url.size() > kTextMax || !printable(url) || url.find(' ') != std::string::npos) {
    return wrong("spec.bmc.url", url,
                 "right would be http://10.77.0.11:8000/redfish/v1/Systems/host-1");
  }
  for (const std::string* text : {&spec.bmc.user, &spec.bmc.password}) {
    if (text->size() > 256 || !printable(*text)) {
      return make_error(Errc::invalid,
                        "spec.bmc.user: user and password have at most 256 printable "
                        "ASCII characters each");
    }
  }
  return {};
}

namespace {

Result<void> check_regions(const std::vector<std::string>& regions) {
  if (regions.size() > kRegionsMax) {
    return wrong("spec.regions", std::to_string(regions.size()) + " of them", "at most 16");
  }
  for (std::size_t index = 0; index < regions.size(); ++index) {
    auto sound = check_name(fmt::format("spec.regions[{}]", index), regions[index]);
    if (!sound.ok()) return sound;
  }
  return {};
}

Result<void> check_windows(const std::vector<MaintenanceWindow>& windows) {
  if (auto few = in_range("host", "windows", static_cast<std::int64_t>(windows.size())); !few.ok())
    return few;
  for (std::size_t index = 0; index < windows.size(); ++index) {
    const MaintenanceWindow& window = windows[index];
    if (!parse_time_of_day(window.from)) {
      return wrong(fmt::format("spec.windows[{}].from", index), window.from,
                   "hour and minute in UTC; right would be 02:30");
    }
    const auto length = in_range("host", "windows.for_ms", to_ms(window.for_ms));
    if (!length.ok()) return length;
  }
  return {};
}

}  // namespace

Result<void> check_host(const HostSpec& spec) {
  if (spec.confirmed_off_boot_id.size() > kWordMax || !plain(spec.confirmed_off_boot_id, "-")) {
    return wrong("spec.confirmed_off_boot_id", spec.confirmed_off_boot_id,
                 "must be the host's boot id");
  }
  return all({check_name("spec.cluster", spec.cluster.value),
              check_optional_name("spec.machine", spec.machine.value),
              check_optional_name("spec.zone", spec.zone),
              check_optional_name("spec.region", spec.region), check_windows(spec.windows)});
}

Result<void> check_tenant(const TenantSpec& spec) { return check_regions(spec.regions); }

Result<void> check_image(const ImageSpec& spec) {
  if (auto path = check_path("spec.path", spec.path, false); !path.ok()) return path;
  if (auto size = in_range("image", "size_mib", spec.size_mib.value); !size.ok()) return size;
  if (spec.format != ImageFormat::direct && spec.size_mib.value == 0) {
    return wrong("spec.size_mib", "0", "a disk image has a size; `virga image import` fills it in");
  }
  const bool hex = spec.sha256.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (spec.sha256.size() != 64 || !hex) {
    return wrong("spec.sha256", spec.sha256,
                 "64 hexadecimal digits in lower case; `virga image import` and `build` write them "
                 "into manifest.json");
  }
  if (auto length = in_range("image", "file_bytes", spec.file_bytes.value); !length.ok())
    return length;
  if (spec.command_line.size() > kCommandLineMax || !printable(spec.command_line)) {
    return wrong("spec.command_line", spec.command_line, "at most 1024 printable ASCII characters");
  }
  return {};
}

Result<void> check_outside(const NetworkSpec& spec, const Ipv4Subnet& subnet) {
  const std::vector<OutsidePort>& ports = spec.outside;
  if (ports.size() > kOutsideMax) {
    return wrong("spec.outside", std::to_string(ports.size()), "at most 64 machines");
  }
  std::set<std::string> seen;
  for (std::size_t index = 0; index < ports.size(); ++index) {
    const OutsidePort& port = ports[index];
    const std::string field = fmt::format("spec.outside[{}].", index);
    const bool a_vms = port.mac.starts_with("52:54:00:");
    if (!is_mac(port.mac) || a_vms || !seen.insert(port.mac).second) {
      return wrong(field + "mac", port.mac,
                   "a card's MAC in lower case that is named once and does not begin as those of "
                   "VMs, with 52:54:00; right would be 02:00:00:0a:0b:0c");
    }
    const bool plain = port.address.find('/') == std::string::npos;
    const auto address = plain ? parse_ipv4(port.address) : std::nullopt;
    const bool inside = address && *address > subnet.base && *address < subnet.broadcast();
    if (!inside || !seen.insert(port.address).second) {
      return wrong(field + "address", port.address,
                   fmt::format("an address of the subnet that is named once; right would be {}",
                               ipv4_text(subnet.broadcast() - 1)));
    }
    if (spec.gateway != NetworkGateway::none && *address == subnet.base + 1) {
      return wrong(field + "address", port.address,
                   fmt::format("the subnet's first address is the gateway's; right would be {}, or "
                               "spec.gateway: none",
                               ipv4_text(subnet.broadcast() - 1)));
    }
    if (port.tunnel_address.find('/') != std::string::npos || !parse_ipv4(port.tunnel_address)) {
      return wrong(field + "tunnel_address", port.tunnel_address,
                   "the IPv4 address of the machine's tunnel end; right would be 198.51.100.7");
    }
  }
  return {};
}

Result<void> check_network(const NetworkSpec& spec) {
  if (auto named = check_optional_name("spec.cluster", spec.cluster.value); !named.ok())
    return named;
  if (auto vni = in_range("network", "vni", spec.vni); !vni.ok()) return vni;
  if (auto mtu = in_range("network", "mtu", spec.mtu); !mtu.ok()) return mtu;
  const auto subnet = parse_subnet("spec.subnet", spec.subnet);
  if (!subnet.ok()) return subnet.error();
  const std::uint32_t first = subnet->base >> 24;
  if (first == 0 || first == 127 || first >= 224) {
    return wrong("spec.subnet", spec.subnet,
                 "must not be a reserved range; right would be 10.50.0.0/24");
  }
  return check_outside(spec, *subnet);
}

Result<void> check_device(const DeviceSpec& spec) {
  return all({check_name("spec.host", spec.host.value),
              check_path("spec.directory", spec.directory, true),
              in_range("device", "capacity_mib", spec.capacity_mib.value),
              in_range("device", "copy_mib_per_second_max", spec.copy_mib_per_second_max.value),
              check_name("spec.storage_class", spec.storage_class)});
}

Result<void> check_volume(const VolumeSpec& spec) {
  if (spec.snapshot && spec.source.empty()) {
    return wrong("spec.snapshot", "true", "of a volume: name it in spec.source");
  }
  if (!spec.image.empty() && !spec.source.empty()) {
    return wrong("spec.image", spec.image.value, "a volume begins with it or with spec.source");
  }
  return all({check_optional_name("spec.cluster", spec.cluster.value),
              in_range("volume", "size_mib", spec.size_mib.value),
              check_name("spec.storage_class", spec.storage_class),
              check_optional_name("spec.image", spec.image.value),
              check_optional_name("spec.device", spec.device.value),
              check_regions(spec.regions)});
}

namespace {

Result<void> check_scaling(const ServiceSpec& spec) {
  const ServiceScaling& scaling = spec.scaling;
  const auto in = [](std::string_view field, std::int64_t value) {
    return in_range("service", fmt::format("scaling.{}", field), value);
  };
  auto checked = all({in("replicas_max", scaling.replicas_max),
                      in("requests_max", scaling.requests_max),
                      in("cpu_percent_max", scaling.cpu_percent_max),
                      in("response_ms_max", to_ms(scaling.response_ms_max)),
                      in("queue_max", scaling.queue_max),
                      in("errors_percent_max", scaling.errors_percent_max),
                      in("sustained_ms", to_ms(scaling.sustained_ms)),
                      in("calm_ms", to_ms(scaling.calm_ms)),
                      in("cooldown_ms", to_ms(scaling.cooldown_ms))});
  if (!checked.ok() || scaling.action == ScalingAction::none) return checked;
  const bool watches = scaling.requests_max > 0 || scaling.cpu_percent_max > 0 ||
                       to_ms(scaling.response_ms_max) > 0 || scaling.queue_max > 0 ||
                       scaling.errors_percent_max > 0;
  if (!watches) {
    return wrong("spec.scaling.action", std::string(enum_name(scaling.action)),
                 "nothing is watched; set requests_max, cpu_percent_max, response_ms_max, "
                 "queue_max or errors_percent_max");
  }
  if (scaling.action == ScalingAction::scale && scaling.replicas_max <= spec.replicas) {
    return wrong("spec.scaling.replicas_max", std::to_string(scaling.replicas_max),
                 fmt::format("more than spec.replicas, {}, and at most 16", spec.replicas));
  }
  if (scaling.queue_max > 0 && spec.frontend.copy_connections_max == 0) {
    return wrong("spec.scaling.queue_max", std::to_string(scaling.queue_max),
                 "nothing waits at the balancer unless spec.frontend.copy_connections_max is set");
  }
  return {};
}

Result<void> check_objective(const ServiceObjective& objective) {
  const auto in = [](std::string_view field, std::int64_t value) {
    return in_range("service", fmt::format("objective.{}", field), value);
  };
  return all({in("availability_ppm", objective.availability_ppm),
              in("response_ms", to_ms(objective.response_ms)),
              in("blackout_ms", to_ms(objective.blackout_ms)),
              in("window_days", objective.window_days),
              in("every_ms", to_ms(objective.every_ms))});
}

}  // namespace

Result<void> check_service(const Meta& meta, const ServiceSpec& spec) {
  constexpr std::size_t kNameMax = 48;  // its copies' names and their ports' are made of it
  if (meta.name.size() > kNameMax) {
    return wrong("meta.name", meta.name, "a service's name has at most 48 characters");
  }
  const auto in = [](std::string_view field, std::int64_t value) {
    return in_range("service", field, value);
  };
  auto checked = all({in("replicas", spec.replicas), in("vm.port", spec.vm.port),
                      in("frontend.port", spec.frontend.port),
                      in("check.interval_ms", to_ms(spec.check.interval_ms)),
                      in("check.timeout_ms", to_ms(spec.check.timeout_ms)),
                      in("check.fall", spec.check.fall), in("check.rise", spec.check.rise),
                      in("policy.drain_ms", to_ms(spec.policy.drain_ms)),
                      in("policy.answer_ms", to_ms(spec.policy.answer_ms)),
                      in("frontend.copy_connections_max", spec.frontend.copy_connections_max),
                      check_objective(spec.objective), check_scaling(spec)});
  if (!checked.ok()) return checked;
  const std::string& path = spec.check.path;
  if (path.empty() || path.front() != '/' || path.size() > kWordMax * 4 || !plain(path, "._-/")) {
    return wrong("spec.check.path", path,
                 "a path of letters, digits and . _ - /; right would be /health");
  }
  return {};
}

namespace {

Result<void> check_rule(const std::string& field, const SecurityRule& rule) {
  constexpr int kPortMax = 65'535;
  const bool has_ports = rule.protocol == RuleProtocol::tcp || rule.protocol == RuleProtocol::udp;
  const auto number = [&](const char* name, int value) {
    return wrong(fmt::format("{}.{}", field, name), std::to_string(value),
                 fmt::format("{} has no ports; leave it out", enum_name(rule.protocol)));
  };
  if (!has_ports && rule.port_min != 0) return number("port_min", rule.port_min);
  if (!has_ports && rule.port_max != 0) return number("port_max", rule.port_max);
  if (rule.port_min < 0 || rule.port_min > kPortMax) {
    return wrong(field + ".port_min", std::to_string(rule.port_min), "1 to 65535, or 0 = all");
  }
  const bool ordered = rule.port_max == 0 || (rule.port_min != 0 && rule.port_max >= rule.port_min);
  if (!ordered || rule.port_max > kPortMax) {
    return wrong(field + ".port_max", std::to_string(rule.port_max),
                 rule.port_min == 0 ? "without port_min it is left out"
                                    : fmt::format("{} to 65535, or 0 = port_min", rule.port_min));
  }
  if (!rule.remote.empty() && !rule.remote_group.empty()) {
    return wrong(field + ".remote_group", rule.remote_group,
                 "remote says already who the other side is; leave one of them out");
  }
  if (!rule.remote.empty() && !parse_range(rule.remote)) {
    return wrong(field + ".remote", rule.remote,
                 "an IPv4 range without bits after its prefix; right would be 10.50.0.0/24");
  }
  return check_optional_name(field + ".remote_group", rule.remote_group);
}

Result<void> check_nic(const std::string& field, const VmNic& nic) {
  if (auto named = check_name(field + ".network", nic.network); !named.ok()) return named;
  const auto count = static_cast<std::int64_t>(nic.security_groups.size());
  if (auto few = in_range("vm", "nics.security_groups", count); !few.ok()) return few;
  std::set<std::string> seen;
  for (std::size_t i = 0; i < nic.security_groups.size(); ++i) {
    const std::string& group = nic.security_groups[i];
    const std::string where = fmt::format("{}.security_groups[{}]", field, i);
    if (auto named = check_name(where, group); !named.ok()) return named;
    if (!seen.insert(group).second) return wrong(where, group, "name each group once");
  }
  return {};
}

}  // namespace

Result<void> check_security_group(const SecurityGroupSpec& spec) {
  const auto count = static_cast<std::int64_t>(spec.rules.size());
  if (auto few = in_range("security_group", "rules", count); !few.ok()) return few;
  for (std::size_t i = 0; i < spec.rules.size(); ++i) {
    auto sound = check_rule(fmt::format("spec.rules[{}]", i), spec.rules[i]);
    if (!sound.ok()) return sound;
  }
  return {};
}

Result<void> check_floating_address(const FloatingAddressSpec& spec) {
  const bool plain_address = spec.address.find('/') == std::string::npos;
  if (!spec.address.empty() && !(plain_address && parse_ipv4(spec.address))) {
    return wrong("spec.address", spec.address, "an IPv4 address; right would be 203.0.113.17");
  }
  if (!spec.vm.empty() && !spec.service.empty()) {
    return wrong("spec.service", spec.service, "it leads to one of both; leave spec.vm empty");
  }
  if (spec.vm.empty() && spec.service.empty() && !spec.network.empty()) {
    return wrong("spec.network", spec.network, "it leads to nobody; name who in spec.vm");
  }
  return all({check_optional_name("spec.cluster", spec.cluster.value),
              check_optional_name("spec.vm", spec.vm),
              check_optional_name("spec.service", spec.service),
              check_optional_name("spec.network", spec.network)});
}

Result<void> check_vm(const VmSpec& spec) {
  const auto in = [](std::string_view field, std::int64_t value) {
    return in_range("vm", field, value);
  };
  auto checked =
      all({check_optional_name("spec.cluster", spec.cluster.value),
           check_name("spec.image", spec.image.value), in("cpus", spec.cpus),
           in("cpu_millicores", spec.cpu_millicores.value), in("cpu_weight", spec.cpu_weight),
           in("processes_max", spec.processes_max), in("memory_mib", spec.memory_mib.value),
           in("downtime_ms_max", to_ms(spec.downtime_ms_max)),
           in("throttle_percent_max", spec.throttle_percent_max),
           in("disks", static_cast<std::int64_t>(spec.disks.size())),
           in("nics", static_cast<std::int64_t>(spec.nics.size())),
           in("host_devices", static_cast<std::int64_t>(spec.host_devices.size())),
           check_optional_name("spec.anti_affinity_group", spec.anti_affinity_group),
           check_optional_name("spec.pinned_host", spec.pinned_host.value),
           check_optional_name("spec.move_to", spec.move_to.value)});
  if (!checked.ok()) return checked;
  for (std::size_t i = 0; i < spec.nics.size(); ++i) {
    auto sound = check_nic(fmt::format("spec.nics[{}]", i), spec.nics[i]);
    if (!sound.ok()) return sound;
  }
  if (spec.cpu_millicores.value > spec.cpus * 1000LL) {
    return wrong("spec.cpu_millicores", std::to_string(spec.cpu_millicores.value),
                 fmt::format("{} processors use at most {}", spec.cpus, spec.cpus * 1000LL));
  }
  if (auto disks = check_disks(spec.disks); !disks.ok()) return disks;
  if (auto devices = check_host_devices(spec); !devices.ok()) return devices;
  if (auto data = check_user_data(spec.user_data); !data.ok()) return data;
  return check_parameters(spec.parameters);
}

}  // namespace virga::api
