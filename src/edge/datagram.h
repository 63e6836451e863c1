#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "edge/asio_loop.h"

namespace virga {

/// One UDP socket. Sending never blocks: what the kernel does not take at once is dropped, as datagrams may be.
class DatagramSocket {
 public:
  using Handler = std::function<void(std::string data, const std::string& from_address)>;

  /// Errors: conflict (the port is taken), invalid (address).
  static Result<std::unique_ptr<DatagramSocket>> bind(AsioLoop& loop, const std::string& address,
                                                      std::uint16_t port, Handler handler);
  virtual ~DatagramSocket() = default;
  virtual std::uint16_t port() const = 0;
  virtual void send(const std::string& address, std::uint16_t port, std::string data) = 0;
};

}  // namespace virga
