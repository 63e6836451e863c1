#include "driver/net/way_out.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <exception>
#include <iterator>
#include <set>
#include <utility>

#include "base/reflect.h"
#include "driver/net/announcement.h"
#include "edge/file.h"
#include "edge/network_namespace.h"
#include "model/ipv4.h"

namespace virga {
namespace {

constexpr std::uint32_t kLinks = 169U << 24 | 254U << 16 | 64U << 8;  // 169.254.64.0/20
constexpr std::uint32_t kLinkCount = 2048;                            // of two addresses each
constexpr int kLinkPrefix = 31;
constexpr int kMtu = 1500;
constexpr std::uint8_t kFloatingProtocol = 118;  // of routes and answers
constexpr const char* kNeverOutside = "127.0.0.0/8, 169.254.0.0/16";

// Replaced as a whole. {0} table, {1} how names of cables begin, {2} outside device, {3} links. The
// set is for who comes later, perhaps with another device. What comes from a gateway has its link's
// address or a floating one that leads to it; what is routed to a gateway and is no link is one.
constexpr const char* kTable = R"(
add table ip {0}
delete table ip {0}
add table ip {0}
add set ip {0} outside {{ type ifname ; elements = {{ "{2}" }} ; }}
add chain ip {0} entry {{ type filter hook input priority 0 ; policy accept ; }}
add chain ip {0} pass {{ type filter hook forward priority 0 ; policy accept ; }}
add chain ip {0} hide {{ type nat hook postrouting priority 100 ; policy accept ; }}
add chain ip {0} outwards
add chain ip {0} inwards
add rule ip {0} entry iifname "{1}*" ct state established,related accept
add rule ip {0} entry iifname "{1}*" counter drop
add rule ip {0} pass iifname "{1}*" jump outwards
add rule ip {0} pass oifname "{1}*" jump inwards
add rule ip {0} outwards fib saddr . iif oif missing counter drop
add rule ip {0} outwards oifname "{1}*" ct state established,related accept
add rule ip {0} outwards oifname "{1}*" ip daddr != {3} accept
add rule ip {0} outwards oifname != "{2}" counter drop
add rule ip {0} inwards iifname {{ "{2}", "{1}*" }} ct state established,related accept
add rule ip {0} inwards iifname {{ "{2}", "{1}*" }} ip daddr != {3} accept
add rule ip {0} inwards counter drop
add rule ip {0} hide oifname "{2}" ip saddr {3} masquerade
)";
constexpr const char* kResolvers = R"(
add rule ip {0} outwards ip daddr {{ {1} }} udp dport 53 accept
add rule ip {0} outwards ip daddr {{ {1} }} tcp dport 53 accept
)";

Result<void> set_forwarding(NetlinkSocket& socket, int index, bool on) {
  NetlinkMessage message(RTM_NEWLINK, 0);
  ifinfomsg header{};
  header.ifi_index = index;
  message.header(header).nest(IFLA_AF_SPEC, [on](NetlinkMessage& families) {
    families.nest(AF_INET, [on](NetlinkMessage& family) {
      family.nest(IFLA_INET_CONF, [on](NetlinkMessage& settings) {
        settings.number(IPV4_DEVCONF_FORWARDING, std::uint32_t{on});
      });
    });
  });
  return socket.execute(message).as_result(
      fmt::format("set whether network device {} forwards", index));
}

/// Of one floating address; host byte order, `by` 0 = no more.
Route route_to(std::uint32_t address, int device, std::uint32_t by) {
  return {device, htonl(by), htonl(address), 32, kFloatingProtocol};
}

/// Answers for others come at once, not within 0.8 s as where several hosts may answer.
Result<void> answer_at_once(NetlinkSocket& socket, int device) {
  ndtmsg header{};
  header.ndtm_family = AF_INET;
  NetlinkMessage message(RTM_SETNEIGHTBL, 0);
  message.header(header).text(NDTA_NAME, "arp_cache").nest(NDTA_PARMS, [&](NetlinkMessage& table) {
    table.number(NDTPA_IFINDEX, static_cast<std::uint32_t>(device));
    table.number(NDTPA_PROXY_DELAY, std::uint64_t{0});
  });
  return socket.execute(message).as_result("answer at once for floating addresses");
}

}  // namespace

