#include "driver/net/packet_port.h"

#include <arpa/inet.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>

#include "driver/net/cable.h"
#include "edge/file.h"
#include "edge/network_namespace.h"

namespace virga {

namespace {

const std::string kFarEnd = "far";

Result<int> bring_far_end_up(int far) {
  auto socket = NetlinkSocket::open(far);
  if (!socket) return socket.error();
  const auto found = device_index(*socket, kFarEnd);
  if (!found) return found.error();
  const int index = *found;
  if (auto done = keep_addresses_off(*socket, index, kFarEnd); !done) return done.error();
  ifinfomsg up{};
  up.ifi_index = index;
  up.ifi_flags = IFF_UP;
  up.ifi_change = IFF_UP;
  const auto answer = socket->execute(NetlinkMessage(RTM_NEWLINK, 0).header(up));
  if (auto done = answer.as_result("bring the cable's far end up"); !done) return done.error();
  return index;
}

Result<Descriptor> open_packet_socket(int far, int index) {
  Descriptor made;
  constexpr int kOn = 1;
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = index;
  int error = 0;
  auto entered = in_network_namespace(far, [&] {
    made = Descriptor(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const bool opened =
        made.valid() &&
        setsockopt(made.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, &kOn, sizeof kOn) == 0 &&
        bind(made.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    error = opened ? 0 : errno;
  });
  if (!entered) return entered.error();
  if (error != 0) return errno_error("open the cable's far end", error);
  return made;
}

// What the kernel leaves to a network card, checksums and cutting into frames, is done before a
// frame crosses the cable, because no card follows.
Result<void> leave_nothing_to_a_card(int network_namespace, const std::string& name) {
  ethtool_value off{ETHTOOL_STXCSUM, 0};
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_data = reinterpret_cast<char*>(&off);
  int error = 0;
  auto entered = in_network_namespace(network_namespace, [&] {
    const Descriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    error = ioctl(socket.get(), SIOCETHTOOL, &request) == 0 ? 0 : errno;
  });
  if (!entered) return entered;
  return error == 0 ? Result<void>() : errno_error("have " + name + " make checksums", error);
}

}  // namespace

Result<Descriptor> open_packet_port(NetlinkSocket& socket, int network_namespace,
                                    const std::string& name, int mtu) {
  auto far = make_network_namespace();
  if (!far) return far.error();
  if (auto made = make_cable(socket, name, mtu, {kFarEnd, far->get()}); !made) return made.error();
  if (auto done = leave_nothing_to_a_card(network_namespace, name); !done) return done.error();
  const auto index = bring_far_end_up(far->get());
  if (!index) return index.error();
  return open_packet_socket(far->get(), *index);
}

}  // namespace virga
