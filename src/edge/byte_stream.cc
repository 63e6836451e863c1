#include "edge/byte_stream.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <boost/asio/post.hpp>
#include <cstring>

namespace virga {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr std::size_t kRecordMax = 16'384;  // most that one TLS record carries

enum class Kind { read, write, handshake };
enum class Need { nothing, readable, writable };

struct Outcome {
  Need need = Need::nothing;
  error_code error;
  std::size_t size = 0;
};

struct FreeSsl {
  void operator()(SSL* ssl) const { ::SSL_free(ssl); }
};

error_code tls_error() { return {EPROTO, boost::system::system_category()}; }

bool is_address(const std::string& text) {
  error_code error;
  asio::ip::make_address(text, error);
  return !error;
}

void expect_name(SSL* ssl, const std::string& name) {
  X509_VERIFY_PARAM* rule = ::SSL_get0_param(ssl);
  if (is_address(name)) {
    ::X509_VERIFY_PARAM_set1_ip_asc(rule, name.c_str());
    return;
  }
  ::X509_VERIFY_PARAM_set_hostflags(rule, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
  ::X509_VERIFY_PARAM_set1_host(rule, name.data(), name.size());
  SSL_set_tlsext_host_name(ssl, name.c_str());
}

}  // namespace

struct ByteStream::State {
  explicit State(Socket made) : socket(std::move(made)) {}

  Outcome attempt(Kind kind, char* data, std::size_t size);
  Outcome attempt_plain(Kind kind, char* data, std::size_t size);
  Outcome explain(int result);
  void look_for_alert();

