#include "sim/scenario.h"

#include <fmt/format.h>

#include <charconv>
#include <map>

#include "base/reflect.h"
#include "model/keys.h"

namespace virga::sim {
namespace {

constexpr std::size_t kTextMax = 256 << 10;
constexpr std::int64_t kHostsMax = 1000;
constexpr std::int64_t kVmsMax = 10'000;
constexpr Duration kLengthMax = std::chrono::hours(24);

using Words = std::vector<std::string>;
using Action = std::function<void(Cloud&)>;

Error wrong(const std::string& what, const std::string& seen, const std::string& right) {
  return make_error(Errc::invalid, fmt::format("{} \"{}\": expected {}", what, seen, right));
}

Words split(std::string_view line) {
  Words words;
  std::string word;
  for (const char character : line) {
    if (character != ' ' && character != '\t' && character != '\r') {
      word += character;
    } else if (!word.empty()) {
      words.push_back(std::move(word));
      word.clear();
    }
  }
  if (!word.empty()) words.push_back(std::move(word));
  return words;
}

Result<std::int64_t> parse_number(const std::string& word, std::int64_t max) {
  std::int64_t number = 0;
  const auto [end, failed] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (failed != std::errc() || end != word.data() + word.size() || number < 0 || number > max) {
    return wrong("number", word, fmt::format("0 to {}", max));
  }
  return number;
}

Result<Duration> parse_time(const std::string& word) {
  static const std::vector<std::pair<std::string, Duration>> kUnits = {
      {"ms", milliseconds(1)}, {"s", seconds(1)}, {"m", seconds(60)}, {"h", seconds(3600)}};
  for (const auto& [unit, length] : kUnits) {
    if (!word.ends_with(unit)) continue;
    const auto number = parse_number(word.substr(0, word.size() - unit.size()), 1'000'000'000);
    if (!number) continue;
    if (*number > kLengthMax / length) return wrong("time", word, "at most 24h");
    return *number * length;
  }
  return wrong("time", word, "a number with ms, s, m or h");
}

Result<bool> parse_switch(const std::string& word) {
  if (word == "on") return true;
  if (word == "off") return false;
  return wrong("switch", word, "on or off");
}

template <typename T>
Result<T> parse_enum(const char* what, std::string word) {
  std::replace(word.begin(), word.end(), '-', '_');
  T made{};
  if (boost::describe::has_describe_enumerators<T>::value) {
    bool found = false;
    std::string names;
    boost::mp11::mp_for_each<boost::describe::describe_enumerators<T>>([&](auto described) {
      names += std::string(names.empty() ? "" : ", ") + described.name;
      if (word != described.name) return;
      made = described.value;
      found = true;
    });
    if (!found) return wrong(what, word, "one of " + names);
  }
  return made;
}

/// Sets one described member from a number or on/off.
template <typename T>
Result<void> set_member(T& target, const std::string& name, const std::string& word) {
  json::object object;
  if (const auto flag = parse_switch(word)) {
    object[name] = *flag;
  } else {
    const auto number = parse_number(word, INT32_MAX);
    if (!number) return wrong(name, word, "a number, on or off");
    object[name] = *number;
  }
  return reflect::read(json::value(object), target, reflect::Path(), UnknownFields::refuse);
}

class Parser {
 public:
  Result<Scenario> parse(std::string_view text);

 private:
  Result<void> line(const Words& words);
  Result<void> hosts(const Words& words);
  Result<void> vms(const Words& words);
  Result<void> vm(const Words& words);
  Result<void> device(const Words& words);
  Result<void> region(const Words& words);
  Result<void> tenant(const Words& words);
  Result<void> option(const Words& words);
  Result<void> at(const Words& words);
  Result<ScenarioVm> vm_options(VmId id, const Words& words, std::size_t first);
  Result<void> vm_option(ScenarioVm& vm, const std::string& name, const std::string& value);
  Result<Action> action(const Words& words);
  Result<Action> fail(const Words& words);
  Result<Action> heal(const Words& words);
  Result<Action> server(const Words& words);
  Result<Action> host_action(const Words& words);
  Result<Action> vm_action(const Words& words);
  Result<Action> volume_action(const Words& words);
  Result<Action> snapshot(const Words& words);
  Result<Action> cut(const Words& words);
  Result<Action> relocate(const Words& words);
  Result<Action> demand(const Words& words);
  Result<void> service(const Words& words);
  Result<Action> cloud_action(const Words& words);
  Result<HostId> host_name(const std::string& word) const;
  Result<VmId> vm_name(const std::string& word) const;

  Scenario scenario_;
};

Result<HostId> Parser::host_name(const std::string& word) const {
  if (word.starts_with("host-")) {
    const auto number = parse_number(word.substr(5), scenario_.hosts);
    if (number && *number > 0 && word == fmt::format("host-{}", *number)) return HostId(word);
  }
  return wrong("host", word, fmt::format("host-1 to host-{}", scenario_.hosts));
}

Result<VmId> Parser::vm_name(const std::string& word) const {
  const std::size_t slash = word.find('/');
  if (slash == std::string::npos) return wrong("vm", word, "tenant/name");
  if (auto checked = check_name("tenant", word.substr(0, slash)); !checked) return checked.error();
  if (auto checked = check_name("name", word.substr(slash + 1)); !checked) return checked.error();
  return VmId(word);
}

Result<void> Parser::hosts(const Words& words) {
  const auto count = parse_number(words[1], kHostsMax);
  if (!count) return count.error();
  scenario_.hosts = static_cast<int>(*count);
  for (std::size_t index = 2; index + 1 < words.size(); index += 2) {
    const auto amount = parse_number(words[index + 1], 1 << 30);
    if (!amount) return amount.error();
    if (words[index] == "cpu") {
      scenario_.capacity.cpu_millicores = {*amount};
    } else if (words[index] == "memory") {
      scenario_.capacity.memory_mib = {*amount};
    } else if (words[index] == "cluster" && *amount > 0) {
      scenario_.cluster_hosts = static_cast<int>(*amount);
    } else {
      return wrong("option of hosts", words[index], "cpu, memory or cluster");
    }
  }
  return {};
}

Result<void> Parser::device(const Words& words) {
  const auto host = host_name(words[1]);
  if (!host) return host.error();
  scenario_.devices.push_back(*host);
  return {};
}

Result<void> Parser::region(const Words& words) {
  if (words.size() < 3) return wrong("line", words[0], "region NAME HOST...");
  if (auto checked = check_name("region", words[1]); !checked) return checked;
  for (std::size_t index = 2; index < words.size(); ++index) {
    const auto host = host_name(words[index]);
    if (!host) return host.error();
    scenario_.regions[*host] = words[1];
  }
  return {};
}

Result<void> Parser::tenant(const Words& words) {
  if (words.size() < 3) return wrong("line", words[0], "tenant NAME REGION...");
  for (std::size_t index = 1; index < words.size(); ++index) {
    if (auto checked = check_name(index == 1 ? "tenant" : "region", words[index]); !checked)
      return checked;
  }
  scenario_.tenants[words[1]] = Words(words.begin() + 2, words.end());
  return {};
}

Result<void> Parser::vm_option(ScenarioVm& vm, const std::string& name, const std::string& value) {
  if (name == "cpu" || name == "memory") {
    const auto amount = parse_number(value, 1 << 30);
    if (!amount) return amount.error();
    (name == "cpu" ? vm.cpu.value : vm.memory.value) = *amount;
  } else if (name == "priority") {
    const auto priority = parse_enum<RestartPriority>("priority", value);
    if (!priority) return priority.error();
    vm.priority = *priority;
  } else if (name == "host") {
    const auto host = host_name(value);
    if (!host) return host.error();
    vm.pinned = *host;
  } else if (name == "group") {
    vm.group = value;
  } else if (name == "volume" || name == "mirrored" || name == "local") {
    if (auto checked = check_name("volume", value); !checked) return checked;
    vm.volume = value;
    vm.mirrored = name == "mirrored";
    vm.local = name == "local";
  } else {
    return wrong("option of vm", name,
                 "cpu, memory, priority, host, group, volume, mirrored or local");
  }
  return {};
}

Result<ScenarioVm> Parser::vm_options(VmId id, const Words& words, std::size_t first) {
  ScenarioVm made;
  made.id = std::move(id);
  if ((words.size() - first) % 2 != 0) return wrong("option of vm", words.back(), "a value");
  for (std::size_t index = first; index < words.size(); index += 2) {
    if (auto set = vm_option(made, words[index], words[index + 1]); !set) return set.error();
  }
  return made;
}

Result<void> Parser::vms(const Words& words) {
  if (words.size() < 4 || words[2] != "tenant") return wrong("line", words[0], "vms N tenant T");
  const auto count = parse_number(words[1], kVmsMax);
  if (!count) return count.error();
  if (auto checked = check_name("tenant", words[3]); !checked) return checked.error();
  for (std::int64_t number = 1; number <= *count; ++number) {
    auto made = vm_options(VmId(fmt::format("{}/vm-{}", words[3], number)), words, 4);
    if (!made) return made.error();
    scenario_.vms.push_back(std::move(*made));
  }
  return {};
}

Result<void> Parser::vm(const Words& words) {
  const auto id = vm_name(words[1]);
  if (!id) return id.error();
  auto made = vm_options(*id, words, 2);
  if (!made) return made.error();
  scenario_.vms.push_back(std::move(*made));
  return {};
}

Result<void> Parser::option(const Words& words) {
  if (words.size() != 3) return wrong("line", words[0], "option NAME VALUE");
  if (words[1] == "supervisor") {
    const auto time = parse_time(words[2]);
    if (!time) return time.error();
    scenario_.cloud.supervisor = *time;
    return {};
  }
  if (words[1] == "seed") {
    const auto number = parse_number(words[2], INT64_MAX);
    if (!number) return number.error();
    scenario_.cloud.seed = static_cast<std::uint64_t>(*number);
    return {};
  }
  const std::map<std::string, bool*> switches = {
      {"image-locks", &scenario_.cloud.world.image_locks},
      {"watchdogs", &scenario_.watchdogs},
      {"bmc", &scenario_.bmcs},
      {"codec", &scenario_.cloud.network.codec},
      {"shared", &scenario_.shows_shared}};
  const auto found = switches.find(words[1]);
  if (found == switches.end()) {
    return wrong("option", words[1],
                 "image-locks, watchdogs, bmc, codec, shared, supervisor or seed");
  }
  const auto flag = parse_switch(words[2]);
  if (!flag) return flag.error();
  *found->second = *flag;
  return {};
}

Result<Action> Parser::fail(const Words& words) {
  if (words.size() < 3) return wrong("line", words[0], "fail HOST KIND");
  const auto host = host_name(words[1]);
  if (!host) return host.error();
  const auto kind = parse_enum<FaultKind>("fault", words[2]);
  if (!kind) return kind.error();
  Fault fault{*kind, *host, Wire::management, {}};
  std::optional<BmcMode> bmc;
  for (std::size_t index = 3; index < words.size(); ++index) {
    if (words[index] == "bmc" && index + 1 < words.size()) {
      const auto mode = parse_enum<BmcMode>("bmc", words[++index]);
      if (!mode) return mode.error();
      bmc = *mode;
    } else if (words[index].find('/') != std::string::npos) {
      fault.vm = VmId(words[index]);
    } else {
      const auto wire = parse_enum<Wire>("network", words[index]);
      if (!wire) return wire.error();
      fault.wire = *wire;
    }
  }
  return Action([fault, bmc](Cloud& cloud) {
    if (bmc) cloud.world().find_host(fault.host)->bmc = *bmc;
    cloud.apply(fault);
  });
}

Result<Action> Parser::heal(const Words& words) {
  if (words.size() == 2 && words[1] == "all") {
    return Action([](Cloud& cloud) {
      for (HostTruth& host : cloud.world().hosts()) cloud.heal(host);
    });
  }
  if (words.size() != 2) return wrong("line", words[0], "heal HOST or heal all");
  const auto host = host_name(words[1]);
  if (!host) return host.error();
  return Action([id = *host](Cloud& cloud) { cloud.heal(*cloud.world().find_host(id)); });
}

Result<Action> Parser::server(const Words& words) {
  static const std::map<std::string, Action> kActions = {
      {"kill", [](Cloud& cloud) { cloud.kill_server(); }},
      {"start", [](Cloud& cloud) { cloud.start_server(); }},
      {"freeze", [](Cloud& cloud) { cloud.freeze_server(true); }},
      {"thaw", [](Cloud& cloud) { cloud.freeze_server(false); }},
      {"cut",
       [](Cloud& cloud) {
         cloud.network().set_server_link({false, false});
       }},
      {"join", [](Cloud& cloud) {
         cloud.network().set_server_link({true, true});
       }}};
  const auto found = kActions.find(words.size() == 2 ? words[1] : "");
  if (found == kActions.end()) {
    return wrong("line", words[0], "server kill, start, freeze, thaw, cut or join");
  }
  return found->second;
}

Result<Action> Parser::host_action(const Words& words) {
  if (words.size() != 3) return wrong("line", words[0], words[0] + " HOST VALUE");
  const auto host = host_name(words[1]);
  if (!host) return host.error();
  if (words[0] == "bmc") {
    const auto mode = parse_enum<BmcMode>("bmc", words[2]);
    if (!mode) return mode.error();
    return Action(
        [id = *host, to = *mode](Cloud& cloud) { cloud.world().find_host(id)->bmc = to; });
  }
  const auto flag = parse_switch(words[2]);
  if (!flag) return flag.error();
  return Action([id = *host, on = *flag](Cloud& cloud) {
    cloud.edit<virga::Host>(id, [on](virga::Host& stored) { stored.spec.maintenance = on; });
  });
}

Result<Action> Parser::vm_action(const Words& words) {
  const bool moves = words[0] == "move";
  const bool quota = words[0] == "quota";
  if (words.size() != (moves || quota ? 3U : 2U)) {
    return wrong("line", words[0], words[0] + " TENANT/NAME");
  }
  const auto id = vm_name(words[1]);
  if (!id) return id.error();
  std::function<void(Vm&)> change;
  if (moves) {
    const auto host = host_name(words[2]);
    if (!host) return host.error();
    change = [to = *host](Vm& vm) { vm.spec.move_to = to; };
  } else if (quota) {
    const auto amount = parse_number(words[2], 1 << 30);
    if (!amount) return amount.error();
    change = [to = *amount](Vm& vm) { vm.spec.cpu_millicores = {to}; };
  } else if (words[0] == "delete") {
    change = [](Vm& vm) { vm.meta.deleting_at = WallTime{1}; };
  } else {
    const auto to = words[0] == "stop" ? DesiredPower::stopped : DesiredPower::running;
    change = [to](Vm& vm) { vm.spec.power = to; };
  }
  return Action([id = *id, change](Cloud& cloud) {
    if (cloud.read<Vm>(keys::of(id))) cloud.edit<Vm>(id, change);
  });
}

Result<Action> Parser::volume_action(const Words& words) {
  if (words.size() != 3) return wrong("line", words[0], "volume TENANT/NAME DEVICE");
  const auto id = vm_name(words[1]);
  if (!id) return id.error();
  return Action([id = VolumeId(id->value), device = DeviceId(words[2])](Cloud& cloud) {
    cloud.edit<Volume>(id, [device](Volume& volume) { volume.spec.device = device; });
  });
}

Result<Action> Parser::snapshot(const Words& words) {
  if (words.size() != 3) return wrong("line", words[0], "snapshot TENANT/NAME VOLUME");
  const auto id = vm_name(words[1]);
  if (!id) return id.error();
  if (auto checked = check_name("volume", words[2]); !checked) return checked.error();
  const std::size_t slash = id->value.find('/');
  return Action([tenant = id->value.substr(0, slash), name = id->value.substr(slash + 1),
                 source = words[2]](Cloud& cloud) {
    const auto from = cloud.read<Volume>(keys::of(VolumeId(qualified(tenant, source))));
    if (!from) return;
    Volume made;
    made.meta.tenant = tenant;
    made.meta.name = name;
    made.spec = from->spec;
    made.spec.source = source;
    cloud.edit<Volume>(made.id(), [made](Volume& stored) {
      stored.meta.tenant = made.meta.tenant;
      stored.meta.name = made.meta.name;
      stored.spec = made.spec;
    });
  });
}

Result<Action> Parser::relocate(const Words& words) {
  if (words.size() != 3) return wrong("line", words[0], "relocate TENANT/NAME COPY");
  const auto id = vm_name(words[1]);
  if (!id) return id.error();
  return Action([id = ServiceId(id->value), copy = words[2]](Cloud& cloud) {
    cloud.edit<Service>(id, [copy](Service& service) {
      service.spec.relocate = RelocationOrder{copy, {}, RelocationMode::duplicate, Duration{0}};
    });
  });
}

Result<Action> Parser::demand(const Words& words) {
  if (words.size() != 3) return wrong("line", words[0], "demand TENANT/NAME REQUESTS");
  const auto id = vm_name(words[1]);
  if (!id) return id.error();
  const auto requests = parse_number(words[2], 1000);
  if (!requests) return requests.error();
  if (*requests % 10 != 0) return wrong("requests", words[2], "a multiple of 10 a second");
  return Action([id = ServiceId(id->value), rate = static_cast<int>(*requests)](Cloud& cloud) {
    cloud.world().set_demand(id, rate);
  });
}

Result<void> Parser::service(const Words& words) {
  const auto id = vm_name(words[1]);
  if (!id) return id.error();
  ScenarioService made;
  made.id = ServiceId(id->value);
  for (std::size_t index = 2; index + 1 < words.size(); index += 2) {
    if (words[index] == "replicas") {
      const auto count = parse_number(words[index + 1], 16);
      if (!count) return count.error();
      made.replicas = static_cast<int>(*count);
    } else if (words[index] == "relocation") {
      const auto mode = parse_enum<RelocationMode>("relocation", words[index + 1]);
      if (!mode) return mode.error();
      made.relocation = *mode;
    } else if (words[index] == "action") {
      const auto action = parse_enum<ScalingAction>("action", words[index + 1]);
      if (!action) return action.error();
      made.scaling.action = *action;
    } else if (words[index] == "availability_ppm" || words[index] == "blackout_ms" ||
               words[index] == "response_ms") {
      if (auto set = set_member(made.objective, words[index], words[index + 1]); !set.ok())
        return set;
    } else if (auto set = set_member(made.scaling, words[index], words[index + 1]); !set.ok()) {
      return set;
    }
  }
  scenario_.services.push_back(std::move(made));
  return {};
}

Result<Action> Parser::cut(const Words& words) {
  const bool one_way = words.size() == 4 && words[3] == "one-way";
  if (words.size() != 3 && !one_way) return wrong("line", words[0], "cut PARTY PARTY [one-way]");
  std::vector<HostId> parties;
  for (const std::string& word : {words[1], words[2]}) {
    const auto host = word == "server" ? Result<HostId>(HostId()) : host_name(word);
    if (!host) return host.error();
    parties.push_back(*host);
  }
  return Action([from = parties[0], to = parties[1], one_way](Cloud& cloud) {
    const HostTruth* first = cloud.world().find_host(from);
    const HostTruth* second = cloud.world().find_host(to);
    cloud.world().cut(first, second);
    if (!one_way) cloud.world().cut(second, first);
  });
}

Result<Action> Parser::cloud_action(const Words& words) {
  if (words[0] == "partition") {
    std::vector<HostId> apart;
    for (std::size_t index = 1; index < words.size(); ++index) {
      const auto host = host_name(words[index]);
      if (!host) return host.error();
      apart.push_back(*host);
    }
    return Action([apart](Cloud& cloud) {
      for (const HostId& id : apart) {
        cloud.world().set_partition(*cloud.world().find_host(id), 1);
      }
    });
  }
  if (words[0] == "cut") return cut(words);
  if (words[0] == "ha" && words.size() == 2) {
    const auto flag = parse_switch(words[1]);
    if (!flag) return flag.error();
    return Action([on = *flag](Cloud& cloud) {
      cloud.edit<Cluster>(ClusterId("c1"),
                          [on](Cluster& cluster) { cluster.spec.policy.ha_armed = on; });
    });
  }
  if (words[0] == "network" && words.size() <= 3) {
    const auto id = vm_name(words[1]);
    if (!id) return id.error();
    const auto wanted = parse_switch(words.size() == 3 ? words[2] : "on");
    if (!wanted) return wanted.error();
    if (!*wanted) {
      return Action([key = keys::of(NetworkId(id->value))](Cloud& cloud) { cloud.remove(key); });
    }
    return Action([name = id->value](Cloud& cloud) {
      cloud.edit<virga::Network>(NetworkId(name), [name](virga::Network& network) {
        network.meta.tenant = name.substr(0, name.find('/'));
        network.meta.name = name.substr(name.find('/') + 1);
        network.spec = {ClusterId("c1"), 77, "10.50.0.0/24", 1450};
      });
    });
  }
  if (words[0] == "backup") return Action([](Cloud& cloud) { cloud.backup(); });
  if (words[0] == "restore") return Action([](Cloud& cloud) { cloud.restore(); });
  return wrong(
      "event", words[0],
      "fail, heal, bmc, server, vm, volume, snapshot, relocate, demand, start, stop, delete, move, "
      "quota, maintenance, ha, network, partition, cut, backup or restore");
}

Result<Action> Parser::action(const Words& words) {
  const std::string& verb = words[0];
  if (verb == "fail") return fail(words);
  if (verb == "heal") return heal(words);
  if (verb == "server") return server(words);
  if (verb == "bmc" || verb == "maintenance") return host_action(words);
  for (const std::string_view known : {"start", "stop", "delete", "move", "quota"}) {
    if (verb == known) return vm_action(words);
  }
  if (verb == "volume") return volume_action(words);
  if (verb == "snapshot") return snapshot(words);
  if (verb == "relocate") return relocate(words);
  if (verb == "demand") return demand(words);
  if (verb == "vm" && words.size() > 1) {
    const auto id = vm_name(words[1]);
    if (!id) return id.error();
    auto made = vm_options(*id, words, 2);
    if (!made) return made.error();
    return Action([vm = *made](Cloud& cloud) { put_vm(cloud, vm); });
  }
  return cloud_action(words);
}

Result<void> Parser::at(const Words& words) {
  if (words.size() < 3) return wrong("line", words[0], "at TIME EVENT");
  const auto time = parse_time(words[1]);
  if (!time) return time.error();
  auto act = action(Words(words.begin() + 2, words.end()));
  if (!act) return act.error();
  scenario_.events.push_back({*time, std::move(*act)});
  return {};
}

Result<void> Parser::line(const Words& words) {
  const std::string& verb = words[0];
  if (words.size() < 2) return wrong("line", verb, "a word and its values");
  if (verb == "hosts") return hosts(words);
  if (verb == "vms") return vms(words);
  if (verb == "vm") return vm(words);
  if (verb == "device") return device(words);
  if (verb == "region") return region(words);
  if (verb == "tenant") return tenant(words);
  if (verb == "service") return service(words);
  if (verb == "option") return option(words);
  if (verb == "at") return at(words);
  if (verb == "policy" || verb == "network") {
    if (words.size() != 3) return wrong("line", verb, verb + " KNOB VALUE");
    return verb == "policy" ? set_member(scenario_.cloud.policy, words[1], words[2])
                            : set_member(scenario_.cloud.network, words[1], words[2]);
  }
  if (verb == "breaks") {
    scenario_.breaks.insert(words.begin() + 1, words.end());
    return {};
  }
  if (verb == "run") {
    const auto time = parse_time(words[1]);
    if (!time) return time.error();
    scenario_.length = *time;
    return {};
  }
  return wrong("line", verb, "hosts, vms, vm, device, policy, network, option, at, breaks or run");
}

Result<Scenario> Parser::parse(std::string_view text) {
  if (text.size() > kTextMax) {
    return make_error(Errc::invalid,
                      fmt::format("scenario of {} bytes: at most {}", text.size(), kTextMax));
  }
  int number = 0;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view whole = text.substr(begin, end - begin);
    begin = std::min(end + 1, text.size());
    ++number;
    if (whole.starts_with("----")) break;
    const Words words = split(whole.substr(0, whole.find('#')));
    if (words.empty()) continue;
    if (auto read = line(words); !read) {
      return wrap_error(fmt::format("scenario line {}", number), read.error());
    }
  }
  if (scenario_.hosts < 1 || scenario_.length == Duration::zero()) {
    return make_error(Errc::invalid, "scenario: needs a line \"hosts N\" and a line \"run TIME\"");
  }
  if (scenario_.vms.size() > static_cast<std::size_t>(kVmsMax)) {
    return make_error(Errc::invalid, fmt::format("scenario: at most {} VMs", kVmsMax));
  }
  scenario_.head = text.substr(0, begin);
  scenario_.expected = text.substr(begin);
  return std::move(scenario_);
}

}  // namespace

Result<Scenario> parse_scenario(std::string_view text) { return Parser().parse(text); }

}  // namespace virga::sim
