#include "driver/net/linux_fabric.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <netinet/ether.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "driver/net/balancer_leg.h"
#include "driver/net/cable.h"
#include "driver/net/keep_first.h"
#include "driver/net/packet_port.h"
#include "driver/net/stable_hash.h"
#include "edge/network_namespace.h"

namespace virga {
namespace {

constexpr std::uint16_t kTunnelPort = 4789;
constexpr std::uint8_t kTunnelTtl = 64;
constexpr std::string_view kBridgePart = "br";
constexpr std::string_view kTunnelPart = "vx";
constexpr std::string_view kTapPart = "t";
constexpr std::string_view kLegPart = "l";
constexpr std::string_view kGatewayPart = "g";
constexpr std::string_view kUplinkPart = "u";
constexpr const char* kSpaces = "/run/netns";
constexpr std::size_t kCallsMax = 4096;
constexpr std::uint16_t kReplace = NLM_F_CREATE | NLM_F_REPLACE;
constexpr std::uint16_t kNoFlags = 0;

Result<std::uint32_t> parse_address(const std::string& text) {
  in_addr address{};
  if (::inet_pton(AF_INET, text.c_str(), &address) != 1) {
    return make_error(Errc::invalid, fmt::format("\"{}\" is not an IPv4 address", text));
  }
  return address.s_addr;
}

/// "52:54:00:..." -> 6 bytes.
Result<std::string> parse_mac(const std::string& text) {
  const ether_addr* read = ::ether_aton(text.c_str());
  if (read == nullptr) return make_error(Errc::invalid, fmt::format("\"{}\" is no MAC", text));
  return std::string(reinterpret_cast<const char*>(read), sizeof *read);
}

/// Of a change to a table of a tunnel; what is to go may be gone.
Result<void> changed(const NetlinkAnswer& answer, bool add, const char* what, int tunnel) {
  if (!add && answer.error == ENOENT) return {};
  return answer.as_result(fmt::format("{} {}", what, tunnel));
}

/// A bridge without an address of its own takes one of its ports', and with each change of it the
/// kernel forgets the bridge's neighbours. The same on all hosts: no host sends from it.
std::string bridge_mac(std::uint32_t vni) {
  const char bytes[] = {'\x02',
                        'v',
                        'g',
                        static_cast<char>(vni >> 16),
                        static_cast<char>(vni >> 8 & 255),
                        static_cast<char>(vni & 255)};
  return {bytes, sizeof bytes};
}

/// Whether hexadecimal digits follow `begin`, and nothing else.
bool is_named(const std::string& name, const std::string& begin) {
  return name.size() > begin.size() && name.rfind(begin, 0) == 0 &&
         std::all_of(name.begin() + static_cast<std::ptrdiff_t>(begin.size()), name.end(),
                     [](unsigned char letter) { return std::isxdigit(letter); });
}

/// 10 hexadecimal digits.
std::string short_name(const std::string& of) {
  constexpr std::uint64_t kMask = (std::uint64_t{1} << 40) - 1;
  return fmt::format("{:010x}", stable_hash(of) & kMask);
}

ifinfomsg link_header(int index, unsigned flags = 0, unsigned mask = 0) {
  ifinfomsg header{};
  header.ifi_family = AF_UNSPEC;
  header.ifi_index = index;
  header.ifi_flags = flags;
  header.ifi_change = mask;
  return header;
}

}  // namespace

LinuxFabric::LinuxFabric(Loop& loop, LinuxFabricOptions options, NetlinkSocket socket,
                         Filters filters, std::uint32_t local)
    : options_(std::move(options)),
      socket_(std::move(socket)),
      filter_(std::move(filters.ports)),
      groups_(std::move(filters.groups)),
      way_out_(std::move(filters.way_out)),
      local_(local),
      announcing_(loop),
      worker_(loop, 1, kCallsMax) {}

Result<std::unique_ptr<LinuxFabric>> LinuxFabric::open(Loop& loop, LinuxFabricOptions options) {
  const auto local = parse_address(options.local_address);
  if (!local) return wrap_error("local address of the tenant network", local.error());
  const std::string& prefix = options.name_prefix;
  const bool plain = std::all_of(prefix.begin(), prefix.end(),
                                 [](unsigned char letter) { return std::isalnum(letter); });
  if (prefix.empty() || prefix.size() > 4 || !plain) {
    return make_error(
        Errc::invalid,
        fmt::format("device prefix \"{}\": 1 to 4 letters or digits are right", prefix));
  }
  if (options.space_prefix.empty()) options.space_prefix = prefix + "-";
  auto socket = NetlinkSocket::open(options.network_namespace);
  if (!socket) return socket.error();
  auto filter = PortFilter::open(prefix, options.network_namespace);
  if (!filter) return filter.error();
  auto groups = GroupFilter::open(prefix, options.network_namespace);
  if (!groups) return groups.error();
  auto way_out = WayOut::open(prefix, options.outside, options.network_namespace);
  if (!way_out) return way_out.error();
  Filters filters{std::move(*filter), std::move(*groups), std::move(*way_out)};
  std::unique_ptr<LinuxFabric> made(new LinuxFabric(loop, std::move(options), std::move(*socket),
                                                    std::move(filters), *local));
  if (!made->options_.tenant_device.empty()) {
    const auto device = made->link(made->options_.tenant_device);
    if (!device) return wrap_error("tenant device", device.error());
  }
  return made;
}

std::string LinuxFabric::bridge_name(std::uint32_t vni) const {
  return fmt::format("{}{}{}", options_.name_prefix, kBridgePart, vni);
}

std::string LinuxFabric::tunnel_name(std::uint32_t vni) const {
  return fmt::format("{}{}{}", options_.name_prefix, kTunnelPart, vni);
}

std::string LinuxFabric::tap_name(const std::string& port) const {
  return fmt::format("{}{}{}", options_.name_prefix, kTapPart, short_name(port));
}

std::string LinuxFabric::leg_name(const std::string& owner) const {
  return fmt::format("{}{}{}", options_.name_prefix, kLegPart, short_name(owner));
}

std::string LinuxFabric::leg_namespace(const ServiceId& service) const {
  return fmt::format("{}/{}{}{}", kSpaces, options_.space_prefix, kLegPart,
                     short_name(service.value));
}

std::string LinuxFabric::gateway_name(std::uint32_t vni) const {
  return fmt::format("{}{}{}", options_.name_prefix, kGatewayPart, vni);
}

std::string LinuxFabric::gateway_namespace(std::uint32_t vni) const {
  return fmt::format("{}/{}{}{}", kSpaces, options_.space_prefix, kGatewayPart, vni);
}

bool LinuxFabric::is_ours(const std::string& name, std::string_view part) const {
  return is_named(name, options_.name_prefix + std::string(part));
}

LinuxFabric::Link LinuxFabric::parse_link(std::string_view body) {
  ifinfomsg header{};
  body.copy(reinterpret_cast<char*>(&header), sizeof header);
  const auto attributes = parse_attributes(body.substr(std::min(body.size(), sizeof header)));
  Link link;
  link.index = header.ifi_index;
  link.up = (header.ifi_flags & IFF_UP) != 0;
  link.master = attribute_number<int>(attributes, IFLA_MASTER);
  link.mtu = attribute_number<std::uint32_t>(attributes, IFLA_MTU);
  const auto name = attributes.find(IFLA_IFNAME);
  const auto mac = attributes.find(IFLA_ADDRESS);
  if (mac != attributes.end()) link.mac = std::string(mac->second);
  if (name != attributes.end()) link.name = name->second.substr(0, name->second.find('\0'));
  const auto nested = attributes.find(IFLA_LINKINFO);
  if (nested == attributes.end()) return link;
  const auto info = parse_attributes(nested->second);
  const auto kind = info.find(IFLA_INFO_KIND);
  if (kind != info.end()) link.kind = kind->second.substr(0, kind->second.find('\0'));
  const auto data = info.find(IFLA_INFO_DATA);
  if (link.kind == "bridge" && data != info.end()) {
    link.tracked = attribute_number<std::uint8_t>(parse_attributes(data->second),
                                                  IFLA_BR_NF_CALL_IPTABLES) != 0;
  }
  if (link.kind != "vxlan" || data == info.end()) return link;
  const auto tunnel = parse_attributes(data->second);
  link.vni = attribute_number<std::uint32_t>(tunnel, IFLA_VXLAN_ID);
  link.local = attribute_number<std::uint32_t>(tunnel, IFLA_VXLAN_LOCAL);
  link.port = attribute_number<std::uint16_t>(tunnel, IFLA_VXLAN_PORT);
  link.lower_index = attribute_number<std::uint32_t>(tunnel, IFLA_VXLAN_LINK);
  link.learns = attribute_number<std::uint8_t>(tunnel, IFLA_VXLAN_LEARNING) != 0;
  return link;
}

Result<LinuxFabric::Links> LinuxFabric::links() {
  Links found;
  const auto answer = socket_.list(NetlinkMessage(RTM_GETLINK, 0).header(link_header(0)),
                                   [&found](std::string_view body) {
                                     Link link = parse_link(body);
                                     found[link.name] = std::move(link);
                                   });
  if (auto done = answer.as_result("list the host's network devices"); !done) return done.error();
  return found;
}

Result<LinuxFabric::Link> LinuxFabric::link(const std::string& name) {
  Link found;
  const auto answer =
      socket_.execute(NetlinkMessage(RTM_GETLINK, 0).header(link_header(0)).text(IFLA_IFNAME, name),
                      [&found](std::string_view body) { found = parse_link(body); });
  if (auto done = answer.as_result("look for network device " + name); !done) return done.error();
  return found;
}

Result<void> LinuxFabric::remove_link(const std::string& name) {
  const auto answer = socket_.execute(
      NetlinkMessage(RTM_DELLINK, 0).header(link_header(0)).text(IFLA_IFNAME, name));
  if (answer.error == ENODEV) return {};
  return answer.as_result("remove network device " + name);
}

Result<void> LinuxFabric::finish_link(const std::string& name, int mtu, int master) {
  const auto made = link(name);
  if (!made) return made.error();
  if (!made->up) {
    if (auto done = keep_addresses_off(socket_, made->index, name); !done) return done;
  }
  return adjust(*made, static_cast<std::uint32_t>(mtu), master);
}

Result<void> LinuxFabric::adjust(const Link& now, std::uint32_t mtu, int master) {
  if (now.mtu == mtu && now.master == master && now.up) return {};
  NetlinkMessage message(RTM_NEWLINK, 0);
  message.header(link_header(now.index, IFF_UP, IFF_UP))
      .number(IFLA_MTU, mtu)
      .number(IFLA_MASTER, master);
  return socket_.execute(message).as_result(
      fmt::format("set mtu {} and master of {}", mtu, now.name));
}

Result<int> LinuxFabric::ensure_bridge(const Links& present, const NetworkSpec& spec) {
  const std::string name = bridge_name(spec.vni);
  const std::string mac = bridge_mac(spec.vni);
  const auto found = present.find(name);
  if (found != present.end() && found->second.kind != "bridge") {
    return make_error(Errc::conflict,
                      fmt::format("{} is a {}, not a bridge; nobody else may use these names", name,
                                  found->second.kind));
  }
  if (found == present.end()) {
    NetlinkMessage message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
    message.header(link_header(0)).text(IFLA_IFNAME, name).bytes(IFLA_ADDRESS, mac);
    message.nest(IFLA_LINKINFO, [](NetlinkMessage& info) {
      info.text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, [](NetlinkMessage& data) {
        data.number(IFLA_BR_FORWARD_DELAY, std::uint32_t{0});
        data.number(IFLA_BR_STP_STATE, std::uint32_t{0});
        data.number(IFLA_BR_MCAST_SNOOPING, std::uint8_t{0});
      });
    });
    if (auto done = socket_.execute(message).as_result("make bridge " + name); !done)
      return done.error();
  }
  if (found != present.end() && found->second.mac != mac) {
    NetlinkMessage message(RTM_NEWLINK, 0);
    message.header(link_header(found->second.index)).bytes(IFLA_ADDRESS, mac);
    const auto fixed = socket_.execute(message).as_result("fix the address of bridge " + name);
    if (!fixed) return fixed.error();
  }
  if (auto done = finish_link(name, spec.mtu, 0); !done) return done.error();
  const auto made = link(name);
  if (!made) return made.error();
  return made->index;
}

