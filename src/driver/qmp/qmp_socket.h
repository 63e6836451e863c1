#pragma once

#include <boost/json.hpp>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "driver/qmp/qmp_parser.h"
#include "edge/asio_loop.h"
#include "edge/process.h"

namespace virga {

/// Bytes of one QMP connection to and from JSON objects. Lowest layer of QMP: knows no command.
/// Loop thread only. Handlers may destroy the socket.
class QmpSocket {
 public:
  using MessageHandler = std::function<void(const boost::json::object&)>;
  using ClosedHandler = std::function<void(const Error&)>;

  /// Takes over a connected, non-blocking stream socket.
  QmpSocket(AsioLoop& loop, Descriptor socket, std::size_t line_bytes_max = 16 << 20);
  ~QmpSocket();
  QmpSocket(const QmpSocket&) = delete;
  QmpSocket& operator=(const QmpSocket&) = delete;

  void on_message(MessageHandler handler) { message_handler_ = std::move(handler); }

  /// Once: the peer closed (unavailable), or sent what is no QMP (invalid). Nothing arrives after it.
  void on_closed(ClosedHandler handler) { closed_handler_ = std::move(handler); }

  /// Sends one line, with a descriptor as ancillary data if it is not negative.
  /// Errors: unavailable (closed, or the peer has stopped to read).
  Result<void> send(const boost::json::object& message, int descriptor = -1);

 private:
  void read();
  void close(Error why);

  AsioLoop& loop_;
  Descriptor socket_;
  QmpParser parser_;
  MessageHandler message_handler_;
  ClosedHandler closed_handler_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
