#include "edge/http.h"

#include <fmt/format.h>

#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>

#include "edge/asio_loop_impl.h"
#include "edge/http_body.h"
#include "edge/http_connect.h"
#include "edge/http_text.h"
#include "edge/message_socket.h"

namespace virga {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

constexpr std::uint32_t kHeaderBytesMax = 64 << 10;
constexpr std::size_t kReadSize = 32 << 10;

using KeepOn = std::function<bool(std::string piece)>;

std::string request_text(const HttpCall& call, const HttpUrl& url) {
  http::request<http::empty_body> head;
  head.version(11);
  head.method_string(call.method);
  head.target(url.target);
  head.set(http::field::host, url.authority);
  head.set(http::field::user_agent, "virga");
  set_headers(head, call.headers);
  head.keep_alive(false);
  if (!call.body.empty() || call.method != "GET") head.content_length(call.body.size());
  return header_text(head);
}

Result<HttpUrl> check(const HttpCall& call) {
  auto url = parse_http_url(call.url);
  if (!url) return url;
  http::fields probe;
  if (set_headers(probe, {{call.method, ""}})) {
    return make_error(Errc::invalid,
                      "call " + call.url + ": '" + call.method + "' is no HTTP method");
  }
  if (const auto bad = set_headers(probe, call.headers)) {
    return make_error(Errc::invalid,
                      "call " + call.url + ": the header '" + *bad + "' is malformed");
  }
  return url;
}

/// One request and its response, on the client thread. Held by the timer, armed until the end.
class Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(AsioLoop& loop, std::shared_ptr<IoThread> thread, HttpCall call, HttpUrl url)
      : loop_(loop),
        thread_(thread),
        call_(std::move(call)),
        what_(call_.method + " " + call_.url),
        output_(request_text(call_, url)),
        timer_(thread->context().get_executor()) {
    output_ += call_.body;
    call_.body.clear();
  }

  void on_end(Callback<HttpResponse> done) { done_ = std::move(done); }
  void on_piece(KeepOn keep_on) { keep_on_ = std::make_shared<KeepOn>(std::move(keep_on)); }
  void fail(Error error) { finish(wrap_error(what_, std::move(error))); }
  void start(std::shared_ptr<ByteStream> stream);

 private:
  using Parser = http::response_parser<GrowingBody>;
  using Timer = asio::basic_waitable_timer<std::chrono::steady_clock,
                                           asio::wait_traits<std::chrono::steady_clock>,
                                           asio::io_context::executor_type>;

  void prepare_parser();
  void set_deadline();
  void write();
  void read();
  void on_read(const error_code& error, std::size_t size);
  void on_lost(const error_code& error);
  bool parse();
  void proceed();
  bool wants_pieces();
  void hand_over(std::string piece);
  void complete();
  void finish(Result<HttpResponse> result);

  AsioLoop& loop_;
  std::weak_ptr<IoThread> thread_;
  HttpCall call_;
  std::string what_;
  std::string output_;
  std::size_t written_ = 0;
  Callback<HttpResponse> done_;
  std::shared_ptr<KeepOn> keep_on_;
  std::shared_ptr<ByteStream> stream_;
  boost::beast::flat_buffer input_;
  std::optional<Parser> parser_;
  bool something_came_ = false;
  bool handing_over_ = false;
  bool finished_ = false;
  Timer timer_;
};

void Exchange::start(std::shared_ptr<ByteStream> stream) {
  stream_ = std::move(stream);
  prepare_parser();
  set_deadline();
  write();
  read();  // a server may refuse before it has read the whole body
}

void Exchange::prepare_parser() {
  parser_.emplace();
  parser_->header_limit(kHeaderBytesMax);
  parser_->eager(true);
  if (call_.method == "HEAD") parser_->skip(true);
  if (keep_on_ != nullptr) {
    parser_->body_limit(boost::none);
  } else {
    parser_->body_limit(call_.body_bytes_max);
  }
}

void Exchange::set_deadline() {
  timer_.expires_after(call_.deadline);
  timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (error || self->finished_) return;
    if (self->handing_over_) return self->set_deadline();
    self->fail(make_error(Errc::timeout,
                          fmt::format("no answer within {} ms", to_ms(self->call_.deadline))));
  });
}

