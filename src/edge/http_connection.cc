#include "edge/http_connection.h"

#include <fmt/format.h>

#include <boost/beast/http/chunk_encode.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/serializer.hpp>
#include <boost/beast/websocket/rfc6455.hpp>
#include <boost/json.hpp>
#include <utility>

#include "base/log.h"
#include "edge/http_text.h"
#include "edge/http_url.h"
#include "edge/upgrade_request.h"

namespace virga {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;

constexpr std::uint32_t kHeaderBytesMax = 16 << 10;
constexpr std::size_t kIdleRead = 1024;  // what an idle connection holds ready
constexpr std::size_t kBusyRead = 32 << 10;
constexpr std::size_t kGatherMax = 8;
constexpr std::size_t kLingerBytesMax = 4 << 20;
constexpr Duration kLingerDeadline = seconds(2);

Errc errc_of(int status) {
  switch (status) {
    case 408:
    case 504:
      return Errc::timeout;
    case 500:
      return Errc::internal;
    case 503:
      return Errc::exhausted;
    default:
      return Errc::invalid;
  }
}

HttpResponse error_response(int status, const std::string& text) {
  const boost::json::object body{{"code", to_string(errc_of(status))}, {"text", text}};
  return {status, {{"content-type", "application/json"}}, boost::json::serialize(body)};
}

/// The one answer to one request, from any thread.
class Reply final : public HttpReply {
 public:
  Reply(std::shared_ptr<HttpServerState> server, std::weak_ptr<HttpConnection> connection,
        std::uint64_t number)
      : server_(std::move(server)), connection_(std::move(connection)), number_(number) {}

  ~Reply() override {
    if (!used_) send(error_response(500, "the request was dropped without an answer"));
  }

  void send(HttpResponse response) override {
    if (used_.exchange(true)) return;
    on_connection(
        [number = number_, response = std::move(response)](HttpConnection& connection) mutable {
          connection.respond(number, std::move(response));
        });
  }

  std::shared_ptr<EventStream> stream(HttpResponse head) override;
  std::shared_ptr<MessageSocket> upgrade() override;

  void offer_upgrade(std::string peer_name, std::string peer_address) {
    upgradable_ = true;
    peer_name_ = std::move(peer_name);
    peer_address_ = std::move(peer_address);
  }

 private:
  template <typename F>
  bool on_connection(F function) {
    const auto thread = server_->thread.lock();
    if (thread == nullptr) return false;
    thread->post([weak = connection_, function = std::move(function)]() mutable {
      if (const auto connection = weak.lock()) function(*connection);
    });
    return true;
  }

  std::shared_ptr<HttpServerState> server_;
  std::weak_ptr<HttpConnection> connection_;
  std::uint64_t number_;
  std::atomic<bool> used_ = false;
  bool upgradable_ = false;
  std::string peer_name_;
  std::string peer_address_;
};

class Events final : public EventStream {
 public:
  Events(std::shared_ptr<EventStreamState> state, std::weak_ptr<IoThread> thread,
         std::weak_ptr<HttpConnection> connection)
      : state_(std::move(state)), thread_(std::move(thread)), connection_(std::move(connection)) {}

  ~Events() override {
    state_->closed_delivered = true;
    close();
  }

  Result<void> send(std::string chunk) override {
    if (state_->closed)
      return make_error(Errc::unavailable, "send an event: the connection is closed");
    const std::size_t waiting = state_->queued_bytes.fetch_add(chunk.size()) + chunk.size();
    if (waiting > state_->queue_bytes_max) {
      state_->closed = true;
      on_connection([](HttpConnection& connection) { connection.abort(); });
      return make_error(Errc::exhausted,
                        fmt::format("send an event: {} bytes wait to be written, at most {} may",
                                    waiting, state_->queue_bytes_max));
    }
    on_connection(
        [chunk = std::move(chunk)](HttpConnection& connection) { connection.send_event(chunk); });
    return {};
  }

  void close() override {
    if (state_->closed.exchange(true)) return;
    on_connection([](HttpConnection& connection) { connection.end_events(); });
  }

  void on_closed(Task handler) override { state_->on_closed = std::move(handler); }

