#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace virga {

/// The IPv4 address in "10.50.0.10" or "10.50.0.10/24", in host byte order; none when the text is not one.
std::optional<std::uint32_t> parse_ipv4(std::string_view text);

/// Whether `text` is a card's own MAC: six pairs of lower-case hexadecimal digits with colons, no group's.
bool is_mac(std::string_view text);

/// "10.50.0.10".
std::string ipv4_text(std::uint32_t address);

/// A range of addresses that share their first `prefix` bits.
struct Ipv4Subnet {
  std::uint32_t base = 0;
  int prefix = 24;

  std::uint32_t size() const { return 1U << (32 - prefix); }
  std::uint32_t broadcast() const { return base + size() - 1; }
};

/// Reads "10.50.0.0/24". Errors: invalid, naming `field`: not a subnet, prefix outside 16..29, or bits set after it.
Result<Ipv4Subnet> parse_subnet(std::string_view field, std::string_view text);

/// Reads "10.0.0.0/8" of any length, 0..32, or "10.50.0.10" as one of 32; none when the text is neither or has bits set
/// after its prefix.
std::optional<Ipv4Subnet> parse_range(std::string_view text);

}  // namespace virga
