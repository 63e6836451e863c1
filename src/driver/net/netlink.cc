#include "driver/net/netlink.h"

#include <fmt/format.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "edge/network_namespace.h"

namespace virga {
namespace {

constexpr std::size_t kReceiveBytes = 64 * 1024;
constexpr int kListTriesMax = 5;

std::size_t aligned(std::size_t bytes) { return NLMSG_ALIGN(bytes); }

Errc code_of(int error) {
  switch (error) {
    case EPERM:
    case EACCES:
      return Errc::denied;
    case ENOMEM:
    case ENOBUFS:
    case ENOSPC:
    case ENFILE:
    case EMFILE:
      return Errc::exhausted;
    case EEXIST:
    case EBUSY:
      return Errc::conflict;
    case ENODEV:
    case ENOENT:
      return Errc::not_found;
    case EINVAL:
    case ERANGE:
      return Errc::invalid;
    default:
      return Errc::internal;
  }
}

/// The kernel's words lie behind the error and the echoed head of the request.
NetlinkAnswer read_error(std::string_view body, std::uint16_t flags) {
  nlmsgerr error{};
  if (body.size() < sizeof error) return {EPROTO, "the kernel's answer is too short"};
  body.copy(reinterpret_cast<char*>(&error), sizeof error);
  NetlinkAnswer answer{-error.error, {}};
  if (answer.ok()) return answer;
  answer.words = std::strerror(answer.error);
  const std::size_t echoed =
      (flags & NLM_F_CAPPED) != 0 ? sizeof(nlmsghdr) : aligned(error.msg.nlmsg_len);
  const std::size_t at = offsetof(nlmsgerr, msg) + echoed;
  if ((flags & NLM_F_ACK_TLVS) == 0 || at >= body.size()) return answer;
  const auto attributes = parse_attributes(body.substr(at));
  const auto words = attributes.find(NLMSGERR_ATTR_MSG);
  if (words != attributes.end()) answer.words += fmt::format(" ({})", words->second.data());
  return answer;
}

}  // namespace

NetlinkMessage::NetlinkMessage(std::uint16_t type, std::uint16_t flags) {
  nlmsghdr head{};
  head.nlmsg_type = type;
  head.nlmsg_flags = static_cast<std::uint16_t>(flags | NLM_F_REQUEST);
  append(&head, sizeof head);
}

void NetlinkMessage::append(const void* from, std::size_t bytes) {
  data_.append(static_cast<const char*>(from), bytes);
  data_.resize(aligned(data_.size()), '\0');
}

NetlinkMessage& NetlinkMessage::bytes(std::uint16_t type, std::string_view value) {
  const nlattr head{static_cast<std::uint16_t>(sizeof(nlattr) + value.size()), type};
  append(&head, sizeof head);
  append(value.data(), value.size());
  return *this;
}

NetlinkMessage& NetlinkMessage::text(std::uint16_t type, const std::string& value) {
  return bytes(type, std::string_view(value.c_str(), value.size() + 1));
}

NetlinkMessage& NetlinkMessage::nest(std::uint16_t type,
                                     const std::function<void(NetlinkMessage&)>& fill) {
  const std::size_t begin = data_.size();
  nlattr head{0, type};
  append(&head, sizeof head);
  fill(*this);
  head.nla_len = static_cast<std::uint16_t>(data_.size() - begin);
  std::memcpy(data_.data() + begin, &head, sizeof head);
  return *this;
}

std::string_view NetlinkMessage::finish(std::uint32_t sequence, std::uint16_t more_flags) {
  nlmsghdr head{};
  std::memcpy(&head, data_.data(), sizeof head);
  head.nlmsg_len = static_cast<std::uint32_t>(data_.size());
  head.nlmsg_flags = static_cast<std::uint16_t>(head.nlmsg_flags | more_flags);
  head.nlmsg_seq = sequence;
  std::memcpy(data_.data(), &head, sizeof head);
  return data_;
}

Result<void> NetlinkAnswer::as_result(const std::string& what) const {
  if (ok()) return {};
  return make_error(code_of(error), fmt::format("{}: {}", what, words));
}

NetlinkAttributes parse_attributes(std::string_view data) {
  NetlinkAttributes attributes;
  while (data.size() >= sizeof(nlattr)) {
    nlattr head{};
    data.copy(reinterpret_cast<char*>(&head), sizeof head);
    if (head.nla_len < sizeof head || head.nla_len > data.size()) return attributes;
    attributes[head.nla_type & NLA_TYPE_MASK] =
        data.substr(sizeof head, head.nla_len - sizeof head);
    data.remove_prefix(std::min<std::size_t>(aligned(head.nla_len), data.size()));
  }
  return attributes;
}

Result<NetlinkSocket> NetlinkSocket::open(int network_namespace, int protocol) {
  Descriptor socket;
  int error = 0;
  auto entered = in_network_namespace(network_namespace, [&] {
    socket = Descriptor(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
    error = errno;
  });
  if (!entered) return entered.error();
  if (!socket.valid()) {
    return make_error(code_of(error),
                      fmt::format("open a netlink socket: {}", std::strerror(error)));
  }
  const int yes = 1;
  const timeval deadline{2, 0};
  if (::setsockopt(socket.get(), SOL_NETLINK, NETLINK_EXT_ACK, &yes, sizeof yes) != 0 ||
      ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof deadline) != 0) {
    return make_error(Errc::internal,
                      fmt::format("prepare a netlink socket: {}", std::strerror(errno)));
  }
  return NetlinkSocket(std::move(socket));
}

NetlinkAnswer NetlinkSocket::exchange(std::string_view request,
                                      const std::function<void(std::string_view body)>& take,
                                      bool& interrupted) {
  if (::send(socket_.get(), request.data(), request.size(), 0) < 0)
    return {errno, std::strerror(errno)};
  std::vector<char> buffer(kReceiveBytes);
  while (true) {
    const ssize_t count = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0)
      return {errno, std::string("no answer from the kernel: ") + std::strerror(errno)};
    std::string_view rest(buffer.data(), static_cast<std::size_t>(count));
    while (rest.size() >= sizeof(nlmsghdr)) {
      nlmsghdr head{};
      rest.copy(reinterpret_cast<char*>(&head), sizeof head);
      if (head.nlmsg_len < sizeof head || head.nlmsg_len > rest.size())
        return {EPROTO, "the kernel's answer is cut off"};
      const std::string_view body = rest.substr(sizeof head, head.nlmsg_len - sizeof head);
      rest.remove_prefix(std::min(aligned(head.nlmsg_len), rest.size()));
      if (head.nlmsg_seq != sequence_) continue;  // late answer to a request that was given up
      interrupted = interrupted || (head.nlmsg_flags & NLM_F_DUMP_INTR) != 0;
      if (head.nlmsg_type == NLMSG_ERROR) return read_error(body, head.nlmsg_flags);
      if (head.nlmsg_type == NLMSG_DONE) return {};
      if (take) take(body);
    }
  }
}