Result<void> LinuxFabric::ensure_tunnel(const Links& present, const NetworkSpec& spec, int bridge) {
  const std::string name = tunnel_name(spec.vni);
  std::uint32_t lower = 0;
  if (!options_.tenant_device.empty()) {
    const auto device = present.find(options_.tenant_device);
    if (device == present.end()) {
      return make_error(Errc::not_found,
                        "the tenant device " + options_.tenant_device + " is gone");
    }
    lower = static_cast<std::uint32_t>(device->second.index);
  }
  const auto found = present.find(name);
  if (found != present.end()) {
    const Link& now = found->second;
    const bool same = now.kind == "vxlan" && now.vni == spec.vni && now.local == local_ &&
                      now.port == htons(kTunnelPort) && now.lower_index == lower && !now.learns;
    if (same) return finish_tunnel(name, spec.mtu, bridge);
    if (auto done = remove_link(name); !done) return done;
  }
  NetlinkMessage message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  message.header(link_header(0)).text(IFLA_IFNAME, name);
  message.nest(IFLA_LINKINFO, [&](NetlinkMessage& info) {
    info.text(IFLA_INFO_KIND, "vxlan").nest(IFLA_INFO_DATA, [&](NetlinkMessage& data) {
      data.number(IFLA_VXLAN_ID, spec.vni).number(IFLA_VXLAN_LOCAL, local_);
      data.number(IFLA_VXLAN_PORT, htons(kTunnelPort)).number(IFLA_VXLAN_TTL, kTunnelTtl);
      data.number(IFLA_VXLAN_LEARNING, std::uint8_t{0});
      if (lower != 0) data.number(IFLA_VXLAN_LINK, lower);
    });
  });
  const auto made = socket_.execute(message);
  if (!made.ok())
    return made.as_result(fmt::format("make tunnel {} from {}", name, options_.local_address));
  return finish_tunnel(name, spec.mtu, bridge);
}

