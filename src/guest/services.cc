#include "guest/services.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "guest/boot.h"

namespace virga::guest {
namespace {

constexpr std::size_t kHeadBytesMax = 8192;
constexpr long long kIdleMsMax = 60'000;

bool has_header(const std::string& head, const char* line) {
  return ::strcasestr(head.c_str(), line) != nullptr;
}

std::string response(const char* status, const std::string& body, bool keep, bool with_body) {
  std::string text =
      std::string("HTTP/1.1 ") + status +
      "\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
      "\r\nConnection: " + (keep ? "keep-alive" : "close") + "\r\n\r\n";
  if (with_body) text += body;
  return text;
}

}  // namespace

bool Services::listen_on(std::uint16_t port, Kind kind) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const int yes = 1;
  ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener, 1024) != 0) {
    say("port " + std::to_string(port) + ": " + std::strerror(errno));
    ::close(listener);
    return false;
  }
  return poller_.add(listener, EPOLLIN,
                     [this, listener, kind](std::uint32_t) { accept_from(listener, kind); });
}

void Services::accept_from(int listener, Kind kind) {
  while (true) {
    const int socket = ::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (socket < 0) return;
    const int yes = 1;
    ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    ::setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
    const bool taken = connections_.size() < kConnectionsMax &&
                       poller_.add(socket, EPOLLIN, [this, socket](std::uint32_t events) {
                         handle(socket, events);
                       });
    if (!taken) {
      ::close(socket);
      continue;
    }
    Connection& connection = connections_[socket];
    connection.socket = socket;
    connection.kind = kind;
    connection.active_ms = uptime_ms();
  }
}

void Services::handle(int socket, std::uint32_t events) {
  const auto found = connections_.find(socket);
  if (found == connections_.end()) return;
  Connection& connection = found->second;
  connection.active_ms = uptime_ms();
  bool alive = (events & (EPOLLERR | EPOLLHUP)) == 0;
  if (alive && (events & EPOLLOUT) != 0) alive = write_some(connection);
  if (alive && (events & EPOLLIN) != 0 && connection.out.empty()) alive = read_some(connection);
  if (alive && connection.kind == Kind::http) {
    answer_requests(connection);
    alive = write_some(connection);
  }
  if (!alive || (connection.out.empty() && connection.close_after_out)) {
    close_connection(socket);
    return;
  }
  poller_.change(socket, connection.out.empty() ? EPOLLIN : EPOLLOUT);
}

bool Services::read_some(Connection& connection) {
  char block[kHeadBytesMax];
  const ssize_t count = ::read(connection.socket, block, sizeof block);
  if (count == 0) return false;
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  if (connection.kind == Kind::http) {
    connection.in.append(block, static_cast<std::size_t>(count));
    return true;
  }
  connection.out.append(block, static_cast<std::size_t>(count));
  return write_some(connection);
}

void Services::answer_requests(Connection& connection) {
  while (connection.out.empty() && !connection.close_after_out) {
    const std::size_t end = connection.in.find("\r\n\r\n");
    if (end == std::string::npos) {
      if (connection.in.size() <= kHeadBytesMax) return;
      connection.out = response("431 Request Header Fields Too Large", "{}\n", false, true);
      connection.close_after_out = true;
      return;
    }
    const std::string head = connection.in.substr(0, end + 2);
    connection.in.erase(0, end + 4);
    answer_request(connection, head);
    if (!write_some(connection)) connection.close_after_out = true;
  }
}

void Services::answer_request(Connection& connection, const std::string& head) {
  const bool is_get = head.rfind("GET ", 0) == 0;
  const bool is_head = head.rfind("HEAD ", 0) == 0;
  const std::string line = head.substr(0, head.find("\r\n"));
  const bool modern = line.size() > 9 && line.compare(line.size() - 8, 8, "HTTP/1.1") == 0;
  const bool keep = modern ? !has_header(head, "\r\nconnection: close")
                           : has_header(head, "\r\nconnection: keep-alive");
  if (!is_get && !is_head) {
    connection.out = response("405 Method Not Allowed", "{}\n", false, true);
    connection.close_after_out = true;
    return;
  }
  connection.out = response("200 OK", answer_(), keep, is_get);
  connection.close_after_out = !keep;
}

bool Services::write_some(Connection& connection) {
  while (!connection.out.empty()) {
    const ssize_t count =
        ::send(connection.socket, connection.out.data(), connection.out.size(), MSG_NOSIGNAL);
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    connection.out.erase(0, static_cast<std::size_t>(count));
  }
  return true;
}

void Services::close_connection(int socket) {
  poller_.remove(socket);
  connections_.erase(socket);
  ::close(socket);
}

void Services::sweep() {
  std::vector<int> idle;
  for (const auto& [socket, connection] : connections_) {
    const bool old = uptime_ms() - connection.active_ms > kIdleMsMax;
    if (old && connection.kind == Kind::http) idle.push_back(socket);
  }
  for (const int socket : idle) close_connection(socket);
}

}  // namespace virga::guest