WayOut::WayOut(std::string prefix, WayOutOptions options, int network_namespace,
               NetlinkSocket socket, Nftables nftables)
    : prefix_(std::move(prefix)),
      options_(std::move(options)),
      network_namespace_(network_namespace),
      socket_(std::move(socket)),
      nftables_(std::move(nftables)) {}

Result<WayOut> WayOut::open(const std::string& prefix, WayOutOptions options,
                            int network_namespace) {
  const bool plain = options.device.find_first_of("\"\n*") == std::string::npos;
  if (!plain || options.device.size() > 15) {
    return make_error(Errc::invalid, "outside device: \"" + options.device + "\" is no name");
  }
  for (const std::string& range : options.closed) {
    if (parse_range(range)) continue;
    return make_error(Errc::invalid, fmt::format("closed to guests: \"{}\" is no range of IPv4 "
                                                 "such as 192.0.2.0/24",
                                                 range));
  }
  for (const std::string& resolver : options.resolvers) {
    if (parse_ipv4(resolver) && resolver.find('/') == std::string::npos) continue;
    return make_error(Errc::invalid, fmt::format("resolver: \"{}\" is no IPv4 address", resolver));
  }
  auto socket = NetlinkSocket::open(network_namespace);
  if (!socket) return socket.error();
  auto nftables = Nftables::open(network_namespace);
  if (!nftables) return nftables.error();
  return WayOut(prefix, std::move(options), network_namespace, std::move(*socket),
                std::move(*nftables));
}

std::string WayOut::device_name(std::uint32_t vni) const {
  return fmt::format("{}u{}", prefix_, vni);
}

/// Whether the host is a router by its owner's will.
Result<bool> WayOut::routes() const {
  Result<std::string> text = make_error(Errc::internal, "not read");
  auto entered = in_network_namespace(
      network_namespace_, [&] { text = read_file("/proc/sys/net/ipv4/ip_forward", 64); });
  if (!entered) return entered.error();
  if (!text) return text.error();
  return text->starts_with('1');
}

Result<std::string> WayOut::table_text() const {
  const auto router = routes();
  if (!router) return router.error();
  const std::string table = prefix_ + "out";
  std::string text = fmt::format(kTable, table, prefix_ + "u", options_.device,
                                 fmt::format("{}/20", ipv4_text(kLinks)));
  if (!options_.resolvers.empty())
    text += fmt::format(kResolvers, table, fmt::join(options_.resolvers, ", "));
  for (const std::string& range : options_.closed)
    text += fmt::format("add rule ip {} outwards ip daddr {} counter drop\n", table, range);
  text +=
      fmt::format("add rule ip {} outwards ip daddr {{ {} }} counter drop\n", table, kNeverOutside);
  text += fmt::format("add rule ip {} outwards accept\n", table);
  if (!*router) {
    text +=
        fmt::format("add rule ip {} pass iifname \"{}\" counter drop\n", table, options_.device);
  }
  return text;
}

/// The first of the two addresses, host byte order: the one it has, or the lowest that is free.
Result<std::uint32_t> WayOut::choose_link(const std::string& name) {
  const auto addresses = device_addresses(socket_);
  if (!addresses) return addresses.error();
  const auto index = device_index(socket_, name);
  std::set<std::uint32_t> taken;
  for (const auto& [device, address] : *addresses) {
    const std::uint32_t link = ntohl(address.address) & ~1U;
    if (link < kLinks || link >= kLinks + 2 * kLinkCount) continue;
    if (index && device == *index) return link;
    taken.insert(link);
  }
  for (std::uint32_t link = kLinks; link < kLinks + 2 * kLinkCount; link += 2) {
    if (!taken.contains(link)) return link;
  }
  return make_error(Errc::exhausted,
                    fmt::format("lead {} out: {} gateways of this host do", name, kLinkCount));
}

