#include "image/digest.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include "base/check.h"

namespace virga {

struct Digest::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Digest::Digest() : state_(std::make_unique<State>()) {
  VIRGA_CHECK(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}

Digest::~Digest() = default;

void Digest::add(std::string_view piece) {
  VIRGA_CHECK(EVP_DigestUpdate(state_->context, piece.data(), piece.size()) == 1);
}

std::string Digest::hex() {
  unsigned char bytes[EVP_MAX_MD_SIZE];
  unsigned count = 0;
  VIRGA_CHECK(EVP_DigestFinal_ex(state_->context, bytes, &count) == 1);
  std::string text;
  for (unsigned index = 0; index < count; ++index) text += fmt::format("{:02x}", bytes[index]);
  return text;
}

}  // namespace virga
