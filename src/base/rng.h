#pragma once

#include <cstdint>

namespace virga {

/// Seeded random numbers, equal on every compiler: xoshiro256** seeded by splitmix64.
/// Draw once a statement, so that the order of evaluation never matters. Not for secrets.
/// Source: Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2018.
class Rng {
 public:
  explicit Rng(std::uint64_t seed);

  std::uint64_t next();

  /// Uniform in [0, bound); bound > 0.
  std::uint64_t below(std::uint64_t bound);

  /// Uniform in [low, high].
  std::int64_t between(std::int64_t low, std::int64_t high);

  /// True in `per_million` of a million draws.
  bool chance(std::uint32_t per_million) { return below(1'000'000) < per_million; }

  /// A generator whose stream is independent of this one; draws once.
  Rng fork();

 private:
  std::uint64_t state_[4];
};

}  // namespace virga
