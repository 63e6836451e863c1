#include "driver/net/cable.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/magic.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "edge/file.h"
#include "edge/network_namespace.h"

namespace virga {
namespace {

Result<Descriptor> open_named(const std::string& path) {
  Descriptor opened(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!opened.valid()) return errno_error("open the network namespace " + path, errno);
  struct statfs kind {};
  if (::fstatfs(opened.get(), &kind) == 0 && kind.f_type == NSFS_MAGIC) return opened;
  // Of somebody who died between the file and its mount.
  return make_error(Errc::not_found, path + " is a file, no network namespace");
}

/// As ip-netns(8) does it: one mount for all names, shared, so that a name that is taken away is
/// away for everybody.
Result<void> share_folder(const std::string& folder) {
  if (auto made = make_folders(folder); !made) return made;
  const auto share = [&folder] {
    return ::mount("", folder.c_str(), "none", MS_SHARED | MS_REC, nullptr) == 0;
  };
  if (share()) return {};
  const bool mounted =
      errno == EINVAL &&
      ::mount(folder.c_str(), folder.c_str(), "none", MS_BIND | MS_REC, nullptr) == 0 && share();
  return mounted ? Result<void>() : errno_error("share the mounts below " + folder, errno);
}

}  // namespace

Result<Descriptor> ensure_network_namespace(const std::string& path) {
  auto present = open_named(path);
  if (present || present.error().code != Errc::not_found) return present;
  const std::string folder = path.substr(0, path.rfind('/'));
  const auto lock = lock_namespace_folder(folder);
  if (!lock) return lock.error();
  if (present = open_named(path); present) return present;  // somebody was faster
  if (auto shared = share_folder(folder); !shared) return shared.error();
  const Descriptor name(::open(path.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0444));
  if (!name.valid()) return errno_error("make " + path, errno);
  auto made = make_network_namespace();
  if (!made) return made.error();
  const std::string from = fmt::format("/proc/self/fd/{}", made->get());
  if (::mount(from.c_str(), path.c_str(), "none", MS_BIND, nullptr) == 0) return made;
  const int number = errno;
  ::unlink(path.c_str());
  return errno_error("name a network namespace " + path, number);
}

Result<void> remove_network_namespace(const std::string& path) {
  const bool gone = ::umount2(path.c_str(), MNT_DETACH) == 0 || errno == EINVAL || errno == ENOENT;
  if (gone && (::unlink(path.c_str()) == 0 || errno == ENOENT)) return {};
  return errno_error("remove the network namespace " + path, errno);
}

Result<void> make_cable(NetlinkSocket& socket, const std::string& name, int mtu,
                        const CableEnd& far) {
  NetlinkMessage message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  const auto size = static_cast<std::uint32_t>(mtu);
  message.header(ifinfomsg{}).text(IFLA_IFNAME, name).number(IFLA_MTU, size);
  message.nest(IFLA_LINKINFO, [&](NetlinkMessage& info) {
    info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, [&](NetlinkMessage& data) {
      data.nest(VETH_INFO_PEER, [&](NetlinkMessage& peer) {
        peer.header(ifinfomsg{}).text(IFLA_IFNAME, far.name).number(IFLA_MTU, size);
        if (!far.mac.empty()) peer.bytes(IFLA_ADDRESS, far.mac);
        peer.number(IFLA_NET_NS_FD, static_cast<std::uint32_t>(far.network_namespace));
      });
    });
  });
  return socket.execute(message).as_result("make the cable " + name);
}

Result<int> device_index(NetlinkSocket& socket, const std::string& name) {
  ifinfomsg header{};
  const auto found =
      socket.execute(NetlinkMessage(RTM_GETLINK, 0).header(header).text(IFLA_IFNAME, name),
                     [&header](std::string_view body) {
                       body.copy(reinterpret_cast<char*>(&header), sizeof header);
                     });
  if (auto done = found.as_result("look for network device " + name); !done) return done.error();
  return header.ifi_index;
}

Result<void> remove_device(NetlinkSocket& socket, const std::string& name) {
  const auto answer =
      socket.execute(NetlinkMessage(RTM_DELLINK, 0).header(ifinfomsg{}).text(IFLA_IFNAME, name));
  if (answer.error == ENODEV) return {};
  return answer.as_result("remove network device " + name);
}

