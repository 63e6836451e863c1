#include "base/result.h"

#include <array>

namespace virga {
namespace {

constexpr std::array<std::string_view, 12> kNames = {
    "invalid", "not_found", "conflict",        "exhausted", "unavailable", "timeout",
    "cancelled", "fenced",  "unauthenticated", "denied",    "unsupported", "internal"};

}  // namespace

std::string_view to_string(Errc code) {
  const auto index = static_cast<std::size_t>(code);
  return index < kNames.size() ? kNames[index] : kNames.back();
}

Errc errc_from_string(std::string_view name) {
  for (std::size_t index = 0; index < kNames.size(); ++index) {
    if (kNames[index] == name) return static_cast<Errc>(index);
  }
  return Errc::internal;
}

std::string Error::text() const {
  std::string joined = what;
  for (auto next = cause; next != nullptr; next = next->cause) joined += ": " + next->what;
  return joined;
}

Error make_error(Errc code, std::string what) { return Error{code, std::move(what), nullptr}; }

Error wrap_error(std::string what, Error cause) {
  const Errc code = cause.code;
  return Error{code, std::move(what), std::make_shared<const Error>(std::move(cause))};
}

}  // namespace virga
