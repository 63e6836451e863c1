#include "edge/message_socket.h"

#include <fmt/format.h>

#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/beast/core/buffers_to_string.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket/stream.hpp>
#include <deque>

#include "edge/byte_stream.h"
#include "edge/upgrade_request.h"

namespace virga {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = boost::beast::websocket;
using boost::system::error_code;

/// Beast finds these two by their argument.
void beast_close_socket(ByteStream& stream) { stream.close(); }

template <typename Handler>
void async_teardown(beast::role_type, ByteStream& stream, Handler&& handler) {
  stream.shutdown_send();
  asio::post(stream.get_executor(),
             beast::bind_front_handler(std::forward<Handler>(handler), error_code()));
}

namespace {

using IoTimer = asio::basic_waitable_timer<std::chrono::steady_clock,
                                           asio::wait_traits<std::chrono::steady_clock>,
                                           asio::io_context::executor_type>;

constexpr Duration kCloseDeadline = seconds(5);
constexpr std::size_t kIdleBufferMax = 8192;  // a larger buffer is given back after its message

class Core final : public MessageSocketCore, public std::enable_shared_from_this<Core> {
 public:
  Core(std::shared_ptr<MessageSocketState> state, const std::shared_ptr<IoThread>& thread)
      : state_(std::move(state)),
        thread_(thread),
        pause_(thread->context().get_executor()),
        close_timer_(thread->context().get_executor()) {}

  /// Without a fail() before, the whole IoThread has ended: no handler may keep its own handle.
  ~Core() override {
    if (failed_) return;
    const auto on_closed = std::exchange(state_->on_closed, nullptr);
    const auto on_message = std::exchange(state_->on_message, nullptr);
  }

  void accept(ByteStream stream, const UpgradeRequest& request,
              std::shared_ptr<void> slot) override;
  void handshake(ByteStream stream, const HttpUrl& url,
                 const std::map<std::string, std::string>& headers,
                 std::function<void(Result<void>)> done) override;
  void fail(const std::string& reason) override;
  void send(std::string message) override;
  void close() override;
  void resume_reading() override { pause_.cancel(); }

 private:
  using Socket = websocket::stream<ByteStream, false>;

  void open(ByteStream stream);
  void read();
  void on_read(const error_code& error);
  void deliver();
  void wait_for_reader();
  void write();
  void finish_close();
  std::string reason_of(const error_code& error);

