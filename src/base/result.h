#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/check.h"

namespace virga {

/// The closed list of ways in which something can fail. Callers branch on these and on nothing else;
/// the HTTP status and the exit code of the command line are derived from them (see errc_http_status).
enum class Errc {
  invalid,          ///< the caller's input is wrong; retrying the same call cannot help
  not_found,        ///< the named thing does not exist
  conflict,         ///< the state changed underneath, or the thing exists already
  exhausted,        ///< no capacity, quota or room left
  unavailable,      ///< a peer or device does not answer; may help later
  timeout,          ///< the deadline passed; the effect is unknown
  cancelled,        ///< somebody asked to stop
  fenced,           ///< the caller's epoch is older than the one in force
  unauthenticated,  ///< who the caller is could not be proven
  denied,           ///< the caller is known and may not do this
  unsupported,      ///< this build, host or device cannot do it
  internal,         ///< a bug or a broken file; the text says what was seen
};

/// Stable lower-case name of a code, as it appears in JSON.
std::string_view to_string(Errc code);

/// The inverse of to_string; `internal` for names that a newer peer invented.
Errc errc_from_string(std::string_view name);

/// What was tried, on what, with which value, and why it failed. `cause` keeps the lower layer's error.
struct Error {
  Errc code = Errc::internal;
  std::string what;
  std::shared_ptr<const Error> cause;

  /// "start vm acme/web on host-2: QMP cont failed: ..." with all causes joined by ": ".
  std::string text() const;
};

Error make_error(Errc code, std::string what);

/// Wraps `cause`: keeps its code, puts `what` (what the caller tried) in front.
Error wrap_error(std::string what, Error cause);

/// A value or an Error. Never empty; reading the wrong side is a bug and ends the process.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  const T& value() const& {
    VIRGA_CHECK(ok());
    return std::get<0>(state_);
  }
  T& value() & {
    VIRGA_CHECK(ok());
    return std::get<0>(state_);
  }
  T&& value() && {
    VIRGA_CHECK(ok());
    return std::get<0>(std::move(state_));
  }
  const T& operator*() const& { return value(); }
  T& operator*() & { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  const T* operator->() const { return &value(); }
  T* operator->() { return &value(); }

  const Error& error() const {
    VIRGA_CHECK(!ok());
    return std::get<1>(state_);
  }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::make_shared<const Error>(std::move(error))) {}

  bool ok() const { return error_ == nullptr; }
  explicit operator bool() const { return ok(); }
  const Error& error() const {
    VIRGA_CHECK(error_ != nullptr);
    return *error_;
  }

 private:
  std::shared_ptr<const Error> error_;
};

/// Completion of an asynchronous call: run exactly once, on the Loop of the object that was called,
/// and never before that call has returned.
template <typename T>
using Callback = std::function<void(Result<T>)>;

}  // namespace virga
