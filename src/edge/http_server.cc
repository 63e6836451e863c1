#include "edge/http.h"

#include <fmt/format.h>

#include <boost/asio/basic_socket_acceptor.hpp>

#include "base/log.h"
#include "edge/http_connection.h"
#include "edge/socket_options.h"

namespace virga {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::size_t kCrowdMax = 64;  // connections over the limit that are still told so
constexpr Duration kAcceptPause = milliseconds(100);
constexpr int kBacklog = 4096;
// Thousands who come at once are served in turn: those who wait stand in the backlog, where they
// cost nothing, and nobody's handshake takes so long that he gives up in the middle of it. Above
// the limit one enters as one leaves, and one each pause besides, so that who opens connections
// and says nothing holds up nobody.
constexpr std::size_t kHandshakesMax = 256;
constexpr Duration kHandshakePause = milliseconds(2);

class Server final : public HttpServer {
 public:
  Server(AsioLoop& loop, HttpServerOptions options, Handler handler)
      : thread_(std::make_shared<IoThread>()), state_(std::make_shared<HttpServerState>(loop)) {
    state_->options = std::move(options);
    state_->thread = thread_;
    state_->handler = std::make_shared<Handler>(std::move(handler));
    state_->handshake_ended = [this] {
      if (std::exchange(crowded_, false)) pause_->cancel();
    };
  }

  ~Server() override {
    *state_->alive = false;
    thread_->stop();
    state_->handshake_ended = nullptr;
    state_->handler.reset();
    acceptor_.reset();
    pause_.reset();
  }

  Result<void> open();
  std::uint16_t port() const override { return port_; }
  Result<void> use(const TlsIdentity& identity) override;

 private:
  using Acceptor = asio::basic_socket_acceptor<tcp, asio::io_context::executor_type>;
  using Pause = asio::basic_waitable_timer<std::chrono::steady_clock,
                                           asio::wait_traits<std::chrono::steady_clock>,
                                           asio::io_context::executor_type>;

  error_code bind(const tcp::endpoint& endpoint);
  error_code keep_links_alive();
  void accept();
  void on_accepted(const error_code& error, ByteStream::Socket socket);
  void accept_later();

  std::shared_ptr<IoThread> thread_;
  std::shared_ptr<HttpServerState> state_;
  std::optional<Acceptor> acceptor_;
  std::optional<Pause> pause_;
  bool crowded_ = false;  ///< pause_ ends as soon as a handshake does
  std::uint16_t port_ = 0;
};

error_code Server::bind(const tcp::endpoint& endpoint) {
  error_code error;
  const int given = state_->options.listening_descriptor;
  if (given >= 0) {
    acceptor_->assign(endpoint.protocol(), given, error);
    return error ? error : keep_links_alive();
  }
  acceptor_->open(endpoint.protocol(), error);
  if (!error) acceptor_->set_option(Acceptor::reuse_address(true), error);
  if (!error) acceptor_->bind(endpoint, error);
  if (!error) acceptor_->listen(kBacklog, error);
  return error ? error : keep_links_alive();
}

// Linux hands these down to every accepted socket.
error_code Server::keep_links_alive() {
  error_code error;
  set_link_options(acceptor_->native_handle(), state_->options.user_timeout,
                   state_->options.idle_deadline);
  port_ = acceptor_->local_endpoint(error).port();
  return error;
}

Result<void> Server::open() {
  const HttpServerOptions& options = state_->options;
  const std::string what = fmt::format("listen on {}:{}", options.address, options.port);
  if (!options.tls.empty()) {
    auto tls = make_tls_context(options.tls, TlsSide::server, options.client_certificate_required);
    if (!tls) return wrap_error(what, tls.error());
    state_->tls = *std::move(tls);
  } else if (options.client_certificate_required) {
    return make_error(Errc::invalid,
                      what + ": client certificates are required but there is no TLS");
  }
  error_code error;
  const auto address = asio::ip::make_address(options.address, error);
  if (error) return make_error(Errc::invalid, what + ": that is no IP address");
  acceptor_.emplace(thread_->context());
  pause_.emplace(thread_->context());
  error = bind({address, options.port});
  if (error) {
    const bool taken = error == asio::error::address_in_use;
    return make_error(taken ? Errc::conflict : Errc::invalid, what + ": " + error.message());
  }
  thread_->post([this] { accept(); });
  return {};
}

Result<void> Server::use(const TlsIdentity& identity) {
  if (state_->options.tls.empty()) {
    return make_error(Errc::invalid, "use another identity: the server has no TLS");
  }
  const bool required = state_->options.client_certificate_required;
  auto tls = make_tls_context(identity, TlsSide::server, required);
  if (!tls) return wrap_error("use another identity", tls.error());
  thread_->post([state = state_, tls = *std::move(tls)] { state->tls = tls; });
  return {};
}

void Server::accept() {
  acceptor_->async_accept(thread_->context().get_executor(),
                          [this](const error_code& error, ByteStream::Socket socket) {
                            on_accepted(error, std::move(socket));
                          });
}

void Server::on_accepted(const error_code& error, ByteStream::Socket socket) {
  if (error == asio::error::operation_aborted) return;
  if (error == asio::error::no_descriptors || error == asio::error::no_memory ||
      error == boost::system::errc::too_many_files_open_in_system) {
    log_line(LogLevel::warning, "http", "accept a connection: " + error.message());
    pause_->expires_after(kAcceptPause);
    pause_->async_wait([this](const error_code& stopped) {
      if (!stopped) accept();
    });
    return;
  }
  const std::size_t open = state_->connections;
  const std::size_t limit = state_->options.connections_max;
  if (!error && open < limit + kCrowdMax) {
    std::make_shared<HttpConnection>(state_, std::move(socket), open >= limit)->start();
  }
  state_->handshakes < kHandshakesMax ? accept() : accept_later();
}

void Server::accept_later() {
  crowded_ = true;
  pause_->expires_after(kHandshakePause);
  pause_->async_wait([this](const error_code&) {
    crowded_ = false;
    accept();
  });
}

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::listen(AsioLoop& loop, HttpServerOptions options,
                                                       Handler handler) {
  auto server = std::make_unique<Server>(loop, std::move(options), std::move(handler));
  if (auto done = server->open(); !done) return done.error();
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace virga
