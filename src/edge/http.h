#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "edge/asio_loop.h"
#include "edge/tls.h"

namespace virga {

struct HttpRequest {
  std::string method;  ///< "GET"
  std::string path;    ///< decoded, always begins with '/', holds no "." or ".." segment
  std::map<std::string, std::string> query;    ///< decoded
  std::map<std::string, std::string> headers;  ///< names in lower case
  std::string body;
  std::string peer_address;
  std::string peer_name;  ///< common name of the verified client certificate; empty = none
  WallTime peer_since{};  ///< when that was issued
};

struct HttpResponse {
  int status = 200;
  std::map<std::string, std::string> headers = {};
  std::string body = {};
};

/// A connection that carries text messages (RFC 6455 by Beast). Calls and handlers on the Loop.
/// Who drops the last pointer closes it and hears nothing more; a handler may own the pointer, it goes after on_closed.
class MessageSocket {
 public:
  virtual ~MessageSocket() = default;

  /// Queues one message. Errors: exhausted (more than `queue_bytes_max` wait: the peer is too slow, the connection
  /// is closed), unavailable (closed).
  virtual Result<void> send(std::string message) = 0;

  /// Closes; the closed handler runs once, also for a close from the other side or a lost connection.
  virtual void close() = 0;

  /// Before the first message is delivered (in the task that handed the socket over).
  virtual void on_message(std::function<void(std::string message)> handler) = 0;
  virtual void on_closed(std::function<void(const std::string& reason)> handler) = 0;

  virtual std::string peer_name() const = 0;
  virtual std::string peer_address() const = 0;
};

/// A response that never ends by itself: server-sent events. Calls, handlers and ownership as MessageSocket.
class EventStream {
 public:
  virtual ~EventStream() = default;
  virtual Result<void> send(std::string chunk) = 0;  ///< errors as MessageSocket::send
  virtual void close() = 0;
  virtual void on_closed(Task handler) = 0;
};

/// How one request is answered: exactly one call, from any thread (stream and upgrade: on the Loop), at any time
/// until the request's deadline. A reply that is dropped unused answers 500.
class HttpReply {
 public:
  virtual ~HttpReply() = default;
  virtual void send(HttpResponse response) = 0;
  virtual std::shared_ptr<EventStream> stream(HttpResponse head) = 0;
  /// Only for a request that asks for it; else answers 426 and returns nullptr.
  virtual std::shared_ptr<MessageSocket> upgrade() = 0;
};

struct HttpServerOptions {
  std::string address = "127.0.0.1";
  std::uint16_t port = 0;  ///< 0 = any free one
  int listening_descriptor =
      -1;  ///< a socket that listens already, taken over instead of address and port; -1 = none
  TlsIdentity tls = {};  ///< empty = plain
  bool client_certificate_required = false;
  std::size_t body_bytes_max = 1 << 20;
  std::size_t message_bytes_max = 1 << 20;
  std::size_t queue_bytes_max = 16 << 20;  ///< waiting to be written, per connection
  std::size_t connections_max = 20'000;    ///< the next ones are answered 503
  Duration header_deadline =
      seconds(10);  ///< from connect (later: from the first byte) to a whole request; then 408
  Duration idle_deadline =
      seconds(60);  ///< keep-alive, and a write that stands; sockets are pinged at half
  Duration request_deadline = seconds(60);  ///< until the handler answers; then 504
  Duration user_timeout =
      seconds(5);  ///< TCP_USER_TIMEOUT: unacknowledged data ends the connection
};

/// HTTP/1.1 server with TLS, WebSocket and event streams. Sockets live on the server's own thread; `handler` runs on
/// the Loop. Too large, too slow and malformed requests are answered here and never reach the handler.
class HttpServer {
 public:
  using Handler = std::function<void(HttpRequest request, std::shared_ptr<HttpReply> reply)>;

  static Result<std::unique_ptr<HttpServer>> listen(AsioLoop& loop, HttpServerOptions options,
                                                    Handler handler);
  virtual ~HttpServer() = default;  ///< closes all connections; no handler runs afterwards
  virtual std::uint16_t port() const = 0;

  /// The identity of connections that come from now on; those that are there stay. Only for a server that was given
  /// one. Loop thread. Errors: invalid (it stays as it was).
  virtual Result<void> use(const TlsIdentity& identity) = 0;
};

struct HttpCall {
  std::string method = "GET";
  std::string url = {};  ///< "https://10.77.0.1:7443/v1/vms?limit=10"
  std::map<std::string, std::string> headers = {};
  std::string body = {};
  TlsIdentity tls = {};  ///< trusted for https; certificate where the server wants one
  /// Name that the server's certificate must carry; empty = the URL's host.
  std::string server_name = {};
  Duration deadline = seconds(30);
  std::size_t body_bytes_max = 64 << 20;
  Duration idle_deadline =
      seconds(10);  ///< sockets: pinged at half of it, lost when nothing came for the whole
  Duration user_timeout = seconds(5);  ///< TCP_USER_TIMEOUT, as HttpServerOptions
  /// Descriptor of the network namespace that the connection is made from, held until its end; nullptr = the process's
  /// own. Names are resolved outside of it.
  std::shared_ptr<const int> network_namespace = {};
};

/// One request on a connection of its own. Errors: unavailable (no connection), timeout, unauthenticated (TLS),
/// invalid (URL), internal (not HTTP). Completes on the Loop.
void http_call(AsioLoop& loop, HttpCall call, Callback<HttpResponse> done);

/// The same, but the body of a 2xx answer is handed over in pieces as they come until the server ends it or `keep_on`
/// returns false; the next piece is read when `keep_on` has returned. Another answer's body is in the response.
/// The deadline holds for the head and then for the silence before each piece.
void http_stream(AsioLoop& loop, HttpCall call, std::function<bool(std::string piece)> keep_on,
                 Callback<HttpResponse> done);

/// Whether somebody serves TCP at "http://ADDRESS:PORT": the connection comes about, and within `stands` the other side
/// does not end it before it has said anything. Gives the time until the connection was there. Errors: unavailable,
/// timeout, invalid. Completes on the Loop.
void tcp_call(AsioLoop& loop, HttpCall call, Duration stands, Callback<Duration> done);

/// Opens a WebSocket ("wss://..."); pings by itself, closes when nothing comes for 2 pings. Errors as http_call, and by
/// the status of a refusal: invalid (400), unauthenticated (401), denied (403), not_found (404), else unavailable.
void open_message_socket(AsioLoop& loop, HttpCall call,
                         Callback<std::shared_ptr<MessageSocket>> done);

}  // namespace virga
