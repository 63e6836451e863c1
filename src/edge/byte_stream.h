#pragma once

#include <array>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "edge/tls_context.h"

namespace virga {

/// A completion of any type, stored and called once; so that what stands above a ByteStream is compiled for one type.
class IoHandler {
 public:
  IoHandler() = default;
  template <typename F, typename = std::enable_if_t<!std::is_same_v<std::decay_t<F>, IoHandler>>>
  explicit IoHandler(F&& function)
      : held_(std::make_unique<Held<std::decay_t<F>>>(std::forward<F>(function))) {}

  void operator()(const boost::system::error_code& error, std::size_t size) {
    const auto held = std::move(held_);
    held->run(error, size);
  }

 private:
  struct Base {
    virtual ~Base() = default;
    virtual void run(const boost::system::error_code& error, std::size_t size) = 0;
  };
  template <typename F>
  struct Held final : Base {
    explicit Held(F&& made) : function(std::move(made)) {}
    explicit Held(const F& made) : function(made) {}
    void run(const boost::system::error_code& error, std::size_t size) override {
      function(error, size);
    }
    F function;
  };
  std::unique_ptr<Base> held_;
};

/// A TCP connection, plain or TLS, as Beast wants a stream to be. TLS is OpenSSL on the descriptor itself: Asio's own
/// ssl::stream holds two record buffers and a BIO pair a connection, 70 kB where this needs 10.
/// One reading and one writing operation at a time. Lives on one thread.
class ByteStream {
 public:
  using executor_type = boost::asio::io_context::executor_type;
  using Socket = boost::asio::basic_stream_socket<boost::asio::ip::tcp, executor_type>;

  /// A connected socket; without a context it stays plain. `server_name`: what the peer's certificate must carry,
  /// clients only.
  ByteStream(Socket socket, const std::shared_ptr<ssl_ctx_st>& tls, TlsSide side,
             const std::string& server_name);
  ByteStream(ByteStream&&) noexcept = default;
  ByteStream& operator=(ByteStream&&) = delete;
  ~ByteStream() { close(); }

  executor_type get_executor();

  void async_handshake(IoHandler done);

  template <typename Buffers, typename Handler>
  void async_read_some(const Buffers& buffers, Handler&& handler) {
    boost::asio::mutable_buffer first;
    auto next = boost::asio::buffer_sequence_begin(buffers);
    const auto end = boost::asio::buffer_sequence_end(buffers);
    while (next != end && first.size() == 0) first = *next++;
    read(first, IoHandler(std::forward<Handler>(handler)));
  }

  template <typename Buffers, typename Handler>
  void async_write_some(const Buffers& buffers, Handler&& handler) {
    std::array<boost::asio::const_buffer, kGatherMax> gathered;
    std::size_t count = 0;
    auto next = boost::asio::buffer_sequence_begin(buffers);
    const auto end = boost::asio::buffer_sequence_end(buffers);
    for (; next != end && count < kGatherMax; ++next) gathered[count++] = *next;
    write(gathered.data(), count, IoHandler(std::forward<Handler>(handler)));
  }

  /// Tells the peer that no more comes; best effort.
  void shutdown_send();

  /// After a failed handshake: reads on without TLS, to throw away what the peer still sends. A socket that is closed
  /// with unread data takes the alert along that tells the peer what was wrong.
  void drop_tls();

  /// Ends everything; operations under way complete with operation_aborted. Idempotent.
  void close();

  /// Why TLS ended the connection, for people; empty when it was not TLS.
  const std::string& tls_failure() const;

  /// Common name of the peer's verified certificate; empty = none.
  std::string peer_name() const;
  /// When that was issued.
  WallTime peer_since() const;
  std::string peer_address() const;

 private:
  static constexpr std::size_t kGatherMax = 8;
  struct State;
  struct Transfer;

  void read(boost::asio::mutable_buffer buffer, IoHandler handler);
  void write(const boost::asio::const_buffer* buffers, std::size_t count, IoHandler handler);
  static void run(Transfer transfer, bool first);

  std::shared_ptr<State> state_;
};

}  // namespace virga
