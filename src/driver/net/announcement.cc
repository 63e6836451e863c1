#include "driver/net/announcement.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <netpacket/packet.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "edge/network_namespace.h"
#include "edge/process.h"
#include "model/ipv4.h"

namespace virga {
namespace {

struct Announcement {
  ether_header frame{};
  ether_arp arp{};
};

Announcement make_announcement(std::string_view mac, std::uint32_t address) {
  Announcement made;
  std::memset(made.frame.ether_dhost, 0xff, ETH_ALEN);
  mac.copy(reinterpret_cast<char*>(made.frame.ether_shost), ETH_ALEN);
  made.frame.ether_type = htons(ETHERTYPE_ARP);
  made.arp.ea_hdr.ar_hrd = htons(ARPHRD_ETHER);
  made.arp.ea_hdr.ar_pro = htons(ETHERTYPE_IP);
  made.arp.ea_hdr.ar_hln = ETH_ALEN;
  made.arp.ea_hdr.ar_pln = sizeof address;
  made.arp.ea_hdr.ar_op = htons(ARPOP_REQUEST);
  mac.copy(reinterpret_cast<char*>(made.arp.arp_sha), ETH_ALEN);
  const std::uint32_t wire = htonl(address);
  std::memcpy(made.arp.arp_spa, &wire, sizeof wire);
  std::memcpy(made.arp.arp_tpa, &wire, sizeof wire);
  return made;
}

Result<std::string> mac_of(NetlinkSocket& socket, int device) {
  ifinfomsg header{};
  header.ifi_index = device;
  std::string mac;
  const auto answer =
      socket.execute(NetlinkMessage(RTM_GETLINK, 0).header(header), [&](std::string_view body) {
        const auto attributes =
            parse_attributes(body.substr(std::min(body.size(), sizeof(ifinfomsg))));
        const auto found = attributes.find(IFLA_ADDRESS);
        if (found != attributes.end()) mac = std::string(found->second);
      });
  if (auto done = answer.as_result("read the outside device's MAC"); !done) return done.error();
  return mac;
}

}  // namespace

Result<void> announce_addresses(int network_namespace, NetlinkSocket& socket, int device,
                                const std::set<std::uint32_t>& addresses) {
  const auto mac = mac_of(socket, device);
  if (!mac) return mac.error();
  if (mac->size() != ETH_ALEN) return {};
  Descriptor packets;
  auto entered = in_network_namespace(network_namespace, [&] {
    packets = Descriptor(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  });
  if (!entered) return entered;
  sockaddr_ll to{};
  to.sll_family = AF_PACKET;
  to.sll_ifindex = device;
  to.sll_halen = ETH_ALEN;
  for (const std::uint32_t address : addresses) {
    const Announcement one = make_announcement(*mac, address);
    const ssize_t sent = ::sendto(packets.get(), &one, sizeof one, 0,
                                  reinterpret_cast<const sockaddr*>(&to), sizeof to);
    if (sent == static_cast<ssize_t>(sizeof one)) continue;
    return make_error(Errc::unavailable, fmt::format("announce floating address {}: {}",
                                                     ipv4_text(address), std::strerror(errno)));
  }
  return {};
}

}  // namespace virga
