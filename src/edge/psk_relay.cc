#include "edge/psk_relay.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/time.h"
#include "edge/file.h"

namespace virga {
namespace {

constexpr std::size_t kBufferBytes = 256 << 10;
constexpr std::size_t kKeyMin = 16;
constexpr std::size_t kKeyMax = 64;
constexpr Duration kFlushDeadline = seconds(10);
constexpr Duration kForEver = milliseconds(-1);
constexpr std::string_view kIdentity = "relay";

template <auto Function>
struct Free {
  template <typename T>
  void operator()(T* pointer) const {
    Function(pointer);
  }
};
using Context = std::unique_ptr<SSL_CTX, Free<SSL_CTX_free>>;
using Session = std::unique_ptr<SSL, Free<SSL_free>>;
using Key = std::unique_ptr<SSL_SESSION, Free<SSL_SESSION_free>>;

/// A session that was never held before stands for the key, in OpenSSL's words; its caller owns it.
SSL_SESSION* session_with_key(SSL* connection) {
  const auto& key = *static_cast<const std::string*>(SSL_get_app_data(connection));
  const unsigned char suite[] = {0x13, 0x01};  // TLS_AES_128_GCM_SHA256
  Key made(SSL_SESSION_new());
  const bool fine =
      made != nullptr &&
      SSL_SESSION_set1_master_key(made.get(), reinterpret_cast<const unsigned char*>(key.data()),
                                  key.size()) == 1 &&
      SSL_SESSION_set_cipher(made.get(), SSL_CIPHER_find(connection, suite)) == 1 &&
      SSL_SESSION_set_protocol_version(made.get(), TLS1_3_VERSION) == 1;
  return fine ? made.release() : nullptr;
}

int client_key(SSL* connection, const EVP_MD*, const unsigned char** identity, std::size_t* size,
               SSL_SESSION** session) {
  *identity = reinterpret_cast<const unsigned char*>(kIdentity.data());
  *size = kIdentity.size();
  *session = session_with_key(connection);
  return *session != nullptr ? 1 : 0;
}
int server_key(SSL* connection, const unsigned char*, std::size_t, SSL_SESSION** session) {
  *session = session_with_key(connection);
  return *session != nullptr ? 1 : 0;
}

/// What has come from one side and is to go to the other.
class Buffer {
 public:
  bool empty() const { return begin_ == end_; }
  bool full() const { return end_ == bytes_.size(); }
  const char* data() const { return bytes_.data() + begin_; }
  std::size_t size() const { return end_ - begin_; }
  char* room() { return bytes_.data() + end_; }
  std::size_t room_size() const { return bytes_.size() - end_; }
  void came(std::size_t count) { end_ += count; }
  void went(std::size_t count) {
    begin_ += count;
    if (begin_ == end_) begin_ = end_ = 0;
  }

 private:
  std::vector<char> bytes_ = std::vector<char>(kBufferBytes);
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

class Relay {
 public:
  Relay(int plain, int wire, const RelayOptions& options)
      : plain_(plain), wire_(wire), options_(options) {}

  Result<void> run() {
    if (auto begun = begin(); !begun) return begun;
    while (true) {
      // A side that has ended is over when all that it said has gone to the other.
      if (plain_ended_ && to_wire_.empty()) return say_goodbye();
      if (wire_ended_ && to_plain_.empty()) return {};
      const bool moved = move();
      if (failed_) return end_failed();
      if (moved) continue;
      if (auto waited = wait(); !waited) return waited;
    }
  }

