#pragma once

#include <utility>

#include "base/result.h"

namespace virga {

/// Keeps the first error of several independent steps.
inline void keep_first(Result<void>& first, Result<void> next) {
  if (first.ok() && !next.ok()) first = std::move(next);
}

}  // namespace virga