 private:
  template <typename F>
  void on_connection(F function) {
    const auto thread = thread_.lock();
    if (thread == nullptr) return;
    thread->post([weak = connection_, function = std::move(function)]() mutable {
      if (const auto connection = weak.lock()) function(*connection);
    });
  }

  std::shared_ptr<EventStreamState> state_;
  std::weak_ptr<IoThread> thread_;
  std::weak_ptr<HttpConnection> connection_;
};

/// A stream on its way to its connection. When it never arrives the whole IoThread has ended: no
/// handler may keep its own handle.
struct StreamOnItsWay {
  explicit StreamOnItsWay(std::shared_ptr<EventStreamState> stream) : state(std::move(stream)) {}
  StreamOnItsWay(StreamOnItsWay&&) = default;
  ~StreamOnItsWay() {
    if (state == nullptr) return;
    const auto dropped = std::exchange(state->on_closed, nullptr);
  }
  std::shared_ptr<EventStreamState> state;
};

std::shared_ptr<EventStream> Reply::stream(HttpResponse head) {
  auto state = std::make_shared<EventStreamState>(server_->loop);
  state->owner_alive = server_->alive;
  state->queue_bytes_max = server_->options.queue_bytes_max;
  auto events = std::make_shared<Events>(state, server_->thread, connection_);
  const auto thread = server_->thread.lock();
  if (used_.exchange(true) || thread == nullptr) {
    deliver_closed(state);
    return events;
  }
  thread->post([weak = connection_, number = number_, on_its_way = StreamOnItsWay(state),
                head = std::move(head)]() mutable {
    const auto arrived = std::exchange(on_its_way.state, nullptr);
    const auto connection = weak.lock();
    if (connection == nullptr) return deliver_closed(arrived);
    connection->stream(number, std::move(head), arrived);
  });
  return events;
}

std::shared_ptr<MessageSocket> Reply::upgrade() {
  if (!upgradable_) {
    HttpResponse response = error_response(426, "this address speaks WebSocket (RFC 6455) only");
    response.headers["upgrade"] = "websocket";
    send(std::move(response));
    return nullptr;
  }
  const auto thread = server_->thread.lock();
  if (used_.exchange(true) || thread == nullptr) return nullptr;
  auto state = std::make_shared<MessageSocketState>(server_->loop);
  state->options = {server_->options.message_bytes_max, server_->options.queue_bytes_max,
                    server_->options.idle_deadline};
  state->owner_alive = server_->alive;
  state->peer_name = peer_name_;
  state->peer_address = peer_address_;
  const auto core = MessageSocketCore::make(state, thread);
  auto handle = make_message_socket(state, thread, core);
  thread->post([weak = connection_, number = number_, core] {
    const auto connection = weak.lock();
    if (connection == nullptr) return core->fail("the connection was lost before its upgrade");
    connection->upgrade(number, core);
  });
  return handle;
}

}  // namespace

void deliver_closed(const std::shared_ptr<EventStreamState>& state) {
  state->closed = true;
  state->loop.post([state] {
    const auto on_closed = std::exchange(state->on_closed, nullptr);  // may own the handle
    if (std::exchange(state->closed_delivered, true) || !*state->owner_alive) return;
    if (on_closed) on_closed();
  });
}

HttpConnection::HttpConnection(std::shared_ptr<HttpServerState> server, ByteStream::Socket socket,
                               bool crowded)
    : server_(std::move(server)), crowded_(crowded), timer_(socket.get_executor()) {
  ++server_->connections;
  slot_ = std::shared_ptr<void>(nullptr,
                                [server_state = server_](void*) { --server_state->connections; });
  stream_.emplace(std::move(socket), server_->tls, TlsSide::server, std::string());
}

HttpConnection::~HttpConnection() {
  // Without a close() before, the whole IoThread has ended: no handler may keep its own handle.
  if (events_ != nullptr && phase_ != Phase::closed) {
    const auto dropped = std::exchange(events_->on_closed, nullptr);
  }
}

