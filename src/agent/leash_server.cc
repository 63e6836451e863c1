#include "agent/leash_server.h"

#include <fcntl.h>
#include <linux/watchdog.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "agent/process_identity.h"
#include "base/log.h"
#include "base/reflect.h"

namespace virga {

namespace {

constexpr Duration kFeedEvery = seconds(1);
constexpr Duration kKillTakesMax = seconds(5);

std::string key_of(const std::string& name, pid_t pid) { return name + "/" + std::to_string(pid); }

bool has_ended(int pidfd) {
  pollfd ended{pidfd, POLLIN, 0};
  return poll(&ended, 1, 0) > 0;
}

/// Feeds the watchdog, or disarms it with 'V'. A full pipe or a busy device is not worth waiting
/// for.
void write_byte(int descriptor, char byte) {
  [[maybe_unused]] const auto written = write(descriptor, &byte, 1);
}

/// Receives one message and at most one descriptor. Returns the bytes, 0 = closed, -1 = nothing
/// there.
ssize_t receive(int socket, std::string& text, int& descriptor) {
  text.resize(kLeashMessageBytesMax);
  iovec part{text.data(), text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(4 * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t bytes = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (bytes < 0) return errno == EAGAIN || errno == EINTR ? -1 : 0;
  text.resize(static_cast<std::size_t>(bytes));
  for (auto* head = CMSG_FIRSTHDR(&message); head != nullptr; head = CMSG_NXTHDR(&message, head)) {
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int received = -1;
      std::memcpy(&received, CMSG_DATA(head) + i * sizeof(int), sizeof received);
      if (descriptor >= 0) close(descriptor);
      descriptor = received;
    }
  }
  return bytes;
}

}  // namespace

Result<std::unique_ptr<LeashServer>> LeashServer::open(LeashLoop& loop,
                                                       const LeashOptions& options) {
  auto table = LeashTable::open(options.state_path, options.boot_id);
  if (!table) return table.error();
  std::unique_ptr<LeashServer> server(new LeashServer(loop, options, std::move(*table)));
  if (auto opened = server->open_watchdog(); !opened) return opened.error();
  server->adopt_from_table();
  server->keep_feeding();
  if (auto listening = server->listen(); !listening) return listening.error();
  return server;
}

LeashServer::LeashServer(LeashLoop& loop, const LeashOptions& options, LeashTable table)
    : loop_(loop),
      options_(options),
      table_(std::move(table)),
      core_(loop, [this](const std::string& key) { kill(key); }),
      feeding_(loop) {}

LeashServer::~LeashServer() {
  for (const auto& [key, held] : held_) {
    loop_.forget(held.pidfd);
    close(held.pidfd);
  }
  for (const int descriptor : {client_, listener_}) {
    if (descriptor < 0) continue;
    loop_.forget(descriptor);
    close(descriptor);
  }
  // Closed without the magic 'V': a leash that ends while guests run must not disarm the watchdog.
  if (watchdog_ < 0) return;
  if (held_.empty()) write_byte(watchdog_, 'V');
  close(watchdog_);
}

Result<void> LeashServer::listen() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (options_.socket_path.size() >= sizeof address.sun_path) {
    return make_error(Errc::invalid, "listen on " + options_.socket_path +
                                         ": socket paths have at most 107 bytes");
  }
  options_.socket_path.copy(address.sun_path, sizeof address.sun_path - 1);
  unlink(address.sun_path);
  listener_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const mode_t before = umask(0177);
  const bool bound = listener_ >= 0 && bind(listener_, reinterpret_cast<const sockaddr*>(&address),
                                            sizeof address) == 0;
  umask(before);
  if (!bound || ::listen(listener_, 1) != 0) {
    return make_error(errno == EACCES ? Errc::denied : Errc::internal,
                      "listen on " + options_.socket_path + ": " + strerror(errno));
  }
  loop_.watch(listener_, [this] { accept_client(); });
  return {};
}

Result<void> LeashServer::open_watchdog() {
  if (options_.watchdog_path.empty()) return {};
  // Read and write, because a pipe opened for writing alone would wait for its reader.
  watchdog_ = ::open(options_.watchdog_path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (watchdog_ < 0) {
    watchdog_ = ::open(options_.watchdog_path.c_str(), O_WRONLY | O_CLOEXEC | O_NONBLOCK);
  }
  if (watchdog_ < 0) {
    return make_error(Errc::unavailable,
                      "open the watchdog " + options_.watchdog_path + ": " + strerror(errno));
  }
  int timeout = static_cast<int>(to_ms(options_.watchdog_ms) / 1000);
  struct stat found {};
  const bool device = fstat(watchdog_, &found) == 0 && S_ISCHR(found.st_mode);
  if (device && ioctl(watchdog_, WDIOC_SETTIMEOUT, &timeout) != 0) {
    return make_error(Errc::unavailable, "set the watchdog " + options_.watchdog_path + " to " +
                                             std::to_string(timeout) + " s: " + strerror(errno));
  }
  return {};
}

// A leash that was killed takes up its processes again; those that ended meanwhile are dropped.
void LeashServer::adopt_from_table() {
  core_.extend(table_.deadline());
  std::map<pid_t, std::pair<std::string, std::uint64_t>> former;
  table_.each([&](const LeashTable::Entry& entry) {
    former.emplace(entry.pid, std::make_pair(std::string(entry.name), entry.start_ticks));
  });
  for (const auto& [pid, identity] : former) {
    const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    table_.remove(identity.first, pid);
    if (pidfd < 0) continue;
    if (start_ticks_of(pid) != identity.second || !hold(identity.first, pid, pidfd)) close(pidfd);
  }
}

void LeashServer::accept_client() {
  const int made = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (made < 0) return;
  client_ = made;
  loop_.forget(listener_);
  loop_.watch(client_, [this] { read_client(); });
  log_line(LogLevel::info, "leash",
           "an agent connected; " + std::to_string(held_.size()) + " processes are held");
}

void LeashServer::drop_client(const std::string& why) {
  loop_.forget(client_);
  close(client_);
  client_ = -1;
  log_line(LogLevel::warning, "leash", "the agent's connection ended: " + why);
  loop_.watch(listener_, [this] { accept_client(); });
}

void LeashServer::read_client() {
  std::string text;
  int descriptor = -1;
  const ssize_t bytes = receive(client_, text, descriptor);
  if (bytes < 0) return;
  if (bytes == 0) return drop_client("closed by the agent");
  const auto parsed = parse_json(text, kLeashMessageBytesMax);
  Result<LeashRequest> request =
      parsed ? from_json<LeashRequest>(*parsed, UnknownFields::ignore) : parsed.error();
  if (request) {
    send_reply(handle(*request, descriptor));
  } else {
    drop_client(request.error().text());
  }
  if (descriptor >= 0) close(descriptor);
}

LeashReply LeashServer::handle(const LeashRequest& request, int pidfd) {
  LeashReply reply;
  if (request.kind == LeashRequestKind::extend) {
    core_.extend(Instant(Duration(request.deadline_ns)));
    table_.set_deadline(core_.deadline());
    lease_ = Duration(request.lease_ns);
    feed_watchdog();
  } else if (request.kind == LeashRequestKind::guard) {
    const auto done = guard(request.name, pidfd);
    if (!done) reply.error = done.error().text();
  }
  for (const auto& [key, held] : held_) {
    if (reply.held.empty() || reply.held.back() != held.name) reply.held.push_back(held.name);
  }
  reply.deadline_ns = core_.deadline().time_since_epoch().count();
  reply.watchdog = watchdog_ >= 0 && lease_ > Duration(0) && watchdog_suits();
  return reply;
}

Result<void> LeashServer::guard(const std::string& name, int pidfd) {
  const pid_t pid = pidfd < 0 ? -1 : pid_of_pidfd(pidfd);
  if (pidfd < 0 || pid == -1) {
    return make_error(Errc::invalid, "guard \"" + name + "\": no pidfd of a process came with it");
  }
  if (has_ended(pidfd)) return {};
  if (held_.contains(key_of(name, pid))) return {};
  const int own = fcntl(pidfd, F_DUPFD_CLOEXEC, 3);
  if (own < 0) {
    return make_error(Errc::exhausted, "guard \"" + name + "\": " + strerror(errno));
  }
  auto held = hold(name, pid, own);
  if (!held) {
    // What cannot be guarded must not run.
    syscall(SYS_pidfd_send_signal, own, SIGKILL, nullptr, 0);
    close(own);
  }
  return held;
}

Result<void> LeashServer::hold(const std::string& name, pid_t pid, int pidfd) {
  const std::string key = key_of(name, pid);
  if (auto added = table_.add(name, pid, start_ticks_of(pid)); !added) return added;
  held_[key] = Held{name, pid, pidfd};
  loop_.watch(pidfd, [this, key] { forget(key); });
  auto guarded = core_.guard(key);
  if (guarded) return {};
  loop_.forget(pidfd);
  table_.remove(name, pid);
  held_.erase(key);
  return guarded;
}

void LeashServer::forget(const std::string& key) {
  const auto found = held_.find(key);
  if (found == held_.end()) return;
  if (found->second.killed) {
    log_line(LogLevel::error, "leash", "the host's lease had ended: " + key + " was killed");
  }
  core_.release(key);
  loop_.forget(found->second.pidfd);
  close(found->second.pidfd);
  table_.remove(found->second.name, found->second.pid);
  held_.erase(found);
  feed_watchdog();
}

// Nothing is logged here: a log that blocks must not stand between two kills. forget() tells.
void LeashServer::kill(const std::string& key) {
  Held& held = held_.at(key);
  syscall(SYS_pidfd_send_signal, held.pidfd, SIGKILL, nullptr, 0);
  held.killed = true;
  held.killed_at = loop_.now();
}

void LeashServer::send_reply(const LeashReply& reply) {
  const std::string text = to_json_text(reply);
  if (send(client_, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && client_ >= 0) {
    drop_client(std::string("reply: ") + strerror(errno));
  }
}

// A process that SIGKILL does not end hangs in the kernel: only a reset of the machine stops it.
bool LeashServer::killing_is_stuck() const {
  return std::any_of(held_.begin(), held_.end(), [this](const auto& entry) {
    return entry.second.killed && loop_.now() - entry.second.killed_at > kKillTakesMax;
  });
}

void LeashServer::keep_feeding() {
  feed_watchdog();
  feeding_.set_after(kFeedEvery, [this] { keep_feeding(); });
}

// Where the watchdog is too slow for the lease it proves nothing and is fed as long as all is well.
void LeashServer::feed_watchdog() {
  if (watchdog_ < 0) return;
  const bool too_slow = lease_ > Duration(0) && !watchdog_suits();
  const bool well = too_slow ? !killing_is_stuck() : core_.may_put_off(options_.watchdog_ms);
  if (well) write_byte(watchdog_, '.');
}

}  // namespace virga