/// Where a guest is the server says, not what came out of the tunnel. The bridge answers ARP for
/// what is behind it.
Result<void> LinuxFabric::finish_tunnel(const std::string& name, int mtu, int bridge) {
  if (auto done = finish_link(name, mtu, bridge); !done) return done;
  const auto tunnel = link(name);
  if (!tunnel) return tunnel.error();
  ifinfomsg header = link_header(tunnel->index);
  header.ifi_family = AF_BRIDGE;
  NetlinkMessage message(RTM_SETLINK, 0);
  message.header(header).nest(IFLA_PROTINFO | NLA_F_NESTED, [](NetlinkMessage& port) {
    port.number(IFLA_BRPORT_LEARNING, std::uint8_t{0});
    port.number(IFLA_BRPORT_NEIGH_SUPPRESS, std::uint8_t{1});
  });
  return socket_.execute(message).as_result("keep the bridge from learning behind " + name);
}

Result<void> LinuxFabric::ensure_network(const Links& present, const NetworkSpec& spec) {
  const auto bridge = ensure_bridge(present, spec);
  if (!bridge) return bridge.error();
  return ensure_tunnel(present, spec, *bridge);
}

Result<void> LinuxFabric::remove_stale(const Links& present,
                                       const std::set<std::uint32_t>& wanted) {
  std::set<std::string> kept;
  for (const std::uint32_t vni : wanted) {
    kept.insert(bridge_name(vni));
    kept.insert(tunnel_name(vni));
  }
  Result<void> outcome;
  for (const auto& [name, ignored] : present) {
    const bool ours = is_ours(name, kBridgePart) || is_ours(name, kTunnelPart);
    if (ours && !kept.contains(name)) keep_first(outcome, remove_link(name));
  }
  return outcome;
}

