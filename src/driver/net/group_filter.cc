#include "driver/net/group_filter.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <unistd.h>

#include <cerrno>
#include <exception>

#include "base/reflect.h"
#include "driver/net/stable_hash.h"
#include "model/ipv4.h"

namespace virga {
namespace {

// Lines of one transaction. {0} is the table, {1} how names of bridges begin, {2} the mark of a
// packet that was decided on, {3} all other bits of it, {4} the mark of a connection that was taken
// up in its middle, {5} how names of gateways' cables begin. DHCP passes whatever the groups say,
// but between a port and its network's gateway alone.
constexpr const char* kBase = R"(
add table ip {0}
add map ip {0} zones {{ typeof iifname : ct zone ; }}
add set ip {0} picking {{ type ifname . ipv4_addr ; flags timeout ; }}
add map ip {0} senders {{ type ifname . ipv4_addr : verdict ; }}
add map ip {0} receivers {{ type ifname . ipv4_addr : verdict ; }}
add chain ip {0} track {{ type filter hook prerouting priority -300 ; policy accept ; }}
add chain ip {0} tunnels {{ type filter hook output priority -300 ; policy accept ; }}
add chain ip {0} pick
add chain ip {0} send {{ type filter hook forward priority 0 ; policy accept ; }}
add chain ip {0} receive {{ type filter hook forward priority 1 ; policy accept ; }}
add chain ip {0} decided {{ type filter hook forward priority 2 ; policy accept ; }}
flush chain ip {0} track
flush chain ip {0} tunnels
flush chain ip {0} pick
flush chain ip {0} send
flush chain ip {0} receive
flush chain ip {0} decided
add rule ip {0} track ct zone set iifname map @zones accept
add rule ip {0} track iifname "{1}*" notrack
add rule ip {0} track udp dport 4789 notrack
add rule ip {0} tunnels udp dport 4789 notrack
add rule ip {0} pick ct state new tcp flags & (syn | rst) == 0 ct mark set {4}
add rule ip {0} send iifname "{1}*" udp sport 68 udp dport 67 accept
add rule ip {0} send iifname . ip saddr @picking jump pick
add rule ip {0} send iifname . ip daddr @picking jump pick
add rule ip {0} send iifname . ip saddr vmap @senders
add rule ip {0} receive iifname "{1}*" udp sport 67 udp dport 68 accept
add rule ip {0} receive iifname . ip daddr vmap @receivers
add rule ip {0} decided iifname "{1}*" meta mark set meta mark | {2}
add table bridge {0}
add set bridge {0} guarded {{ type ifname ; }}
add set bridge {0} own {{ type ifname . ipv4_addr ; }}
add chain bridge {0} enter {{ type filter hook prerouting priority -310 ; policy accept ; }}
add chain bridge {0} arrive
add chain bridge {0} leave {{ type filter hook forward priority 100 ; policy accept ; }}
add chain bridge {0} clean {{ type filter hook postrouting priority 0 ; policy accept ; }}
flush chain bridge {0} enter
flush chain bridge {0} arrive
flush chain bridge {0} leave
flush chain bridge {0} clean
add rule bridge {0} enter meta mark set meta mark & {3}
add rule bridge {0} clean meta mark set meta mark & {3}
add rule bridge {0} arrive ether type arp accept
add rule bridge {0} arrive iifname "{5}*" udp sport 67 udp dport 68 accept
add rule bridge {0} arrive oifname . ip daddr @own meta mark & {2} == {2} accept
add rule bridge {0} arrive counter drop
add rule bridge {0} leave iifname @guarded oifname != "{5}*" udp sport 68 udp dport 67 counter drop
add rule bridge {0} leave iifname != "{5}*" oifname @guarded udp sport 67 udp dport 68 counter drop
add rule bridge {0} leave iifname @guarded ether type ip meta mark & {2} != {2} counter drop
add rule bridge {0} leave oifname @guarded jump arrive
)";
constexpr const char* kDecided = "0x08000000";
constexpr const char* kAllButDecided = "0xf7ffffff";
constexpr const char* kTakenUp = "0x08000000";

// {1} tap, {2} its bridge, {3} its address.
constexpr const char* kPort = R"(
add chain ip {0} i_{1}
add chain ip {0} o_{1}
flush chain ip {0} i_{1}
flush chain ip {0} o_{1}
add element ip {0} senders {{ "{2}" . {3} : jump o_{1} }}
add element ip {0} receivers {{ "{2}" . {3} : jump i_{1} }}
add element bridge {0} guarded {{ "{1}" }}
add element bridge {0} own {{ "{1}" . {3} }}
)";

