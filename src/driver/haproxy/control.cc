#include "driver/haproxy/control.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <sstream>

#include "driver/qmp/unix_socket.h"
#include "edge/file.h"

namespace virga {
namespace {

constexpr std::size_t kAnswerBytesMax = 16 << 20;
constexpr Duration kAnswerWithin = seconds(2);
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

/// HAProxy describes each field of each row; here a row is field -> value.
Result<std::vector<json::object>> parse_rows(const std::string& text) {
  const auto parsed = parse_json(text, kAnswerBytesMax);
  if (!parsed) return wrap_error("statistics of HAProxy", parsed.error());
  std::vector<json::object> rows;
  const json::array* all = parsed->if_array();
  for (std::size_t index = 0; all != nullptr && index < all->size(); ++index) {
    const json::array* fields = (*all)[index].if_array();
    json::object& row = rows.emplace_back();
    for (std::size_t at = 0; fields != nullptr && at < fields->size(); ++at) {
      const json::object* field = (*fields)[at].if_object();
      const json::value* name = field ? field->if_contains("field") : nullptr;
      const json::value* value = field ? field->if_contains("value") : nullptr;
      if (name == nullptr || !name->is_object() || value == nullptr || !value->is_object())
        continue;
      const json::value* text_of_name = name->get_object().if_contains("name");
      const json::value* inner = value->get_object().if_contains("value");
      if (text_of_name == nullptr || !text_of_name->is_string() || inner == nullptr) continue;
      row[text_of_name->get_string()] = *inner;
    }
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
  const Instant until = clock_.now() + kAnswerWithin;
  std::string answer;
  char piece[65'536];
  while (answer.size() <= kAnswerBytesMax) {
    const auto left = static_cast<int>(to_ms(until - clock_.now()));
    pollfd question{socket->get(), POLLIN, 0};
    if (left <= 0 || ::poll(&question, 1, left) == 0) {
      return make_error(Errc::timeout,
                        fmt::format("{}: no answer within {} ms", what, to_ms(kAnswerWithin)));
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

/// For a moment, or until the master has ended.
Result<void> HaproxyControl::pause() const {
  pollfd question{process_, POLLIN, 0};
  if (::poll(&question, 1, kPauseMs) <= 0) return {};
  const auto log = read_file(log_path());
  const std::string alerts = log ? alerts_in(*log) : std::string();
  const bool taken = alerts.find("Address already in use") != std::string::npos;
  return make_error(taken ? Errc::conflict : Errc::unavailable,
                    fmt::format("HAProxy of {} has ended: {}", directory_, alerts));
}

Result<void> HaproxyControl::await(Duration deadline) const {
  const Instant until = clock_.now() + deadline;
  while (true) {
    const auto answer = description();
    if (answer) return {};
    if (clock_.now() >= until) return wrap_error("wait for it", answer.error());
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

Result<std::vector<json::object>> HaproxyControl::rows(std::int64_t worker) const {
  const std::string who = worker == 0 ? "@1" : fmt::format("@!{}", worker);
  const auto answer = exchange(who + " show stat -1 7 -1 json");
  if (!answer) return answer.error();
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

Result<void> HaproxyControl::reload(Duration deadline) const {
  const auto before = workers();
  if (!before) return before.error();
  const auto log = read_file(log_path());
  const std::size_t seen = log ? log->size() : 0;
  // The master starts itself anew and closes the connection: what comes of it is asked for.
  const auto asked = exchange("reload");
  if (!asked && asked.error().code == Errc::timeout) return asked.error();
  const Instant until = clock_.now() + deadline;
  while (clock_.now() < until) {
    const auto now = workers();
    if (now && now->reloads > before->reloads) {
      if (now->failed == 0 && now->current != before->current) return {};
      const auto text = read_file(log_path());
      const std::string alerts = text ? alerts_in(*text, seen) : std::string();
      const bool taken = alerts.find("Address already in use") != std::string::npos;
      if (now->failed > 0)
        return make_error(taken ? Errc::conflict : Errc::invalid,
                          "HAProxy refuses to take over: " + alerts);
    }
    if (auto ended = pause(); !ended) return ended;
  }
  return make_error(Errc::timeout, fmt::format("HAProxy of {} did not reload within {} ms",
                                               directory_, to_ms(deadline)));
}

}  // namespace virga