Result<void> LinuxFabric::change_forward(int tunnel, const std::string& mac, std::uint32_t host,
                                         bool add) {
  ndmsg header{};
  header.ndm_family = AF_BRIDGE;
  header.ndm_ifindex = tunnel;
  header.ndm_state = NUD_PERMANENT;
  header.ndm_flags = NTF_SELF;
  NetlinkMessage message(add ? RTM_NEWNEIGH : RTM_DELNEIGH, add ? kReplace : kNoFlags);
  message.header(header).bytes(NDA_LLADDR, mac).number(NDA_DST, host);
  return changed(socket_.execute(message), add, "lead tunnel", tunnel);
}

Result<void> LinuxFabric::change_bridge(int tunnel, const std::string& mac, bool add) {
  ndmsg header{};
  header.ndm_family = AF_BRIDGE;
  header.ndm_ifindex = tunnel;
  header.ndm_state = NUD_NOARP;
  header.ndm_flags = NTF_MASTER;
  NetlinkMessage message(add ? RTM_NEWNEIGH : RTM_DELNEIGH, add ? kReplace : kNoFlags);
  message.header(header).bytes(NDA_LLADDR, mac);
  return changed(socket_.execute(message), add, "lead the bridge of tunnel", tunnel);
}

Result<void> LinuxFabric::change_neighbour(int bridge, const std::string& mac,
                                           const std::string& address, bool add) {
  ndmsg header{};
  header.ndm_family = AF_INET;
  header.ndm_ifindex = bridge;
  header.ndm_state = NUD_PERMANENT;
  NetlinkMessage message(add ? RTM_NEWNEIGH : RTM_DELNEIGH, add ? kReplace : kNoFlags);
  message.header(header).bytes(NDA_DST, address);
  if (add) message.bytes(NDA_LLADDR, mac);
  return changed(socket_.execute(message), add, "let answer for a neighbour bridge", bridge);
}

