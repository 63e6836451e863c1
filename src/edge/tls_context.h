#pragma once

#include <memory>

#include "base/result.h"
#include "edge/tls.h"

struct ssl_ctx_st;

namespace virga {

enum class TlsSide { client, server };

/// OpenSSL's settings for one listener or one client; TLS 1.2 or later, no renegotiation, no resumption (a resumed
/// session would outlive its certificate). A server asks for client certificates when it trusts somebody, and insists
/// when `certificate_required`. A certificate in `trusted` is trusted itself, also one that an authority which is not
/// there has issued. A client without `trusted` trusts what the system trusts.
/// Errors: invalid, saying which part of the identity is wrong.
Result<std::shared_ptr<ssl_ctx_st>> make_tls_context(const TlsIdentity& identity, TlsSide side,
                                                     bool certificate_required);

}  // namespace virga
