#include "edge/psk_relay.h"

#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <utility>

#include "../tests/tools/temp_folder.h"
#include "base/rng.h"
#include "edge/file.h"
#include "edge/process.h"
#include "edge/tls.h"

namespace virga {
namespace {

std::pair<Descriptor, Descriptor> sockets() {
  int ends[2] = {-1, -1};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  return {Descriptor(ends[0]), Descriptor(ends[1])};
}

/// A relay on a thread of its own, between a socket that the test has and a wire.
class RunningRelay {
 public:
  RunningRelay(RelayEnd end, Descriptor wire, std::string key, std::int64_t renewal_bytes)
      : wire_(std::move(wire)), options_{end, std::move(key), renewal_bytes} {
    auto [near, far] = sockets();
    near_ = std::move(near);
    far_ = std::move(far);
    outcome_ = std::async(std::launch::async, [this] {
      auto ended = relay_encrypted(far_.get(), wire_.get(), options_);
      far_.reset();
      wire_.reset();
      return ended;
    });
  }

  int socket() const { return near_.get(); }
  void hang_up() { near_.reset(); }
  Result<void> outcome() { return outcome_.get(); }

 private:
  Descriptor near_;
  Descriptor far_;
  Descriptor wire_;
  const RelayOptions options_;
  std::future<Result<void>> outcome_;
};

std::string random_bytes(std::size_t count) {
  Rng random(3);
  std::string made(count, '\0');
  for (char& byte : made) byte = static_cast<char>(random.next());
  return made;
}

void say(int socket, const std::string& words) {
  std::size_t at = 0;
  while (at < words.size()) {
    const ssize_t count = ::send(socket, words.data() + at, words.size() - at, MSG_NOSIGNAL);
    ASSERT_GT(count, 0);
    at += static_cast<std::size_t>(count);
  }
}

std::string hear(int socket, std::size_t count) {
  std::string heard(count, '\0');
  const ssize_t got = ::recv(socket, heard.data(), count, MSG_WAITALL);
  heard.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return heard;
}

/// Passes on what somebody on the way hears, until it ends; `change` may touch it.
void pass(int from, int to, const std::function<void(char&)>& change = {}) {
  char piece[4096];
  for (ssize_t count = 0; (count = ::recv(from, piece, sizeof piece, 0)) > 0;) {
    if (change) change(piece[count - 1]);
    if (::send(to, piece, static_cast<std::size_t>(count), MSG_NOSIGNAL) < 0) break;
  }
  ::shutdown(to, SHUT_WR);
}

class PskRelay : public testing::Test {
 protected:
  void begin(const std::string& client_key, const std::string& server_key,
             std::int64_t renewal_bytes = 1 << 20) {
    auto [one, other] = sockets();
    client =
        std::make_unique<RunningRelay>(RelayEnd::client, std::move(one), client_key, renewal_bytes);
    server = std::make_unique<RunningRelay>(RelayEnd::server, std::move(other), server_key,
                                            renewal_bytes);
  }