  Socket socket;
  std::unique_ptr<SSL, FreeSsl> ssl;
  std::string tls_failure;
};

/// One operation. It is owned by what waits in the io_context, never by the State it refers to.
struct ByteStream::Transfer {
  std::shared_ptr<State> state;
  Kind kind = Kind::read;
  char* data = nullptr;
  std::size_t size = 0;
  std::vector<char> gathered;  // what `data` points to when buffers had to be joined
  IoHandler handler;
};

Outcome ByteStream::State::attempt_plain(Kind kind, char* data, std::size_t size) {
  Outcome outcome;
  if (kind == Kind::handshake) return outcome;
  outcome.size = kind == Kind::read ? socket.read_some(asio::buffer(data, size), outcome.error)
                                    : socket.write_some(asio::buffer(data, size), outcome.error);
  if (outcome.error == asio::error::would_block) {
    outcome.need = kind == Kind::read ? Need::readable : Need::writable;
  }
  return outcome;
}

Outcome ByteStream::State::attempt(Kind kind, char* data, std::size_t size) {
  // A closed descriptor's number may be another connection's by now.
  if (!socket.is_open()) return {Need::nothing, asio::error::operation_aborted, 0};
  if (ssl == nullptr) return attempt_plain(kind, data, size);
  if (!tls_failure.empty()) return {Need::nothing, tls_error(), 0};
  ::ERR_clear_error();
  errno = 0;
  std::size_t moved = 0;
  int result = 0;
  switch (kind) {
    case Kind::read:
      result = ::SSL_read_ex(ssl.get(), data, size, &moved);
      break;
    case Kind::write:
      result = ::SSL_write_ex(ssl.get(), data, size, &moved);
      break;
    case Kind::handshake:
      result = ::SSL_do_handshake(ssl.get());
      break;
  }
  if (result == 1) return {Need::nothing, {}, moved};
  const Outcome outcome = explain(result);
  if (kind == Kind::write && outcome.error) look_for_alert();
  return outcome;
}

/// A write fails when the peer has gone; why it went may be waiting to be read.
void ByteStream::State::look_for_alert() {
  char byte = 0;
  std::size_t size = 0;
  ::ERR_clear_error();
  errno = 0;
  const int result = ::SSL_peek_ex(ssl.get(), &byte, 1, &size);
  if (result != 1) explain(result);
}

Outcome ByteStream::State::explain(int result) {
  const int number = errno;
  switch (::SSL_get_error(ssl.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return {Need::readable, {}, 0};
    case SSL_ERROR_WANT_WRITE:
      return {Need::writable, {}, 0};
    case SSL_ERROR_ZERO_RETURN:
      return {Need::nothing, asio::error::eof, 0};
    case SSL_ERROR_SYSCALL:
      if (number == 0) return {Need::nothing, asio::error::connection_reset, 0};
      return {Need::nothing, {number, boost::system::system_category()}, 0};
    default:
      break;
  }
  const unsigned long code = ::ERR_peek_error();
  if (ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
    return {Need::nothing, asio::error::connection_reset, 0};
  }
  const char* reason = ::ERR_reason_error_string(code);
  tls_failure = reason == nullptr ? "unknown failure" : reason;
  if (const long verdict = ::SSL_get_verify_result(ssl.get()); verdict != X509_V_OK) {
    tls_failure += std::string(": ") + ::X509_verify_cert_error_string(verdict);
  }
  ::ERR_clear_error();
  return {Need::nothing, tls_error(), 0};
}

ByteStream::ByteStream(Socket socket, const std::shared_ptr<ssl_ctx_st>& tls, TlsSide side,
                       const std::string& server_name)
    : state_(std::make_shared<State>(std::move(socket))) {
  error_code ignored;
  state_->socket.non_blocking(true, ignored);
  if (tls == nullptr) return;
  state_->ssl.reset(::SSL_new(tls.get()));
  SSL* const ssl = state_->ssl.get();
  VIRGA_CHECK(ssl != nullptr && ::SSL_set_fd(ssl, state_->socket.native_handle()) == 1);
  if (side == TlsSide::server) {
    ::SSL_set_accept_state(ssl);
  } else {
    ::SSL_set_connect_state(ssl);
    expect_name(ssl, server_name);
  }
}

ByteStream::executor_type ByteStream::get_executor() { return state_->socket.get_executor(); }

void ByteStream::run(Transfer transfer, bool first) {
  State& state = *transfer.state;
  const Outcome outcome = state.attempt(transfer.kind, transfer.data, transfer.size);
  if (outcome.need != Need::nothing) {
    const auto wait = outcome.need == Need::readable ? Socket::wait_read : Socket::wait_write;
    state.socket.async_wait(wait, [moved = std::move(transfer)](const error_code& error) mutable {
      if (error) return moved.handler(error, 0);
      run(std::move(moved), false);
    });
    return;
  }
  if (!first) return transfer.handler(outcome.error, outcome.size);
  // A completion never runs inside the call that started it.
  asio::post(state.socket.get_executor(), [moved = std::move(transfer), outcome]() mutable {
    moved.handler(outcome.error, outcome.size);
  });
}

void ByteStream::async_handshake(IoHandler done) {
  run({state_, Kind::handshake, nullptr, 0, {}, std::move(done)}, true);
}

void ByteStream::read(asio::mutable_buffer buffer, IoHandler handler) {
  run({state_,
       Kind::read,
       static_cast<char*>(buffer.data()),
       buffer.size(),
       {},
       std::move(handler)},
      true);
}

void ByteStream::write(const asio::const_buffer* buffers, std::size_t count, IoHandler handler) {
  Transfer transfer{state_, Kind::write, nullptr, 0, {}, std::move(handler)};
  while (count > 0 && buffers->size() == 0) ++buffers, --count;
  // A header and its body leave in one record and one packet.
  if (count > 1 && buffers->size() < kRecordMax) {
    for (; count > 0 && transfer.gathered.size() < kRecordMax; ++buffers, --count) {
      const auto* data = static_cast<const char*>(buffers->data());
      const std::size_t size = std::min(buffers->size(), kRecordMax - transfer.gathered.size());
      transfer.gathered.insert(transfer.gathered.end(), data, data + size);
    }
    transfer.data = transfer.gathered.data();
    transfer.size = transfer.gathered.size();
  } else if (count > 0) {
    transfer.data = static_cast<char*>(const_cast<void*>(buffers->data()));
    transfer.size = buffers->size();
  }
  run(std::move(transfer), true);
}

void ByteStream::shutdown_send() {
  if (!state_->socket.is_open()) return;
  SSL* const ssl = state_->ssl.get();
  if (ssl != nullptr && state_->tls_failure.empty() && ::SSL_is_init_finished(ssl) == 1) {
    ::ERR_clear_error();
    ::SSL_shutdown(ssl);
    ::ERR_clear_error();
  }
  error_code ignored;
  state_->socket.shutdown(Socket::shutdown_send, ignored);
}

void ByteStream::drop_tls() { state_->ssl.reset(); }

void ByteStream::close() {
  if (state_ == nullptr) return;
  error_code ignored;
  state_->socket.close(ignored);
}

const std::string& ByteStream::tls_failure() const { return state_->tls_failure; }

std::string ByteStream::peer_name() const {
  if (state_->ssl == nullptr) return {};
  const X509* peer = ::SSL_get0_peer_certificate(state_->ssl.get());
  if (peer == nullptr || ::SSL_get_verify_result(state_->ssl.get()) != X509_V_OK) return {};
  const X509_NAME* subject = ::X509_get_subject_name(peer);
  const int position =
      ::X509_NAME_get_index_by_NID(const_cast<X509_NAME*>(subject), NID_commonName, -1);
  if (position < 0) return {};
  const ASN1_STRING* value = ::X509_NAME_ENTRY_get_data(::X509_NAME_get_entry(subject, position));
  unsigned char* utf8 = nullptr;
  const int size = ::ASN1_STRING_to_UTF8(&utf8, value);
  if (size < 0) return {};
  const std::string name(reinterpret_cast<char*>(utf8), static_cast<std::size_t>(size));
  ::OPENSSL_free(utf8);
  return name;
}

WallTime ByteStream::peer_since() const {
  const X509* peer =
      state_->ssl == nullptr ? nullptr : ::SSL_get0_peer_certificate(state_->ssl.get());
  const auto life = peer == nullptr ? Result<CertificateLife>(CertificateLife()) : life_of(*peer);
  return life ? life->begins : WallTime();
}

std::string ByteStream::peer_address() const {
  error_code error;
  const auto endpoint = state_->socket.remote_endpoint(error);
  return error ? std::string() : endpoint.address().to_string();
}

}  // namespace virga