// Made once more first: nftables refuses to delete what is not there.
constexpr const char* kGone = R"(
add element ip {0} picking {{ "{2}" . {3} timeout 1s }}
delete element ip {0} picking {{ "{2}" . {3} }}
delete element ip {0} senders {{ "{2}" . {3} }}
delete element ip {0} receivers {{ "{2}" . {3} }}
delete element bridge {0} guarded {{ "{1}" }}
delete element bridge {0} own {{ "{1}" . {3} }}
flush chain ip {0} i_{1}
flush chain ip {0} o_{1}
delete chain ip {0} i_{1}
delete chain ip {0} o_{1}
)";

// {1} chain, {2} what it says of answers.
constexpr const char* kBegin = R"(
add rule ip {0} {1} ip protocol icmp ct state related accept
add rule ip {0} {1} ct state invalid counter drop
add rule ip {0} {1} ct direction reply ct mark != {2} accept
)";

constexpr const char* kRemove = R"(
add table ip {0}
delete table ip {0}
add table bridge {0}
delete table bridge {0}
)";

// What comes in and goes out, and the answers to what came in and went out.
constexpr const char* kParts[] = {"in", "out", "back_out", "back_in"};

std::string part_name(std::uint32_t vni, const std::string& group) {
  constexpr std::uint64_t kMask = (std::uint64_t{1} << 40) - 1;
  return fmt::format("g{}_{:010x}", vni, stable_hash(group) & kMask);
}

Result<std::string> plain_address(const std::string& what, const std::string& text) {
  const auto address = parse_ipv4(text);
  if (!address) {
    return make_error(Errc::invalid, fmt::format("{}: \"{}\" is no IPv4 address", what, text));
  }
  return ipv4_text(*address);
}

/// A rule as nftables has it; of answers (`back`) only TCP is asked for. `set`: its remote group.
std::string rule_text(const SecurityRule& rule, bool back, const std::string& set) {
  std::string text;
  const bool any = rule.protocol == RuleProtocol::any;
  if (any && back) text += "ip protocol tcp ";
  if (!any) text += fmt::format("ip protocol {} ", enum_name(rule.protocol));
  if (rule.port_min != 0) {
    const int last = rule.port_max == 0 ? rule.port_min : rule.port_max;
    text += fmt::format("{} {} {}-{} ", enum_name(rule.protocol), back ? "sport" : "dport",
                        rule.port_min, last);
  }
  const bool source = (rule.direction == RuleDirection::ingress) != back;
  const char* side = source ? "saddr" : "daddr";
  if (!rule.remote_group.empty()) {
    text += fmt::format("ip {} @{} ", side, set);
  } else if (const auto range = parse_range(rule.remote); range && range->prefix != 0) {
    text += fmt::format("ip {} {}/{} ", side, ipv4_text(range->base), range->prefix);
  }
  return text + "accept";
}

}  // namespace

Result<GroupFilter> GroupFilter::open(const std::string& prefix, int network_namespace) {
  auto nftables = Nftables::open(network_namespace);
  if (!nftables) return nftables.error();
  auto connections = NetlinkSocket::open(network_namespace, NETLINK_NETFILTER);
  if (!connections) return connections.error();
  GroupFilter made(prefix, std::move(*nftables), std::move(*connections));
  if (auto done = made.read_present(); !done) return done.error();
  return made;
}

GroupFilter::GroupFilter(std::string prefix, Nftables nftables, NetlinkSocket connections)
    : prefix_(std::move(prefix)),
      table_(prefix_ + "groups"),
      nftables_(std::move(nftables)),
      connections_(std::move(connections)) {}