void HttpConnection::start() {
  peer_address_ = stream_->peer_address();
  if (server_->tls == nullptr) return await_request(server_->options.header_deadline);
  set_deadline(server_->options.header_deadline);
  ++server_->handshakes;
  stream_->async_handshake(
      IoHandler([self = shared_from_this()](const error_code& error, std::size_t) {
        self->leave_handshake();
        if (self->phase_ == Phase::closed) return;
        if (error) return self->refuse_handshake();
        self->peer_name_ = self->stream_->peer_name();
        self->peer_since_ = self->stream_->peer_since();
        self->phase_ = Phase::idle;
        self->parser_.reset();
        self->read();
      }));
}

/// Its handler always runs: with an error when the connection is closed meanwhile.
void HttpConnection::leave_handshake() {
  --server_->handshakes;
  if (server_->handshake_ended) server_->handshake_ended();
}

/// Told in the log, now and then: a peer whose certificate has expired tries again and again.
void HttpConnection::refuse_handshake() {
  constexpr Duration kToldEvery = seconds(10);
  if (stream_->tls_failure().empty()) return close();
  ++server_->refused;
  const Instant now = server_->loop.now();
  if (now >= server_->tell_refused_at) {
    server_->tell_refused_at = now + kToldEvery;
    log_line(LogLevel::warning, "http",
             fmt::format("refused {}: {} ({} refused since the last line)", peer_address_,
                         stream_->tls_failure(), std::exchange(server_->refused, 0)));
  }
  stream_->drop_tls();
  linger();
}

/// Who got an answer may be silent for the idle deadline; a new one must ask within the header's.
void HttpConnection::await_request(Duration deadline) {
  phase_ = Phase::idle;
  parser_.reset();
  set_deadline(deadline);
  if (input_.size() > 0) return parse();
  if (input_.capacity() > kIdleRead) input_.shrink_to_fit();
  read();
}

void HttpConnection::read() {
  if (reading_) return;
  reading_ = true;
  const std::size_t size = phase_ == Phase::idle ? kIdleRead : kBusyRead;
  stream_->async_read_some(input_.prepare(size),
                           [self = shared_from_this()](const error_code& error, std::size_t count) {
                             self->on_read(error, count);
                           });
}

void HttpConnection::on_read(const error_code& error, std::size_t size) {
  reading_ = false;
  // While the last answer is written, what comes in and whether more will come do not matter.
  if (phase_ == Phase::closed || phase_ == Phase::writing) return;
  if (error) return close();
  if (phase_ == Phase::streaming) return read();  // nothing is expected; only the end matters
  if (phase_ == Phase::lingering) {
    lingered_bytes_ += size;
    return lingered_bytes_ > kLingerBytesMax ? close() : read();
  }
  input_.commit(size);
  parse();
}

void HttpConnection::parse() {
  if (!parser_) {
    parser_.emplace();
    parser_->header_limit(kHeaderBytesMax);
    parser_->body_limit(server_->options.body_bytes_max);
    parser_->eager(true);
    header_seen_ = false;
    if (phase_ == Phase::idle && number_ > 0) set_deadline(server_->options.header_deadline);
    phase_ = Phase::reading;
  }
  while (!parser_->is_done() && input_.size() > 0) {
    error_code error;
    input_.consume(parser_->put(input_.data(), error));
    if (error == http::error::need_more) break;
    if (error) return refuse_parse(error);
  }
  if (!header_seen_ && parser_->is_header_done()) on_header();
  if (parser_->is_done()) return dispatch();
  read();
}

void HttpConnection::on_header() {
  header_seen_ = true;
  if (parser_->is_done()) return;
  if (!beast::iequals(parser_->get()[http::field::expect], "100-continue")) return;
  enqueue("HTTP/1.1 100 Continue\r\n\r\n");
}

void HttpConnection::refuse_parse(const error_code& error) {
  if (error == http::error::header_limit) {
    return answer_error(431, fmt::format("the header has more than {} bytes", kHeaderBytesMax));
  }
  if (error == http::error::body_limit) {
    return answer_error(
        413, fmt::format("the body has more than {} bytes", server_->options.body_bytes_max));
  }
  answer_error(400, "the request is no HTTP/1.1: " + error.message());
}

