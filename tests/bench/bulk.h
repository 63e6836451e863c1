#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "driver/net/guest_fixture.h"

/// Bulk traffic between sockets, for benchmarks.
namespace virga::test {

/// What one end sends without a pause and the other takes, in Gbit/s; both are over then.
inline double gigabits(const Ends& ends, std::chrono::milliseconds span) {
  using Clock = std::chrono::steady_clock;
  constexpr double kBitsPerGigabit = 1e9;
  std::atomic<bool> over = false;
  std::thread sender([&] {
    const std::string block(256 << 10, 'x');
    while (!over) ::send(ends.opener.get(), block.data(), block.size(), MSG_NOSIGNAL);
  });
  std::vector<char> block(1 << 20);
  const auto begin = Clock::now();
  double bytes = 0;
  while (Clock::now() - begin < span) {
    const ssize_t count = ::recv(ends.other.get(), block.data(), block.size(), 0);
    if (count <= 0) break;
    bytes += static_cast<double>(count);
  }
  const std::chrono::duration<double> took = Clock::now() - begin;
  over = true;
  ::shutdown(ends.other.get(), SHUT_RDWR);
  ::shutdown(ends.opener.get(), SHUT_RDWR);
  sender.join();
  return bytes * 8 / kBitsPerGigabit / took.count();
}

/// One connection from a namespace to an address and port of another, where nobody listens yet.
inline Ends connect_spaces(int from, int to, const std::string& address, std::uint16_t port) {
  Descriptor listener;
  EXPECT_TRUE(in_network_namespace(to, [&] {
                listener = Descriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
              }).ok());
  Ends ends;
  EXPECT_TRUE(in_network_namespace(from, [&] {
                ends.opener = Descriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
              }).ok());
  const int yes = 1;
  ::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  const sockaddr_in place = Guest::end(address, port);
  const auto* there = reinterpret_cast<const sockaddr*>(&place);
  EXPECT_EQ(::bind(listener.get(), there, sizeof place), 0);
  EXPECT_EQ(::listen(listener.get(), 1), 0);
  EXPECT_EQ(::connect(ends.opener.get(), there, sizeof place), 0);
  ends.other = Descriptor(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  return ends;
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace virga::test
