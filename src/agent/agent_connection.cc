#include "agent/agent_connection.h"

#include <fmt/format.h>

#include "base/log.h"
#include "base/reflect.h"

namespace virga {
namespace {

constexpr const char* kServerName = "virga-server";
constexpr Duration kUploadDeadline = seconds(8);  // below that of the command which asks for it

}  // namespace

Duration wait_before_retry(const AgentConnectionOptions& options, int failures, Rng& jitter) {
  Duration wait = options.retry_first * (1 << std::min(failures, 6));
  wait = std::min(wait, options.retry_max);
  return milliseconds(jitter.between(to_ms(wait) / 2, to_ms(wait)));
}

AgentConnection::AgentConnection(AsioLoop& loop, AgentConnectionOptions options,
                                 std::uint64_t jitter_seed)
    : loop_(loop), options_(std::move(options)), jitter_(jitter_seed), timer_(loop) {}

AgentConnection::~AgentConnection() {
  if (socket_ != nullptr) socket_->close();
}

void AgentConnection::start(AgentCore& core) {
  core_ = &core;
  connect();
}

void AgentConnection::connect() {
  HttpCall call;
  call.url = options_.server + "/v1/agent";
  call.tls = options_.tls;
  call.server_name = kServerName;
  call.deadline = seconds(5);
  call.idle_deadline = seconds(8);
  call.user_timeout = kLinkUserTimeout;
  open_message_socket(
      loop_, std::move(call),
      [this, alive = std::weak_ptr(alive_)](Result<std::shared_ptr<MessageSocket>> socket) {
        if (!alive.expired()) connected(std::move(socket));
      });
}

void AgentConnection::connected(Result<std::shared_ptr<MessageSocket>> socket) {
  if (!socket) return lost(socket.error().text());
  failures_ = 0;
  socket_ = std::move(*socket);
  const std::weak_ptr alive(alive_);
  const MessageSocket* mine = socket_.get();
  socket_->on_message([this, alive](const std::string& text) {
    if (alive.expired()) return;
    const auto message = from_json_text<ServerMessage>(text, UnknownFields::ignore);
    if (!message) {
      log_line(LogLevel::warning, "agent", "unreadable message: " + message.error().text());
      return reconnect();
    }
    core_->link_received(*message);
  });
  socket_->on_closed([this, alive, mine](const std::string& reason) {
    if (alive.expired() || socket_.get() != mine) return;
    socket_.reset();
    core_->link_closed(reason);
    lost(reason);
  });
  core_->link_opened();
}

void AgentConnection::lost(const std::string& reason) {
  log_line(LogLevel::info, "agent", "no session with " + options_.server + ": " + reason);
  timer_.set_after(wait_before_retry(options_, failures_++, jitter_), [this] { connect(); });
}

void AgentConnection::send(AgentMessage message) {
  if (socket_ == nullptr) return;
  if (auto sent = socket_->send(to_json_text(message)); !sent) {
    log_line(LogLevel::warning, "agent", sent.error().text());
  }
}

void AgentConnection::upload(std::uint64_t command, std::string text, Callback<void> done) {
  HttpCall call;
  call.method = "POST";
  call.url = fmt::format("https{}{}{}", options_.server.substr(3), kUploads, command);
  call.headers["content-type"] = "text/plain";
  call.body = std::move(text);
  call.tls = options_.tls;
  call.server_name = kServerName;
  call.deadline = kUploadDeadline;
  http_call(loop_, std::move(call), [done = std::move(done)](const Result<HttpResponse>& answer) {
    if (!answer) return done(answer.error());
    if (answer->status < 300) return done({});
    done(make_error(Errc::unavailable, fmt::format("the server does not take it: {} {}",
                                                   answer->status, answer->body.substr(0, 300))));
  });
}

void AgentConnection::reconnect() {
  if (socket_ != nullptr) socket_->close();
}

}  // namespace virga