std::optional<HttpRequest> HttpConnection::take_request() {
  auto message = parser_->release();
  keep_alive_ = message.keep_alive();
  head_only_ = message.method() == http::verb::head;
  chunked_ = message.version() >= 11;
  const auto hosts = message.count(http::field::host);
  if (hosts > 1 || (hosts == 0 && message.version() >= 11)) {
    answer_error(400, fmt::format("the request has {} Host headers; one is right", hosts));
    return std::nullopt;
  }
  auto target = parse_request_target(std::string(message.target()));
  if (!target) {
    answer_error(400, target.error().text());
    return std::nullopt;
  }
  HttpRequest request;
  request.method = std::string(message.method_string());
  request.path = std::move(target->path);
  request.query = std::move(target->query);
  request.headers = header_map(message);
  request.body = std::move(message.body());
  request.peer_address = peer_address_;
  request.peer_name = peer_name_;
  request.peer_since = peer_since_;
  upgrade_head_.reset();
  const http::request<http::empty_body> head(std::move(message.base()));
  if (beast::websocket::is_upgrade(head)) upgrade_head_ = head.base();
  return request;
}

void HttpConnection::dispatch() {
  ++number_;
  auto request = take_request();
  parser_.reset();
  if (!request) return;
  if (crowded_) {
    return answer_error(503, fmt::format("{} connections are open, more are refused",
                                         server_->options.connections_max));
  }
  phase_ = Phase::handling;
  set_deadline(server_->options.request_deadline);
  const auto reply = std::make_shared<Reply>(server_, weak_from_this(), number_);
  if (upgrade_head_) reply->offer_upgrade(peer_name_, peer_address_);
  server_->loop.post([server = server_, reply, request = std::move(*request)]() mutable {
    const auto handler = server->handler;  // it may destroy the server
    if (*server->alive && handler) (*handler)(std::move(request), std::move(reply));
  });
}

void HttpConnection::answer_error(int status, const std::string& text) {
  keep_alive_ = false;
  send(error_response(status, text));
}

std::string HttpConnection::response_header(const HttpResponse& response,
                                            std::optional<std::size_t> length) {
  http::response<http::empty_body> head(static_cast<http::status>(response.status), 11);
  const auto bad = set_headers(head, response.headers);
  if (bad)
    log_line(LogLevel::error, "http", "drop the response header '" + *bad + "': it is malformed");
  head.keep_alive(keep_alive_);
  const bool bodiless = response.status < 200 || response.status == 204 || response.status == 304;
  if (length && !bodiless) head.content_length(*length);
  if (!length && chunked_) head.chunked(true);
  return header_text(head);
}

void HttpConnection::respond(std::uint64_t number, HttpResponse response) {
  if (number == number_ && phase_ == Phase::handling) send(std::move(response));
}

/// Head and body leave in one write: whoever ends this process does not cut a short answer in two.
void HttpConnection::send(HttpResponse response) {
  phase_ = Phase::writing;
  output_.push_back({response_header(response, response.body.size()), 0});
  const bool bodiless = response.status < 200 || response.status == 204 || response.status == 304;
  if (!head_only_ && !bodiless && !response.body.empty()) {
    output_.push_back({std::move(response.body), 0});
  }
  if (!writing_) write();
}

void HttpConnection::stream(std::uint64_t number, HttpResponse head,
                            std::shared_ptr<EventStreamState> events) {
  if (number != number_ || phase_ != Phase::handling) return deliver_closed(events);
  phase_ = Phase::streaming;
  events_ = std::move(events);
  keep_alive_ = false;
  set_deadline(server_->options.idle_deadline);
  enqueue(response_header(head, std::nullopt));
  if (!head.body.empty()) enqueue_event(head.body, 0);
  input_.clear();
  read();
}

void HttpConnection::upgrade(std::uint64_t number, std::shared_ptr<MessageSocketCore> core) {
  if (number != number_ || phase_ != Phase::handling) {
    return core->fail("the connection was lost before its upgrade");
  }
  if (input_.size() > 0) {
    answer_error(400, "data came after the upgrade was asked for and before it was granted");
    return core->fail("the client did not wait for its upgrade");
  }
  UpgradeRequest request;
  request.head.base() = std::move(*upgrade_head_);
  core->accept(std::move(*stream_), request, std::move(slot_));
  stream_.reset();
  phase_ = Phase::closed;
  timer_.cancel();
}

