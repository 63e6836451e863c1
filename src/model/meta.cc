#include "model/meta.h"

#include <fmt/format.h>

#include <algorithm>

namespace virga {

std::string to_string(const Epoch& epoch) {
  return fmt::format("{}.{}", epoch.incarnation, epoch.counter);
}

Result<void> check_name(std::string_view field, std::string_view name) {
  constexpr std::size_t kLengthMax = 63;
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  const bool right =
      !name.empty() && name.size() <= kLengthMax && plain(name.front()) && plain(name.back()) &&
      std::all_of(name.begin(), name.end(), [&](char c) { return plain(c) || c == '-'; });
  if (right) return {};
  return make_error(Errc::invalid,
                    fmt::format("{}: \"{}\" is not a name: 1 to {} characters of a-z, 0-9 and '-', "
                                "beginning and ending with a letter or digit",
                                field, name.substr(0, 80), kLengthMax));
}

std::string qualified(const std::string& tenant, const std::string& name) {
  return tenant + "/" + name;
}

}  // namespace virga