/// From what is there to what shall be. The way is there before what makes guests use it.
Result<void> LinuxFabric::lead(const Tunnel& tunnel, const std::string& mac, const Entries& now,
                               const Place& to) {
  const bool away = to.host != 0 && to.host != local_;
  Result<void> outcome;
  if (away && now.host != to.host)
    keep_first(outcome, change_forward(tunnel.index, mac, to.host, true));
  if (away != now.bridged) keep_first(outcome, change_bridge(tunnel.index, mac, away));
  for (const std::string& address : now.addresses) {
    if (!away || address != to.address)
      keep_first(outcome, change_neighbour(tunnel.bridge, mac, address, false));
  }
  if (away && !now.addresses.contains(to.address))
    keep_first(outcome, change_neighbour(tunnel.bridge, mac, to.address, true));
  if (!away && now.host != 0)
    keep_first(outcome, change_forward(tunnel.index, mac, now.host, false));
  return outcome;
}

Result<std::map<int, std::map<std::string, LinuxFabric::Entries>>> LinuxFabric::present_entries() {
  std::map<int, int> tunnel_of;  // itself and its bridge
  for (const auto& [vni, tunnel] : tunnels_)
    tunnel_of[tunnel.index] = tunnel_of[tunnel.bridge] = tunnel.index;
  std::map<int, std::map<std::string, Entries>> found;
  const auto read = [&](std::string_view body) {
    ndmsg seen{};
    body.copy(reinterpret_cast<char*>(&seen), sizeof seen);
    const auto tunnel = tunnel_of.find(seen.ndm_ifindex);
    const auto attributes = parse_attributes(body.substr(std::min(body.size(), sizeof seen)));
    const auto mac = attributes.find(NDA_LLADDR);
    if (tunnel == tunnel_of.end() || mac == attributes.end()) return;
    const auto to = attributes.find(NDA_DST);
    const bool bridge = seen.ndm_ifindex != tunnel->second;
    const bool own = seen.ndm_family == AF_BRIDGE && to != attributes.end();
    const bool device = seen.ndm_family == AF_BRIDGE && (seen.ndm_state & NUD_PERMANENT) != 0;
    if (seen.ndm_family == AF_BRIDGE && !own && (bridge || device)) return;
    Entries& entries = found[tunnel->second][std::string(mac->second)];
    if (own) {
      entries.host = attribute_number<std::uint32_t>(attributes, NDA_DST);
    } else if (seen.ndm_family == AF_BRIDGE) {
      entries.bridged = true;
    } else if (bridge && to != attributes.end()) {
      entries.addresses.insert(std::string(to->second));
    }
  };
  for (const std::uint8_t family : {AF_BRIDGE, AF_INET}) {
    ndmsg header{};
    header.ndm_family = family;
    const auto answer = socket_.list(NetlinkMessage(RTM_GETNEIGH, 0).header(header), read);
    if (auto done = answer.as_result("list where the tunnels lead"); !done) return done.error();
  }
  return found;
}

/// Makes what leads out of all tunnels equal to the places that were told. A network of which
/// nothing was told yet keeps what an earlier agent has made.
Result<void> LinuxFabric::ensure_places() {
  astray_ = true;
  auto present = present_entries();
  if (!present) return present.error();
  Result<void> outcome;
  for (const auto& [vni, tunnel] : tunnels_) {
    const auto told = places_.find(vni);
    if (told == places_.end()) continue;
    std::map<std::string, Entries>& entries = (*present)[tunnel.index];
    const Places& wanted = told->second;
    for (const auto& [mac, place] : wanted)
      keep_first(outcome, lead(tunnel, mac, entries[mac], place));
    for (const auto& [mac, now] : entries) {
      if (!wanted.contains(mac)) keep_first(outcome, lead(tunnel, mac, now, Place()));
    }
  }
  astray_ = !outcome.ok();
  return outcome;
}