std::string GroupFilter::bridge(std::uint32_t vni) const {
  return fmt::format("{}br{}", prefix_, vni);
}

std::set<std::uint32_t> GroupFilter::networks() const {
  std::set<std::uint32_t> found;
  for (const auto& [tap, port] : ports_) found.insert(port.vni);
  return found;
}

std::set<std::string> GroupFilter::taps() const {
  std::set<std::string> found;
  for (const auto& [tap, port] : ports_) found.insert(tap);
  return found;
}

/// Throws when the entry is of another form.
void GroupFilter::read_entry(const json::object& entry) {
  const std::size_t begin = bridge(0).size() - 1;
  const auto vni_of = [begin](const json::value& name) {
    return static_cast<std::uint32_t>(std::stoul(std::string(name.as_string()).substr(begin)));
  };
  if (const auto* set = entry.if_contains("set")) {
    const std::string name(set->at("name").as_string());
    if (name.front() == 'g') chains_.insert(name);
  }
  const auto* map = entry.if_contains("map");
  if (map == nullptr || !map->as_object().contains("elem")) return;
  for (const auto& pair : map->at("elem").as_array()) {
    const json::value& key = pair.as_array().at(0);
    const json::value& value = pair.as_array().at(1);
    if (map->at("name") == "zones")
      zones_[vni_of(key)] = static_cast<std::uint16_t>(value.to_number<int>());
    if (map->at("name") != "receivers") continue;
    const json::array& parts = key.at("concat").as_array();
    const std::string chain(value.at("jump").at("target").as_string());
    ports_[chain.substr(2)] = {vni_of(parts.at(0)), std::string(parts.at(1).as_string()), {}};
  }
}

/// What an earlier agent made: names say what belongs to what.
Result<void> GroupFilter::read_present() {
  constexpr std::size_t kTextMax = std::size_t{64} << 20;
  const std::string what = "read the filter of security groups";
  if (auto made = nftables_.run(what, fmt::format("add table ip {}\n", table_)); !made) return made;
  const auto said = nftables_.list(what, fmt::format("list table ip {}", table_));
  if (!said) return said.error();
  const auto parsed = parse_json(*said, kTextMax);
  if (!parsed) return wrap_error(what, parsed.error());
  try {
    for (const auto& entry : parsed->at("nftables").as_array()) read_entry(entry.as_object());
  } catch (const std::exception& thrown) {
    return make_error(Errc::internal, what + ": it is of another form: " + thrown.what());
  }
  there_ = ports_;
  return {};
}

Result<void> GroupFilter::check(const std::string& tap) {
  const std::string what = "read the security groups of " + tap;
  std::map<std::string, std::size_t> rules;  // by chain
  std::string elements;
  for (const char* family : {"ip", "bridge"}) {
    const auto listed = nftables_.list_table(what, family, table_);
    if (!listed) {
      const bool gone = listed.error().code == Errc::conflict;
      return gone ? make_error(Errc::conflict, "its security groups are not asked: " +
                                                   listed.error().what)
                  : listed.error();
    }
    for (const auto& rule : listed->rules) ++rules[rule.chain];
    elements += listed->elements;
  }
  const auto has = [&rules](const std::string& chain) { return rules.contains(chain); };
  const bool led = has("send") && has("receive") && has("decided") && has("leave");
  const bool named = elements.find('"' + tap + '"') != std::string::npos &&
                     elements.find("\"i_" + tap + '"') != std::string::npos &&
                     elements.find("\"o_" + tap + '"') != std::string::npos;
  if (led && named && has("i_" + tap) && has("o_" + tap)) return {};
  return make_error(Errc::conflict, "its security groups are not asked");
}

Result<void> GroupFilter::check_groups(const FabricGroups& groups,
                                       const std::vector<Device>& devices) const {
  for (const Device& device : devices) {
    auto address = plain_address("port " + device.port.port, device.port.address);
    if (!address) return address.error();
  }
  for (const GroupMembers& members : groups.members) {
    for (const std::string& text : members.addresses) {
      auto address = plain_address("member of " + members.group, text);
      if (!address) return address.error();
    }
  }
  for (const GroupRules& rules : groups.rules) {
    for (const SecurityRule& rule : rules.rules) {
      if (rule.remote.empty() || parse_range(rule.remote)) continue;
      return make_error(Errc::invalid, fmt::format("rule of {}: \"{}\" is no range of IPv4",
                                                   rules.group, rule.remote));
    }
  }
  return {};
}

