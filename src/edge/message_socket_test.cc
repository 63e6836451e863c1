#include "edge/message_socket.h"

#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <poll.h>

#include "agent/protocol.h"
#include "edge/http_test_support.h"

namespace virga {
namespace {

using SocketTest = HttpTest;

/// Stands between two ends and passes no more bytes when told to: cut, yet both connections stand.
class Cutter {
 public:
  explicit Cutter(std::uint16_t target) : target_(target), port_(listener_.listen(1)) {
    thread_ = std::thread([this] { pass(); });
  }
  ~Cutter() {
    stop_ = true;
    thread_.join();
  }
  std::uint16_t port() const { return port_; }
  std::atomic<bool> cut_up = false, cut_down = false;

 private:
  void pass() {
    const RawSocket client =
        RawSocket::adopt(::accept4(listener_.number(), nullptr, nullptr, SOCK_CLOEXEC));
    const RawSocket server(target_);
    pollfd ends[2] = {{client.number(), POLLIN, 0}, {server.number(), POLLIN, 0}};
    char block[4096];
    while (!stop_) {
      ends[0].events = cut_up ? 0 : POLLIN;
      ends[1].events = cut_down ? 0 : POLLIN;
      ::poll(ends, 2, 5);
      for (int end = 0; end < 2; ++end) {
        if ((ends[end].revents & POLLIN) == 0) continue;
        const auto size = ::recv(ends[end].fd, block, sizeof block, 0);
        if (size <= 0) return;
        ::send(ends[1 - end].fd, block, static_cast<std::size_t>(size), MSG_NOSIGNAL);
      }
    }
  }
  RawSocket listener_;
  std::uint16_t target_;
  std::uint16_t port_ = 0;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

/// Keeps what upgrades and sends every message back with the peer's name.
HttpServer::Handler echo(std::shared_ptr<MessageSocket>& kept) {
  return [&kept](HttpRequest, const std::shared_ptr<HttpReply>& reply) {
    kept = reply->upgrade();
    if (kept == nullptr) return;
    kept->on_message([&kept](const std::string& message) {
      EXPECT_TRUE(kept->send(kept->peer_name() + ":" + message).ok());
    });
  };
}

TEST_F(SocketTest, F_B6_messages_go_both_ways_in_order_over_mutual_tls) {
  std::shared_ptr<MessageSocket> served;
  start(mutual_tls(), echo(served));
  auto opened = open({.url = url("wss", "/agent"), .tls = identity("agent:host-1")});
  ASSERT_TRUE(opened.ok()) << opened.error().text();
  const auto socket = *opened;
  EXPECT_EQ(socket->peer_name(), "server");
  int next = 0;
  socket->on_message([&](const std::string& message) {
    EXPECT_EQ(message.substr(0, 13), "agent:host-1:");
    EXPECT_EQ(message.substr(13, 3), std::to_string(100 + next));
    if (++next == 200) loop_.stop();
  });
  for (int number = 0; number < 200; ++number) {
    EXPECT_TRUE(socket
                    ->send(std::to_string(100 + number) +
                           std::string(static_cast<std::size_t>(number) * 50, 'x'))
                    .ok());
  }
  run();
  EXPECT_EQ(next, 200);
}

TEST_F(SocketTest, F_B6_large_messages_pass_and_larger_ones_end_the_connection) {
  std::shared_ptr<MessageSocket> served;
  HttpServerOptions options = mutual_tls();
  options.message_bytes_max = 1 << 20;
  start(options, echo(served));
  const auto socket = *open({.url = url("wss", "/"), .tls = identity("a")});
  std::string got, reason;
  socket->on_message([&](std::string message) {
    got = std::move(message);
    loop_.stop();
  });
  socket->on_closed([&](const std::string& why) {
    reason = why;
    loop_.stop();
  });
  const std::string large(1'000'000, 'y');
  ASSERT_TRUE(socket->send(large).ok());
  run();
  EXPECT_EQ(got, "a:" + large);
  ASSERT_TRUE(socket->send(large + large).ok());
  run();
  EXPECT_FALSE(reason.empty());
  EXPECT_EQ(socket->send("x").error().code, Errc::unavailable);
}

TEST_F(SocketTest, F_B6_a_close_is_heard_once_on_both_sides_after_all_that_was_sent) {
  std::shared_ptr<MessageSocket> served;
  int closed_there = 0, closed_here = 0, messages = 0;
  start({}, [&](HttpRequest, const std::shared_ptr<HttpReply>& reply) {
    served = reply->upgrade();
    served->on_closed([&](const std::string&) {
      ++closed_there;
      if (closed_here > 0) loop_.stop();
    });
    for (int number = 0; number < 50; ++number)
      EXPECT_TRUE(served->send(std::string(10'000, 'z')).ok());
    served->close();
    served->close();
  });
  const auto opened = open({.url = url("ws", "/")});
  ASSERT_TRUE(opened.ok()) << opened.error().text();
  (*opened)->on_message([&](const std::string&) { ++messages; });
  (*opened)->on_closed([&](const std::string& reason) {
    EXPECT_NE(reason.find("closed by the peer (1000)"), std::string::npos) << reason;
    ++closed_here;
    if (closed_there > 0) loop_.stop();
  });
  run();
  EXPECT_EQ(messages, 50);
  EXPECT_EQ(closed_here, 1);
  EXPECT_EQ(closed_there, 1);
}

TEST_F(SocketTest, F_B6_who_drops_a_socket_closes_it_and_hears_nothing_more) {
  std::shared_ptr<MessageSocket> served;
  start({}, [&](HttpRequest, const std::shared_ptr<HttpReply>& reply) {
    served = reply->upgrade();
    served->on_closed([&](const std::string&) { loop_.stop(); });
  });
  auto opened = open({.url = url("ws", "/")});
  (*opened)->on_closed([](const std::string&) { ADD_FAILURE(); });
  opened = make_error(Errc::cancelled, "dropped");
  run();
  EXPECT_EQ(served->send("x").error().code, Errc::unavailable);
}

TEST_F(SocketTest, F_B6_one_who_does_not_read_is_bounded_and_ended) {
  HttpServerOptions options;
  options.queue_bytes_max = 1 << 20;
  std::shared_ptr<MessageSocket> served;
  Errc refused = Errc::internal;
  start(options, [&](HttpRequest, const std::shared_ptr<HttpReply>& reply) {
    served = reply->upgrade();
    served->on_closed([&](const std::string& reason) {
      EXPECT_NE(reason.find("too slowly"), std::string::npos) << reason;
      loop_.stop();
    });
    for (std::size_t sent = 0; sent < (64u << 20); sent += 65'536) {
      const auto done = served->send(std::string(65'536, 'x'));
      if (done) continue;
      refused = done.error().code;
      return;
    }
  });
  const RawSocket reader(server_->port());
  reader.send(
      "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n");
  run();
  EXPECT_EQ(refused, Errc::exhausted);
}

TEST_F(SocketTest, F_B6_a_flood_of_messages_waits_in_the_peer_and_loses_none) {
  std::shared_ptr<MessageSocket> served;
  HttpServerOptions options;
  options.message_bytes_max = 20'000;  // also what may wait for the loop
  int messages = 0;
  start(options, [&](HttpRequest, const std::shared_ptr<HttpReply>& reply) {
    served = reply->upgrade();
    served->on_message([&](const std::string& message) {
      EXPECT_EQ(message.size(), 10'000u);
      if (++messages == 500) loop_.stop();
    });
  });
  const auto opened = open({.url = url("ws", "/")});
  ASSERT_TRUE(opened.ok()) << opened.error().text();
  for (int number = 0; number < 500; ++number)
    EXPECT_TRUE((*opened)->send(std::string(10'000, 'x')).ok());
  run();
  EXPECT_EQ(messages, 500);
}

/// TCP_USER_TIMEOUT of this process's own sockets: of the one that was connected to the port, and
/// of the one that was accepted there.
struct UserTimeouts {
  Duration connected{}, accepted{};
};

UserTimeouts user_timeouts(std::uint16_t port) {
  UserTimeouts found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int socket = std::stoi(entry.path().filename().string());
    sockaddr_in here{}, there{};
    socklen_t size_here = sizeof here, size_there = sizeof there;
    int timeout = 0;
    socklen_t size = sizeof timeout;
    if (::getsockname(socket, reinterpret_cast<sockaddr*>(&here), &size_here) != 0) continue;
    if (::getpeername(socket, reinterpret_cast<sockaddr*>(&there), &size_there) != 0) continue;
    if (::getsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, &size) != 0) continue;
    if (ntohs(there.sin_port) == port) found.connected = milliseconds(timeout);
    if (ntohs(here.sin_port) == port) found.accepted = milliseconds(timeout);
  }
  return found;
}

TEST_F(SocketTest, F_B6_both_ends_of_a_link_end_with_data_that_nobody_acknowledges) {
  // What is not said is the agents' link's; each end keeps to its own.
  for (const auto& [there, here] :
       {std::pair(kLinkUserTimeout, kLinkUserTimeout), std::pair(seconds(3), seconds(4))}) {
    std::shared_ptr<MessageSocket> served;
    HttpServerOptions options = mutual_tls();
    HttpCall call{.url = {}, .tls = identity("agent")};
    if (there != kLinkUserTimeout) options.user_timeout = there;
    if (here != kLinkUserTimeout) call.user_timeout = here;
    start(options, echo(served));
    call.url = url("wss", "/agent");
    const auto opened = open(call);
    ASSERT_TRUE(opened.ok()) << opened.error().text();
    const UserTimeouts kept = user_timeouts(server_->port());
    EXPECT_EQ(kept.connected, here);
    EXPECT_EQ(kept.accepted, there) << "Linux hands it down from the socket that listens";
    server_.reset();
  }
}

void expect_cut_is_noticed(AsioLoop& loop, const std::function<void()>& cut,
                           const std::shared_ptr<MessageSocket>& here,
                           const std::shared_ptr<MessageSocket>& there) {
  int closed = 0;
  const auto count = [&closed, &loop](const std::string& reason) {
    EXPECT_FALSE(reason.empty());
    if (++closed == 2) loop.stop();
  };
  here->on_closed(count);
  there->on_closed(count);
  cut();
  loop.after(seconds(50), [&loop] { loop.stop(); });
  loop.run();
  EXPECT_EQ(closed, 2);
}

TEST_F(SocketTest, F_F14_half_open_and_one_way_links_are_noticed_by_both_ends) {
  for (const auto& [up, down] :
       {std::pair(true, true), std::pair(true, false), std::pair(false, true)}) {
    std::shared_ptr<MessageSocket> served;
    HttpServerOptions options = mutual_tls();
    options.idle_deadline = milliseconds(400);
    start(options,
          [&](HttpRequest, const std::shared_ptr<HttpReply>& reply) { served = reply->upgrade(); });
    Cutter cutter(server_->port());
    const auto opened = open({.url = "wss://127.0.0.1:" + std::to_string(cutter.port()) + "/",
                              .tls = identity("agent"),
                              .idle_deadline = milliseconds(400)});
    ASSERT_TRUE(opened.ok()) << opened.error().text();
    const auto cut = [&cutter, cut_up = up, cut_down = down] {
      cutter.cut_up = cut_up;
      cutter.cut_down = cut_down;
    };
    expect_cut_is_noticed(loop_, cut, *opened, served);
    server_.reset();
  }
}

TEST_F(SocketTest, F_F14_a_quiet_link_that_works_is_kept_by_pings) {
  std::shared_ptr<MessageSocket> served;
  HttpServerOptions options;
  options.idle_deadline = seconds(1);
  start(options, echo(served));
  const auto opened = open({.url = url("ws", "/"), .idle_deadline = seconds(1)});
  ASSERT_TRUE(opened.ok()) << opened.error().text();
  std::string got;
  (*opened)->on_closed([](const std::string& reason) { ADD_FAILURE() << reason; });
  (*opened)->on_message([&](std::string message) {
    got = std::move(message);
    loop_.stop();
  });
  loop_.after(milliseconds(3500), [&] { EXPECT_TRUE((*opened)->send("still here").ok()); });
  run();
  EXPECT_EQ(got, ":still here");
}

TEST_F(SocketTest, F_F28_strangers_and_the_nameless_are_refused) {
  std::shared_ptr<MessageSocket> served;
  start(mutual_tls(), echo(served));
  TlsIdentity nameless;
  nameless.trusted = identity("x").trusted;
  TlsIdentity stranger = identity("agent:host-1", std::chrono::hours(1), "other");
  stranger.trusted = nameless.trusted;
  for (const TlsIdentity& tls : {nameless, stranger}) {
    EXPECT_EQ(open({.url = url("wss", "/"), .tls = tls}).error().code, Errc::unauthenticated);
    EXPECT_EQ(call({.url = url("https", "/"), .tls = tls}).error().code, Errc::unauthenticated);
  }
  EXPECT_EQ(served, nullptr);
}

TEST_F(SocketTest, F_F27_expired_certificates_are_refused_by_both_sides) {
  start(mutual_tls(), [](HttpRequest, const std::shared_ptr<HttpReply>&) { ADD_FAILURE(); });
  const auto expired = identity("agent", -seconds(60));
  EXPECT_EQ(call({.url = url("https", "/"), .tls = expired}).error().code, Errc::unauthenticated);
  server_.reset();
  HttpServerOptions options;
  options.tls = identity("server", -seconds(60));
  start(options, [](HttpRequest, const std::shared_ptr<HttpReply>&) { ADD_FAILURE(); });
  const auto refused = call({.url = url("https", "/"), .tls = identity("agent")});
  EXPECT_EQ(refused.error().code, Errc::unauthenticated);
  EXPECT_NE(refused.error().text().find("expired"), std::string::npos) << refused.error().text();
}

TEST_F(SocketTest, F_F28_a_client_refuses_a_server_of_another_authority_or_name) {
  start(mutual_tls(), [](HttpRequest request, const std::shared_ptr<HttpReply>& reply) {
    reply->send({200, {}, request.peer_name});
  });
  const auto good = identity("agent");
  const auto accepted = call({.url = url("https", "/"), .tls = good, .server_name = "localhost"});
  ASSERT_TRUE(accepted.ok()) << accepted.error().text();
  EXPECT_EQ(accepted->body, "agent");
  for (const std::string name : {"elsewhere", "127.0.0.2", "server"}) {
    const auto refused = call({.url = url("https", "/"), .tls = good, .server_name = name});
    EXPECT_EQ(refused.error().code, Errc::unauthenticated) << name;
  }
  TlsIdentity other = good;
  other.trusted = identity("x", std::chrono::hours(1), "other").trusted;
  EXPECT_EQ(call({.url = url("https", "/"), .tls = other}).error().code, Errc::unauthenticated);
}

TEST_F(SocketTest, F_B6_a_plain_client_and_garbage_do_no_harm_to_a_tls_server) {
  start(mutual_tls(), [](HttpRequest, const std::shared_ptr<HttpReply>& reply) {
    reply->send({204, {}, ""});
  });
  EXPECT_FALSE(call({.url = url("http", "/")}).ok());
  raw(std::string(100'000, '\x16'));
  const auto response = call({.url = url("https", "/"), .tls = identity("agent")});
  ASSERT_TRUE(response.ok()) << response.error().text();
  EXPECT_EQ(response->status, 204);
}

TEST_F(SocketTest, F_B6_refusals_of_an_upgrade_carry_their_code) {
  std::shared_ptr<MessageSocket> served;
  start({}, [&](HttpRequest request, const std::shared_ptr<HttpReply>& reply) {
    if (request.path == "/token") return reply->send({401, {}, "wrong token"});
    if (request.path == "/none") return reply->send({404, {}, ""});
    EXPECT_EQ(reply->upgrade(), nullptr);
  });
  const auto token = open({.url = url("ws", "/token")});
  EXPECT_EQ(token.error().code, Errc::unauthenticated);
  EXPECT_NE(token.error().text().find("wrong token"), std::string::npos) << token.error().text();
  EXPECT_EQ(open({.url = url("ws", "/none")}).error().code, Errc::not_found);
  const auto plain = call({.url = url("http", "/socket")});
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->status, 426);
}

TEST_F(SocketTest, F_B6_a_server_that_goes_ends_its_sockets_and_runs_no_handler) {
  std::shared_ptr<MessageSocket> served;
  start({}, [&](HttpRequest, const std::shared_ptr<HttpReply>& reply) {
    served = reply->upgrade();
    served->on_closed([owned = served](const std::string&) { ADD_FAILURE(); });
  });
  const auto opened = open({.url = url("ws", "/")});
  ASSERT_TRUE(opened.ok()) << opened.error().text();
  (*opened)->on_closed([&](const std::string&) { loop_.stop(); });
  server_.reset();
  run();
  served->close();
}

TEST_F(SocketTest, F_F29_a_hundred_tls_sockets_share_one_thread) {
  constexpr int kSockets = 100;
  std::vector<std::shared_ptr<MessageSocket>> served, clients;
  HttpServerOptions options = mutual_tls();
  options.header_deadline = seconds(60);  // all shake hands at once
  start(options, [&](HttpRequest, const std::shared_ptr<HttpReply>& reply) {
    const auto socket = reply->upgrade();
    served.push_back(socket);
    socket->on_message(
        [raw = socket.get()](const std::string& message) { EXPECT_TRUE(raw->send(message).ok()); });
  });
  const auto tls = identity("agent");
  int answers = 0;
  for (int number = 0; number < kSockets; ++number) {
    open_message_socket(loop_, {.url = url("wss", "/"), .tls = tls, .deadline = seconds(50)},
                        [&](Result<std::shared_ptr<MessageSocket>> opened) {
                          ASSERT_TRUE(opened.ok()) << opened.error().text();
                          clients.push_back(*opened);
                          (*opened)->on_message([&](const std::string&) {
                            if (++answers == kSockets) loop_.stop();
                          });
                          EXPECT_TRUE((*opened)->send("hello").ok());
                        });
  }
  run();
  EXPECT_EQ(answers, kSockets);
}

}  // namespace
}  // namespace virga
