#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/time.h"

struct x509_st;

namespace virga {

/// A certificate with its private key, and the authorities that its holder trusts; all PEM. Empty = no TLS.
struct TlsIdentity {
  std::string certificate;
  std::string private_key;
  std::string trusted;

  bool empty() const { return certificate.empty() && trusted.empty(); }
};

/// From when to when a certificate is good.
struct CertificateLife {
  WallTime begins;  ///< when this authority issued it
  WallTime ends;
};

/// Of the first certificate in `pem`. Errors: invalid (there is none).
Result<CertificateLife> life_of(const std::string& pem);
Result<CertificateLife> life_of(const x509_st& certificate);

/// A name that the first certificate in `pem` is made out to: the first DNS name ("*" is filled in), else the first
/// address, else its common name. Errors: invalid (there is none).
Result<std::string> name_of(const std::string& pem);

struct CertificateRequest {
  std::string common_name;  ///< "agent:host-1", "server"
  std::vector<std::string> dns_names;
  std::vector<std::string> addresses;
  Duration valid = std::chrono::hours(24 * 365);
};

/// The cloud's own authority: an EC P-256 key and certificate in a folder (0700, key 0600), made at first use.
/// Not thread-safe. Errors: internal (files damaged: said which, never overwritten), exhausted (disk).
class CertificateAuthority {
 public:
  static Result<CertificateAuthority> open(const std::string& folder);

  /// A fresh key and a certificate for it, trusted = this authority.
  Result<TlsIdentity> issue(const CertificateRequest& request) const;

  const std::string& certificate() const { return certificate_; }

 private:
  std::string certificate_;
  std::string private_key_;
};

/// 256 bits from the system's generator, hex.
std::string random_secret();

/// HMAC-SHA-256, 32 bytes.
std::string hmac_sha256(const std::string& key, const std::string& data);

/// SHA-256 as hex.
std::string sha256_hex(const std::string& data);
Result<std::string> sha256_hex_of_file(const std::string& path);

/// The group ffdhe2048 of RFC 7919 as PEM. Without one in a file QEMU lets GnuTLS look for primes of its own at each
/// start of a server, for 0.1 to 1 s.
std::string dh_parameters_pem();

/// What two QEMUs that share a key agree on, in GnuTLS's words: TLS 1.2, DHE-PSK, AES-128-GCM. Why: docs/adr/0031.
std::string psk_priority();

/// Compares without telling by its duration where the difference is.
bool equal_in_constant_time(const std::string& left, const std::string& right);

}  // namespace virga
