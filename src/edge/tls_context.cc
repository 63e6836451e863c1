#include "edge/tls_context.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include <array>

namespace virga {
namespace {

struct Free {
  void operator()(BIO* object) const { ::BIO_free(object); }
  void operator()(X509* object) const { ::X509_free(object); }
  void operator()(EVP_PKEY* object) const { ::EVP_PKEY_free(object); }
};
using Memory = std::unique_ptr<BIO, Free>;
using Certificate = std::unique_ptr<X509, Free>;
using Key = std::unique_ptr<EVP_PKEY, Free>;

Error wrong(const std::string& part) {
  const unsigned long code = ::ERR_get_error();
  std::array<char, 256> reason{};
  ::ERR_error_string_n(code, reason.data(), reason.size());
  ::ERR_clear_error();
  return make_error(Errc::invalid, "set up TLS: " + part + ": " + reason.data());
}

Memory reader(const std::string& text) {
  return Memory(::BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

Result<void> use_certificate(SSL_CTX* context, const TlsIdentity& identity) {
  const Memory chain = reader(identity.certificate);
  const Certificate leaf(::PEM_read_bio_X509(chain.get(), nullptr, nullptr, nullptr));
  if (leaf == nullptr || ::SSL_CTX_use_certificate(context, leaf.get()) != 1) {
    return wrong("the certificate is not usable PEM");
  }
  while (X509* next = ::PEM_read_bio_X509(chain.get(), nullptr, nullptr, nullptr)) {
    SSL_CTX_add0_chain_cert(context, next);
  }
  const auto no_password = [](char*, int, int, void*) { return 0; };
  const Key key(
      ::PEM_read_bio_PrivateKey(reader(identity.private_key).get(), nullptr, no_password, nullptr));
  if (key == nullptr || ::SSL_CTX_use_PrivateKey(context, key.get()) != 1) {
    return wrong("the private key is no usable PEM or belongs to another certificate");
  }
  ::ERR_clear_error();  // the end of the chain counts as an error
  return {};
}

Result<void> use_trusted(SSL_CTX* context, const std::string& pem, TlsSide side) {
  const Memory memory = reader(pem);
  int count = 0;
  while (true) {
    const Certificate next(::PEM_read_bio_X509(memory.get(), nullptr, nullptr, nullptr));
    if (next == nullptr) break;
    ++count;
    ::X509_STORE_add_cert(::SSL_CTX_get_cert_store(context), next.get());
    if (side == TlsSide::server) ::SSL_CTX_add_client_CA(context, next.get());
  }
  // One that is named is trusted itself, also where another authority has issued it.
  ::X509_STORE_set_flags(::SSL_CTX_get_cert_store(context), X509_V_FLAG_PARTIAL_CHAIN);
  if (count == 0) return wrong("the trusted authorities are no PEM certificates");
  ::ERR_clear_error();
  return {};
}

}  // namespace

Result<std::shared_ptr<ssl_ctx_st>> make_tls_context(const TlsIdentity& identity, TlsSide side,
                                                     bool certificate_required) {
  const bool server = side == TlsSide::server;
  if (server && identity.certificate.empty()) {
    return make_error(Errc::invalid, "set up TLS: a server needs a certificate");
  }
  if (certificate_required && identity.trusted.empty()) {
    return make_error(Errc::invalid,
                      "set up TLS: client certificates are required but nobody is trusted");
  }
  const std::shared_ptr<SSL_CTX> context(
      ::SSL_CTX_new(server ? ::TLS_server_method() : ::TLS_client_method()), ::SSL_CTX_free);
  VIRGA_CHECK(context != nullptr);
  SSL_CTX* const raw = context.get();
  SSL_CTX_set_min_proto_version(raw, TLS1_2_VERSION);
  ::SSL_CTX_set_options(raw, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET);
  SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);
  ::SSL_CTX_set_num_tickets(raw, 0);
  // Buffers of 17 kB live only while a record is under way: idle connections stay small.
  SSL_CTX_set_mode(raw, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                            SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(raw, 1);
  if (!identity.certificate.empty()) {
    if (auto done = use_certificate(raw, identity); !done) return done.error();
  }
  if (!identity.trusted.empty()) {
    if (auto done = use_trusted(raw, identity.trusted, side); !done) return done.error();
  } else if (!server) {
    ::SSL_CTX_set_default_verify_paths(raw);
  }
  int mode = SSL_VERIFY_PEER;
  if (server && identity.trusted.empty()) mode = SSL_VERIFY_NONE;
  if (certificate_required) mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
  ::SSL_CTX_set_verify(raw, mode, nullptr);
  return context;
}

}  // namespace virga
