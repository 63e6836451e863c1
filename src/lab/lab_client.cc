#include "lab/lab_client.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace virga {

namespace {

constexpr int kAnswerSecondsMax = 30;

/// Closes itself; process.h would bring the whole edge into the command line.
struct Socket {
  int number = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  Socket() = default;
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() {
    if (number >= 0) close(number);
  }
};

Error connect_error(const std::string& instance, const std::string& path, int number) {
  if (number == EACCES || number == EPERM) {
    return make_error(Errc::denied, "reach the lab \"" + instance + "\" at " + path +
                                        ": it belongs to another user; use sudo");
  }
  return make_error(Errc::unavailable, "reach the lab \"" + instance + "\" at " + path + ": " +
                                           strerror(number) +
                                           "; start it with: virgad dev --instance " + instance);
}

}  // namespace

std::string lab_control_folder(unsigned user) {
  return user == 0 ? kLabControlFolder : "/dev/shm/virga-lab-of-" + std::to_string(user);
}

std::string lab_socket_path(const std::string& instance) {
  return lab_control_folder(geteuid()) + "/" + instance + "/control.sock";
}

Result<json::value> call_lab(const std::string& instance, const LabRequest& request) {
  const std::string path = lab_socket_path(instance);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return make_error(Errc::invalid, "reach the lab \"" + instance + "\": its name is too long");
  }
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  // Anybody may make folders on tmpfs: a request goes only to a lab of the caller's.
  struct stat folder {};
  const std::string above = lab_control_folder(geteuid());
  if (stat(above.c_str(), &folder) == 0 && folder.st_uid != geteuid()) {
    return connect_error(instance, path, EACCES);
  }
  const Socket socket;
  const timeval limit{kAnswerSecondsMax, 0};
  setsockopt(socket.number, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(socket.number, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (connect(socket.number, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return connect_error(instance, path, errno);
  }
  const std::string text = to_json_text(request);
  std::string answer(kLabMessageBytesMax, '\0');
  ssize_t bytes = send(socket.number, text.data(), text.size(), MSG_NOSIGNAL);
  if (bytes >= 0) bytes = recv(socket.number, answer.data(), answer.size(), 0);
  if (bytes < 0 && errno == EAGAIN) {
    return make_error(Errc::timeout, "ask the lab \"" + instance + "\": no answer within " +
                                         std::to_string(kAnswerSecondsMax) + " s");
  }
  if (bytes <= 0) {
    return make_error(Errc::unavailable, "ask the lab \"" + instance + "\": it ended meanwhile");
  }
  answer.resize(static_cast<std::size_t>(bytes));
  auto reply = from_json_text<LabReply>(answer, UnknownFields::ignore);
  if (!reply) return wrap_error("read the lab's answer", reply.error());
  if (!reply->error_code.empty()) {
    return make_error(errc_from_string(reply->error_code), reply->error);
  }
  return reply->result;
}

Result<json::value> lab_status(const std::string& instance) {
  return call_lab(instance, LabRequest{});
}

Result<json::value> lab_fail(const std::string& instance, const LabRequest& fault) {
  LabRequest request = fault;
  request.kind = LabRequestKind::fail;
  return call_lab(instance, request);
}

Result<json::value> lab_heal(const std::string& instance, const std::string& host) {
  LabRequest request;
  request.kind = LabRequestKind::heal;
  request.host = host;
  return call_lab(instance, request);
}

Result<json::value> lab_attach_client(const std::string& instance, std::uint32_t vni,
                                      const std::string& address) {
  LabRequest request;
  request.kind = LabRequestKind::attach_client;
  request.vni = vni;
  request.address = address;
  return call_lab(instance, request);
}

}  // namespace virga
