#pragma once

#include <unistd.h>

namespace virga {

/// A system call and nothing around it, for a child between clone and exec: the C library's wrappers may want locks
/// that another thread of the parent had at the moment of clone, and its setuid family signals all threads.
template <typename... Args>
long bare_call(long number, Args... args) {
  return ::syscall(number, args...);
}

}  // namespace virga
