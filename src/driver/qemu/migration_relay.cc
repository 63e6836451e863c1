#include "driver/qemu/migration_relay.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "base/log.h"
#include "edge/file.h"

namespace virga {

Result<Descriptor> MigrationRelays::begin(const Descriptor& connection, const std::string& key,
                                          RelayEnd end, std::uint32_t user, const VmId& vm) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return errno_error("make a socket to QEMU", errno);
  Descriptor near(ends[0]);
  const Descriptor far(ends[1]);
  int pipe[2];
  if (::pipe2(pipe, O_CLOEXEC) != 0) return errno_error("make a pipe to a relay", errno);
  const Descriptor key_out(pipe[0]);
  Descriptor key_in(pipe[1]);
  // It fits: a pipe holds a page at least.
  if (::write(key_in.get(), key.data(), key.size()) != static_cast<ssize_t>(key.size()))
    return errno_error("give a relay its key", errno);
  key_in.reset();
  ProcessOptions options;
  options.arguments = {program_, "relay", end == RelayEnd::client ? "client" : "server"};
  options.descriptors = {{3, connection.get()}, {4, far.get()}, {5, key_out.get()}};
  options.lowered = true;
  if (user != 0) {
    options.as.user = user;
    options.as.group = group_;
  }
  auto relay = Process::spawn(loop_, options);
  if (!relay) return wrap_error("begin a relay", relay.error());
  const auto place = running_.insert(running_.end(), std::move(*relay));
  (*place)->on_exit([this, place, vm](ProcessExit ended) {
    if (ended.code == kRelayDenied) {
      log_line(LogLevel::warning, "qemu",
               vm.value +
                   ": the other end of its migration does not know the key, or what came was "
                   "changed on its way");
    }
    running_.erase(place);
  });
  return near;
}

}  // namespace virga
