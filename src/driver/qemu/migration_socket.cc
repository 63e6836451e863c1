#include "driver/qemu/migration_socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "driver/qmp/unix_socket.h"
#include "edge/connect_tcp.h"
#include "edge/file.h"
#include "edge/listen_tcp.h"
#include "edge/tls.h"

namespace virga {
namespace {

constexpr std::size_t kCandidatesMax = 8;
constexpr std::size_t kLineMax = 256;
constexpr Duration kSecretDeadline = seconds(5);
constexpr std::string_view kReady = "ready\n";

/// A silent peer ends the connection after 2 s instead of after minutes.
void set_timeouts(int socket) {
  const auto set = [socket](int level, int name, int value) {
    ::setsockopt(socket, level, name, &value, sizeof value);
  };
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 2000);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 1);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 1);
  set(IPPROTO_TCP, TCP_KEEPCNT, 2);
  set(IPPROTO_TCP, TCP_NODELAY, 1);
}

/// QEMU wants a blocking socket.
void set_blocking(int socket) { ::fcntl(socket, F_SETFL, ::fcntl(socket, F_GETFL) & ~O_NONBLOCK); }

/// Waits for the one line that the destination answers with, for at most `deadline`.
Result<void> await_ready(int socket, Duration deadline, const std::string& peer) {
  const timeval limit{to_ms(deadline) / 1000, to_ms(deadline) % 1000 * 1000};
  ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  std::string seen(kReady.size(), '\0');
  const ssize_t count = ::recv(socket, seen.data(), seen.size(), MSG_WAITALL);
  const int number = errno;
  const timeval none{};
  ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
  if (count == static_cast<ssize_t>(seen.size()) && seen == kReady) return {};
  if (count < 0 && number == EAGAIN) {
    return make_error(Errc::timeout, "migration: " + peer + " did not confirm");
  }
  return make_error(Errc::unavailable,
                    "migration: " + peer + " closed the connection or is no destination");
}

}  // namespace

Result<std::unique_ptr<MigrationListener>> MigrationListener::listen(AsioLoop& loop,
                                                                     const std::string& address,
                                                                     std::string secret,
                                                                     Handler handler) {
  constexpr int kBacklog = 4;
  auto socket = listen_tcp(address, 0, kBacklog);
  if (!socket) return wrap_error("listen for a migration", socket.error());
  ::fcntl(socket->get(), F_SETFL, ::fcntl(socket->get(), F_GETFL) | O_NONBLOCK);
  return std::unique_ptr<MigrationListener>(
      new MigrationListener(loop, std::move(*socket), std::move(secret), std::move(handler)));
}

MigrationListener::MigrationListener(AsioLoop& loop, Descriptor socket, std::string secret,
                                     Handler handler)
    : loop_(loop),
      socket_(std::move(socket)),
      secret_(std::move(secret)),
      handler_(std::move(handler)) {
  port_ = static_cast<std::uint16_t>(port_of(socket_));
  loop_.watch_descriptor(socket_.get(), [this] { accept(); });
}

MigrationListener::~MigrationListener() { close(); }

void MigrationListener::close() {
  while (!candidates_.empty()) drop(candidates_.begin());
  if (socket_.valid()) loop_.forget_descriptor(socket_.get());
  socket_.reset();
}

void MigrationListener::accept() {
  Descriptor connection(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!connection.valid()) return;
  if (candidates_.size() >= kCandidatesMax) drop(candidates_.begin());
  set_timeouts(connection.get());
  const Place place =
      candidates_.insert(candidates_.end(), Candidate{std::move(connection), {}, 0});
  place->deadline = loop_.after(kSecretDeadline, [this, place] { drop(place); });
  loop_.watch_descriptor(place->connection.get(), [this, place] { read(place); });
}

void MigrationListener::read(Place candidate) {
  char piece[kLineMax];
  const ssize_t count = ::recv(candidate->connection.get(), piece, sizeof piece, MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) return drop(candidate);
  candidate->line.append(piece, static_cast<std::size_t>(count));
  const bool whole = candidate->line.back() == '\n';
  if (!whole && candidate->line.size() < kLineMax) return;
  if (!equal_in_constant_time(candidate->line, secret_ + "\n")) return drop(candidate);
  loop_.forget_descriptor(candidate->connection.get());
  Descriptor connection = std::move(candidate->connection);
  loop_.cancel(candidate->deadline);
  candidates_.erase(candidate);
  close();
  set_blocking(connection.get());
  if (auto handler = std::exchange(handler_, nullptr)) handler(std::move(connection));
}

void MigrationListener::drop(Place candidate) {
  loop_.cancel(candidate->deadline);
  loop_.forget_descriptor(candidate->connection.get());
  candidates_.erase(candidate);
}

Result<void> confirm_migration(int connection) {
  return send_unix(connection, std::string(kReady));
}

Result<Descriptor> connect_migration(const MigrationEndpoint& to, Duration deadline) {
  const std::string peer = fmt::format("{}:{}", to.address, to.port);
  const Duration each = deadline / 2;
  auto connected = connect_tcp(to.address, to.port, each);
  if (!connected) return wrap_error("migration", connected.error());
  Descriptor socket = std::move(*connected);
  set_timeouts(socket.get());
  if (auto sent = send_unix(socket.get(), to.secret + "\n"); !sent) {
    return wrap_error("migration: secret to " + peer, sent.error());
  }
  set_blocking(socket.get());
  if (auto ready = await_ready(socket.get(), each, peer); !ready) return ready.error();
  return socket;
}

}  // namespace virga
