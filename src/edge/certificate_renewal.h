#pragma once

#include <functional>
#include <string>

#include "base/loop.h"
#include "edge/tls.h"

namespace virga {

/// Sees to it that a certificate is replaced in time: from the moment when a third of its life is left, by the wall
/// clock of this machine as in TLS itself, another one is asked for until there is one; so it is for one that was
/// issued by a clock that was ahead. It looks 24 times in a certificate's life, but at most once a second and at least
/// every ten minutes. Loop thread only.
class CertificateRenewal {
 public:
  /// Asks for another identity; completes once, on the Loop, within a deadline of its own.
  using Ask = std::function<void(Callback<TlsIdentity>)>;
  /// Puts it to use. An error counts as that of asking: the old one stays, and it is asked again.
  using Use = std::function<Result<void>(const TlsIdentity&)>;

  CertificateRenewal(Loop& loop, Ask ask, Use use)
      : loop_(loop), ask_(std::move(ask)), use_(std::move(use)), timer_(loop) {}

  /// From `certificate` on, PEM. Errors: invalid (it is none).
  Result<void> start(const std::string& certificate);

 private:
  void look();
  void look_later();
  void answered(const Result<TlsIdentity>& identity);
  Result<void> take(const TlsIdentity& identity);

  Loop& loop_;
  const Ask ask_;
  const Use use_;
  CertificateLife life_;
  Timer timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
