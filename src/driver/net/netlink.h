#pragma once

#include <linux/netlink.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "base/result.h"
#include "edge/process.h"

namespace virga {

/// One request to the kernel's routing sockets, put together from front to back.
class NetlinkMessage {
 public:
  /// `flags`: NLM_F_CREATE ...; NLM_F_REQUEST is added.
  NetlinkMessage(std::uint16_t type, std::uint16_t flags);

  /// The fixed part behind the netlink header (ifinfomsg, ndmsg ...). Once, first.
  template <typename Header>
  NetlinkMessage& header(const Header& from) {
    append(&from, sizeof from);
    return *this;
  }

  NetlinkMessage& bytes(std::uint16_t type, std::string_view value);
  NetlinkMessage& text(std::uint16_t type, const std::string& value);
  template <typename Number>
  NetlinkMessage& number(std::uint16_t type, Number value) {
    return bytes(type, std::string_view(reinterpret_cast<const char*>(&value), sizeof value));
  }

  /// Attributes that `fill` adds become parts of one of `type`.
  NetlinkMessage& nest(std::uint16_t type, const std::function<void(NetlinkMessage&)>& fill);

  /// The finished bytes.
  std::string_view finish(std::uint32_t sequence, std::uint16_t more_flags);

 private:
  void append(const void* from, std::size_t bytes);

  std::string data_;
};

/// What the kernel said: errno (0 = done) and its own words.
struct NetlinkAnswer {
  int error = 0;
  std::string words;

  bool ok() const { return error == 0; }

  /// Errors: denied, exhausted, conflict, not_found, internal; all with `what`.
  Result<void> as_result(const std::string& what) const;
};

/// Attributes by type; views into the message.
using NetlinkAttributes = std::map<std::uint16_t, std::string_view>;
NetlinkAttributes parse_attributes(std::string_view data);

/// The number in an attribute; 0 when it is missing or of another size.
template <typename Number>
Number attribute_number(const NetlinkAttributes& attributes, std::uint16_t type) {
  Number value{};
  const auto found = attributes.find(type);
  if (found != attributes.end() && found->second.size() == sizeof value) {
    found->second.copy(reinterpret_cast<char*>(&value), sizeof value);
  }
  return value;
}

/// A netlink socket. It stays in the network namespace in which it was opened. One thread.
/// Each call ends within 2 s: the kernel answers in microseconds.
class NetlinkSocket {
 public:
  /// `network_namespace`: descriptor; -1 = the caller's. `protocol`: of the kernel's netlink families.
  static Result<NetlinkSocket> open(int network_namespace, int protocol = NETLINK_ROUTE);

  /// Sends one request and waits for its acknowledgement; `take` gets the body of what the kernel sends before it.
  NetlinkAnswer execute(NetlinkMessage message,
                        const std::function<void(std::string_view body)>& take = {});

  /// Asks for a list; `take` gets each entry's body (behind the netlink header). A list that changed while it was read
  /// is asked for again, at most 5 times.
  NetlinkAnswer list(const NetlinkMessage& message,
                     const std::function<void(std::string_view body)>& take);

 private:
  explicit NetlinkSocket(Descriptor socket) : socket_(std::move(socket)) {}
  NetlinkAnswer exchange(std::string_view request,
                         const std::function<void(std::string_view body)>& take, bool& interrupted);

  Descriptor socket_;
  std::uint32_t sequence_ = 0;
};

/// Before a device goes up: no link-local address, a host must not be a neighbour in a tenant's network.
Result<void> keep_addresses_off(NetlinkSocket& socket, int index, const std::string& name);

}  // namespace virga
