#pragma once

#include <cstdint>
#include <string>

namespace virga {

/// FNV-1a: the same on every machine and for ever, so that a restarted agent finds what it has named.
inline std::uint64_t stable_hash(const std::string& text) {
  std::uint64_t hash = 14695981039346656037ULL;
  for (const char letter : text) {
    hash = (hash ^ static_cast<unsigned char>(letter)) * 1099511628211ULL;
  }
  return hash;
}

}  // namespace virga
