#include "edge/tls.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

namespace virga {
namespace {

class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "virga-tls-XXXXXX").string();
    path = ::mkdtemp(pattern.data());
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

mode_t mode_of(const std::string& path) {
  struct stat info {};
  EXPECT_EQ(::stat(path.c_str(), &info), 0);
  return info.st_mode & 0777;
}

void write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

TEST(Tls, F_B6_the_authority_is_made_once_and_its_key_is_private) {
  const Folder folder;
  const std::string path = folder.path + "/authority";
  const auto made = CertificateAuthority::open(path);
  ASSERT_TRUE(made.ok()) << made.error().text();
  EXPECT_EQ(mode_of(path), 0700u);
  EXPECT_EQ(mode_of(path + "/authority.key"), 0600u);
  const auto again = CertificateAuthority::open(path);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(made->certificate(), again->certificate());
  EXPECT_NE(made->certificate().find("BEGIN CERTIFICATE"), std::string::npos);
}

TEST(Tls, F_B6_issued_certificates_have_keys_of_their_own_and_names_are_checked) {
  const Folder folder;
  const auto authority = CertificateAuthority::open(folder.path);
  ASSERT_TRUE(authority.ok());
  const auto first = authority->issue({"agent:host-1", {"host-1.local"}, {"10.77.0.1", "fd00::1"}});
  const auto second = authority->issue({"agent:host-1", {}, {}});
  ASSERT_TRUE(first.ok()) << first.error().text();
  ASSERT_TRUE(second.ok());
  EXPECT_NE(first->private_key, second->private_key);
  EXPECT_EQ(first->trusted, authority->certificate());
  for (const auto& request :
       {CertificateRequest{"", {}, {}}, CertificateRequest{std::string(65, 'x'), {}, {}},
        CertificateRequest{"a", {""}, {}}, CertificateRequest{"a", {}, {"10.77.0.300"}}}) {
    const auto refused = authority->issue(request);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, Errc::invalid);
  }
}

TEST(Tls, R_F13_a_certificate_says_from_when_to_when_it_is_good) {
  const Folder folder;
  const auto authority = CertificateAuthority::open(folder.path);
  ASSERT_TRUE(authority.ok());
  const auto issued = authority->issue({"agent:host-1", {}, {}, std::chrono::hours(24 * 365)});
  const auto life = life_of(issued->certificate);
  ASSERT_TRUE(life.ok()) << life.error().text();
  EXPECT_EQ(life->ends.unix_ms - life->begins.unix_ms, 365LL * 24 * 3600 * 1000);
  const auto now = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::system_clock::now().time_since_epoch());
  EXPECT_LE(life->begins.unix_ms, now.count());
  EXPECT_GE(life->begins.unix_ms, now.count() - 60'000);
  EXPECT_EQ(life_of("none").error().code, Errc::invalid);
}

TEST(Tls, R_B6_R_B9_a_certificate_says_for_which_name_it_may_be_shown) {
  const Folder folder;
  const auto authority = CertificateAuthority::open(folder.path);
  ASSERT_TRUE(authority.ok());
  const auto named = [&](const CertificateRequest& request) {
    const auto name = name_of(authority->issue(request)->certificate);
    return name ? *name : name.error().text();
  };
  EXPECT_EQ(named({"shop", {"shop.example", "www.shop.example"}, {"10.0.0.1"}}), "shop.example");
  EXPECT_EQ(named({"shop", {"*.shop.example"}, {}}), "any.shop.example");
  EXPECT_EQ(named({"shop", {}, {"10.0.0.1"}}), "10.0.0.1");
  EXPECT_EQ(named({"shop", {}, {}}), "shop");
  EXPECT_EQ(name_of("none").error().code, Errc::invalid);
}

TEST(Tls, R_B6_an_address_of_two_bytes_is_no_name) {
  // Self-signed, CN=shop, subjectAltName=DER:30:04:87:02:01:02.
  const std::string odd =
      "-----BEGIN CERTIFICATE-----\n"
      "MIIBgjCCASigAwIBAgIUfWI8HFhbbJkDhA/K3KK1bdd3owQwCgYIKoZIzj0EAwIw\n"
      "DzENMAsGA1UEAwwEc2hvcDAeFw0yNjExMzAxNTM4NDNaFw0zNjExMjcxNTM4NDNa\n"
      "MA8xDTALBgNVBAMMBHNob3AwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATntf9s\n"
      "G06CkGPnhg/T14NaWHbDnuEFz9pf9BEHFvbqBjvhmoNHVKlCgeN5mIK/iQA5LKMn\n"
      "Z/R52fOYW3yeeY/ho2IwYDAdBgNVHQ4EFgQU92GgbBgbjJ+JgArg1HF7f+4NtpYw\n"
      "HwYDVR0jBBgwFoAU92GgbBgbjJ+JgArg1HF7f+4NtpYwDwYDVR0TAQH/BAUwAwEB\n"
      "/zANBgNVHREEBjAEhwIBAjAKBggqhkjOPQQDAgNIADBFAiBXKAo93UwpjvCcqOR8\n"
      "w2bKFfDzf2s0u0EDVlfO4yRNggIhANDcTH0glGHWXiGEw0Td29DXQhywWhIjJNE5\n"
      "lSrg9A14\n"
      "-----END CERTIFICATE-----\n";
  const auto name = name_of(odd);
  ASSERT_TRUE(name.ok()) << name.error().text();
  EXPECT_EQ(*name, "shop");
}

