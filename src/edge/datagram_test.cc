#include "edge/datagram.h"

#include <gtest/gtest.h>

namespace virga {
namespace {

TEST(Datagram, F_B7_a_datagram_reaches_the_peer_whole_and_an_answer_comes_back) {
  AsioLoop loop;
  std::unique_ptr<DatagramSocket> left, right;
  std::string answer;
  auto bound_left =
      DatagramSocket::bind(loop, "127.0.0.1", 0, [&](std::string data, const std::string& from) {
        EXPECT_EQ(from, "127.0.0.1");
        answer = data;
        loop.stop();
      });
  ASSERT_TRUE(bound_left.ok());
  left = *std::move(bound_left);
  auto bound_right =
      DatagramSocket::bind(loop, "127.0.0.1", 0, [&](std::string data, const std::string&) {
        right->send("127.0.0.1", left->port(), data + "!");
      });
  ASSERT_TRUE(bound_right.ok());
  right = *std::move(bound_right);
  const std::string sent(8000, 'x');
  left->send("127.0.0.1", right->port(), sent);
  loop.after(seconds(10), [&] { loop.stop(); });
  loop.run();
  EXPECT_EQ(answer, sent + "!");
}

TEST(Datagram, F_B7_a_taken_port_and_a_wrong_address_are_said) {
  AsioLoop loop;
  const auto ignore = [](std::string, const std::string&) {};
  auto first = DatagramSocket::bind(loop, "127.0.0.1", 0, ignore);
  ASSERT_TRUE(first.ok());
  const auto second = DatagramSocket::bind(loop, "127.0.0.1", (*first)->port(), ignore);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, Errc::conflict);
  const auto wrong = DatagramSocket::bind(loop, "host-1", 0, ignore);
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ(wrong.error().code, Errc::invalid);
}

TEST(Datagram, F_B7_a_dead_port_a_wrong_target_and_oversize_do_no_harm) {
  AsioLoop loop;
  int received = 0;
  auto bound = DatagramSocket::bind(loop, "127.0.0.1", 0, [&](std::string, const std::string&) {
    ++received;
    loop.stop();
  });
  ASSERT_TRUE(bound.ok());
  auto socket = *std::move(bound);
  socket->send("127.0.0.1", 1, "nobody listens");
  socket->send("no address", 1, "x");
  socket->send("127.0.0.1", socket->port(), std::string(100'000, 'x'));
  socket->send("127.0.0.1", socket->port(), "x");
  loop.after(seconds(10), [&] { loop.stop(); });
  loop.run();
  EXPECT_EQ(received, 1);
}

TEST(Datagram, F_B7_a_handler_may_destroy_its_socket) {
  AsioLoop loop;
  std::unique_ptr<DatagramSocket> socket;
  int received = 0;
  auto bound = DatagramSocket::bind(loop, "127.0.0.1", 0, [&](std::string, const std::string&) {
    ++received;
    socket.reset();
    loop.post([&] { loop.stop(); });
  });
  ASSERT_TRUE(bound.ok());
  socket = *std::move(bound);
  socket->send("127.0.0.1", socket->port(), "one");
  socket->send("127.0.0.1", socket->port(), "two");
  loop.run();
  EXPECT_EQ(received, 1);
}

}  // namespace
}  // namespace virga