Result<void> LinuxFabric::take_places(const FabricPlaces& places) {
  for (const std::uint32_t vni : places.whole) places_[vni].clear();
  bool reconcile = !places.whole.empty() || astray_;
  std::set<std::uint32_t> touched(places.whole.begin(), places.whole.end());
  Result<void> outcome;
  for (const PortPlace& port : places.at) {
    const auto mac = parse_mac(port.mac);
    const auto address = parse_address(port.address);
    const auto host =
        port.host_address.empty() ? Result<std::uint32_t>(0) : parse_address(port.host_address);
    const auto floating =
        port.floating.empty() ? Result<std::uint32_t>(0) : parse_address(port.floating);
    if (!mac || !address || !host || !floating) {
      keep_first(outcome,
                 make_error(Errc::invalid, fmt::format("port {} {} at {}: cannot be read", port.mac,
                                                       port.address, port.host_address)));
      continue;
    }
    std::string bytes(reinterpret_cast<const char*>(&*address), sizeof *address);
    const Place now{std::move(bytes), *host, ntohl(*floating)};
    const auto tunnel = tunnels_.find(port.vni);
    if (!reconcile && tunnel != tunnels_.end()) {
      const Place& before = places_[port.vni][*mac];
      const bool away = before.host != 0 && before.host != local_;
      const Entries entries{away ? before.host : 0, away,
                            away ? std::set<std::string>{before.address} : std::set<std::string>()};
      reconcile = !lead(tunnel->second, *mac, entries, now).ok();
    }
    touched.insert(port.vni);
    places_[port.vni][*mac] = now;
    if (*host == 0) places_[port.vni].erase(*mac);
  }
  if (reconcile) keep_first(outcome, ensure_places());
  for (const auto& [vni, leading] : leading_) {
    if (reconcile || touched.contains(vni)) keep_first(outcome, ensure_floating(vni));
  }
  astray_ = astray_ || !outcome.ok();
  return outcome;
}

void LinuxFabric::apply(const FabricState& state, Callback<void> done) {
  worker_.run<void>([this, state] { return make_equal_to(state); }, std::move(done));
}

void LinuxFabric::place(const FabricPlaces& places, Callback<void> done) {
  worker_.run<void>([this, places] { return take_places(places); },
                    then_announce(std::move(done)));
}

void LinuxFabric::guard(const FabricGroups& groups, Callback<void> done) {
  worker_.run<void>([this, groups] { return take_groups(groups); }, std::move(done));
}

void LinuxFabric::open_port(const LaunchNic& nic, Callback<OpenPort> done) {
  const auto opened = [this, done = std::move(done),
                       alive = std::weak_ptr(alive_)](Result<OpenPort> port) {
    if (!alive.expired()) announce_later();
    done(std::move(port));
  };
  worker_.run<OpenPort>([this, nic] { return make_port(nic); }, opened);
}

void LinuxFabric::close_port(const LaunchNic& nic, Callback<void> done) {
  worker_.run<void>([this, nic] { return remove_port(nic); }, std::move(done));
}

void LinuxFabric::open_gateway(const GatewayNetwork& network, Callback<void> done) {
  worker_.run<void>([this, network] { return make_gateway(network); },
                    then_announce(std::move(done)));
}

void LinuxFabric::close_gateway(std::uint32_t vni, Callback<void> done) {
  worker_.run<void>([this, vni] { return remove_gateway(vni); }, std::move(done));
}

void LinuxFabric::open_leg(const ServiceId& service, const BalancerLeg& leg, Callback<void> done) {
  worker_.run<void>([this, service, leg] { return make_leg(service, leg); },
                    then_announce(std::move(done)));
}

void LinuxFabric::close_leg(const ServiceId& service, Callback<void> done) {
  worker_.run<void>([this, service] { return remove_leg(service); }, std::move(done));
}

void LinuxFabric::visit(const std::string& visitor, const BalancerLeg& leg,
                        Callback<std::shared_ptr<const int>> done) {
  worker_.run<std::shared_ptr<const int>>([this, visitor, leg] { return make_visit(visitor, leg); },
                                          std::move(done));
}

void LinuxFabric::leave(const std::string& visitor, Callback<void> done) {
  worker_.run<void>([this, visitor] { return remove_leg_device(visitor); }, std::move(done));
}

void LinuxFabric::remove_all(Callback<void> done) {
  worker_.run<void>([this] { return remove_devices(); }, std::move(done));
}

Result<void> LinuxFabric::make_equal_to(const FabricState& state) {
  if (state.version < version_) return {};
  auto present = links();
  if (!present) return present.error();
  std::set<std::uint32_t> wanted;
  for (const Network& network : state.networks) wanted.insert(network.spec.vni);
  Result<void> outcome = remove_stale(*present, wanted);
  for (const Network& network : state.networks) {
    auto done = ensure_network(*present, network.spec);
    if (!done) keep_first(outcome, wrap_error("network " + network.id().value, done.error()));
  }
  present = links();
  if (!present) return present.error();
  tunnels_.clear();
  for (const std::uint32_t vni : wanted) {
    const auto tunnel = present->find(tunnel_name(vni));
    if (tunnel != present->end()) tunnels_[vni] = {tunnel->second.index, tunnel->second.master};
  }
  std::erase_if(places_, [&](const auto& entry) { return !wanted.contains(entry.first); });
  keep_first(outcome, ensure_places());
  tracked_.clear();  // bridges may be new
  keep_first(outcome, ensure_tracking());
  if (outcome.ok()) version_ = state.version;
  return outcome;
}