Result<void> WayOut::join(std::uint32_t vni, int space) {
  const std::string name = device_name(vni);
  const auto outside = device_index(socket_, options_.device);
  if (!outside) return wrap_error("outside device", outside.error());
  const auto text = table_text();
  if (!text) return text.error();
  if (auto released = release(options_.device); !released) return released;
  if (auto done = nftables_.run("guard the way out", *text); !done) return done;
  auto inside = NetlinkSocket::open(space);
  if (!inside) return inside.error();
  const auto far = ensure_cable(socket_, name, *inside, {"out", space, ""}, kMtu);
  if (!far) return far.error();
  const auto near = device_index(socket_, name);
  if (!near) return near.error();
  const auto link = choose_link(name);
  if (!link) return link.error();
  Result<void> done = keep_addresses_off(socket_, *near, name);
  if (done) done = ensure_address(socket_, *near, {htonl(*link), kLinkPrefix});
  if (done) done = ensure_address(*inside, *far, {htonl(*link + 1), kLinkPrefix});
  if (done) done = bring_up(socket_, *near);
  if (done) done = bring_up(*inside, *far);
  if (done) done = ensure_route(*inside, {*far, htonl(*link)});
  if (done) done = set_forwarding(*inside, *far, true);
  const auto leg = device_index(*inside, "leg");
  if (!leg) return leg.error();
  if (done) done = set_forwarding(*inside, *leg, true);
  if (done) done = set_forwarding(socket_, *near, true);
  if (done) done = set_forwarding(socket_, *outside, true);
  return done;
}

Result<std::map<std::uint32_t, int>> WayOut::led() {
  std::map<std::uint32_t, int> found;
  rtmsg header{};
  header.rtm_family = AF_INET;
  const auto answer =
      socket_.list(NetlinkMessage(RTM_GETROUTE, 0).header(header), [&](std::string_view body) {
        rtmsg route{};
        body.copy(reinterpret_cast<char*>(&route), sizeof route);
        if (route.rtm_protocol != kFloatingProtocol || route.rtm_dst_len != 32) return;
        const auto attributes = parse_attributes(body.substr(std::min(body.size(), sizeof route)));
        found[ntohl(attribute_number<std::uint32_t>(attributes, RTA_DST))] =
            attribute_number<int>(attributes, RTA_OIF);
      });
  if (auto listed = answer.as_result("list routes to floating addresses"); !listed)
    return listed.error();
  return found;
}

Result<void> WayOut::change_answer(std::uint32_t address, int device, bool add) {
  ndmsg header{};
  header.ndm_family = AF_INET;
  header.ndm_ifindex = device;
  header.ndm_flags = NTF_PROXY;
  const std::uint16_t flags = add ? NLM_F_CREATE | NLM_F_REPLACE : 0;
  NetlinkMessage message(add ? RTM_NEWNEIGH : RTM_DELNEIGH, flags);
  message.header(header).number(NDA_DST, htonl(address));
  if (add) message.number(NDA_PROTOCOL, kFloatingProtocol);
  const auto answer = socket_.execute(message);
  if (!add && answer.error == ENOENT) return {};
  return answer.as_result(fmt::format("answer for floating address {}", ipv4_text(address)));
}

/// Ends answers for addresses that are not `kept`, or that another device than `device` gives.
Result<void> WayOut::forget_answers(const std::map<std::uint32_t, int>& kept, int device) {
  std::vector<std::pair<std::uint32_t, int>> stale;
  ndmsg header{};
  header.ndm_family = AF_INET;
  header.ndm_flags = NTF_PROXY;
  const auto answer =
      socket_.list(NetlinkMessage(RTM_GETNEIGH, 0).header(header), [&](std::string_view body) {
        ndmsg seen{};
        body.copy(reinterpret_cast<char*>(&seen), sizeof seen);
        const auto attributes = parse_attributes(body.substr(std::min(body.size(), sizeof seen)));
        if (attribute_number<std::uint8_t>(attributes, NDA_PROTOCOL) != kFloatingProtocol) return;
        const std::uint32_t address = ntohl(attribute_number<std::uint32_t>(attributes, NDA_DST));
        if (!kept.contains(address) || seen.ndm_ifindex != device)
          stale.emplace_back(address, seen.ndm_ifindex);
      });
  auto done = answer.as_result("list answers for floating addresses");
  for (const auto& [address, by] : stale) {
    if (done) done = change_answer(address, by, false);
  }
  return done;
}

Result<void> WayOut::say_where(const std::set<std::uint32_t>& addresses) {
  if (addresses.empty()) return {};
  const auto outside = device_index(socket_, options_.device);
  if (!outside) return wrap_error("outside device", outside.error());
  return announce_addresses(network_namespace_, socket_, *outside, addresses);
}

Result<void> WayOut::announce() {
  const auto all = led();
  if (!all) return all.error();
  std::set<std::uint32_t> addresses;
  for (const auto& [address, device] : *all) addresses.insert(address);
  return say_where(addresses);
}