TEST(Tls, F_B6_damaged_files_are_named_and_never_overwritten) {
  const Folder folder;
  ASSERT_TRUE(CertificateAuthority::open(folder.path).ok());
  for (const std::string name : {"/authority.key", "/authority.crt"}) {
    const std::string path = folder.path + name;
    std::filesystem::copy(path, path + ".good");
    write(path, "-----BEGIN NOTHING-----");
    const auto opened = CertificateAuthority::open(folder.path);
    ASSERT_FALSE(opened.ok());
    EXPECT_EQ(opened.error().code, Errc::internal);
    EXPECT_NE(opened.error().text().find(path), std::string::npos) << opened.error().text();
    std::ifstream damaged(path);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(damaged), {}), "-----BEGIN NOTHING-----");
    std::filesystem::rename(path + ".good", path);
  }
  std::filesystem::remove(folder.path + "/authority.key");
  EXPECT_FALSE(CertificateAuthority::open(folder.path).ok());
  EXPECT_FALSE(std::filesystem::exists(folder.path + "/authority.key"));
}

TEST(Tls, F_B6_a_crash_between_key_and_certificate_is_made_good) {
  const Folder folder;
  ASSERT_TRUE(CertificateAuthority::open(folder.path).ok());
  std::filesystem::remove(folder.path + "/authority.crt");
  const auto opened = CertificateAuthority::open(folder.path);
  ASSERT_TRUE(opened.ok());
  EXPECT_TRUE(opened->issue({"server", {}, {}}).ok());
}

TEST(Tls, F_B6_certificate_and_key_of_different_authorities_are_refused) {
  const Folder left, right;
  ASSERT_TRUE(CertificateAuthority::open(left.path).ok());
  ASSERT_TRUE(CertificateAuthority::open(right.path).ok());
  std::filesystem::copy(left.path + "/authority.key", right.path + "/authority.key",
                        std::filesystem::copy_options::overwrite_existing);
  const auto opened = CertificateAuthority::open(right.path);
  ASSERT_FALSE(opened.ok());
  EXPECT_NE(opened.error().text().find("do not belong together"), std::string::npos);
}

TEST(Tls, F_B6_hashes_agree_with_published_vectors) {
  // Source: FIPS 180-4 examples; RFC 4231 test case 2.
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string mac = hmac_sha256("Jefe", "what do ya want for nothing?");
  ASSERT_EQ(mac.size(), 32u);
  EXPECT_EQ(mac.substr(0, 4), "\x5b\xdc\xc1\x46");
  EXPECT_EQ(mac.substr(28), "\x64\xec\x38\x43");
  const Folder folder;
  write(folder.path + "/data", "abc");
  EXPECT_EQ(*sha256_hex_of_file(folder.path + "/data"), sha256_hex("abc"));
  EXPECT_EQ(sha256_hex_of_file(folder.path + "/none").error().code, Errc::not_found);
  EXPECT_FALSE(sha256_hex_of_file(folder.path).ok());
}

TEST(Tls, R_B1_the_group_of_key_exchanges_is_the_published_one) {
  const std::string pem = dh_parameters_pem();
  EXPECT_TRUE(pem.starts_with("-----BEGIN DH PARAMETERS-----\nMIIBCAKCAQEA//////////+t+FRYortK"))
      << pem;
  EXPECT_NE(pem.find("-----END DH PARAMETERS-----"), std::string::npos);
}

TEST(Tls, F_B6_secrets_differ_and_comparison_is_exact) {
  const std::string secret = random_secret();
  EXPECT_EQ(secret.size(), 64u);
  EXPECT_NE(secret, random_secret());
  EXPECT_TRUE(equal_in_constant_time(secret, std::string(secret)));
  EXPECT_FALSE(equal_in_constant_time(secret, secret.substr(1)));
  EXPECT_FALSE(equal_in_constant_time("abc", "abd"));
  EXPECT_TRUE(equal_in_constant_time("", ""));
}

}  // namespace
}  // namespace virga
