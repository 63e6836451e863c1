#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "guest/poller.h"

namespace virga::guest {

/// TCP services on one thread, without a process per connection: an HTTP server that answers every GET with the text
/// of `answer`, and an echo. At most kConnectionsMax at a time; further ones are closed at once. A connection that
/// does not take its answers is not read from until it does.
class Services {
 public:
  static constexpr std::size_t kConnectionsMax = 2000;

  /// `answer` is called once per request.
  Services(Poller& poller, std::function<std::string()> answer)
      : poller_(poller), answer_(std::move(answer)) {}

  /// Each listens on all addresses. False when the port is taken.
  bool serve_http(std::uint16_t port) { return listen_on(port, Kind::http); }
  bool serve_echo(std::uint16_t port) { return listen_on(port, Kind::echo); }

  /// Ends HTTP connections that were idle for a minute; call about once a second.
  void sweep();

 private:
  enum class Kind { http, echo };
  struct Connection {
    int socket = -1;
    Kind kind = Kind::http;
    std::string in;
    std::string out;
    bool close_after_out = false;
    long long active_ms = 0;
  };

  bool listen_on(std::uint16_t port, Kind kind);
  void accept_from(int listener, Kind kind);
  void handle(int socket, std::uint32_t events);
  bool read_some(Connection& connection);
  void answer_requests(Connection& connection);
  void answer_request(Connection& connection, const std::string& head);
  bool write_some(Connection& connection);
  void close_connection(int socket);

  Poller& poller_;
  std::function<std::string()> answer_;
  std::map<int, Connection> connections_;
};

}  // namespace virga::guest
