#include "agent/relay_main.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <string>

#include "edge/psk_relay.h"

namespace virga {

namespace {

constexpr int kWire = 3;
constexpr int kPlain = 4;
constexpr int kKey = 5;

std::string read_key() {
  std::array<char, 128> key{};
  std::size_t size = 0;
  for (ssize_t count = 0; size < key.size(); size += static_cast<std::size_t>(count)) {
    count = read(kKey, key.data() + size, key.size() - size);
    if (count <= 0) break;
  }
  close(kKey);
  return {key.data(), size};
}

}  // namespace

int relay_main(int argc, char** argv) {
  const std::string end = argc == 2 ? argv[1] : "";
  const bool open =
      fcntl(kWire, F_GETFD) >= 0 && fcntl(kPlain, F_GETFD) >= 0 && fcntl(kKey, F_GETFD) >= 0;
  if (!open || (end != "client" && end != "server")) {
    std::fputs(
        "usage: virgad relay client|server, with the connection to the other host as "
        "descriptor 3, QEMU's socket as 4 and the key as 5\n",
        stderr);
    return 2;
  }
  const RelayOptions options{end == "client" ? RelayEnd::client : RelayEnd::server, read_key()};
  const auto ended = relay_encrypted(kPlain, kWire, options);
  if (ended.ok()) return 0;
  return ended.error().code == Errc::denied ? kRelayDenied : 1;
}

}  // namespace virga
