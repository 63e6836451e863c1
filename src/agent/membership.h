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
  std::string stale_file;  ///< of an earlier cloud: removed before the first certificate is kept
  Duration join_retry = seconds(1);
  Duration rejoin_retry = seconds(60);  ///< beside the work of one whose certificate has ended
};

/// The certificate that makes this host a member of its cloud: kept in a file, got for a one-time token when there is
/// none, replaced in time. Loop thread only.
class Membership {
 public:
  Membership(AsioLoop& loop, MembershipOptions options);

  /// Completes once, with what is kept, or when it has joined, which it tries for as long as it takes. Errors: invalid
  /// (no certificate and no token, or its file is damaged), internal (it cannot be kept).
  void open(Callback<TlsIdentity> done);

  /// From now on, after open(): `use` is called on the Loop with each certificate that replaces the one before. One
  /// that has ended is replaced by joining anew, if there is a token.
  void keep(std::function<void(const TlsIdentity&)> use);

 private:
  bool has_ended() const;
  void join();
  void joined(const Result<HttpResponse>& response);
  void try_join_again(const std::string& why);
  void renew(Callback<TlsIdentity> done);
  HttpCall call_to(const std::string& path, const std::string& body) const;
  Result<void> store(const TlsIdentity& identity) const;
  Result<void> replace(const TlsIdentity& identity);

  AsioLoop& loop_;
  const MembershipOptions options_;
  TlsIdentity identity_;  ///< empty until there was one
  Callback<TlsIdentity> done_;
  std::function<void(const TlsIdentity&)> use_;
  std::optional<CertificateRenewal> renewal_;
  Timer timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
