#pragma once

#include <compare>
#include <functional>
#include <string>

namespace virga {

/// A name that cannot be mistaken for the name of another kind of thing. Ordered by its text; empty = none.
template <typename Tag>
struct Id {
  std::string value;

  Id() = default;
  explicit Id(std::string text) : value(std::move(text)) {}

  bool empty() const { return value.empty(); }
  friend auto operator<=>(const Id&, const Id&) = default;
};

}  // namespace virga