NetlinkAnswer NetlinkSocket::execute(NetlinkMessage message,
                                     const std::function<void(std::string_view body)>& take) {
  bool interrupted = false;
  return exchange(message.finish(++sequence_, NLM_F_ACK), take, interrupted);
}

NetlinkAnswer NetlinkSocket::list(const NetlinkMessage& message,
                                  const std::function<void(std::string_view body)>& take) {
  for (int tries = 0; tries < kListTriesMax; ++tries) {
    NetlinkMessage request = message;
    std::vector<std::string> entries;
    bool interrupted = false;
    NetlinkAnswer answer = exchange(
        request.finish(++sequence_, NLM_F_DUMP),
        [&entries](std::string_view body) { entries.emplace_back(body); }, interrupted);
    if (!answer.ok()) return answer;
    if (interrupted) continue;
    for (const std::string& entry : entries) take(entry);
    return {};
  }
  return {EAGAIN, "the list changed each time while it was read"};
}

Result<void> keep_addresses_off(NetlinkSocket& socket, int index, const std::string& name) {
  NetlinkMessage message(RTM_NEWLINK, 0);
  ifinfomsg header{};
  header.ifi_index = index;
  message.header(header);
  message.nest(IFLA_AF_SPEC, [](NetlinkMessage& families) {
    families.nest(AF_INET6, [](NetlinkMessage& settings) {
      settings.number(IFLA_INET6_ADDR_GEN_MODE, static_cast<std::uint8_t>(IN6_ADDR_GEN_MODE_NONE));
    });
  });
  const auto answer = socket.execute(message);
  if (answer.error == EAFNOSUPPORT) return {};  // a kernel without IPv6 makes no such address
  return answer.as_result("keep the host's address off " + name);
}

}  // namespace virga
