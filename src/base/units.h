#pragma once

#include <compare>
#include <cstdint>

namespace virga {

/// An amount of one thing: amounts of different things do not mix. Plain integers inside, so that sums are
/// exact and compare the same on every machine.
template <typename Tag>
struct Quantity {
  std::int64_t value = 0;

  friend constexpr auto operator<=>(Quantity, Quantity) = default;
  constexpr Quantity operator+(Quantity other) const { return {value + other.value}; }
  constexpr Quantity operator-(Quantity other) const { return {value - other.value}; }
  constexpr Quantity operator*(std::int64_t factor) const { return {value * factor}; }
  constexpr Quantity& operator+=(Quantity other) { return value += other.value, *this; }
  constexpr Quantity& operator-=(Quantity other) { return value -= other.value, *this; }
};

struct BytesTag {};
struct MibTag {};
struct MillicoresTag {};

using Bytes = Quantity<BytesTag>;            ///< bytes
using Mib = Quantity<MibTag>;                ///< 2^20 bytes
using Millicores = Quantity<MillicoresTag>;  ///< thousandths of one processor core

constexpr Bytes to_bytes(Mib amount) { return {amount.value * 1024 * 1024}; }

}  // namespace virga
