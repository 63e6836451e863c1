#pragma once

#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <deque>
#include <optional>

#include "edge/byte_stream.h"
#include "edge/http.h"
#include "edge/http_body.h"
#include "edge/io_thread.h"
#include "edge/message_socket.h"

namespace virga {

/// What all connections of one server share.
struct HttpServerState {
  explicit HttpServerState(AsioLoop& made_loop) : loop(made_loop) {}

  AsioLoop& loop;
  HttpServerOptions options;
  std::shared_ptr<ssl_ctx_st> tls;
  std::weak_ptr<IoThread> thread;
  std::shared_ptr<std::atomic<bool>> alive = std::make_shared<std::atomic<bool>>(true);
  std::shared_ptr<HttpServer::Handler> handler;  // loop thread only
  std::atomic<std::size_t> connections = 0;
  // IoThread only:
  std::size_t handshakes = 0;     // of TLS, under way
  std::size_t refused = 0;        // of them, that nobody was told of
  Instant tell_refused_at{};
  Task handshake_ended = nullptr;
};

/// An endless response, shared by its handle on the Loop and its connection.
struct EventStreamState {
  explicit EventStreamState(AsioLoop& made_loop) : loop(made_loop) {}

  AsioLoop& loop;
  std::shared_ptr<std::atomic<bool>> owner_alive;
  std::size_t queue_bytes_max = 0;
  std::atomic<std::size_t> queued_bytes = 0;
  std::atomic<bool> closed = false;
  bool closed_delivered = false;  // loop thread only, as on_closed
  Task on_closed;
};

/// Tells the handle, on the Loop, that the connection is gone.
void deliver_closed(const std::shared_ptr<EventStreamState>& state);

/// One connection: requests one after the other until it ends, streams events or becomes a WebSocket.
/// Lives on the IoThread, held by the operation or the timer that is under way.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  /// `crowded`: over connections_max; answers 503 and ends.
  HttpConnection(std::shared_ptr<HttpServerState> server, ByteStream::Socket socket, bool crowded);
  ~HttpConnection();

  void start();

  // The answer to request `number`; one that comes too late does nothing.
  void respond(std::uint64_t number, HttpResponse response);
  void stream(std::uint64_t number, HttpResponse head, std::shared_ptr<EventStreamState> events);
  void upgrade(std::uint64_t number, std::shared_ptr<MessageSocketCore> core);

  void send_event(const std::string& chunk);
  void end_events();
  void abort() { close(); }

 private:
  enum class Phase { handshake, idle, reading, handling, writing, streaming, lingering, closed };
  struct Piece {
    std::string bytes;
    std::size_t event_bytes = 0;  // how much of events_->queued_bytes this is
  };
  using Parser = boost::beast::http::request_parser<GrowingBody>;
  using Timer =
      boost::asio::basic_waitable_timer<std::chrono::steady_clock,
                                        boost::asio::wait_traits<std::chrono::steady_clock>,
                                        boost::asio::io_context::executor_type>;

  void refuse_handshake();
  void leave_handshake();
  void await_request(Duration deadline);
  void read();
  void on_read(const boost::system::error_code& error, std::size_t size);
  void parse();
  void on_header();
  void refuse_parse(const boost::system::error_code& error);
  void dispatch();
  std::optional<HttpRequest> take_request();
  void answer_error(int status, const std::string& text);
  void send(HttpResponse response);
  std::string response_header(const HttpResponse& response, std::optional<std::size_t> length);
  void enqueue_event(const std::string& chunk, std::size_t counted);
  void enqueue(std::string bytes, std::size_t event_bytes = 0);
  void write();
  void on_written(const boost::system::error_code& error, std::size_t size);
  void on_drained();
  void linger();
  void set_deadline(Duration deadline);
  void wait_for_deadline();
  void on_deadline();
  void close();

  std::shared_ptr<HttpServerState> server_;
  std::shared_ptr<void> slot_;
  std::optional<ByteStream> stream_;
  boost::beast::flat_buffer input_;
  std::optional<Parser> parser_;
  std::deque<Piece> output_;
  std::size_t output_offset_ = 0;  // of output_.front(), already written
  std::shared_ptr<EventStreamState> events_;
  std::optional<Request> upgrade_head_;
  std::string peer_name_;
  WallTime peer_since_;
  std::string peer_address_;
  std::uint64_t number_ = 0;
  std::size_t lingered_bytes_ = 0;
  Phase phase_ = Phase::handshake;
  bool crowded_ = false;
  bool keep_alive_ = true;
  bool head_only_ = false;
  bool chunked_ = false;
  bool header_seen_ = false;
  bool reading_ = false;
  bool writing_ = false;
  bool waiting_ = false;
  std::chrono::steady_clock::time_point deadline_;
  Timer timer_;
};

}  // namespace virga
