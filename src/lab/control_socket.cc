#include "lab/control_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/reflect.h"

namespace virga {

namespace {

constexpr std::size_t kClientsMax = 32;

}  // namespace

Result<std::unique_ptr<ControlSocket>> ControlSocket::listen(AsioLoop& loop,
                                                             const std::string& path,
                                                             Handler handler) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return make_error(Errc::invalid, "listen on " + path + ": socket paths have at most 107 bytes");
  }
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  unlink(path.c_str());
  Descriptor listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const mode_t before = umask(0177);
  const int bound =
      bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  umask(before);
  if (bound != 0 || ::listen(listener.get(), kClientsMax) != 0) {
    return make_error(Errc::denied, "listen on " + path + ": " + strerror(errno));
  }
  return std::unique_ptr<ControlSocket>(
      new ControlSocket(loop, std::move(listener), std::move(handler)));
}

ControlSocket::ControlSocket(AsioLoop& loop, Descriptor listener, Handler handler)
    : loop_(loop), listener_(std::move(listener)), handler_(std::move(handler)) {
  loop_.watch_descriptor(listener_.get(), [this] { accept_one(); });
}

ControlSocket::~ControlSocket() {
  loop_.forget_descriptor(listener_.get());
  for (const auto& [client, descriptor] : clients_) loop_.forget_descriptor(client);
}

void ControlSocket::accept_one() {
  Descriptor made(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!made.valid() || clients_.size() >= kClientsMax) return;
  const int client = made.get();
  clients_.emplace(client, std::move(made));
  loop_.watch_descriptor(client, [this, client] { read_request(client); });
}

void ControlSocket::read_request(int client) {
  std::string text(kLabMessageBytesMax, '\0');
  const ssize_t bytes = recv(client, text.data(), text.size(), MSG_DONTWAIT);
  if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (bytes <= 0) return drop(client);
  // One request a connection: what else comes is not read.
  loop_.forget_descriptor(client);
  text.resize(static_cast<std::size_t>(bytes));
  auto request = from_json_text<LabRequest>(text);
  if (!request) {
    return answer(
        client, LabReply{std::string(to_string(request.error().code)), request.error().text(), {}});
  }
  handler_(std::move(*request), [this, client, alive = std::weak_ptr(alive_)](LabReply reply) {
    if (!alive.expired()) answer(client, reply);
  });
}

void ControlSocket::answer(int client, const LabReply& reply) {
  const std::string text = to_json_text(reply);
  [[maybe_unused]] const auto sent =
      send(client, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  clients_.erase(client);
}

void ControlSocket::drop(int client) {
  loop_.forget_descriptor(client);
  clients_.erase(client);
}

}  // namespace virga
