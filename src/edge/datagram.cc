#include "edge/datagram.h"

#include <fmt/format.h>

#include <array>
#include <boost/asio/ip/udp.hpp>

#include "edge/asio_loop_impl.h"

namespace virga {
namespace {

namespace asio = boost::asio;
using asio::ip::udp;
using boost::system::error_code;

constexpr int kDatagramsPerTurn = 64;  // then other tasks get their turn
constexpr std::size_t kDatagramMax = 65'536;

class UdpSocket final : public DatagramSocket, public std::enable_shared_from_this<UdpSocket> {
 public:
  UdpSocket(AsioLoop& loop, Handler handler)
      : loop_(loop.impl()), socket_(loop_.context), handler_(std::move(handler)) {}

  error_code open(const udp::endpoint& endpoint) {
    error_code error;
    socket_.open(endpoint.protocol(), error);
    if (!error) socket_.bind(endpoint, error);
    if (!error) socket_.non_blocking(true, error);
    return error;
  }

  std::uint16_t port() const override {
    error_code error;
    return socket_.local_endpoint(error).port();
  }

  void send(const std::string& address, std::uint16_t port, std::string data) override {
    error_code error;
    const auto parsed = asio::ip::make_address(address, error);
    if (error) return;
    socket_.send_to(asio::buffer(data), udp::endpoint(parsed, port), 0, error);
  }

  void close() {
    error_code error;
    socket_.close(error);
    handler_ = nullptr;
  }

  void wait() {
    socket_.async_wait(udp::socket::wait_read, [weak = weak_from_this()](const error_code& error) {
      const auto self = weak.lock();
      if (error || !self) return;
      self->receive();
      if (self->socket_.is_open()) self->wait();
    });
  }

 private:
  void receive() {
    static thread_local std::array<char, kDatagramMax> bytes;
    for (int count = 0; count < kDatagramsPerTurn && socket_.is_open(); ++count) {
      error_code error;
      udp::endpoint from;
      const std::size_t size = socket_.receive_from(asio::buffer(bytes), from, 0, error);
      if (error == asio::error::would_block) return;
      if (error) continue;  // an ICMP answer to an earlier datagram
      loop_.run_task([&] {
        const Handler handler = handler_;  // it may destroy the socket
        handler(std::string(bytes.data(), size), from.address().to_string());
      });
    }
  }

  AsioLoop::Impl& loop_;
  udp::socket socket_;
  Handler handler_;
};

/// What the caller owns; the socket itself may still be in its own handler when this goes.
class UdpHandle final : public DatagramSocket {
 public:
  explicit UdpHandle(std::shared_ptr<UdpSocket> socket) : socket_(std::move(socket)) {}
  ~UdpHandle() override { socket_->close(); }
  std::uint16_t port() const override { return socket_->port(); }
  void send(const std::string& address, std::uint16_t port, std::string data) override {
    socket_->send(address, port, std::move(data));
  }

 private:
  std::shared_ptr<UdpSocket> socket_;
};

}  // namespace

Result<std::unique_ptr<DatagramSocket>> DatagramSocket::bind(AsioLoop& loop,
                                                             const std::string& address,
                                                             std::uint16_t port, Handler handler) {
  error_code error;
  const auto parsed = asio::ip::make_address(address, error);
  if (error) {
    return make_error(Errc::invalid,
                      fmt::format("bind UDP {}:{}: '{}' is no IP address", address, port, address));
  }
  auto socket = std::make_shared<UdpSocket>(loop, std::move(handler));
  if (const error_code failed = socket->open(udp::endpoint(parsed, port))) {
    const bool taken = failed == asio::error::address_in_use;
    return make_error(taken ? Errc::conflict : Errc::invalid,
                      fmt::format("bind UDP {}:{}: {}", address, port, failed.message()));
  }
  socket->wait();
  return std::unique_ptr<DatagramSocket>(std::make_unique<UdpHandle>(std::move(socket)));
}

}  // namespace virga