  const std::string key = std::string(32, 'k');
  std::unique_ptr<RunningRelay> client;
  std::unique_ptr<RunningRelay> server;
};

TEST_F(PskRelay, R_B4_WhatOneEndSaysTheOtherHearsInBothDirectionsAndWithKeysThatAreRenewed) {
  begin(key, key);
  const std::string all = random_bytes(9'000'001);
  auto said = std::async(std::launch::async, [&] { say(client->socket(), all); });
  auto answered = std::async(std::launch::async, [&] { say(server->socket(), all); });
  auto heard = std::async(std::launch::async, [&] { return hear(client->socket(), all.size()); });
  EXPECT_TRUE(hear(server->socket(), all.size()) == all);
  EXPECT_TRUE(heard.get() == all);
  said.get();
  answered.get();
  client->hang_up();
  EXPECT_EQ(hear(server->socket(), 1), "") << "the end of one is the end of the other";
  EXPECT_TRUE(client->outcome().ok());
  EXPECT_TRUE(server->outcome().ok());
}

TEST_F(PskRelay, R_B4_WhatWasSaidBeforeTheEndIsHeard) {
  begin(key, key);
  const std::string all = random_bytes(100'000);
  say(server->socket(), all);
  server->hang_up();
  EXPECT_TRUE(hear(client->socket(), all.size()) == all);
  EXPECT_EQ(hear(client->socket(), 1), "");
  EXPECT_TRUE(client->outcome().ok());
  EXPECT_TRUE(server->outcome().ok());
}

TEST_F(PskRelay, R_B4_WhoDoesNotKnowTheKeyHearsNothing) {
  begin(key, std::string(32, 'x'));
  say(client->socket(), "secret");
  EXPECT_EQ(hear(server->socket(), 1), "");
  EXPECT_EQ(hear(client->socket(), 1), "");
  const auto outcome = server->outcome();
  ASSERT_FALSE(outcome.ok());
  EXPECT_EQ(outcome.error().code, Errc::denied) << outcome.error().text();
  EXPECT_FALSE(client->outcome().ok());
}

TEST_F(PskRelay, R_B4_WhatIsChangedOnItsWayIsNotBelieved) {
  auto [one, near] = sockets();
  auto [far, other] = sockets();
  client = std::make_unique<RunningRelay>(RelayEnd::client, std::move(one), key, 1 << 20);
  server = std::make_unique<RunningRelay>(RelayEnd::server, std::move(other), key, 1 << 20);
  // Somebody on the way passes on all until the two know each other, then changes what comes.
  std::atomic<bool> changes = false;
  const auto change = [&changes](char& byte) {
    if (changes) byte = static_cast<char>(byte ^ 1);
  };
  auto back = std::async(std::launch::async, [&] { pass(far.get(), near.get()); });
  auto forth = std::async(std::launch::async, [&] { pass(near.get(), far.get(), change); });
  say(client->socket(), "first");
  EXPECT_EQ(hear(server->socket(), 5), "first");
  changes = true;
  say(client->socket(), "second");
  EXPECT_EQ(hear(server->socket(), 6), "");
  const auto outcome = server->outcome();
  ASSERT_FALSE(outcome.ok());
  EXPECT_EQ(outcome.error().code, Errc::denied) << outcome.error().text();
  client->hang_up();
  // It has heard of that, or its end came first.
  [[maybe_unused]] const auto ended = client->outcome();
}

TEST_F(PskRelay, R_B4_AWireThatBreaksEndsBoth) {
  auto [one, near] = sockets();
  auto [far, other] = sockets();
  client =
      std::make_unique<RunningRelay>(RelayEnd::client, std::move(one), key, std::int64_t{1} << 20);
  server = std::make_unique<RunningRelay>(RelayEnd::server, std::move(other), key,
                                          std::int64_t{1} << 20);
  auto back = std::async(std::launch::async, [&] { pass(far.get(), near.get()); });
  auto forth = std::async(std::launch::async, [&] { pass(near.get(), far.get()); });
  say(client->socket(), "first");
  EXPECT_EQ(hear(server->socket(), 5), "first");
  for (const int socket : {near.get(), far.get()}) ::shutdown(socket, SHUT_RDWR);
  for (RunningRelay* relay : {client.get(), server.get()}) {
    EXPECT_EQ(hear(relay->socket(), 1), "");
    const auto outcome = relay->outcome();
    ASSERT_FALSE(outcome.ok());
    EXPECT_EQ(outcome.error().code, Errc::unavailable) << outcome.error().text();
  }
}

/// Somebody who does not know the key, but has a certificate of an authority of his own.
TEST_F(PskRelay, R_B4_NobodyIsBelievedForACertificate) {
  const test::TempFolder folder;
  const auto authority = CertificateAuthority::open(folder.file("authority"));
  ASSERT_TRUE(authority.ok());
  const auto identity = authority->issue({"server", {"destination"}, {}});
  ASSERT_TRUE(identity.ok());
  ASSERT_TRUE(
      replace_file(folder.file("pem"), identity->certificate + identity->private_key, 0600).ok());
  auto [one, other] = sockets();
  client =
      std::make_unique<RunningRelay>(RelayEnd::client, std::move(one), key, std::int64_t{1} << 20);
  say(client->socket(), "secret");
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_method()),
                                                                  SSL_CTX_free);
  const std::string pem = folder.file("pem");
  ASSERT_EQ(SSL_CTX_use_certificate_chain_file(context.get(), pem.c_str()), 1);
  ASSERT_EQ(SSL_CTX_use_PrivateKey_file(context.get(), pem.c_str(), SSL_FILETYPE_PEM), 1);
  const std::unique_ptr<SSL, decltype(&SSL_free)> session(SSL_new(context.get()), SSL_free);
  ASSERT_EQ(SSL_set_fd(session.get(), other.get()), 1);
  SSL_accept(session.get());
  char piece[16];
  EXPECT_LE(SSL_read(session.get(), piece, sizeof piece), 0);
  const auto outcome = client->outcome();
  ASSERT_FALSE(outcome.ok());
  EXPECT_EQ(outcome.error().code, Errc::denied) << outcome.error().text();
}

TEST_F(PskRelay, R_B4_AKeyHasItsBounds) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{15}, std::size_t{65}}) {
    const auto outcome = relay_encrypted(-1, -1, {RelayEnd::client, std::string(size, 'k'), 1});
    ASSERT_FALSE(outcome.ok());
    EXPECT_EQ(outcome.error().code, Errc::invalid);
    EXPECT_NE(outcome.error().text().find(std::to_string(size)), std::string::npos);
  }
}

}  // namespace
}  // namespace virga
