#include "edge/tls.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <array>
#include <cstdio>

#include "edge/file.h"

namespace virga {
namespace {

constexpr long kAuthorityValid = 20L * 365 * 24 * 3600;  // s
constexpr long kClockSkew = 3600;           // s before now, for hosts whose clock is behind
constexpr std::size_t kCommonNameMax = 64;  // ub-common-name of X.509

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
void free_names(GENERAL_NAMES* names) { GENERAL_NAMES_free(names); }
using Key = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Freer<X509_free>>;
using Memory = std::unique_ptr<BIO, Freer<BIO_free>>;
using Time = std::unique_ptr<ASN1_TIME, Freer<ASN1_TIME_free>>;
using Names = std::unique_ptr<GENERAL_NAMES, Freer<free_names>>;

/// What OpenSSL noted last on this thread.
std::string openssl_reason() {
  const unsigned long code = ::ERR_get_error();
  ::ERR_clear_error();
  if (code == 0) return "OpenSSL gave no reason";
  std::array<char, 256> text{};
  ::ERR_error_string_n(code, text.data(), text.size());
  return text.data();
}

Error broken(const std::string& what) {
  return make_error(Errc::internal, what + ": " + openssl_reason());
}

std::string hex(const unsigned char* bytes, std::size_t size) {
  static constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  text.reserve(2 * size);
  for (std::size_t index = 0; index < size; ++index) {
    text += kDigits[bytes[index] >> 4];
    text += kDigits[bytes[index] & 15];
  }
  return text;
}

std::string text_of(BIO* memory) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(memory, &data);
  return {data, static_cast<std::size_t>(size)};
}

std::string to_pem(X509* certificate) {
  const Memory memory(::BIO_new(::BIO_s_mem()));
  VIRGA_CHECK(::PEM_write_bio_X509(memory.get(), certificate) == 1);
  return text_of(memory.get());
}

std::string to_pem(EVP_PKEY* key) {
  const Memory memory(::BIO_new(::BIO_s_mem()));
  VIRGA_CHECK(
      ::PEM_write_bio_PrivateKey(memory.get(), key, nullptr, nullptr, 0, nullptr, nullptr) == 1);
  return text_of(memory.get());
}

Memory reader(const std::string& text) {
  return Memory(::BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

Certificate parse_certificate(const std::string& pem) {
  return Certificate(::PEM_read_bio_X509(reader(pem).get(), nullptr, nullptr, nullptr));
}

Key parse_key(const std::string& pem) {
  // The callback answers "no password": an encrypted key is an error, no question on a terminal.
  const auto no_password = [](char*, int, int, void*) { return 0; };
  return Key(::PEM_read_bio_PrivateKey(reader(pem).get(), nullptr, no_password, nullptr));
}

bool add_extension(X509* certificate, X509* issuer, int kind, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = ::X509V3_EXT_conf_nid(nullptr, &context, kind, value);
  if (extension == nullptr) return false;
  const bool added = ::X509_add_ext(certificate, extension, -1) == 1;
  ::X509_EXTENSION_free(extension);
  return added;
}

bool set_random_serial(X509* certificate) {
  std::array<unsigned char, 16> bytes{};
  if (::RAND_bytes(bytes.data(), bytes.size()) != 1) return false;
  bytes[0] = static_cast<unsigned char>((bytes[0] & 0x7f) | 0x40);  // positive, always 16 bytes
  BIGNUM* number = ::BN_bin2bn(bytes.data(), bytes.size(), nullptr);
  const bool set = number != nullptr &&
                   ::BN_to_ASN1_INTEGER(number, ::X509_get_serialNumber(certificate)) != nullptr;
  ::BN_free(number);
  return set;
}

/// A certificate for `key` with all but extensions and signature.
Certificate blank_certificate(const std::string& common_name, EVP_PKEY* key, long valid) {
  Certificate made(::X509_new());
  X509_NAME* subject = ::X509_get_subject_name(made.get());
  const auto* text = reinterpret_cast<const unsigned char*>(common_name.data());
  const bool complete =
      ::X509_set_version(made.get(), 2) == 1 && set_random_serial(made.get()) &&
      ::X509_gmtime_adj(X509_getm_notBefore(made.get()), -kClockSkew) != nullptr &&
      ::X509_gmtime_adj(X509_getm_notAfter(made.get()), valid) != nullptr &&
      ::X509_set_pubkey(made.get(), key) == 1 &&
      ::X509_NAME_add_entry_by_NID(subject, NID_commonName, MBSTRING_UTF8, text,
                                   static_cast<int>(common_name.size()), -1, 0) == 1;
  return complete ? std::move(made) : nullptr;
}

bool read_time(const ASN1_TIME* time, WallTime& read) {
  const Time epoch(::ASN1_TIME_set(nullptr, 0));
  int days = 0;
  int rest = 0;
  if (::ASN1_TIME_diff(&days, &rest, epoch.get(), time) != 1) return false;
  read = {to_ms(std::chrono::hours(24) * days + seconds(rest))};
  return true;
}

GENERAL_NAME* name_of(const std::string& text, bool address) {
  ASN1_STRING* value = nullptr;
  if (address) {
    value = ::a2i_IPADDRESS(text.c_str());
  } else if (!text.empty() && text.find('\0') == std::string::npos) {
    value = ::ASN1_IA5STRING_new();
    ::ASN1_STRING_set(value, text.data(), static_cast<int>(text.size()));
  }
  if (value == nullptr) return nullptr;
  GENERAL_NAME* name = ::GENERAL_NAME_new();
  ::GENERAL_NAME_set0_value(name, address ? GEN_IPADD : GEN_DNS, value);
  return name;
}

Result<void> add_alternative_names(X509* certificate, const CertificateRequest& request) {
  if (request.dns_names.empty() && request.addresses.empty()) return {};
  const Names names(::GENERAL_NAMES_new());
  const auto add_all = [&](const std::vector<std::string>& texts, bool address) -> Result<void> {
    for (const std::string& text : texts) {
      GENERAL_NAME* name = name_of(text, address);
      if (name == nullptr) {
        return make_error(Errc::invalid, fmt::format("issue a certificate for '{}': '{}' is no {}",
                                                     request.common_name, text,
                                                     address ? "IP address" : "DNS name"));
      }
      sk_GENERAL_NAME_push(names.get(), name);
    }
    return {};
  };
  if (auto done = add_all(request.dns_names, false); !done) return done;
  if (auto done = add_all(request.addresses, true); !done) return done;
  if (::X509_add1_ext_i2d(certificate, NID_subject_alt_name, names.get(), 0, 0) != 1) {
    return broken("write the names into a certificate for '" + request.common_name + "'");
  }
  return {};
}

Result<std::string> make_authority_certificate(EVP_PKEY* key) {
  const Certificate made = blank_certificate("Virga authority", key, kAuthorityValid);
  if (made == nullptr) return broken("make the authority's certificate");
  X509* self = made.get();
  const bool complete =
      ::X509_set_issuer_name(self, ::X509_get_subject_name(self)) == 1 &&
      add_extension(self, self, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
      add_extension(self, self, NID_key_usage, "critical,keyCertSign,cRLSign") &&
      add_extension(self, self, NID_subject_key_identifier, "hash") &&
      ::X509_sign(self, key, ::EVP_sha256()) > 0;
  if (!complete) return broken("sign the authority's certificate");
  return to_pem(self);
}

/// The key in `path`, made when there is no such file.
Result<std::string> open_key(const std::string& path) {
  auto text = read_file(path);
  if (text || text.error().code != Errc::not_found) return text;
  const Key key(EVP_EC_gen("P-256"));
  if (key == nullptr) return broken("make a P-256 key");
  std::string pem = to_pem(key.get());
  if (auto done = write_file_atomically(path, pem, 0600); !done) return done.error();
  return pem;
}

}  // namespace

Result<CertificateAuthority> CertificateAuthority::open(const std::string& folder) {
  const std::string key_path = folder + "/authority.key";
  const std::string certificate_path = folder + "/authority.crt";
  const auto refuse = [&](const std::string& why) {
    return make_error(Errc::internal, "open the authority in " + folder + ": " + why +
                                          "; put the files back from a backup");
  };
  if (auto done = make_folders(folder, 0700); !done) return done.error();
  auto certificate = read_file(certificate_path);
  if (!certificate && certificate.error().code != Errc::not_found) return certificate.error();
  if (certificate && !read_file(key_path)) return refuse(key_path + " cannot be read");
  auto private_key = open_key(key_path);
  if (!private_key) return private_key.error();
  const Key key = parse_key(*private_key);
  if (key == nullptr) return refuse(key_path + " holds no private key: " + openssl_reason());
  if (!certificate) {
    certificate = make_authority_certificate(key.get());
    if (!certificate) return certificate.error();
    if (auto done = write_file_atomically(certificate_path, *certificate); !done) {
      return done.error();
    }
  }
  const Certificate parsed = parse_certificate(*certificate);
  if (parsed == nullptr) {
    return refuse(certificate_path + " holds no certificate: " + openssl_reason());
  }
  if (::X509_check_private_key(parsed.get(), key.get()) != 1) {
    ::ERR_clear_error();
    return refuse("certificate and key do not belong together");
  }
  CertificateAuthority made;
  made.certificate_ = *std::move(certificate);
  made.private_key_ = *std::move(private_key);
  return made;
}

Result<TlsIdentity> CertificateAuthority::issue(const CertificateRequest& request) const {
  const std::string what = "issue a certificate for '" + request.common_name + "'";
  if (request.common_name.empty() || request.common_name.size() > kCommonNameMax) {
    return make_error(Errc::invalid, fmt::format("{}: the name has {} bytes; 1 to {} are right",
                                                 what, request.common_name.size(), kCommonNameMax));
  }
  const Certificate issuer = parse_certificate(certificate_);
  const Key issuer_key = parse_key(private_key_);
  const Key key(EVP_EC_gen("P-256"));
  if (issuer == nullptr || issuer_key == nullptr || key == nullptr) return broken(what);
  const long valid = std::chrono::duration_cast<std::chrono::seconds>(request.valid).count();
  const Certificate made = blank_certificate(request.common_name, key.get(), valid);
  if (made == nullptr) return broken(what);
  if (auto done = add_alternative_names(made.get(), request); !done) return done.error();
  X509* leaf = made.get();
  const bool complete =
      ::X509_set_issuer_name(leaf, ::X509_get_subject_name(issuer.get())) == 1 &&
      add_extension(leaf, issuer.get(), NID_basic_constraints, "critical,CA:FALSE") &&
      add_extension(leaf, issuer.get(), NID_key_usage, "critical,digitalSignature") &&
      add_extension(leaf, issuer.get(), NID_ext_key_usage, "clientAuth,serverAuth") &&
      add_extension(leaf, issuer.get(), NID_authority_key_identifier, "keyid:always") &&
      ::X509_sign(leaf, issuer_key.get(), ::EVP_sha256()) > 0;
  if (!complete) return broken(what);
  return TlsIdentity{to_pem(leaf), to_pem(key.get()), certificate_};
}

Result<CertificateLife> life_of(const std::string& pem) {
  const Certificate parsed = parse_certificate(pem);
  if (parsed == nullptr) {
    return make_error(Errc::invalid, "read a certificate: " + openssl_reason());
  }
  return life_of(*parsed);
}

namespace {

std::string text_of(const ASN1_STRING* text) {
  return {reinterpret_cast<const char*>(::ASN1_STRING_get0_data(text)),
          static_cast<std::size_t>(::ASN1_STRING_length(text))};
}

/// Empty = the certificate names none of that kind.
std::string alternative_name(const X509* certificate, int kind) {
  const Names names(static_cast<GENERAL_NAMES*>(
      ::X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int index = 0; index < sk_GENERAL_NAME_num(names.get()); ++index) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), index);
    if (name->type != kind) continue;
    if (kind == GEN_DNS) return text_of(name->d.dNSName);
    const std::string bytes = text_of(name->d.iPAddress);
    std::array<char, INET6_ADDRSTRLEN> address{};
    const bool sound = bytes.size() == sizeof(in_addr) || bytes.size() == sizeof(in6_addr);
    if (!sound) continue;  // whoever made the certificate may have written anything
    const int family = bytes.size() == sizeof(in_addr) ? AF_INET : AF_INET6;
    if (::inet_ntop(family, bytes.data(), address.data(), address.size())) return address.data();
  }
  return {};
}

}  // namespace

Result<std::string> name_of(const std::string& pem) {
  const Certificate parsed = parse_certificate(pem);
  if (parsed == nullptr) {
    return make_error(Errc::invalid, "read a certificate: " + openssl_reason());
  }
  std::string name = alternative_name(parsed.get(), GEN_DNS);
  if (name.starts_with("*.")) return "any" + name.substr(1);
  if (name.empty()) name = alternative_name(parsed.get(), GEN_IPADD);
  if (!name.empty()) return name;
  const X509_NAME* subject = ::X509_get_subject_name(parsed.get());
  const int at = ::X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  if (at >= 0) name = text_of(::X509_NAME_ENTRY_get_data(::X509_NAME_get_entry(subject, at)));
  if (!name.empty()) return name;
  return make_error(Errc::invalid, "read a certificate: it is made out to no name");
}

Result<CertificateLife> life_of(const x509_st& certificate) {
  CertificateLife life;
  if (!read_time(::X509_get0_notBefore(&certificate), life.begins) ||
      !read_time(::X509_get0_notAfter(&certificate), life.ends)) {
    return make_error(Errc::invalid, "read a certificate: its times are no times");
  }
  life.begins.unix_ms += to_ms(seconds(kClockSkew));
  return life;
}

std::string random_secret() {
  std::array<unsigned char, 32> bytes{};
  VIRGA_CHECK(::RAND_bytes(bytes.data(), bytes.size()) == 1);
  return hex(bytes.data(), bytes.size());
}

std::string hmac_sha256(const std::string& key, const std::string& data) {
  std::array<unsigned char, 32> digest{};
  unsigned int size = digest.size();
  const auto* bytes = reinterpret_cast<const unsigned char*>(data.data());
  VIRGA_CHECK(::HMAC(::EVP_sha256(), key.data(), static_cast<int>(key.size()), bytes, data.size(),
                     digest.data(), &size) != nullptr);
  return {digest.begin(), digest.end()};
}

std::string sha256_hex(const std::string& data) {
  std::array<unsigned char, 32> digest{};
  VIRGA_CHECK(
      ::EVP_Digest(data.data(), data.size(), digest.data(), nullptr, ::EVP_sha256(), nullptr) == 1);
  return hex(digest.data(), digest.size());
}

Result<std::string> sha256_hex_of_file(const std::string& path) {
  const std::unique_ptr<FILE, Freer<::fclose>> file(::fopen(path.c_str(), "rbe"));
  if (file == nullptr) {
    return make_error(errno == ENOENT ? Errc::not_found : Errc::internal,
                      fmt::format("read {} for its checksum: {}", path, ::strerror(errno)));
  }
  const std::unique_ptr<EVP_MD_CTX, Freer<EVP_MD_CTX_free>> state(::EVP_MD_CTX_new());
  VIRGA_CHECK(::EVP_DigestInit_ex(state.get(), ::EVP_sha256(), nullptr) == 1);
  std::vector<unsigned char> block(1 << 18);
  while (const std::size_t size = ::fread(block.data(), 1, block.size(), file.get())) {
    VIRGA_CHECK(::EVP_DigestUpdate(state.get(), block.data(), size) == 1);
  }
  if (::ferror(file.get()) != 0) {
    return make_error(Errc::internal,
                      fmt::format("read {} for its checksum: {}", path, ::strerror(errno)));
  }
  std::array<unsigned char, 32> digest{};
  VIRGA_CHECK(::EVP_DigestFinal_ex(state.get(), digest.data(), nullptr) == 1);
  return hex(digest.data(), digest.size());
}

std::string dh_parameters_pem() {
  const std::unique_ptr<EVP_PKEY_CTX, Freer<EVP_PKEY_CTX_free>> maker(
      ::EVP_PKEY_CTX_new_from_name(nullptr, "DH", nullptr));
  char group[] = "ffdhe2048";
  const OSSL_PARAM wanted[] = {
      ::OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group, 0),
      ::OSSL_PARAM_construct_end()};
  EVP_PKEY* made = nullptr;
  VIRGA_CHECK(::EVP_PKEY_paramgen_init(maker.get()) == 1 &&
              ::EVP_PKEY_CTX_set_params(maker.get(), wanted) == 1 &&
              ::EVP_PKEY_generate(maker.get(), &made) == 1);
  const Key parameters(made);
  const Memory memory(::BIO_new(::BIO_s_mem()));
  VIRGA_CHECK(::PEM_write_bio_Parameters(memory.get(), parameters.get()) == 1);
  char* text = nullptr;
  const long size = BIO_get_mem_data(memory.get(), &text);
  return {text, static_cast<std::size_t>(size)};
}

std::string psk_priority() { return "NORMAL:-VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM"; }

bool equal_in_constant_time(const std::string& left, const std::string& right) {
  return left.size() == right.size() &&
         ::CRYPTO_memcmp(left.data(), right.data(), left.size()) == 0;
}

}  // namespace virga