  std::shared_ptr<MessageSocketState> state_;
  std::weak_ptr<IoThread> thread_;
  std::optional<Socket> socket_;
  std::shared_ptr<void> slot_;
  beast::flat_buffer input_;
  std::deque<std::string> output_;
  bool opened_ = false;
  bool writing_ = false;
  bool closing_ = false;
  bool failed_ = false;
  IoTimer pause_;
  IoTimer close_timer_;
};

void Core::open(ByteStream stream) {
  socket_.emplace(std::move(stream));
  websocket::stream_base::timeout timeout{};
  timeout.handshake_timeout = state_->options.handshake_deadline;
  timeout.idle_timeout = state_->options.idle_deadline;
  timeout.keep_alive_pings = true;
  socket_->set_option(timeout);
  socket_->read_message_max(state_->options.message_bytes_max);
  socket_->auto_fragment(false);
  socket_->text(true);
}

void Core::accept(ByteStream stream, const UpgradeRequest& request, std::shared_ptr<void> slot) {
  slot_ = std::move(slot);
  open(std::move(stream));
  socket_->async_accept(request.head, [self = shared_from_this()](const error_code& error) {
    if (error) return self->fail("the handshake failed: " + self->reason_of(error));
    self->opened_ = true;
    self->read();
    self->write();
  });
}

Errc errc_of_status(unsigned status) {
  switch (status) {
    case 400:
      return Errc::invalid;
    case 401:
      return Errc::unauthenticated;
    case 403:
      return Errc::denied;
    case 404:
      return Errc::not_found;
    case 409:
      return Errc::conflict;
    case 429:
      return Errc::exhausted;
    default:
      return Errc::unavailable;
  }
}

void Core::handshake(ByteStream stream, const HttpUrl& url,
                     const std::map<std::string, std::string>& headers,
                     std::function<void(Result<void>)> done) {
  open(std::move(stream));
  socket_->set_option(
      websocket::stream_base::decorator([headers](websocket::request_type& request) {
        for (const auto& [name, value] : headers) request.set(name, value);
      }));
  auto response = std::make_shared<websocket::response_type>();
  auto on_done = [self = shared_from_this(), response, done = std::move(done),
                  target = url.target](const error_code& error) {
    if (self->failed_)
      return done(make_error(Errc::cancelled, "the socket was closed while it opened"));
    if (!error) {
      self->opened_ = true;
      self->read();
      self->write();
      return done({});
    }
    Error why = make_error(Errc::unavailable, self->reason_of(error));
    if (error == websocket::error::upgrade_declined) {
      why = make_error(errc_of_status(response->result_int()),
                       fmt::format("{} was answered with {}: {}", target, response->result_int(),
                                   response->body().substr(0, 200)));
    } else if (!self->socket_->next_layer().tls_failure().empty()) {
      why.code = Errc::unauthenticated;
    } else if (error == beast::error::timeout) {
      why.code = Errc::timeout;
    }
    self->failed_ = true;
    self->socket_->next_layer().close();
    done(std::move(why));
  };
  socket_->async_handshake(*response, url.authority, url.target, std::move(on_done));
}

std::string Core::reason_of(const error_code& error) {
  if (const std::string& tls = socket_->next_layer().tls_failure(); !tls.empty())
    return "TLS: " + tls;
  if (error == websocket::error::closed) {
    const auto& reason = socket_->reason();
    return fmt::format("closed by the peer ({}{}{})", static_cast<unsigned>(reason.code),
                       reason.reason.empty() ? "" : ": ",
                       std::string_view(reason.reason.data(), reason.reason.size()));
  }
  if (error == beast::error::timeout)
    return "nothing came from the peer, not even an answer to pings";
  if (error == asio::error::eof) return "the peer ended the connection";
  return error.message();
}

void Core::fail(const std::string& reason) {
  if (failed_) return;
  failed_ = true;
  output_.clear();
  if (socket_) socket_->next_layer().close();
  pause_.cancel();
  close_timer_.cancel();
  slot_.reset();
  deliver_closed(state_, reason);
}

void Core::read() {
  if (failed_) return;
  socket_->async_read(input_, [self = shared_from_this()](const error_code& error, std::size_t) {
    self->on_read(error);
  });
}

void Core::on_read(const error_code& error) {
  if (failed_) return;
  if (error) return fail(closing_ ? "closed here" : reason_of(error));
  deliver();
  if (state_->undelivered_bytes < state_->options.message_bytes_max) return read();
  wait_for_reader();
}

void Core::deliver() {
  std::string message = beast::buffers_to_string(input_.data());
  input_.clear();
  if (input_.capacity() > kIdleBufferMax) input_.shrink_to_fit();
  const std::size_t size = message.size() + sizeof message;
  state_->undelivered_bytes += size;
  state_->loop.post([state = state_, weak = weak_from_this(), thread = thread_, size,
                     message = std::move(message)]() mutable {
    state->undelivered_bytes -= size;
    const auto alive = state->reading_paused.exchange(false) ? thread.lock() : nullptr;
    if (alive != nullptr) {
      alive->post([weak] {
        if (const auto self = weak.lock()) self->resume_reading();
      });
    }
    if (!*state->owner_alive || state->closed_delivered || !state->on_message) return;
    const auto handler = state->on_message;  // it may drop the socket
    handler(std::move(message));
  });
}

/// Reads on when the Loop has caught up: a fast peer fills its own buffers, not ours.
void Core::wait_for_reader() {
  pause_.expires_at(std::chrono::steady_clock::time_point::max());
  pause_.async_wait([self = shared_from_this()](const error_code&) {
    if (self->state_->undelivered_bytes < self->state_->options.message_bytes_max) {
      self->read();
    } else if (!self->failed_) {
      self->wait_for_reader();
    }
  });
  state_->reading_paused = true;
  // The Loop may have caught up before the flag was there.
  if (state_->undelivered_bytes < state_->options.message_bytes_max) pause_.cancel();
}

void Core::send(std::string message) {
  if (failed_) return;
  output_.push_back(std::move(message));
  write();
}

void Core::write() {
  if (!opened_ || writing_ || failed_) return;
  if (output_.empty()) {
    if (closing_) finish_close();
    return;
  }
  writing_ = true;
  socket_->async_write(asio::buffer(output_.front()),
                       [self = shared_from_this()](const error_code& error, std::size_t) {
                         self->writing_ = false;
                         if (self->failed_) return;
                         if (error) return self->fail(self->reason_of(error));
                         self->state_->queued_bytes -= self->output_.front().size();
                         self->output_.pop_front();
                         self->write();
                       });
}

void Core::close() {
  if (closing_ || failed_) return;
  closing_ = true;
  close_timer_.expires_after(kCloseDeadline);
  close_timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error) self->fail("closed here; the peer did not agree in time");
  });
  write();
}