Result<void> GroupFilter::take(const FabricGroups& groups, const std::vector<Device>& devices) {
  if (auto sound = check_groups(groups, devices); !sound) return sound;
  if (groups.whole) {
    for (auto& [tap, port] : ports_) {
      port.groups.clear();
      pending_.ports.insert(tap);
    }
  }
  for (const Device& device : devices) {
    const PortGroups& told = device.port;
    pending_.ports.insert(device.tap);
    if (told.groups.empty()) {
      ports_.erase(device.tap);
    } else {
      ports_[device.tap] = {told.vni, *plain_address("port", told.address), told.groups};
    }
  }
  for (const GroupRules& told : groups.rules) {
    rules_[{told.vni, told.group}] = told.rules;
    pending_.rules.insert({told.vni, told.group});
  }
  std::set<Part> seen;
  for (const GroupMembers& told : groups.members) {
    const Part part{told.vni, told.group};
    if (seen.insert(part).second) members_[part].clear();
    for (const std::string& address : told.addresses)
      members_[part].insert(*plain_address("member", address));
    pending_.members.insert(part);
  }
  informed_ = informed_ || groups.whole;
  return commit("let ports exchange what their security groups allow");
}

Result<void> GroupFilter::close(const std::string& tap, std::uint32_t vni,
                                const std::string& address) {
  const auto plain = plain_address("address", address);
  if (!plain) return plain.error();
  const auto found = ports_.find(tap);
  const bool same =
      found != ports_.end() && found->second.vni == vni && found->second.address == *plain;
  if (!same) {
    ports_[tap] = {vni, *plain, {}};
    pending_.ports.insert(tap);
  }
  return commit("close " + tap + " until its security groups are known");
}

Result<void> GroupFilter::forget(const std::string& tap) {
  if (ports_.erase(tap) + there_.count(tap) == 0) return {};
  return commit("forget the security groups of " + tap);
}

Result<void> GroupFilter::remove_all() {
  ports_.clear();
  return commit("remove the filter of security groups");
}

std::set<GroupFilter::Part> GroupFilter::parts_in_use() const {
  std::set<Part> used;
  for (const auto& [tap, port] : ports_) {
    for (const std::string& group : port.groups) used.insert({port.vni, group});
  }
  const std::set<Part> having = used;
  for (const Part& part : having) {
    const auto rules = rules_.find(part);
    if (rules == rules_.end()) continue;
    for (const SecurityRule& rule : rules->second) {
      if (!rule.remote_group.empty()) used.insert({part.first, rule.remote_group});
    }
  }
  return used;
}

void GroupFilter::give_zones() {
  const std::set<std::uint32_t> wanted = networks();
  std::erase_if(zones_, [&](const auto& zone) { return !wanted.contains(zone.first); });
  std::set<std::uint16_t> taken;
  for (const auto& [vni, zone] : zones_) taken.insert(zone);
  std::uint16_t next = 1;
  for (const std::uint32_t vni : wanted) {
    if (zones_.contains(vni)) continue;
    while (taken.contains(next)) ++next;
    zones_[vni] = next;
    taken.insert(next);
  }
}

std::string GroupFilter::zones_text() const {
  std::string text = fmt::format("flush map ip {} zones\n", table_);
  for (const auto& [vni, zone] : zones_)
    text += fmt::format("add element ip {} zones {{ \"{}\" : {} }}\n", table_, bridge(vni), zone);
  return text;
}

std::string GroupFilter::base_text() const {
  return fmt::format(kBase, table_, prefix_ + "br", kDecided, kAllButDecided, kTakenUp,
                     prefix_ + "g");
}

