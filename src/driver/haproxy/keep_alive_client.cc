#include "driver/haproxy/keep_alive_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <string_view>

namespace virga {
namespace {

constexpr int kAnswerSeconds = 10;
constexpr std::string_view kRequest = "GET / HTTP/1.1\r\nHost: balanced\r\n\r\n";

/// Of lower-case heads; -1 = says nothing.
int length_in(const std::string& head) {
  constexpr std::string_view kName = "content-length: ";
  const std::size_t at = head.find(kName);
  int length = -1;
  if (at != std::string::npos) {
    std::from_chars(head.data() + at + kName.size(), head.data() + head.size(), length);
  }
  return length;
}

}  // namespace

KeepAliveClient::KeepAliveClient(std::string address, int port)
    : address_(std::move(address)), port_(port), thread_([this] { run(); }) {}

void KeepAliveClient::end() {
  ending_ = true;
  if (thread_.joinable()) thread_.join();
}

KeepAliveClient::Count KeepAliveClient::count() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return count_;
}

void KeepAliveClient::run() {
  while (!ending_) ask();
  if (socket_ >= 0) ::close(socket_);
}

void KeepAliveClient::ask() {
  if (socket_ < 0 && !connect()) return note(Outcome::broken, false, {});
  std::string body;
  const bool used_before = used_;
  const Outcome outcome = exchange(body);
  used_ = outcome == Outcome::answered;
  if (!used_) {
    ::close(socket_);
    socket_ = -1;
  }
  note(outcome, used_before, body);
}

void KeepAliveClient::note(Outcome outcome, bool used_before, const std::string& body) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (outcome != Outcome::broken) {
    ++count_.answered;
    ++count_.by_body[body];
  } else {
    ++(used_before ? count_.reconnected : count_.failed);
  }
}

bool KeepAliveClient::connect() {
  used_ = false;
  socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval patience{kAnswerSeconds, 0};
  ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(static_cast<std::uint16_t>(port_));
  ::inet_pton(AF_INET, address_.c_str(), &where.sin_addr);
  if (::connect(socket_, reinterpret_cast<const sockaddr*>(&where), sizeof where) == 0) return true;
  ::close(socket_);
  socket_ = -1;
  return false;
}

/// One request and its answer. `closed`: answered, and the connection is over, as announced.
KeepAliveClient::Outcome KeepAliveClient::exchange(std::string& body) {
  if (::send(socket_, kRequest.data(), kRequest.size(), MSG_NOSIGNAL) < 0) return Outcome::broken;
  std::string text;
  char piece[4096];
  while (true) {
    const std::size_t end = text.find("\r\n\r\n");
    if (end != std::string::npos) {
      std::string head = text.substr(0, end + 2);
      for (char& letter : head) letter = static_cast<char>(::tolower(letter));
      const int length = length_in(head);
      if (length < 0 || head.rfind("http/1.1 200", 0) != 0) return Outcome::broken;
      const std::size_t whole = end + 4 + static_cast<std::size_t>(length);
      if (text.size() >= whole) {
        body = text.substr(end + 4, static_cast<std::size_t>(length));
        const bool last = head.find("connection: close") != std::string::npos;
        return last ? Outcome::closed : Outcome::answered;
      }
    }
    const ssize_t count = ::recv(socket_, piece, sizeof piece, 0);
    if (count <= 0) return Outcome::broken;
    text.append(piece, static_cast<std::size_t>(count));
  }
}

}  // namespace virga