void Core::finish_close() {
  writing_ = true;  // nothing may follow the close frame
  socket_->async_close(
      websocket::close_code::normal,
      [self = shared_from_this()](const error_code&) { self->fail("closed here"); });
}

class Handle final : public MessageSocket {
 public:
  Handle(std::shared_ptr<MessageSocketState> state, std::weak_ptr<IoThread> thread,
         std::weak_ptr<MessageSocketCore> core)
      : state_(std::move(state)), thread_(std::move(thread)), core_(std::move(core)) {}

  ~Handle() override {
    state_->closed_delivered = true;
    close();
  }

  Result<void> send(std::string message) override {
    if (state_->closed) {
      return make_error(Errc::unavailable, "send to " + whom() + ": the connection is closed");
    }
    const std::size_t limit = state_->options.queue_bytes_max;
    const std::size_t waiting = state_->queued_bytes.fetch_add(message.size()) + message.size();
    if (waiting > limit) {
      state_->closed = true;
      on_core([](MessageSocketCore& core) { core.fail("the peer reads too slowly"); });
      return make_error(Errc::exhausted,
                        fmt::format("send to {}: {} bytes wait to be written, at most {} may",
                                    whom(), waiting, limit));
    }
    on_core([message = std::move(message)](MessageSocketCore& core) mutable {
      core.send(std::move(message));
    });
    return {};
  }

  void close() override {
    if (state_->closed.exchange(true)) return;
    on_core([](MessageSocketCore& core) { core.close(); });
  }

  void on_message(std::function<void(std::string)> handler) override {
    state_->on_message = std::move(handler);
  }
  void on_closed(std::function<void(const std::string&)> handler) override {
    state_->on_closed = std::move(handler);
  }
  std::string peer_name() const override { return state_->peer_name; }
  std::string peer_address() const override { return state_->peer_address; }

 private:
  template <typename F>
  void on_core(F function) {
    const auto thread = thread_.lock();
    if (thread == nullptr) return;
    thread->post([weak = core_, function = std::move(function)]() mutable {
      if (const auto core = weak.lock()) function(*core);
    });
  }

  std::string whom() const {
    return state_->peer_name.empty() ? state_->peer_address : state_->peer_name;
  }

  std::shared_ptr<MessageSocketState> state_;
  std::weak_ptr<IoThread> thread_;
  std::weak_ptr<MessageSocketCore> core_;
};

}  // namespace

std::shared_ptr<MessageSocketCore> MessageSocketCore::make(
    std::shared_ptr<MessageSocketState> state, std::shared_ptr<IoThread> thread) {
  return std::make_shared<Core>(std::move(state), thread);
}

std::shared_ptr<MessageSocket> make_message_socket(std::shared_ptr<MessageSocketState> state,
                                                   const std::shared_ptr<IoThread>& thread,
                                                   const std::shared_ptr<MessageSocketCore>& core) {
  return std::make_shared<Handle>(std::move(state), thread, core);
}

void deliver_closed(const std::shared_ptr<MessageSocketState>& state, const std::string& reason) {
  state->closed = true;
  state->loop.post([state, reason] {
    if (std::exchange(state->closed_delivered, true) || !*state->owner_alive) return;
    const auto on_closed = std::exchange(state->on_closed, nullptr);
    const auto on_message = std::exchange(state->on_message, nullptr);  // may own the handle
    if (on_closed) on_closed(reason);
  });
}

}  // namespace virga
