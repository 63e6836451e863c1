#include "driver/rbd/cephx_key.h"

#include <cstdint>

#include "base/check.h"

namespace virga {
namespace {

constexpr std::size_t kSecretBytes = 16;

int digit(char letter) {
  if (letter >= '0' && letter <= '9') return letter - '0';
  VIRGA_CHECK(letter >= 'a' && letter <= 'f');
  return letter - 'a' + 10;
}

std::string base64(const std::string& bytes) {
  static constexpr char kDigits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    std::uint32_t group = 0;
    for (std::size_t index = at; index < at + 3; ++index) {
      group = group << 8 | (index < bytes.size() ? static_cast<unsigned char>(bytes[index]) : 0U);
    }
    for (int shift = 18; shift >= 0; shift -= 6) text += kDigits[group >> shift & 63];
  }
  const std::size_t missing = (3 - bytes.size() % 3) % 3;
  return text.replace(text.size() - missing, missing, missing, '=');
}

}  // namespace

std::string cephx_key(const std::string& secret) {
  VIRGA_CHECK(secret.size() >= 2 * kSecretBytes);
  // Little-endian: type 1 (AES), seconds and nanoseconds of a date, length.
  std::string bytes = {'\1', '\0'};
  bytes.append(8, '\0');
  bytes += {static_cast<char>(kSecretBytes), '\0'};
  for (std::size_t at = 0; at < 2 * kSecretBytes; at += 2) {
    bytes += static_cast<char>(digit(secret[at]) << 4 | digit(secret[at + 1]));
  }
  return base64(bytes);
}

}  // namespace virga