void Exchange::write() {
  if (finished_ || written_ == output_.size()) return;
  stream_->async_write_some(asio::buffer(output_) + written_,
                            [self = shared_from_this()](const error_code& error, std::size_t size) {
                              if (error)
                                return;  // what the server says, or its end, is about to be read
                              self->written_ += size;
                              self->write();
                            });
}

void Exchange::read() {
  stream_->async_read_some(input_.prepare(kReadSize),
                           [self = shared_from_this()](const error_code& error, std::size_t size) {
                             self->on_read(error, size);
                           });
}

void Exchange::on_read(const error_code& error, std::size_t size) {
  if (finished_) return;
  if (error) return on_lost(error);
  something_came_ = true;
  input_.commit(size);
  proceed();
}

void Exchange::on_lost(const error_code& error) {
  if (const std::string& failure = stream_->tls_failure(); !failure.empty()) {
    return fail(make_error(Errc::unauthenticated, "TLS: " + failure));
  }
  if (!something_came_) {
    return fail(
        make_error(Errc::unavailable, "the server ended the connection: " + error.message()));
  }
  error_code unfinished;
  if (error == asio::error::eof) parser_->put_eof(unfinished);
  if (error != asio::error::eof || unfinished || !parser_->is_done()) {
    return fail(make_error(Errc::unavailable, "the connection was lost within the answer"));
  }
  complete();
}

/// False: the answer was refused and the exchange is over.
bool Exchange::parse() {
  while (!parser_->is_done() && input_.size() > 0) {
    error_code error;
    input_.consume(parser_->put(input_.data(), error));
    if (error == http::error::need_more) return true;
    if (error) {
      fail(make_error(Errc::internal, "the answer is no HTTP or too large: " + error.message()));
      return false;
    }
    const unsigned status = parser_->is_done() ? parser_->get().result_int() : 0;
    if (status >= 100 && status < 200) prepare_parser();  // "100 Continue" and the like
  }
  return true;
}

bool Exchange::wants_pieces() {
  return keep_on_ != nullptr && parser_->is_header_done() && parser_->get().result_int() / 100 == 2;
}

void Exchange::proceed() {
  if (!parse()) return;
  if (wants_pieces()) {
    std::string piece = std::exchange(parser_->get().body(), {});
    if (!piece.empty()) return hand_over(std::move(piece));
  } else if (parser_->is_header_done() && parser_->get().body().size() > call_.body_bytes_max) {
    return fail(make_error(Errc::internal, "the answer is too large"));
  }
  if (parser_->is_done()) return complete();
  read();
}

void Exchange::hand_over(std::string piece) {
  handing_over_ = true;
  loop_.post([weak = weak_from_this(), thread = thread_, keep_on = keep_on_,
              piece = std::move(piece)]() mutable {
    const bool more = (*keep_on)(std::move(piece));
    const auto alive = thread.lock();
    if (alive == nullptr) return;
    alive->post([weak, more] {
      const auto self = weak.lock();
      if (self == nullptr || self->finished_) return;
      self->handing_over_ = false;
      self->set_deadline();
      if (!more || self->parser_->is_done()) return self->complete();
      self->proceed();
    });
  });
}

void Exchange::complete() {
  auto& message = parser_->get();
  HttpResponse response;
  response.status = static_cast<int>(message.result_int());
  response.headers = header_map(message);
  response.body = std::move(message.body());
  finish(std::move(response));
}

void Exchange::finish(Result<HttpResponse> result) {
  if (finished_) return;
  finished_ = true;
  timer_.cancel();
  if (stream_ != nullptr) {
    if (result) stream_->shutdown_send();
    stream_->close();
  }
  // What the caller's functions own goes on the Loop too.
  loop_.post([done = std::exchange(done_, nullptr), keep_on = std::exchange(keep_on_, nullptr),
              result = std::move(result)] { done(result); });
}

/// A connection of which only the beginning is looked at, on the client thread.
class Greeting : public std::enable_shared_from_this<Greeting> {
 public:
  Greeting(AsioLoop& loop, IoThread& thread, std::string what, Callback<Duration> done)
      : loop_(loop),
        what_(std::move(what)),
        done_(std::move(done)),
        timer_(thread.context().get_executor()) {}

  void start(std::shared_ptr<ByteStream> stream, Duration stands) {
    stream_ = std::move(stream);
    took_ = loop_.now() - began_;
    timer_.expires_after(stands);
    timer_.async_wait([self = shared_from_this()](const error_code& error) {
      if (!error) self->finish(self->took_);
    });
    stream_->async_read_some(asio::buffer(said_), [self = shared_from_this()](
                                                      const error_code& error, std::size_t) {
      if (!error) return self->finish(self->took_);
      self->finish(make_error(Errc::unavailable,
                              "the other side ended the connection at once: " + error.message()));
    });
  }

