#include "driver/haproxy/control.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>

#include "driver/qmp/unix_socket.h"
#include "edge/file.h"

namespace virga {
namespace {

constexpr std::size_t kAnswerBytesMax = 16 << 20;
constexpr Duration kAnswerWithin = seconds(3);
constexpr int kPauseMs = 10;
constexpr const char* kMasterSocket = "/master.sock";

/// "master 3 [failed: 0] ...", "worker 0 ..." below headings.
HaproxyWorkers parse_workers(const std::string& text) {
  HaproxyWorkers found;
  std::istringstream lines(text);
  std::string line;
  bool old = false;
  while (std::getline(lines, line)) {
    if (line.rfind("# old", 0) == 0) old = true;
    std::istringstream words(line);
    std::int64_t pid = 0;
    std::string type;
    if (!(words >> pid >> type)) continue;
    std::string label;
    if (type == "master") words >> found.reloads >> label >> found.failed;
    if (type == "worker" && !old) found.current = pid;
    if (type == "worker" && old) found.old.push_back(pid);
  }
  return found;
}

/// "S.3.1.18.weight.1:MGP:u32:100": kind, proxy, server, position, name, process; tags; type;
/// value.
HaproxyRows parse_rows(const std::string& text) {
  HaproxyRows rows;
  std::string last;
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    const std::size_t first = line.find('.');
    const std::size_t second = line.find('.', first + 1);
    const std::size_t third = line.find('.', second + 1);
    const std::size_t name = line.find('.', third + 1) + 1;
    const std::size_t name_end = line.find('.', name);
    std::size_t value = line.find(':', name_end);
    for (int skipped = 0; skipped < 2 && value != std::string::npos; ++skipped) {
      value = line.find(':', value + 1);
    }
    if (third == std::string::npos || name == 0 || value == std::string::npos) continue;
    const std::string whose = line.substr(0, third);
    if (whose != last) rows.emplace_back();
    last = whose;
    rows.back()[line.substr(name, name_end - name)] = line.substr(value + 1);
  }
  return rows;
}

}  // namespace

std::string alerts_in(const std::string& output, std::size_t begin) {
  std::string alerts;
  std::istringstream lines(output.substr(std::min(begin, output.size())));
  std::string line;
  while (std::getline(lines, line)) {
    const std::size_t words = line.find(" : ");
    if (line.rfind("[ALERT]", 0) != 0 || words == std::string::npos) continue;
    if (!alerts.empty()) alerts += "; ";
    alerts += line.substr(words + 3);
  }
  return alerts.substr(0, 1000);
}

Result<std::string> HaproxyControl::exchange(const std::string& line) const {
  const std::string what = fmt::format("HAProxy of {}: {}", directory_, line.substr(0, 80));
  const auto socket = connect_unix(directory_ + kMasterSocket);
  if (!socket) return wrap_error(what, make_error(Errc::unavailable, socket.error().text()));
  if (auto sent = send_unix(socket->get(), line + "\n"); !sent) return sent.error();
  ::shutdown(socket->get(), SHUT_WR);  // the master waits for the next command otherwise
  const Instant until = std::min(until_, clock_.now() + kAnswerWithin);
  std::string answer;
  char piece[65'536];
  while (answer.size() <= kAnswerBytesMax) {
    const auto left = static_cast<int>(to_ms(until - clock_.now()));
    pollfd question{socket->get(), POLLIN, 0};
    if (left <= 0 || ::poll(&question, 1, left) == 0) {
      return make_error(Errc::timeout, what + ": no answer in time");
    }
    const ssize_t count = ::recv(socket->get(), piece, sizeof piece, 0);
    if (count == 0) return answer;
    if (count > 0) answer.append(piece, static_cast<std::size_t>(count));
    if (count < 0 && errno != EINTR && errno != EAGAIN) {
      return make_error(Errc::unavailable, what + ": " + std::strerror(errno));
    }
  }
  return make_error(Errc::internal, what + ": the answer does not end");
}

/// What the log says from `begin` on.
Error HaproxyControl::refusal(const std::string& what, std::size_t begin) const {
  const auto log = read_file(log_path());
  const std::string alerts = log ? alerts_in(*log, begin) : std::string();
  const bool taken = alerts.find("Address already in use") != std::string::npos;
  return make_error(taken ? Errc::conflict : Errc::unavailable, what + ": " + alerts);
}

/// For a moment, or until the master has ended.
Result<void> HaproxyControl::pause() const {
  pollfd question{process_, POLLIN, 0};
  if (::poll(&question, 1, kPauseMs) <= 0) return {};
  return refusal("HAProxy of " + directory_ + " has ended", 0);
}

Result<void> HaproxyControl::await() const {
  while (true) {
    const auto answer = description();
    if (answer) return {};
    if (clock_.now() >= until_) return wrap_error("wait for it", answer.error());
    if (auto ended = pause(); !ended) return ended;
  }
}

Result<HaproxyWorkers> HaproxyControl::workers() const {
  const auto answer = exchange("show proc");
  if (!answer) return answer.error();
  return parse_workers(*answer);
}

Result<std::string> HaproxyControl::ask(const std::string& command) const {
  return exchange("@1 " + command);
}

Result<HaproxyRows> HaproxyControl::rows(std::int64_t worker) const {
  const std::string who = worker == 0 ? "@1" : fmt::format("@!{}", worker);
  const auto answer = exchange(who + " show stat -1 7 -1 typed");
  if (!answer) return answer.error();
  // A part of it would read as servers that are gone; an empty line is what one without any says.
  if (*answer != "\n" && (answer->rfind("\n\n") != answer->size() - 2 || answer->find('.') != 1)) {
    return make_error(Errc::unavailable, "HAProxy of " + directory_ +
                                             " did not tell its numbers: " + answer->substr(0, 80));
  }
  return parse_rows(*answer);
}

Result<std::string> HaproxyControl::description() const {
  const auto answer = ask("show info");
  if (!answer) return answer.error();
  constexpr std::string_view kName = "\ndescription: ";
  const std::size_t at = answer->find(kName);
  if (at == std::string::npos) {
    return make_error(Errc::unavailable, "HAProxy of " + directory_ + " tells no description");
  }
  const std::size_t begin = at + kName.size();
  return answer->substr(begin, answer->find('\n', begin) - begin);
}

Result<void> HaproxyControl::reload() const {
  const auto before = workers();
  if (!before) return before.error();
  const auto log = read_file(log_path());
  const std::size_t seen = log ? log->size() : 0;
  // The master starts itself anew and closes the connection: what comes of it is asked for.
  const auto asked = exchange("reload");
  if (!asked && asked.error().code == Errc::timeout) return asked.error();
  while (clock_.now() < until_) {
    const auto now = workers();
    if (now && now->reloads > before->reloads) {
      if (now->failed > 0) return refusal("HAProxy refuses to take over", seen);
      if (now->current != before->current) return {};
    }
    if (auto ended = pause(); !ended) return ended;
  }
  return make_error(Errc::timeout, "HAProxy of " + directory_ + " did not reload in time");
}

}  // namespace virga