std::string GroupFilter::part_text(const Part& part) const {
  const std::string name = part_name(part.first, part.second);
  std::string text = fmt::format("add set ip {} {} {{ type ipv4_addr ; }}\n", table_, name);
  for (const char* kind : kParts)
    text += fmt::format("add chain ip {} {}_{}\n", table_, name, kind);
  return text;
}

std::string GroupFilter::rules_text(const Part& part) const {
  const std::string name = part_name(part.first, part.second);
  std::string text;
  for (const char* kind : kParts)
    text += fmt::format("flush chain ip {} {}_{}\n", table_, name, kind);
  const auto found = rules_.find(part);
  if (found == rules_.end()) return text;
  for (const SecurityRule& rule : found->second) {
    const bool in = rule.direction == RuleDirection::ingress;
    const std::string set = part_name(part.first, rule.remote_group);
    text += fmt::format("add rule ip {} {}_{} {}\n", table_, name, in ? "in" : "out",
                        rule_text(rule, false, set));
    if (rule.protocol != RuleProtocol::any && rule.protocol != RuleProtocol::tcp) continue;
    text += fmt::format("add rule ip {} {}_{} {}\n", table_, name, in ? "back_out" : "back_in",
                        rule_text(rule, true, set));
  }
  return text;
}

std::string GroupFilter::members_text(const Part& part) const {
  const std::string name = part_name(part.first, part.second);
  std::string text = fmt::format("flush set ip {} {}\n", table_, name);
  const auto found = members_.find(part);
  if (found == members_.end() || found->second.empty()) return text;
  return text + fmt::format("add element ip {} {} {{ {} }}\n", table_, name,
                            fmt::join(found->second, ", "));
}

std::string GroupFilter::port_text(const std::string& tap, const Guarded& port) const {
  std::string text = fmt::format(kPort, table_, tap, bridge(port.vni), port.address);
  if (!stays(tap)) {
    text += fmt::format("add element ip {} picking {{ \"{}\" . {} timeout {}s }}\n", table_,
                        bridge(port.vni), port.address, kPickUpSeconds);
  }
  for (const bool in : {true, false}) {
    const std::string chain = (in ? "i_" : "o_") + tap;
    text += fmt::format(kBegin, table_, chain, kTakenUp);
    const auto jump = [&](const char* kind) {
      for (const std::string& group : port.groups) {
        text += fmt::format("add rule ip {} {} jump {}_{}\n", table_, chain,
                            part_name(port.vni, group), kind);
      }
    };
    jump(in ? "in" : "out");
    text += fmt::format("add rule ip {} {} ct mark != {} counter drop\n", table_, chain, kTakenUp);
    jump(in ? "back_in" : "back_out");
    text += fmt::format("add rule ip {} {} counter drop\n", table_, chain);
  }
  return text;
}

/// Whether the kernel filters the port where it shall.
bool GroupFilter::stays(const std::string& tap) const {
  const auto before = there_.find(tap), now = ports_.find(tap);
  return before != there_.end() && now != ports_.end() && before->second.vni == now->second.vni &&
         before->second.address == now->second.address;
}

std::string GroupFilter::ports_text() const {
  std::string text;
  for (const auto& [tap, port] : there_) {
    if (!stays(tap)) text += fmt::format(kGone, table_, tap, bridge(port.vni), port.address);
  }
  for (const auto& [tap, port] : ports_) {
    if (pending_.ports.contains(tap) || !stays(tap)) text += port_text(tap, port);
  }
  return text;
}

/// Of parts that no port uses any more.
std::string GroupFilter::removal_text(const std::set<std::string>& kept) const {
  std::string flushes;
  std::string text;
  for (const std::string& name : chains_) {
    if (kept.contains(name)) continue;
    for (const char* kind : kParts) {
      flushes += fmt::format("flush chain ip {} {}_{}\n", table_, name, kind);
      text += fmt::format("delete chain ip {} {}_{}\n", table_, name, kind);
    }
    text += fmt::format("delete set ip {} {}\n", table_, name);
  }
  return flushes + text;
}

Result<void> GroupFilter::remove_tables(const std::string& what) {
  if (auto done = nftables_.run(what, fmt::format(kRemove, table_)); !done) return done;
  there_.clear();
  zones_.clear();
  chains_.clear();
  rules_.clear();
  members_.clear();
  pending_ = Pending();
  return {};
}