  void finish(Result<Duration> result) {
    if (done_ == nullptr) return;
    timer_.cancel();
    if (stream_ != nullptr) stream_->close();
    if (!result) result = wrap_error(what_, result.error());
    loop_.post(
        [done = std::exchange(done_, nullptr), result = std::move(result)] { done(result); });
  }

 private:
  AsioLoop& loop_;
  std::string what_;
  Callback<Duration> done_;
  Instant began_ = loop_.now();
  Duration took_{0};
  std::shared_ptr<ByteStream> stream_;
  std::array<char, 1> said_{};
  asio::basic_waitable_timer<std::chrono::steady_clock,
                             asio::wait_traits<std::chrono::steady_clock>,
                             asio::io_context::executor_type>
      timer_;
};

void begin(AsioLoop& loop, HttpCall call, KeepOn keep_on, Callback<HttpResponse> done) {
  auto url = check(call);
  if (!url) {
    loop.post([done = std::move(done), error = url.error()] { done(error); });
    return;
  }
  const auto thread = loop.impl().client_thread();
  const auto exchange = std::make_shared<Exchange>(loop, thread, call, *url);
  exchange->on_end(std::move(done));
  if (keep_on) exchange->on_piece(std::move(keep_on));
  connect_stream(*thread, *url, call, [exchange](Result<std::shared_ptr<ByteStream>> stream) {
    if (!stream) return exchange->fail(stream.error());
    exchange->start(*std::move(stream));
  });
}

}  // namespace

void http_call(AsioLoop& loop, HttpCall call, Callback<HttpResponse> done) {
  begin(loop, std::move(call), nullptr, std::move(done));
}

void http_stream(AsioLoop& loop, HttpCall call, std::function<bool(std::string piece)> keep_on,
                 Callback<HttpResponse> done) {
  begin(loop, std::move(call), std::move(keep_on), std::move(done));
}

void tcp_call(AsioLoop& loop, HttpCall call, Duration stands, Callback<Duration> done) {
  auto url = check(call);
  if (!url) return answer<Duration>(loop, std::move(done), url.error());
  const auto thread = loop.impl().client_thread();
  const auto greeting =
      std::make_shared<Greeting>(loop, *thread, "connect to " + url->authority, std::move(done));
  connect_stream(*thread, *url, call,
                 [greeting, stands](Result<std::shared_ptr<ByteStream>> stream) {
                   if (!stream) return greeting->finish(stream.error());
                   greeting->start(*std::move(stream), stands);
                 });
}

void open_message_socket(AsioLoop& loop, HttpCall call,
                         Callback<std::shared_ptr<MessageSocket>> done) {
  auto url = check(call);
  if (!url) {
    loop.post([done = std::move(done), error = url.error()] { done(error); });
    return;
  }
  const auto thread = loop.impl().client_thread();
  auto state = std::make_shared<MessageSocketState>(loop);
  state->options.message_bytes_max = call.body_bytes_max;
  state->options.idle_deadline = call.idle_deadline;
  state->options.handshake_deadline = call.deadline;
  state->owner_alive = std::make_shared<std::atomic<bool>>(true);
  const auto finish = [&loop, done = std::move(done),
                       what = "open " + call.url](Result<std::shared_ptr<MessageSocket>> result) {
    if (!result) result = wrap_error(what, result.error());
    loop.post([done, result = std::move(result)] { done(result); });
  };
  const std::weak_ptr<IoThread> weak = thread;
  connect_stream(
      *thread, *url, call,
      [=, url = *url, headers = call.headers](Result<std::shared_ptr<ByteStream>> stream) {
        const auto alive = weak.lock();
        if (alive == nullptr) return;
        if (!stream) return finish(stream.error());
        state->peer_name = (*stream)->peer_name();
        state->peer_address = (*stream)->peer_address();
        const auto core = MessageSocketCore::make(state, alive);
        core->handshake(std::move(**stream), url, headers, [=](Result<void> opened) {
          const auto still_alive = weak.lock();
          if (still_alive == nullptr) return;
          if (!opened) return finish(opened.error());
          finish(make_message_socket(state, still_alive, core));
        });
      });
}

}  // namespace virga
