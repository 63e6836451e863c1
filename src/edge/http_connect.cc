#include "edge/http_connect.h"

#include <fmt/format.h>

#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/ip/basic_resolver.hpp>
#include <deque>

#include "edge/network_namespace.h"
#include "edge/socket_options.h"

namespace virga {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using Executor = asio::io_context::executor_type;

class Connector : public std::enable_shared_from_this<Connector> {
 public:
  using Done = std::function<void(Result<std::shared_ptr<ByteStream>>)>;

  Connector(IoThread& thread, const HttpUrl& url, const HttpCall& call, Done done)
      : url_(url),
        identity_(call.tls),
        server_name_(call.server_name.empty() ? url.host : call.server_name),
        user_timeout_(call.user_timeout),
        idle_deadline_(call.idle_deadline),
        network_namespace_(call.network_namespace),
        done_(std::move(done)),
        socket_(thread.context()),
        resolver_(thread.context()),
        timer_(thread.context()) {}

  void start(Duration deadline);

 private:
  using Timer = asio::basic_waitable_timer<std::chrono::steady_clock,
                                           asio::wait_traits<std::chrono::steady_clock>, Executor>;

  void connect_next(const std::string& last_failure);
  void on_connected();
  void fail(Errc code, const std::string& why);

  HttpUrl url_;
  TlsIdentity identity_;
  std::string server_name_;
  Duration user_timeout_;
  Duration idle_deadline_;
  std::shared_ptr<const int> network_namespace_;
  Done done_;
  std::deque<tcp::endpoint> endpoints_;
  std::shared_ptr<ByteStream> stream_;
  ByteStream::Socket socket_;
  asio::ip::basic_resolver<tcp, Executor> resolver_;
  Timer timer_;
};

void Connector::start(Duration deadline) {
  timer_.expires_after(deadline);
  timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error) self->fail(Errc::timeout, "no connection came about in time");
  });
  error_code error;
  const auto address = asio::ip::make_address(url_.host, error);
  if (!error) {
    endpoints_.emplace_back(address, url_.port);
    return connect_next("");
  }
  resolver_.async_resolve(url_.host, std::to_string(url_.port),
                          [self = shared_from_this()](const error_code& failed, const auto& found) {
                            if (failed) return self->fail(Errc::unavailable, failed.message());
                            for (const auto& entry : found)
                              self->endpoints_.push_back(entry.endpoint());
                            self->connect_next("the name has no address");
                          });
}

void Connector::connect_next(const std::string& last_failure) {
  if (!done_) return;
  if (endpoints_.empty()) return fail(Errc::unavailable, last_failure);
  const tcp::endpoint endpoint = endpoints_.front();
  endpoints_.pop_front();
  error_code error;
  socket_.close(error);
  const auto entered =
      in_network_namespace(network_namespace_ == nullptr ? -1 : *network_namespace_,
                           [&] { socket_.open(endpoint.protocol(), error); });
  if (!entered) return fail(entered.error().code, entered.error().text());
  if (error) return fail(Errc::unavailable, error.message());
  set_link_options(socket_.native_handle(), user_timeout_, idle_deadline_);
  socket_.async_connect(endpoint, [self = shared_from_this()](const error_code& failed) {
    if (failed) return self->connect_next(failed.message());
    self->on_connected();
  });
}

void Connector::on_connected() {
  if (!done_) return;
  std::shared_ptr<ssl_ctx_st> tls;
  if (url_.tls) {
    auto made = make_tls_context(identity_, TlsSide::client, false);
    if (!made) return fail(made.error().code, made.error().text());
    tls = *std::move(made);
  }
  stream_ = std::make_shared<ByteStream>(std::move(socket_), tls, TlsSide::client, server_name_);
  stream_->async_handshake(IoHandler([self = shared_from_this()](const error_code& error,
                                                                 std::size_t) {
    if (!self->done_) return;
    if (error) {
      const std::string& failure = self->stream_->tls_failure();
      if (failure.empty()) return self->fail(Errc::unavailable, error.message());
      return self->fail(Errc::unauthenticated, "TLS with " + self->server_name_ + ": " + failure);
    }
    self->timer_.cancel();
    const Done done = std::exchange(self->done_, nullptr);
    done(std::exchange(self->stream_, nullptr));
  }));
}

void Connector::fail(Errc code, const std::string& why) {
  if (!done_) return;
  const Done done = std::exchange(done_, nullptr);
  error_code ignored;
  timer_.cancel();
  resolver_.cancel();
  socket_.close(ignored);
  if (stream_ != nullptr) stream_->close();
  done(make_error(code, fmt::format("connect to {}:{}: {}", url_.host, url_.port, why)));
}

}  // namespace

void connect_stream(IoThread& thread, const HttpUrl& url, const HttpCall& call,
                    std::function<void(Result<std::shared_ptr<ByteStream>>)> done) {
  const auto connector = std::make_shared<Connector>(thread, url, call, std::move(done));
  thread.post([connector, deadline = call.deadline] { connector->start(deadline); });
}

}  // namespace virga
