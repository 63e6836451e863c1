#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "edge/http.h"

namespace virga {

/// A blocking socket with a deadline of 20 s, for peers that do not behave.
class RawSocket {
 public:
  explicit RawSocket(std::uint16_t port) : RawSocket() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(number_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  RawSocket() : number_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) { set_deadline(); }
  static RawSocket adopt(int number) { return RawSocket(number, 0); }
  RawSocket(RawSocket&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  RawSocket& operator=(RawSocket&&) = delete;
  ~RawSocket() {
    if (number_ >= 0) ::close(number_);
  }

  int number() const { return number_; }

  /// Waits for connections on the loopback; returns its port.
  std::uint16_t listen(int backlog) const {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(number_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(number_, backlog), 0);
    ::getsockname(number_, reinterpret_cast<sockaddr*>(&address), &size);
    return ntohs(address.sin_port);
  }

  void send(const std::string& text) const {
    std::size_t sent = 0;
    while (sent < text.size()) {
      const auto size = ::send(number_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (size <= 0) return;  // refused by the server: what it says is what counts
      sent += static_cast<std::size_t>(size);
    }
  }
  /// Until `mark` has come (empty: until the end).
  std::string receive(const std::string& mark = {}) const {
    std::string got;
    char block[4096];
    while (mark.empty() || got.find(mark) == std::string::npos) {
      const auto size = ::recv(number_, block, sizeof block, 0);
      if (size <= 0) break;
      got.append(block, static_cast<std::size_t>(size));
    }
    return got;
  }

 private:
  RawSocket(int number, int) : number_(number) { set_deadline(); }
  void set_deadline() const {
    const timeval deadline{20, 0};
    ::setsockopt(number_, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof deadline);
    ::setsockopt(number_, SOL_SOCKET, SO_SNDTIMEO, &deadline, sizeof deadline);
  }
  int number_;
};

class HttpTest : public ::testing::Test {
 protected:
  HttpTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "virga-http-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
  }
  ~HttpTest() override {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  TlsIdentity identity(const std::string& name, Duration valid = std::chrono::hours(1),
                       const std::string& authority = "own") {
    auto opened = CertificateAuthority::open(folder_ + "/" + authority);
    VIRGA_CHECK(opened.ok());
    auto issued = opened->issue({name, {"localhost", "virga-server"}, {"127.0.0.1"}, valid});
    VIRGA_CHECK(issued.ok());
    return *issued;
  }

  void start(HttpServerOptions options, HttpServer::Handler handler) {
    auto made = HttpServer::listen(loop_, std::move(options), std::move(handler));
    ASSERT_TRUE(made.ok()) << made.error().text();
    server_ = *std::move(made);
  }

  HttpServerOptions mutual_tls() {
    HttpServerOptions options;
    options.tls = identity("server");
    options.client_certificate_required = true;
    return options;
  }

  std::string url(const std::string& scheme, const std::string& path) const {
    return scheme + "://127.0.0.1:" + std::to_string(server_->port()) + path;
  }

  /// Runs the loop until stop(), at most 60 s.
  void run() {
    Timer deadline(loop_);
    deadline.set_after(seconds(60), [this] {
      ADD_FAILURE() << "nothing ended the test";
      loop_.stop();
    });
    loop_.run();
  }

  Result<HttpResponse> call(HttpCall request) {
    Result<HttpResponse> got = make_error(Errc::internal, "no answer");
    http_call(loop_, std::move(request), [&](Result<HttpResponse> result) {
      got = std::move(result);
      loop_.stop();
    });
    run();
    return got;
  }

  Result<std::shared_ptr<MessageSocket>> open(HttpCall request) {
    Result<std::shared_ptr<MessageSocket>> got = make_error(Errc::internal, "no answer");
    open_message_socket(loop_, std::move(request),
                        [&](Result<std::shared_ptr<MessageSocket>> result) {
                          got = std::move(result);
                          loop_.stop();
                        });
    run();
    return got;
  }

  /// Runs `peer` on a thread of its own while the loop runs here.
  void beside(const std::function<void()>& peer) {
    std::thread thread([&] {
      peer();
      loop_.stop();
    });
    run();
    thread.join();
  }

  /// All that the server answers to `text` until it ends the connection.
  std::string raw(const std::string& text) {
    std::string got;
    beside([&] {
      const RawSocket socket(server_->port());
      socket.send(text);
      got = socket.receive();
    });
    return got;
  }

  AsioLoop loop_;
  std::unique_ptr<HttpServer> server_;
  std::string folder_;
};

}  // namespace virga
