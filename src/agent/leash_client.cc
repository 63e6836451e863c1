#include "agent/leash_client.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "base/reflect.h"

namespace virga {

namespace {

constexpr Duration kTick = milliseconds(500);
constexpr Duration kRetry = milliseconds(50);
constexpr Duration kConfirmationValid = seconds(2);

bool has_ended(const Descriptor& pidfd) {
  pollfd ended{pidfd.get(), POLLIN, 0};
  return poll(&ended, 1, 0) > 0;
}

}  // namespace

LeashClient::LeashClient(AsioLoop& loop, std::string socket_path)
    : loop_(loop), socket_path_(std::move(socket_path)), timer_(loop) {
  tick();
}

LeashClient::~LeashClient() { disconnect(); }

Result<void> LeashClient::guard(const std::string& name, int pidfd) {
  if (name.empty() || name.size() > kLeashNameBytesMax) {
    return make_error(Errc::invalid, "guard \"" + name.substr(0, 40) + "\": names have 1 to " +
                                         std::to_string(kLeashNameBytesMax) + " bytes");
  }
  const int own = fcntl(pidfd, F_DUPFD_CLOEXEC, 3);
  if (own < 0) {
    return make_error(Errc::exhausted, "guard " + name + ": " + strerror(errno));
  }
  guarded_[name] = Descriptor(own);
  LeashRequest request{LeashRequestKind::guard, name};
  if (send(request, own)) return {};
  connect();  // hands over all that is guarded
  if (socket_ >= 0) return {};
  return make_error(Errc::unavailable, "guard " + name + ": no leash answers on " + socket_path_);
}

void LeashClient::release(const std::string& name) { guarded_.erase(name); }

void LeashClient::extend(Instant deadline, Duration lease) {
  if (deadline <= deadline_) return;
  deadline_ = deadline;
  lease_ = lease;
  send_deadline();
}

void LeashClient::send_deadline() {
  send(LeashRequest{LeashRequestKind::extend, "", deadline_.time_since_epoch().count(),
                    lease_.count()});
}

// A process that has ended needs no guard: the leash may have forgotten it before the driver has.
bool LeashClient::armed() const {
  if (!replied_ || loop_.now() - replied_at_ > kConfirmationValid) return false;
  return std::all_of(guarded_.begin(), guarded_.end(), [this](const auto& entry) {
    return std::binary_search(last_reply_.held.begin(), last_reply_.held.end(), entry.first) ||
           has_ended(entry.second);
  });
}

void LeashClient::tick() {
  if (socket_ < 0) connect();
  timer_.set_after(socket_ < 0 ? kRetry : kTick, [this] { tick(); });
  send(LeashRequest{});
}

void LeashClient::connect() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path_.size() >= sizeof address.sun_path) return;
  socket_path_.copy(address.sun_path, sizeof address.sun_path - 1);
  const int made = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (made < 0) return;
  if (::connect(made, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    close(made);
    return;
  }
  socket_ = made;
  loop_.watch_descriptor(socket_, [this] { read_replies(); });
  // The deadline goes first: a leash without one kills what it is given.
  if (deadline_ > Instant{}) send_deadline();
  for (const auto& [name, pidfd] : guarded_) {
    if (!send(LeashRequest{LeashRequestKind::guard, name}, pidfd.get())) return;
  }
}

void LeashClient::disconnect() {
  if (socket_ < 0) return;
  loop_.forget_descriptor(socket_);
  close(socket_);
  socket_ = -1;
  replied_ = false;
}

void LeashClient::read_replies() {
  std::string text(kLeashMessageBytesMax, '\0');
  while (socket_ >= 0) {
    const ssize_t bytes = recv(socket_, text.data(), text.size(), MSG_DONTWAIT);
    if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) return;
    auto reply = from_json_text<LeashReply>(
        std::string_view(text.data(), static_cast<std::size_t>(std::max<ssize_t>(bytes, 0))),
        UnknownFields::ignore);
    if (bytes <= 0 || !reply) {
      log_line(LogLevel::warning, "agent", "the leash on " + socket_path_ + " has gone");
      return disconnect();
    }
    if (!reply->error.empty()) log_line(LogLevel::error, "agent", "leash: " + reply->error);
    last_reply_ = std::move(*reply);
    std::sort(last_reply_.held.begin(), last_reply_.held.end());
    replied_at_ = loop_.now();
    replied_ = true;
  }
}

bool LeashClient::send(const LeashRequest& request, int pidfd) {
  if (socket_ < 0) return false;
  const std::string text = to_json_text(request);
  iovec part{const_cast<char*>(text.data()), text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (pidfd >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(head), &pidfd, sizeof pidfd);
  }
  if (sendmsg(socket_, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return true;
  disconnect();
  return false;
}

}  // namespace virga