  Result<void> begin() {
    if (options_.key.size() < kKeyMin || options_.key.size() > kKeyMax) {
      return make_error(Errc::invalid, "key of a relay: " + std::to_string(options_.key.size()) +
                                           " bytes; 16 to 64 are right");
    }
    context_.reset(SSL_CTX_new(TLS_method()));
    if (context_ == nullptr || SSL_CTX_set_min_proto_version(context_.get(), TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(context_.get(), "TLS_AES_128_GCM_SHA256") != 1) {
      return make_error(Errc::internal, "TLS of a relay: " + said());
    }
    SSL_CTX_set_options(context_.get(), SSL_OP_NO_TICKET);
    SSL_CTX_set_num_tickets(context_.get(), 0);
    SSL_CTX_set_mode(context_.get(),
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    // Nobody is believed for a certificate: without this a client takes any. A server has none.
    if (options_.end == RelayEnd::client)
      SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER, nullptr);
    SSL_CTX_set_read_ahead(context_.get(), 1);
    SSL_CTX_set_default_read_buffer_len(context_.get(), kBufferBytes);
    SSL_CTX_set_psk_use_session_callback(context_.get(), client_key);
    SSL_CTX_set_psk_find_session_callback(context_.get(), server_key);
    session_.reset(SSL_new(context_.get()));
    if (session_ == nullptr || SSL_set_fd(session_.get(), wire_) != 1) {
      return make_error(Errc::internal, "TLS of a relay: " + said());
    }
    SSL_set_app_data(session_.get(), const_cast<std::string*>(&options_.key));
    options_.end == RelayEnd::client ? SSL_set_connect_state(session_.get())
                                     : SSL_set_accept_state(session_.get());
    for (const int socket : {plain_, wire_})
      ::fcntl(socket, F_SETFL, ::fcntl(socket, F_GETFL) | O_NONBLOCK);
    sigset_t pipe;  // OpenSSL writes to a closed socket
    ::sigemptyset(&pipe);
    ::sigaddset(&pipe, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
    return {};
  }

  /// As far as it goes without waiting; true = something was moved.
  bool move() {
    wire_wants_ = 0;
    bool moved = read_plain();
    // A read may end the greeting as well, and would then wait for an answer to what is not sent.
    if (!greeted_) return greet() || moved || wire_ended_;
    moved = write_wire() || moved;
    moved = read_wire() || moved;
    return write_plain() || moved;
  }

  bool read_plain() {
    if (plain_ended_ || to_wire_.full()) return false;
    const ssize_t count = ::recv(plain_, to_wire_.room(), to_wire_.room_size(), MSG_DONTWAIT);
    if (count > 0) {
      to_wire_.came(static_cast<std::size_t>(count));
      return true;
    }
    plain_ended_ = count == 0 || (errno != EAGAIN && errno != EINTR);
    return plain_ended_;
  }

  bool write_plain() {
    if (to_plain_.empty()) return false;
    const ssize_t count =
        ::send(plain_, to_plain_.data(), to_plain_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    // Who hears nothing any more may have said something before; its end is found by reading.
    to_plain_.went(count > 0 ? static_cast<std::size_t>(count) : to_plain_.size());
    return true;
  }

  /// The client speaks first, also when it has nothing to say yet.
  bool greet() {
    greeted_ = outcome([this] { return SSL_do_handshake(session_.get()); }) > 0;
    return greeted_;
  }

  /// Other keys for what is sent from now on. Only between records, and when the wire takes the
  /// message about it at once: until it is written nothing could be read.
  void renew() {
    pollfd room{wire_, POLLOUT, 0};
    if (sent_ < options_.renewal_bytes || unfinished_ || ::poll(&room, 1, 0) != 1) return;
    if (SSL_key_update(session_.get(), SSL_KEY_UPDATE_NOT_REQUESTED) == 1) sent_ = 0;
  }

  bool write_wire() {
    if (wire_ended_) {
      to_wire_.went(to_wire_.size());
      return true;
    }
    bool moved = false;
    while (!to_wire_.empty()) {
      renew();
      const int count = outcome([this] {
        return SSL_write(session_.get(), to_wire_.data(), static_cast<int>(to_wire_.size()));
      });
      unfinished_ = count <= 0;
      if (unfinished_) break;
      to_wire_.went(static_cast<std::size_t>(count));
      sent_ += count;
      moved = true;
    }
    return moved;
  }

  bool read_wire() {
    if (wire_ended_ || failed_) return false;
    bool moved = false;
    while (!to_plain_.full()) {
      const int count = outcome([this] {
        return SSL_read(session_.get(), to_plain_.room(), static_cast<int>(to_plain_.room_size()));
      });
      if (count <= 0) return moved || wire_ended_;
      to_plain_.came(static_cast<std::size_t>(count));
      moved = true;
    }
    return moved;
  }

  /// Of a call of TLS: how much it did, or 0 and what it waits for, that the other end has said
  /// good-bye, or what went wrong.
  template <typename Call>
  int outcome(Call call) {
    ERR_clear_error();
    errno = 0;
    const int count = call();
    const int number = errno;
    if (count > 0) return count;
    switch (SSL_get_error(session_.get(), count)) {
      case SSL_ERROR_WANT_READ:
        wire_wants_ |= POLLIN;
        break;
      case SSL_ERROR_WANT_WRITE:
        wire_wants_ |= POLLOUT;
        break;
      case SSL_ERROR_ZERO_RETURN:
        wire_ended_ = true;
        break;
      case SSL_ERROR_SYSCALL:
        failed_ = errno_error("wire of a relay", number == 0 ? ECONNRESET : number);
        break;
      default:
        failed_ = broken();
        break;
    }
    return 0;
  }

  static Error broken() {
    if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
      return make_error(Errc::unavailable, "wire of a relay: it broke");
    return make_error(Errc::denied,
                      "wire of a relay: the other end does not know the key, or what came was "
                      "changed on its way: " +
                          said());
  }

  Result<void> wait() {
    auto wire = static_cast<short>(wire_wants_);
    if (!to_plain_.full() && !wire_ended_) wire |= POLLIN;
    short plain = 0;
    if (!plain_ended_ && !to_wire_.full()) plain |= POLLIN;
    if (!to_plain_.empty()) plain |= POLLOUT;
    // Who has told all waits no longer than this until a bit more of it is taken.
    return wait_for(plain, wire, plain_ended_ || wire_ended_ ? kFlushDeadline : kForEver);
  }

  Result<void> wait_for(short plain, short wire, Duration limit) const {
    pollfd both[] = {{plain != 0 ? plain_ : -1, plain, 0}, {wire != 0 ? wire_ : -1, wire, 0}};
    const int count = ::poll(both, 2, static_cast<int>(to_ms(limit)));
    if (count == 0) return make_error(Errc::timeout, "a relay: nobody takes what is left");
    if (count < 0 && errno != EINTR) return errno_error("wait for a relay's sockets", errno);
    return {};
  }

  /// The other end shall know that this was all.
  Result<void> say_goodbye() {
    while (!wire_ended_ && !failed_) {
      wire_wants_ = 0;
      outcome([this] { return SSL_shutdown(session_.get()) < 0 ? -1 : 1; });
      if (wire_wants_ == 0) break;
      if (auto waited = wait_for(0, static_cast<short>(wire_wants_), kFlushDeadline); !waited)
        return waited;
    }
    return {};
  }

  /// What had come well is passed on all the same.
  Result<void> end_failed() {
    while (!to_plain_.empty()) {
      if (!write_plain() && !wait_for(POLLOUT, 0, kFlushDeadline).ok()) break;
    }
    return *failed_;
  }

  static std::string said() {
    const char* words = ERR_reason_error_string(ERR_peek_last_error());
    return words != nullptr ? words : "no reason was given";
  }

  const int plain_;
  const int wire_;
  const RelayOptions& options_;
  Context context_;
  Session session_;
  Buffer to_wire_;
  Buffer to_plain_;
  bool greeted_ = false;
  bool plain_ended_ = false;
  bool wire_ended_ = false;
  int wire_wants_ = 0;
  bool unfinished_ = false;  ///< a record is half written
  std::int64_t sent_ = 0;    ///< with these keys
  std::optional<Error> failed_;
};

}  // namespace

Result<void> relay_encrypted(int plain, int wire, const RelayOptions& options) {
  return Relay(plain, wire, options).run();
}

}  // namespace virga