/// Of a whole message, ports that are named nowhere: those that have a device stay, closed.
Result<void> LinuxFabric::take_groups(const FabricGroups& groups) {
  std::vector<GroupFilter::Device> devices;
  std::set<std::string> named;
  for (const PortGroups& port : groups.ports) {
    devices.push_back({tap_name(port.port), port});
    named.insert(devices.back().tap);
  }
  auto outcome = groups_.take(groups, devices);
  keep_first(outcome, ensure_tracking());
  if (!groups.whole) return outcome;
  const auto present = links();
  if (!present) return present.error();
  for (const std::string& tap : groups_.taps()) {
    if (!named.contains(tap) && !present->contains(tap)) keep_first(outcome, groups_.forget(tap));
  }
  return outcome;
}

/// Closed before it is joined; what is there already stays as it was told.
Result<void> LinuxFabric::guard_new(const LaunchNic& nic, const std::string& tap) {
  if (!nic.guarded || link(tap).ok()) return {};
  auto closed = groups_.close(tap, nic.vni, nic.address.substr(0, nic.address.find('/')));
  return closed ? ensure_tracking() : closed;
}

/// Bridges of filtered ports hand packets to the kernel's connection tracking, others do not.
Result<void> LinuxFabric::ensure_tracking() {
  const std::set<std::uint32_t> wanted = groups_.networks();
  std::set<std::uint32_t> all = wanted;
  all.insert(tracked_.begin(), tracked_.end());
  Result<void> outcome;
  for (const std::uint32_t vni : all) {
    const bool on = wanted.contains(vni);
    if (on == tracked_.contains(vni)) continue;
    const auto bridge = link(bridge_name(vni));
    if (!bridge) continue;  // apply() makes it and comes here again
    NetlinkMessage message(RTM_NEWLINK, 0);
    message.header(link_header(bridge->index)).nest(IFLA_LINKINFO, [on](NetlinkMessage& info) {
      info.text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, [on](NetlinkMessage& data) {
        data.number(IFLA_BR_NF_CALL_IPTABLES, static_cast<std::uint8_t>(on));
      });
    });
    auto done = socket_.execute(message).as_result("track connections on bridge " + bridge->name);
    if (done && on) tracked_.insert(vni);
    if (done && !on) tracked_.erase(vni);
    keep_first(outcome, std::move(done));
  }
  return outcome;
}