/// Makes the kernel's tables what shall be; all of it or nothing.
Result<void> GroupFilter::commit(const std::string& what) {
  if (ports_.empty()) return remove_tables(what);
  give_zones();
  const std::set<Part> used = parts_in_use();
  std::set<std::string> names;
  std::string text = base_text() + zones_text();
  for (const Part& part : used) {
    const std::string name = part_name(part.first, part.second);
    names.insert(name);
    if (chains_.contains(name)) continue;
    text += part_text(part);
    pending_.rules.insert(part);
    pending_.members.insert(part);
  }
  if (!informed_) names.insert(chains_.begin(), chains_.end());
  text += ports_text();
  for (const Part& part : pending_.rules) {
    if (used.contains(part)) text += rules_text(part);
  }
  for (const Part& part : pending_.members) {
    if (used.contains(part)) text += members_text(part);
  }
  if (auto done = nftables_.run(what, text + removal_text(names)); !done) return done;
  std::vector<Guarded> begins;
  for (const auto& [tap, port] : ports_) {
    if (!stays(tap)) begins.push_back(port);
  }
  chains_ = std::move(names);
  there_ = ports_;
  pending_ = Pending();
  std::erase_if(rules_, [&](const auto& entry) { return !used.contains(entry.first); });
  std::erase_if(members_, [&](const auto& entry) { return !used.contains(entry.first); });
  if (::access("/proc/sys/net/bridge/bridge-nf-call-iptables", F_OK) != 0) {
    return make_error(Errc::unavailable,
                      what +
                          ": the kernel's module br_netfilter is not loaded, so nothing passes; "
                          "`modprobe br_netfilter` on this host");
  }
  return forget_connections(begins);
}

Result<void> GroupFilter::forget_connections(const std::vector<Guarded>& ports) {
  Result<void> outcome;
  for (const Guarded& port : ports) {
    if (auto done = forget_connections(port); !done) outcome = done;
  }
  return outcome;
}

/// Of whoever had the address here before: their numbers do not fit what comes now.
Result<void> GroupFilter::forget_connections(const Guarded& port) {
  in_addr address{};
  ::inet_pton(AF_INET, port.address.c_str(), &address);
  const std::uint16_t zone = htons(zones_.at(port.vni));
  nfgenmsg header{};
  header.nfgen_family = AF_INET;
  const auto type = [](int message) {
    return static_cast<std::uint16_t>(NFNL_SUBSYS_CTNETLINK << 8 | message);
  };
  std::vector<std::string> found;
  const auto answer = connections_.list(
      NetlinkMessage(type(IPCTNL_MSG_CT_GET), 0).header(header), [&](std::string_view body) {
        const auto entry = parse_attributes(body.substr(std::min(body.size(), sizeof header)));
        const auto tuple = entry.find(CTA_TUPLE_ORIG);
        if (tuple == entry.end()) return;
        if (attribute_number<std::uint16_t>(entry, CTA_ZONE) != zone) return;
        const auto parts = parse_attributes(tuple->second);
        const auto ends = parts.find(CTA_TUPLE_IP);
        if (ends == parts.end()) return;
        const auto ip = parse_attributes(ends->second);
        const bool its = attribute_number<in_addr_t>(ip, CTA_IP_V4_SRC) == address.s_addr ||
                         attribute_number<in_addr_t>(ip, CTA_IP_V4_DST) == address.s_addr;
        if (its) found.emplace_back(tuple->second);
      });
  const std::string what = "forget the connections of " + port.address;
  if (auto listed = answer.as_result(what); !listed) return listed;
  for (const std::string& tuple : found) {
    NetlinkMessage message(type(IPCTNL_MSG_CT_DELETE), 0);
    message.header(header).bytes(CTA_TUPLE_ORIG | NLA_F_NESTED, tuple).number(CTA_ZONE, zone);
    const auto removed = connections_.execute(message);
    if (!removed.ok() && removed.error != ENOENT) return removed.as_result(what);
  }
  return {};
}

}  // namespace virga
