#include "agent/wire_main.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstdio>

namespace virga {

namespace {

constexpr int kPort = 3;
constexpr int kGuest = 4;
constexpr int kFramesAtOnce = 64;
constexpr std::size_t kFrameBytesMax = 1 << 16;

/// Moves what is there, a bounded number of frames, so that one direction cannot starve the other.
/// False when `from` is closed.
bool carry(int from, int to) {
  static std::array<char, kFrameBytesMax> frame;
  for (int count = 0; count < kFramesAtOnce; ++count) {
    const ssize_t bytes = recv(from, frame.data(), frame.size(), MSG_DONTWAIT);
    if (bytes == 0) return false;
    // A port whose device is down or gone says so once; the guest's side alone ends the wire.
    if (bytes < 0) return from == kPort || errno == EAGAIN || errno == EINTR;
    [[maybe_unused]] const auto sent =
        send(to, frame.data(), static_cast<std::size_t>(bytes), MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  return true;
}

}  // namespace

int wire_main(int argc, char**) {
  pollfd sides[2] = {{kPort, POLLIN, 0}, {kGuest, POLLIN, 0}};
  if (argc > 1 || poll(sides, 2, 0) < 0 ||
      ((sides[0].revents | sides[1].revents) & POLLNVAL) != 0) {
    std::fputs("usage: virgad wire, with a packet socket as descriptor 3 and QEMU's socket as 4\n",
               stderr);
    return 2;
  }
  while (true) {
    if (poll(sides, 2, -1) < 0 && errno != EINTR) return 1;
    if (sides[0].revents != 0) carry(kPort, kGuest);
    if (sides[1].revents != 0 && !carry(kGuest, kPort)) return 0;
  }
}

}  // namespace virga