/// Without the headers of virtio: a guest's state would say that it has them, and no other back end
/// could take over. The descriptor is not valid when another process holds the tap already.
Result<Descriptor> LinuxFabric::open_tap(const std::string& name) const {
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  Descriptor tap;
  int error = 0;
  // A tap belongs to the namespace in which its device file was opened.
  auto entered = in_network_namespace(options_.network_namespace, [&] {
    tap = Descriptor(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    error = tap.valid() && ::ioctl(tap.get(), TUNSETIFF, &request) == 0 ? 0 : errno;
  });
  if (!entered) return entered.error();
  if (error == EBUSY) return Descriptor();
  if (error == 0) return tap;
  return NetlinkAnswer{error, std::strerror(error)}.as_result("make tap " + name).error();
}

Result<Descriptor> LinuxFabric::open_packets(const std::string& name, int mtu) {
  auto port = open_packet_port(socket_, options_.network_namespace, name, mtu);
  const bool held = !port && port.error().code == Errc::conflict;
  return held ? Descriptor() : std::move(port);
}

Result<OpenPort> LinuxFabric::make_port(const LaunchNic& nic) {
  const std::string what = fmt::format("open port {} on network {}", nic.port, nic.network);
  const auto bridge = link(bridge_name(nic.vni));
  if (!bridge) return wrap_error(what + ": the network is not on this host", bridge.error());
  OpenPort port{-1, tap_name(nic.port), options_.packet_ports};
  if (auto done = filter_.set(port.tap_name, nic); !done) return wrap_error(what, done.error());
  if (auto done = guard_new(nic, port.tap_name); !done) return wrap_error(what, done.error());
  auto opened = port.packets ? open_packets(port.tap_name, nic.mtu) : open_tap(port.tap_name);
  if (!opened) return wrap_error(what, opened.error());
  if (auto done = finish_link(port.tap_name, nic.mtu, bridge->index); !done)
    return wrap_error(what, done.error());
  port.tap_descriptor = opened->release();
  if (const auto mac = parse_mac(nic.mac)) present_[nic.vni].insert(*mac);
  astray_ = !ensure_floating(nic.vni).ok() || astray_;
  return port;
}

Result<void> LinuxFabric::remove_port(const LaunchNic& nic) {
  const std::string name = tap_name(nic.port);
  auto removed = remove_link(name);
  if (!removed) return removed;
  if (const auto mac = parse_mac(nic.mac)) present_[nic.vni].erase(*mac);
  removed = ensure_floating(nic.vni);
  keep_first(removed, filter_.forget(name));
  keep_first(removed, groups_.forget(name));
  keep_first(removed, ensure_tracking());
  return removed;
}

/// What it may send is said before it is joined, as with a guest's port.
Result<Descriptor> LinuxFabric::join_leg(const std::string& owner, const BalancerLeg& leg,
                                         const MakeSpace& make_space) {
  const std::string what = fmt::format("open the leg of {} on VNI {}", owner, leg.vni);
  if (auto fine = check_leg(leg); !fine) return wrap_error(what, fine.error());
  const auto bridge = link(bridge_name(leg.vni));
  if (!bridge) return wrap_error(what + ": the network is not on this host", bridge.error());
  const std::string device = leg_name(owner);
  const LaunchNic port{owner, "", leg.vni, leg.mac, leg.address, leg.mtu};
  if (auto done = filter_.set(device, port); !done) return wrap_error(what, done.error());
  auto space = make_space();
  if (!space) return wrap_error(what, space.error());
  if (auto done = ensure_leg(socket_, device, space->get(), leg); !done)
    return wrap_error(what, done.error());
  if (auto joined = finish_link(device, leg.mtu, bridge->index); !joined)
    return wrap_error(what, joined.error());
  return space;
}

Result<void> LinuxFabric::make_leg(const ServiceId& service, const BalancerLeg& leg) {
  const auto joined = join_leg(service.value, leg,
                               [&] { return ensure_network_namespace(leg_namespace(service)); });
  if (!joined) return joined.error();
  const BalancerLeg before = std::exchange(legs_[service], leg);
  if (const auto mac = parse_mac(before.mac)) present_[before.vni].erase(*mac);
  if (const auto mac = parse_mac(leg.mac)) present_[leg.vni].insert(*mac);
  astray_ = !ensure_floating(leg.vni).ok() || astray_;
  return {};
}

Result<std::shared_ptr<const int>> LinuxFabric::make_visit(const std::string& visitor,
                                                           const BalancerLeg& leg) {
  auto space = join_leg(visitor, leg, make_network_namespace);
  if (!space) return space.error();
  return std::shared_ptr<const int>(new int(space->release()), [](const int* held) {
    ::close(*held);
    delete held;
  });
}

Result<void> LinuxFabric::remove_leg_device(const std::string& owner) {
  const std::string device = leg_name(owner);
  auto removed = remove_link(device);
  return removed ? filter_.forget(device) : removed;
}

Result<void> LinuxFabric::remove_leg(const ServiceId& service) {
  Result<void> removed;
  if (const auto leg = legs_.extract(service); !leg.empty()) {
    if (const auto mac = parse_mac(leg.mapped().mac)) present_[leg.mapped().vni].erase(*mac);
    removed = ensure_floating(leg.mapped().vni);
  }
  keep_first(removed, remove_leg_device(service.value));
  keep_first(removed, remove_network_namespace(leg_namespace(service)));
  return removed;
}

Result<void> LinuxFabric::remove_spaces() const {
  Result<void> outcome;
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(kSpaces, failed)) {
    const std::string name = entry.path().filename().string();
    const bool ours = is_named(name, options_.space_prefix + std::string(kLegPart)) ||
                      is_named(name, options_.space_prefix + std::string(kGatewayPart));
    if (!ours) continue;
    keep_first(outcome, remove_network_namespace(entry.path().string()));
  }
  drop_unused_namespace_folder(kSpaces);
  return outcome;
}

Result<void> LinuxFabric::remove_devices() {
  const auto present = links();
  if (!present) return present.error();
  Result<void> outcome;
  for (const auto& [name, ignored] : *present) {
    bool ours = false;
    for (const auto part :
         {kBridgePart, kTunnelPart, kTapPart, kLegPart, kGatewayPart, kUplinkPart}) {
      ours = ours || is_ours(name, part);
    }
    if (ours) keep_first(outcome, remove_link(name));
  }
  keep_first(outcome, remove_spaces());
  keep_first(outcome, way_out_.part(0));
  keep_first(outcome, filter_.remove_all());
  keep_first(outcome, groups_.remove_all());
  tracked_.clear();
  version_ = 0;
  return outcome;
}

}  // namespace virga
