#include "driver/net/balancer_leg.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <netinet/ether.h>

#include <charconv>
#include <utility>
#include <vector>

#include "driver/net/cable.h"

namespace virga {
namespace {

const std::string kDevice = "leg";
constexpr int kLoopback = 1;  // the index of "lo" in every namespace

/// As the kernel takes it.
struct LegAddress {
  std::uint32_t address = 0;  ///< network byte order
  int prefix_length = 0;

  friend bool operator==(const LegAddress&, const LegAddress&) = default;
};

Result<LegAddress> parse_leg_address(const std::string& text) {
  const std::size_t slash = text.find('/');
  in_addr address{};
  LegAddress parsed;
  bool right = slash != std::string::npos &&
               ::inet_pton(AF_INET, text.substr(0, slash).c_str(), &address) == 1;
  if (right) {
    const char* end = text.data() + text.size();
    const auto [rest, failed] = std::from_chars(text.data() + slash + 1, end, parsed.prefix_length);
    right = failed == std::errc() && rest == end && parsed.prefix_length >= 1 &&
            parsed.prefix_length <= 32;
  }
  if (!right) {
    return make_error(Errc::invalid, fmt::format("leg.address: \"{}\" is no IPv4 address with "
                                                 "prefix length such as 10.50.0.10/24",
                                                 text));
  }
  parsed.address = address.s_addr;
  return parsed;
}

Result<std::string> parse_leg_mac(const std::string& text) {
  ether_addr mac{};
  if (::ether_aton_r(text.c_str(), &mac) == nullptr) {
    return make_error(Errc::invalid, fmt::format("leg.mac: \"{}\" is no MAC", text));
  }
  return std::string(reinterpret_cast<const char*>(&mac), sizeof mac);
}

Result<void> remove_device(NetlinkSocket& socket, const std::string& name) {
  const auto answer =
      socket.execute(NetlinkMessage(RTM_DELLINK, 0).header(ifinfomsg{}).text(IFLA_IFNAME, name));
  if (answer.error == ENODEV) return {};
  return answer.as_result("remove network device " + name);
}

ifinfomsg brought_up(int index) {
  ifinfomsg header{};
  header.ifi_index = index;
  header.ifi_flags = header.ifi_change = IFF_UP;
  return header;
}

/// The device's index in its namespace. Ends of a cable live and die together: one alone is of
/// another cable.
Result<int> ensure_cable(NetlinkSocket& host, const std::string& device, NetlinkSocket& inside,
                         const CableEnd& far, int mtu) {
  const auto present = device_index(inside, kDevice);
  if (present && device_index(host, device)) return *present;
  if (auto done = remove_device(inside, kDevice); !done) return done.error();
  if (auto done = remove_device(host, device); !done) return done.error();
  if (auto made = make_cable(host, device, mtu, far); !made) return made.error();
  const auto index = device_index(inside, kDevice);
  if (!index) return index.error();
  if (auto done = keep_addresses_off(inside, *index, kDevice); !done) return done.error();
  return *index;
}

Result<void> change_address(NetlinkSocket& inside, int index, const LegAddress& address, bool add) {
  ifaddrmsg header{};
  header.ifa_family = AF_INET;
  header.ifa_prefixlen = static_cast<std::uint8_t>(address.prefix_length);
  header.ifa_index = static_cast<std::uint32_t>(index);
  NetlinkMessage message(add ? RTM_NEWADDR : RTM_DELADDR, add ? NLM_F_CREATE | NLM_F_REPLACE : 0);
  message.header(header).number(IFA_LOCAL, address.address).number(IFA_ADDRESS, address.address);
  return inside.execute(message).as_result("change the address of a leg");
}

/// Others go first: with one of the same subnet the kernel would take later ones away too.
Result<void> ensure_address(NetlinkSocket& inside, int index, const LegAddress& wanted) {
  std::vector<LegAddress> present;
  ifaddrmsg all{};
  all.ifa_family = AF_INET;
  const auto answer = inside.list(NetlinkMessage(RTM_GETADDR, 0).header(all), [&](std::string_view
                                                                                      body) {
    ifaddrmsg seen{};
    body.copy(reinterpret_cast<char*>(&seen), sizeof seen);
    if (seen.ifa_index != static_cast<std::uint32_t>(index)) return;
    const auto attributes = parse_attributes(body.substr(std::min(body.size(), sizeof seen)));
    present.push_back({attribute_number<std::uint32_t>(attributes, IFA_LOCAL), seen.ifa_prefixlen});
  });
  if (auto done = answer.as_result("list the addresses of a leg"); !done) return done;
  bool there = false;
  for (const LegAddress& address : present) {
    there = there || address == wanted;
    if (address == wanted) continue;
    if (auto done = change_address(inside, index, address, false); !done) return done;
  }
  return there ? Result<void>() : change_address(inside, index, wanted, true);
}

}  // namespace

Result<void> check_leg(const BalancerLeg& leg) {
  if (const auto mac = parse_leg_mac(leg.mac); !mac) return mac.error();
  if (const auto address = parse_leg_address(leg.address); !address) return address.error();
  return {};
}

Result<void> ensure_leg(NetlinkSocket& host, const std::string& device, int space,
                        const BalancerLeg& leg) {
  const auto mac = parse_leg_mac(leg.mac);
  if (!mac) return mac.error();
  const auto address = parse_leg_address(leg.address);
  if (!address) return address.error();
  auto inside = NetlinkSocket::open(space);
  if (!inside) return inside.error();
  const auto index = ensure_cable(host, device, *inside, {kDevice, space, *mac}, leg.mtu);
  if (!index) return index.error();
  NetlinkMessage loopback(RTM_NEWLINK, 0);
  loopback.header(brought_up(kLoopback));
  if (auto done = inside->execute(loopback).as_result("bring a leg's loopback up"); !done)
    return done;
  NetlinkMessage message(RTM_NEWLINK, 0);
  message.header(brought_up(*index))
      .bytes(IFLA_ADDRESS, *mac)
      .number(IFLA_MTU, static_cast<std::uint32_t>(leg.mtu));
  if (auto done = inside->execute(message).as_result("bring a leg up"); !done) return done;
  return ensure_address(*inside, *index, *address);
}

}  // namespace virga
