#include "driver/qmp/qmp_socket.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "driver/qmp/unix_socket.h"

namespace virga {

QmpSocket::QmpSocket(AsioLoop& loop, Descriptor socket, std::size_t line_bytes_max)
    : loop_(loop), socket_(std::move(socket)), parser_(line_bytes_max) {
  loop_.watch_descriptor(socket_.get(), [this] { read(); });
}

QmpSocket::~QmpSocket() {
  if (socket_.valid()) loop_.forget_descriptor(socket_.get());
}

Result<void> QmpSocket::send(const boost::json::object& message, int descriptor) {
  if (!socket_.valid()) return make_error(Errc::unavailable, "QMP connection is closed");
  return send_unix(socket_.get(), boost::json::serialize(message) + "\n", descriptor);
}

void QmpSocket::read() {
  char piece[65536];
  const ssize_t count = ::recv(socket_.get(), piece, sizeof piece, MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    return close(make_error(Errc::unavailable,
                            fmt::format("QMP connection lost: {}",
                                        count == 0 ? "closed by the peer" : std::strerror(errno))));
  }
  auto objects = parser_.feed(std::string_view(piece, static_cast<std::size_t>(count)));
  if (!objects) return close(objects.error());
  const std::weak_ptr<int> alive = alive_;
  for (const boost::json::object& object : *objects) {
    if (message_handler_) message_handler_(object);
    if (alive.expired()) return;
  }
}

void QmpSocket::close(Error why) {
  loop_.forget_descriptor(socket_.get());
  socket_.reset();
  if (auto handler = std::exchange(closed_handler_, nullptr)) handler(why);
}

}  // namespace virga
