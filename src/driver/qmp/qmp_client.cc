#include "driver/qmp/qmp_client.h"

#include <fmt/format.h>

#include "base/log.h"

namespace virga {
namespace {

namespace json = boost::json;

constexpr std::size_t kPendingMax = 256;
constexpr Duration kHandOverDeadline = seconds(5);

std::string text_at(const json::object& object, const char* name) {
  const json::value* value = object.if_contains(name);
  if (value == nullptr || !value->is_string()) return {};
  return std::string(value->get_string());
}

Error error_of(const std::string& command, const json::value& answer) {
  const json::object* error = answer.if_object();
  const std::string kind = error != nullptr ? text_at(*error, "class") : "";
  const std::string words = error != nullptr ? text_at(*error, "desc") : "";
  const Errc code = kind == "CommandNotFound" ? Errc::unsupported : Errc::internal;
  return make_error(code, fmt::format("QMP \"{}\" failed: {}", command, words));
}

}  // namespace

QmpClient::QmpClient(AsioLoop& loop, std::unique_ptr<QmpSocket> socket)
    : loop_(loop), socket_(std::move(socket)), open_deadline_(loop) {
  socket_->on_message([this](const json::object& message) { receive(message); });
  socket_->on_closed([this](const Error& why) { lost(why); });
}

QmpClient::~QmpClient() {
  for (auto& [id, pending] : pending_) loop_.cancel(pending.deadline);
}

void QmpClient::open(Duration deadline, Callback<void> done) {
  open_done_ = std::move(done);
  open_deadline_.set_after(deadline, [this] {
    if (auto opened = std::exchange(open_done_, nullptr)) {
      opened(make_error(Errc::timeout, "QEMU did not greet on its QMP socket"));
    }
  });
}

void QmpClient::execute(const std::string& command, json::object arguments, Duration deadline,
                        Answer done) {
  request({"execute", command, std::move(arguments), deadline, -1}, std::move(done));
}

void QmpClient::execute_with(const std::string& command, json::object arguments, int descriptor,
                             Answer done) {
  request({"execute", command, std::move(arguments), kHandOverDeadline, descriptor},
          std::move(done));
}

void QmpClient::execute_oob(const std::string& command, json::object arguments, Duration deadline,
                            Answer done) {
  request({"exec-oob", command, std::move(arguments), deadline, -1}, std::move(done));
}

void QmpClient::request(Request wanted, Answer done) {
  const std::uint64_t id = next_id_++;
  const std::string command = wanted.command;
  log_line(LogLevel::debug, "qmp",
           fmt::format("{} {} {}", wanted.verb, command, json::serialize(wanted.arguments)),
           correlation_);
  Result<void> sent = make_error(Errc::exhausted, "256 QMP commands are under way");
  if (pending_.size() < kPendingMax) {
    json::object message{{wanted.verb, command}, {"id", id}};
    if (!wanted.arguments.empty()) message["arguments"] = std::move(wanted.arguments);
    sent = socket_->send(message, wanted.descriptor);
  }
  Pending pending{command, std::move(done), 0};
  const Duration deadline = sent ? wanted.deadline : Duration::zero();
  const Error outcome =
      sent ? make_error(Errc::timeout, fmt::format("QMP \"{}\" was not answered in {} ms", command,
                                                   to_ms(deadline)))
           : wrap_error(fmt::format("QMP \"{}\"", command), sent.error());
  pending.deadline = loop_.after(deadline, [this, id, outcome] { finish(id, outcome); });
  pending_.emplace(id, std::move(pending));
}

void QmpClient::finish(std::uint64_t id, Result<json::value> answer) {
  const auto found = pending_.find(id);
  if (found == pending_.end()) return;
  Pending pending = std::move(found->second);
  pending_.erase(found);
  loop_.cancel(pending.deadline);
  if (pending.done) pending.done(std::move(answer));
}

void QmpClient::receive(const json::object& message) {
  if (!greeted_ && message.contains("QMP")) return greeted();
  if (message.contains("event")) return receive_event(message);
  const json::value* id = message.if_contains("id");
  if (id == nullptr || !id->is_number()) {
    log_line(LogLevel::warning, "qmp", "dropped an answer without id", correlation_);
    return;
  }
  std::uint64_t number = 0;
  if (id->is_int64()) number = static_cast<std::uint64_t>(id->get_int64());
  if (id->is_uint64()) number = id->get_uint64();
  const auto found = pending_.find(number);
  if (found == pending_.end()) return;
  if (const json::value* value = message.if_contains("return")) return finish(number, *value);
  const json::value* error = message.if_contains("error");
  finish(number, error_of(found->second.command, error != nullptr ? *error : json::value()));
}

void QmpClient::receive_event(const json::object& message) {
  QmpEvent event{text_at(message, "event"), {}};
  const json::value* data = message.if_contains("data");
  if (data != nullptr && data->is_object()) event.data = data->get_object();
  log_line(LogLevel::debug, "qmp",
           fmt::format("event {} {}", event.name, json::serialize(event.data)), correlation_);
  if (event_handler_) event_handler_(event);
}

void QmpClient::greeted() {
  greeted_ = true;
  execute("qmp_capabilities", {{"enable", json::array{"oob"}}}, seconds(10),
          [this](Result<json::value> answer) {
            open_deadline_.cancel();
            auto opened = std::exchange(open_done_, nullptr);
            if (!opened) return;
            opened(answer ? Result<void>() : Result<void>(answer.error()));
          });
}

void QmpClient::lost(const Error& why) {
  closed_ = true;
  open_deadline_.cancel();
  const std::weak_ptr<int> alive = alive_;
  while (!pending_.empty()) {
    finish(pending_.begin()->first, why);
    if (alive.expired()) return;
  }
  if (auto opened = std::exchange(open_done_, nullptr)) {
    opened(why);
    if (alive.expired()) return;
  }
  if (auto handler = std::exchange(closed_handler_, nullptr)) handler(why);
}

}  // namespace virga