/// Ends of a cable live and die together: one alone is of another cable.
Result<int> ensure_cable(NetlinkSocket& socket, const std::string& name, NetlinkSocket& inside,
                         const CableEnd& far, int mtu) {
  const auto present = device_index(inside, far.name);
  if (present && device_index(socket, name)) return *present;
  if (auto done = remove_device(inside, far.name); !done) return done.error();
  if (auto done = remove_device(socket, name); !done) return done.error();
  if (auto made = make_cable(socket, name, mtu, far); !made) return made.error();
  const auto index = device_index(inside, far.name);
  if (!index) return index.error();
  if (auto done = keep_addresses_off(inside, *index, far.name); !done) return done.error();
  return *index;
}

Result<void> bring_up(NetlinkSocket& socket, int index) {
  ifinfomsg header{};
  header.ifi_index = index;
  header.ifi_flags = header.ifi_change = IFF_UP;
  return socket.execute(NetlinkMessage(RTM_NEWLINK, 0).header(header))
      .as_result(fmt::format("bring network device {} up", index));
}

Result<std::multimap<int, DeviceAddress>> device_addresses(NetlinkSocket& socket) {
  std::multimap<int, DeviceAddress> present;
  ifaddrmsg all{};
  all.ifa_family = AF_INET;
  const auto answer =
      socket.list(NetlinkMessage(RTM_GETADDR, 0).header(all), [&](std::string_view body) {
        ifaddrmsg seen{};
        body.copy(reinterpret_cast<char*>(&seen), sizeof seen);
        const auto attributes = parse_attributes(body.substr(std::min(body.size(), sizeof seen)));
        present.emplace(static_cast<int>(seen.ifa_index),
                        DeviceAddress{attribute_number<std::uint32_t>(attributes, IFA_LOCAL),
                                      seen.ifa_prefixlen});
      });
  if (auto done = answer.as_result("list the addresses of network devices"); !done)
    return done.error();
  return present;
}

namespace {

Result<void> change_address(NetlinkSocket& socket, int index, const DeviceAddress& address,
                            bool add) {
  ifaddrmsg header{};
  header.ifa_family = AF_INET;
  header.ifa_prefixlen = static_cast<std::uint8_t>(address.prefix_length);
  header.ifa_index = static_cast<std::uint32_t>(index);
  NetlinkMessage message(add ? RTM_NEWADDR : RTM_DELADDR, add ? NLM_F_CREATE | NLM_F_REPLACE : 0);
  message.header(header).number(IFA_LOCAL, address.address).number(IFA_ADDRESS, address.address);
  return socket.execute(message).as_result(
      fmt::format("change the address of network device {}", index));
}

}  // namespace

/// Others go first: with one of the same subnet the kernel would take later ones away too.
Result<void> ensure_address(NetlinkSocket& socket, int index, const DeviceAddress& wanted) {
  const auto present = device_addresses(socket);
  if (!present) return present.error();
  bool there = false;
  const auto [first, last] = present->equal_range(index);
  for (auto at = first; at != last; ++at) {
    there = there || at->second == wanted;
    if (at->second == wanted) continue;
    if (auto done = change_address(socket, index, at->second, false); !done) return done;
  }
  return there ? Result<void>() : change_address(socket, index, wanted, true);
}

Result<void> ensure_route(NetlinkSocket& socket, const Route& route) {
  const bool add = route.by != 0;
  rtmsg header{};
  header.rtm_family = AF_INET;
  header.rtm_dst_len = route.prefix_length;
  header.rtm_table = RT_TABLE_MAIN;
  header.rtm_protocol = route.protocol;
  header.rtm_scope = add ? RT_SCOPE_UNIVERSE : RT_SCOPE_NOWHERE;
  header.rtm_type = add ? RTN_UNICAST : RTN_UNSPEC;
  const std::uint16_t flags = add ? NLM_F_CREATE | NLM_F_REPLACE : 0;
  NetlinkMessage message(add ? RTM_NEWROUTE : RTM_DELROUTE, flags);
  message.header(header).number(RTA_OIF, static_cast<std::uint32_t>(route.device));
  if (route.prefix_length != 0) message.number(RTA_DST, route.destination);
  if (add) message.number(RTA_GATEWAY, route.by);
  const auto answer = socket.execute(message);
  if (!add && answer.error == ESRCH) return {};
  return answer.as_result(fmt::format("set a route by network device {}", route.device));
}

}  // namespace virga
