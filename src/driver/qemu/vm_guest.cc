#include "driver/qemu/vm_guest.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/reflect.h"
#include "driver/qmp/unix_socket.h"
#include "edge/file.h"

namespace virga {
namespace {

constexpr std::size_t kLineMax = 4096;
constexpr std::size_t kNumberMax = 20;
constexpr int kPingTicks = 2;  ///< two may be missed before a guest counts as silent
constexpr int kPatienceMax = 300;
constexpr off_t kConsoleKept = 256 << 10;
constexpr off_t kConsoleMax = 512 << 10;
constexpr off_t kBlock = 4096;

bool is_number(const std::string& line) {
  return !line.empty() && line.size() <= kNumberMax &&
         line.find_first_not_of("0123456789") == std::string::npos;
}

}  // namespace

VmGuest::VmGuest(AsioLoop& loop, VmFolder folder) : loop_(loop), folder_(std::move(folder)) {}

VmGuest::~VmGuest() {
  close(heartbeat_);
  close(agent_);
}

void VmGuest::tick(bool runs) {
  if (!runs) return;
  for (Channel* channel : {&heartbeat_, &agent_}) close_silent(*channel);
  connect(heartbeat_, folder_.heartbeat(), &VmGuest::heartbeat_line);
  connect(agent_, folder_.guest_agent(), &VmGuest::agent_line);
  if (++ticks_ % kPingTicks == 0 && agent_open_ && agent_.socket.valid()) ping();
}

void VmGuest::connect(Channel& channel, const std::string& path,
                      void (VmGuest::*handle)(const std::string&)) {
  if (channel.socket.valid()) return;
  auto socket = connect_unix(path);
  if (!socket) return;
  channel.socket = std::move(*socket);
  channel.line.clear();
  loop_.watch_descriptor(channel.socket.get(), [this, &channel, handle] { read(channel, handle); });
}

void VmGuest::read(Channel& channel, void (VmGuest::*handle)(const std::string&)) {
  char piece[kLineMax];
  const ssize_t count = ::recv(channel.socket.get(), piece, sizeof piece, MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) return close(channel);
  channel.silent_ticks = 0;
  channel.patience_ticks = kPatienceFirst;
  for (const char letter : std::string_view(piece, static_cast<std::size_t>(count))) {
    if (letter == '\r') continue;
    if (letter != '\n') {
      if (channel.line.size() < kLineMax) channel.line += letter;
      continue;
    }
    (this->*handle)(std::exchange(channel.line, {}));
  }
}

void VmGuest::close_silent(Channel& channel) {
  if (!channel.socket.valid() || ++channel.silent_ticks < channel.patience_ticks) return;
  channel.silent_ticks = 0;
  channel.patience_ticks = std::min(channel.patience_ticks * 2, kPatienceMax);
  close(channel);
}

void VmGuest::close(Channel& channel) {
  if (channel.socket.valid()) loop_.forget_descriptor(channel.socket.get());
  channel.socket.reset();
}

void VmGuest::heartbeat_line(const std::string& line) {
  if (!is_number(line) || line == last_number_) return;
  last_number_ = line;
  last_sign_ = loop_.now();
}

void VmGuest::ping() {
  // The number tells an answer in time from one that comes after the next question was asked.
  synced_ = false;
  const std::string text = fmt::format(
      "{{\"execute\":\"guest-sync\",\"arguments\":{{\"id\":{}}}}}\n{{\"execute\":\"guest-ping\"}}"
      "\n",
      ++ping_id_);
  if (!send_unix(agent_.socket.get(), text)) close(agent_);
}

void VmGuest::agent_line(const std::string& line) {
  const auto answer = parse_json(line, kLineMax);
  const json::object* object = answer ? answer->if_object() : nullptr;
  const json::value* value = object != nullptr ? object->if_contains("return") : nullptr;
  if (value == nullptr) return;
  if (value->is_int64()) {
    synced_ = static_cast<std::uint64_t>(value->get_int64()) == ping_id_;
  } else if (synced_) {
    last_sign_ = loop_.now();
  }
}

void trim_console(const std::string& path) {
  struct stat seen {};
  if (::stat(path.c_str(), &seen) != 0 || seen.st_blocks * 512 <= kConsoleMax) return;
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.valid()) return;
  const off_t end = (seen.st_size - kConsoleKept) / kBlock * kBlock;
  const int punched = ::fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, end);
  // A file system without holes: better no old text than a full disk.
  if (punched != 0 && errno == EOPNOTSUPP && ::ftruncate(file.get(), 0) != 0) return;
}

Result<std::string> console_tail(const std::string& path, std::size_t bytes_max) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return errno_error("open the console " + path, errno);
  struct stat seen {};
  if (::fstat(file.get(), &seen) != 0) return errno_error("look at " + path, errno);
  const auto wanted = static_cast<off_t>(std::min<std::size_t>(bytes_max, kConsoleKept));
  const off_t from = std::max<off_t>(seen.st_size - wanted, 0);
  std::string text(static_cast<std::size_t>(seen.st_size - from), '\0');
  const ssize_t count = ::pread(file.get(), text.data(), text.size(), from);
  if (count < 0) return errno_error("read " + path, errno);
  text.resize(static_cast<std::size_t>(count));
  return text;
}

}  // namespace virga
