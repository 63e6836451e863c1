#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "edge/asio_loop.h"
#include "edge/certificate_renewal.h"
#include "edge/http.h"
#include "model/join.h"

namespace virga {

struct MembershipOptions {
  std::string server;          ///< "wss://10.77.0.1:7443"
  JoinRequest request;         ///< without token
  std::string token_file;      ///< empty = joining is not possible
  std::string authority_file;  ///< PEM of whom to trust before this host has joined
  std::string identity_file;   ///< where the certificate is kept with its key, 0600
  Duration join_retry = seconds(1);
};

/// The certificate that makes this host a member of its cloud: kept in a file, got for a one-time token when there is
/// none that is still good, replaced in time. Loop thread only.
class Membership {
 public:
  struct Identity {
    TlsIdentity tls;
    bool joined_now = false;  ///< for a token: nothing that was known of an earlier cloud holds
  };

  Membership(AsioLoop& loop, MembershipOptions options);

  /// Completes once; it joins for as long as it takes. Errors: invalid (no certificate and no token, or its file is
  /// damaged), internal (it cannot be kept).
  void open(Callback<Identity> done);

  /// From now on, after open(): `use` is called on the Loop with each certificate that replaces the one before.
  void keep(std::function<void(const TlsIdentity&)> use);

 private:
  void join();
  void joined(const Result<HttpResponse>& response);
  void try_join_again(const std::string& why);
  void renew(Callback<TlsIdentity> done);
  HttpCall call_to(const std::string& path, const std::string& body) const;
  Result<void> take(const TlsIdentity& identity);

  AsioLoop& loop_;
  const MembershipOptions options_;
  TlsIdentity identity_;
  Callback<Identity> done_;
  std::function<void(const TlsIdentity&)> use_;
  std::optional<CertificateRenewal> renewal_;
  Timer timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
