#include "driver/net/cable.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_link.h>
#include <linux/magic.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

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
  if (auto shared = share_folder(path.substr(0, path.rfind('/'))); !shared) return shared.error();
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

}  // namespace virga
