#include "driver/qmp/unix_socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "edge/file.h"

namespace virga {
namespace {

struct Place {
  Descriptor folder;
  sockaddr_un address{};
};

Result<Place> place_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  Place place;
  place.folder =
      Descriptor(::open(path.substr(0, slash).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!place.folder.valid()) return errno_error("open the folder of socket " + path, errno);
  const std::string name =
      fmt::format("/proc/self/fd/{}/{}", place.folder.get(), path.substr(slash + 1));
  if (name.size() >= sizeof place.address.sun_path) {
    return make_error(Errc::invalid, "socket name too long: " + path);
  }
  place.address.sun_family = AF_UNIX;
  std::memcpy(place.address.sun_path, name.c_str(), name.size() + 1);
  return place;
}

}  // namespace

Result<Descriptor> listen_unix(const std::string& path) {
  auto place = place_of(path);
  if (!place) return place.error();
  Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return errno_error("make a socket", errno);
  ::unlink(path.c_str());
  const auto* address = reinterpret_cast<const sockaddr*>(&place->address);
  // fchmod before bind sets the mode of the name, so that it is never open to others.
  ::fchmod(socket.get(), 0600);
  if (::bind(socket.get(), address, sizeof place->address) != 0 || ::listen(socket.get(), 4) != 0) {
    return errno_error("listen at " + path, errno);
  }
  return socket;
}

Result<Descriptor> connect_unix(const std::string& path) {
  auto place = place_of(path);
  if (!place) return place.error();
  Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return errno_error("make a socket", errno);
  const auto* address = reinterpret_cast<const sockaddr*>(&place->address);
  if (::connect(socket.get(), address, sizeof place->address) == 0) return socket;
  if (errno == ENOENT) return errno_error("connect to " + path, errno);
  return make_error(Errc::unavailable,
                    fmt::format("connect to {}: {}", path, std::strerror(errno)));
}

Result<void> send_unix(int socket, const std::string& bytes, int descriptor) {
  iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (descriptor >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  }
  const ssize_t count = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (count == static_cast<ssize_t>(bytes.size())) return {};
  return make_error(Errc::unavailable,
                    fmt::format("send {} bytes: {}", bytes.size(),
                                count < 0 ? std::strerror(errno) : "the peer does not read"));
}

}  // namespace virga