/// The answers come last and go first: who asks is not told of a way that is not there.
Result<bool> WayOut::lead(std::uint32_t vni, const std::set<std::uint32_t>& floating) {
  const std::string name = device_name(vni);
  const auto near = device_index(socket_, name);
  if (!near) {
    const bool nothing = near.error().code == Errc::not_found && floating.empty();
    return nothing ? Result<bool>(false) : near.error();
  }
  auto all = led();
  if (!all) return all.error();
  std::set<std::uint32_t> before;
  for (const auto& [address, device] : *all) {
    if (device == *near) before.insert(address);
  }
  for (const std::uint32_t address : before) {
    if (!floating.contains(address)) all->erase(address);
  }
  std::set<std::uint32_t> begun;
  std::ranges::set_difference(floating, before, std::inserter(begun, begun.end()));
  for (const std::uint32_t address : floating) (*all)[address] = *near;
  const auto outside = device_index(socket_, options_.device);
  if (!outside && !floating.empty()) return wrap_error("outside device", outside.error());
  const int answers_at = outside ? *outside : 0;
  if (auto forgotten = forget_answers(*all, answers_at); !forgotten) return forgotten.error();
  Result<void> done;
  for (const std::uint32_t address : before) {
    if (done && !floating.contains(address))
      done = ensure_route(socket_, route_to(address, *near, 0));
  }
  if (floating.empty()) return done ? Result<bool>(false) : done.error();
  const auto link = choose_link(name);
  if (!link) return link.error();
  if (done) done = answer_at_once(socket_, *outside);
  for (const std::uint32_t address : floating) {
    if (done && begun.contains(address))
      done = ensure_route(socket_, route_to(address, *near, *link + 1));
    if (done) done = change_answer(address, *outside, true);
  }
  static_cast<void>(say_where(begun));  // who did not hear it asks; announce() says it again
  return done ? Result<bool>(!begun.empty()) : done.error();
}

Result<void> WayOut::part(std::uint32_t vni) {
  if (auto led_nowhere = lead(vni, {}); !led_nowhere) return led_nowhere.error();
  if (auto removed = remove_device(socket_, device_name(vni)); !removed) return removed;
  bool others = false;
  const std::string begin = prefix_ + "u";
  const auto answer =
      socket_.list(NetlinkMessage(RTM_GETLINK, 0).header(ifinfomsg{}), [&](std::string_view body) {
        const auto attributes =
            parse_attributes(body.substr(std::min(body.size(), sizeof(ifinfomsg))));
        const auto name = attributes.find(IFLA_IFNAME);
        others = others || (name != attributes.end() && name->second.starts_with(begin) &&
                            name->second.size() > begin.size() &&
                            std::isdigit(static_cast<unsigned char>(name->second[begin.size()])));
      });
  if (auto listed = answer.as_result("list the cables of gateways"); !listed) return listed;
  return others ? Result<void>() : close();
}

/// The outside device that the kernel's table was made for; empty = there is no table.
std::string WayOut::present_device() {
  const std::string set = prefix_ + "out outside";
  const auto said = nftables_.list("look for set " + set, "list set ip " + set);
  const auto parsed = said ? parse_json(*said) : said.error();
  if (!parsed) return {};
  try {
    for (const auto& entry : parsed->at("nftables").as_array()) {
      const json::value* found = entry.as_object().if_contains("set");
      if (found != nullptr) return std::string(found->at("elem").as_array().at(0).as_string());
    }
  } catch (const std::exception&) {
    return {};  // of another form: not of ours
  }
  return {};
}

/// What forwarded for gateways and is not `kept` does so no longer.
Result<void> WayOut::release(const std::string& kept) {
  const std::string device = present_device();
  const auto router = routes();
  if (!router) return router.error();
  if (device.empty() || device == kept || *router) return {};
  const auto index = device_index(socket_, device);
  return index ? set_forwarding(socket_, *index, false) : Result<void>();
}

/// No gateway leads out any more: the host is as it was before the first.
Result<void> WayOut::close() {
  const std::string table = prefix_ + "out";
  if (present_device().empty()) return {};
  if (auto released = release(""); !released) return released;
  if (auto forgotten = forget_answers({}, 0); !forgotten) return forgotten;
  return nftables_.run("open the way out for nobody",
                       fmt::format("add table ip {0}\ndelete table ip {0}\n", table));
}

}  // namespace virga