void HttpConnection::send_event(const std::string& chunk) {
  if (phase_ == Phase::streaming) enqueue_event(chunk, chunk.size());
}

void HttpConnection::enqueue_event(const std::string& chunk, std::size_t counted) {
  if (chunk.empty() || head_only_) {
    events_->queued_bytes -= counted;
  } else if (chunked_) {
    enqueue(beast::buffers_to_string(http::make_chunk(asio::buffer(chunk))), counted);
  } else {
    enqueue(chunk, counted);
  }
}

void HttpConnection::end_events() {
  if (phase_ != Phase::streaming) return;
  if (chunked_ && !head_only_) enqueue(beast::buffers_to_string(http::make_chunk_last()));
  phase_ = Phase::writing;
  if (output_.empty()) on_drained();
}

void HttpConnection::enqueue(std::string bytes, std::size_t event_bytes) {
  output_.push_back({std::move(bytes), event_bytes});
  if (!writing_) write();
}

void HttpConnection::write() {
  writing_ = true;
  if (phase_ != Phase::reading) set_deadline(server_->options.idle_deadline);
  std::vector<asio::const_buffer> buffers;
  for (const Piece& piece : output_) {
    buffers.push_back(asio::buffer(piece.bytes));
    if (buffers.size() == kGatherMax) break;
  }
  buffers.front() += output_offset_;
  stream_->async_write_some(buffers,
                            [self = shared_from_this()](const error_code& error, std::size_t size) {
                              self->on_written(error, size);
                            });
}

void HttpConnection::on_written(const error_code& error, std::size_t size) {
  writing_ = false;
  if (phase_ == Phase::closed) return;
  if (error) return close();
  output_offset_ += size;
  while (!output_.empty() && output_offset_ >= output_.front().bytes.size()) {
    output_offset_ -= output_.front().bytes.size();
    if (events_ != nullptr) events_->queued_bytes -= output_.front().event_bytes;
    output_.pop_front();
  }
  if (!output_.empty()) return write();
  on_drained();
}

void HttpConnection::on_drained() {
  if (phase_ != Phase::writing) return;
  if (!keep_alive_) return linger();
  await_request(server_->options.idle_deadline);
}

/// Waits for the client's end: a socket closed with unread data takes its last answer along.
void HttpConnection::linger() {
  phase_ = Phase::lingering;
  set_deadline(kLingerDeadline);
  stream_->shutdown_send();
  if (!reading_) input_.clear();
  read();
}

void HttpConnection::set_deadline(Duration deadline) {
  deadline_ = std::chrono::steady_clock::now() + deadline;
  if (waiting_ && timer_.expiry() <= deadline_) return;  // it looks again when it fires
  wait_for_deadline();
}

void HttpConnection::wait_for_deadline() {
  waiting_ = true;
  timer_.expires_at(deadline_);
  timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (error || self->phase_ == Phase::closed) return;
    self->waiting_ = false;
    if (std::chrono::steady_clock::now() < self->deadline_) return self->wait_for_deadline();
    self->on_deadline();
  });
}

void HttpConnection::on_deadline() {
  switch (phase_) {
    case Phase::reading:
      return answer_error(408, fmt::format("the request was not complete within {} ms",
                                           to_ms(server_->options.header_deadline)));
    case Phase::handling:
      return answer_error(504, fmt::format("no answer was there within {} ms",
                                           to_ms(server_->options.request_deadline)));
    case Phase::streaming:
      if (output_.empty()) return set_deadline(server_->options.idle_deadline);
      return close();
    default:
      return close();
  }
}

void HttpConnection::close() {
  if (phase_ == Phase::closed) return;
  phase_ = Phase::closed;
  stream_->close();
  timer_.cancel();
  slot_.reset();
  if (events_ != nullptr) deliver_closed(events_);
}

}  // namespace virga
