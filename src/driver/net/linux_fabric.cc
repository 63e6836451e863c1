#include "driver/net/linux_fabric.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>

#include "driver/net/packet_port.h"

namespace virga {
namespace {

constexpr std::uint16_t kTunnelPort = 4789;
constexpr std::uint8_t kTunnelTtl = 64;
constexpr std::string_view kBridgePart = "br";
constexpr std::string_view kTunnelPart = "vx";
constexpr std::string_view kTapPart = "t";
constexpr std::size_t kMacBytes = 6;
constexpr std::size_t kCallsMax = 4096;
const std::string kEveryMac(kMacBytes, '\0');  // VXLAN's flood list stands under the MAC of zeroes

Result<std::uint32_t> parse_address(const std::string& text) {
  in_addr address{};
  if (::inet_pton(AF_INET, text.c_str(), &address) != 1) {
    return make_error(Errc::invalid, fmt::format("\"{}\" is not an IPv4 address", text));
  }
  return address.s_addr;
}

std::string show_address(std::uint32_t address) {
  char text[INET_ADDRSTRLEN] = {};
  ::inet_ntop(AF_INET, &address, text, sizeof text);
  return text;
}

/// FNV-1a: the same on every machine and for ever, so that a restarted agent finds its taps.
std::uint64_t stable_hash(const std::string& text) {
  std::uint64_t hash = 14695981039346656037ULL;
  for (const char letter : text) {
    hash = (hash ^ static_cast<unsigned char>(letter)) * 1099511628211ULL;
  }
  return hash;
}

/// Keeps the first error of several independent steps.
void keep_first(Result<void>& first, Result<void> next) {
  if (first.ok() && !next.ok()) first = std::move(next);
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
                         PortFilter filter, std::uint32_t local)
    : options_(std::move(options)),
      socket_(std::move(socket)),
      filter_(std::move(filter)),
      local_(local),
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
  auto socket = NetlinkSocket::open(options.network_namespace);
  if (!socket) return socket.error();
  auto filter = PortFilter::open(prefix + "ports", options.network_namespace);
  if (!filter) return filter.error();
  std::unique_ptr<LinuxFabric> made(
      new LinuxFabric(loop, std::move(options), std::move(*socket), std::move(*filter), *local));
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
  constexpr std::uint64_t kMask = (std::uint64_t{1} << 40) - 1;
  return fmt::format("{}{}{:010x}", options_.name_prefix, kTapPart, stable_hash(port) & kMask);
}

bool LinuxFabric::is_ours(const std::string& name, std::string_view part) const {
  const std::string begin = options_.name_prefix + std::string(part);
  return name.size() > begin.size() && name.rfind(begin, 0) == 0 &&
         std::all_of(name.begin() + static_cast<std::ptrdiff_t>(begin.size()), name.end(),
                     [](unsigned char letter) { return std::isxdigit(letter); });
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
  if (name != attributes.end()) link.name = name->second.substr(0, name->second.find('\0'));
  const auto nested = attributes.find(IFLA_LINKINFO);
  if (nested == attributes.end()) return link;
  const auto info = parse_attributes(nested->second);
  const auto kind = info.find(IFLA_INFO_KIND);
  if (kind != info.end()) link.kind = kind->second.substr(0, kind->second.find('\0'));
  const auto data = info.find(IFLA_INFO_DATA);
  if (link.kind != "vxlan" || data == info.end()) return link;
  const auto tunnel = parse_attributes(data->second);
  link.vni = attribute_number<std::uint32_t>(tunnel, IFLA_VXLAN_ID);
  link.local = attribute_number<std::uint32_t>(tunnel, IFLA_VXLAN_LOCAL);
  link.port = attribute_number<std::uint16_t>(tunnel, IFLA_VXLAN_PORT);
  link.lower_index = attribute_number<std::uint32_t>(tunnel, IFLA_VXLAN_LINK);
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
  const auto found = present.find(name);
  if (found != present.end() && found->second.kind != "bridge") {
    return make_error(Errc::conflict,
                      fmt::format("{} is a {}, not a bridge; nobody else may use these names", name,
                                  found->second.kind));
  }
  if (found == present.end()) {
    NetlinkMessage message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
    message.header(link_header(0)).text(IFLA_IFNAME, name);
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
                      now.port == htons(kTunnelPort) && now.lower_index == lower;
    if (same) return finish_link(name, spec.mtu, bridge);
    if (auto done = remove_link(name); !done) return done;
  }
  NetlinkMessage message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  message.header(link_header(0)).text(IFLA_IFNAME, name);
  message.nest(IFLA_LINKINFO, [&](NetlinkMessage& info) {
    info.text(IFLA_INFO_KIND, "vxlan").nest(IFLA_INFO_DATA, [&](NetlinkMessage& data) {
      data.number(IFLA_VXLAN_ID, spec.vni).number(IFLA_VXLAN_LOCAL, local_);
      data.number(IFLA_VXLAN_PORT, htons(kTunnelPort)).number(IFLA_VXLAN_TTL, kTunnelTtl);
      data.number(IFLA_VXLAN_LEARNING, std::uint8_t{1});
      if (lower != 0) data.number(IFLA_VXLAN_LINK, lower);
    });
  });
  const auto made = socket_.execute(message);
  if (!made.ok())
    return made.as_result(fmt::format("make tunnel {} from {}", name, options_.local_address));
  return finish_link(name, spec.mtu, bridge);
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

Result<void> LinuxFabric::change_peer(int tunnel, std::uint32_t peer, std::string_view mac,
                                      bool add) {
  ndmsg header{};
  header.ndm_family = AF_BRIDGE;
  header.ndm_ifindex = tunnel;
  header.ndm_state = NUD_PERMANENT;
  header.ndm_flags = NTF_SELF;
  NetlinkMessage message(add ? RTM_NEWNEIGH : RTM_DELNEIGH,
                         static_cast<std::uint16_t>(add ? NLM_F_CREATE | NLM_F_APPEND : 0));
  message.header(header).bytes(NDA_LLADDR, mac).number(NDA_DST, peer);
  const auto answer = socket_.execute(message);
  if (!add && answer.error == ENOENT) return {};  // it aged out meanwhile
  return answer.as_result(
      fmt::format("{} peer {} of tunnel {}", add ? "add" : "remove", show_address(peer), tunnel));
}

Result<void> LinuxFabric::ensure_peers(const std::set<int>& tunnels,
                                       const std::set<std::uint32_t>& peers) {
  struct Entry {
    int tunnel;
    std::uint32_t peer;
    std::string mac;
  };
  std::vector<Entry> present;
  ndmsg header{};
  header.ndm_family = AF_BRIDGE;
  const auto answer =
      socket_.list(NetlinkMessage(RTM_GETNEIGH, 0).header(header), [&](std::string_view body) {
        ndmsg seen{};
        body.copy(reinterpret_cast<char*>(&seen), sizeof seen);
        const auto attributes = parse_attributes(body.substr(std::min(body.size(), sizeof seen)));
        const auto mac = attributes.find(NDA_LLADDR);
        const auto peer = attribute_number<std::uint32_t>(attributes, NDA_DST);
        if (!tunnels.contains(seen.ndm_ifindex) || peer == 0 || mac == attributes.end()) return;
        present.push_back({seen.ndm_ifindex, peer, std::string(mac->second)});
      });
  if (auto done = answer.as_result("list where the tunnels lead"); !done) return done;
  Result<void> outcome;
  std::set<std::pair<int, std::uint32_t>> flooded;
  for (const Entry& entry : present) {
    // What was learned about a host that is gone goes too, so that its guests are looked for anew.
    if (!peers.contains(entry.peer))
      keep_first(outcome, change_peer(entry.tunnel, entry.peer, entry.mac, false));
    if (entry.mac == kEveryMac) flooded.insert({entry.tunnel, entry.peer});
  }
  for (const int tunnel : tunnels) {
    for (const std::uint32_t peer : peers) {
      if (!flooded.contains({tunnel, peer}))
        keep_first(outcome, change_peer(tunnel, peer, kEveryMac, true));
    }
  }
  return outcome;
}

void LinuxFabric::apply(const FabricState& state, Callback<void> done) {
  worker_.run<void>([this, state] { return make_equal_to(state); }, std::move(done));
}

void LinuxFabric::open_port(const LaunchNic& nic, Callback<OpenPort> done) {
  worker_.run<OpenPort>([this, nic] { return make_port(nic); }, std::move(done));
}

void LinuxFabric::close_port(const LaunchNic& nic, Callback<void> done) {
  worker_.run<void>([this, nic] { return remove_port(nic); }, std::move(done));
}

void LinuxFabric::remove_all(Callback<void> done) {
  worker_.run<void>([this] { return remove_devices(); }, std::move(done));
}

Result<void> LinuxFabric::make_equal_to(const FabricState& state) {
  if (state.version < version_) return {};
  std::set<std::uint32_t> peers;
  for (const std::string& text : state.peer_addresses) {
    const auto peer = parse_address(text);
    if (!peer) return wrap_error("address of a peer host", peer.error());
    if (*peer != local_) peers.insert(*peer);
  }
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
  std::set<int> tunnels;
  for (const std::uint32_t vni : wanted) {
    const auto tunnel = present->find(tunnel_name(vni));
    if (tunnel != present->end()) tunnels.insert(tunnel->second.index);
  }
  keep_first(outcome, ensure_peers(tunnels, peers));
  if (outcome.ok()) version_ = state.version;
  return outcome;
}

/// The descriptor is not valid when another process holds the tap already.
Result<Descriptor> LinuxFabric::open_tap(const std::string& name) const {
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
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
  auto opened = port.packets ? open_packets(port.tap_name, nic.mtu) : open_tap(port.tap_name);
  if (!opened) return wrap_error(what, opened.error());
  if (auto done = finish_link(port.tap_name, nic.mtu, bridge->index); !done)
    return wrap_error(what, done.error());
  port.tap_descriptor = opened->release();
  return port;
}

Result<void> LinuxFabric::remove_port(const LaunchNic& nic) {
  const std::string name = tap_name(nic.port);
  auto removed = remove_link(name);
  return removed ? filter_.forget(name) : removed;
}

Result<void> LinuxFabric::remove_devices() {
  const auto present = links();
  if (!present) return present.error();
  Result<void> outcome;
  for (const auto& [name, ignored] : *present) {
    const bool ours =
        is_ours(name, kBridgePart) || is_ours(name, kTunnelPart) || is_ours(name, kTapPart);
    if (ours) keep_first(outcome, remove_link(name));
  }
  keep_first(outcome, filter_.remove_all());
  version_ = 0;
  return outcome;
}

}  // namespace virga
