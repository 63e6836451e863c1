#include "model/ipv4.h"

#include <fmt/format.h>

#include <charconv>

namespace virga {
namespace {

/// Reads a decimal number of at most three digits at the front of `text` and removes it.
std::optional<std::uint32_t> take_number(std::string_view& text, std::uint32_t max) {
  std::uint32_t number = 0;
  const auto* begin = text.data();
  const auto [end, error] =
      std::from_chars(begin, begin + std::min<std::size_t>(text.size(), 3), number);
  if (error != std::errc() || number > max) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - begin));
  return number;
}

}  // namespace

std::optional<std::uint32_t> parse_ipv4(std::string_view text) {
  text = text.substr(0, text.find('/'));
  std::uint32_t address = 0;
  for (int part = 0; part < 4; ++part) {
    if (part > 0) {
      if (text.empty() || text.front() != '.') return std::nullopt;
      text.remove_prefix(1);
    }
    const auto number = take_number(text, 255);
    if (!number) return std::nullopt;
    address = address << 8 | *number;
  }
  if (!text.empty()) return std::nullopt;
  return address;
}

bool is_mac(std::string_view text) {
  constexpr std::size_t kDigits = 17;
  if (text.size() != kDigits) return false;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const bool colon = at % 3 == 2;
    if (colon ? text[at] != ':'
              : std::string_view("0123456789abcdef").find(text[at]) == std::string_view::npos)
      return false;
  }
  return std::string_view("02468ace").find(text[1]) != std::string_view::npos;
}

std::string ipv4_text(std::uint32_t address) {
  return fmt::format("{}.{}.{}.{}", address >> 24, address >> 16 & 255, address >> 8 & 255,
                     address & 255);
}

Result<Ipv4Subnet> parse_subnet(std::string_view field, std::string_view text) {
  const auto wrong = [&](std::string_view why) {
    return make_error(
        Errc::invalid,
        fmt::format("{}: \"{}\" is not an IPv4 subnet: {}; right would be 10.50.0.0/24", field,
                    text.substr(0, 80), why));
  };
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return wrong("it has no prefix length");
  const auto base = parse_ipv4(text.substr(0, slash));
  if (!base) return wrong("the part before '/' is not an address");
  std::string_view rest = text.substr(slash + 1);
  const auto prefix = take_number(rest, 32);
  if (!prefix || !rest.empty() || *prefix < 16 || *prefix > 29) {
    return wrong("the prefix length must be 16 to 29");
  }
  const Ipv4Subnet subnet{*base, static_cast<int>(*prefix)};
  if ((subnet.base & (subnet.size() - 1)) != 0) return wrong("bits are set after the prefix");
  return subnet;
}

std::optional<Ipv4Subnet> parse_range(std::string_view text) {
  constexpr int kBits = 32;
  Ipv4Subnet range{0, kBits};
  const std::size_t slash = text.find('/');
  const auto address = parse_ipv4(text);
  if (!address) return std::nullopt;
  range.base = *address;
  if (slash == std::string_view::npos) return range;
  std::string_view rest = text.substr(slash + 1);
  const auto prefix = take_number(rest, kBits);
  if (!prefix || !rest.empty()) return std::nullopt;
  range.prefix = static_cast<int>(*prefix);
  const std::uint64_t after = (std::uint64_t{1} << (kBits - range.prefix)) - 1;
  if ((range.base & after) != 0) return std::nullopt;
  return range;
}

}  // namespace virga
