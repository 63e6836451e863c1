#pragma once

#include <string>

namespace virga {

/// A key of Ceph's authentication as Ceph writes it, made of the first 32 digits of `secret` (hex): AES-128, no date.
/// Pure. Source: Ceph 16.2, src/auth/Crypto.cc, CryptoKey::encode.
std::string cephx_key(const std::string& secret);

}  // namespace virga
